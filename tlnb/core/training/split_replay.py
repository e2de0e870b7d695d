"""A network split by running its own forward, with stand-ins for the modules left of the split.

Left of it the network runs until it reaches the place. Right of it it runs again, on a blank image: modules called before
the place return blanks, and the module at the place takes, or returns, what was cached. So hooks, contexts, control flow
and custom gradients stay the network's own. Whatever else goes past the place is blank, which the proof (`split_proof`)
notices.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from tlnb.core.training.split_point import Cut, Place
from tlnb.core.training.split_recording import (
    Blank,
    Forward,
    Recording,
    forwards_replaced,
)

OWN = object()  # in place of a blank: this call runs


def cut_network(network: nn.Module, place: Place, recording: Recording) -> Cut:
    """The network in two parts. Both share its layers, and their modes."""
    suffix = (
        network.get_submodule(place.module)
        if place.is_tail
        else Replay(network, recording, start=place)
    )
    return Cut(place.at, Replay(network, recording, stop=place), suffix)


class Replay(nn.Module):
    """A network's pass from one place, or the images, to another, or the scores."""

    def __init__(
        self,
        network: nn.Module,
        recording: Recording,
        *,
        start: Place | None = None,
        stop: Place | None = None,
    ) -> None:
        super().__init__()
        self.network, self.start, self.stop = network, start, stop
        self.image = recording.image
        self.outputs = {} if start is None else _outputs_before(recording, start)

    def forward(self, given: Tensor) -> Any:
        replaced: dict[str, Forward] = {}
        images = given
        if self.start is not None:
            images = self.image.filled(len(given), given.device)
            replaced = self._stand_ins(given)
        if self.stop is not None:
            at = self.stop.module
            forward = replaced.get(at, self.network.get_submodule(at).forward)
            replaced[at] = _stopping(forward, self.stop)
        with forwards_replaced({self.network.get_submodule(n): f for n, f in replaced.items()}):
            try:
                return self.network(images)
            except _Reached as reached:
                return reached.value

    def _stand_ins(self, cached: Tensor) -> dict[str, Forward]:
        def blank(leaf: Any) -> Any:
            return leaf.filled(len(cached), cached.device) if isinstance(leaf, Blank) else leaf

        def stand_in(name: str, outputs: Sequence[Any]) -> Forward:
            forward = self.network.get_submodule(name).forward
            if self.start is not None and name == self.start.module:
                return _starting(forward, self.start, outputs[0], cached)
            return _blank_at_first(forward, outputs, blank)

        return {name: stand_in(name, outputs) for name, outputs in self.outputs.items()}


def _outputs_before(recording: Recording, place: Place) -> dict[str, list[Any]]:
    """What each module is to return, call by call, before the place; and at the place itself."""
    outputs: dict[str, list[Any]] = {}
    stood_in_until = 0
    for call in recording.calls:
        if call.name == place.module:
            outputs[call.name] = [call.output]
            break
        if call.start > stood_in_until:
            done = call.end < place.moment and call.output is not None
            stood_in_until = call.end if done else stood_in_until
            outputs.setdefault(call.name, []).append(call.output if done else OWN)
    return {name: each for name, each in outputs.items() if any(one is not OWN for one in each)}


def _blank_at_first(forward: Forward, outputs: Sequence[Any], blank: Forward) -> Forward:
    """Blanks for some calls, then the module's own forward: it may be called on both sides of the place."""
    left = iter(outputs)

    def stand_in(*given: Any, **named: Any) -> Any:
        output = next(left, OWN)
        return forward(*given, **named) if output is OWN else tree_map(blank, output)

    return stand_in


def _starting(forward: Forward, place: Place, output: Any, cached: Tensor) -> Forward:
    """At its first call, a module that takes what was cached, or returns it."""
    waiting = [cached]

    def stand_in(*given: Any, **named: Any) -> Any:
        if not waiting:
            return forward(*given, **named)
        value = waiting.pop()
        if place.side == "output":
            return tree_map(lambda leaf: value if isinstance(leaf, Blank) else leaf, output)
        given, named = tree_map(
            lambda leaf: value if leaf is given[0] else leaf,
            (given, named),
        )
        return forward(*given, **named)

    return stand_in


class _Reached(BaseException):
    """The value at the place is known; the rest of the pass is not needed."""

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.value = value


def _stopping(forward: Forward, place: Place) -> Forward:
    def stop(value: Tensor) -> None:
        raise _Reached(value)

    return _tapped(forward, place, stop)


def _tapped(forward: Forward, place: Place, note: Callable[[Tensor], None]) -> Forward:
    """A module's forward that hands on the value at its place."""

    def tapped(*given: Any, **named: Any) -> Any:
        if place.side == "input":
            note(given[0])
        output = forward(*given, **named)
        if place.side == "output":
            note(next(leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)))
        return output

    return tapped


@contextmanager
def tapping(
    network: nn.Module, places: Sequence[Place], note: Callable[[Place, Tensor], None]
) -> Iterator[None]:
    """Hand on the values at some places whenever the network passes them."""
    taps: dict[nn.Module, Forward] = {}
    for place in places:
        part = network.get_submodule(place.module)
        taps[part] = _tapped(taps.get(part, part.forward), place, lambda v, p=place: note(p, v))  # type: ignore[misc]
    with forwards_replaced(taps):
        yield
