"""The anatomy of a network: its layers from input to output, read by one forward pass."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from tlnb.core.errors import ModelError

ROOT = "(root)"  # the layer that holds what the model itself owns
MIN_STAGES = 4


@dataclass(frozen=True)
class Layer:
    """A module that directly owns parameters or buffers."""

    name: str
    stage: str
    kind: str
    params: int
    shape: tuple[int, ...] | None  # output for one image, without the batch; None where it was not called
    flops: int  # forward, one image; a multiply-add counts as two
    frozen: bool = False
    running_stats: bool = False

    def __repr__(self) -> str:
        state = "frozen" if self.frozen else "trains"
        return f"Layer {self.name}: {self.kind}, {self.params:,} parameters, {state}"


@dataclass(frozen=True)
class Stage:
    """A named group of layers."""

    name: str
    params: int
    flops: int
    shape: tuple[int, ...] | None
    layers: int
    frozen: int  # how many of its layers are frozen


@dataclass(frozen=True)
class Anatomy:
    """The layers in the order in which data meets them."""

    model: str
    layers: tuple[Layer, ...]
    head: str  # name of the output layer
    detailed: bool = False  # show every layer, not only stages

    @property
    def names(self) -> tuple[str, ...]:
        """Layer names, input to output."""
        return tuple(layer.name for layer in self.layers)

    @property
    def params(self) -> int:
        """Parameters of the whole network, shared ones once."""
        return sum(layer.params for layer in self.layers)

    @property
    def flops(self) -> int:
        """Forward FLOPs for one image."""
        return sum(layer.flops for layer in self.layers)

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The stages, input to output."""
        found: dict[str, list[Layer]] = {}
        for layer in self.layers:
            found.setdefault(layer.stage, []).append(layer)
        return tuple(_stage(name, layers) for name, layers in found.items())

    def with_frozen(self, names: Iterable[str]) -> Anatomy:
        """The same anatomy with just these layers frozen."""
        frozen = set(names)
        return replace(self, layers=tuple(replace(x, frozen=x.name in frozen) for x in self.layers))

    def __repr__(self) -> str:
        frozen = sum(layer.frozen for layer in self.layers)
        return (
            f"Anatomy of {self.model}: {len(self.layers)} layers in {len(self.stages)} stages, {frozen} frozen, "
            f"{self.params:,} parameters, {self.flops / 1e6:,.1f} MFLOP an image"
        )


def _stage(name: str, layers: list[Layer]) -> Stage:
    shapes = [layer.shape for layer in layers if layer.shape]
    return Stage(
        name, sum(x.params for x in layers), sum(x.flops for x in layers), shapes[-1] if shapes else None,
        len(layers), sum(x.frozen for x in layers),
    )  # fmt: skip


def owned(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The layers of a module in definition order: whatever directly owns parameters or buffers."""
    for name, part in module.named_modules():
        if part._parameters or part._buffers:
            yield name or ROOT, part


def read_anatomy(module: nn.Module, size: int, model: str = "model") -> Anatomy:
    """Run one blank image `(1, 3, size, size)` through the module and note what it meets.

    Raises:
        ModelError: the module does not take such an image, or gives no scores `(1, classes)`.
    """
    calls, flops = _one_pass(module, size)
    layers = dict(owned(module))
    order = [n for n in calls if n in layers] + [n for n in layers if n not in calls]
    seen: set[int] = set()
    stages = _stage_names(module)
    found = []
    for name in order:
        params = [p for p in layers[name]._parameters.values() if p is not None and id(p) not in seen]
        seen.update(id(p) for p in params)
        found.append(Layer(
            name, stages(name), type(layers[name]).__name__, sum(p.numel() for p in params), calls.get(name),
            flops.get(name, 0), running_stats="running_mean" in layers[name]._buffers,
        ))  # fmt: skip
    return Anatomy(model, tuple(found), _head(module, found, calls[""]))


def _one_pass(module: nn.Module, size: int) -> tuple[dict[str, tuple[int, ...]], dict[str, int]]:
    """Output shape of every module called, in the order of completion; forward FLOPs by module."""
    from torch.utils.flop_counter import FlopCounterMode

    shapes: dict[str, tuple[int, ...]] = {}
    names = {part: name for name, part in module.named_modules()}

    def note(part: nn.Module, _: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            shapes.setdefault(names[part], tuple(output.shape[1:]))

    handles = [part.register_forward_hook(note) for part in names]
    parameter = next(module.parameters())
    try:
        with evaluating(module), torch.no_grad(), FlopCounterMode(display=False) as counter:
            module(torch.zeros(1, 3, size, size, device=parameter.device))
    except Exception as error:  # whatever a foreign module raises on a foreign input
        reason = " ".join(str(error).split())[:120]
        raise ModelError(f"the network does not take an image (1, 3, {size}, {size}): {reason}") from None
    finally:
        for handle in handles:
            handle.remove()
    if len(shapes.get("", ())) != 1:
        raise ModelError(f"the network gives {shapes.get('', 'no tensor')}: it must give scores (N, classes)")
    prefix = type(module).__name__ + "."
    counts = counter.get_flop_counts()
    return shapes, {n.removeprefix(prefix): sum(c.values()) for n, c in counts.items() if n.startswith(prefix)}


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Eval mode inside, every part's own mode again afterwards."""
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes.items():
            part.training = mode


def _head(module: nn.Module, layers: list[Layer], output: tuple[int, ...]) -> str:
    """The last linear or convolution layer whose output has one channel per score."""
    for layer in reversed(layers):
        part = module.get_submodule(layer.name) if layer.name != ROOT else module
        if isinstance(part, nn.Linear | nn.Conv2d) and layer.shape and output[0] in (layer.shape[0], layer.shape[-1]):
            return layer.name
    raise ModelError(
        "no output layer was found: the last layer must be nn.Linear or nn.Conv2d with one score per class"
    )


def _stage_names(module: nn.Module) -> Any:
    """A function from layer name to stage.

    A stage is a child of the network. While there are fewer than `MIN_STAGES`, the one with most parameters is opened
    where it holds several parts, so that `features` or `encoder` gives way to its blocks.
    """
    stages = [name for name, part in module.named_children() if _size(part)]
    while len(stages) < MIN_STAGES:
        largest = max(stages, key=lambda n: _size(module.get_submodule(n)), default=None)
        if largest is None:
            break
        inner = [f"{largest}.{n}" for n, part in module.get_submodule(largest).named_children() if _size(part)]
        if not inner:
            break
        at = stages.index(largest)
        stages[at : at + 1] = inner

    def stage_of(layer: str) -> str:
        for stage in stages:
            if layer == stage or layer.startswith(stage + "."):
                return stage
        return layer.split(".")[0]

    return stage_of


def _size(part: nn.Module) -> int:
    return sum(p.numel() for p in part.parameters())
