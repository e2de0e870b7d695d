"""A network cut after one of its modules, by running its own forward with stand-ins for what lies before.

Left of the cut the network runs up to that module's output. Right of it it runs again, on a blank image: modules that are
called before the cut return blanks, the module at the cut returns what was cached. So hooks, contexts, control flow and
gradients of its own stay the network's. Whatever else goes past the cut is blank, which the proof (`split_proof`) notices.
"""

from __future__ import annotations

from collections import Counter as Multiset
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from tlnb.core.models.anatomy import evaluating
from tlnb.core.models.tracing import Counter, countable
from tlnb.core.training.split_point import Cut, Place

ROWS = 3  # images in a recorded pass: a number by which other sizes are seldom divided

Forward = Callable[..., Any]


@dataclass(frozen=True, kw_only=True)
class Blank:
    """The shape of a tensor that some images give, and how it lies in memory."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    channels_last: bool

    @classmethod
    def of(cls, value: Any) -> Any:
        """In place of a tensor; anything else is its own stand-in."""
        if not isinstance(value, Tensor):
            return value
        last = value.ndim == 4 and not value.is_contiguous()
        return cls(shape=tuple(value.shape), dtype=value.dtype, channels_last=last)

    def filled(self, count: int, device: torch.device) -> Tensor:
        """Zeros for so many images."""
        each, rest = divmod(self.shape[0], ROWS) if self.shape else (0, 1)
        shape = (each * count, *self.shape[1:]) if rest == 0 else self.shape
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        zeros = torch.zeros(shape, dtype=self.dtype, device=device)
        return zeros.contiguous(memory_format=layout)


@dataclass(frozen=True, kw_only=True)
class ModuleCall:
    """One call of a module in a recorded pass."""

    name: str
    start: int  # place in the order in which calls begin and end
    end: int
    flops: float  # of one image, from the beginning of the pass to the end of the call
    output: Any  # `Blank` where there is a tensor


@dataclass(frozen=True)
class Recording:
    """The calls of one pass in the order in which they ended."""

    image: Blank
    calls: tuple[ModuleCall, ...]

    def before(self, at: str) -> dict[str, list[Any]]:
        """What the modules return, call by call, that are done when the module at a cut begins."""
        start = next(call.start for call in self.calls if call.name == at)
        done: dict[str, list[Any]] = {}
        for call in sorted(self.calls, key=lambda call: call.start):
            if call.end < start:
                done.setdefault(call.name, []).append(call.output)
        return done


def record(module: nn.Module, example: Tensor) -> Recording:
    """One pass in eval mode, watched.

    Args:
        example: inputs `(N, …)` with numbers.
    """
    images = example[:1].expand(ROWS, *example.shape[1:]).clone(memory_format=torch.preserve_format)
    tape = _Tape()
    wrapped = {part: tape.watching(name, part.forward) for name, part in module.named_modules()}
    with evaluating(module), torch.no_grad(), countable(), tape.counter, _forwards(wrapped):
        module(images)
    return Recording(Blank.of(images), tuple(tape.calls))


class _Tape:
    """Notes when calls begin and end."""

    def __init__(self) -> None:
        self.calls: list[ModuleCall] = []
        self.counter, self._moment = Counter(), 0

    def watching(self, name: str, forward: Forward) -> Forward:
        def watched(*given: Any, **named: Any) -> Any:
            start = self._next()
            value = forward(*given, **named)
            flops = self.counter.total / ROWS
            self.calls.append(
                ModuleCall(
                    name=name,
                    start=start,
                    end=self._next(),
                    flops=flops,
                    output=tree_map(Blank.of, value),
                )
            )
            return value

        return watched

    def _next(self) -> int:
        self._moment += 1
        return self._moment


@contextmanager
def _forwards(replaced: Mapping[nn.Module, Forward]) -> Iterator[None]:
    """Other forwards for some modules inside; hooks on them still run."""
    own = {part: part.__dict__.get("forward") for part in replaced}
    try:
        for part, forward in replaced.items():
            part.__dict__["forward"] = forward
        yield
    finally:
        for part, before in own.items():
            if before is None:
                part.__dict__.pop("forward", None)
            else:
                part.__dict__["forward"] = before


def replay_places(recording: Recording, moving: Collection[str]) -> list[Place]:
    """The modules after which the network may be cut: called once, giving a row of numbers for each image, before all that moves.

    Args:
        moving: names of modules that train, or that are in a mode where they give another result each time.
    """
    times = Multiset(call.name for call in recording.calls)
    until = min((call.start for call in recording.calls if call.name in moving), default=None)
    found = []
    for call in recording.calls:
        early = until is None or call.end < until
        if early and call.name and times[call.name] == 1 and _has_rows(call.output):
            found.append(
                Place(at=call.name, shape=call.output.shape[1:], flops=call.flops, traced=False)
            )
    return found


def _has_rows(output: Any) -> bool:
    rows = isinstance(output, Blank) and output.shape[:1] == (ROWS,)
    return rows and output.dtype.is_floating_point


def replay_cut(module: nn.Module, at: str, recording: Recording) -> Cut:
    """The network cut after one of its modules."""
    return Cut(at=at, prefix=_UpTo(module, at), suffix=_From(module, at, recording))


class _Reached(Exception):
    """The value at the cut is known; the rest of the pass is not needed."""

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.value = value


class _UpTo(nn.Module):
    """A network's pass up to the output of one of its modules, before hooks on that."""

    def __init__(self, network: nn.Module, at: str) -> None:
        super().__init__()
        self.network, self.at = network, at

    def forward(self, images: Tensor) -> Tensor:
        part = self.network.get_submodule(self.at)
        forward = part.forward

        def stopping(*given: Any, **named: Any) -> Any:
            raise _Reached(forward(*given, **named))

        try:
            with _forwards({part: stopping}):
                self.network(images)
        except _Reached as reached:
            return reached.value
        raise RuntimeError(f"{self.at} is never called")


class _From(nn.Module):
    """A network's pass from the output of one of its modules on. All is shared with the network, its modes included."""

    def __init__(self, network: nn.Module, at: str, recording: Recording) -> None:
        super().__init__()
        self.network, self.at = network, at
        self._image, self._before = recording.image, recording.before(at)

    def forward(self, cached: Tensor) -> Any:
        count, device = len(cached), cached.device

        def blank(value: Any) -> Any:
            return value.filled(count, device) if isinstance(value, Blank) else value

        parts = {name: self.network.get_submodule(name) for name in (self.at, *self._before)}
        stand_ins: dict[nn.Module, Forward] = {parts[self.at]: lambda *_, **__: cached}
        for name, outputs in self._before.items():
            stand_ins[parts[name]] = _one_by_one(outputs, blank, parts[name].forward)
        with _forwards(stand_ins):
            return self.network(blank(self._image))


def _one_by_one(outputs: list[Any], blank: Forward, forward: Forward) -> Forward:
    """Blanks for so many calls, then the module's own forward: a module may be called on both sides of the cut."""
    left = iter(outputs)

    def stand_in(*given: Any, **named: Any) -> Any:
        for output in left:
            return tree_map(blank, output)
        return forward(*given, **named)

    return stand_in
