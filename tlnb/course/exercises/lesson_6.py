"""Lesson 6: the bill."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import Any

from torch import nn

from tlnb.core.costs.pretraining import pretraining_of
from tlnb.core.costs.prices import Price
from tlnb.core.evaluation.compare import compare
from tlnb.core.evaluation.comparison import BreakEven
from tlnb.core.training.run import Run
from tlnb.course.checks import Step, Steps, a_run, exercise
from tlnb.course.exercises.shared import finished, trained_on, unless_missing
from tlnb.session import Session

FIVE_EACH, TWO_EACH = trained_on("digits", 5), trained_on("digits", 2)
TOLERANCE = 0.02  # relative difference within which two figures count as equal


@exercise("6.1", "The whole network, within a budget")
def within_a_budget(tl: Session) -> Steps:
    yield from a_run(
        tl,
        "full",
        FIVE_EACH,
        like="it was trained on five images per digit",
        line="%tl_data digits --per-class 5, %tl_load glyphnet, %tl_strategy full, "
        "%tl_train --budget 2s",
    )
    runs = finished(tl, FIVE_EACH, "full")
    given = [r for r in runs if r.event("budget")]
    by_hand = len(runs[-1].epochs) != 40
    yield Step(
        "it had a budget",
        given,
        f"run {runs[-1].name!r} had {'a number of epochs set by hand' if by_hand else 'no budget'}",
        f"%tl_train --budget TIME{' instead of --epochs' if by_hand else ''}; "
        "%tl_forecast says how long all epochs take",
    )
    short = [r for r in given if _cut_short(r)]
    yield Step(
        "the budget was too small for all epochs",
        short,
        f"all {len(given[-1].epochs)} epochs fit into it",
        "a smaller budget: fewer seconds than %tl_forecast gives for all epochs",
        "tl.train(budget=f'{tl.forecast().seconds / 2:.2f}s')",
    )
    run = short[-1]
    kept = run.event("budget")
    forecast = run.forecast
    assert forecast is not None and kept is not None
    longer = [r for r in runs if len(r.epochs) > len(run.epochs)]
    beside = ""
    if longer:
        beside = f" All {len(longer[-1].epochs)} epochs reached {longer[-1].accuracy:.1%}."
    fitted = f"{kept.facts['epochs']} of {kept.facts['wanted']} epochs"
    return (
        f"{fitted}: forecast {forecast.seconds:.1f} s, took {forecast.measured:.1f} s "
        f"({forecast.error:.0%} off), {run.accuracy:.1%} of the test images.{beside}"
    )


def _cut_short(run: Run) -> bool:
    """Whether a budget reduced the number of epochs."""
    kept = run.event("budget")
    return kept is not None and kept.facts["epochs"] != kept.facts["wanted"]


@exercise("6.2", "Both sides tuned, at your own price")
def own_bill(tl: Session, names: Mapping[str, Any]) -> Steps:
    line = "%tl_data digits --per-class 2, %tl_load glyphnet, %tl_tune --trials 2 --epochs 3, %tl_train"
    like = "it was trained on two images per digit"
    last = yield from a_run(tl, where=TWO_EACH, like=like, line=line)
    price = yield from _both_tuned(tl, last)
    counted, apart = _uses(tl, tuning_in=True), _uses(tl, tuning_in=False)
    yield Step(
        "using the pretrained network saves something",
        counted is not None and counted.uses,
        "with tuning counted in, it was no less work than starting from scratch",
        "use the same number of trials, and of epochs per trial, on both sides",
    )
    assert counted is not None and counted.uses
    answer = names.get("answer")
    instead = unless_missing("answer", answer, f"it is {answer!r}")
    if _is(answer, apart.uses if apart else None):
        instead = "that is the number without tuning"
    yield Step(
        "the variable answer says after how many uses the pretraining has paid for itself, "
        "tuning counted in",
        _is(answer, counted.uses),
        instead,
        "%tl_compare --tuning in shows it below the table",
        "tl.compare(tuning='in').pays_off_after is that number",
    )
    total, tuning = tl.bill.total, tl.bill.kinds["tuning"]
    without = f"{apart.uses:,.0f} without it" if apart and apart.uses else "without it never"
    return (
        f"After {counted.uses:,.0f} uses, counted in FLOPs with tuning; {without}. "
        f"Tuning is {tuning.flops / total.flops:.0%} of your session's work, and "
        f"{tuning.seconds / total.seconds:.0%} of its {total.seconds:.0f} s, "
        f"which cost {total.money:.4f} {price.currency} at {price.per_hour:g} an hour."
    )


def _both_tuned(tl: Session, last: Run) -> Generator[Step, None, Price]:
    """Require a tuned run with a tuned baseline, and a price of one's own."""
    price = tl.bill.price
    yield Step(
        "the bill uses your own price",
        price is not None,
        "it uses the list price",
        "%tl_cost --price 0.2eur/h sets it from now on; %tl_compare --price is for one comparison",
    )
    assert price is not None
    yield Step(
        "the run uses settings that tuning found",
        last.plan.tuned,
        f"run {last.name!r} was trained without tuning",
        "%tl_tune --trials 2 --epochs 3 puts the best values into the plan: train after that",
    )
    beside = [r for r in tl.runs if r.baseline_of == last.name and r.status == "finished"]
    yield Step("it has a baseline", beside, f"run {last.name!r} has none", "%tl_train --scratch")
    yield Step(
        "the baseline is tuned too",
        beside[-1].plan.tuned,
        f"{beside[-1].name!r} uses the recipe's settings, which is not a fair comparison",
        "run %tl_tune --scratch before %tl_train --scratch",
    )
    return price


def _uses(tl: Session, tuning_in: bool) -> BreakEven | None:
    """The break-even that `%tl_compare` shows, without the equal-steps baselines."""
    assert tl.dataset is not None and tl.model is not None
    runs = [run for run in tl.runs if run.fingerprint == tl.dataset.fingerprint]
    tunings = tl.bill.of("tuning", {run.plan.tuned for run in runs})
    unpaid = pretraining_of(tl.model.card)
    return compare(
        runs, tl.dataset, unpaid, price=tl.bill.price, tunings=tunings, tuning_in=tuning_in
    ).break_even


def _is(answer: object, figure: float | None) -> bool:
    if figure is None or not isinstance(answer, int | float):
        return False
    return abs(answer - figure) <= max(0.5, TOLERANCE * figure)


@exercise("6.3", "In PyTorch: count the FLOPs of a training step")
def count_them(tl: Session, names: Mapping[str, Any]) -> Steps:
    run = yield from a_run(tl, line="%tl_data digits --per-class 2, %tl_load glyphnet, %tl_train")
    truth, counted = run.work.full_step, names.get("counted")
    yield Step(
        "your figure is in the variable counted",
        isinstance(counted, int | float) and counted > 0,
        "there is none of that name" if counted is None else f"it is {counted!r}",
        "counted = counter.get_total_flops() / how many images the step saw",
    )
    assert isinstance(counted, int | float)
    share, network = counted / truth, names.get("network")
    parts = network.parameters() if isinstance(network, nn.Module) else ()
    frozen = any(not parameter.requires_grad for parameter in parts)
    likely, hint = _likely(share, run.work.plan_step / truth, frozen)
    yield Step(
        "it is the cost of training everything, forward and backward, for one image",
        abs(share - 1) <= TOLERANCE,
        f"it is {share:.2f} times as much as tlnb counted: {likely}",
        hint,
        "with FlopCounterMode(display=False) as counter: the forward pass and loss.backward(); "
        "then divide by len(inputs)",
    )
    return (
        f"{counted / 1e6:.1f} MFLOP by your count, {truth / 1e6:.1f} by tlnb's, "
        "for one image in one step with everything trained. "
        f"Run {run.name!r}, as planned and without a cache, takes {run.work.plan_step / 1e6:.1f}."
    )


def _likely(share: float, planned: float, frozen: bool) -> tuple[str, str]:
    """Guess why a figure is `share` times the right one: the likely cause, and a hint."""
    free = "network.requires_grad_(True): nothing is frozen when everything trains"
    if 0.3 < share < 0.37 and frozen:
        return "a third is a step with all but the output layer frozen", free
    if 0.3 < share < 0.37:
        cause = "a third is the forward pass alone, or a step with all but the output layer frozen"
        return cause, "loss.backward() belongs inside the counter too, and nothing may be frozen"
    if abs(share - planned) <= TOLERANCE:
        return "as much as a step of your run, which has frozen layers; unfreeze them all", free
    if abs(share - 0.5) <= TOLERANCE:
        hint = "get_total_flops() counts a multiplication and its addition as two, as tlnb does"
        return (
            "half of it counts a multiplication and its addition as one",
            f"{hint}: do not halve it",
        )
    if share > 1.5 and abs(share - round(share)) <= TOLERANCE * share:
        hint = "counted = counter.get_total_flops() / len(inputs)"
        return f"divide by the {round(share)} images in the batch", hint
    hint = "use glyphnet.load('glyphnet') with an output layer for ten classes"
    return "is it the same network, trained in full?", hint
