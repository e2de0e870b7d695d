"""Measuring: FLOPs, synchronised clocks, energy."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import Tensor, nn

from tlnb.core.device import Machine
from tlnb.core.watch import Counter, blank, countable

PHASES = ("preparing", "caching", "warmup", "training", "evaluating", "other")
NUMBERS_COST_LITTLE = 2e10  # parameters times input values, below which a real step is the faster way to count one
WATTS_PER_CPU_THREAD = 8.0  # assumed: a server core under load, with its share of the package
WATTS_PER_GPU = 250.0  # assumed: a data-centre GPU under load


class Clock:
    """Wall time by phase. Phases do not nest; what no phase claims is `other`, so that all sum to the whole."""

    def __init__(self, machine: Machine, earlier: Mapping[str, float] | None = None) -> None:
        self._machine = machine
        self._start = time.perf_counter() - sum((earlier or {}).values())
        self._phases = {**dict.fromkeys(PHASES, 0.0), **(earlier or {})}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Charge what runs inside to a phase, the device synchronised before and after."""
        self._machine.synchronize()
        start = time.perf_counter()
        try:
            yield
        finally:
            self._machine.synchronize()
            self._phases[name] += time.perf_counter() - start

    def of(self, name: str) -> float:
        """Seconds charged to a phase so far."""
        return self._phases[name]

    def seconds(self) -> dict[str, float]:
        """Seconds by phase until now; their sum is the wall time since the clock was made, with what came earlier."""
        claimed = sum(self._phases.values()) - self._phases["other"]
        return {**self._phases, "other": time.perf_counter() - self._start - claimed}


class Tally:
    """What a run spends: seconds on its clock and FLOPs, by phase."""

    def __init__(self, clock: Clock, earlier: Mapping[str, float] | None = None) -> None:
        self.clock = clock
        self.flops: dict[str, float] = dict(earlier or {})

    def phase(self, name: str) -> AbstractContextManager[None]:
        """Charge the time of what runs inside to a phase."""
        return self.clock.phase(name)

    def charge(self, phase: str, flops: float) -> None:
        """Charge counted FLOPs to a phase."""
        self.flops[phase] = self.flops.get(phase, 0.0) + flops


def forward_flops(module: nn.Module, example: Tensor) -> float:
    """Counted forward FLOPs for one item of `example` `(N, …)`, in the modes the module is in."""

    def forward(twin: nn.Module, blanks: Tensor) -> None:
        with torch.no_grad():
            twin(blanks)

    return _counted(module, example, forward)


def step_flops(module: nn.Module, example: Tensor, prepare: Callable[[nn.Module], None] | None = None) -> float:
    """Counted forward and backward FLOPs for one item of `example`; what is frozen costs no gradient.

    Args:
        prepare: called with the copy of the module that is counted on, to set its modes, say.
    """

    def step(twin: nn.Module, blanks: Tensor) -> None:
        if prepare is not None:
            prepare(twin)
        twin(blanks).sum().backward()

    return _counted(module, example, step)


def _counted(module: nn.Module, example: Tensor, work: Callable[[nn.Module, Tensor], None]) -> float:
    """FLOPs of `work` on a copy of the module, for one item: without numbers, unless they cost less than to do without."""
    tries: list[tuple[Callable[[nn.Module], nn.Module], Tensor]]
    tries = [(blank, example.to("meta")), (copy.deepcopy, example)]
    if sum(p.numel() for p in module.parameters()) * example.numel() < NUMBERS_COST_LITTLE:
        tries.reverse()
    for copied, inputs in tries:
        try:
            with torch.random.fork_rng(), countable(), Counter() as counter:
                work(copied(module), inputs.clone())  # which layers may change in place
            break
        except Exception:  # without numbers a foreign module may raise anything; with them it means it
            if copied is tries[-1][0]:
                raise
    return float(counter.total) / len(example)


def energy_wh(machine: Machine, seconds: float) -> float:
    """Watt-hours, assumed from the device's kind: no meter is read yet."""
    watts = WATTS_PER_CPU_THREAD * machine.threads if machine.on_cpu else WATTS_PER_GPU
    return watts * seconds / 3600


def energy_basis(machine: Machine) -> str:
    """Where `energy_wh` comes from, in words."""
    if machine.on_cpu:
        return f"{WATTS_PER_CPU_THREAD:g} W a thread, {machine.threads} threads"
    return f"{WATTS_PER_GPU:g} W for the GPU"
