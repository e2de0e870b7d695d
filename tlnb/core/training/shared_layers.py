"""Trained networks share the memory of layers with the same bits.

Runs are read-only, and most of a network is frozen in most of them: twenty runs of `head` on a
ResNet-50 would hold 2 GB otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn

from tlnb.core.models.anatomy import owned

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
        pairs = list(zip(_tensors(layer), _tensors(known), strict=False))
        if not all(_same(mine, theirs) for mine, theirs in pairs):
            _LAYERS[name, digests[name]] = layer  # somebody has written to the known one
            continue
        for mine, theirs in pairs:
            mine.data = theirs.data


def _same(first: Tensor, second: Tensor) -> bool:
    if (first.shape, first.dtype, first.device) != (second.shape, second.dtype, second.device):
        return False
    bits = [t.detach().contiguous().view(-1).view(torch.uint8) for t in (first, second)]
    return torch.equal(*bits)


def _tensors(layer: nn.Module) -> Iterator[Tensor]:
    held = (*layer._parameters.values(), *layer._buffers.values())
    return (tensor for tensor in held if tensor is not None)
