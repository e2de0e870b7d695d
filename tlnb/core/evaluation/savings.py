"""What a run saved over its baseline: work and time to the target, uses until pretraining pays.

Work is FLOPs. It comes first, because it is counted: seconds and money depend on what else the
machine does, and unlike machines do not compare.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace

from tlnb.core.costs.bill import FIGURES, Charge, priced
from tlnb.core.costs.pretraining import Pretraining
from tlnb.core.costs.prices import Price
from tlnb.core.evaluation.comparison import BreakEven, Ratio, Saving, Spent
from tlnb.core.training.refit_record import difference
from tlnb.core.training.run import Run

BEFORE_TRAINING = ("preparing", "caching", "warmup")

Group = Sequence[Run]  # runs that differ only in their seeds, oldest first
Pair = tuple[Group, Group]  # runs, and their baselines
Extra = Mapping[str, Charge]  # the tuning to add, by the name of a group's first run


def flops_until(run: Run, epochs: int) -> float:
    """FLOPs up to the end of an epoch, without evaluation, had the run found no cache."""
    flops = _first_pass(run, run.flops_alone, "flops")
    before = sum(flops.get(phase, 0.0) for phase in BEFORE_TRAINING)
    return before + epochs / len(run.epochs) * flops.get("training", 0.0)


def _first_pass(run: Run, costs: Mapping[str, float], figure: str) -> dict[str, float]:
    """Costs by phase without the second pass, which comes after any target."""
    return difference(costs, getattr(run.refit, figure) if run.refit else {})


def to_target(run: Run, target: float | None) -> Spent:
    """The cost of a run up to the first look that found the target on monitor (else val).

    Evaluation is excluded.
    """
    before, reached = (None, None) if target is None else run.reached(target)
    if reached is None:
        return Spent()
    apart = before is not None and reached.epochs - before.epochs > 1
    wh = _first_pass(run, run.wh_by_phase, "wh")
    share = reached.epochs / len(run.epochs)
    return Spent(
        seconds=reached.seconds,
        flops=flops_until(run, reached.epochs),
        wh=sum(wh.get(p, 0.0) for p in BEFORE_TRAINING) + share * wh.get("training", 0.0),
        money=run.money * reached.seconds / (sum(run.seconds.values()) or 1.0),
        since=before.seconds if before and apart else None,
    )


def without_evaluation(run: Run) -> Spent:
    """The whole cost of a run but for curves and testing."""
    whole = sum(run.seconds.values()) or 1.0
    return Spent(
        seconds=run.training_seconds,
        flops=run.work_alone,
        wh=sum(run.wh_by_phase.get(phase, 0.0) for phase in (*BEFORE_TRAINING, "training")),
        money=run.money * run.training_seconds / whole,
    )


def mean(spent: Sequence[Spent]) -> Spent:
    """The mean over seeds; unknown if one is."""
    if not all(s.known for s in spent):
        return Spent()
    means = {name: statistics.fmean(getattr(s, name) or 0.0 for s in spent) for name in FIGURES}
    since = [s.since if s.since is not None else s.seconds or 0.0 for s in spent]
    between = statistics.fmean(since) if any(s.since is not None for s in spent) else None
    return Spent(**means, since=between)


def plus(one: Spent, tuned: Charge | None) -> Spent:
    """Add the cost of the tuning that preceded a run."""
    if not one.known or tuned is None:
        return one
    sums = {name: (getattr(one, name) or 0.0) + getattr(tuned, name) for name in FIGURES}
    return Spent(**sums, since=None if one.since is None else one.since + tuned.seconds)


def ratio_to_target(pair: Pair | None, target: float | None, extra: Extra) -> Ratio | None:
    """How many times less work, and time, the run took to the target, tuning in `extra` included.

    If a baseline missed the target, its whole cost counts: a lower bound. None if a run missed it.
    """
    if pair is None or target is None:
        return None
    run = plus(mean([to_target(each, target) for each in pair[0]]), _tuning(pair[0], extra))
    reached = [to_target(each, target) for each in pair[1]]
    costs = [s if s.known else without_evaluation(r) for s, r in zip(reached, pair[1], strict=True)]
    baseline = plus(mean(costs), _tuning(pair[1], extra))
    if not run.seconds or not run.flops:
        return None
    return Ratio(
        work=(baseline.flops or 0.0) / run.flops,
        seconds=(baseline.seconds or 0.0) / run.seconds,
        is_bound=not all(s.known for s in reached),
    )


def saving(run: Run, baseline: Run) -> Saving:
    """The FLOPs that a run saved over its baseline, by cause."""
    alone = run.work_alone
    return Saving(
        fewer_steps=baseline.work.unfrozen_flops - run.work.unfrozen_flops,
        freezing=run.work.unfrozen_flops - run.work.uncached_flops,
        caching=run.work.uncached_flops
        - alone
        + (baseline.work_alone - baseline.work.unfrozen_flops),
    )


def break_evens(
    pair: Pair,
    target: float | None,
    pretraining: Pretraining,
    price: Price | None,
    extra: Extra,
) -> tuple[BreakEven | None, BreakEven | None]:
    """Uses until pretraining has paid for itself: in FLOPs, and in seconds or money.

    Seconds if both ran on a CPU, else money; None if the figures are unknown or do not compare.
    """
    groups = [[priced(run, price) for run in group] for group in pair]
    run, baseline = (_use(group, target, extra) for group in groups)
    in_flops = _break_even("FLOPs", pretraining.flops, run.flops, baseline.flops)
    if pair[0][0].device == "cpu" and not pretraining.on_gpu:
        paid = _break_even("seconds", pretraining.seconds, run.seconds, baseline.seconds)
    elif price is not None and price.currency != "usd":
        paid = None
    else:
        paid = _break_even("usd", pretraining.money, run.money, baseline.money)
    return in_flops if pretraining.flops else None, paid


def _break_even(unit: str, once: float, run: float | None, baseline: float | None) -> BreakEven:
    return BreakEven(unit=unit, once=once, run=run or 0.0, baseline=baseline or 0.0)


def _use(group: Group, target: float | None, extra: Extra) -> Spent:
    """The mean cost of a use: up to the target if all reached it, else all of it."""
    reached = [to_target(run, target) for run in group]
    spent = reached if all(s.known for s in reached) else [without_evaluation(r) for r in group]
    return plus(mean(spent), _tuning(group, extra))


def _tuning(group: Group, extra: Extra) -> Charge | None:
    return extra.get(group[0].name)


def at_price(charge: Charge, price: Price | None) -> Charge:
    """A charge at the user's own price."""
    return charge if price is None else replace(charge, money=price.of(charge.seconds))
