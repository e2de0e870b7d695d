"""Adapters: small low-rank parts beside frozen weights, merged into them in the end.

A layer computes with W + B·A in place of its weight W, where A has few rows and B few columns and
starts at zero (LoRA, Hu et al. 2021, arXiv:2106.09685). Each is a parametrization of PyTorch's, so
the network's code stays as it is. A convolution's weight is taken as a matrix of one row per output
channel. Merging keeps the weight that was computed with: it is exact.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

RANKS = (16, 8, 4, 2, 1)  # the default is the first that fits into MOST_SHARE
MOST_SHARE = 0.05  # of the network's parameters
ADAPTED = (nn.Linear, nn.Conv2d, nn.MultiheadAttention)


class LowRank(nn.Module):
    """Adds the product of two thin matrices to a weight."""

    def __init__(self, rank: int, rows: int, columns: int) -> None:
        super().__init__()
        self.down = nn.Parameter(torch.empty(rank, columns))
        self.up = nn.Parameter(torch.zeros(rows, rank))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))

    def forward(self, weight: Tensor) -> Tensor:
        """`(out, in, …)` → the same shape."""
        return weight + (self.up @ self.down).view_as(weight)


def adaptable(module: nn.Module, heads: tuple[str, ...]) -> Iterator[tuple[nn.Module, str]]:
    """The weights that get an adapter, each by its layer and its name there.

    Those are the weights of linear layers, of attention's projections, and of convolutions that mix
    all channels. Output layers train as they are; computed weights are left alone.
    """
    for name, layer in module.named_modules():
        key = "in_proj_weight" if isinstance(layer, nn.MultiheadAttention) else "weight"
        fits = isinstance(layer, ADAPTED) and getattr(layer, "groups", 1) == 1
        plain = fits and isinstance(layer._parameters.get(key), nn.Parameter)
        if plain and name not in heads and not parametrize.is_parametrized(layer):
            yield layer, key


def add_adapters(module: nn.Module, heads: tuple[str, ...], rank: int) -> None:
    """Add an adapter to every weight that takes one, in place."""
    for layer, key in list(adaptable(module, heads)):
        weight = cast(Tensor, getattr(layer, key))
        adapter = LowRank(rank, *matrix_shape(weight)).to(weight.device)
        parametrize.register_parametrization(layer, key, adapter)


def default_rank(module: nn.Module, heads: tuple[str, ...]) -> int:
    """The highest of `RANKS` at which adapters add at most `MOST_SHARE` of the parameters."""
    one = sum(sum(matrix_shape(getattr(layer, key))) for layer, key in adaptable(module, heads))
    most = MOST_SHARE * sum(p.numel() for p in module.parameters())
    return next((rank for rank in RANKS if rank * one <= most), RANKS[-1])


def merge_adapters(module: nn.Module) -> nn.Module:
    """Make each weight what it was computed as, in place; the adapters are gone."""
    for layer in list(module.modules()):
        parts = list(_adapted(layer))
        if parts:
            _merge(layer, parts)
    return module


def _adapted(layer: nn.Module) -> Iterator[str]:
    """The names of a layer's weights that have an adapter."""
    if parametrize.is_parametrized(layer):
        for key, parts in cast(nn.ModuleDict, layer.parametrizations).items():
            if isinstance(cast(nn.ModuleList, parts)[0], LowRank):
                yield key


def _merge(layer: nn.Module, keys: list[str]) -> None:
    """As `parametrize.remove_parametrizations`, which would break copies: they share their class."""
    weights = {key: cast(Tensor, getattr(layer, key)).detach() for key in keys}
    del layer.parametrizations
    layer.__class__ = type(layer).__bases__[0]
    for key, weight in weights.items():
        setattr(layer, key, nn.Parameter(weight))


def matrix_shape(weight: Tensor) -> tuple[int, int]:
    """Rows and columns of a weight `(out, in, …)` as a matrix."""
    return len(weight), weight[0].numel()
