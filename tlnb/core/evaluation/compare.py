"""Compare runs: what each reached, its total cost, and its cost up to a target accuracy."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from tlnb.core.costs.bill import FIGURES, Charge, price_for, priced
from tlnb.core.costs.pretraining import Pretraining
from tlnb.core.costs.prices import Price
from tlnb.core.data.builtin import digits_pixels
from tlnb.core.data.dataset import DataSet
from tlnb.core.evaluation.comparison import BreakEven, Comparison, Row, Saving, Spent
from tlnb.core.training.run import Run, wilson_interval

# Ratio of the largest class to the smallest from which balanced accuracy is shown too.
SKEW_RATIO = 2.0

Group = Sequence[Run]  # runs that differ only in their seeds, oldest first


class Compared(Protocol):
    """What a comparison needs to know about the data."""

    @property
    def name(self) -> str: ...
    @property
    def counts(self) -> Mapping[str, int]: ...  # labels in use per class
    @property
    def splits(self) -> Mapping[str, int]: ...  # images per split


def compare(
    runs: Sequence[Run],
    data: Compared,
    pretraining: Pretraining | None = None,
    *,
    equal_budget: Sequence[Run] = (),
    target: float | None = None,
    price: Price | None = None,
    tunings: Mapping[str, Charge] | None = None,
    tuning_in: bool = False,
) -> Comparison:
    """Compare runs.

    Args:
        runs: on this data, oldest first.
        pretraining: what someone else paid for the model, for a row of its own.
        equal_budget: baselines with exactly as many steps as their runs.
        target: accuracy on monitor (else val) to measure the time to; default: the highest that all
            runs reached.
        price: the user's own; default: the list price of what each ran on.
        tunings: the cost of tuning, by the name of the study.
        tuning_in: add the cost of a study to the runs that use its result, instead of to a row of
            its own; the speed-up and the break-even then include it too.
    """
    tunings = {name: _at(charge, price) for name, charge in (tunings or {}).items()}
    every = [priced(run, price) for run in (*runs, *equal_budget)]
    equal = {run.name for run in equal_budget}
    groups = grouped(every)
    target = _common_target(runs) if target is None else target
    extra = {
        g[0].name: tunings[g[0].plan.tuned]
        for g in groups
        if tuning_in and g[0].plan.tuned in tunings
    }
    rows = [
        _row(g, target, "equal budget" if g[0].name in equal else None, extra.get(g[0].name))
        for g in groups
    ]
    if not tuning_in:
        rows += [_tuning_row(name, charge) for name, charge in tunings.items()]
    if isinstance(data, DataSet) and data.name == "digits":
        rows.append(pixels_row(data))
    pair = _last_pair(groups)
    speedup, bound = _speedup(pair, target, extra)
    if pair and pretraining is not None:
        rows.append(_pretraining_row(pretraining, price))
    counts = data.counts.values()
    return Comparison(
        data=data.name,
        rows=tuple(rows),
        target=target,
        watched_split="monitor" if "monitor" in data.splits else "val",
        price=price_for(every[-1], price),
        run=pair[0][0].name if pair else None,
        baseline=pair[1][0].name if pair else None,
        speedup=speedup,
        speedup_is_bound=bound,
        saving=_saving(pair[0][-1], pair[1][-1]) if pair else None,
        break_even=_break_even(pair, target, pretraining, price, extra)
        if pair and pretraining
        else None,
        skewed=max(counts) >= SKEW_RATIO * min(counts),
        notes=tuple(_notes(groups, bound, [name for name in extra if name not in equal])),
    )


def grouped(runs: Iterable[Run]) -> list[list[Run]]:
    """Group runs that differ only in their seeds, in the order of their first runs."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.group or run.name, []).append(run)
    return list(groups.values())


def _common_target(runs: Iterable[Run]) -> float | None:
    best = [run.watched for run in runs]
    return None if any(b is None for b in best) else min(b for b in best if b is not None)


def _last_pair(groups: Sequence[Group]) -> tuple[Group, Group] | None:
    """The last baseline, after the run it belongs to."""
    of = {run.name: group for group in groups for run in group}
    for baseline in reversed(groups):
        if baseline[0].kind == "baseline" and (name := baseline[0].baseline_of) in of:
            return of[name or ""], baseline
    return None


def _speedup(
    pair: tuple[Group, Group] | None, target: float | None, extra: Mapping[str, Charge]
) -> tuple[float | None, bool]:
    """How many times sooner the run reached the target, including the tuning in `extra`.

    If a baseline missed the target, the result is a lower bound, and the flag is True.
    """
    if pair is None or target is None:
        return None, False
    runs, baselines = pair
    seconds = [run.seconds_to(target) for run in runs]
    if any(each is None for each in seconds):
        return None, False
    reached = [(run.seconds_to(target), run.training_seconds) for run in baselines]
    tuning = [extra[group[0].name].seconds if group[0].name in extra else 0.0 for group in pair]
    baseline_took = tuning[1] + statistics.fmean(
        whole if until is None else until for until, whole in reached
    )
    took = tuning[0] + statistics.fmean(each for each in seconds if each is not None)
    return baseline_took / took, any(until is None for until, _ in reached)


def _saving(run: Run, baseline: Run) -> Saving:
    return Saving(
        fewer_steps=baseline.work.unfrozen_flops - run.work.unfrozen_flops,
        freezing=run.work.unfrozen_flops - run.work.uncached_flops,
        caching=run.work.uncached_flops
        - run.training_flops
        + (baseline.training_flops - baseline.work.unfrozen_flops),
    )


def to_target(run: Run, target: float | None) -> Spent:
    """The cost of a run up to the first look that found the target on monitor (else val).

    Evaluation is excluded.
    """
    before, reached = (None, None) if target is None else run.reached(target)
    if reached is None:
        return Spent()
    apart = before is not None and reached.epochs - before.epochs > 1
    share = reached.epochs / len(run.epochs)

    def until(by_phase: Mapping[str, float]) -> float:
        before = sum(by_phase.get(phase, 0.0) for phase in ("preparing", "caching", "warmup"))
        return before + share * by_phase.get("training", 0.0)

    whole = sum(run.seconds.values()) or 1.0
    return Spent(
        seconds=reached.seconds,
        flops=until(run.flops_by_phase),
        wh=until(run.wh_by_phase),
        money=run.money * reached.seconds / whole,
        since=before.seconds if before and apart else None,
    )


def _row(group: Group, target: float | None, kind: str | None, tuned: Charge | None) -> Row:
    """One row per group: means over seeds; single-run figures come from the first run."""
    first = group[0]
    reached = [to_target(run, target) for run in group]
    spent = [_without_evaluation(run) for run in group]
    whole, until = _plus(_mean(spent), tuned), _plus(_mean(reached), tuned)
    accuracies = [run.accuracy for run in group]
    several = len(group) > 1
    best = [run.watched for run in group if run.watched is not None]
    with_tuning = " + tuning" if tuned else ""
    return Row(
        name=first.name,
        kind=kind or ("baseline" if first.baseline_of else "run"),
        what=f"{first.plan.model}, {first.strategy}{with_tuning}",
        accuracy=statistics.fmean(accuracies),
        interval=None if several else first.interval,
        spread=statistics.stdev(accuracies) if several else None,
        seeds=len(group),
        balanced_accuracy=statistics.fmean(run.balanced_accuracy for run in group),
        watched=statistics.fmean(best) if best else None,
        seconds=whole.seconds,
        to_target=until,
        evaluating=statistics.fmean(run.seconds.get("evaluating", 0.0) for run in group),
        flops=whole.flops,
        wh=whole.wh,
        money=whole.money,
        steps=first.work.steps,
        trained_params=first.plan.trainable_params,
        inference_flops=first.inference_flops or None,
        phases=dict(first.seconds),
        curve=tuple((p.seconds, p.accuracy) for p in first.curve),
        basis=_bases(first),
        source_accuracy=first.source_accuracy,
        strategy=first.strategy,
        found_cached=bool(first.cache and first.cache.reused),
    )


def _without_evaluation(run: Run) -> Spent:
    phases = ("preparing", "caching", "warmup", "training")
    whole = sum(run.seconds.values()) or 1.0
    wh = sum(run.wh_by_phase.get(phase, 0.0) for phase in phases)
    return Spent(
        seconds=run.training_seconds,
        flops=run.training_flops,
        wh=wh,
        money=run.money * run.training_seconds / whole,
    )


def _mean(spent: Sequence[Spent]) -> Spent:
    if not all(s.known for s in spent):
        return Spent()
    means = {name: statistics.fmean(getattr(s, name) or 0.0 for s in spent) for name in FIGURES}
    since = [s.since if s.since is not None else s.seconds or 0.0 for s in spent]
    between = statistics.fmean(since) if any(s.since is not None for s in spent) else None
    return Spent(**means, since=between)


def _plus(one: Spent, tuned: Charge | None) -> Spent:
    """Add the cost of the tuning that preceded a run."""
    if not one.known or tuned is None:
        return one
    sums = {name: (getattr(one, name) or 0.0) + getattr(tuned, name) for name in FIGURES}
    since = None if one.since is None else one.since + tuned.seconds
    return Spent(**sums, since=since)


def _at(charge: Charge, price: Price | None) -> Charge:
    return charge if price is None else replace(charge, money=price.of(charge.seconds))


def _bases(run: Run) -> str:
    kinds = {figure: text.partition(":")[0] for figure, text in run.bases.items()}
    return (
        "measured"
        if set(kinds.values()) == {"measured"}
        else f"energy {kinds.get('energy_wh')}, money assumed"
    )


def _notes(groups: Sequence[Group], bound: bool, tuned: Sequence[str]) -> list[str]:
    notes = ["one of the two never reached the target: the speed-up is a bound"] if bound else []
    if tuned:
        notes.append(
            f"the cost of tuning is included for {' and '.join(tuned)}: in the totals, the "
            "speed-up, and the uses until it pays; FLOPs saved cover training alone"
        )
    reusing = [group[0].name for group in groups if group[0].cache and group[0].cache.reused]
    if reusing:
        notes.append(
            f"{', '.join(reusing)} reused frozen layers' outputs computed by an earlier run, which "
            "paid for them"
        )
    return notes


# ── rows that are not runs ──────────────────────────────────────────────────────────────────────


def pixels_row(data: DataSet) -> Row:
    """A support-vector machine on the raw 8×8 pixels of the same training images.

    It shows what works without any network.
    """
    from sklearn.svm import SVC

    start = time.perf_counter()
    machine = SVC(C=10).fit(
        digits_pixels(data.images["train"]).numpy(), data.labels["train"].numpy()
    )
    seconds = time.perf_counter() - start
    right = int(
        (
            machine.predict(digits_pixels(data.images["test"]).numpy())
            == data.labels["test"].numpy()
        ).sum()
    )
    total = len(data.labels["test"])
    what = "a support-vector machine on raw pixels"
    return Row(
        name="pixels",
        kind="pixels",
        what=what,
        accuracy=right / total,
        interval=wilson_interval(right, total),
        seconds=seconds,
    )


def _tuning_row(name: str, charge: Charge) -> Row:
    what = "finding hyperparameters"
    return Row(
        name=name,
        kind="tuning",
        what=what,
        seconds=charge.seconds,
        flops=charge.flops,
        wh=charge.wh,
        money=charge.money,
        basis=charge.basis,
    )


def _pretraining_row(pretraining: Pretraining, price: Price | None) -> Row:
    own = price is not None and not pretraining.hardware.startswith(
        "one "
    )  # the user's price applies to the user's machine
    money = price.of(pretraining.seconds) if price and own else pretraining.money
    return Row(
        name="pretraining",
        kind="pretraining",
        what=f"{pretraining.model}, by someone else, {pretraining.hardware}",
        seconds=pretraining.seconds,
        flops=pretraining.flops,
        wh=pretraining.wh,
        money=money,
        steps=pretraining.steps,
        basis=pretraining.basis,
    )


def _break_even(
    pair: tuple[Group, Group],
    target: float | None,
    pretraining: Pretraining,
    price: Price | None,
    extra: Mapping[str, Charge],
) -> BreakEven | None:
    """Break-even in seconds if both ran on a CPU, else in money.

    Seconds of unlike machines do not compare.
    """

    def use(group: Group) -> Spent:
        reached = [to_target(run, target) for run in group]
        spent = _mean(
            reached
            if all(s.known for s in reached)
            else [_without_evaluation(run) for run in group]
        )
        return _plus(spent, extra.get(group[0].name))

    run, baseline = (
        use([priced(r, price) for r in pair[0]]),
        use([priced(r, price) for r in pair[1]]),
    )
    alike = pair[0][0].device == "cpu" and not pretraining.hardware.startswith("one ")
    if alike:
        return BreakEven(
            unit="seconds",
            once=pretraining.seconds,
            run=run.seconds or 0.0,
            baseline=baseline.seconds or 0.0,
        )
    currency = price.currency if price else "usd"
    return (
        None
        if currency != "usd"
        else BreakEven(
            unit="usd", once=pretraining.money, run=run.money or 0.0, baseline=baseline.money or 0.0
        )
    )
