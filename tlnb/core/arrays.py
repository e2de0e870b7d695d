"""Data that come as arrays."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from tlnb.core.errors import DataError, UsageError, one_line
from tlnb.core.listing import in_order
from tlnb.core.request import DataRequest
from tlnb.core.splits import Parts, check_classes, divide


def from_arrays(source: object, labels: object, request: DataRequest, groups: object = None) -> Parts:
    """Images in any of the usual shapes, and class numbers or names `(N,)`; maybe groups `(N,)`.

    Raises:
        DataError: another shape or range; fewer than two classes; another number of labels than of images.
        UsageError: no labels.
    """
    if labels is None:
        raise UsageError("arrays need labels: tl.data(images, labels)")
    images = as_images(source)
    names = [one_line(str(y)) for y in np.asarray(labels).ravel()]
    if len(names) != len(images):
        raise DataError(f"{len(images)} images but {len(names)} labels: give one label an image")
    classes = in_order(set(names))
    where = {name: i for i, name in enumerate(classes)}
    targets = torch.tensor([where[n] for n in names])
    check_classes("the arrays", classes)
    numbers = None if groups is None else _group_numbers(groups, len(names))
    parts = divide("arrays", classes, images, targets, request, np.arange(len(names)), {}, groups=numbers)
    return parts if numbers is None else replace(parts, groups=len(np.unique(numbers)))


def _group_numbers(groups: object, count: int) -> np.ndarray:
    names = np.asarray(groups).ravel()
    if len(names) != count:
        raise DataError(f"{count} images but {len(names)} groups: give one group an image")
    return np.unique(names, return_inverse=True)[1].astype(np.int64)


def as_images(source: object) -> Tensor:
    """Images in any of the usual shapes as `(N, 3, H, W)` uint8; a view where they are grey."""
    images = torch.as_tensor(np.asarray(source))
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4:
        raise DataError(f"images have shape {tuple(images.shape)}: give (N, H, W), (N, H, W, 3) or (N, 3, H, W)")
    if images.shape[1] not in (1, 3):
        images = images.movedim(-1, 1)
    if images.shape[1] not in (1, 3):
        raise DataError(f"images have {images.shape[1]} channels: give grey (1) or RGB (3)")
    if images.is_floating_point():
        if float(images.min()) < 0 or float(images.max()) > 1:
            raise DataError("float images must lie in 0..1: divide by 255, or give uint8")
        images = images.mul(255).round()
    return images.byte().expand(-1, 3, -1, -1)  # splitting copies
