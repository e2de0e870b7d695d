"""Measure the gain of two processes over one, and predict that of many GPUs.

    python -m benchmarks.scaling            ResNet-18 `full`, and feature caching; some minutes
    python -m benchmarks.scaling --quick    smaller images, fewer steps: does it work?

Each process has one thread on its own core. Efficiency is the time of one process over twice the
time of two, for the same global batches. A machine's speed drifts, so one and two take turns, and
the fastest of many steps and of several cachings counts. Two independent processes with half of the
work each show what the machine allows. Photos are generated and the network starts at random:
neither changes the time. Gradients of the same size are also summed over loopback; from step and
message times the efficiency is predicted, for comparison with the measured one. Run nothing else at
the same time.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from benchmarks.measure import pin
from tlnb.core.runtime import distributed
from tlnb.session import Session

MODEL = "resnet18"
TEST_IMAGES = 4  # held-out images, as few as allowed
TIMED_MESSAGES = 10  # messages timed
OVERLAP = (
    0.5  # assumed: the part of a step during whose backward pass gradients are already on their way
)


@dataclass(frozen=True)
class Network:
    """A network that carries gradients between devices."""

    name: str
    bandwidth: float  # bytes per second that one device sends, and receives
    latency: float  # seconds of one hop


# assumed, not measured
NVLINK = Network("8 GPUs of one machine, NVLink at 200 GB/s", 200e9, 10e-6)
ETHERNET = Network("8 machines of 8 GPUs, 100 Gbit/s for each machine", 12.5e9, 30e-6)


def comm_seconds(size: float, count: int, network: Network) -> float:
    """Seconds to sum `size` bytes over a ring of N = `count` devices.

    Each device sends 2(N-1)/N of the bytes in 2(N-1) hops. Source: Patarasuk and Yuan, Bandwidth
    optimal all-reduce algorithms, J. Parallel Distrib. Comput. 69 (2009).
    """
    return 2 * (count - 1) / count * size / network.bandwidth + 2 * (count - 1) * network.latency


def efficiency(
    step: float,
    size: float,
    count: int,
    network: Network,
    overlap: float = OVERLAP,
    normalised: int = 0,
) -> float:
    """Predict the efficiency: a step's own seconds over those with exposed communication.

    Args:
        normalised: layers with synchronised batch statistics, each with a small blocking message
            forwards and one backwards, over a tree of log2(count) hops.
    """
    shown = max(0.0, comm_seconds(size, count, network) - overlap * step)
    return step / (step + shown + 2 * normalised * math.ceil(math.log2(count)) * network.latency)


# ── one measurement ───────────────────────────────────────────────────────────────────────────────


def photos(count: int, edge: int, seed: int) -> tuple[np.ndarray, list[str]]:
    """Noise as photos `(count, 3, edge, edge)` of two classes; a new seed: uncached ones."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, 3, edge, edge), dtype=np.uint8), ["a", "b"] * (count // 2)


def work(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Work of each of two processes, round by round.

    First alone, while the other waits; then at the same time as the other, each independently with
    half of the work, which shows what the machine allows; then together. Finally messages of the
    gradients' size.
    """
    group = distributed.join()
    pin_apart(group.local)
    rounds = []
    for turn in range(options.rounds):
        with as_if_alone():
            alone = seconds(options, 1, 3 * turn) if group.is_main else {}
            dist.barrier()
            halves = seconds(options, 2, 3 * turn + 1)
        dist.barrier()
        both = seconds(options, 1, 3 * turn + 2)
        slower = {key: max(each[key] for each in group.all_gather_object(halves)) for key in halves}
        rounds.append(
            {"alone": alone, "halves": slower, "both": both, "sum": summed(int(both["bytes"]))}
        )
        if group.is_main:
            print(f"round {turn + 1}: {json.dumps(rounds[-1])}", file=sys.stderr, flush=True)
    distributed.leave()
    return rounds


@contextmanager
def as_if_alone() -> Iterator[None]:
    """Make this process ignore the other inside the context."""
    group, distributed._now = distributed._now, distributed.ALONE
    try:
        yield
    finally:
        distributed._now = group


def seconds(options: argparse.Namespace, parts: int, seed: int) -> dict[str, float]:
    """Seconds of the fastest step on one batch, and of caching the features of more images.

    The step trains the whole network.

    Args:
        parts: number of parts that batch and images are divided into.
    """
    shared = {"augment": "none", "precision": "fp32"}
    session, batch = ready(options.batch // parts, options.edge, seed), options.batch // parts
    session.strategy("full")
    run = session.train(epochs=options.steps, batch_size=batch, **shared)
    session = ready(options.images // parts, options.edge, seed)
    session.strategy("head")
    cached = session.train(epochs=1, batch_size=batch, **shared)
    return {
        "step": min(e.seconds for e in run.epochs),
        "caching": cached.seconds["caching"],
        "bytes": 4.0 * run.plan.trainable_params,
    }


def ready(train: int, edge: int, seed: int) -> Session:
    """A session with `train` training images and an untrained network."""
    session = Session()
    session.store.writes = False
    session.data(
        *photos(train + TEST_IMAGES, edge, seed),
        val=0,
        test=TEST_IMAGES / (train + TEST_IMAGES),
        size=edge,
    )
    session.load(MODEL, "none", size=edge)
    return session


def pin_apart(local: int) -> None:
    """Use one thread, on a core that no other process of this measurement uses."""
    pin(1)
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(int(c) for c in os.environ["SCALING_CORES"].split(","))
        os.sched_setaffinity(0, {cores[local % len(cores)]})


def summed(size: int) -> float:
    """Seconds until all processes have the sum of `size` bytes."""
    message, took = torch.zeros(size // 4), []
    for _ in range(TIMED_MESSAGES):
        dist.barrier()
        began = time.perf_counter()
        dist.all_reduce(message)
        took.append(time.perf_counter() - began)
    return statistics.median(took)


# ── the table ─────────────────────────────────────────────────────────────────────────────────────


def measured(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Run the rounds in two new processes."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "found.json"
        start = [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc-per-node",
            "2",
        ]
        given = [
            f"--{name}={getattr(options, name)}"
            for name in ("images", "edge", "batch", "steps", "rounds")
        ]
        own = {
            "TLNB_HOME": folder,
            "TLNB_CACHE": folder,
            "OMP_NUM_THREADS": "1",
            "CUDA_VISIBLE_DEVICES": "",
            "SCALING_CORES": cores(),
        }
        subprocess.run(
            [*start, "-m", "benchmarks.scaling", "--into", str(target), *given],
            env={**os.environ, **own},
            check=True,
        )
        return list(json.loads(target.read_text()))


def cores() -> str:
    """The cores available to this process."""
    free = (
        os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    )
    return ",".join(map(str, sorted(free)))


def rows(rounds: list[dict[str, Any]]) -> Iterator[str]:
    """Yield a line for each kind of work: the fastest of all rounds, and its efficiencies."""
    yield "| work | one process | two together | efficiency | of two independent processes |"
    yield "|---|---|---|---|---|"
    for key, name in (
        ("step", f"{MODEL} `full`, a step"),
        ("caching", "feature caching, all images"),
    ):
        alone, both, halves = (
            min(each[how][key] for each in rounds) for how in ("alone", "both", "halves")
        )
        yield f"| {name} | {alone:.2f} s | {both:.2f} s | {alone / (2 * both):.1%} | {alone / (2 * halves):.1%} |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=1200, help="images with cached features")
    parser.add_argument("--edge", type=int, default=224, help="pixels")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--into", type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.into:
        rounds = work(chosen)
        if os.environ.get("RANK", "0") == "0":
            chosen.into.write_text(json.dumps(rounds))
        return
    if chosen.quick:
        chosen.images, chosen.edge, chosen.batch, chosen.steps, chosen.rounds = 64, 96, 16, 4, 2
    rounds = measured(chosen)
    print("\n".join(rows(rounds)))
    size, alone = rounds[0]["both"]["bytes"], min(each["alone"]["step"] for each in rounds)
    took = statistics.median(each["sum"] for each in rounds)
    loopback = Network("loopback, gloo", size / took, 0.0)
    print(
        f"\nGradients: {size / 1e6:.1f} MB, summed over two processes in {took * 1e3:.0f} ms ({size / took / 1e9:.2f} GB/s)"
    )
    print(
        f"Predicted from that for two, no overlap: {efficiency(alone / 2, size, 2, loopback, 0.0):.1%}\n"
    )
    print("\n".join(on_paper()))


# ── on paper ──────────────────────────────────────────────────────────────────────────────────────

IMAGES_SHOWN = (
    88 * 1_281_167
)  # epochs times ImageNet's images, in the trainings that FFCV's README reports
# model → (parameters, BatchNorm layers, images per second of one A100, from FFCV's README: 187 min
# on one, 77.2 min on eight)
PUBLISHED = {
    "ResNet-18": (11_689_512, 20, IMAGES_SHOWN / (187 * 60)),
    "ResNet-50": (25_557_032, 53, IMAGES_SHOWN / (77.2 * 60 * 8)),
}


def on_paper() -> Iterator[str]:
    """Yield the predicted efficiency for 8 and 64 GPUs, by images of a batch per GPU."""
    yield "| model | images per GPU | its step | 8 GPUs | 64 GPUs | 8, BatchNorm trains | 64, BatchNorm trains |"
    yield "|---|---|---|---|---|---|---|"
    for name, (parameters, layers, rate) in PUBLISHED.items():
        for images in (256, 64, 16):
            step = images / rate
            cells = [
                f"{efficiency(step, 4.0 * parameters, count, by, normalised=n):.0%}"
                for n in (0, layers)
                for count, by in ((8, NVLINK), (64, ETHERNET))
            ]
            yield f"| {name} | {images} | {step * 1e3:.1f} ms | {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
