"""Images that come as a list of Pillow's, as Hugging Face's data sets give them: of any mode, and of any sizes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tlnb.core.data.decoding import squared, upright_rgb

LARGEST = 256  # pixels of edge to which images of different sizes are brought, if all are as large


def is_pil(source: object) -> bool:
    """Whether it is a list of Pillow's images."""
    from PIL import Image

    listed = isinstance(source, list | tuple) and len(source) > 0
    return listed and all(isinstance(image, Image.Image) for image in source)  # type: ignore[attr-defined]


def pil_pixels(
    images: Sequence[Any], edge: int | None
) -> tuple[np.ndarray | Tensor, tuple[str, ...]]:
    """Pixels `(N, H, W, 3)` or, of images of several sizes, `(N, 3, edge, edge)`, uint8; and a note where they were resized.

    Upright, RGB, on white where they are transparent. Images of more than 8 bits keep no common scale.

    Args:
        edge: for images of several sizes; None: the shortest side of all, at most `LARGEST`.
    """
    if len({image.size for image in images}) == 1 and not any(_turned(image) for image in images):
        return np.stack([upright_rgb(image, None) for image in images]), ()
    least = min(min(image.size) for image in images)
    edge = edge or min(least, LARGEST)
    note = f"images of several sizes are cut to their middle squares and resized to {edge} × {edge} pixels"
    return torch.stack([squared(image, edge) for image in images]), (note,)


def _turned(image: Any) -> bool:
    from PIL import ExifTags

    return bool(image.getexif().get(ExifTags.Base.Orientation, 1) != 1)
