"""The record of a run's second pass, on all labels in use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tlnb.core.runtime.errors import OneLine


@dataclass(frozen=True, kw_only=True)
class Refit(OneLine):
    """A second pass; its costs, by phase, are among the run's."""

    images: int  # that it learned from
    epochs: int
    seconds: dict[str, float]
    flops: dict[str, float]
    wh: dict[str, float]

    def __repr__(self) -> str:
        return f"Refit on {self.images:,} images, {self.epochs} epochs"


def difference(whole: Mapping[str, float], part: Mapping[str, float]) -> dict[str, float]:
    """Costs by phase without a part of them."""
    return {phase: cost - part.get(phase, 0.0) for phase, cost in whole.items()}
