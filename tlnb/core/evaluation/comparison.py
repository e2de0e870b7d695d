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
    flops: float | None = None  # without evaluation; what it found in a cache counts too
    wh: float | None = None
    money: float | None = None
    steps: int | None = None
    trained_params: int | None = None
    inference_flops: float | None = None  # per image
    phases: dict[str, float] = field(default_factory=dict)
    curve: tuple[tuple[float, float], ...] = ()  # (FLOPs, watched accuracy) at each look
    basis: str = "measured"
    source_accuracy: tuple[float, float] | None = (
        None  # on its pretraining task, with its old head: before, after
    )
    strategy: str = ""

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
class Ratio:
    """The baseline's cost to the target divided by its run's."""

    work: float  # FLOPs
    seconds: float
    is_bound: bool = False  # the baseline never got there: at least so much


@dataclass(frozen=True, kw_only=True)
class BreakEven:
    """Pretraining was paid once; every use of it costs less than training from scratch."""

    unit: str  # FLOPs, seconds, or the currency
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
    run: str | None = None  # the pair that `ratio` compares
    baseline: str | None = None
    ratio: Ratio | None = None  # None: no pair, or the run missed the target
    saving: Saving | None = None
    break_even: BreakEven | None = None  # in FLOPs
    break_even_paid: BreakEven | None = None  # in seconds, or in money where machines differ
    skewed: bool = False  # class sizes differ widely
    notes: tuple[str, ...] = ()

    @property
    def less_work(self) -> float | None:
        """How many times fewer FLOPs the run took to the target than its baseline."""
        return self.ratio.work if self.ratio else None

    @property
    def speedup(self) -> float | None:
        """How many times sooner, in seconds, the run reached the target than its baseline."""
        return self.ratio.seconds if self.ratio else None

    @property
    def speedup_is_bound(self) -> bool:
        """Whether the baseline missed the target: `less_work` and `speedup` are at least so."""
        return self.ratio is not None and self.ratio.is_bound

    @property
    def pays_off_after(self) -> float | None:
        """Number of uses until the pretraining has paid for itself, counted in FLOPs."""
        return self.break_even.uses if self.break_even else None

    def __repr__(self) -> str:
        if self.ratio is None:
            return f"Comparison on {self.data}: {len(self.rows)} rows"
        bound = "at least " if self.speedup_is_bound else ""
        by = {row.name: row for row in self.rows}
        return (
            f"Comparison on {self.data}: {self.run} {by[self.run or ''].accuracy:.1%}, "
            f"{self.baseline} {by[self.baseline or ''].accuracy:.1%} test accuracy; {bound}"
            f"{self.ratio.work:.1f}x less work to {self.target:.1%}, {self.ratio.seconds:.1f}x sooner"
        )
