"""A place where a network can be split, and a network split there."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import nn

from tlnb.core.runtime.errors import OneLine


@dataclass(frozen=True, kw_only=True)
class Place:
    """A module whose output, or whose input, is the only value that goes on to the scores."""

    module: str
    side: str  # output, input
    shape: tuple[int, ...]  # of the value there, without the batch
    flops: float  # forward, for one image, from the image to here
    moment: int  # when the pass reaches it, in the recording's ticks
    is_tail: bool = False  # the module's output is the network's: it can run alone
    is_shared: bool = False  # other modules read that input too

    @property
    def at(self) -> str:
        """Its name in records and on cards."""
        return self.module if self.side == "output" else f"the input of {self.module}"

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
