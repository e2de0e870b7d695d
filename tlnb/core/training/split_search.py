"""Which places a network offers for a cut, and the first of them that is proven."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property, partial
from typing import Protocol, TypeVar

from torch import Tensor, nn

from tlnb.core.models.anatomy import evaluating
from tlnb.core.storage.activation_cache import key_of
from tlnb.core.training.cache_key import identity, pixels
from tlnb.core.training.model_split import Cuts, cut_at, ignores_mode, places
from tlnb.core.training.raw_inputs import Images
from tlnb.core.training.split_point import Place
from tlnb.core.training.split_proof import PREFIX, Proof, proof_images, rows_for, sound_places
from tlnb.core.training.split_replay import replay_places

TRIES = 8  # places that are proven, at most
NO_ROOM = "the activations fit neither in memory nor on the disk"
NO_PLACE = "no single value carries all that the frozen layers pass on"


class Chosen(Protocol):
    """A choice that has a place."""

    @property
    def place(self) -> Place:
        """Where to cut."""


T = TypeVar("T", bound=Chosen)


class Candidates:
    """The places of a network in its modes for training: by operations where torch.fx sees them rightly, else by modules."""

    def __init__(
        self, module: nn.Module, trained: Sequence[str], example: Tensor, cuts: Cuts
    ) -> None:
        self._module, self._trained, self._example, self._cuts = module, trained, example, cuts
        self.why = ""
        try:
            self.left = places(module, trained, example, cuts)
        except Exception as error:  # torch.fx raises many types on what it cannot trace
            reason = " ".join(str(error).split())[:80]
            self._replay()
            if not self.left:
                self.why = (
                    f"the network cannot be traced ({reason}), nor cut after one of its modules"
                )
        if not self.left and not self.why and _begins_frozen(module):
            self.why = NO_PLACE

    def _replay(self) -> None:
        try:
            recording = self._cuts.recording(self._module, self._example)
        except Exception:  # a foreign forward raises anything when it is watched
            self.left = []
            return
        restless = {
            name
            for name, part in self._module.named_modules()
            if part.training and not any(part.children()) and not ignores_mode(part)
        }
        self.left = replay_places(recording, {*self._trained, *restless})

    def drop(self, place: Place, fault: str) -> None:
        """Leave out a place that has a fault, and those that share it."""
        if not place.traced:
            later = fault in PREFIX
            self.left = [
                p
                for p in self.left
                if (p.flops < place.flops if later else _other(p, place)) and p.at != place.at
            ]
        elif fault in PREFIX:
            self._keep_sound(place)
        else:
            self._replay()

    def _keep_sound(self, place: Place) -> None:
        before = self.left[: self.left.index(place)]
        names = [p.at for p in before]
        prefix = cut_at(self._module, place, self._cuts).prefix
        with evaluating(self._module):
            in_eval = cut_at(self._module, place, self._cuts).prefix
        sound = sound_places(prefix, in_eval, names, self._example)
        self.left = [p for p in before if p.at in sound]


def _begins_frozen(module: nn.Module) -> bool:
    first = next(module.parameters(), None)
    return first is not None and not first.requires_grad


class Prover:
    """Proves places of one network in its modes for training; what was found out is kept by network and images."""

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
        """Why a place may not be used; empty where it may."""
        proof, network = self._proof(place.flops), self._network
        machine = proof.machine
        facts = (self._trained, place.at, place.traced, machine.device, machine.precision)
        key = key_of(network, facts, pixels(proof.images))
        if network is None or key not in self._known:
            cut = partial(cut_at, self._module, place, self._cuts)
            self._known[key] = proof.fault(cut(), cut)
        return self._known[key]

    @cached_property
    def _network(self) -> str | None:
        return identity(self._module)

    def _proof(self, flops: float) -> Proof:
        """Made once, so that all places share what the whole network does."""
        if not self._proofs:
            images, machine = self._images, self._images.machine
            count = rows_for(flops, self._cached)
            rows = proof_images(images.of("train"), images.transform, count, machine.device)
            self._proofs.append(Proof(module=self._module, images=rows, machine=machine, whole={}))
        return self._proofs[0]


def _other(one: Place, two: Place) -> bool:
    return (one.flops, one.shape) != (two.flops, two.shape)


def first_proven(
    candidates: Candidates,
    pick: Callable[[Sequence[Place]], T | None],
    fault_of: Callable[[Place], str],
) -> tuple[T | None, str]:
    """The best choice that stands its proof; where there is none, None and why, in a few words.

    Args:
        pick: the best of some places; None where none is worth it, or fits.
        fault_of: why a place may not be used, empty where it may.
    """
    why = candidates.why
    for _ in range(TRIES):
        if not candidates.left:
            break
        choice = pick(candidates.left)
        if choice is None:
            return None, why or NO_ROOM
        fault = fault_of(choice.place)
        if not fault:
            return choice, ""
        why = why or fault
        candidates.drop(choice.place, fault)
    return None, why
