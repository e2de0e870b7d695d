"""Load pretrained models: from the embedded set, torchvision or the user."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tlnb import glyphnet
from tlnb.core.models.catalogue import (
    EMBEDDED,
    Card,
    Catalogue,
    catalogue,
    embedded_card,
    names,
    torchvision_card,
    torchvision_weights,
)
from tlnb.core.models.module_copy import copied
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
from tlnb.core.models.transform import Transform
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
from tlnb.core.runtime.torch_lock import alone
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
    "load",
    "names",
    "resized",
    "retrained",
]

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def load(
    source: str | nn.Module | PretrainedModel,
    weights: str | Path = "default",
    *,
    mean: Any = None,
    std: Any = None,
    size: int | None = None,
    called: str | None = None,
    progress: Progress | None = None,
    layout: str = "channels_last",
    notes: tuple[str, ...] = (),
) -> PretrainedModel:
    """Load a model by name, or wrap the user's own module.

    Args:
        source: a name from `names()`, an `nn.Module`, or a loaded model.
        weights: `default`, one of torchvision's names (`IMAGENET1K_V1`), `none` (random), or a
            file: safetensors, or a state_dict read with `weights_only=True`. A file may have
            another number of classes than the original.
        mean, std, size: override the preprocessing; the user's own module is assumed to use
        ImageNet's.
        called: the name to show for the user's own module.
        layout, notes: memory layout of images for the user's own module, and the changes made to
        it.
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
    elif source in names():
        model = _by_name(source, weights, progress)
    elif not isinstance(source, str):
        raise ModelError(_wrong_source(source))
    else:
        otherwise = f"%tl_models lists all; of a variable inside a function write tl.load({source})"
        hint = did_you_mean(
            source, names(), otherwise if source.isidentifier() else "%tl_models lists all"
        )
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


def bare(name: str, scores: int) -> PretrainedModel:
    """A randomly initialised model of the catalogue with `scores` outputs.

    Raises:
        ModelError: the name is unknown.
    """
    if name not in names():
        raise ModelError(
            f"{name!r} is not the name of a model: "
            f"{did_you_mean(name, names(), '%tl_models lists all')}"
        )
    given = next(iter(torchvision_weights(name).values()), None)
    original = _embedded(name) if given is None else _torchvision(name, given)
    return original.with_weights(
        _at_random(partial(original.make, scores)), "none", _untrained(original.card), scores
    )


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


def _at_random(make: Callable[[], nn.Module]) -> nn.Module:
    """Build a network with a fixed seed, leaving torch's global random state as it was."""
    with alone(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make()


# ── by name ───────────────────────────────────────────────────────────────────────────────────────

AUXILIARY = {
    "googlenet": ("aux1.", "aux2."),
    "inception_v3": ("AuxLogits.",),
}  # heads that only help training
NO_AUXILIARY = "auxiliary heads, which only help to train from scratch, are left out"
OLD_DENSENET = re.compile(
    r"(denselayer\d+\.(?:norm|conv))\.([12])\."
)  # `norm.1` in files, `norm1` in the network


@dataclass(frozen=True, kw_only=True)
class _Original:
    """A model of the catalogue before it gets its weights."""

    card: Card
    transform: Transform
    classes: tuple[str, ...]  # empty if the weights have no useful output layer
    count: int  # number of scores
    make: Callable[[int], nn.Module] = field(
        repr=False
    )  # builds the network for a number of classes

    def with_weights(
        self, module: nn.Module, weights: str, card: Card, count: int
    ) -> PretrainedModel:
        card = replace(card, parameters=parameter_count(module))
        classes = self.classes if card.source_classes == len(self.classes) else None
        origin = Origin(name=card.name, family=card.family, scores=count)
        return PretrainedModel(
            name=card.name,
            module=module,
            transform=self.transform,
            card=card,
            weights=weights,
            architecture=partial(self.make, count),
            classes=classes,
            origin=origin,
        )


def _by_name(name: str, weights: str, progress: Progress | None) -> PretrainedModel:
    known = torchvision_weights(name)
    kind = _chosen(name, weights, known)
    given: Any = known.get(kind) or next(iter(known.values()), None)
    original = _embedded(name) if given is None else _torchvision(name, given)
    count = original.count
    if kind == "none":
        module = _at_random(partial(original.make, count))
        return original.with_weights(module, kind, _untrained(original.card), count)
    if given is None and kind == "default":
        return original.with_weights(_embedded_module(name), kind, original.card, count)
    path = user_path(weights) if kind == "file" else fetch(given.url, name, progress)
    state = read_state(path, checked=kind != "file")
    module, count, notes = _from_file(state, original.make, count, name, lenient=kind == "file")
    if kind == "file":
        card = _from_elsewhere(original.card, state.file, notes, count, path.stat().st_size)
        count = count or original.count
        return original.with_weights(module, weights, card, count)
    card = replace(original.card, on_disk=True, notes=(*original.card.notes, *notes))
    return original.with_weights(module, kind, card, count)


def _embedded(name: str) -> _Original:
    transform = Transform(
        size=glyphnet.SIZE, resize=glyphnet.SIZE, mean=glyphnet.MEAN, std=glyphnet.STD
    )
    classes = tuple(glyphnet.card(name)["classes"])
    return _Original(
        card=embedded_card(name),
        transform=transform,
        classes=classes,
        count=len(classes),
        make=glyphnet.GlyphNet,
    )


def _embedded_module(name: str) -> nn.Module:
    try:
        return glyphnet.load(name)
    except glyphnet.DamagedWeights as error:
        raise ModelError(
            f"the weights of {name} are damaged ({error}): install tlnb again"
        ) from None


def _torchvision(name: str, weights: Any) -> _Original:
    preset, card = weights.transforms(), torchvision_card(name, weights.name)
    transform = Transform(
        size=preset.crop_size[0],
        resize=preset.resize_size[0],
        mean=tuple(preset.mean),
        std=tuple(preset.std),
        interpolation=preset.interpolation.value,
    )
    if name in AUXILIARY:
        card = replace(card, notes=(*card.notes, NO_AUXILIARY))
    classes, scores = (w.meta["categories"] or () for w in (weights, type(weights).DEFAULT))
    return _Original(
        card=card,
        transform=transform,
        classes=tuple(classes),
        count=len(scores),
        make=partial(_network, name, weights),
    )


def _network(name: str, weights: Any, classes: int) -> nn.Module:
    """The randomly initialised architecture, as torchvision builds it for these weights.

    Auxiliary heads are left out.
    """
    from torchvision import models

    settings: dict[str, Any] = {"num_classes": classes}
    if name in AUXILIARY:
        settings |= {"transform_input": True, "aux_logits": False, "init_weights": True}
    elif name.startswith("vit_"):
        settings["image_size"] = weights.meta["min_size"][0]
    elif name.startswith("maxvit"):
        settings["input_size"] = weights.meta["min_size"]
    module: nn.Module = models.get_model(name, weights=None, **settings)
    return module


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
    counts = {
        shape[0]
        for shape, own in different(module, state).values()
        if shape and (classes, *shape[1:]) == own
    }
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
        also = (
            f"the output layer has {classes:,} classes of unknown names, the original has "
            f"{card.source_classes:,}"
        )
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
    assumed = [part for part, value in given.items() if value is None]
    if assumed:
        ways = ", ".join(f"{part}=" for part in assumed)
        notes += (
            f"preprocessing assumed to be ImageNet's: {', '.join(assumed)} ({ways} change it)",
        )
    if called in names():
        notes += (f"your variable {called}, not the model of that name in %tl_models",)
    source, kind, module = (
        "unknown data (your own module)",
        _chosen(called, weights),
        copied(module),
    )
    if kind == "none":
        source = "nothing (a random start)"
        module = _at_random(partial(reset_parameters, module))
    elif kind == "file":
        state = named_as(read_state(user_path(weights)), module)
        source = f"unknown data (weights from {state.file})"
        notes = (*notes, *state.notes, *fill(module, state, called, lenient=True))
    _check_numbers(module, called)
    card = Card(
        name=called,
        family="own",
        source=source,
        parameters=parameter_count(module),
        on_disk=True,
        notes=notes,
    )
    transform = Transform(size=224, resize=256, mean=IMAGENET_MEAN, std=IMAGENET_STD, layout=layout)
    origin = Origin(name=called, family="own")
    return PretrainedModel(
        name=called, module=module, transform=transform, card=card, weights=weights, origin=origin
    )


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
