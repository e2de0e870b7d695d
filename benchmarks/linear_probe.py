"""Compare strategy `head` with scikit-learn's logistic regression on the same features.

    python -m benchmarks.linear_probe [digits textures faces symbols] [--per-class 5 20 50]
    python -m benchmarks.linear_probe squeezenet1_0 efficientnet_lite0 --per-class 10 50 all

A draw is a seed of the data and of the run. Columns: `head` with and without the refit on all
labels, L-BFGS with it, and scikit-learn on all labels in use, C by 5-fold cross-validation over
1e-3 … 1e2, on features as they are and standardised. `cost` is the FLOPs of `head` with its refit
relative to those without. Each column reads the test split once; recipes are chosen elsewhere, on
labels in use. A network's name means ants and bees with it, from $TLNB_REAL_DATA.
"""

from __future__ import annotations

import argparse
import hashlib
import statistics
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from benchmarks.peers.sklearn import fitted, reaching
from benchmarks.table import markdown
from benchmarks.work import PHOTO_NETWORKS, real, weights_of
from tlnb.core.training.freezing import layer_of
from tlnb.core.training.run import Run
from tlnb.session import Session

WAYS = {
    "head": {},  # the first, so that its cost is not made less by what others have cached
    "head, no refit": {"refit": False},
    "head, lbfgs": {"optimizer": "lbfgs"},
}
PROBES = {"scikit-learn": False, "the same, standardised": True}
AT_ONCE = 64  # images in one pass
_seen: dict[tuple[str, bytes], Tensor] = {}  # by network and pixels: the frozen part is the same


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = ["digits", "textures", "faces", "symbols"]
    parser.add_argument("data", nargs="*", default=default)
    parser.add_argument("--per-class", nargs="+", default=["5", "20", "50"], metavar="N")
    parser.add_argument("--seeds", type=int, default=5)
    chosen = parser.parse_args()
    lines, gaps = [], []
    for data in chosen.data:
        for amount in chosen.per_class:
            count = None if amount == "all" else int(amount)
            draws = [measure(data, count, seed) for seed in range(chosen.seeds)]
            means = {name: statistics.mean(draw[name] for draw in draws) for name in draws[0]}
            gaps.append(means["head"] - max(means[name] for name in PROBES))
            lines.append(_line(f"{data}, {amount}", means, gaps[-1]))
            print(markdown(_head(), lines[-1:]), flush=True)
    print(f"\n{markdown(_head(), lines)}\n")
    print(f"mean gap {statistics.mean(gaps):+.2f} points, least {min(gaps):+.2f}")


def measure(data: str, per_class: int | None, seed: int) -> dict[str, float]:
    """Test accuracy in percent by way, of one draw, and the cost of the refit."""
    session = Session()
    photos = data in PHOTO_NETWORKS
    model = data if photos else "glyphnet"
    session.load(model, weights_of(model))  # first, so that photos are decoded once, at its size
    session.data(str(_photos()) if photos else data, per_class=per_class, seed=seed)
    runs = {way: session.train(seed=seed, **options) for way, options in WAYS.items()}
    found = {way: 100 * run.accuracy for way, run in runs.items()}
    found["cost"] = _cost(runs["head"])
    return found | dict(_probed(session, runs["head"]))


def _cost(run: Run) -> float:
    """FLOPs relative to those without its refit."""
    refit = sum(run.refit.flops.values()) if run.refit else 0.0
    return run.flops / (run.flops - refit)


def _probed(session: Session, run: Run) -> Iterator[tuple[str, float]]:
    """Test accuracy in percent of scikit-learn on all labels in use."""
    data = session.dataset
    assert data is not None
    used = [split for split in ("train", "val") if split in data.splits]
    features, seen = (
        torch.cat([_features(session, run, data.images[s]) for s in splits]).numpy()
        for splits in (used, ["test"])
    )
    labels = torch.cat([data.labels[split] for split in used]).numpy()
    for name, standardise in PROBES.items():
        guesses = fitted(features, labels, standardise).predict(seen)
        yield name, 100 * float((guesses == data.labels["test"].numpy()).mean())


def _features(session: Session, run: Run, images: Tensor) -> Tensor:
    """What reaches the output layer; photos that an earlier draw has seen are not computed again."""
    network = run.module()
    head, transform = layer_of(network, session.layers().head), run.transform()
    keys = [(session.model.name, hashlib.sha256(image.numpy()).digest()) for image in images]
    new = [row for row, key in enumerate(keys) if key not in _seen]
    for rows in (new[at : at + AT_ONCE] for at in range(0, len(new), AT_ONCE)):
        found = reaching(network, head, transform(images[rows]))
        _seen.update(zip((keys[row] for row in rows), found, strict=True))
    return torch.stack([_seen[key] for key in keys])


def _photos() -> object:
    folder = real()
    if folder is None:
        raise SystemExit("photos need $TLNB_REAL_DATA, a folder with ants_bees/")
    return folder / "ants_bees"


def _head() -> list[str]:
    return ["data, labels per class", *WAYS, *PROBES, "head − best of the two", "cost"]


def _line(name: str, means: Mapping[str, float], gap: float) -> list[str]:
    shares = [f"{means[way]:.2f}" for way in (*WAYS, *PROBES)]
    return [name, *shares, f"{gap:+.2f}", f"×{means['cost']:.2f}"]


if __name__ == "__main__":
    main()
