"""Measuring: FLOPs, synchronised clocks, energy."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import Tensor, nn

from tlnb.core.device import Machine

PHASES = ("preparing", "caching", "warmup", "training", "evaluating", "other")
WATTS_PER_CPU_THREAD = 8.0  # assumed: a server core under load, with its share of the package
WATTS_PER_GPU = 250.0  # assumed: a data-centre GPU under load


class Clock:
    """Wall time by phase. Phases do not nest; what no phase claims is `other`, so that all sum to the whole."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._start = time.perf_counter()
        self._phases = dict.fromkeys(PHASES, 0.0)

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
        """Seconds by phase until now; their sum is the wall time since the clock was made."""
        claimed = sum(self._phases.values()) - self._phases["other"]
        return {**self._phases, "other": time.perf_counter() - self._start - claimed}


class Tally:
    """What a run spends: seconds on its clock and FLOPs, by phase."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.flops: dict[str, float] = {}

    def phase(self, name: str) -> AbstractContextManager[None]:
        """Charge the time of what runs inside to a phase."""
        return self.clock.phase(name)

    def charge(self, phase: str, flops: float) -> None:
        """Charge counted FLOPs to a phase."""
        self.flops[phase] = self.flops.get(phase, 0.0) + flops


def forward_flops(module: nn.Module, example: Tensor) -> float:
    """Counted forward FLOPs for one item of `example` `(N, …)`, in the modes the module is in."""
    from torch.utils.flop_counter import FlopCounterMode

    with torch.random.fork_rng(), torch.no_grad(), FlopCounterMode(display=False) as counter:
        copy.deepcopy(module)(example)
    return float(counter.get_total_flops()) / len(example)


def step_flops(module: nn.Module, example: Tensor) -> float:
    """Counted forward and backward FLOPs for one item of `example`; what is frozen costs no gradient."""
    from torch.utils.flop_counter import FlopCounterMode

    twin = copy.deepcopy(module)  # a step changes running statistics: count on a copy
    with torch.random.fork_rng(), FlopCounterMode(display=False) as counter:
        twin(example).sum().backward()
    return float(counter.get_total_flops()) / len(example)


def energy_wh(machine: Machine, seconds: float) -> float:
    """Watt-hours, assumed from the device's kind: no meter is read yet."""
    watts = WATTS_PER_CPU_THREAD * machine.threads if machine.on_cpu else WATTS_PER_GPU
    return watts * seconds / 3600


def energy_basis(machine: Machine) -> str:
    """Where `energy_wh` comes from, in words."""
    if machine.on_cpu:
        return f"{WATTS_PER_CPU_THREAD:g} W a thread, {machine.threads} threads"
    return f"{WATTS_PER_GPU:g} W for the GPU"
