"""Prices, the bill, and runs side by side."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from tlnb.core.bundled import digits_pixels
from tlnb.core.data import DataSet
from tlnb.core.errors import UsageError
from tlnb.core.meter import PHASES
from tlnb.core.pretrained import Card
from tlnb.core.record import Run, watched, wilson_interval

FIGURES = ("seconds", "flops", "wh", "money")


@dataclass(frozen=True)
class Price:
    """What an hour of a device costs."""

    per_hour: float
    currency: str
    basis: str

    def __repr__(self) -> str:
        return f"Price {self.per_hour:g} {self.currency} an hour ({self.basis})"


# List prices for renting by the hour in a large public cloud, as we recall them from 2025, rounded: a two-core machine,
# and a machine with one small data-centre GPU. Assumed, and to be replaced by one's own with --price.
CPU_HOUR = Price(0.09, "usd", "assumed: a rented two-core machine")
GPU_HOUR = Price(0.60, "usd", "assumed: a rented machine with a small GPU")


def default_price(device: str) -> Price:
    """An assumed price for a device."""
    return CPU_HOUR if device == "cpu" else GPU_HOUR


def parse_price(text: str | float) -> Price:
    """`0.5`, `0.5usd`, `0.5usd/h`, `2eur/h` → a price an hour.

    Raises:
        UsageError: anything else.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([A-Za-z€£¥]*)\s*(?:/\s*h(?:our)?)?\s*", str(text))
    if not found:
        raise UsageError(f"--price {text} is no price: write --price 0.5usd/h")
    return Price(float(found[1]), found[2].lower() or "usd", "assumed: your figure")


@dataclass(frozen=True)
class Charge:
    """One line of the bill. `bases` says of each figure whether it was measured or assumed, and how."""

    phase: str
    seconds: float
    flops: float
    wh: float
    money: float
    bases: dict[str, tuple[str, str]] = field(default_factory=dict)
    run: str = ""

    @property
    def basis(self) -> str:
        """`assumed` if any of its figures is."""
        return "assumed" if any(kind == "assumed" for kind, _ in self.bases.values()) else "measured"

    def __repr__(self) -> str:
        return (
            f"Charge {self.phase}: {self.seconds:.2f} s, {self.flops / 1e9:.2f} GFLOP, {self.wh:.3f} Wh ({self.basis})"
        )


@dataclass(frozen=True)
class Bill:
    """Every charge of the session, oldest first."""

    charges: tuple[Charge, ...] = ()
    currency: str = "usd"

    @property
    def total(self) -> Charge:
        """The sum of all charges."""
        bases = {k: v for charge in self.charges for k, v in charge.bases.items()}
        sums = {figure: sum(getattr(c, figure) for c in self.charges) for figure in FIGURES}
        return Charge("total", **sums, bases=bases)

    def with_run(self, run: Run) -> Bill:
        """The bill with a run's phases added."""
        return replace(self, charges=(*self.charges, *charges_of(run)))

    def __repr__(self) -> str:
        total = self.total
        return f"Bill: {len(self.charges)} charges, {total.seconds:.1f} s, {total.flops / 1e9:.1f} GFLOP, {total.wh:.2f} Wh"


def priced(run: Run, price: Price | None = None) -> Run:
    """The run with its money: all its seconds at this price."""
    price = price or default_price(run.device)
    money = sum(run.seconds.values()) * price.per_hour / 3600
    return replace(
        run, money=money, bases={**run.bases, "money": f"{price.basis}, {price.per_hour:g} {price.currency} an hour"}
    )


def charges_of(run: Run) -> list[Charge]:
    """One charge for each phase that took time; energy and money go by the seconds."""
    whole = sum(run.seconds.values()) or 1.0
    bases = {key.removeprefix("energy_"): _basis(text) for key, text in run.bases.items()}
    return [
        Charge(phase, seconds, run.flops_by_phase.get(phase, 0.0), run.energy_wh * seconds / whole,
               run.money * seconds / whole, bases, run.name)
        for phase in PHASES if (seconds := run.seconds.get(phase, 0.0)) > 0
    ]  # fmt: skip


def _basis(text: str) -> tuple[str, str]:
    kind, _, how = text.partition(": ")
    return kind, how


# ── runs side by side ─────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Row:
    """A run, or something that belongs beside runs. None means that the figure does not exist there."""

    name: str
    kind: str  # run, baseline, equal budget, pixels, pretraining
    what: str
    accuracy: float | None = None
    interval: tuple[float, float] | None = None
    watched: float | None = None  # best monitor (else val) accuracy, which ranks the rows
    seconds: float | None = None  # preparing, caching, warm-up, training
    seconds_to_target: float | None = None
    evaluating: float | None = None  # seconds of drawing curves and testing
    flops: float | None = None  # without evaluation
    wh: float | None = None
    money: float | None = None
    steps: int | None = None
    trained_params: int | None = None
    phases: dict[str, float] = field(default_factory=dict)
    curve: tuple[tuple[float, float], ...] = ()  # (seconds, watched accuracy) by epoch
    basis: str = "measured"
    source_accuracy: tuple[float, float] | None = None  # on the network's own source, with its old head: before, after


@dataclass(frozen=True)
class Saving:
    """FLOPs that a run needed fewer than its baseline, by cause. They sum to the difference."""

    fewer_steps: float
    freezing: float
    caching: float


@dataclass(frozen=True)
class Comparison:
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
    pays_off_after: float | None = None  # uses until the pretraining has paid for itself, in seconds
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        if self.speedup is None:
            return f"Comparison on {self.data}: {len(self.rows)} rows"
        bound = "at least " if self.speedup_is_bound else ""
        by = {row.name: row for row in self.rows}
        return (
            f"Comparison on {self.data}: {self.run} {by[self.run or ''].accuracy:.1%}, {self.baseline} "
            f"{by[self.baseline or ''].accuracy:.1%} test accuracy; {bound}{self.speedup:.1f}x sooner at {self.target:.1%}"
        )


def compare(
    runs: Sequence[Run], data: DataSet, card: Card | None, *, equal_budget: Sequence[Run] = (), target: float | None = None,
    price: Price | None = None, pair: tuple[Run, Run] | None = None,
) -> Comparison:  # fmt: skip
    """Lay runs side by side.

    Args:
        runs: on this data, oldest first.
        card: of the pretrained model, for the row of what someone else paid.
        equal_budget: baselines with just as many steps as their runs.
        target: accuracy on monitor (else val) to measure the time to; default: the highest that all runs reached.
        pair: (run, its baseline) for the speed-up; default: the last baseline and the run it belongs to.
    """
    price = price or default_price(runs[-1].device)
    every = [priced(run, price) for run in (*runs, *equal_budget)]
    target = _common_target(runs) if target is None else target
    rows = [_row(run, target, "equal budget" if run.name in {e.name for e in equal_budget} else None) for run in every]
    if data.name == "digits":
        rows.append(pixels_row(data))
    pair = pair or _last_pair(runs)
    speedup, bound, saving = _speedup(pair, target)
    notes = []
    pays = None
    if pair and card is not None and card.training:
        rows.append(_pretraining_row(card, price))
        pays = _break_even(pair, target, card)
    if bound:
        notes.append("one of the two never reached the target: the speed-up is a bound")
    split = "monitor" if "monitor" in data.splits else "val"
    return Comparison(
        data.name, tuple(rows), target, split, price, pair[0].name if pair else None, pair[1].name if pair else None,
        speedup, bound, saving, pays, tuple(notes),
    )  # fmt: skip


def _common_target(runs: Iterable[Run]) -> float | None:
    best = [_best_watched(run) for run in runs]
    return None if any(b is None for b in best) else min(b for b in best if b is not None)


def _best_watched(run: Run) -> float | None:
    return max((w for e in run.epochs if (w := watched(e)) is not None), default=None)


def _last_pair(runs: Sequence[Run]) -> tuple[Run, Run] | None:
    by_name = {run.name: run for run in runs}
    for baseline in reversed(runs):
        if baseline.baseline_of in by_name:
            return by_name[baseline.baseline_of], baseline
    return None


def _speedup(pair: tuple[Run, Run] | None, target: float | None) -> tuple[float | None, bool, Saving | None]:
    if pair is None:
        return None, False, None
    run, baseline = pair
    saving = Saving(
        baseline.work.unfrozen_flops - run.work.unfrozen_flops,
        run.work.unfrozen_flops - run.work.uncached_flops,
        run.work.uncached_flops - run.training_flops + (baseline.training_flops - baseline.work.unfrozen_flops),
    )
    if target is None:
        return None, False, saving
    mine, theirs = run.seconds_to(target), baseline.seconds_to(target)
    if mine is None:
        return None, False, saving
    return (theirs or baseline.training_seconds) / mine, theirs is None, saving


def _row(run: Run, target: float | None, kind: str | None) -> Row:
    spent = sum(run.seconds.get(p, 0.0) for p in ("preparing", "caching", "warmup"))
    curve = []
    for epoch in run.epochs:
        spent += epoch.seconds
        if (seen := watched(epoch)) is not None:
            curve.append((spent, seen))
    share = run.training_seconds / (sum(run.seconds.values()) or 1.0)
    return Row(
        run.name, kind or ("baseline" if run.baseline_of else "run"), f"{run.plan.model}, {run.strategy}",
        run.accuracy, run.interval, _best_watched(run), run.training_seconds,
        None if target is None else run.seconds_to(target), run.seconds.get("evaluating", 0.0), run.training_flops,
        run.energy_wh * share, run.money * share, run.work.steps, run.plan.trainable_params, dict(run.seconds), tuple(curve),
        "measured; energy and money assumed", run.source_accuracy,
    )  # fmt: skip


def pixels_row(data: DataSet) -> Row:
    """A support-vector machine on the raw 8×8 pixels of the same training images: no network at all."""
    from sklearn.svm import SVC

    start = time.perf_counter()
    machine = SVC(C=10).fit(digits_pixels(data.images["train"]).numpy(), data.labels["train"].numpy())
    seconds = time.perf_counter() - start
    right = int((machine.predict(digits_pixels(data.images["test"]).numpy()) == data.labels["test"].numpy()).sum())
    total = len(data.labels["test"])
    what = "a support-vector machine on raw pixels"
    return Row("pixels", "pixels", what, right / total, wilson_interval(right, total), seconds=seconds)


def _pretraining_row(card: Card, price: Price) -> Row:
    seconds = float(card.training["seconds"])
    return Row(
        "pretraining", "pretraining", f"{card.name}, paid by someone else, once", seconds=seconds,
        flops=card.training.get("flops"), wh=card.training.get("wh"), money=seconds * price.per_hour / 3600,
        steps=card.training.get("steps"), basis=card.training.get("basis", "assumed"),
    )  # fmt: skip


def _break_even(pair: tuple[Run, Run], target: float | None, card: Card) -> float | None:
    """Uses until the seconds that each saves add up to the seconds that the pretraining took."""
    run, baseline = pair
    mine = run.seconds_to(target) if target is not None else None
    theirs = baseline.seconds_to(target) if target is not None else None
    saved = (theirs or baseline.training_seconds) - (mine or run.training_seconds)
    return float(card.training["seconds"]) / saved if saved > 0 else None
