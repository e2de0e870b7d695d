"""One measurement in a new process, pinned to its cores."""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch

from benchmarks.laps import Outcome
from benchmarks.work import Job, prepare
from tlnb.core.runtime.device import machine

PEAK_EDGE = {"cpu": 2048, "cuda": 8192}  # of the matrices
PEAK_TRIES = 8


@dataclass(frozen=True)
class Result:
    """A job and its outcome."""

    job: Job
    outcome: Outcome | None = None
    problem: str = ""  # why there is no outcome
    flops: float = 0.0  # of a training step, for one image
    precision: str = ""  # the machine's native one; notes below the table say which peers use it
    peak_bytes: int = 0  # peak memory of the GPU

    @property
    def gflops(self) -> float:
        """GFLOP/s of the training."""
        return (
            self.flops / self.outcome.step_ms / 1e6
            if self.outcome and self.outcome.step_ms
            else 0.0
        )


def fresh(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function in a new process, so that nothing is warm.

    Each call has its own pool, so that a broken one does not affect other jobs.
    """
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def measured(job: Job) -> Result:
    """The job's result from a new process, even if that process fails."""
    try:
        return fresh(measure, job)
    except BrokenProcessPool:
        return Result(job, problem="failed: the process ended, perhaps because memory ran out")


def measure(job: Job) -> Result:
    """Run the job in this process."""
    pin(job.threads)
    warnings.simplefilter("ignore")  # the peers' libraries warn about each other
    try:
        peer = import_module(f"benchmarks.peers.{job.peer}")
    except ModuleNotFoundError as error:
        return Result(job, problem=f"not installed ({error.name})")
    try:
        task = prepare(job)
        outcome = peer.run(task)
    except Exception as error:  # a failing peer becomes a row of the table
        traceback.print_exc(file=sys.stderr)
        return Result(
            job,
            problem=f"failed: {type(error).__name__}: {(str(error).splitlines() or [''])[0][:100]}",
        )
    on_gpu = job.device.startswith("cuda")
    held = torch.cuda.max_memory_allocated() if on_gpu else 0
    return Result(job, outcome, "", task.flops, task.machine.precision, held)


def pin(threads: int) -> None:
    """Use this many threads on as many cores, if the system supports that.

    Spawned processes inherit OMP_NUM_THREADS.
    """
    torch.set_num_threads(threads)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-threads:])


def peak(device: str, threads: int) -> dict[str, float]:
    """GFLOP/s of the fastest of several products of two large matrices, by precision.

    Precisions are fp32 and the machine's native one.
    """
    pin(threads)
    hardware = machine(device)
    kinds = {"fp32": torch.float32}
    if hardware.precision != "fp32":
        kinds[hardware.precision] = {"bf16": torch.bfloat16, "fp16": torch.float16}[
            hardware.precision
        ]
    return {
        name: _matmul_rate(PEAK_EDGE.get(device.split(":")[0], 2048), kind, device)
        for name, kind in kinds.items()
    }


def _matmul_rate(edge: int, kind: torch.dtype, device: str) -> float:
    left, right = (torch.randn(edge, edge, device=device).to(kind) for _ in range(2))
    hardware, best = machine(device), float("inf")
    for _ in range(PEAK_TRIES):
        hardware.synchronize()
        start = time.perf_counter()
        left @ right
        hardware.synchronize()
        best = min(best, time.perf_counter() - start)
    return 2 * edge**3 / best / 1e9
