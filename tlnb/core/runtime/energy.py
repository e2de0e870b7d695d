"""Energy: read from a meter where the machine has one, else estimated from busy time.

NVIDIA GPUs count their own energy (NVML's total energy counter, Volta and newer); Intel's and AMD's
processors count that of the whole package (RAPL, where the system allows reading it). Everything
else is watts times busy time. Every figure states its basis: measured or assumed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch

from tlnb.core.runtime.device import Machine

WATTS_PER_CPU_THREAD = 8.0  # assumed: a server core under load, with its share of the package
WATTS_PER_GPU = 250.0  # assumed: a data-centre GPU under load
# upper bound of a package's power, which tells how soon its counter may have wrapped around
MAX_PACKAGE_WATTS = 1_000.0
POWERCAP = Path("/sys/class/powercap")


class Meter(Protocol):
    """Counts energy from its creation."""

    shared: bool  # whether it counts the energy of all processes on the machine

    def joules(self) -> float:
        """Joules since the meter was created; never decreases."""

    @property
    def basis(self) -> str:
        """How the figure came about: `measured: …` or `assumed: …`."""


@dataclass
class Assumed:
    """Assumed watts for each busy CPU thread, or for a GPU throughout."""

    machine: Machine
    busy: Callable[[], float] = time.process_time  # seconds that all threads together were busy
    wall: Callable[[], float] = time.perf_counter
    shared: bool = False

    def __post_init__(self) -> None:
        self._start = self._seconds()

    def _seconds(self) -> float:
        return self.busy() if self.machine.on_cpu else self.wall()

    def joules(self) -> float:
        watts = WATTS_PER_CPU_THREAD if self.machine.on_cpu else WATTS_PER_GPU
        return watts * (self._seconds() - self._start)

    @property
    def basis(self) -> str:
        if self.machine.on_cpu:
            return f"assumed: {WATTS_PER_CPU_THREAD:g} W for each busy thread, their busy time measured"
        return f"assumed: {WATTS_PER_GPU:g} W for the GPU all the time"


@dataclass
class Nvml:
    """The GPU's own counter, read through NVIDIA's library."""

    library: Any
    handle: Any
    shared: bool = False

    def __post_init__(self) -> None:
        self._start = self._millijoules()

    def _millijoules(self) -> int:
        return int(self.library.nvmlDeviceGetTotalEnergyConsumption(self.handle))

    def joules(self) -> float:
        return (self._millijoules() - self._start) / 1e3

    @property
    def basis(self) -> str:
        return "measured: the GPU's own counter (NVML), the rest of the computer not included"


@dataclass
class Rapl:
    """The counters of the processor's packages.

    They wrap around. Once one may have wrapped unnoticed, the assumed meter takes over.
    """

    packages: list[Path]
    fallback: Assumed
    clock: Callable[[], float] = time.monotonic
    shared: bool = True
    _total: float = field(default=0.0, init=False)
    _lost: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        self._ranges = [_read_int(p / "max_energy_range_uj") for p in self.packages]
        self._last, self._at = self._read(), self.clock()

    def _read(self) -> list[int]:
        return [_read_int(p / "energy_uj") for p in self.packages]

    def joules(self) -> float:
        try:
            now = self._read()
        except OSError:
            self._lost = True
        else:
            moment = self.clock()
            self._lost |= (moment - self._at) * MAX_PACKAGE_WATTS * 1e6 > min(self._ranges)
            for new, old, size in zip(now, self._last, self._ranges, strict=True):
                self._total += (new - old if new >= old else new - old + size) / 1e6
            self._last, self._at = now, moment
        return self.fallback.joules() if self._lost else self._total

    @property
    def basis(self) -> str:
        if self._lost:
            return self.fallback.basis
        return "measured: the processor's own counter (RAPL), other programs on it included"


def _read_int(path: Path) -> int:
    return int(path.read_text())


def meter_of(machine: Machine, powercap: Path = POWERCAP) -> Meter:
    """The best meter that can be read on this machine."""
    fallback = Assumed(machine)
    meter = _nvml(machine) if machine.device.startswith("cuda") else None
    if meter is None and machine.on_cpu:
        meter = _rapl(powercap, fallback)
    return meter or fallback


def _nvml(machine: Machine) -> Meter | None:
    """NVML's meter of this GPU, found by UUID: NVML has its own order of GPUs."""
    try:
        import pynvml

        pynvml.nvmlInit()
        uuid = str(torch.cuda.get_device_properties(machine.device).uuid)
        name = uuid if uuid.startswith("GPU-") else f"GPU-{uuid}"
        return Nvml(pynvml, pynvml.nvmlDeviceGetHandleByUUID(name))
    except Exception:  # no library, no driver, an older or a virtual GPU: each raises its own type
        return None


def _rapl(powercap: Path, fallback: Assumed) -> Meter | None:
    """RAPL's meter, if it can be read.

    Packages are `intel-rapl:0`, `intel-rapl:1` (on AMD's processors too); their parts have two
    colons.
    """
    try:
        packages = sorted(p for p in powercap.glob("intel-rapl:*") if p.name.count(":") == 1)
        return Rapl(packages, fallback) if packages else None
    except (OSError, ValueError):  # on most systems only root may read it
        return None
