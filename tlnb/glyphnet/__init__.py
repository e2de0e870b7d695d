"""The embedded pretrained models: a small network, its source images, weights and cards.

Everything a learner needs to try transfer learning offline. Imports nothing else of tlnb.
"""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from importlib import resources
from typing import Any

import torch
from torch import Tensor

from tlnb.glyphnet.network import MEAN, SIZE, STD, GlyphNet

__all__ = [
    "MEAN",
    "SIZE",
    "STD",
    "DamagedWeights",
    "GlyphNet",
    "card",
    "load",
    "names",
    "pack",
    "unpack",
    "weights",
]


MIN_QUANTIZED_SIZE = 200_000  # tensors with more elements are stored in 8 bits
SCALE_SUFFIX = ".scale"


class DamagedWeights(Exception):
    """A weights file is missing, or its hash differs from the one on its card."""


@lru_cache(maxsize=1)
def names() -> tuple[str, ...]:
    """Names of the embedded models, the main one first."""
    folder = resources.files(__package__).joinpath("cards")
    stems = (p.name.removesuffix(".json") for p in folder.iterdir() if p.name.endswith(".json"))
    return tuple(sorted(stems, key=len))


@lru_cache
def card(name: str) -> dict[str, Any]:
    """Read a model's card: source, accuracy, size, training cost, SHA-256 of its weights."""
    text = resources.files(__package__).joinpath("cards", f"{name}.json").read_text("utf8")
    facts: dict[str, Any] = json.loads(text)
    return facts


def load(name: str) -> GlyphNet:
    """Load the pretrained network in fp32 and eval mode.

    Raises:
        DamagedWeights: the file is missing, or its hash differs from the card's.
    """
    network = GlyphNet(card(name)["source_classes"])
    network.load_state_dict(weights(name))
    return network.eval()


def weights(name: str) -> dict[str, Tensor]:
    """Load the pretrained network's state_dict in fp32.

    Raises:
        DamagedWeights: the file is missing, or its hash differs from the card's.
    """
    from safetensors.torch import load as read_safetensors

    facts = card(name)
    try:
        data = resources.files(__package__).joinpath("weights", f"{name}.safetensors").read_bytes()
    except OSError as error:
        raise DamagedWeights("the file is missing") from error
    digest = hashlib.sha256(data).hexdigest()
    if digest != facts["sha256"]:
        raise DamagedWeights(f"SHA-256 {digest[:12]}…, not {facts['sha256'][:12]}…")
    return unpack(read_safetensors(data))


def pack(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Compress a state_dict for a weights file.

    Tensors are stored in fp16, the few largest ones in 8 bits with a scale per output channel: the
    source has many classes, and the file should stay small.
    """
    packed = {}
    for name, tensor in state.items():
        if tensor.numel() > MIN_QUANTIZED_SIZE:
            scale = (tensor.flatten(1).abs().amax(1) / 127).half()
            packed[name + SCALE_SUFFIX] = scale
            steps = (tensor / _by_channel(scale, tensor)).round()
            packed[name] = steps.clamp(-127, 127).to(torch.int8)
        else:
            packed[name] = tensor.half() if tensor.is_floating_point() else tensor
    return {name: tensor.contiguous() for name, tensor in packed.items()}


def unpack(packed: dict[str, Tensor]) -> dict[str, Tensor]:
    """Restore the state_dict, in fp32, from the result of `pack`."""
    state = {}
    for name, tensor in packed.items():
        if name + SCALE_SUFFIX in packed:
            state[name] = tensor.float() * _by_channel(packed[name + SCALE_SUFFIX], tensor)
        elif not name.endswith(SCALE_SUFFIX):
            state[name] = tensor.float() if tensor.is_floating_point() else tensor
    return state


def _by_channel(scale: Tensor, tensor: Tensor) -> Tensor:
    return scale.float().view(-1, *[1] * (tensor.ndim - 1))
