"""The proof of a run: every layer beside what it was at the start."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor, nn

from tlnb.core.models.anatomy import ROOT, Anatomy
from tlnb.core.planning.plan import Plan
from tlnb.core.runtime.errors import UsageError, listed
from tlnb.core.training.cache_key import structure
from tlnb.core.training.checkpoint import Checkpoint
from tlnb.core.training.freezing import Change, hashes, relative_change, state_of


@dataclass(frozen=True, kw_only=True)
class StartState:
    """A network before its first step."""

    hashes: Mapping[str, str]  # of every layer
    weights: Mapping[str, Tensor]  # copies of what trains, by full name
    code: str = ""  # a key of what it computes, its numbers apart; empty where it has none

    @classmethod
    def of(cls, module: nn.Module, plan: Plan) -> StartState:
        """The network as it is now."""
        return cls(weights=state_of(module, plan.trained), hashes=hashes(module))

    def with_code(self, module: nn.Module) -> StartState:
        """The same with the key of what the network computes, in the modes that its training uses."""
        return replace(self, code=structure(module) or "")

    def resumed(self, found: Checkpoint, plan: Plan, name: str, model: str) -> StartState:
        """The start of the run that a checkpoint is of, once it is known that this network is the same.

        Copies of layers that train and began otherwise are left out: how far those moved is then unknown.

        Args:
            found: one without hashes was written by version 0.1.0 and is taken as it is.
            name: the run's, for the error.
            model: the network's.

        Raises:
            UsageError: a frozen layer differs, or the network computes something else.
        """
        if not found.start:
            return self
        other = {name for name, value in self.hashes.items() if found.start.get(name) != value}
        if what := self._difference(found, [layer for layer in plan.frozen if layer in other]):
            raise UsageError(
                f"run {name!r} began from another network than {model} is now ({what}): "
                "%tl_load the one that it began from, or %tl_train trains it from the start"
            )
        kept = {key: t for key, t in self.weights.items() if _layer_of(key) not in other}
        return StartState(hashes=found.start, weights=kept, code=found.code)

    def _difference(self, found: Checkpoint, frozen: Sequence[str]) -> str:
        """What is different about this start, in words; empty where nothing is."""
        if frozen:
            return f"{listed(frozen, 3)} {'differ' if len(frozen) > 1 else 'differs'}"
        same = not found.code or found.code == self.code
        return "" if same else "its code or its settings differ"

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
                name=layer.name,
                stage=layer.stage,
                params=layer.params,
                frozen=layer.name in frozen,
                moved=moved,
                weights=weights if layer.params else None,
                statistics=statistics if layer.running_stats else None,
            )


def _layer_of(key: str) -> str:
    """The layer that holds a tensor of this full name."""
    return key.rpartition(".")[0] or ROOT
