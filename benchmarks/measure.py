"""One measurement in a process of its own, pinned to its cores."""

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
    """A job and what came of it."""

    job: Job
    outcome: Outcome | None = None
    problem: str = ""  # why there is no outcome
    flops: float = 0.0  # of a training step, for one image
    precision: str = ""  # the machine's native one; which peers use it is said below the table
    peak_bytes: int = 0  # the most that the GPU held at once

    @property
    def gflops(self) -> float:
        """GFLOP/s that training reached."""
        return (
            self.flops / self.outcome.step_ms / 1e6
            if self.outcome and self.outcome.step_ms
            else 0.0
        )


def fresh(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call it in a new process, so that nothing is warm. A pool for each: one that breaks takes no other job with it."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def measured(job: Job) -> Result:
    """The job's result from a fresh process, whatever happens there."""
    try:
        return fresh(measure, job)
    except BrokenProcessPool:
        return Result(job, problem="failed: the process ended, perhaps for lack of memory")


def measure(job: Job) -> Result:
    """Do the job in this process."""
    pin(job.threads)
    warnings.simplefilter("ignore")  # of the peers' libraries about each other
    try:
        peer = import_module(f"benchmarks.peers.{job.peer}")
    except ModuleNotFoundError as error:
        return Result(job, problem=f"not installed ({error.name})")
    try:
        task = prepare(job)
        outcome = peer.run(task)
    except Exception as error:  # a peer that fails is a row that says so
        traceback.print_exc(file=sys.stderr)
        return Result(
            job,
            problem=f"failed: {type(error).__name__}: {(str(error).splitlines() or [''])[0][:100]}",
        )
    on_gpu = job.device.startswith("cuda")
    held = torch.cuda.max_memory_allocated() if on_gpu else 0
    return Result(job, outcome, "", task.flops, task.machine.precision, held)


def pin(threads: int) -> None:
    """So many threads on as many cores, where the system can do that. Spawned processes inherit OMP_NUM_THREADS."""
    torch.set_num_threads(threads)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-threads:])


def peak(device: str, threads: int) -> dict[str, float]:
    """GFLOP/s of the best of several products of two large matrices, by precision: fp32, and what the machine has natively."""
    pin(threads)
    here = machine(device)
    kinds = {"fp32": torch.float32}
    if here.precision != "fp32":
        kinds[here.precision] = {"bf16": torch.bfloat16, "fp16": torch.float16}[here.precision]
    return {
        name: _matmul_rate(PEAK_EDGE.get(device.split(":")[0], 2048), kind, device)
        for name, kind in kinds.items()
    }


def _matmul_rate(edge: int, kind: torch.dtype, device: str) -> float:
    left, right = (torch.randn(edge, edge, device=device).to(kind) for _ in range(2))
    here, best = machine(device), float("inf")
    for _ in range(PEAK_TRIES):
        here.synchronize()
        start = time.perf_counter()
        left @ right
        here.synchronize()
        best = min(best, time.perf_counter() - start)
    return 2 * edge**3 / best / 1e9
