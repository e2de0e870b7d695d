"""One forward pass, recorded: the calls of a network's modules, and the places where it can be split.

The network's own forward runs, on a copy without data. Every operation that reads something made from the images is
noted. A place is the input or output of a module at a moment when no other such value is read later on.
"""

from __future__ import annotations

from collections import Counter as Multiset
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from tlnb.core.models.anatomy import ROOT
from tlnb.core.models.tracing import (
    blank,
    countable,
    operation_flops,
    storage_of,
    tensors_in,
    without_numbers,
)
from tlnb.core.models.undisturbed import undisturbed
from tlnb.core.training.interception import Forward, forwards_replaced, hooked
from tlnb.core.training.split_point import Place

ROWS = 5  # images in the pass: sizes that do not depend on their number are seldom multiples of it


@dataclass(frozen=True, kw_only=True)
class Blank:
    """The shape of a tensor computed from the images."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    is_written: bool = False  # later operations change it in place

    def filled(self, count: int, device: torch.device) -> Tensor:
        """Zeros for so many images. They take no memory unless they are written to."""
        each, rest = divmod(self.shape[0], ROWS) if self.shape else (0, 1)
        shape = (each * count, *self.shape[1:]) if rest == 0 else self.shape
        if self.is_written:
            return torch.zeros(shape, dtype=self.dtype, device=device)
        return torch.zeros((), dtype=self.dtype, device=device).expand(shape)


@dataclass(frozen=True, kw_only=True)
class ModuleCall:
    """One call of a module. Ticks count operations, and beginnings and ends of calls."""

    name: str
    start: int
    end: int
    output: Any  # `Blank` in place of tensors; None where not all of them come from the images


@dataclass(frozen=True, kw_only=True)
class Recording:
    """What one pass showed. It holds names and numbers only, so it can outlive the network."""

    image: Blank
    calls: tuple[ModuleCall, ...]  # in the order in which they began
    places: tuple[Place, ...]  # in the order in which the pass reaches them
    touched: Mapping[
        str, int
    ]  # module → tick of its first call, or of the first use of its tensors

    def parts_before(self, moment: int) -> set[str]:
        """The modules that the value at a moment depends on."""
        names = {name for name, tick in self.touched.items() if tick < moment}
        return names | {above for name in names for above in _ancestors(name)}


def _ancestors(name: str) -> Iterator[str]:
    while name:
        name = name.rpartition(".")[0]
        yield name


def record(module: nn.Module, trained: Collection[str], example: Tensor) -> Recording:
    """Record one pass, with the modes set as for training.

    The copy without data serves unless control flow depends on data; then the network itself runs.

    Args:
        trained: names of the layers that train. No place lies after the first use of one.
        example: inputs `(N, …)`; the first one is used.

    Raises:
        Exception: whatever the network's forward raises.
    """
    images = example[:1].expand(ROWS, *example.shape[1:])
    try:
        return _recorded(blank(module), trained, images.to("meta"))
    except Exception:  # without data, any error may occur; with data, it is real
        with undisturbed(module):
            return _recorded(module, trained, images.clone())


def _recorded(module: nn.Module, trained: Collection[str], images: Tensor) -> Recording:
    tape = _Tape(module, trained, images)
    parts = {
        name: part
        for name, part in module.named_modules()
        if not isinstance(part, torch.jit.ScriptModule)
    }
    watched = {part: tape.watching(name, part.forward) for name, part in parts.items()}
    entries = {part: tape.entering(name) for name, part in parts.items()}
    with torch.no_grad(), countable(), forwards_replaced(watched), hooked(entries), tape:
        output = module(images)
    return tape.finished(images, output)


class _Value:
    """A tensor computed from the images: when it was made, and when it was last read."""

    def __init__(self, born: int) -> None:
        self.born = self.last = born
        self.is_written = False


class _Memory:
    """A tensor's storage: the values that are views of it."""

    def __init__(self, tick: int) -> None:
        self.written = tick
        self.views: dict[object, _Value] = {}


@dataclass
class _Call:
    """A call of a module while the tape runs."""

    name: str
    start: int
    flops: float
    given: Tensor | None
    value: _Value | None
    end: int = 0
    flops_after: float = 0.0
    output: Any = None
    leaves: tuple[tuple[Tensor, _Value | None], ...] = ()

    @property
    def is_shared(self) -> bool:
        """Whether its first argument is read after the call too."""
        return self.value is not None and self.value.last > self.end

    def recorded(self) -> ModuleCall:
        """What the recording holds of it."""
        return ModuleCall(name=self.name, start=self.start, end=self.end, output=self._blanks())

    def _blanks(self) -> Any:
        if not self.leaves or any(value is None for _, value in self.leaves):
            return None
        blanks = {
            id(tensor): Blank(
                shape=tuple(tensor.shape),
                dtype=tensor.dtype,
                is_written=bool(value and value.is_written),
            )
            for tensor, value in self.leaves
        }
        return tree_map(lambda leaf: blanks.get(id(leaf), leaf), self.output)


class _Tape(TorchDispatchMode):
    """Notes every operation that reads values computed from the images, and every call of a module."""

    def __init__(self, module: nn.Module, trained: Collection[str], images: Tensor) -> None:
        super().__init__()
        self.tick, self.flops, self.until = 1, 0.0, 2**62
        self.calls: list[_Call] = []
        self._entered: dict[str, _Call] = {}
        self.touched: dict[str, int] = {}
        self._held = [*module.parameters(), *module.buffers()]  # so that no storage is reused
        self._owners = _owners(module)
        self._buffers = {storage_of(buffer) for buffer in module.buffers()}
        self._buffers_read: dict[int, int] = {}  # storage → tick
        self._trained = {
            storage_of(parameter)
            for name, part in module.named_modules()
            for parameter in part._parameters.values()
            if parameter is not None and (name or ROOT) in trained
        }
        self._values: list[_Value] = []
        self._memory: dict[int, _Memory] = {}
        self._note_result(images)

    # ── calls ──

    def entering(self, name: str) -> Forward:
        """A hook that notes when a module is called, before hooks of its own."""

        def enter(_: nn.Module, given: tuple[Any, ...], named: Any) -> None:
            self._entered[name] = self._begun(name, given)

        return enter

    def watching(self, name: str, forward: Forward) -> Forward:
        """A module's forward, noted."""

        def watched(*given: Any, **named: Any) -> Any:
            call = self._entered.pop(name, None) or self._begun(
                name, ()
            )  # forward alone was called
            output = forward(*given, **named)
            self._ended(call, output)
            return output

        return watched

    def _begun(self, name: str, given: tuple[Any, ...]) -> _Call:
        self.tick += 1
        self.touched.setdefault(name, self.tick)
        first = given[0] if given and isinstance(given[0], Tensor) else None
        value = None if first is None else self._value(first)
        call = _Call(name, self.tick, self.flops, first, value)
        self.calls.append(call)
        return call

    def _ended(self, call: _Call, output: Any) -> None:
        self.tick += 1
        call.end, call.flops_after, call.output = self.tick, self.flops, output
        tensors = [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]
        call.leaves = tuple((tensor, self._value(tensor)) for tensor in tensors)

    # ── operations ──

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func.namespace == "prim":
            return func(*args, **kwargs)
        args, kwargs = without_numbers(func, args, kwargs)
        self.tick += 1
        read = [*tensors_in(args), *tensors_in(kwargs.values())]
        values = [value for tensor in read if (value := self._value(tensor)) is not None]
        out = func(*args, **kwargs)
        self.flops += operation_flops(func, args, kwargs, out)
        for value in values:
            value.last = self.tick
        self._note_moving(func, read)
        self._note_written(func, args, kwargs, from_images=bool(values))
        self._note_results(read, out, from_images=bool(values))
        return out

    def _note_moving(self, func: Any, read: Sequence[Tensor]) -> None:
        """Trained parameters and random numbers give another result each time."""
        names = {name for t in read for name in self._owners.get(storage_of(t), ())}
        for name in names:
            self.touched.setdefault(name, self.tick)
        for tensor in read:
            if storage_of(tensor) in self._buffers:
                self._buffers_read.setdefault(storage_of(tensor), self.tick)
        trains = any(storage_of(tensor) in self._trained for tensor in read)
        if trains or torch.Tag.nondeterministic_seeded in func.tags:
            self.until = min(self.until, self.tick)

    def _note_written(self, func: Any, args: Any, kwargs: Any, from_images: bool) -> None:
        if not func._schema.is_mutable:
            return
        for tensor in _written(func, args, kwargs):
            memory = self._memory.get(storage_of(tensor))
            for value in memory.views.values() if memory else ():
                value.is_written = True
            first = self._buffers_read.get(storage_of(tensor), self.tick)
            if storage_of(tensor) in self._buffers:
                self.until = min(self.until, first)
            if memory or from_images:
                self._memory.pop(storage_of(tensor), None)
                self._note_result(tensor)

    def _note_results(self, read: Sequence[Tensor], out: Any, from_images: bool) -> None:
        old = {storage_of(tensor) for tensor in read}
        for tensor in tensors_in([out]):
            if storage_of(tensor) not in old:  # storage is reused once its tensor is gone
                self._memory.pop(storage_of(tensor), None)
            if from_images:
                self._note_result(tensor)

    def _note_result(self, tensor: Tensor) -> None:
        """Unless it is a view that is known already."""
        memory = self._memory.setdefault(storage_of(tensor), _Memory(self.tick))
        if _geometry(tensor) not in memory.views:
            self._add(memory, tensor, self.tick)

    def _add(self, memory: _Memory, tensor: Tensor, born: int) -> _Value:
        value = memory.views[_geometry(tensor)] = _Value(born)
        self._values.append(value)
        return value

    def _value(self, tensor: Tensor) -> _Value | None:
        """None for tensors that do not depend on the images."""
        memory = self._memory.get(storage_of(tensor))
        if memory is None:
            return None
        known = memory.views.get(_geometry(tensor))
        return known or self._add(memory, tensor, memory.written)

    # ── what it all means ──

    def finished(self, images: Tensor, output: Any) -> Recording:
        """The recording of a pass that gave this output."""
        over = max(value.last for value in self._values)
        self.tick += 1
        for leaf in tree_leaves(output):
            if isinstance(leaf, Tensor) and (value := self._value(leaf)) is not None:
                value.last = self.tick
        return Recording(
            image=Blank(
                shape=tuple(images.shape),
                dtype=images.dtype,
                is_written=self._values[0].is_written,
            ),
            calls=tuple(call.recorded() for call in self.calls),
            places=tuple(self._places(output, over)),
            touched=self.touched,
        )

    def _places(self, output: Any, over: int) -> list[Place]:
        """All places, in the order in which the pass reaches them.

        Args:
            over: when the last operation ran.
        """
        live, times = self._live(), Multiset(call.name for call in self.calls)
        firsts = {call.name: call for call in reversed(self.calls) if call.name}
        calls = [call for call in firsts.values() if self._splits_before(call, live)]
        before = [call for call in calls if not call.is_shared]
        after = [
            call
            for call in firsts.values()
            if times[call.name] == 1 and self._splits_after(call, live)
        ]
        easy = {call.value for call in before} | {call.leaves[0][1] for call in after}
        places = [
            *map(_after, after),
            *map(_before, before),
            *(_before(call) for call in calls if call.is_shared and call.value not in easy),
            *(_before(call, True) for call in before if _is_tail(call, output, over)),
        ]
        return sorted(places, key=lambda place: (place.moment, place.is_tail))

    def _live(self) -> list[int]:
        """For each tick, how many values made before are read after it."""
        changes = [0] * (self.tick + 2)
        for value in self._values:
            changes[value.born] += 1
            changes[value.last] -= 1
        return list(accumulate(changes))

    def _splits_before(self, call: _Call, live: Sequence[int]) -> bool:
        """Whether a call's first argument carries all, and is not the images."""
        value, tick = call.value, call.start
        if value is None or value is self._values[0] or not _has_rows(call.given):
            return False
        return tick < self.until and live[tick] == 1 and tick < value.last

    def _splits_after(self, call: _Call, live: Sequence[int]) -> bool:
        """Whether a call's output carries all, and was made in the call."""
        if len(call.leaves) != 1 or call.end > self.until or live[call.end] != 1:
            return False
        tensor, value = call.leaves[0]
        if value is None or not _has_rows(tensor):
            return False
        return call.start < value.born < call.end < value.last


def _is_tail(call: _Call, output: Any, over: int) -> bool:
    """Whether a call's output is the network's, and nothing happens to it afterwards."""
    return [tensor is output for tensor, _ in call.leaves] == [True] and over < call.end


def _after(call: _Call) -> Place:
    shape = tuple(call.leaves[0][0].shape[1:])
    flops = call.flops_after / ROWS
    return Place(module=call.name, side="output", shape=shape, flops=flops, moment=call.end)


def _before(call: _Call, is_tail: bool = False) -> Place:
    shape = () if call.given is None else tuple(call.given.shape[1:])
    return Place(
        module=call.name,
        side="input",
        shape=shape,
        flops=call.flops / ROWS,
        moment=call.start,
        is_tail=is_tail,
        is_shared=call.is_shared,
    )


def _has_rows(tensor: Tensor | None) -> bool:
    return tensor is not None and tensor.shape[:1] == (ROWS,) and tensor.is_floating_point()


def _owners(module: nn.Module) -> dict[int, tuple[str, ...]]:
    """The modules that hold a tensor, by its storage."""
    owners: dict[int, tuple[str, ...]] = {}
    for name, part in module.named_modules():
        for tensor in chain(part._parameters.values(), part._buffers.values()):
            if tensor is not None:
                owners[storage_of(tensor)] = (*owners.get(storage_of(tensor), ()), name)
    return owners


def _geometry(tensor: Tensor) -> object:
    return tensor.storage_offset(), tuple(tensor.shape), tensor.stride()


def _written(func: Any, args: Any, kwargs: Any) -> Iterator[Tensor]:
    """The tensors that an operation changes in place."""
    for i, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = args[i] if i < len(args) else kwargs.get(argument.name)
            yield from tensors_in([value])
