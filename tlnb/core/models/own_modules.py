"""One's own network, as people have it, made ready to be traced and trained: on a copy, each change said.

Wrappers for several GPUs and compiled code are taken off; half precision becomes single; lazy layers get their shapes; of several
outputs the scores are used; an output layer is appended where there is none; and where code insists on images that are
contiguous in memory (`x.view(x.size(0), -1)`), they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Proxy
from torch.nn.parameter import is_lazy

from tlnb.core.models.anatomy import read_anatomy
from tlnb.core.models.module_copy import copied
from tlnb.core.models.tracing import watch
from tlnb.core.runtime.errors import ModelError, listed
from tlnb.core.runtime.torch_lock import alone

USUAL_EDGE = 224
NAMES = (
    "logits",
    "scores",
    "out",
    "output",
    "outputs",
    "pred",
    "preds",
    "prediction",
    "predictions",
)
OUTPUT = "output_layer"  # the name of one that is appended
FAILED = object()  # the network does not take such an image: said where its anatomy is read


@dataclass(frozen=True)
class Adopted:
    """A network ready for use, what was done to it, and how images lie in memory for it."""

    module: nn.Module = field(repr=False)
    notes: tuple[str, ...] = ()
    layout: str = "channels_last"  # or "contiguous"


def adopt(module: nn.Module, size: int | None = None) -> Adopted:
    """A copy of the network, as tlnb can use it.

    Args:
        size: the input edge in pixels, by which lazy layers get their shapes.

    Raises:
        ModelError: it cannot be copied, or gives no scores.
    """
    edge = size or USUAL_EDGE
    bare, notes = _unwrapped(module)
    own = copied(bare)
    notes += _compiled_inside(own) + _shaped(own, edge) + _single(own)
    if not any(p.numel() for p in own.parameters()):
        return Adopted(own, tuple(notes))  # refused where it is loaded
    layout, output = _layout(own, edge)
    if output is not FAILED:
        notes += _one_output(own, output, _passed(own, edge, layout, training=True))
        notes += _ending(own, edge)
    if layout == "contiguous":
        notes.append(
            "its code needs contiguous memory (x.view(...)): images are laid out so, which is a little slower"
        )
    return Adopted(own, tuple(notes), layout)


# ── wrappers, types, shapes ───────────────────────────────────────────────────────────────────────────────────────


def _inner(module: nn.Module) -> nn.Module | None:
    """What DataParallel, DistributedDataParallel or torch.compile wraps; None for any other module."""
    if isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
        inner: nn.Module = module.module
        return inner
    found = getattr(module, "_orig_mod", None)
    return found if isinstance(found, nn.Module) else None


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
    """One pass where layers are lazy.

    Raises:
        ModelError: the pass fails, so that their shapes stay unknown.
    """
    lazy = [
        name
        for name, part in module.named_modules()
        if any(map(is_lazy, part._parameters.values()))
    ]
    if not lazy:
        return []
    try:
        with alone(), torch.random.fork_rng(devices=[]), torch.no_grad():
            module.eval()(torch.zeros(2, 3, edge, edge))
    except Exception as error:  # whatever the network's own code raises
        reason = " ".join(str(error).split())[:100]
        raise ModelError(
            f"lazy layers ({listed(lazy, 3)}) get no shapes from images of {edge}×{edge} ({reason}): give --size PX, "
            "or call the network once"
        ) from None
    return [f"lazy layers got their shapes from images of {edge}×{edge} pixels: {listed(lazy, 4)}"]


def _single(module: nn.Module) -> list[str]:
    kinds = {
        t.dtype for t in (*module.parameters(), *module.buffers()) if t.is_floating_point()
    } - {torch.float32}
    if not kinds:
        return []
    module.float()
    return [
        f"converted from {listed(sorted(str(kind).removeprefix('torch.') for kind in kinds))} to float32"
    ]


# ── what it takes, and what it gives ──────────────────────────────────────────────────────────────────────────────


def _layout(module: nn.Module, edge: int) -> tuple[str, Any]:
    """How images have to lie in memory, and what the network gives for them in eval mode."""
    for layout in ("channels_last", "contiguous"):
        output = _passed(module, edge, layout)
        if output is not FAILED:
            return layout, output
    return "channels_last", FAILED


def _passed(module: nn.Module, edge: int, layout: str, training: bool = False) -> Any:
    """What a copy gives for two blank images; `FAILED` where it raises."""
    twin, form = (
        copied(module).train(training),
        getattr(torch, f"{layout}_format" if layout == "contiguous" else layout),
    )
    device = next(twin.parameters()).device
    image = torch.zeros(2, 3, edge, edge, device=device).contiguous(memory_format=form)
    try:
        with alone(), torch.random.fork_rng(devices=[]), torch.no_grad():
            return twin.to(memory_format=form)(image)
    except Exception:  # whatever the network's own code raises on an image that it does not take
        return FAILED


def scores_of(output: Any) -> Any:
    """The scores among what a network gives: the logits of a mapping, the first of several; a tensor is itself."""
    if isinstance(output, Tensor | Proxy):
        return output
    if isinstance(output, Mapping):
        name = next((name for name in NAMES if name in output), None)
        return output[name] if name else next(iter(output.values())) if len(output) == 1 else output
    if isinstance(output, tuple | list) and output:
        return scores_of(output[0])
    return getattr(output, "logits", output)


def _one_output(module: nn.Module, in_eval: Any, in_training: Any) -> list[str]:
    """Let the network give its scores alone, where it gives more.

    Raises:
        ModelError: no scores are among it.
    """
    several = [
        each
        for each in (in_eval, in_training)
        if each is not FAILED and not isinstance(each, Tensor)
    ]
    for each in several:
        if not isinstance(scores_of(each), Tensor):
            raise ModelError(
                f"the network gives {_words(each)}: it must give scores (N, classes), or those as 'logits'"
            )
    if not several:
        return []
    kind = type(module)
    _give(module, lambda self, x: scores_of(kind.forward(self, x)))
    when = "" if not isinstance(in_eval, Tensor) else " while it trains"
    return [
        f"it gives {_words(several[0])}{when}: the {_which(several[0])} is used, the rest is not trained"
    ]


def _words(output: Any) -> str:
    kind = type(output).__name__
    article = "an" if kind[0].lower() in "aeiou" else "a"
    inside = f" of {listed(map(str, output), 6)}" if isinstance(output, Mapping) else ""
    return f"{article} {kind}{inside}"


def _which(output: Any) -> str:
    if isinstance(output, Mapping):
        return next((name for name in NAMES if name in output), "only value")
    return "first" if isinstance(output, tuple | list) else "logits"


def _give(module: nn.Module, forward: Any) -> None:
    """Give a module another `forward`; its names, its class's name and its source stay."""
    kind = type(module)
    body = {
        "forward": forward,
        "__module__": kind.__module__,
        "__qualname__": kind.__qualname__,
        "__doc__": kind.__doc__,
    }
    module.__class__ = type(kind.__name__, (kind,), body)


def _ending(module: nn.Module, edge: int) -> list[str]:
    """Append an output layer where the network ends in features.

    Raises:
        ModelError: it gives neither scores nor features.
    """
    try:
        read_anatomy(module, edge)
    except ModelError as error:
        if "no output layer" not in str(error):
            return []  # said where its anatomy is read, with the data at hand
    else:
        return []
    width = watch(module, edge).scores
    last = [name for name, part in module.named_modules() if name]
    end = next(
        (name for name in reversed(last) if type(module.get_submodule(name)) is nn.Identity), None
    )
    with alone(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layer = nn.Linear(width, 2)
    if end is not None and end == last[-1]:
        module.set_submodule(end, layer)
        return [f"it ends in {width} features, without an output layer: {end} becomes one"]
    kind = type(module)
    module.add_module(OUTPUT, layer)
    _give(module, lambda self, x: getattr(self, OUTPUT)(kind.forward(self, x)))
    return [f"it ends in {width} features, without an output layer: {OUTPUT} is appended"]
