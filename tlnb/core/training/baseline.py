"""The baseline from scratch: the same network, data and loop as a run, a random start, and settings of its own."""

from __future__ import annotations

import math
from dataclasses import replace

from tlnb.core.data.dataset import DataSet
from tlnb.core.models.anatomy import Anatomy
from tlnb.core.planning.options import TrainOptions
from tlnb.core.planning.plan import Plan, plan_strategy
from tlnb.core.planning.recipes import recipe
from tlnb.core.training.optimizers import steps_of
from tlnb.core.training.run import Run

MORE_STEPS = 2  # a random start may take up to so many times the run's steps


def matched(
    run: Run, anatomy: Anatomy, data: DataSet, options: TrainOptions, found: Plan | None = None
) -> tuple[Plan, TrainOptions]:
    """The plan and the options of a run's baseline.

    Args:
        options: what was asked for; what it leaves open is what tuning found, else the recipe's for scratch.
        found: a plan for the same network that holds what tuning found for the baseline; default: the run's.
    """
    found = found or run.plan
    plan = replace(plan_strategy(anatomy, "scratch", run.plan.edits), tuned=found.baseline_tuned)
    filled = options.filled(found.baseline_options).filled(recipe(plan, data))
    if options.epochs is None:
        filled = with_steps(filled, MORE_STEPS * run.work.steps, len(data.labels["train"]))
    return plan, filled


def with_steps(options: TrainOptions, steps: int, images: int) -> TrainOptions:
    """As many epochs as fit into so many steps, at least one, at most the options' own."""
    a_pass = math.ceil(images / (options.batch_size or 1))
    if steps_of(options, images) <= steps:
        return options
    return replace(options, epochs=max(1, steps // a_pass))
