"""The record of a comparison: runs side by side, what each took in all, and until it was good enough."""

from __future__ import annotations

from dataclasses import dataclass, field

from tlnb.core.costs.prices import Price
from tlnb.core.runtime.errors import OneLine


@dataclass(frozen=True)
class Spent:
    """What something took. None: not known, or never reached."""

    seconds: float | None = None
    flops: float | None = None
    wh: float | None = None
    money: float | None = None
    since: float | None = (
        None  # seconds at the look before, where it lies between two looks; None: it does not
    )

    @property
    def known(self) -> bool:
        return self.seconds is not None


@dataclass(frozen=True)
class Row:
    """Runs that differ in nothing but their seeds, or something that belongs beside runs. None: no such figure there."""

    name: str
    kind: str  # run, baseline, equal budget, tuning, pixels, pretraining
    what: str
    accuracy: float | None = None  # test; of several seeds the mean
    interval: tuple[float, float] | None = None  # 95%; of one run
    spread: float | None = None  # standard deviation of accuracy over seeds
    seeds: int = 1
    balanced_accuracy: float | None = None
    watched: float | None = None  # best monitor (else val) accuracy, which ranks the rows
    seconds: float | None = (
        None  # preparing, caching, warm-up, training; with tuning where that is counted in
    )
    to_target: Spent = Spent()
    evaluating: float | None = None  # seconds of drawing curves and testing
    flops: float | None = None  # without evaluation
    wh: float | None = None
    money: float | None = None
    steps: int | None = None
    trained_params: int | None = None
    inference_flops: float | None = None  # for one image
    phases: dict[str, float] = field(default_factory=dict)
    curve: tuple[tuple[float, float], ...] = ()  # (seconds, watched accuracy) at each look
    basis: str = "measured"
    source_accuracy: tuple[float, float] | None = (
        None  # on the network's own source, with its old head: before, after
    )
    strategy: str = ""
    found_cached: bool = False  # what is frozen was computed, and paid for, by an earlier run

    @property
    def seconds_to_target(self) -> float | None:
        """Seconds until the target was reached; None where it was not."""
        return self.to_target.seconds


@dataclass(frozen=True)
class Saving:
    """FLOPs that a run needed fewer than its baseline, by cause. They sum to the difference."""

    fewer_steps: float
    freezing: float
    caching: float


@dataclass(frozen=True)
class BreakEven:
    """Pretraining was paid once; every use of it costs less than starting from scratch."""

    unit: str  # seconds, or the currency
    once: float
    run: float  # a use, with pretraining paid
    baseline: float  # a use, from scratch

    @property
    def uses(self) -> float | None:
        """Uses until it has paid for itself; None where a use saves nothing."""
        saved = self.baseline - self.run
        return self.once / saved if saved > 0 else None


@dataclass(frozen=True)
class Comparison(OneLine):
    """Runs side by side, up to the target that all of them reached."""

    data: str
    rows: tuple[Row, ...]
    target: float | None
    watched_split: str  # where the target is read: monitor or val
    price: Price
    run: str | None = None  # the pair that speedup compares
    baseline: str | None = None
    speedup: float | None = None
    speedup_is_bound: bool = False
    saving: Saving | None = None
    break_even: BreakEven | None = None
    skewed: bool = False  # classes are of very different sizes
    notes: tuple[str, ...] = ()

    @property
    def pays_off_after(self) -> float | None:
        """Uses until the pretraining has paid for itself."""
        return self.break_even.uses if self.break_even else None

    def __repr__(self) -> str:
        if self.speedup is None:
            return f"Comparison on {self.data}: {len(self.rows)} rows"
        bound = "at least " if self.speedup_is_bound else ""
        by = {row.name: row for row in self.rows}
        return (
            f"Comparison on {self.data}: {self.run} {by[self.run or ''].accuracy:.1%}, {self.baseline} "
            f"{by[self.baseline or ''].accuracy:.1%} test accuracy; {bound}{self.speedup:.1f}x sooner at {self.target:.1%}"
        )
