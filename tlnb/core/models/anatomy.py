"""The anatomy of a network: its layers from input to output, read in one forward pass."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import takewhile
from operator import attrgetter

from torch import nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from tlnb.core.models.stages import ROOT, UNUSED, name_stages
from tlnb.core.models.tracing import IMAGE, Watched, watch
from tlnb.core.runtime.errors import ModelError, OneLine

# torch's names of operations
NORMS = ("batch_norm", "batch_norm_legit_no_training", "layer_norm", "group_norm")

__all__ = ["ROOT", "UNUSED", "Anatomy", "Layer", "Stage", "evaluating", "owned", "read_anatomy"]


@dataclass(frozen=True, kw_only=True)
class Layer(OneLine):
    """A module that directly owns parameters or buffers."""

    name: str
    stage: str
    kind: str
    params: int  # a shared parameter counts for the first layer that uses it
    # output for one image, without the batch; None if it was not called
    shape: tuple[int, ...] | None
    flops: int  # forward, one image; a multiply-add counts as two
    frozen: bool = False
    running_stats: bool = False
    used: bool = True  # whether the scores depend on it

    def __repr__(self) -> str:
        state = "frozen" if self.frozen else "trains"
        if not self.used:
            state = "unused"
        return f"Layer {self.name}: {self.kind}, {self.params:,} parameters, {state}"


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A named group of layers."""

    name: str
    params: int
    flops: int
    shape: tuple[int, ...] | None
    layers: int
    frozen: int  # number of frozen layers
    running_stats: int = 0  # number of layers with running statistics
    frozen_params: int = 0
    frozen_flops: int = 0  # forward FLOPs of its frozen layers
    used: bool = True


@dataclass(frozen=True, kw_only=True)
class Anatomy(OneLine):
    """The layers in the order of the data flow.

    Layers that the scores do not depend on come last.
    """

    model: str
    layers: tuple[Layer, ...]
    head: str  # name of the output layer
    heads: tuple[str, ...]  # all output layers, if the scores combine several; else just `head`
    detailed: bool = False  # show every layer, not only stages
    # the network gives probabilities, but cross-entropy needs logits
    softmax_after_head: bool = False
    softmax: str | None = None  # the nn.Softmax that computes them, if it is a module

    @property
    def names(self) -> tuple[str, ...]:
        """Layer names, input to output."""
        return tuple(layer.name for layer in self.layers)

    @property
    def params(self) -> int:
        """Number of parameters of the whole network; shared ones count once."""
        return sum(layer.params for layer in self.layers)

    @property
    def flops(self) -> int:
        """Forward FLOPs for one image."""
        return sum(layer.flops for layer in self.layers)

    @property
    def step_flops(self) -> int:
        """FLOPs of a training step for one image without a cache, from the forward FLOPs.

        The gradient of a layer's weights costs as much as its forward pass, and so does that of its
        input, which is needed if something before it is trained.
        """
        total, needed = self.flops, False
        for layer in self.layers:
            total += layer.flops * (needed + (not layer.frozen))
            needed = needed or not layer.frozen
        return total

    @property
    def once_flops(self) -> int:
        """Forward FLOPs of all layers before the first trained one.

        They are needed only once per image.
        """
        return sum(layer.flops for layer in takewhile(attrgetter("frozen"), self.layers))

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The stages, input to output."""
        by_stage: dict[str, list[Layer]] = {}
        for layer in self.layers:
            by_stage.setdefault(layer.stage, []).append(layer)
        return tuple(_stage(name, layers) for name, layers in by_stage.items())

    def with_frozen(self, names: Iterable[str]) -> Anatomy:
        """The same anatomy with exactly these layers frozen."""
        frozen = set(names)
        return replace(self, layers=tuple(replace(x, frozen=x.name in frozen) for x in self.layers))

    @property
    def warnings(self) -> tuple[str, ...]:
        """Problems noticed before any training, one sentence each."""
        if not self.softmax_after_head:
            return ()
        remedy = "remove it from the network's forward"
        if self.softmax:
            remedy = f"%tl_remove {self.softmax}"
        return (
            f"a softmax comes after the output layer {self.head}; the loss (cross-entropy) applies "
            f"one itself, and two in a row learn slowly and badly: {remedy}",
        )

    def stages_of(self, names: Iterable[str]) -> tuple[str, ...]:
        """The stages that contain any of these layers, input to output."""
        wanted = set(names)
        return tuple(dict.fromkeys(layer.stage for layer in self.layers if layer.name in wanted))

    def __repr__(self) -> str:
        frozen = sum(layer.frozen for layer in self.layers)
        return (
            f"Anatomy of {self.model}: {len(self.layers)} layers in {len(self.stages)} stages, "
            f"{frozen} frozen, {self.params:,} parameters, {self.flops / 1e6:,.1f} MFLOP an image"
        )


def _stage(name: str, layers: list[Layer]) -> Stage:
    shapes = [layer.shape for layer in layers if layer.shape]
    frozen = [layer for layer in layers if layer.frozen]
    return Stage(
        name=name,
        params=sum(x.params for x in layers),
        flops=sum(x.flops for x in layers),
        shape=shapes[-1] if shapes else None,
        layers=len(layers),
        frozen=len(frozen),
        running_stats=sum(x.running_stats for x in layers),
        frozen_params=sum(x.params for x in frozen),
        frozen_flops=sum(x.flops for x in frozen),
        used=any(x.used for x in layers),
    )


def owned(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The layers of a module in definition order.

    Layers are modules that directly own parameters or buffers.
    """
    for name, part in module.named_modules():
        if part._parameters or part._buffers:
            yield name or ROOT, part


def read_anatomy(module: nn.Module, size: int, model: str = "model") -> Anatomy:
    """Trace one blank image `(1, 3, size, size)` through the module.

    The pass runs on a copy without data (`watch`): the module stays as it is, and its size costs
    nothing. FLOPs are torch's counts of matrix products and convolutions; operations without
    weights of their own (attention's products) count for the layer that they happen in, else for
    the one before.

    Raises:
        ModelError: the module rejects such an image, does not return scores `(1, classes)`, or has
            no replaceable output layer.
    """
    seen = watch(module, size)
    layers = dict(owned(module))
    met = _met(seen)
    heads, softmax = _heads(seen, layers, met)
    work = _work(seen, layers)
    used = [n for n in met if n in layers]
    stages = name_stages(module, used, heads, work, seen.shapes)
    order = list(dict.fromkeys(stages.values()))
    used.sort(key=lambda n: order.index(stages[n]))
    rest = [n for n in layers if n not in met]
    params = _own_parameters({name: layers[name] for name in [*used, *rest]})
    entries = [
        Layer(
            name=name,
            stage=stages.get(name, UNUSED),
            kind=_kind(layers[name]),
            params=count,
            shape=_shape(seen, name),
            flops=work.get(name, 0),
            running_stats="running_mean" in layers[name]._buffers,
            used=name in stages,
        )
        for name, count in params.items()
    ]
    read = Anatomy(model=model, layers=tuple(entries), head=heads[0], heads=heads)
    if softmax is None:
        return read
    is_module = softmax and isinstance(module.get_submodule(softmax), nn.Softmax)
    return replace(read, softmax_after_head=True, softmax=softmax if is_module else None)


def _own_parameters(layers: Mapping[str, nn.Module]) -> dict[str, int]:
    """Parameters by layer; one that several layers share counts for the first."""
    counted: set[int] = set()
    sizes = {}
    for name, layer in layers.items():
        own = [p for p in layer._parameters.values() if p is not None and id(p) not in counted]
        counted.update(id(p) for p in own)
        sizes[name] = sum(p.numel() for p in own)
    return sizes


def _kind(part: nn.Module) -> str:
    """The layer's class; attention's output is an nn.Linear by another name."""
    return "Linear" if type(part) is NonDynamicallyQuantizableLinear else type(part).__name__


def _met(seen: Watched) -> dict[str, int]:
    """The layers that the scores depend on, in data-flow order, with the step of first use."""
    needed = seen.needed()
    # without a traceable path (lost in NumPy, say), everything that ran counts
    whole = IMAGE not in needed
    met: dict[str, int] = {}
    for i, step in enumerate(seen.steps):
        if whole or i in needed:
            for name in step.layers:
                met.setdefault(name or ROOT, i)
    return met


def _shape(seen: Watched, name: str) -> tuple[int, ...] | None:
    """A module's output shape.

    If it was not called, it is that of the first operation that used it.
    """
    if name in seen.shapes:
        return seen.shapes[name]
    inner = "" if name == ROOT else name
    return next((step.shape[1:] for step in seen.steps if inner in step.layers), None)


def _work(seen: Watched, layers: dict[str, nn.Module]) -> dict[str, int]:
    """FLOPs per layer; they sum to those of the pass."""
    work: dict[str, int] = {}
    before, waiting = None, 0
    for step in seen.steps:
        names = [n or ROOT for n in step.layers]
        inner = step.module or ROOT
        if inner in (names or layers):
            target: str | None = inner
        else:
            target = names[0] if names else before
        before = target if names else before
        if target is None:
            waiting += step.flops
        elif step.flops or waiting:
            work[target] = work.get(target, 0) + step.flops + waiting
            waiting = 0
    return work


# ── the output layer ──────────────────────────────────────────────────────────────────────────────


def _heads(
    seen: Watched, layers: dict[str, nn.Module], met: dict[str, int]
) -> tuple[tuple[str, ...], str | None]:
    """The layers that compute the scores, and the module that applies a softmax after them.

    The path back from the scores, through operations without weights (pooling, activations, means
    of several), ends at these layers.
    """
    ends, softmax = _way_back(seen)
    if IMAGE not in seen.needed():
        ends = [n for n in reversed(met) if _fits(layers[n], seen.scores)][:1]
    heads = tuple(n for n in met if n in ends and _fits(layers[n], seen.scores))
    if heads:
        return heads, softmax
    last = "the last layer"
    if ends:
        last = f"the last layer, {ends[0]}, is a {type(layers[ends[0]]).__name__}: it"
    raise ModelError(
        f"no output layer was found: {last} must be nn.Linear or nn.Conv2d with one score per class"
    )


def _way_back(seen: Watched) -> tuple[list[str], str | None]:
    ends: list[str] = []
    softmax = None
    open_ends, been = [(seen.output, False)], {IMAGE}
    while open_ends:
        i, logged = open_ends.pop()
        if i in been:
            continue
        been.add(i)
        step = seen.steps[i]
        if step.flops and step.layers:
            ends.append(step.layers[0] or ROOT)
            continue
        if step.name.endswith(NORMS):
            continue  # features are normalised, scores are not: not an output layer
        # its logarithm is log_softmax, which is harmless
        if step.name == "_softmax" and not logged:
            softmax = step.module
        open_ends += [(j, logged or step.name == "log") for j in step.inputs]
    return ends, softmax


def _fits(part: nn.Module, scores: int) -> bool:
    if isinstance(part, nn.Linear):
        return part.out_features == scores
    return isinstance(part, nn.Conv2d) and part.out_channels == scores


# ── modes ─────────────────────────────────────────────────────────────────────────────────────────


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Eval mode within the context; every module's own mode is restored afterwards."""
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes.items():
            part.training = mode
