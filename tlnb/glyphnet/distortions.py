"""Turn grey source pictures into training batches: distort, blur and colour a batch at once."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from tlnb.glyphnet.network import SIZE


def augment(images: Tensor, filled: Tensor, generator: torch.Generator) -> Tensor:
    """Distort and colour each picture in its own way.

    Args:
        images: grey uint8 `(N, 48, 48)`, bright ink on dark paper.
        filled: `(N,)` bool, which pictures are textures; these are enlarged, so no border shows.
        generator: the source of all random numbers.

    Returns:
        uint8 colour pictures `(N, 3, 32, 32)`.
    """
    ink = images.float().div_(255).unsqueeze(1)  # (N, 1, 48, 48)
    ink = _stroke(ink, generator)
    ink = F.grid_sample(ink, _grid(filled, generator), align_corners=False)  # (N, 1, 32, 32)
    return _colour(_blur(ink, generator), generator)


def _uniform(shape: tuple[int, ...], low: float, high: float, generator: torch.Generator) -> Tensor:
    return torch.rand(shape, generator=generator) * (high - low) + low


def _stroke(ink: Tensor, generator: torch.Generator) -> Tensor:
    """Vary line width: a third of the pictures is dilated, a sixth eroded, by random shares."""
    n = len(ink)
    share = torch.rand((n, 1, 1, 1), generator=generator)
    kind = torch.rand(n, generator=generator)
    thick, thin = kind < 1 / 3, kind > 5 / 6
    ink[thick] = ink[thick].lerp(F.max_pool2d(ink[thick], 5, 1, 2), share[thick])
    ink[thin] = ink[thin].lerp(-F.max_pool2d(-ink[thin], 3, 1, 1), share[thin])
    return ink


def _grid(filled: Tensor, generator: torch.Generator) -> Tensor:
    """Sampling positions `(N, 32, 32, 2)`.

    Combines rotation, scale, shear, shift, slight perspective and an elastic field.
    """
    n = len(filled)
    angle = torch.randn(n, generator=generator) * 0.17  # about 10 degrees
    zoom = _uniform((n, 2), 0.85, 1.5, generator)
    zoom = zoom * 0.35 + zoom.mean(1, keepdim=True) * 0.65
    zoom = torch.where(filled[:, None], zoom * 0.6, zoom)
    shear = torch.randn(n, generator=generator) * 0.15
    cos, sin = angle.cos(), angle.sin()
    wide, high = zoom.unbind(1)
    rows = torch.stack([cos * wide, -sin * high + shear, sin * wide, cos * high], 1)
    matrix = rows.view(n, 2, 2)
    shift = torch.randn((n, 1, 2), generator=generator) * 0.08
    tilt = torch.randn((n, 2, 1), generator=generator) * 0.08
    line = (torch.arange(SIZE) * 2 + 1) / SIZE - 1
    mesh = torch.stack(torch.meshgrid(line, line, indexing="xy"), -1)
    base = mesh.view(1, -1, 2)  # (1, 1024, 2) as x, y
    points = (base @ matrix.transpose(1, 2) + shift) / (1 + base @ tilt)
    knots = torch.randn((n, 2, 4, 4), generator=generator)
    knots *= _uniform((n, 1, 1, 1), 0, 0.12, generator)
    elastic = F.interpolate(knots, SIZE, mode="bilinear", align_corners=True)
    return points.view(n, SIZE, SIZE, 2) + elastic.permute(0, 2, 3, 1)


def _blur(ink: Tensor, generator: torch.Generator) -> Tensor:
    """Blur by varying amounts, as if drawn at a lower resolution; a third stays sharp."""
    kernel = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0])
    kernel = (kernel[:, None] * kernel / 256).expand(1, 1, 5, 5)
    soft = F.conv2d(ink, kernel, padding=2)
    softer = F.conv2d(F.conv2d(soft, kernel, padding=2), kernel, padding=2)
    amount = _uniform((len(ink), 1, 1, 1), -1, 2, generator)
    return ink.lerp(soft, amount.clamp(0, 1)).lerp_(softer, (amount - 1).clamp(0, 1))


def _colour(ink: Tensor, generator: torch.Generator) -> Tensor:
    """Colour ink and paper with two tones that differ by a third or more, and add noise.

    Half of the pictures stay grey.
    """
    n = len(ink)
    paper = torch.rand((n, 3, 1, 1), generator=generator)
    tone = torch.rand((n, 3, 1, 1), generator=generator)
    grey = torch.rand((n, 1, 1, 1), generator=generator) < 0.5
    paper, tone = torch.where(grey, paper[:, :1], paper), torch.where(grey, tone[:, :1], tone)
    # push tones that are too similar apart, towards the side with room
    close = (tone - paper).abs().mean(1, keepdim=True) < 1 / 3
    tone = torch.where(close, torch.where(paper < 0.5, paper + 0.5, paper - 0.5), tone)
    pictures = paper + (tone - paper) * ink
    level = _uniform((n, 1, 1, 1), -0.06, 0.1, generator).clamp(min=0)
    pictures = pictures + torch.randn(pictures.shape, generator=generator) * level
    return pictures.clamp_(0, 1).mul_(255).round_().byte()
