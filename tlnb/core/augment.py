"""Augmentation in batches, on the device that trains."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

TURN, ZOOM, SHIFT, SHEAR = math.radians(10), 0.1, 0.08, 0.1
CONTRAST = 0.2


def augment(images: Tensor, kind: str, generator: torch.Generator) -> Tensor:
    """uint8 `(N, 3, E, E)` → floats in 0..255 of the same shape, each image changed its own way.

    `none` changes nothing. `light` turns up to 10°, scales by 10%, shears, shifts by 8%. `photo` also mirrors half of the
    images and varies contrast and brightness: right for photos, wrong for letters.
    """
    floats = images.float()
    if kind == "none":
        return floats
    floats = _warp(floats, generator, mirror=kind == "photo")
    return _tone(floats, generator) if kind == "photo" else floats


def _spread(n: int, limit: float, generator: torch.Generator) -> Tensor:
    return (torch.rand(n, generator=generator) * 2 - 1) * limit


def _warp(floats: Tensor, generator: torch.Generator, mirror: bool) -> Tensor:
    n = len(floats)
    angle, shear = _spread(n, TURN, generator), _spread(n, SHEAR, generator)
    zoom_x, zoom_y = 1 + _spread(n, ZOOM, generator), 1 + _spread(n, ZOOM, generator)
    if mirror:
        zoom_x = torch.where(torch.rand(n, generator=generator) < 0.5, -zoom_x, zoom_x)
    rows = [angle.cos() * zoom_x, shear - angle.sin(), _spread(n, 2 * SHIFT, generator),
            angle.sin(), angle.cos() * zoom_y, _spread(n, 2 * SHIFT, generator)]  # fmt: skip
    matrix = torch.stack(rows, 1).view(n, 2, 3).to(floats.device)
    grid = F.affine_grid(matrix, list(floats.shape), align_corners=False)
    return F.grid_sample(floats, grid, padding_mode="border", align_corners=False)


def _tone(floats: Tensor, generator: torch.Generator) -> Tensor:
    contrast = (1 + _spread(len(floats), CONTRAST, generator)).view(-1, 1, 1, 1).to(floats.device)
    brightness = (_spread(len(floats), CONTRAST, generator) * 128).view(-1, 1, 1, 1).to(floats.device)
    return ((floats - 128) * contrast + 128 + brightness).clamp(0, 255)
