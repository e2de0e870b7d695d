"""Load pretrained models: from the embedded set, torchvision or the user."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tlnb.core.models.catalogue import (
    EMBEDDED,
    Card,
    Catalogue,
    catalogue,
    names,
    torchvision_weights,
)
from tlnb.core.models.module_copy import copied
from tlnb.core.models.originals import (
    AUXILIARY,
    Original,
    at_random,
    original_of,
)
from tlnb.core.models.pretrained_model import (
    Origin,
    PretrainedModel,
    changed_transform,
    facing,
    parameter_count,
    reset_parameters,
    resized,
    retrained,
)
from tlnb.core.models.timm_models import is_timm, timm_original
from tlnb.core.models.transform import IMAGENET, Transform, cfg_transform, stated_cfg
from tlnb.core.models.weights import (
    State,
    different,
    fill,
    last_layer,
    named_as,
    outline,
    read_state,
)
from tlnb.core.runtime.errors import ModelError, did_you_mean, listed
from tlnb.core.runtime.paths import user_path
from tlnb.core.storage.download import Progress, fetch

__all__ = [
    "EMBEDDED",
    "Card",
    "Catalogue",
    "Origin",
    "PretrainedModel",
    "Transform",
    "bare",
    "catalogue",
    "facing",
    "is_name",
    "load",
    "names",
    "resized",
    "retrained",
]


def load(
    source: str | nn.Module | PretrainedModel,
    weights: str | Path = "default",
    *,
    mean: Any = None,
    std: Any = None,
    size: int | None = None,
    called: str | None = None,
    edge: int | None = None,
    progress: Progress | None = None,
    layout: str = "channels_last",
    notes: tuple[str, ...] = (),
) -> PretrainedModel:
    """Load a model by name, or wrap the user's own module.

    Args:
        source: a name from `names()`, `timm/NAME`, `hf-hub:ORG/NAME`, an `nn.Module`, or a loaded
            model.
        weights: `default`, one of torchvision's names (`IMAGENET1K_V1`), `none` (random), or a
            file: safetensors, or a state_dict read with `weights_only=True`. A file may have
            another number of classes than the original.
        mean, std, size: override the preprocessing; the user's own module is assumed to use
            ImageNet's, unless its `pretrained_cfg` (timm) states its own.
        called: the name to show for the user's own module.
        layout, notes: memory layout of images for the user's own module, and the changes made to
            it.
        edge: the data's, in pixels, for which networks of timm that take one size are built.
        progress: called with (bytes done, total bytes) during a download.

    Raises:
        ModelError: the name is unknown, or the weights are unknown, missing, damaged, of another
            architecture, or cannot be downloaded.
        UsageError: a size, mean or standard deviation is out of range.
    """
    weights = str(weights)
    if isinstance(source, PretrainedModel):
        model = source
    elif isinstance(source, nn.Module):
        given = {"mean": mean, "std": std, "size": size}
        model = _own(source, called or type(source).__name__, weights, given, layout, notes)
    elif is_name(source):
        model = _by_name(source, weights, size or edge, progress)
    elif not isinstance(source, str):
        raise ModelError(_wrong_source(source))
    else:
        inside = f"; of a variable inside a function write tl.load({source})"
        otherwise = f"%tl_models lists all{inside * source.isidentifier()}"
        hint = did_you_mean(source, names(), otherwise)
        raise ModelError(f"{source!r} is not the name of a model: {hint}")
    model.module.eval()
    return replace(model, transform=changed_transform(model, mean, std, size))


def _wrong_source(source: object) -> str:
    """Explain in a line what to load instead of an object that is not a network."""
    if isinstance(source, type) and issubclass(source, nn.Module):
        return f"{source.__name__} is a class: build the network, tl.load({source.__name__}())"
    kind = type(source).__name__
    if isinstance(source, Mapping):
        return (
            f"this {kind} holds weights, not a network: build the network, and "
            "tl.load(NETWORK, weights='FILE')"
        )
    return f"an object of type {kind} is not a network: give a name of tl.models(), or an nn.Module"


def is_name(source: object) -> bool:
    """Whether this is a name that `load` knows, or one of timm's kind."""
    return isinstance(source, str) and (source in names() or is_timm(source))


def bare(name: str, scores: int, size: int | None = None) -> PretrainedModel:
    """A randomly initialised model of the catalogue with `scores` outputs.

    Args:
        size: the edge of its images, for which networks of timm that take one size are built.

    Raises:
        ModelError: the name is unknown.
    """
    if not is_name(name):
        hint = did_you_mean(name, names(), "%tl_models lists all")
        raise ModelError(f"{name!r} is not the name of a model: {hint}")
    original = _original(name, next(iter(torchvision_weights(name).values()), None), size)
    module = at_random(partial(original.make, scores))
    return original.with_weights(module, "none", _untrained(original.card), scores)


def _chosen(name: str, weights: str, known: Iterable[str] = ()) -> str:
    """Normalise a choice of weights: `default`, `none`, `file`, or one of the `known` names.

    Names may be written with their class or in lower case.
    """
    if weights in ("default", "none"):
        return weights
    by_lower = {w.lower(): w for w in known}
    plain = weights.rpartition("_Weights.")[2].lower()
    if plain in by_lower:
        return by_lower[plain]
    path = user_path(weights)
    if path.suffix or path.exists() or any(c in weights for c in "/\\"):
        return "file"
    ways = ["default", "none", *by_lower.values()]
    hint = did_you_mean(weights, ways)
    raise ModelError(
        f"{name} has no weights {weights!r}: use {', '.join(ways)} or a file"
        f"{'; ' + hint if hint else ''}"
    )


# ── by name ───────────────────────────────────────────────────────────────────────────────────────

# `norm.1` in files, `norm1` in the network
OLD_DENSENET = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12])\.")


def _original(
    name: str, weights: Any, size: int | None, progress: Progress | None = None
) -> Original:
    if is_timm(name):
        return timm_original(name, size, progress)
    return original_of(name, weights)


def _by_name(
    name: str, weights: str, size: int | None, progress: Progress | None
) -> PretrainedModel:
    known = torchvision_weights(name)
    kind = _chosen(name, weights, known)
    given: Any = known.get(kind) or next(iter(known.values()), None)
    original = _original(name, given, size, progress)
    count = original.count
    if kind == "none":
        module = at_random(partial(original.make, count))
        return original.with_weights(module, kind, _untrained(original.card), count)
    if original.ready is not None and kind == "default":
        module, card = original.ready()
        return original.with_weights(module, kind, replace(card, size=original.card.size), count)
    path = user_path(weights) if kind == "file" else fetch(given.url, name, progress)
    state = read_state(path, checked=kind != "file")
    module, count, notes = _from_file(state, original.make, count, name, lenient=kind == "file")
    if kind == "file":
        card = _from_elsewhere(original.card, state.file, notes, count, path.stat().st_size)
        count = count or original.count
        return original.with_weights(module, weights, card, count)
    card = replace(original.card, on_disk=True, notes=(*original.card.notes, *notes))
    return original.with_weights(module, kind, card, count)


def _today(state: State, name: str) -> State:
    """Rename a state to today's names, without auxiliary heads."""
    dropped = AUXILIARY.get(name, ())
    return state.renamed(
        lambda key: None if key.startswith(dropped) else OLD_DENSENET.sub(r"\1\2.", key)
    )


def _from_file(
    state: State, make: Callable[[int], nn.Module], classes: int, name: str, lenient: bool
) -> tuple[nn.Module, int, tuple[str, ...]]:
    """Load a file into the network; returns network, number of classes, and notes.

    The number is the file's if only the output layer differs, and 0 if the file lacks one.
    """
    module = outline(partial(make, classes))
    state = _today(named_as(state, module) if lenient else state, name)
    shapes = [pair for pair in different(module, state).values() if pair[0]]
    counts = {shape[0] for shape, own in shapes if (classes, *shape[1:]) == own}
    if len(counts) == 1:
        other = outline(partial(make, *counts))
        if not different(other, state):
            module, classes = other, counts.pop()
    notes = fill(module, state, name, lenient)
    known = any(key.startswith(f"{last_layer(module)}.") for key in state)
    return module, classes if known else 0, (*state.notes, *notes)


def _from_elsewhere(card: Card, file: str, notes: tuple[str, ...], classes: int, size: int) -> Card:
    """The card of the network with weights from a file, about which nothing else is known."""
    if not classes:
        also = "what its scores meant is not known"
    elif classes == card.source_classes:
        also = f"{classes:,} classes, assumed to be those of {card.source} in their order"
    else:
        own = f"{card.source_classes:,}"
        also = f"the output layer has {classes:,} classes of unknown names, the original has {own}"
    return replace(
        _untrained(card),
        source=f"unknown data (weights from {file})",
        source_classes=classes or None,
        bytes=size,
        notes=(*card.notes, *notes, also),
    )


def _untrained(card: Card) -> Card:
    """The card of the randomly initialised network."""
    others = (replace(card, others=()), *card.others) if card.weights else ()
    return replace(
        card,
        source="nothing (a random start)",
        source_images=None,
        source_classes=None,
        accuracy=None,
        accuracy_of="",
        top5=None,
        bytes=None,
        licence="",
        recipe="",
        about="",
        training={},
        on_disk=True,
        weights="",
        others=others,
    )


# ── one's own ─────────────────────────────────────────────────────────────────────────────────────


def _own(
    module: nn.Module,
    called: str,
    weights: str,
    given: Mapping[str, Any],
    layout: str,
    notes: tuple[str, ...],
) -> PretrainedModel:
    """Wrap a copy of the user's own module.

    Args:
        given: the parts of the preprocessing by name; None: assumed.
    """
    if not parameter_count(module):
        raise ModelError(f"{called} has no parameters: give a network to train")
    cfg = stated_cfg(module)
    notes += _told(called, given, bool(cfg))
    module, source, read = _own_weights(copied(module), called, weights)
    _check_numbers(module, called)
    card = Card(
        name=called,
        family="own",
        source=source,
        parameters=parameter_count(module),
        on_disk=True,
        notes=(*notes, *read),
    )
    transform = cfg_transform(cfg or IMAGENET, layout=layout)
    origin = Origin(name=called, family="own")
    return PretrainedModel(
        name=called, module=module, transform=transform, card=card, weights=weights, origin=origin
    )


def _told(called: str, given: Mapping[str, Any], stated: bool) -> tuple[str, ...]:
    """Notes on what was not given: the preprocessing, and which of two things a name means."""
    own = f"your variable {called}, not the model of that name in %tl_models"
    notes = [own] if called in names() else []
    assumed = [part for part, value in given.items() if value is None]
    parts = ", ".join(assumed)
    if assumed and stated:
        return f"preprocessing as its pretrained_cfg states it: {parts}", *notes
    if assumed:
        ways = ", ".join(f"{part}=" for part in assumed)
        return f"preprocessing assumed to be ImageNet's: {parts} ({ways} change it)", *notes
    return tuple(notes)


def _own_weights(
    module: nn.Module, called: str, weights: str
) -> tuple[nn.Module, str, tuple[str, ...]]:
    """The user's module with the weights asked for, what they learned from, and notes on a file."""
    kind = _chosen(called, weights)
    if kind == "none":
        return at_random(partial(reset_parameters, module)), "nothing (a random start)", ()
    if kind != "file":
        return module, "unknown data (your own module)", ()
    state = named_as(read_state(user_path(weights)), module)
    notes = (*state.notes, *fill(module, state, called, lenient=True))
    return module, f"unknown data (weights from {state.file})", notes


def _check_numbers(module: nn.Module, called: str) -> None:
    """Raise `ModelError` if weights or running statistics are NaN or infinite.

    Nothing can be learned from such a start.
    """
    broken = [name for name, p in module.named_parameters() if not bool(torch.isfinite(p).all())]
    broken += [n for n, b in module.named_buffers() if b.is_floating_point() and b.isnan().any()]
    if broken:
        raise ModelError(
            f"{called} holds NaN or infinite numbers in {listed(broken, 3)}, as a failed training "
            "leaves them: load other weights, or --weights none for a random start"
        )
