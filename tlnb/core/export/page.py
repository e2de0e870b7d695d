"""A page that runs a trained network in the browser: one HTML file, which sends nothing anywhere.

The network lies in it as ONNX; ONNX Runtime Web runs it. That comes from a CDN, its files pinned
by hash, or lies in the page too.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from html import escape
from pathlib import Path
from typing import Any

from torch import Tensor

from tlnb.core.data.decoding import FINER, LONGEST
from tlnb.core.export.onnx_file import Agreement, exported
from tlnb.core.models.pretrained import PretrainedModel
from tlnb.core.models.pretrained_model import parameter_count
from tlnb.core.runtime.errors import ModelError, UsageError, listed
from tlnb.core.runtime.paths import is_file, user_path
from tlnb.core.training.run import Run

MOST_BYTES = 60_000_000
VERSION = "1.30.0"  # of ONNX Runtime Web
PACKAGE = f"onnxruntime-web@{VERSION}"
HOST = "cdn.jsdelivr.net"
CDN = f"https://{HOST}/npm/{PACKAGE}/dist/"
FILES: Mapping[str, tuple[str, str]] = {  # of the npm package: name and hash
    "code": (
        "ort.wasm.bundle.min.mjs",
        "sha384-PLWz+nHEVHpjwBsO0YVdvQj6n5814Iv8E3b8FG0Rp/uIAtjFMCKOpP66iPzedrIG",
    ),
    "wasm": (
        "ort-wasm-simd-threaded.wasm",
        "sha384-vjBJ1z7qrhkTyYsNqKeF6c7N+nOJSU94czEo+tvZcu8G75JparGq9kB+kTnEUNVM",
    ),
}
NAMED = 12  # classes that the first paragraph names


def page(
    run: Run,
    model: PretrainedModel,
    *,
    title: str,
    images: Tensor | None = None,
    runtime: str | Path | None = None,
) -> tuple[str, Agreement | None]:
    """Return the page as HTML, and how its network compares with the run's.

    Args:
        images: uint8 `(N, 3, E, E)` to compare answers on. Without them the weights stay fp32.
        runtime: a folder with the npm package of ONNX Runtime Web, which is put into the page.

    Raises:
        UsageError: a missing package, files missing in the folder, a page of over `MOST_BYTES`.
        ModelError: ONNX cannot express the network, or answers otherwise.
    """
    files = {} if runtime is None else _runtime_files(user_path(runtime))
    _check_size(parameter_count(run.network()))  # more than a byte each: too large, without trying
    network, compared = exported(run, model, images, half=True)
    if compared is not None and not compared.holds:
        raise ModelError(
            f"as ONNX, {model.name} answers otherwise (the same class for {compared.same} of "
            f"{compared.images} images, probabilities up to {compared.difference:.2g} apart): save "
            "it as .pt2 or .safetensors instead"
        )
    payloads = {**files, "network": network.SerializeToString()}
    text = _filled(_parts(run, model, title, payloads, compared))
    _check_size(len(text.encode()))
    return text, compared


def _check_size(least: int) -> None:
    """Raise `UsageError` if a page of at least so many bytes is too large."""
    if least > MOST_BYTES:
        raise UsageError(
            f"the page would have {least / 1e6:.0f} MB or more, over the {MOST_BYTES / 1e6:.0f} "
            "that browsers open well: train a smaller network, e.g. %tl_load efficientnet_lite0 "
            "(%tl_models lists more)"
        )


def _runtime_files(folder: Path) -> dict[str, bytes]:
    """ONNX Runtime Web's files in a folder, by their ids in the page."""
    places = {
        part: next((p for p in _places(folder, name) if is_file(p)), None)
        for part, (name, _) in FILES.items()
    }
    get = f"npm pack {PACKAGE} and tar -xf the file give them"
    if missing := [FILES[part][0] for part, place in places.items() if place is None]:
        raise UsageError(f"--runtime {folder} lacks {listed(missing)}: {get}")
    files = {part: place.read_bytes() for part, place in places.items() if place}
    if other := [FILES[part][0] for part, content in files.items() if not _pinned(part, content)]:
        raise UsageError(f"--runtime {folder} has another {listed(other)} than {VERSION}'s: {get}")
    return files


def _places(folder: Path, name: str) -> Iterator[Path]:
    return (folder / inside / name for inside in ("", "dist", "package/dist"))


def _pinned(part: str, content: bytes) -> bool:
    return _hash("sha384", content) == FILES[part][1]


def _hash(kind: str, content: bytes) -> str:
    """A hash as in integrity attributes and content security policies."""
    return f"{kind}-{base64.b64encode(hashlib.new(kind, content).digest()).decode()}"


# ── the page's parts ──────────────────────────────────────────────────────────────────────────────


def _parts(
    run: Run,
    model: PretrainedModel,
    title: str,
    payloads: Mapping[str, bytes],
    compared: Agreement | None,
) -> dict[str, str]:
    style, script = _own_file("page.css"), _own_file("page.js")
    offline = set(FILES) <= set(payloads)
    rows = _about(run, model, offline, compared)
    return {
        "policy": _policy(style, script, "'none'" if offline else CDN),
        "title": escape(title),
        "style": style,
        "lead": escape(f"It tells {len(run.classes)} classes apart: {listed(run.classes, NAMED)}."),
        "about": "".join(f"<dt>{escape(k)}</dt><dd dir=auto>{escape(v)}</dd>" for k, v in rows),
        "facts": json.dumps(_facts(run, model, offline)).replace("<", "\\u003c"),
        "payloads": "\n".join(_payload(name, content) for name, content in payloads.items()),
        "script": script,
    }


def _own_file(name: str) -> str:
    return Path(__file__).with_name(name).read_text("utf8")


def _policy(style: str, script: str, connect: str) -> str:
    """What the page may do: run its own code, and fetch ONNX Runtime's two files or nothing."""
    return "; ".join(
        (
            "default-src 'none'",
            f"script-src '{_hash('sha256', script.encode())}' 'wasm-unsafe-eval' blob:",
            f"style-src '{_hash('sha256', style.encode())}'",
            "img-src data:",  # an empty icon, else browsers ask the host for one
            f"connect-src {connect}",
            "base-uri 'none'",
            "form-action 'none'",
        )
    )


def _payload(name: str, content: bytes) -> str:
    packed = base64.b64encode(gzip.compress(content, 9, mtime=0)).decode()
    return f'<script type="application/octet-stream" id="{name}">{packed}</script>'


def _facts(run: Run, model: PretrainedModel, offline: bool) -> dict[str, Any]:
    """What the page's script knows."""
    fit, sure = model.transform, run.calibration
    sources = {part: {"url": CDN + name, "integrity": sha} for part, (name, sha) in FILES.items()}
    return {
        "classes": run.classes,
        "temperature": sure.temperature if sure else 1.0,
        "threshold": sure.threshold if sure else None,
        "edge": run.edge,
        "finer": FINER,
        "longest": LONGEST,
        "middle": run.edge if run.edge in (fit.size, fit.resize) else fit.resize,
        "size": fit.size,
        "interpolation": fit.interpolation,
        "mean": fit.mean,
        "std": fit.std,
        "fetched": {} if offline else sources,
        "trouble": "The network does not start in this browser."
        if offline
        else f"The network does not start: does {HOST} answer? ONNX Runtime comes from there.",
    }


def _about(
    run: Run, model: PretrainedModel, offline: bool, compared: Agreement | None
) -> Iterator[tuple[str, str]]:
    low, high = run.interval
    yield (
        "Accuracy",
        f"{run.accuracy:.1%} on {run.test_images} test images that it was not trained on "
        f"(95% interval {low:.1%} to {high:.1%})",
    )
    yield "Trained on", run.data
    started = "from a random start" if run.plan.start == "random" else f"on {model.card.source}"
    yield "Network", f"{model.name}, {'trained' if 'random' in started else 'pretrained'} {started}"
    if model.card.licence:
        yield "Licence", model.card.licence
    yield "Probabilities", _words(run)
    if compared is not None:
        yield (
            "Checked",
            f"the class of the original for {compared.same} of {compared.images} images, "
            f"probabilities within {compared.difference:.1g} ({compared.weights} weights)",
        )
    yield (
        "Runs with",
        f"ONNX Runtime Web {VERSION}, {'in this page' if offline else f'from {HOST}'}",
    )


def _words(run: Run) -> str:
    if run.calibration is None:
        return f"as the network gives them, not calibrated ({run.uncalibrated})"
    return (
        f"calibrated on {run.calibration.labels} held-out labels; a photo that is unlike all that "
        "the network learned from is none of these"
    )


def _filled(parts: Mapping[str, str]) -> str:
    """The template with its parts, in one pass: a part may hold what looks like a place for one."""
    return re.sub(r"\{\{(\w+)\}\}", lambda place: parts[place[1]], _own_file("page.html"))
