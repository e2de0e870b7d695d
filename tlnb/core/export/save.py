"""Save a run to a file: its weights and everything needed to use them again. No pickle.

safetensors   weights; plan, classes, preprocessing and the run's record in the header;
              `%tl_load FILE` reads it
pt2           a `torch.export` program, which runs without the network's Python code
onnx          for other engines; needs the packages onnx and onnxscript
html          a page that runs the network in the browser; needs the same packages
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tlnb.core.data.request import MOST_CLASSES
from tlnb.core.export.onnx_file import Agreement, exported
from tlnb.core.export.page import page
from tlnb.core.models.calibration import KnownImages
from tlnb.core.models.pretrained import Origin, PretrainedModel, Transform, retrained
from tlnb.core.models.weights import fill, read_state
from tlnb.core.planning.edit import apply_edits
from tlnb.core.planning.magic_lines import line
from tlnb.core.planning.plan import Edit
from tlnb.core.planning.safe_modules import is_literal
from tlnb.core.planning.shape_fitting import check_activations
from tlnb.core.runtime.errors import ModelError, OneLine, UsageError, listed
from tlnb.core.runtime.paths import written_beside
from tlnb.core.runtime.torch_lock import alone
from tlnb.core.runtime.typed_json import parse, typed
from tlnb.core.training.checkpoint import checksum
from tlnb.core.training.run import Run

SCHEMA = 2
KEY, CRC = "tlnb", "crc32"  # keys of our entries in a safetensors header
FORMATS = (".safetensors", ".pt2", ".onnx", ".html")


@dataclass(frozen=True, kw_only=True)
class Saved(OneLine):
    """A file that was written."""

    path: str
    run: str
    format: str
    bytes: int
    takes: str  # the input that the saved network expects
    use: str  # the line that loads it
    compared: Agreement | None = None  # of an ONNX network with the run's

    def __repr__(self) -> str:
        return f"Saved run {self.run} as {self.path} ({self.bytes / 1e6:.1f} MB): {self.use}"


@dataclass(frozen=True, kw_only=True)
class Header:
    """The metadata of a saved run."""

    origin: Origin  # with the run's edits
    transform: Transform
    classes: tuple[str, ...]
    run: Run
    known: KnownImages | None = None  # which new ones are compared with, where it is calibrated
    checked: str = field(default="", repr=False)  # the file's checksum and the checked text

    def to_json(self) -> str:
        """The header as JSON, names and numbers only."""
        origin = {**asdict(self.origin), "edits": [asdict(e) for e in self.origin.edits]}
        values: dict[str, Any] = {
            "schema": SCHEMA,
            "origin": origin,
            "transform": asdict(self.transform),
            "classes": self.classes,
        }
        if self.known is not None:
            values["known"] = self.known.to_text()
        return json.dumps({**values, "run": json.loads(self.run.to_json())})

    @classmethod
    def from_json(cls, text: str, file: str) -> Header:
        """Read a header from JSON.

        Raises:
            ModelError: invalid JSON, or another schema.
        """
        try:
            values = parse(text)
            if values["schema"] != SCHEMA:
                raise ModelError(
                    f"{file} has schema {values['schema']}, expected {SCHEMA}: "
                    "save it again with this version of tlnb"
                )
            edits = typed(tuple[Edit, ...], values["origin"].pop("edits"), "edits")
            origin = replace(typed(Origin, values["origin"], "origin"), edits=edits)
            if not (origin.family != "own") <= origin.scores <= MOST_CLASSES:
                raise ValueError(f"{origin.scores:,} scores")
            run = Run.from_json(json.dumps(values["run"]))
            classes = typed(tuple[str, ...], values["classes"], "classes")
            return cls(
                origin=origin,
                transform=typed(Transform, values["transform"], "transform"),
                classes=classes,
                run=run,
                known=KnownImages.from_text(values["known"]) if "known" in values else None,
            )
        except (KeyError, TypeError, ValueError, AttributeError, UsageError) as error:
            reason = " ".join(str(error).split())[:80]
            raise ModelError(
                f"the header of {file} is damaged ({reason}): save the run again"
            ) from None


def save(
    run: Run,
    model: PretrainedModel,
    path: Path,
    images: Tensor | None = None,
    runtime: str | Path | None = None,
) -> Saved:
    """Write a run atomically: to a temporary file first, which then replaces an existing one.

    Args:
        model: the model the run started from.
        path: ending in one of `FORMATS`.
        images: uint8 `(N, 3, E, E)`, on which an ONNX network is compared with the run's.
        runtime: for a page, a folder with ONNX Runtime Web, which becomes part of it.

    Raises:
        UsageError: an unknown ending, a missing folder, a full disk, a missing package.
        ModelError: ONNX cannot express the network.
    """
    from safetensors import SafetensorError

    write = _writer(run, model, path, images, runtime)
    if not path.parent.is_dir():
        raise UsageError(f"no folder {str(path.parent)!r}: choose a folder that exists")
    try:
        with written_beside(path, path.suffix) as half:
            compared = write(half)
    except (OSError, RuntimeError, SafetensorError) as error:  # a full disk, by writer
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())[:100]
        raise UsageError(f"{str(path)!r} cannot be written ({reason}): give another file") from None
    return Saved(
        path=str(path),
        run=run.name,
        format=path.suffix[1:],
        bytes=path.stat().st_size,
        takes=_takes(model.transform, path.suffix),
        use=_use(path),
        compared=compared,
    )


Writer = Callable[[Path], Agreement | None]


def _writer(
    run: Run, model: PretrainedModel, path: Path, images: Tensor | None, runtime: str | Path | None
) -> Writer:
    """What writes a file of this ending."""
    if runtime is not None and path.suffix != ".html":
        raise UsageError(
            f"--runtime is part of a page: leave it out, or save {path.stem}.html instead"
        )
    writers: dict[str, Writer] = {
        ".safetensors": partial(_safetensors, run, model),
        ".pt2": partial(_program, run, model),
        ".onnx": partial(_onnx, run, model, images),
        ".html": partial(_page, run, model, images, (path.stem, runtime)),
    }
    if path.suffix not in writers:
        raise UsageError(
            f"{path.name!r} has no known ending: "
            f"use {', '.join(FORMATS)}, e.g. {run.name}.safetensors"
        )
    return writers[path.suffix]


def _takes(t: Transform, suffix: str) -> str:
    if suffix == ".html":
        return "photos: files, the clipboard or the camera, in a browser"
    return (
        f"float (N, 3, {t.size}, {t.size}), "
        f"normalised with mean {t.mean} and standard deviation {t.std}"
    )


def _use(path: Path) -> str:
    return {
        ".safetensors": line("tl_load", path),
        ".pt2": f"torch.export.load({str(path)!r}).module()",
        ".onnx": f"onnxruntime.InferenceSession({str(path)!r})",
        ".html": f"open {path} in a browser",
    }[path.suffix]


def _header(run: Run, model: PretrainedModel) -> Header:
    origin = replace(model.origin, edits=(*model.origin.edits, *run.plan.lasting_edits))
    return Header(
        origin=origin,
        transform=model.transform,
        classes=run.classes,
        run=run,
        known=run.known_images(),
    )


def _safetensors(run: Run, model: PretrainedModel, path: Path) -> None:
    from safetensors.torch import save_file

    state = {
        k: v.detach().clone(memory_format=torch.contiguous_format)
        for k, v in run.module().state_dict().items()
    }
    text = _header(run, model).to_json()
    save_file(state, path, metadata={KEY: text, CRC: str(checksum(text, state))})


def _program(run: Run, model: PretrainedModel, path: Path) -> None:
    batch = torch.export.Dim("batch")
    program = torch.export.export(
        run.module(), (model.transform.example(2),), dynamic_shapes=({0: batch},)
    )
    buffer = io.BytesIO()  # when torch itself writes to a full disk, the process ends
    torch.export.save(program, buffer, extra_files={f"{KEY}.json": _header(run, model).to_json()})
    path.write_bytes(buffer.getbuffer())


def _onnx(run: Run, model: PretrainedModel, images: Tensor | None, path: Path) -> Agreement | None:
    proto, compared = exported(run, model, images, half=False)
    proto.metadata_props.add(key=KEY, value=_header(run, model).to_json())
    path.write_bytes(proto.SerializeToString())
    return compared


def _page(
    run: Run,
    model: PretrainedModel,
    images: Tensor | None,
    asked: tuple[str, str | Path | None],
    path: Path,
) -> Agreement | None:
    text, compared = page(run, model, title=asked[0], images=images, runtime=asked[1])
    path.write_text(text, "utf8", newline="\n")
    return compared


# ── and back ──────────────────────────────────────────────────────────────────────────────────────


def read_header(path: Path) -> Header | None:
    """Read the header of a saved run; None if the file does not exist or is not a saved run.

    Raises:
        ModelError: a damaged file.
    """
    if path.suffix != ".safetensors" or not path.is_file():
        return None
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as opened:
            metadata = opened.metadata() or {}
    except (SafetensorError, OSError) as error:
        reason = " ".join(str(error).split())[:80]
        raise ModelError(f"{path.name} is damaged ({reason}): give another file") from None
    if KEY not in metadata:
        return None
    return replace(
        Header.from_json(metadata[KEY], path.name), checked=f"{metadata.get(CRC)} {metadata[KEY]}"
    )


def restore(
    path: Path,
    header: Header,
    base: PretrainedModel,
    trust: bool = False,
    names: Mapping[str, Any] | None = None,
) -> PretrainedModel:
    """Load a saved run's network with its weights, as a model.

    Args:
        base: the architecture that the run started from, with any weights.
        trust: also run code in the header that is more than `nn.*` constructors; it may use
            `names`.

    Raises:
        ModelError: untrusted code, or weights that do not fit.
    """
    foreign = [e.code for e in header.origin.edits if e.code and not is_literal(e.code)]
    if foreign and not trust:
        raise ModelError(
            f"{path.name} holds code that would be run ({listed(foreign, 1)}): "
            f"if you trust it, %tl_load {path} --trust"
        )

    def architecture() -> nn.Module:
        module = base.fresh()
        apply_edits(module, header.origin.edits, lambda _: names or {})
        return module

    with alone(), torch.random.fork_rng(devices=[]):
        module = architecture()
    check_activations(module, base.module, header.origin.edits, header.transform.size)
    state = read_state(path)
    promised, _, text = header.checked.partition(" ")
    if promised != str(checksum(text, state)):
        now = read_header(path)
        if now is not None and now.checked != header.checked:  # header and tensors are of two files
            raise ModelError(f"{path.name} was written anew while it was read: run the line again")
        raise ModelError(f"{path.name} is damaged (its checksum differs): save the run again")
    fill(module, state, path.name)
    run = header.run
    sized = replace(base, transform=header.transform, origin=header.origin)
    return retrained(
        sized,
        module,
        name=path.stem,
        data=run.data,
        classes=header.classes,
        accuracy=run.accuracy,
        architecture=architecture,
        origin=header.origin,
        calibration=run.calibration,
        known=header.known,
    )
