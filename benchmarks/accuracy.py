"""Measure test accuracy by strategy and amount of data, over seeds.

    python -m benchmarks.accuracy digits --per-class 1 2 5 20
        --strategies head scratch pixels --seeds 5

    python -m benchmarks.accuracy textures --size 128 --model efficientnet_lite0 --per-class 5 20 all

Prints a row per strategy: mean ± standard deviation over seeds, in percent. A seed determines the
images and all randomness of the run. `ants_bees` are photos from the folder $TLNB_REAL_DATA.
`scratch` is the recipe for scratch with its full number of steps. `--monitor` uses the monitor
split instead of the test split: that is how recipes are chosen.
`--record FILE` also writes the results as JSON, for lessons in which they would take too long.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import shlex
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import torch
import torchvision

from benchmarks.work import real
from tlnb.core.evaluation.compare import pixels_row
from tlnb.core.runtime.device import machine
from tlnb.session import Session

SCHEMA = 1
PHOTOS = "ants_bees"


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What is trained, on which images."""

    data: str
    model: str
    strategy: str
    per_class: int | None  # None: all
    classes: int | None
    size: int | None  # pixels; None: as they come
    rank: int | None  # of adapters; None: as %tl_strategy chooses


@dataclass(frozen=True)
class Reached:
    """The accuracy and the cost of one run."""

    accuracy: float  # in 0..1
    steps: int = 0
    flops: float = 0.0  # without evaluation


def one(setting: Setting, seed: int, extra: dict, monitor: bool) -> Reached:
    """Train one run in a new session."""
    session = Session()
    dataset = session.data(
        _source(setting.data),
        per_class=setting.per_class,
        classes=setting.classes,
        size=setting.size,
        seed=seed,
    )
    if setting.strategy == "pixels":
        return Reached(pixels_row(dataset).accuracy or 0)
    session.load(setting.model)
    rank = setting.rank if setting.strategy == "adapter" else None
    session.strategy(setting.strategy, rank=rank)
    run = session.train(seed=seed, **extra)
    accuracy = (run.epochs[-1].monitor_accuracy or 0) if monitor else run.accuracy
    return Reached(accuracy, run.work.steps, run.training_flops)


def _source(data: str) -> str:
    """What `tl.data` is asked for: a name, or the folder of the photos."""
    if data != PHOTOS:
        return data
    if (folder := real()) is None:
        raise SystemExit(f"{PHOTOS} are in the folder $TLNB_REAL_DATA, which is not set")
    return str(folder / data)


def summary(runs: Sequence[Reached]) -> tuple[float, float]:
    """Mean and standard deviation of accuracy in 0..1; the deviation of a single run is 0."""
    values = [reached.accuracy for reached in runs]
    return statistics.mean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def record(command: str, data: dict[str, object], cells: Sequence[dict[str, object]]) -> str:
    """The results as JSON text.

    Contains hardware, date, command, and a cell for each strategy and amount.
    """
    hardware = machine()
    versions = f"Python {platform.python_version()}, torch {torch.__version__}, torchvision {torchvision.__version__}"
    about = {
        "schema": SCHEMA,
        "measured": f"{datetime.now(UTC):%Y-%m-%d}",
        "command": [command],
        "hardware": f"{hardware.name}, {hardware.threads} threads, {hardware.precision}",
        "versions": versions,
        **data,
    }
    return json.dumps({**about, "cells": list(cells)}, indent=1) + "\n"


def amount(text: str) -> int | None:
    """Images per class, or None for `all`."""
    return None if text == "all" else int(text)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", choices=["digits", "symbols", "textures", "faces", PHOTOS])
    parser.add_argument("--model", default="glyphnet")
    parser.add_argument("--per-class", type=amount, nargs="+", default=[1, 2, 5, 10, 20, 50, 100])
    parser.add_argument("--classes", type=int)
    parser.add_argument("--size", type=int, help="pixels; default: as the images come")
    parser.add_argument("--strategies", nargs="+", default=["head", "partial", "full", "scratch"])
    parser.add_argument("--rank", type=int, help="of adapters; default: as %%tl_strategy chooses")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--monitor", action="store_true")
    parser.add_argument("--record", type=Path)
    for name, kind in (
        ("epochs", int),
        ("lr", float),
        ("batch-size", int),
        ("weight-decay", float),
        ("augment", str),
    ):
        parser.add_argument(f"--{name}", type=kind)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    names = ("epochs", "lr", "batch_size", "weight_decay", "augment")
    extra = {n: v for n in names if (v := getattr(chosen, n)) is not None}
    print(
        f"| {chosen.model}, per class |"
        + "".join(f" {n or 'all'} |" for n in chosen.per_class)
        + " seconds |"
    )
    print("|---|" + "---|" * (len(chosen.per_class) + 1))
    recorded = []
    for strategy in chosen.strategies:
        start, cells = time.perf_counter(), []
        for n in chosen.per_class:
            setting = Setting(
                data=chosen.data,
                model=chosen.model,
                strategy=strategy,
                per_class=n,
                classes=chosen.classes,
                size=chosen.size,
                rank=chosen.rank,
            )
            runs = [one(setting, s, extra, chosen.monitor) for s in range(chosen.seeds)]
            mean, spread = summary(runs)
            cells.append(f" {100 * mean:.1f} ± {100 * spread:.1f} |")
            recorded.append(
                {
                    "strategy": strategy,
                    "per_class": n,
                    "epochs": chosen.epochs,
                    "accuracy": mean,
                    "sd": spread,
                    "seeds": chosen.seeds,
                    "steps": runs[0].steps,
                    "flops": runs[0].flops,
                }
            )
        print(
            f"| {strategy} |" + "".join(cells) + f" {time.perf_counter() - start:.0f} |", flush=True
        )
    if chosen.record:
        about = {"data": chosen.data, "classes": chosen.classes, "model": chosen.model}
        typed = re.sub(r" ?--record[ =]\S+", "", shlex.join(sys.argv[1:]))
        command = f"python -m benchmarks.accuracy {typed}"
        chosen.record.write_text(record(command, about, recorded), "utf8")


if __name__ == "__main__":
    main()
