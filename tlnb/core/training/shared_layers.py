"""Trained networks share the memory of layers with the same bits.

Runs are read-only, and most of a network is frozen in most of them: twenty runs of `head` on a
ResNet-50 would hold 2 GB otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn

from tlnb.core.models.anatomy import owned
from tlnb.core.training.freezing import bits_of, own_tensors

# by name and hash, as long as a run has them
_LAYERS: WeakValueDictionary[tuple[str, str], nn.Module] = WeakValueDictionary()


def share_layers(network: nn.Module, digests: Mapping[str, str]) -> None:
    """Let a network's tensors be those of an earlier network where layers are the same to the bit.

    Args:
        digests: by layer, as `freezing.hashes` gives them.
    """
    for name, layer in owned(network):
        known = _LAYERS.setdefault((name, digests[name]), layer)
        if known is layer:
            continue
        pairs = list(zip(_values(layer), _values(known), strict=False))
        if not all(_same(mine, theirs) for mine, theirs in pairs):
            _LAYERS[name, digests[name]] = layer  # somebody has written to the known one
            continue
        for mine, theirs in pairs:
            mine.data = theirs.data


def _values(layer: nn.Module) -> list[Tensor]:
    return [tensor for _, tensor in own_tensors(layer)]


def _same(first: Tensor, second: Tensor) -> bool:
    if (first.shape, first.dtype, first.device) != (second.shape, second.dtype, second.device):
        return False
    return torch.equal(bits_of(first), bits_of(second))
