"""Cached activations as training inputs: everything left of the split is computed once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor, nn

from tlnb.core.runtime.device import Machine
from tlnb.core.training.events import Event
from tlnb.core.training.run import Cache
from tlnb.core.training.training_inputs import Cost, Inputs


@dataclass(frozen=True, kw_only=True)
class CachedInputs:
    """Training inputs (`training_inputs.Inputs`) made of cached activations."""

    kept: tuple[Tensor, ...]  # views of the training images, each `(N, …)`
    compute: Callable[[str], Tensor]  # another split's activations, called once for each
    machine: Machine
    teaches: nn.Module
    cost: Cost
    chunk: int
    event: Event | None = None
    cache: Cache | None = None
    augment: str = "none"
    _seen: dict[str, Tensor] = field(default_factory=dict, repr=False)

    @property
    def judges(self) -> nn.Module:
        return self.teaches

    @property
    def views(self) -> int:
        return len(self.kept)

    def train(self, epoch: int) -> Tensor:
        return self.kept[epoch % len(self.kept)]

    def make(self, rows: Tensor, _: Tensor) -> Tensor:
        return self.machine.placed(rows)

    def seen(self, split: str) -> Tensor:
        if split not in self._seen:
            self._seen[split] = self.compute(split)
        return self._seen[split]

    def look(self, rows: Tensor) -> Tensor:
        return self.machine.placed(rows)


@dataclass(frozen=True, kw_only=True)
class HeadInputs:
    """What reaches the output layers for each training image, and the network from there on."""

    features: Tensor  # (N, …)
    teaches: nn.Module  # to train the output layers alone

    def inputs(self, base: Inputs, machine: Machine, cost: Cost) -> CachedInputs:
        """Inputs to train the output layers alone, in a run whose other inputs are `base`."""
        return CachedInputs(
            kept=(self.features,),
            compute=base.seen,
            machine=machine,
            teaches=self.teaches,
            cost=cost,
            chunk=base.chunk,
        )
