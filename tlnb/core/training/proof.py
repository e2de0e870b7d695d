"""The proof of a run: every layer beside what it was at the start."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from tlnb.core.models.anatomy import Anatomy
from tlnb.core.planning.plan import Plan
from tlnb.core.training.freezing import Change, hashes, relative_change, state_of


@dataclass(frozen=True)
class StartState:
    """A network before its first step."""

    hashes: Mapping[str, str]  # of every layer
    weights: Mapping[str, Tensor]  # copies of what trains, by full name

    @classmethod
    def of(cls, module: nn.Module, plan: Plan) -> StartState:
        """The network as it is now."""
        return cls(weights=state_of(module, plan.trained), hashes=hashes(module))

    def changes(
        self, module: nn.Module, end: Mapping[str, str], anatomy: Anatomy, plan: Plan
    ) -> Iterator[Change]:
        """What moved in each layer, in the anatomy's order.

        Args:
            end: every layer's hash now.
        """
        frozen = set(plan.frozen)
        for layer in anatomy.layers:
            moved = end[layer.name] != self.hashes[layer.name]
            # a frozen layer that moved has no copy of its start: how far is then unknown
            weights, statistics = (
                relative_change(module, layer.name, self.weights) if moved else (0.0, 0.0)
            )
            yield Change(
                layer.name,
                layer.stage,
                layer.params,
                layer.name in frozen,
                moved,
                weights if layer.params else None,
                statistics if layer.running_stats else None,
            )
