"""A place where a network can be cut, and a network that was cut there."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import nn

from tlnb.core.runtime.errors import OneLine


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a network can be cut, and what that would mean for one image."""

    at: str  # name of the operation, or of the module, after which the network is cut
    shape: tuple[int, ...]  # of the value there, without the batch
    flops: float  # forward, from the image to here
    traced: bool = True  # found by torch.fx; else the output of a module

    @property
    def numbers(self) -> int:
        """How many numbers are to be kept for one image."""
        return math.prod(self.shape)


@dataclass(frozen=True, kw_only=True)
class Cut(OneLine):
    """A network in two parts: `suffix(prefix(x)) == network(x)`."""

    at: str
    prefix: nn.Module
    suffix: nn.Module

    def __repr__(self) -> str:
        return f"Cut after {self.at}"
