"""Compare runs: what each reached, its total cost, and its cost up to a target accuracy."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from tlnb.core.costs.bill import Charge, price_for, priced
from tlnb.core.costs.pretraining import Pretraining
from tlnb.core.costs.prices import Price
from tlnb.core.data.builtin import digits_pixels
from tlnb.core.data.dataset import DataSet
from tlnb.core.evaluation.comparison import Comparison, Row
from tlnb.core.evaluation.savings import (
    Group,
    Pair,
    at_price,
    break_evens,
    flops_until,
    mean,
    plus,
    ratio_to_target,
    saving,
    to_target,
    without_evaluation,
)
from tlnb.core.training.run import Run, wilson_interval

# Ratio of the largest class to the smallest from which balanced accuracy is shown too.
SKEW_RATIO = 2.0


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
    tunings = {name: at_price(charge, price) for name, charge in (tunings or {}).items()}
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
    ratio = ratio_to_target(pair, target, extra)
    in_flops, paid = (
        break_evens(pair, target, pretraining, price, extra)
        if pair and pretraining
        else (None, None)
    )
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
        ratio=ratio,
        saving=saving(pair[0][-1], pair[1][-1]) if pair else None,
        break_even=in_flops,
        break_even_paid=paid,
        skewed=max(counts) >= SKEW_RATIO * min(counts),
        notes=tuple(
            _notes(
                groups,
                ratio is not None and ratio.is_bound,
                [name for name in extra if name not in equal],
            )
        ),
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


def _last_pair(groups: Sequence[Group]) -> Pair | None:
    """The last baseline, after the run it belongs to."""
    of = {run.name: group for group in groups for run in group}
    for baseline in reversed(groups):
        if baseline[0].kind == "baseline" and (name := baseline[0].baseline_of) in of:
            return of[name or ""], baseline
    return None


def _row(group: Group, target: float | None, kind: str | None, tuned: Charge | None) -> Row:
    """One row per group: means over seeds; single-run figures come from the first run."""
    first = group[0]
    reached = [to_target(run, target) for run in group]
    spent = [without_evaluation(run) for run in group]
    whole, until = plus(mean(spent), tuned), plus(mean(reached), tuned)
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
        curve=tuple((flops_until(first, p.epochs), p.accuracy) for p in first.curve),
        basis=_bases(first),
        source_accuracy=first.source_accuracy,
        strategy=first.strategy,
    )


def _bases(run: Run) -> str:
    kinds = {figure: text.partition(":")[0] for figure, text in run.bases.items()}
    return (
        "measured"
        if set(kinds.values()) == {"measured"}
        else f"energy {kinds.get('energy_wh')}, money assumed"
    )


def _notes(groups: Sequence[Group], bound: bool, tuned: Sequence[str]) -> list[str]:
    notes = ["the baseline never reached the target: what was saved is a bound"] if bound else []
    if tuned:
        notes.append(
            f"the cost of tuning is included for {' and '.join(tuned)}: in work, time and money, "
            "and the uses until it pays; FLOPs saved cover training alone"
        )
    return [*notes, *_found_notes([group[0] for group in groups])]


def _found_notes(runs: Sequence[Run]) -> list[str]:
    """Which runs found what an earlier run had computed, and what is counted then."""
    found = [r.name for r in runs if any(n for p, n in r.found_flops.items() if p != "evaluating")]
    unknown = [r.name for r in runs if r.name not in found and r.cache and r.cache.reused]
    words = "found frozen layers' outputs that an earlier run had computed and paid for"
    counted = "work counts them all the same, as if each had run alone; seconds and money do not"
    notes = [f"{', '.join(found)} {words}: {counted}"] if found else []
    return notes + ([f"{', '.join(unknown)} {words}"] if unknown else [])


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
    own = (
        price is not None and not pretraining.on_gpu
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
