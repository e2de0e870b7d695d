"""How many images a step sees: as many as were asked for, but no image alone where batch statistics are taken."""

from __future__ import annotations

import math
from dataclasses import replace

from tlnb.core.planning.options import TrainOptions
from tlnb.core.runtime.errors import UsageError


def none_alone(options: TrainOptions, images: int, statistics: bool) -> TrainOptions:
    """The options with batches of two images or more, where one alone would have no batch statistics.

    Batches are of nearly equal size, so that of an odd number of images and batches of two one is left alone: those become
    batches of three.

    Args:
        options: filled in.
        images: training images.
        statistics: whether what learns takes batch statistics.

    Raises:
        UsageError: batches of one image were asked for.
    """
    size = options.batch_size or 1
    if images // math.ceil(images / size) > 1 or not statistics:
        return options
    if size == 1:
        raise UsageError(
            "--batch-size 1 leaves BatchNorm one image, which has no statistics: use --batch-size 2 or more, "
            "or %tl_freeze the BatchNorm layers"
        )
    return replace(options, batch_size=size + 1)


def batches_of(options: TrainOptions, images: int) -> int:
    """Optimiser steps of an epoch that filled-in options mean for so many training images."""
    return math.ceil(images / (options.batch_size or 1))
