"""Trained networks share the memory of layers with the same bits.

Runs are read-only, and most of a network is frozen in most of them: twenty runs of `head` on a
ResNet-50 would hold 2 GB otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from weakref import WeakValueDictionary

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
        for mine, theirs in zip(_tensors(layer), _tensors(known), strict=False):
            if (mine.shape, mine.dtype, mine.device) == (theirs.shape, theirs.dtype, theirs.device):
                mine.data = theirs.data


def _tensors(layer: nn.Module) -> Iterator[Tensor]:
    held = (*layer._parameters.values(), *layer._buffers.values())
    return (tensor for tensor in held if tensor is not None)
