"""Lists of Pillow images, as in Hugging Face data sets: of any mode and size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tlnb.core.data.decoding import squared, upright_rgb

LARGEST = 256  # edge in pixels for images of different sizes, if all are as large


def is_pil(source: object) -> bool:
    """Whether the source is a list of Pillow images."""
    from PIL import Image

    listed = isinstance(source, list | tuple) and len(source) > 0
    return listed and all(isinstance(image, Image.Image) for image in source)  # type: ignore[attr-defined]


def pil_pixels(
    images: Sequence[Any], edge: int | None
) -> tuple[np.ndarray | Tensor, tuple[str, ...]]:
    """Convert to pixels `(N, H, W, 3)` or, for mixed sizes, `(N, 3, edge, edge)`, uint8.

    Images come out upright, in RGB, on white where they are transparent; a note says if they were
    resized. Images of more than 8 bits keep no common scale.

    Args:
        edge: for images of mixed sizes; None: the shortest side of all, at most `LARGEST`.
    """
    if len({image.size for image in images}) == 1 and not any(_turned(image) for image in images):
        return np.stack([upright_rgb(image, None) for image in images]), ()
    least = min(min(image.size) for image in images)
    edge = edge or min(least, LARGEST)
    note = (
        f"images of several sizes are cropped to their centre squares and resized to {edge} × "
        f"{edge} pixels"
    )
    return torch.stack([squared(image, edge) for image in images]), (note,)


def _turned(image: Any) -> bool:
    from PIL import ExifTags

    return bool(image.getexif().get(ExifTags.Base.Orientation, 1) != 1)
