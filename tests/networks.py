"""Networks that several tests use."""

from __future__ import annotations

import contextlib

import torch
from torch import Tensor, nn
from torchvision import models

from tlnb.core.models.tracing import blank


def without_numbers(name: str) -> nn.Module:
    options = (
        {"init_weights": False, "aux_logits": False}
        if name in ("googlenet", "inception_v3")
        else {}
    )
    with contextlib.nullcontext() if name.startswith("regnet") else torch.device("meta"):
        return blank(models.get_model(name, weights=None, **options))


# ── what networks may do ──────────────────────────────────────────────────────────────────────────────────────────


class LeViT(nn.Module):
    """Two output layers, their mean gives the scores; both are defined before what feeds them."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.head_dist = nn.Linear(8, 5), nn.Linear(8, 5)
        self.embed = nn.Conv2d(3, 8, 8, stride=8)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8)) for _ in range(4)
        )

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.embed(images).flatten(2).transpose(1, 2)
        for block in self.blocks:
            tokens = tokens + (tokens @ tokens.transpose(1, 2)).softmax(-1) @ block(tokens)
        features = tokens.mean(1)
        return (self.head(features) + self.head_dist(features)) / 2
