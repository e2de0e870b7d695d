"""Forecast a training: time the real loop on a small sample of the images, then scale.

FLOPs need no sample: each kind of work costs the same for every image, so counts are exact unless
a run ends early.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from tlnb.core.costs.extrapolation import Extrapolation, FixedCosts, as_in_whole_passes
from tlnb.core.costs.prices import Price, list_price
from tlnb.core.costs.rehearsal import Rehearsal, Rehearser
from tlnb.core.data.dataset import DataSet
from tlnb.core.models.anatomy import Anatomy
from tlnb.core.models.clocks import Clock, CostTracker
from tlnb.core.models.pretrained import PretrainedModel
from tlnb.core.planning.edit import Scopes
from tlnb.core.planning.options import TrainOptions
from tlnb.core.planning.plan import Plan
from tlnb.core.runtime.device import machine
from tlnb.core.runtime.malloc import large_blocks_kept
from tlnb.core.storage.activation_cache import Store
from tlnb.core.training.batches import without_single_images
from tlnb.core.training.checkpoint import at_risk
from tlnb.core.training.checkpoint_timing import Writes
from tlnb.core.training.context import TrainingContext, seeded
from tlnb.core.training.forgetting import SourceAccuracy, source_accuracy
from tlnb.core.training.freezing import hashes
from tlnb.core.training.proof import StartState
from tlnb.core.training.run import Forecast, Run
from tlnb.core.training.train import network_at_start, starts_pretrained, taught_by

LEAST_SECONDS = 1.0  # a forecast may always take this long
RUN_SHARE = 0.05  # or this share of the run's seconds, if longer
SOURCE_IMAGES = 128  # images of the pretraining task for timing its evaluation

Extrapolate = Callable[[Rehearsal], Extrapolation]


@large_blocks_kept()  # as while it trains
def forecast(
    model: PretrainedModel,
    anatomy: Anatomy,
    data: DataSet,
    plan: Plan,
    options: TrainOptions,
    *,
    name: str,
    scopes: Scopes | None = None,
    previous: Run | None = None,
    store: Store | None = None,
    price: Price | None = None,
    share: float = RUN_SHARE,
) -> tuple[Forecast, CostTracker]:
    """Forecast the cost of `train` with the same arguments; also return the forecast's cost.

    Only a copy of the network is changed, and test labels decide nothing.

    Args:
        share: of the run's seconds that the forecast may take, if that is more than a second.

    Raises:
        UsageError: a device or precision that this machine does not have.
    """
    host = machine(options.device, options.precision)
    costs = CostTracker(Clock(host))
    began = time.perf_counter()
    with seeded(options.seed, host):
        with costs.phase("preparing"):
            context = TrainingContext.prepare(
                network_at_start(model, plan, options, scopes, previous),
                store or Store(),
                name=name,
                model=model,
                anatomy=anatomy,
                data=data,
                plan=plan,
                options=options,
                machine=host,
                costs=costs,
                report=lambda _: None,
            )
            start, risk = StartState.of(context.module, plan), at_risk()
        context = replace(context, taught=taught_by(previous, data))
        rehearser, extrapolate = _begin(context, start, risk, previous)
        extrapolation = extrapolate(_rehearsed(rehearser, extrapolate, began, share))
    return _record(extrapolation, options, price, began), costs


def _begin(
    context: TrainingContext, start: StartState, risk: float, previous: Run | None
) -> tuple[Rehearser, Extrapolate]:
    """Choose the split point as the run would, and time its fixed costs."""
    context.set_modes()
    if context.options.optimizer == "adamw":
        batches = without_single_images(context, context.module, context.options, [])
        context = replace(context, options=batches)
    began = time.perf_counter()
    choice = context.source.choose(context.plan.trained, context.options)
    rehearser = Rehearser(
        context=context,
        start=start,
        warm=starts_pretrained(context.plan, previous),
        choice=choice,
        writes=Writes(context.options.epochs or 0),
    )
    hashes(context.module)  # the proof at the end takes the same time
    fixed = _fixed_costs(context, time.perf_counter() - began, previous)

    def extrapolate(rehearsal: Rehearsal) -> Extrapolation:
        return Extrapolation(
            context=context,
            options=context.options,
            rehearsal=rehearsal,
            fixed=fixed,
            at_risk=risk,
            cached_bytes=choice[0].bytes if choice[0] else 0,
        )

    return rehearser, extrapolate


def _fixed_costs(context: TrainingContext, other: float, previous: Run | None) -> FixedCosts:
    """The fixed costs; the evaluation on the pretraining task is timed in part."""
    plan, costs = context.plan, context.costs

    def evaluate(images: int) -> SourceAccuracy | None:
        return source_accuracy(
            context.model, plan, context.module, plan.trained, previous, at_most=images
        )

    evaluate(1)  # reads the images
    with costs.phase("evaluating", "source"):
        timed = evaluate(SOURCE_IMAGES)
    costs.charge("evaluating", timed.flops if timed else 0.0, "source")
    times = max(1.0, timed.pictures / SOURCE_IMAGES) if timed and timed.flops else 1.0
    spent = costs.parts["evaluating", "source"]
    return FixedCosts(
        preparing_seconds=costs.parts["preparing", ""].seconds,
        source_seconds=times * spent.seconds,
        source_flops=times * spent.flops,
        other_seconds=other,
    )


def _rehearsed(
    rehearser: Rehearser, extrapolate: Extrapolate, began: float, share: float
) -> Rehearsal:
    """A small rehearsal, then a larger one if there is time for it."""
    count = rehearser.first_count()
    first = rehearser.rehearse(count, rehearser.first_epochs())
    until = max(LEAST_SECONDS, share * sum(extrapolate(first).seconds().values()))
    left = 0.5 * (until - (time.perf_counter() - began))
    more = rehearser.next_count(count, first, left)
    # On a GPU the first rehearsal also loads kernels, so a second one always follows.
    if more <= count and rehearser.context.machine.on_cpu:
        return first
    second = rehearser.rehearse(more, first.enough_epochs)
    return as_in_whole_passes(rehearser.context, first, second)


def _record(
    extrapolation: Extrapolation, options: TrainOptions, price: Price | None, began: float
) -> Forecast:
    context, rehearsal = extrapolation.context, extrapolation.rehearsal
    host, clock = context.machine, context.costs.clock
    phases = extrapolation.seconds()
    seconds = sum(phases.values())
    watts = sum(clock.wh().values()) / sum(clock.seconds().values())
    own = price or list_price(host.device, host.name, host.threads)
    return Forecast(
        name=context.name,
        fingerprint=context.data.fingerprint,
        plan=context.plan,
        options=options,
        phases=phases,
        flops_by_phase=extrapolation.flops(),
        per_epoch=extrapolation.per_epoch(),
        wh=seconds * watts,
        money=own.of(seconds),
        currency=own.currency,
        peak_bytes=extrapolation.peak_bytes(),
        bases=_bases(context, rehearsal, own),
        sample=rehearsal.images,
        took=time.perf_counter() - began,
        per_look=extrapolation.per_look(),
        look_share=extrapolation.look_share(),
        steps=extrapolation.steps(),
    )


def _bases(context: TrainingContext, rehearsal: Rehearsal, price: Price) -> dict[str, str]:
    """Where each figure comes from."""
    held = "" if context.machine.on_cpu else ", but at least what the sample held"
    return {
        "seconds": f"assumed: {rehearsal.images} of {context.train_images} training images timed, "
        "the rest scaled",
        "flops": "measured: counted, times the number of images",
        "wh": "assumed: the power drawn during the forecast, for so many seconds "
        f"({context.costs.clock.meter.basis})",
        "money": f"{price.basis}, {price.per_hour:g} {price.currency} an hour",
        "peak_bytes": f"assumed: the total size of the tensors held at once{held}",
    }
