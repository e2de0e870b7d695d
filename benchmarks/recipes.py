"""Choose training options without the test split: candidates beside today's recipe.

    python -m benchmarks.recipes ants_bees:20 textures:5 --model squeezenet1_0 --size 128
        --strategy partial --try lr=x2 lr=x2,epochs=x0.5 stages=0.5 refit=1

A draw takes `:N` labels per class from the labels that are not tested and judges every candidate on
others of them, at most `--judged` per class, which no run sees before its end. `x2` multiplies the
recipe's value; `stages=0.5` halves the learning rate from each stage to the one before it. Columns:
accuracy in percent, its difference from the recipe's (mean and standard error of paired draws), and
the FLOPs of its steps relative to the recipe's. `scratch` is a strategy here.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from benchmarks.table import markdown
from benchmarks.work import real, weights_of
from tlnb.core.data.dataset import DataSet
from tlnb.core.data.splits import MIN_FOR_VAL
from tlnb.core.planning.options import TrainOptions
from tlnb.core.planning.recipes import recipe
from tlnb.core.training.run import Run
from tlnb.session import Session

RECIPE = "recipe"
HEAD = ["", "accuracy, %", "− recipe", "FLOPs"]


def main() -> None:
    chosen = _arguments()
    for setting in chosen.settings:
        source, count = setting.split(":")
        session = Session()
        session.load(chosen.model, weights_of(chosen.model), size=chosen.size)
        pool = _pool(session, source)
        runs: dict[str, list[Run]] = {}
        for seed in range(chosen.seeds):
            drawn = draw(pool, int(count), chosen.judged, seed)
            session.commit(replace(session.state, dataset=drawn))
            for candidate in (RECIPE, *chosen.candidates):
                runs.setdefault(candidate, []).append(_run(session, chosen, candidate, seed))
        print(
            f"{chosen.model}, {session.model.transform.size} px, {chosen.strategy}, {setting} per class\n"
        )
        print(markdown(HEAD, [_row(name, runs) for name in runs]), flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("settings", nargs="+", metavar="DATA:N")
    parser.add_argument("--model", default="squeezenet1_0")
    parser.add_argument("--size", type=int)
    parser.add_argument("--strategy", default="partial")
    parser.add_argument("--try", nargs="+", default=[], dest="candidates", metavar="OPTIONS")
    parser.add_argument("--judged", type=int, default=70)
    parser.add_argument("--seeds", type=int, default=3)
    return parser.parse_args()


def _pool(session: Session, source: str) -> DataSet:
    """The data with all labels that are not tested in `train`."""
    folder = real()
    name = str(folder / source) if folder and (folder / source).is_dir() else source
    data = session.data(name, size=session.model.transform.size)
    kept = [split for split in data.splits if split != "test"]
    images, labels = (
        {"train": torch.cat([held[s] for s in kept])} for held in (data.images, data.labels)
    )
    return replace(data, images=images, labels=labels, files={})


def draw(pool: DataSet, count: int, judged: int, seed: int) -> DataSet:
    """Some labels to train with, a fifth of them held out as tlnb does, and others to judge by."""
    shuffled = torch.randperm(
        len(pool.labels["train"]), generator=torch.Generator().manual_seed(seed)
    )
    rows: dict[str, list[torch.Tensor]] = {"train": [], "val": [], "test": []}
    for label in range(len(pool.classes)):
        own = shuffled[pool.labels["train"][shuffled] == label]
        held = count // 5 if count >= MIN_FOR_VAL else 0
        parts = own[: count + judged].split([count - held, held, len(own[count:][:judged])])
        for split, part in zip(rows, parts, strict=True):
            rows[split].append(part)
    joined = {split: torch.cat(parts) for split, parts in rows.items()}
    return pool.with_splits({s: ("train", part) for s, part in joined.items() if len(part)})


def _run(session: Session, chosen: argparse.Namespace, candidate: str, seed: int) -> Run:
    plan, data = session.strategy(chosen.strategy), session.dataset
    assert data is not None
    return session.train(seed=seed, **_options(session, candidate, recipe(plan, data)))


def _options(session: Session, candidate: str, base: TrainOptions) -> dict[str, Any]:
    pairs = [pair.split("=") for pair in candidate.split(",")] if candidate != RECIPE else []
    found: dict[str, Any] = {}
    for name, text in pairs:
        if name in ("refit", "batch_statistics"):
            found[name] = text == "1"
            continue
        if name in ("stages", "augment", "optimizer"):
            found[name] = text
            continue
        value = float(text[1:]) * getattr(base, name) if text[0] == "x" else float(text)
        found[name] = round(value) if name in ("epochs", "batch_size") else value
    if "stages" in found:
        found["lr"] = _by_stage(session, found.get("lr", base.lr), float(found.pop("stages")))
    return found


def _by_stage(session: Session, rate: float, factor: float) -> str:
    names = [stage.name for stage in session.layers().stages]
    rates = [f"{name}={rate * factor**depth:g}" for depth, name in enumerate(reversed(names))]
    return ",".join([f"{rate:g}", *rates])


def _row(name: str, runs: Mapping[str, list[Run]]) -> list[str]:
    shares = [100 * run.accuracy for run in runs[name]]
    gaps = [s - 100 * run.accuracy for s, run in zip(shares, runs[RECIPE], strict=True)]
    error = statistics.stdev(gaps) / len(gaps) ** 0.5 if len(gaps) > 1 else 0.0
    work, usual = (sum(map(_steps, runs[each])) for each in (name, RECIPE))
    mean = f"{statistics.mean(shares):.1f}"
    return [name, mean, f"{statistics.mean(gaps):+.1f} ± {error:.1f}", f"×{work / usual:.2f}"]


def _steps(run: Run) -> float:
    """FLOPs of optimiser steps; caching is paid by the first candidate of a draw."""
    return sum(run.flops_by_phase.get(phase, 0.0) for phase in ("warmup", "training"))


if __name__ == "__main__":
    main()
