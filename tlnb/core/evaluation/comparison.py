"""The record of a comparison: runs side by side, total costs and costs up to the target."""

from __future__ import annotations

from dataclasses import dataclass, field

from tlnb.core.costs.prices import Price
from tlnb.core.runtime.errors import OneLine


@dataclass(frozen=True, kw_only=True)
class Spent:
    """The cost of something. None: unknown, or the target was never reached."""

    seconds: float | None = None
    flops: float | None = None
    wh: float | None = None
    money: float | None = None
    since: float | None = None  # seconds at the look before, if the target lies between two looks

    @property
    def known(self) -> bool:
        return self.seconds is not None


@dataclass(frozen=True, kw_only=True)
class Row:
    """Runs that differ only in their seeds, or another entry. None: no such figure."""

    name: str
    kind: str  # run, baseline, equal budget, tuning, pixels, pretraining
    what: str
    accuracy: float | None = None  # test accuracy; the mean over several seeds
    interval: tuple[float, float] | None = None  # 95%; for a single run
    spread: float | None = None  # standard deviation of accuracy over seeds
    seeds: int = 1
    balanced_accuracy: float | None = None
    watched: float | None = None  # best monitor (else val) accuracy, which ranks the rows
    seconds: float | None = (
        None  # preparing, caching, head first, training; plus tuning if included
    )
    to_target: Spent = Spent()
    evaluating: float | None = None  # seconds for curves and testing
    flops: float | None = None  # without evaluation
    wh: float | None = None
    money: float | None = None
    steps: int | None = None
    trained_params: int | None = None
    inference_flops: float | None = None  # per image
    phases: dict[str, float] = field(default_factory=dict)
    curve: tuple[tuple[float, float], ...] = ()  # (seconds, watched accuracy) at each look
    basis: str = "measured"
    source_accuracy: tuple[float, float] | None = (
        None  # on its pretraining task, with its old head: before, after
    )
    strategy: str = ""
    found_cached: bool = (
        False  # frozen layers' outputs were computed, and paid for, by an earlier run
    )

    @property
    def seconds_to_target(self) -> float | None:
        """Seconds until the target was reached; None if it was not."""
        return self.to_target.seconds


@dataclass(frozen=True, kw_only=True)
class Saving:
    """FLOPs that a run saved over its baseline, by cause. They sum to the difference."""

    fewer_steps: float
    freezing: float
    caching: float


@dataclass(frozen=True, kw_only=True)
class BreakEven:
    """Pretraining was paid once; every use of it costs less than training from scratch."""

    unit: str  # seconds, or the currency
    once: float
    run: float  # cost of a use, with pretraining already paid
    baseline: float  # cost of a use, from scratch

    @property
    def uses(self) -> float | None:
        """Number of uses until pretraining has paid for itself; None if a use saves nothing."""
        saved = self.baseline - self.run
        return self.once / saved if saved > 0 else None


@dataclass(frozen=True, kw_only=True)
class Comparison(OneLine):
    """A comparison of runs, up to the target that all of them reached."""

    data: str
    rows: tuple[Row, ...]
    target: float | None
    watched_split: str  # the split on which the target is read: monitor or val
    price: Price
    run: str | None = None  # the pair that speedup compares
    baseline: str | None = None
    speedup: float | None = None
    speedup_is_bound: bool = False
    saving: Saving | None = None
    break_even: BreakEven | None = None
    skewed: bool = False  # class sizes differ widely
    notes: tuple[str, ...] = ()

    @property
    def pays_off_after(self) -> float | None:
        """Number of uses until the pretraining has paid for itself."""
        return self.break_even.uses if self.break_even else None

    def __repr__(self) -> str:
        if self.speedup is None:
            return f"Comparison on {self.data}: {len(self.rows)} rows"
        bound = "at least " if self.speedup_is_bound else ""
        by = {row.name: row for row in self.rows}
        return (
            f"Comparison on {self.data}: {self.run} {by[self.run or ''].accuracy:.1%}, "
            f"{self.baseline} {by[self.baseline or ''].accuracy:.1%} test accuracy; "
            f"{bound}{self.speedup:.1f}x sooner at {self.target:.1%}"
        )
