"""What the training loop asks of its inputs, whether they are images or cached activations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn

from tlnb.core.training.events import Event
from tlnb.core.training.run import Cache


@dataclass(frozen=True, kw_only=True)
class Cost:
    """FLOPs for one image: a step as done, as planned without a cache, with everything trained; and a look.

    `whole` is a look through the whole network, what is cached included.
    """

    done: float
    planned: float
    full: float
    look: float
    whole: float


NO_COST = Cost(done=0.0, planned=0.0, full=0.0, look=0.0, whole=0.0)


class Inputs(Protocol):
    """Training inputs, and the modules that take them."""

    @property
    def teaches(self) -> nn.Module:
        """What trains."""

    @property
    def judges(self) -> nn.Module:
        """The same in eval mode."""

    @property
    def cost(self) -> Cost:
        """FLOPs for one image."""

    @property
    def views(self) -> int:
        """How many cached views of each image `train` cycles through; 0: nothing is cached."""

    @property
    def cache(self) -> Cache | None:
        """What was cached, and where; None: nothing."""

    @property
    def event(self) -> Event | None:
        """How it was done, where the run should say so."""

    @property
    def chunk(self) -> int:
        """Rows in one forward pass that needs no gradient."""

    @property
    def augment(self) -> str:
        """The augmentation of each batch."""

    def train(self, epoch: int) -> Tensor:
        """All training inputs of an epoch `(N, …)`."""

    def make(self, rows: Tensor, drawn: Tensor) -> Tensor:
        """A batch of those, and what `draw` gave for it, as `teaches` takes it."""

    def seen(self, split: str) -> Tensor:
        """Inputs to judge by `(N, …)`."""

    def look(self, rows: Tensor) -> Tensor:
        """A batch of those as `judges` takes it."""
