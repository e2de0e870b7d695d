"""Measure the overhead of a run beyond its training: `python -m benchmarks.tax [--threads 1]`.

On twenty digits: `%tl_train` on a frozen network, the same again (with cached activations), its
baseline from scratch, and the comparison. A run's own work is caching, head first and training;
wall time divided by that is the overhead. The comparison is timed without the baseline of equal
steps that it trains, and its card separately, once with matplotlib's import and once without.
Caches are in a new folder. Run nothing else at the same time; `cpu` is process time, which is
affected less.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

TRAINING_PHASES = ("caching", "warmup", "training")


@dataclass(frozen=True)
class Timed:
    """The result of a call and its seconds."""

    value: Any
    wall: float
    cpu: float


def timed(call: Callable[[], Any]) -> Timed:
    """Time a call with both clocks."""
    wall, cpu = time.perf_counter(), time.process_time()
    value = call()
    return Timed(value, time.perf_counter() - wall, time.process_time() - cpu)


def run_row(name: str, timed_call: Timed) -> str:
    """Format a run: wall time, its own work, their ratio, and the phases."""
    own = sum(timed_call.value.seconds[phase] for phase in TRAINING_PHASES)
    phases = ", ".join(
        f"{phase} {seconds:.2f}"
        for phase, seconds in timed_call.value.seconds.items()
        if seconds >= 0.005
    )
    return f"| {name} | {timed_call.wall:.2f} | {timed_call.cpu:.2f} | {own:.2f} | ×{timed_call.wall / own:.2f} | {phases} |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=1)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tlnb-tax-") as top:
        os.environ |= {"TLNB_HOME": f"{top}/home", "TLNB_CACHE": f"{top}/cache"}
        measure(chosen.threads)


def measure(threads: int) -> None:
    """Measure, and print both tables."""
    import torch

    from tlnb.display.cards import HTML
    from tlnb.session import Session
    from tlnb.session.comparisons import equal_budget_of

    torch.set_num_threads(threads)
    session = Session()
    session.data("digits", per_class=2)
    session.load("glyphnet")
    session.freeze()
    print(
        f"| run, {threads} threads | wall, s | cpu, s | own work, s | ratio | phases, s |\n|---|---|---|---|---|---|"
    )
    for name, scratch in (("`head`", False), ("`head` again", False), ("`--scratch`", True)):
        print(
            run_row(name, timed(lambda scratch=scratch: session.train(scratch=scratch))), flush=True
        )
    print("\n| comparing | wall, s | cpu, s |\n|---|---|---|")
    equal_budget_of(session, session.runs[-1])
    compared = timed(session.compare)
    steps = (
        ("the comparison", lambda: compared),
        ("the same again", lambda: timed(session.compare)),
        ("its card, first", lambda: timed(lambda: HTML[type(compared.value)](compared.value))),
        ("its card, again", lambda: timed(lambda: HTML[type(compared.value)](compared.value))),
    )
    for name, step in steps:
        timed_call = step()
        print(f"| {name} | {timed_call.wall:.2f} | {timed_call.cpu:.2f} |", flush=True)


if __name__ == "__main__":
    main()
