"""Compare the accuracy of several processes, each with its own batch statistics, with one.

    python -m benchmarks.together [--seeds 5] [--strategies full scratch]
        [--per-class 20] [--epochs 12] [--processes 2]

Digits and GlyphNet, which has BatchNorm throughout. Each seed draws its own training images and
trains with `python -m tlnb train` in one process and with torchrun in several, one thread each,
with the same global batches, of the recipe's size: the smaller a process's share, the more its
statistics differ. The difference between the two is to be compared with the spread over seeds.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tlnb.core.training.run import Run
from tlnb.session import Session
from tlnb.session.job_runner import RECORD


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--strategies", nargs="+", default=["full", "scratch"])
    parser.add_argument("--per-class", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--processes", type=int, default=2)
    chosen = parser.parse_args()
    print(
        f"digits, {chosen.per_class} per class, glyphnet, {chosen.epochs} epochs, {chosen.seeds} seeds; test accuracy"
    )
    for strategy in chosen.strategies:
        pairs = [_pair(strategy, seed, chosen) for seed in range(chosen.seeds)]
        one, several = ([100 * run.accuracy for run in runs] for runs in zip(*pairs, strict=True))
        apart = [b - a for a, b in zip(one, several, strict=True)]
        losses = [abs(b.epochs[-1].train_loss / a.epochs[-1].train_loss - 1) for a, b in pairs]
        print(
            f"{strategy}, batches of {pairs[0][0].options.batch_size}: one process {_spread(one)}, "
            f"{chosen.processes} processes {_spread(several)}; difference {_spread(apart)}, last loss differs by "
            f"{statistics.mean(losses):.1%}",
            flush=True,
        )


def _spread(values: list[float]) -> str:
    return (
        f"{statistics.mean(values):.1f} ± {statistics.stdev(values) if len(values) > 1 else 0:.1f}"
    )


def _pair(strategy: str, seed: int, chosen: argparse.Namespace) -> tuple[Run, Run]:
    """Run the same job in one process and in several."""
    with tempfile.TemporaryDirectory() as folder:
        job = Path(folder) / "job.json"
        session = Session()
        session.data("digits", per_class=chosen.per_class, seed=seed)
        session.load("glyphnet")
        session.strategy(strategy)
        session.save(job=job, epochs=chosen.epochs, seed=seed)
        start = [sys.executable, "-m"]
        torchrun = [
            *start,
            "torch.distributed.run",
            "--standalone",
            "--nproc-per-node",
            str(chosen.processes),
            "-m",
        ]
        return _run(start, job, Path(folder) / "one"), _run(torchrun, job, Path(folder) / "several")


def _run(start: list[str], job: Path, out: Path) -> Run:
    own: dict[str, Any] = {
        "TLNB_HOME": f"{out}-home",
        "TLNB_CACHE": f"{out}-cache",
        "OMP_NUM_THREADS": "1",
    }
    process = subprocess.run(
        [*start, "tlnb", "train", str(job), "--out", str(out)],
        env=os.environ | own,
        capture_output=True,
        text=True,
    )
    if process.returncode:
        raise SystemExit(process.stderr)
    return Run.from_json((out / RECORD).read_text("utf8"))


if __name__ == "__main__":
    main()
