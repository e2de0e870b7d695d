"""A network split by running its own forward, with stand-ins for the modules left of the split.

Left of it the network runs until it reaches the place. Right of it it runs again, on a blank image: modules called before
the place return blanks, and the module at the place takes, or returns, what was cached. So hooks, contexts, control flow
and custom gradients stay the network's own. Whatever else goes past the place is blank, which the proof (`split_proof`)
notices.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from tlnb.core.training.interception import Forward, forwards_replaced, hooked
from tlnb.core.training.split_point import Cut, Place
from tlnb.core.training.split_recording import Blank, Recording

OWN = object()  # in place of a blank: this call runs


def cut_network(network: nn.Module, place: Place, recording: Recording) -> Cut:
    """The network in two parts. Both share its layers, and their modes."""
    suffix = (
        network.get_submodule(place.module)
        if place.is_tail
        else Replay(network, recording, start=place)
    )
    return Cut(at=place.at, prefix=Replay(network, recording, stop=place), suffix=suffix)


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
        self.at_start = start.module if start and start.side == "output" else None

    def forward(self, given: Tensor) -> Any:
        images, replaced = given, {}
        with ExitStack() as stack:
            if self.start is not None:
                images = self.image.filled(len(given), given.device)
                replaced = self._stand_ins(given)
                stack.enter_context(self._starting(given))
            stack.enter_context(forwards_replaced(replaced))
            if self.stop is not None:
                stack.enter_context(tapping(self.network, [self.stop], _stop))
            try:
                return self.network(images)
            except _Reached as reached:
                return reached.value

    def _starting(self, cached: Tensor) -> AbstractContextManager[None]:
        """The module at the start takes what was cached. A module that returns it is a stand-in."""
        if self.start is None or self.start.side == "output":
            return nullcontext()
        return hooked({self.network.get_submodule(self.start.module): _taking(self.start, cached)})

    def _stand_ins(self, cached: Tensor) -> dict[nn.Module, Forward]:
        def blank(leaf: Any) -> Any:
            return leaf.filled(len(cached), cached.device) if isinstance(leaf, Blank) else leaf

        def value(leaf: Any) -> Any:
            return cached if isinstance(leaf, Blank) else leaf

        replaced: dict[nn.Module, Forward] = {}
        for name, outputs in self.outputs.items():
            part, at_start = self.network.get_submodule(name), name == self.at_start
            replaced[part] = _stand_in(part.forward, outputs, value if at_start else blank)
        return replaced


def _outputs_before(recording: Recording, place: Place) -> dict[str, list[Any]]:
    """What each module is to return, call by call, before the place; and at the place itself."""
    outputs: dict[str, list[Any]] = {}
    stood_in_until = 0
    for call in recording.calls:
        if call.name == place.module:
            if place.side == "output":
                outputs[call.name] = [call.output]
            break
        if call.start > stood_in_until:
            done = call.end < place.moment and call.output is not None
            stood_in_until = call.end if done else stood_in_until
            outputs.setdefault(call.name, []).append(call.output if done else OWN)
    return {name: each for name, each in outputs.items() if any(one is not OWN for one in each)}


def _stand_in(forward: Forward, outputs: Sequence[Any], fill: Forward) -> Forward:
    """Recorded outputs for some calls, then the module's own forward: it may be called on both sides of the place."""
    left = iter(outputs)

    def stand_in(*given: Any, **named: Any) -> Any:
        output = next(left, OWN)
        return forward(*given, **named) if output is OWN else tree_map(fill, output)

    return stand_in


def _taking(place: Place, cached: Tensor) -> Forward:
    """A hook that gives a module what was cached at its first call."""
    waiting = [cached]

    def take(_: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> Any:
        if not waiting:
            return None
        value = waiting.pop()
        if place.is_shared:
            given[0].copy_(value)  # wherever else the network keeps it
            return None
        return tree_map(lambda leaf: value if leaf is given[0] else leaf, (given, named))

    return take


class _Reached(BaseException):
    """The value at the place is known; the rest of the pass is not needed."""

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.value = value


def _stop(_: Place, value: Tensor) -> None:
    raise _Reached(value)


@contextmanager
def tapping(
    network: nn.Module, places: Sequence[Place], note: Callable[[Place, Tensor], None]
) -> Iterator[None]:
    """Hand on the values at some places whenever the network passes them."""
    inputs = [place for place in places if place.side == "input"]
    outputs = [place for place in places if place.side == "output"]
    parts = {place: network.get_submodule(place.module) for place in places}
    entries = {parts[place]: _noting_input(place, note) for place in inputs}
    forwards = {
        parts[place]: _noting_output(parts[place].forward, place, note) for place in outputs
    }
    with hooked(entries), forwards_replaced(forwards):
        yield


def _noting_input(place: Place, note: Callable[[Place, Tensor], None]) -> Forward:
    def hook(_: nn.Module, given: tuple[Any, ...], named: Any) -> None:
        note(place, given[0])

    return hook


def _noting_output(
    forward: Forward, place: Place, note: Callable[[Place, Tensor], None]
) -> Forward:
    def noted(*given: Any, **named: Any) -> Any:
        output = forward(*given, **named)
        note(place, next(leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)))
        return output

    return noted
