"""Where a run is, for whoever shows it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Progress:
    """One report of a run: its phase, the epochs done in it, and the figures so far."""

    run: str
    phase: str
    epoch: int = 0
    epochs: int = 0
    loss: float | None = None
    accuracy: float | None = None


Report = Callable[[Progress], None]
