"""Splits are proven, answers are the network's own: uncommon networks with and without a cache, and what the proof takes.

    python -m benchmarks.proof [PATTERN ...]                  the networks of tests/core/training/uncommon_networks.py
    python -m benchmarks.proof --classifiers [PATTERN ...]    torchvision's, with random weights, at a small size

The first is a table of a line a network, for `head` and `partial`: where it was cached (or why not), how far the losses of a
cached and an uncached run are apart, and whether the accuracy reported is what the run's network reaches. The second is the
table of `benchmarks.timm_splits` for torchvision's classifiers. Ends with exit status 1 if losses are further apart than 1e-5,
accuracies differ, or a classifier is not split where the strategy wants it.
"""

from __future__ import annotations

import argparse
import fnmatch
import gc
import random
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torchvision import models

from benchmarks.classifiers import Classifier, classifiers
from benchmarks.timm_splits import HEADER, Line, split_line
from tests.core.training.uncommon_networks import NETWORKS
from tlnb.core.models.anatomy import read_anatomy
from tlnb.session import Session

STRATEGIES = ("head", "partial")
OPTIONS = {"epochs": 2, "batch_size": 8, "lr": 0.05, "augment": "none", "precision": "fp32"}
TOLERANCE = 1e-5


@dataclass(frozen=True)
class Compared:
    """A network with one strategy."""

    name: str
    strategy: str
    at: str | None
    why: str
    apart: float  # losses of the cached and the uncached run
    own: bool  # whether both report what they reach, and the same

    @property
    def right(self) -> bool:
        return self.apart <= TOLERANCE and self.own

    def __str__(self) -> str:
        where = f"after {self.at}" if self.at else f"no: {self.why}"
        right = "yes" if self.own else "NO"
        return f"| {self.name} | {self.strategy} | {where} | {self.apart:.0e} | {right} |"


def seeded() -> None:
    """The same random numbers from here on."""
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)


def compared(name: str, strategy: str) -> Compared:
    """Both runs of one network."""
    runs, right = [], []
    for cache in (True, False):
        seeded()
        session = Session()
        labels = np.arange(24) % 3
        noise = np.random.default_rng(0).integers(0, 80, (24, 32, 32, 3))
        session.data((noise + 80 * labels[:, None, None, None]).astype(np.uint8), labels)
        session.load(NETWORKS[name](), size=32, called="net")
        session.strategy(strategy)
        seeded()
        runs.append(session.train(**OPTIONS, cache=cache))
        reached = _reaches(session, runs[-1].module())
        right.append(reached is None or abs(reached - runs[-1].accuracy) < TOLERANCE)
    pairs = zip(runs[0].epochs, runs[1].epochs, strict=True)
    apart = max(abs(one.train_loss - two.train_loss) for one, two in pairs)
    own = all(right) and runs[0].accuracy == runs[1].accuracy
    at = runs[0].cache.at if runs[0].cache else None
    return Compared(name, strategy, at, runs[0].uncached, apart, own)


def _reaches(session: Session, network: nn.Module) -> float | None:
    """The network's accuracy on the test images; None where it answers by chance, or by what it saw before."""
    data = session.dataset
    images = session.model.transform(data.images["test"])
    seeded()
    with torch.no_grad():
        answers = [network(given) for _ in range(10) for given in (images, -images)][::2]
    if not all(torch.equal(answer, answers[0]) for answer in answers):
        return None
    return float((answers[0].argmax(1) == data.labels["test"]).float().mean())


def uncommon(patterns: Sequence[str]) -> bool:
    """The first table; whether all of it is right."""
    names = [n for n in NETWORKS if any(fnmatch.fnmatch(n, p) for p in patterns)]
    print(
        "| network | strategy | cached | losses apart | reported = its own |\n|---|---|---|--:|---|"
    )
    lines = []
    for name in names:
        for strategy in STRATEGIES:
            lines.append(compared(name, strategy))
            print(lines[-1], flush=True)
    right, cached = sum(line.right for line in lines), sum(line.at is not None for line in lines)
    print(f"\n{right} of {len(lines)} right ({len(names)} networks), {cached} of them cached")
    return right == len(lines)


def edge(one: Classifier) -> int:
    """The input edge in pixels: four patches of a transformer that is built for one size, else a small one."""
    return 2 * int(one.name.split("_")[-1]) if one.fixed else one.step_size


def split_lines(one: Classifier) -> list[Line]:
    """The lines of a classifier of torchvision, with random weights."""
    torch.manual_seed(0)
    size = edge(one)
    module = one.make(size, numbers=True)
    read = read_anatomy(module, size, one.name)
    return [split_line(one.name, module, size, read, strategy) for strategy in STRATEGIES]


def of_torchvision(patterns: Sequence[str]) -> bool:
    """The second table; whether every classifier is split where the strategy wants it."""
    chosen = classifiers(list(patterns))
    print(f"{len(chosen)} of {len(models.list_models(module=models))} classifiers\n{HEADER}")
    table: list[Line] = []
    for one in chosen:
        table += split_lines(one)
        print("\n".join(map(str, table[-2:])), flush=True)
        gc.collect()
    good = sum(line.good for line in table)
    print(f"\n{good} of {len(table)} split where the strategy wants it")
    return good == len(table)


def main() -> None:
    """One of the two tables."""
    parser = argparse.ArgumentParser(
        "benchmarks.proof",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("patterns", nargs="*", default=["*"], metavar="PATTERN")
    parser.add_argument("--classifiers", action="store_true")
    chosen = parser.parse_args()
    warnings.filterwarnings("ignore")
    right = (of_torchvision if chosen.classifiers else uncommon)(chosen.patterns)
    sys.exit(not right)


if __name__ == "__main__":
    main()
