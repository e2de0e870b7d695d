"""Accuracy after training by one process and by two, where batch statistics are each process's own (on processors).

    torchrun --standalone --nproc-per-node 2 -m benchmarks.together [--seeds 5] [--per-class 20] [--batch 32]

GlyphNet's layers have BatchNorm, and `full` and `scratch` train it. The same images, seeds and steps on both sides: what
differs is that a process sees the statistics of half of each batch.
"""

from __future__ import annotations

import argparse
import statistics

from benchmarks.scaling import as_if_alone
from benchmarks.table import markdown
from tlnb.core import ranks
from tlnb.session import Session

STRATEGIES = ("full", "scratch")


def accuracy(strategy: str, seed: int, per_class: int, batch: int) -> float:
    """Of one training, in percent of the test split."""
    session = Session()
    session._keeper.writes = False
    session.data("digits", per_class=per_class, seed=seed)
    session.load("glyphnet")
    session.strategy(strategy)
    return 100 * session.train(batch_size=batch, seed=seed, precision="fp32").accuracy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--per-class", type=int, default=20)
    parser.add_argument("--batch", type=int, default=32)
    given = parser.parse_args()
    group, rows = ranks.join(), []
    for strategy in STRATEGIES:
        one, two = [], []
        for seed in range(given.seeds):
            two.append(accuracy(strategy, seed, given.per_class, given.batch))
            with as_if_alone():
                one.append(accuracy(strategy, seed, given.per_class, given.batch) if group.writes else 0.0)
        apart = [b - a for a, b in zip(one, two, strict=True)]
        rows.append([strategy, *(f"{statistics.mean(x):.1f} ± {statistics.stdev(x):.1f}" for x in (one, two, apart))])
    if group.writes:
        print(markdown(["", "one process", "two", "difference, by seed"], rows))
    ranks.leave()


if __name__ == "__main__":
    main()
