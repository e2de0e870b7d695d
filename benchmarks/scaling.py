"""How much two processes gain over one, each with one thread on a core of its own; and what that says of many GPUs.

    python -m benchmarks.scaling            ResNet-18 `full`, and feature caching; some minutes
    python -m benchmarks.scaling --quick    smaller images, fewer steps: does it work?

Efficiency is the time of one process over twice the time of two, for the same global batches. Photos are generated and the
network starts at random: neither changes the time. Besides, gradients of that size are summed over loopback, and from step
and message times the efficiency is predicted, to be compared with the measured one. Nothing else should run meanwhile.
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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from benchmarks.measure import pin
from tlnb.core import ranks
from tlnb.session import Session

MODEL = "resnet18"
REPEATS = 3  # one process and two by turns, since a machine's speed drifts
SUMS = 10  # messages that are timed
OVERLAP = 0.5  # assumed: the part of a step during whose backward pass gradients are already on their way


@dataclass(frozen=True)
class Network:
    """What carries gradients between devices."""

    name: str
    bandwidth: float  # bytes a second that one device sends, and receives
    latency: float  # seconds of one hop


# assumed, not measured
NVLINK = Network("8 GPUs of one machine, NVLink at 200 GB/s", 200e9, 10e-6)
ETHERNET = Network("8 machines of 8 GPUs, 100 Gbit/s for each machine", 12.5e9, 30e-6)


def comm_seconds(size: float, count: int, network: Network) -> float:
    """Seconds of summing `size` bytes over a ring of `count`: each sends 2(N-1)/N of them in 2(N-1) hops.

    Source: Patarasuk and Yuan, Bandwidth optimal all-reduce algorithms, J. Parallel Distrib. Comput. 69 (2009).
    """
    return 2 * (count - 1) / count * size / network.bandwidth + 2 * (count - 1) * network.latency


def efficiency(
    step: float, size: float, count: int, network: Network, overlap: float = OVERLAP, normalised: int = 0
) -> float:
    """Predicted: a step's own seconds over those with what no backward pass hides.

    Args:
        normalised: layers with synchronised batch statistics, each with a small message forwards and one backwards, over a
            tree of log2(count) hops, for which everything waits.
    """
    shown = max(0.0, comm_seconds(size, count, network) - overlap * step)
    return step / (step + shown + 2 * normalised * math.ceil(math.log2(count)) * network.latency)


# ── one measurement ───────────────────────────────────────────────────────────────────────────────────────────────


def photos(count: int, edge: int) -> tuple[np.ndarray, list[str]]:
    """Noise as photos `(count, 3, edge, edge)` of two classes."""
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (count, 3, edge, edge), dtype=np.uint8), ["a", "b"] * (count // 2)


def work(options: argparse.Namespace) -> dict[str, Any]:
    """What each process does: ResNet-18 trained whole, then its features cached, then messages of its gradients' size."""
    group = ranks.join()
    pin_apart(group.local)
    session = Session()
    session._keeper.writes = group.writes
    session.data(*photos(options.images, options.edge), val=0, test=0.1, size=options.edge)
    session.load(MODEL, "none", size=options.edge)
    session.strategy("full")
    shared = {"batch_size": options.batch, "augment": "none", "precision": "fp32"}
    run = session.train(epochs=options.epochs, **shared)
    seconds = [e.seconds for e in run.epochs[1:]]  # the first epoch finds memory
    images = session.dataset.splits["train"]
    steps = math.ceil(images / options.batch)
    session.strategy("head")
    cached = session.train(epochs=1, **shared)
    size = 4 * run.plan.trainable_params
    found = {
        "step": statistics.median(seconds) / steps,
        "caching": cached.seconds["caching"],
        "images": images,
        "bytes": size,
        "sum": summed(size) if group.count > 1 else 0.0,
    }
    ranks.leave()
    return found


def pin_apart(local: int) -> None:
    """One thread, on a core that no other process of this measurement has."""
    pin(1)
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(int(c) for c in os.environ["SCALING_CORES"].split(","))
        os.sched_setaffinity(0, {cores[local % len(cores)]})


def summed(size: int) -> float:
    """Seconds in which all processes have the sum of so many bytes."""
    message, took = torch.zeros(size // 4), []
    for _ in range(SUMS):
        dist.barrier()
        began = time.perf_counter()
        dist.all_reduce(message)
        took.append(time.perf_counter() - began)
    return statistics.median(took)


# ── the table ─────────────────────────────────────────────────────────────────────────────────────────────────────


def measured(count: int, options: argparse.Namespace) -> dict[str, Any]:
    """The measurement in so many fresh processes."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "found.json"
        start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
        given = [f"--{name}={getattr(options, name)}" for name in ("images", "edge", "batch", "epochs")]
        own = {"TLNB_HOME": folder, "TLNB_CACHE": folder, "OMP_NUM_THREADS": "1", "SCALING_CORES": cores()}
        subprocess.run(
            [*start, "-m", "benchmarks.scaling", "--into", str(target), *given], env={**os.environ, **own}, check=True
        )
        return dict(json.loads(target.read_text()))


def cores() -> str:
    """The cores that this process may use."""
    free = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    return ",".join(map(str, sorted(free)))


def rows(one: list[dict[str, Any]], two: list[dict[str, Any]]) -> Iterator[str]:
    """A line for each kind of work: seconds of one process, of two, and the efficiency."""
    yield "| work | one process | two | efficiency |"
    yield "|---|---|---|---|"
    for key, name in (("step", f"{MODEL} `full`, a step"), ("caching", "feature caching, all images")):
        alone, together = (statistics.median(each[key] for each in found) for found in (one, two))
        yield f"| {name} | {alone:.2f} s | {together:.2f} s | {alone / (2 * together):.1%} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=144)
    parser.add_argument("--edge", type=int, default=224, help="pixels")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--into", type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.into:
        found = work(chosen)
        if os.environ.get("RANK", "0") == "0":
            chosen.into.write_text(json.dumps(found))
        return
    if chosen.quick:
        chosen.images, chosen.edge, chosen.batch, chosen.epochs = 72, 96, 16, 2
    pairs = [(measured(1, chosen), measured(2, chosen)) for _ in range(1 if chosen.quick else REPEATS)]
    one, two = ([pair[i] for pair in pairs] for i in (0, 1))
    print("\n".join(rows(one, two)))
    size, alone = two[0]["bytes"], statistics.median(each["step"] for each in one)
    took = statistics.median(each["sum"] for each in two)
    here = Network("loopback, gloo", size / took, 0.0)
    print(
        f"\nGradients: {size / 1e6:.1f} MB, summed over two processes in {took * 1e3:.0f} ms ({size / took / 1e9:.2f} GB/s)"
    )
    print(f"Predicted from that for two, no overlap: {efficiency(alone / 2, size, 2, here, 0.0):.1%}\n")
    print("\n".join(on_paper()))


# ── on paper ──────────────────────────────────────────────────────────────────────────────────────────────────────

SHOWN = 88 * 1_281_167  # epochs times ImageNet's images, in the trainings that FFCV's README reports
# model → (parameters, BatchNorm layers, images a second of one A100: read there, 187 min on one, 77.2 min on eight)
PUBLISHED = {"ResNet-18": (11_689_512, 20, SHOWN / (187 * 60)), "ResNet-50": (25_557_032, 53, SHOWN / (77.2 * 60 * 8))}


def on_paper() -> Iterator[str]:
    """Predicted efficiency for 8 and 64 GPUs, by images that each has of a batch."""
    yield "| model | images for each GPU | its step | 8 GPUs | 64 GPUs | 8, BatchNorm trains | 64, BatchNorm trains |"
    yield "|---|---|---|---|---|---|---|"
    for name, (parameters, layers, rate) in PUBLISHED.items():
        for images in (256, 64, 16):
            step = images / rate
            cells = [f"{efficiency(step, 4.0 * parameters, count, by, normalised=n):.0%}"
                     for n in (0, layers) for count, by in ((8, NVLINK), (64, ETHERNET))]  # fmt: skip
            yield f"| {name} | {images} | {step * 1e3:.1f} ms | {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
