"""Splits are proven, answers are the network's own: uncommon networks with and without a cache, and what the proof takes.

    python -m benchmarks.proof [PATTERN ...]                  the networks of tests/core/training/uncommon_networks.py
    python -m benchmarks.proof --classifiers [PATTERN ...]    torchvision's, with random weights, at a small size

The first is a table of a line a network, for `head` and `partial`: where it was cached (or why not), how far the losses of a
cached and an uncached run are apart, and whether the accuracy reported is what the run's network reaches. The second shows where
each classifier is cut, whether that is proven, and processor seconds of key and proof beside those of an image in the network.
Ends with exit status 1 if losses are further apart than 1e-5, accuracies differ, or a classifier is not cut.
"""

from __future__ import annotations

import argparse
import fnmatch
import random
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import nn
from torchvision import models

from benchmarks.classifiers import SMALL, Classifier, classifiers
from tests.core.training.uncommon_networks import NETWORKS
from tlnb.core.models.anatomy import read_anatomy
from tlnb.core.models.transform import Transform
from tlnb.core.planning.plan import plan_strategy
from tlnb.core.runtime.device import machine
from tlnb.core.training.cache_key import identity
from tlnb.core.training.freezing import set_modes
from tlnb.core.training.model_split import Cuts, cut_at
from tlnb.core.training.split_proof import MOST, Proof, proof_images
from tlnb.core.training.split_search import Candidates
from tlnb.session import Session

STRATEGIES = ("head", "partial")
OPTIONS = {"epochs": 2, "batch_size": 8, "lr": 0.05, "augment": "none", "precision": "fp32"}
TOLERANCE = 1e-5
LARGE = 30e6  # parameters: classifiers above that are left out, unless they are named

T = TypeVar("T")


@dataclass(frozen=True)
class Line:
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


def compared(name: str, strategy: str) -> Line:
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
    return Line(name, strategy, at, runs[0].uncached, apart, own)


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


def timed(work: Callable[[], T]) -> tuple[T, float]:
    """What it gives, and processor seconds."""
    start = time.process_time()
    return work(), time.process_time() - start


def proven(one: Classifier, strategy: str) -> bool:
    """A line of the second table; whether the last cut stands its proof."""
    torch.manual_seed(0)
    size = one.step_size
    module = one.make(size, numbers=True)
    plan = plan_strategy(read_anatomy(module, size, one.name), strategy)
    set_modes(module, set(plan.trained))
    images = torch.randint(0, 256, (16, 3, size, size), dtype=torch.uint8)
    transform = Transform(size=size, resize=size, mean=(0.5,) * 3, std=(0.25,) * 3)
    rows = proof_images(images, transform, MOST, "cpu")
    cuts = Cuts()
    found = Candidates(module, plan.trained, rows, cuts).left
    proof = Proof(module=module, images=rows, machine=machine("cpu", "fp32"), whole={})
    cut = cut_at(module, found[-1], cuts)
    fault, seconds = timed(lambda: proof.fault(cut, lambda: cut_at(module, found[-1], cuts)))
    _, key = timed(lambda: identity(cut.prefix))
    with torch.no_grad():
        _, image = timed(lambda: cut.prefix(rows))
    print(
        f"| {one.name} | {strategy} | {len(found)} | {found[-1].at} | {fault or 'proven'} "
        f"| {seconds:.2f} | {key:.3f} | {image / len(rows):.4f} |",
        flush=True,
    )
    return not fault


def of_torchvision(patterns: Sequence[str]) -> bool:
    """The second table; whether every classifier is cut and proven."""
    chosen = classifiers(list(patterns))
    if patterns == ["*"]:
        chosen = [one for one in chosen if one.params <= LARGE]
    print(
        f"of {len(models.list_models(module=models))} classifiers {len(chosen)}, at {SMALL} pixels or more"
    )
    print("| network | strategy | places | last | proof | proof s | key s | an image s |")
    print("|---|---|--:|---|---|--:|--:|--:|")
    found = [proven(one, strategy) for one in chosen for strategy in STRATEGIES]
    return all(found)


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
