"""The baseline from scratch.

It has the run's network, data and loop, a random start, and its own settings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tlnb.core.data.dataset import DataSet
from tlnb.core.models.anatomy import Anatomy
from tlnb.core.planning.options import TrainOptions
from tlnb.core.planning.plan import Plan, plan_strategy
from tlnb.core.planning.recipes import can_refit, recipe
from tlnb.core.training.batch_sizes import batches_of, none_alone
from tlnb.core.training.run import Run

MORE_STEPS = 2  # a random start may take up to this multiple of the run's steps


def matched(
    run: Run, anatomy: Anatomy, data: DataSet, options: TrainOptions, tuned_plan: Plan | None = None
) -> tuple[Plan, TrainOptions]:
    """Return the plan and the options of a run's baseline.

    Args:
        anatomy: of its network without adapters.
        options: the user's; gaps are filled from tuning, else from the recipe for scratch.
        tuned_plan: a plan for the same network that holds the tuned options of the baseline;
            default: the run's.
    """
    tuned_plan = tuned_plan or run.plan
    plan = replace(
        plan_strategy(anatomy, "scratch", run.plan.lasting_edits), tuned=tuned_plan.baseline_tuned
    )
    if options.refit is None:  # the same treatment
        options = replace(options, refit=bool(run.options.refit) and can_refit(data))
    filled = options.filled(tuned_plan.baseline_options).filled(recipe(plan, data))
    if options.epochs is None:
        statistics = any(
            "BatchNorm" in layer.kind for layer in anatomy.layers
        )  # all of them are trained
        passes = [data.splits["train"]]
        if filled.refit:
            passes.append(data.splits["train"] + data.splits["val"])
        filled = with_steps(filled, MORE_STEPS * run.work.steps, passes, statistics)
    return plan, filled


def with_steps(
    options: TrainOptions, steps: int, passes: Sequence[int], statistics: bool
) -> TrainOptions:
    """As many epochs as fit into `steps`, at least one, at most the options' own.

    Args:
        passes: the images that each pass of the training learns from; a refit is a second one.
        statistics: whether the trained layers use batch statistics.
    """
    fitted = [(none_alone(options, images, statistics), images) for images in passes]
    return _within(options, steps, sum(batches_of(each, images) for each, images in fitted))


def with_equal_steps(baseline: Run, steps: int) -> TrainOptions:
    """The options of a baseline with as many epochs as fit into `steps`, at least one."""
    return _within(baseline.options, steps, baseline.work.steps // max(1, len(baseline.epochs)))


def _within(options: TrainOptions, steps: int, an_epoch: int) -> TrainOptions:
    fit = max(1, steps // max(1, an_epoch))
    return options if (options.epochs or 0) <= fit else replace(options, epochs=fit)
