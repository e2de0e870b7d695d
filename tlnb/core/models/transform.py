"""A network's preprocessing: size, normalisation, and memory layout of images."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

# ImageNet's usual preprocessing, in the words of timm's `pretrained_cfg`.
IMAGENET: Mapping[str, Any] = {
    "input_size": (3, 224, 224),
    "crop_pct": 0.875,
    "interpolation": "bilinear",
    "mean": (0.485, 0.456, 0.406),
    "std": (0.229, 0.224, 0.225),
}
INTERPOLATIONS = ("bilinear", "bicubic", "nearest")
MOST_PIXELS = 4096  # maximum input edge: more is a typo, and exceeds any memory


@dataclass(frozen=True, kw_only=True)
class Transform:
    """Preprocessing: uint8 `(N, 3, H, W)` → normalised floats `(N, 3, size, size)`."""

    size: int
    resize: int  # the shorter side is scaled to this before the centre crop of `size`
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str = "bilinear"  # or "bicubic"; always with antialiasing
    layout: str = "channels_last"  # or "contiguous": memory layout of images and weights

    def __post_init__(self) -> None:
        if self.interpolation not in INTERPOLATIONS:
            raise ValueError(f"the interpolation {self.interpolation!r} is unknown")
        if self.layout not in ("channels_last", "contiguous"):
            raise ValueError(f"the memory layout {self.layout!r} is unknown")
        if not 1 <= self.size <= MOST_PIXELS or not 1 <= self.resize <= 2 * MOST_PIXELS:
            raise ValueError(f"images of {self.size} pixels, resized to {self.resize}")
        if not all(map(math.isfinite, (*self.mean, *self.std))) or min(self.std) <= 0:
            raise ValueError(f"a mean of {self.mean} and a standard deviation of {self.std}")

    def __call__(self, images: Tensor) -> Tensor:
        return self.normalise(self.fit(images))

    def fit(self, images: Tensor) -> Tensor:
        """Scale uint8 images to the network's input edge."""
        from torchvision.transforms import InterpolationMode
        from torchvision.transforms.v2 import functional as F

        edge = images.shape[-1]
        if edge not in (self.size, self.resize):
            how = InterpolationMode(self.interpolation)
            images = F.resize(images, [self.resize, self.resize], how, antialias=True)
            edge = self.resize
        return images if edge == self.size else F.center_crop(images, [self.size, self.size])

    def example(self, count: int) -> Tensor:
        """Blank inputs `(count, 3, size, size)` for measurements."""
        return torch.zeros(count, 3, self.size, self.size).contiguous(
            memory_format=self.memory_format
        )

    @property
    def memory_format(self) -> torch.memory_format:
        """The layout as a torch memory format."""
        return torch.channels_last if self.layout == "channels_last" else torch.contiguous_format

    def normalise(self, images: Tensor) -> Tensor:
        """Normalise uint8 images, or floats in 0..255, as in pretraining."""
        mean, std = (_by_channel(numbers, images.device) for numbers in (self.mean, self.std))
        return ((images.float() - mean) / std).contiguous(memory_format=self.memory_format)


def cfg_transform(
    cfg: Mapping[str, Any], size: int | None = None, layout: str = "channels_last"
) -> Transform:
    """The preprocessing that timm's `pretrained_cfg` of a network states; else ImageNet's.

    Args:
        size: another input edge, in pixels; the share that the crop leaves stays.

    Raises:
        TypeError, ValueError, ArithmeticError: values that make no sense, or edges that differ.
    """
    known = {**IMAGENET, "interpolation": "bicubic", **{k: v for k, v in cfg.items() if v}}
    _, height, width = known["input_size"]
    if height != width:
        raise ValueError(f"images of {height}×{width} pixels")
    edge = size or int(height)
    return Transform(
        size=edge,
        resize=math.floor(edge / known["crop_pct"]),
        mean=_three(known["mean"]),
        std=_three(known["std"]),
        interpolation=known["interpolation"]
        if known["interpolation"] in INTERPOLATIONS
        else "bicubic",
        layout=layout,
    )


def stated_cfg(module: object) -> Mapping[str, Any]:
    """timm's description of a network, if it carries one that makes sense; else empty."""
    cfg = getattr(module, "pretrained_cfg", None)
    if not isinstance(cfg, Mapping):
        return {}
    try:
        cfg_transform(cfg)
    except (TypeError, ValueError, ArithmeticError):
        return {}
    return cfg


def _three(values: Any) -> tuple[float, float, float]:
    red, green, blue = map(float, values)
    return red, green, blue


@cache
def _by_channel(numbers: tuple[float, ...], device: torch.device) -> Tensor:
    """Three numbers in 0..1 as `(3, 1, 1)` in 0..255.

    They are cached because a GPU waits for the copy.
    """
    with torch.inference_mode(False):
        return torch.tensor(numbers, device=device).view(3, 1, 1) * 255
