"""Measure cost by phase: synchronised clocks, energy meters and FLOPs."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from tlnb.core.runtime.device import Machine
from tlnb.core.runtime.energy import Meter, meter_of

PHASES = ("preparing", "caching", "warmup", "training", "evaluating", "other")
SECONDS_BASIS = "measured: synchronised wall clock"
FLOPS_BASIS = "measured: counted by torch on the modules that ran"


class Clock:
    """Wall time and energy by phase.

    Phases do not nest; unclaimed time is `other`, so all phases sum to the whole.
    """

    def __init__(
        self,
        machine: Machine,
        earlier: Mapping[str, float] | None = None,
        earlier_wh: Mapping[str, float] | None = None,
        meter: Meter | None = None,
    ) -> None:
        self._machine, self.meter = machine, meter or meter_of(machine)
        self._start = time.perf_counter() - sum((earlier or {}).values())
        self._phases = {**dict.fromkeys(PHASES, 0.0), **(earlier or {})}
        self._wh = {**dict.fromkeys(PHASES, 0.0), **(earlier_wh or {})}
        self._earlier_wh = sum((earlier_wh or {}).values())

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Charge the enclosed work to a phase, synchronising the device before and after."""
        self._machine.synchronize()
        start, joules = time.perf_counter(), self.meter.joules()
        try:
            yield
        finally:
            self._machine.synchronize()
            self._phases[name] += time.perf_counter() - start
            self._wh[name] += (self.meter.joules() - joules) / 3600

    def of(self, name: str) -> float:
        """Seconds charged to a phase so far."""
        return self._phases[name]

    def seconds(self) -> dict[str, float]:
        """Seconds by phase so far, including earlier ones; they sum to the wall time."""
        return _with_rest(self._phases, time.perf_counter() - self._start)

    def wh(self) -> dict[str, float]:
        """Watt-hours by phase so far; `meter.basis` says where they come from."""
        return _with_rest(self._wh, self._earlier_wh + self.meter.joules() / 3600)


def _with_rest(claimed: Mapping[str, float], whole: float) -> dict[str, float]:
    """Costs by phase, with the unclaimed rest as `other`."""
    rest = whole - sum(claimed.values()) + claimed["other"]
    return {**claimed, "other": max(0.0, rest)}


@dataclass
class PartCost:
    """The cost so far of one kind of work within a phase."""

    seconds: float = 0.0
    flops: float = 0.0


Found = tuple[str, float]  # a value's phase and FLOPs


class CostTracker:
    """A run's seconds and FLOPs by phase and by kind of work within.

    Forecasts are based on them.
    """

    def __init__(
        self,
        clock: Clock,
        earlier: Mapping[str, float] | None = None,
        found: Mapping[str, Found] | None = None,
        known: Iterable[str] = (),
    ) -> None:
        """Costs so far: those of a run that is resumed, else none.

        Args:
            earlier: FLOPs by phase.
            found: as `self.found`; None where a checkpoint of an older version does not say.
            known: as `self.known`.
        """
        self.clock = clock
        self.flops: dict[str, float] = dict(earlier or {})
        self.parts: defaultdict[tuple[str, str], PartCost] = defaultdict(PartCost)
        # values that an earlier run had paid for, by key; None where it is not known which are
        # the run's own
        self.found: dict[str, Found] | None = None
        if found is not None or not earlier:
            self.found = dict(found or {})
        self.known = set(known)  # keys of values computed or found before

    @contextmanager
    def phase(self, name: str, part: str = "") -> Iterator[None]:
        """Charge the time of the enclosed work to a phase."""
        start = time.perf_counter()
        try:
            with self.clock.phase(name):
                yield
        finally:
            self.parts[name, part].seconds += time.perf_counter() - start

    def charge(self, phase: str, flops: float, part: str = "") -> None:
        """Charge counted FLOPs to a phase."""
        self.flops[phase] = self.flops.get(phase, 0.0) + flops
        self.parts[phase, part].flops += flops

    def charge_value(self, key: str, phase: str, flops: float, part: str = "") -> None:
        """Charge a value that was computed here; finding it again costs nothing."""
        self.known.add(key)
        if self.found is not None:
            self.found.pop(key, None)  # before an interrupt; a later kernel had to compute it
        self.charge(phase, flops, part)

    def find(self, key: str, phase: str, flops: float) -> None:
        """Note the FLOPs of a value that an earlier run had computed: they are not charged."""
        if self.found is not None and key not in self.known:
            self.known.add(key)
            self.found[key] = phase, flops

    def found_flops(self) -> dict[str, float]:
        """FLOPs by phase of the values that an earlier run had paid for."""
        sums: dict[str, float] = {}
        for phase, flops in (self.found or {}).values():
            sums[phase] = sums.get(phase, 0.0) + flops
        return sums
