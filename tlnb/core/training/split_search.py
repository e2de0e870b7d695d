"""Find the places where a network can be split, and the first that is proven."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Protocol, TypeVar

from torch import Tensor, nn

from tlnb.core.storage.activation_cache import key_of
from tlnb.core.training.cache_key import identity, pixels
from tlnb.core.training.model_split import Cuts
from tlnb.core.training.raw_inputs import Images
from tlnb.core.training.split_point import Place
from tlnb.core.training.split_proof import PREFIX, Proof, proof_images, rows_for, sound_places

TRIES = 8  # places that are proven, at most
PATIENCE = 3  # faults after which the later half of the places is left out each time
NO_ROOM = "the activations fit neither in memory nor on the disk"
NO_PLACE = "no single value carries all that the frozen layers pass on"


class Chosen(Protocol):
    """A choice that has a place."""

    @property
    def place(self) -> Place:
        """Where to cut."""


T = TypeVar("T", bound=Chosen)


class Candidates:
    """The places where a network can be split, in its modes for training."""

    def __init__(
        self, module: nn.Module, trained: Sequence[str], example: Tensor, cuts: Cuts
    ) -> None:
        self._module, self._example = module, example
        self._places: list[Place] = []
        self._faults, self.why = 0, ""
        try:
            self._places = cuts.places(module, trained, example)
        except Exception as error:  # a foreign forward raises anything when it is watched
            reason = " ".join(str(error).split())[:80]
            self.why = f"the network cannot be followed ({reason})"
        if not self._places and not self.why and _begins_frozen(module):
            self.why = NO_PLACE

    @property
    def left(self) -> list[Place]:
        """Of places that cost the same one: the last module alone if it will do, else the latest."""
        best = {(place.flops, place.numbers): place for place in self._places}
        return sorted(best.values(), key=lambda place: place.moment)

    def drop(self, place: Place, fault: str) -> None:
        """Leave out a place that has a fault, and those that share it."""
        if fault in PREFIX:
            earlier = [one for one in self._places if one.moment < place.moment]
            self._places = sound_places(self._module, earlier, self._example)
            return
        self._places.remove(place)
        self._faults += 1
        if self._faults >= PATIENCE:
            self._places = self._places[: (len(self._places) + 1) // 2]


def _begins_frozen(module: nn.Module) -> bool:
    """Whether nothing trains in the first layer without parts, adapters included."""
    for part in module.modules():
        inside = dict(part.named_children()).keys() - {"parametrizations"}
        trains = [parameter.requires_grad for parameter in part.parameters()]
        if trains and not inside:
            return not any(trains)
    return False


class Prover:
    """Proves places of one network in its modes for training. Results are kept by network and images."""

    def __init__(
        self,
        module: nn.Module,
        trained: Sequence[str],
        images: Images,
        cuts: Cuts,
        known: dict[str, str],
        cached: int,
    ) -> None:
        self._module, self._trained, self._images = module, tuple(trained), images
        self._cuts, self._known, self._cached = cuts, known, cached
        self._proofs: list[Proof] = []

    def fault(self, place: Place) -> str:
        """Why a place may not be used; empty if it may."""
        proof, network = self._proof(place.flops), self._network
        machine = proof.machine
        facts = (self._trained, place.at, place.is_tail, machine.device, machine.precision)
        key = key_of(network, facts, pixels(proof.images))
        if network is None or key not in self._known:
            self._known[key] = proof.fault(place, self._cuts.at(self._module, place))
        return self._known[key]

    @cached_property
    def _network(self) -> str | None:
        return identity(self._module)

    def _proof(self, flops: float) -> Proof:
        """Made once: all places are tried on the same images."""
        if not self._proofs:
            images, machine = self._images, self._images.machine
            count = rows_for(flops, self._cached)
            rows = proof_images(images.of("train"), images.transform, count, machine.device)
            self._proofs.append(Proof(module=self._module, images=rows, machine=machine))
        return self._proofs[0]


def first_proven(
    candidates: Candidates,
    pick: Callable[[Sequence[Place]], T | None],
    fault_of: Callable[[Place], str],
) -> tuple[T | None, str]:
    """The best choice that is proven, or None and why there is none, in a few words.

    Args:
        pick: the best of some places; None if none is worth it, or fits.
        fault_of: why a place may not be used; empty if it may.
    """
    why = candidates.why
    for _ in range(TRIES):
        if not candidates.left:
            break
        choice = pick(candidates.left)
        if choice is None:  # where nothing was computed there is nothing to keep
            return None, why or (NO_ROOM if candidates.left[-1].flops else "")
        fault = fault_of(choice.place)
        if not fault:
            return choice, ""
        why = why or fault
        candidates.drop(choice.place, fault)
    return None, why
