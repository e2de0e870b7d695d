"""Batched augmentation on the training device."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

TURN, ZOOM, SHIFT, SHEAR = math.radians(10), 0.1, 0.08, 0.1
CONTRAST = 0.2
NUMBERS = {"none": 0, "light": 6, "photo": 9}  # random numbers drawn per image


def augment(images: Tensor, kind: str, generator: torch.Generator) -> Tensor:
    """Augment uint8 `(N, 3, E, E)` to floats in 0..255, each image its own way.

    `none` changes nothing. `light` rotates by up to 10°, scales by 10%, shears, and shifts by 8%.
    `photo` also mirrors half of the images and varies contrast and brightness: right for photos,
    wrong for letters.
    """
    return changed(images, kind, draw(len(images), kind, generator))


def draw(count: int, kind: str, generator: torch.Generator) -> Tensor:
    """Draw the random numbers for `count` images: `(K, count)` in 0..1, one column per image.

    They are drawn for a whole batch at once, so an image's augmentation does not depend on how many
    processes share the batch.
    """
    rows = [torch.rand(count, generator=generator) for _ in range(NUMBERS[kind])]
    return torch.stack(rows) if rows else torch.empty(0, count)


def changed(images: Tensor, kind: str, numbers: Tensor) -> Tensor:
    """Augment with the numbers `(K, N)` that `draw` gave for these images."""
    floats = images.float()
    if kind == "none":
        return floats
    floats = _warp(floats, numbers, mirror=kind == "photo")
    return _tone(floats, *numbers[-2:]) if kind == "photo" else floats


def _spread(numbers: Tensor, limit: float) -> Tensor:
    return (numbers * 2 - 1) * limit


def _warp(floats: Tensor, numbers: Tensor, mirror: bool) -> Tensor:
    n = len(floats)
    angle, shear = _spread(numbers[0], TURN), _spread(numbers[1], SHEAR)
    zoom_x, zoom_y = 1 + _spread(numbers[2], ZOOM), 1 + _spread(numbers[3], ZOOM)
    if mirror:
        zoom_x = torch.where(numbers[4] < 0.5, -zoom_x, zoom_x)
    right, down = numbers[5:7] if mirror else numbers[4:6]
    rows = [
        angle.cos() * zoom_x,
        shear - angle.sin(),
        _spread(right, 2 * SHIFT),
        angle.sin(),
        angle.cos() * zoom_y,
        _spread(down, 2 * SHIFT),
    ]
    matrix = torch.stack(rows, 1).view(n, 2, 3).to(floats.device)
    grid = F.affine_grid(matrix, list(floats.shape), align_corners=False)
    return F.grid_sample(floats, grid, padding_mode="border", align_corners=False)


def _tone(floats: Tensor, for_contrast: Tensor, for_brightness: Tensor) -> Tensor:
    contrast = (1 + _spread(for_contrast, CONTRAST)).view(-1, 1, 1, 1).to(floats.device)
    brightness = (_spread(for_brightness, CONTRAST) * 128).view(-1, 1, 1, 1).to(floats.device)
    return ((floats - 128) * contrast + 128 + brightness).clamp(0, 255)
