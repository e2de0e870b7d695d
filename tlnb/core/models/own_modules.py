"""Prepare the user's own network for tracing and training: on a copy, reporting each change.

Multi-GPU wrappers and compiled code are removed; half precision becomes single; lazy layers get
their shapes; of several outputs, the scores are used; a network without an output layer gets one;
code that needs contiguous images (`x.view(x.size(0), -1)`) gets them; and so does a network for
images of one size.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from tlnb.core.models.module_copy import copied
from tlnb.core.models.own_outputs import append_output_layer, select_scores
from tlnb.core.models.tracing import refuse_compiled
from tlnb.core.models.transform import cfg_transform, stated_cfg
from tlnb.core.runtime.errors import ModelError, listed
from tlnb.core.runtime.torch_lock import alone

DEFAULT_EDGE = 224
# For networks that take images of one size, the most common first.
COMMON_EDGES = (
    *(32, 28, 64, 96, 128, 48, 299, 256, 227, 160, 192, 100, 150, 180, 200, 300, 112, 84, 80),
    *(56, 40, 36, 24, 20, 16),
)


@dataclass(frozen=True, kw_only=True)
class Adopted:
    """A network ready for use, with the changes made, its memory layout and its edge.

    The edge is set only if the network takes no other.
    """

    module: nn.Module = field(repr=False)
    notes: tuple[str, ...] = ()
    layout: str = "channels_last"  # or "contiguous"
    size: int | None = None


@dataclass(frozen=True, kw_only=True)
class _Passed:
    """The result of a pass with two blank images."""

    output: Any = None
    by_layers: tuple[Tensor, ...] = ()  # outputs of linear layers
    failed: str = ""  # why it raised


def adopt(module: nn.Module, size: int | None = None) -> Adopted:
    """Copy the network and prepare it for tlnb.

    Args:
        size: the input edge in pixels, from which lazy layers get their shapes; None: the one
            that its `pretrained_cfg` states, the usual one, or the only one that it takes.

    Raises:
        ModelError: it cannot be copied or trained, or does not return scores.
    """
    bare, notes = _unwrapped(module)
    stated = stated_cfg(bare)
    edge = size or (cfg_transform(stated).size if stated else DEFAULT_EDGE)
    _check_trainable(bare)
    own = copied(bare)
    notes += _compiled_inside(own) + _shaped(own, edge) + _single(own)
    if not any(p.numel() for p in own.parameters()):
        return Adopted(module=own, notes=tuple(notes))  # refused when it is loaded
    layout, passed = _layout(own, edge)
    only_edge = _only_size(own) if passed.failed and size is None else None
    if only_edge:
        takes = f"it takes images of {only_edge}×{only_edge} pixels"
        notes = [*notes, f"{takes}, and rejects {edge}×{edge}"]
        layout, passed = _layout(own, only_edge)
    if not passed.failed:
        notes += _select_scores(own, only_edge or edge, layout, passed)
    if layout == "contiguous":
        notes.append(
            "its code needs contiguous memory (x.view(...)): images are laid out so, which is "
            "a little slower"
        )
    return Adopted(module=own, notes=tuple(notes), layout=layout, size=only_edge)


# ── wrappers, types, shapes ───────────────────────────────────────────────────────────────────────


def _check_trainable(module: nn.Module) -> None:
    """Raise `ModelError` if a network's code or weights cannot be trained in their form."""
    name, weights = type(module).__name__, next(module.parameters(), None)
    refuse_compiled(module, name)
    quantized = [n for n, part in module.named_modules() if ".quantized." in type(part).__module__]
    if quantized:
        raise ModelError(
            f"{name} holds quantized layers ({listed(quantized, 3)}), which cannot be trained: "
            "load it as it was before"
        )
    if weights is not None and weights.is_meta:
        raise ModelError(
            f"{name} has no weights (its parameters are on the device 'meta'): build it without "
            "torch.device('meta')"
        )


def _inner(module: nn.Module) -> nn.Module | None:
    """The module inside DataParallel, DistributedDataParallel or torch.compile, else None."""
    if isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
        inner: nn.Module = module.module
        return inner
    original = getattr(module, "_orig_mod", None)
    return original if isinstance(original, nn.Module) else None


def _unwrapped(module: nn.Module) -> tuple[nn.Module, list[str]]:
    notes = []
    while (inner := _inner(module)) is not None:
        notes.append(f"taken out of its {type(module).__name__}")
        module = inner
    return module, notes


def _compiled_inside(module: nn.Module) -> list[str]:
    wrapped = [name for name, part in module.named_modules() if name and _inner(part) is not None]
    for name in wrapped:
        inner = _inner(module.get_submodule(name))
        assert inner is not None
        module.set_submodule(name, inner)
    return [f"taken out of their wrappers: {listed(wrapped, 4)}"] if wrapped else []


def _shaped(module: nn.Module, edge: int) -> list[str]:
    """Run one pass if layers are lazy.

    Raises:
        ModelError: the pass fails, so their shapes stay unknown.
    """
    parts = module.named_modules()
    lazy = [name for name, part in parts if any(map(is_lazy, part._parameters.values()))]
    if not lazy:
        return []
    try:
        with alone(), torch.random.fork_rng(devices=[]), torch.no_grad():
            module.eval()(torch.zeros(2, 3, edge, edge))
    except Exception as error:  # the network's own code may raise anything
        reason = " ".join(str(error).split())[:100]
        raise ModelError(
            f"lazy layers ({listed(lazy, 3)}) get no shapes from images of {edge}×{edge} "
            f"({reason}): give --size PX, or call the network once"
        ) from None
    return [f"lazy layers got their shapes from images of {edge}×{edge} pixels: {listed(lazy, 4)}"]


def _single(module: nn.Module) -> list[str]:
    tensors = (*module.parameters(), *module.buffers())
    kinds = {t.dtype for t in tensors if t.is_floating_point()} - {torch.float32}
    if not kinds:
        return []
    module.float()
    names = sorted(str(kind).removeprefix("torch.") for kind in kinds)
    return [f"converted from {listed(names)} to float32"]


# ── what it takes, and what it gives ──────────────────────────────────────────────────────────────


def _select_scores(module: nn.Module, edge: int, layout: str, in_eval: _Passed) -> list[str]:
    """Make the network return scores, whatever it returns.

    Raises:
        ModelError: it does not return scores, or fails in training mode.
    """
    in_training = _passed(module, edge, layout, training=True)
    if in_training.failed:
        raise ModelError(
            f"in training mode {type(module).__name__} does not take images of {edge}×{edge} "
            f"({in_training.failed}): give --size PX"
        )
    notes = select_scores(module, in_eval.output, in_training.output, in_eval.by_layers)
    return notes + append_output_layer(module, edge)


def _layout(module: nn.Module, edge: int) -> tuple[str, _Passed]:
    """The memory layout that the network needs, and its output in eval mode."""
    for layout in ("channels_last", "contiguous"):
        passed = _passed(module, edge, layout)
        if not passed.failed:
            return layout, passed
    return "channels_last", passed


def _only_size(module: nn.Module) -> int | None:
    """The only image edge that the network takes; None if it was not found.

    It differs from the usual one.
    """
    fit = (edge for edge in COMMON_EDGES if not _passed(module, edge, "contiguous").failed)
    return next(fit, None)


def _passed(module: nn.Module, edge: int, layout: str, training: bool = False) -> _Passed:
    """Run two blank images through a copy of the network."""
    twin = copied(module).train(training)
    form = getattr(torch, f"{layout}_format" if layout == "contiguous" else layout)
    device = next(twin.parameters()).device
    image = torch.zeros(2, 3, edge, edge, device=device).contiguous(memory_format=form)
    try:
        with alone(), torch.random.fork_rng(devices=[]), torch.no_grad(), _linear(twin) as given:
            return _Passed(output=twin.to(memory_format=form)(image), by_layers=tuple(given))
    except Exception as error:  # the network's own code may raise anything on a wrong image
        return _Passed(failed=" ".join(str(error).split())[:100] or type(error).__name__)


@contextmanager
def _linear(module: nn.Module) -> Iterator[list[Tensor]]:
    """Record the outputs of linear layers, from the last called to the first."""
    given: list[Tensor] = []
    layers = [part for part in module.modules() if isinstance(part, nn.Linear)]
    hooks = [part.register_forward_hook(lambda _, __, y: given.insert(0, y)) for part in layers]
    try:
        yield given
    finally:
        for hook in hooks:
            hook.remove()
