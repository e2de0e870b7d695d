"""Trace one forward pass: what every operation reads, what it costs, where its result goes.

The pass runs on a copy of the network whose tensors have shapes but no data (torch's meta device):
it needs neither memory nor arithmetic, however large the network. A network with data-dependent
control flow runs once for real.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from tlnb.core.models.module_copy import copied
from tlnb.core.runtime.errors import ModelError
from tlnb.core.runtime.torch_lock import alone

IMAGE = -1  # the step that stands for the image itself


@dataclass(frozen=True, kw_only=True)
class TracedOperation:
    """One operation of the pass."""

    name: str  # torch's name: convolution, addmm, _softmax
    inputs: frozenset[int]  # the steps whose results it reads; `IMAGE` is the image
    layers: tuple[str, ...]  # the modules whose parameters or buffers it reads
    module: str  # the innermost module being called; "" is the network
    shape: tuple[int, ...]  # of its first result, with the batch; () if there is none
    flops: int  # a multiply-add counts as two


@dataclass(frozen=True, kw_only=True)
class Watched:
    """The trace of one image."""

    steps: tuple[TracedOperation, ...]
    # output shape of each module's first call, without the batch
    shapes: Mapping[str, tuple[int, ...]]
    output: int  # the step that computed the scores
    scores: int  # number of scores

    def needed(self) -> set[int]:
        """The steps that the scores depend on, including `IMAGE` if a path leads back to it."""
        needed, open_ends = {self.output}, [self.output]
        while open_ends:
            step = open_ends.pop()
            new = self.steps[step].inputs - needed if step != IMAGE else set()
            needed |= new
            open_ends += new
        return needed


def blank(module: nn.Module) -> nn.Module:
    """A copy without data: same modules, modes, shapes and sharing, on the meta device."""
    twins: dict[int, Any] = {}
    for tensor in chain(module.parameters(), module.buffers()):
        empty = torch.empty_like(tensor, device="meta")
        is_parameter = isinstance(tensor, nn.Parameter)
        twins[id(tensor)] = nn.Parameter(empty, tensor.requires_grad) if is_parameter else empty
    return copied(module, twins)


@contextmanager
def countable() -> Iterator[None]:
    """Run attention with countable operations: its fast path and fused kernels are disabled."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    with alone():
        before = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            with sdpa_kernel(SDPBackend.MATH):
                yield
        finally:
            torch.backends.mha.set_fastpath_enabled(before)


def watch(module: nn.Module, size: int) -> Watched:
    """Trace a blank image `(1, 3, size, size)` through a copy of the module in eval mode.

    Raises:
        ModelError: the module rejects such an image, does not return scores `(1, classes)`, or
            holds compiled code.
    """
    refuse_compiled(module, type(module).__name__)
    try:
        twin = blank(module).eval()
        return _watched(twin, torch.zeros(1, 3, size, size, device="meta"))
    except _NoScores:
        raise
    except Exception:  # control flow depends on data, or a tensor has none to give
        twin = copied(module).eval()
    device = next((p.device for p in twin.parameters()), None)
    try:
        return _watched(twin, torch.zeros(1, 3, size, size, device=device))
    except _NoScores:
        raise
    except Exception as error:  # a module may raise anything on an input that it rejects
        reason = " ".join(str(error).split())[:120]
        raise ModelError(
            f"the network does not take an image (1, 3, {size}, {size}): {reason}"
            f"{_remedy(module, reason)}"
        ) from None


def refuse_compiled(module: nn.Module, whose: str) -> None:
    """Raise `ModelError` for code of torch.jit, whose layers can be neither traced nor changed."""
    for part, inner in module.named_modules():
        if isinstance(inner, torch.jit.ScriptModule):
            raise ModelError(
                f"{whose}{part and '.'}{part} is compiled by torch.jit, and its layers cannot be "
                "changed: load the Python network that it was made of, and its weights from "
                "module.state_dict()"
            )


def _remedy(module: nn.Module, reason: str) -> str:
    """A hint for networks that take other images."""
    first = next((part for part in module.modules() if isinstance(part, nn.Conv2d)), None)
    if first is not None and first.in_channels == 1:
        return (
            "; images have three channels here: "
            "nn.Sequential(torchvision.transforms.v2.Grayscale(), NETWORK) takes them"
        )
    return "; another input edge is given by --size PX" if "shape" in reason else ""


class _NoScores(ModelError):
    """The pass succeeded, but the output is not a row of scores."""


class Counter(TorchDispatchMode):
    """Sums FLOPs of matrix products and convolutions, forward and backward, as torch does.

    A tensor that meets one without data loses its own (constants, indices computed on the way).
    torch's formula for the gradient of a grouped convolution counts every group in full (up to 14
    times too much for a whole EfficientNet): this one is exact.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        args, kwargs = without_numbers(func, args, kwargs or {})
        out = func(*args, **kwargs)
        self.total += operation_flops(func, args, kwargs, out)
        return out


def _watched(twin: nn.Module, image: Tensor) -> Watched:
    recorder = _Recorder(twin, image)
    with torch.no_grad(), countable(), recorder.following(), recorder:
        output = twin(image)
    if not isinstance(output, Tensor) or output.ndim != 2:
        shape = recorder.shapes.get("", f"a {type(output).__name__}")
        raise _NoScores(
            f"the network gives {shape} for an image: it must give scores (N, classes)"
            f"{_flat(shape)}"
        )
    return Watched(
        steps=tuple(recorder.steps),
        shapes=recorder.shapes,
        output=recorder.made.get(storage_of(output), IMAGE),
        scores=output.shape[1],
    )


def _flat(shape: object) -> str:
    """How to flatten scores that only have the wrong shape."""
    if not isinstance(shape, tuple):
        return ""
    if not shape:
        return ", in its forward .flatten(1) keeps them where .squeeze() loses the batch"
    return ", nn.Flatten() at its end makes them a row" if set(shape[1:]) == {1} else ""


class _Recorder(TorchDispatchMode):
    """Records every operation.

    Tensors are identified by storage, so views and in-place changes count.
    """

    def __init__(self, twin: nn.Module, image: Tensor) -> None:
        super().__init__()
        self.steps: list[TracedOperation] = []
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.made = {storage_of(image): IMAGE}
        self._names = {part: name for name, part in twin.named_modules()}
        self._calls = [""]
        # by storage, for parameters and tensors computed from them alone
        self._owners: dict[int, tuple[str, ...]] = {}
        self._shared: dict[int, tuple[str, ...]] = {}  # owners to choose from
        for part, name in self._names.items():
            for tensor in chain(part._parameters.values(), part._buffers.values()):
                if tensor is not None:
                    place = storage_of(tensor)
                    self._shared[place] = (*self._shared.get(place, ()), name)

    @contextmanager
    def following(self) -> Iterator[None]:
        """Track, within the context, which module is being called."""
        with ExitStack() as hooks:
            for part in self._names:
                hooks.callback(part.register_forward_pre_hook(self._enter).remove)
                hooks.callback(part.register_forward_hook(self._leave).remove)
            yield

    def _enter(self, part: nn.Module, _: Any) -> None:
        self._calls.append(self._names[part])

    def _leave(self, part: nn.Module, _: Any, output: Any) -> None:
        self._calls.pop()
        if isinstance(output, tuple) and output:  # attention returns its weights, too
            output = output[0]
        if isinstance(output, Tensor):
            self.shapes.setdefault(self._names[part], tuple(output.shape[1:]))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func.namespace == "prim":
            return func(*args, **kwargs)
        args, kwargs = without_numbers(func, args, kwargs)
        out = func(*args, **kwargs)
        read = [*tensors_in(args), *tensors_in(kwargs.values())]
        self._note(func, read, out, operation_flops(func, args, kwargs, out))
        return out

    def _note(self, func: Any, read: list[Tensor], out: Any, flops: int) -> None:
        places = [storage_of(t) for t in read]
        layers = dict.fromkeys(name for place in places for name in self._layers(place))
        inputs = frozenset(self.made[place] for place in places if place in self.made)
        results = list(tensors_in([out]))
        # a view of one, or something computed from them alone
        made_of_parameters = bool(layers) and not inputs
        if flops or not made_of_parameters:
            step = TracedOperation(
                name=func._overloadpacket.__name__,
                inputs=inputs,
                layers=tuple(layers),
                module=self._calls[-1],
                shape=tuple(results[0].shape) if results else (),
                flops=flops,
            )
            self.steps.append(step)
        changed = places[:1] if func._schema.is_mutable else []
        for place in (*map(storage_of, results), *changed):
            if place in places and place not in changed:
                continue  # a view keeps the identity of its base
            self.made.pop(place, None)  # storage is reused once its tensor is gone
            self._owners.pop(place, None)
            if made_of_parameters:
                self._owners[place] = tuple(layers)
            else:
                self.made[place] = len(self.steps) - 1

    def _layers(self, place: int) -> tuple[str, ...]:
        """The layers that own a parameter; if several share it, the one being called."""
        shared = self._shared.get(place)
        if shared is None:
            return self._owners.get(place, ())
        return (self._calls[-1],) if self._calls[-1] in shared else shared[:1]


def operation_flops(func: Any, args: Any, kwargs: Any, out: Any) -> int:
    """FLOPs of one operation, by torch's formula; 0 if there is none."""
    formula = _formulas().get(getattr(func, "_overloadpacket", None))
    return 0 if formula is None else int(formula(*args, **kwargs, out_val=out))


@cache
def _formulas() -> dict[Any, Callable[..., int]]:
    from torch.utils.flop_counter import flop_registry

    return {**flop_registry, torch.ops.aten.convolution_backward: _convolution_backward}


def _convolution_backward(
    gradient: Tensor,
    inputs: Tensor,
    weight: Tensor,
    _bias: Any,
    _stride: Any,
    _padding: Any,
    _dilation: Any,
    transposed: bool,
    _output_padding: Any,
    _groups: int,
    wanted: Sequence[bool],
    out_val: Any,
) -> int:
    """FLOPs of a convolution's gradients.

    One forward product each for the input and for the weight, if wanted.
    """
    places = (inputs if transposed else gradient).shape[2:].numel()
    return 2 * len(inputs) * places * weight.numel() * (wanted[0] + wanted[1])


def without_numbers(func: Any, args: Any, kwargs: Any) -> Any:
    """An operation's arguments; tensors that meet one without data lose their own.

    Raises:
        NotImplementedError: a tensor with data would be written to.
    """
    tensors = [*tensors_in(args), *tensors_in(kwargs.values())]
    if all(t.is_meta for t in tensors) or not any(t.is_meta for t in tensors):
        return args, kwargs
    if func._schema.is_mutable and not tensors[0].is_meta:
        raise NotImplementedError("a tensor with numbers is written to")
    from torch.utils._pytree import tree_map_only

    return tree_map_only(Tensor, lambda t: t.to("meta"), (args, kwargs))


def tensors_in(values: Any) -> Iterator[Tensor]:
    """The tensors among some values, and in sequences among them."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, Sequence) and not isinstance(value, str):
            yield from (v for v in value if isinstance(v, Tensor))


def storage_of(tensor: Tensor) -> int:
    """An identity of a tensor's memory, which its views share."""
    return int(tensor.untyped_storage()._cdata)
