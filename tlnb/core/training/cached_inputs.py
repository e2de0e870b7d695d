"""Cached activations as training inputs: what is left of the cut is computed once."""

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
    """Training inputs (`training_inputs.Inputs`) that are activations."""

    kept: tuple[Tensor, ...]  # views of the training images, each `(N, …)`
    compute: Callable[[str], Tensor]  # another split's activations, asked once
    machine: Machine
    teaches: nn.Module
    judges: nn.Module
    cost: Cost
    chunk: int
    event: Event | None = None
    cache: Cache | None = None
    augment: str = "none"
    _seen: dict[str, Tensor] = field(default_factory=dict, repr=False)

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
    """What reaches the output layers for each training image, and what is right of there."""

    features: Tensor  # (N, …)
    teaches: nn.Module  # to train the output layers alone
    judges: nn.Module  # the same in eval mode

    def inputs(self, base: Inputs, machine: Machine, cost: Cost) -> CachedInputs:
        """Inputs to train the output layers alone, in a run whose other inputs are `base`."""
        return CachedInputs(
            kept=(self.features,),
            compute=base.seen,
            machine=machine,
            teaches=self.teaches,
            judges=self.judges,
            cost=cost,
            chunk=base.chunk,
        )
