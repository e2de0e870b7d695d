"""A network with its preprocessing and card, whatever its source."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn

from tlnb.core.models.calibration import Calibration, KnownImages
from tlnb.core.models.catalogue import TIMM, Card
from tlnb.core.models.module_copy import copied
from tlnb.core.models.transform import MOST_PIXELS, Transform
from tlnb.core.runtime.errors import OneLine, UsageError


@dataclass(frozen=True, kw_only=True)
class Origin(OneLine):
    """How to rebuild a model's architecture: source, original number of scores, and edits."""

    name: str
    family: str  # embedded, torchvision; own: the user must provide the network
    scores: int = 0
    edits: tuple[Any, ...] = ()  # of type plan.Edit, which this package may not import

    def __repr__(self) -> str:
        return f"Origin {self.family} {self.name}, {len(self.edits)} edits"


@dataclass(frozen=True, kw_only=True)
class PretrainedModel(OneLine):
    """A network with its preprocessing and card.

    `fresh()` gives the same architecture with random parameters.
    """

    name: str
    module: nn.Module = field(repr=False)
    transform: Transform
    card: Card
    weights: str = "default"
    architecture: Callable[[], nn.Module] | None = field(default=None, repr=False)
    # of the source data, in the order of the scores
    classes: tuple[str, ...] | None = field(default=None, repr=False)
    origin: Origin = field(default=Origin(name="", family="own"), repr=False)
    # number of classes of the loaded data, for which the head is replaced
    target_classes: int | None = None
    calibration: Calibration | None = field(default=None, repr=False)  # of a run's network
    known: KnownImages | None = field(default=None, repr=False)

    def fresh(self) -> nn.Module:
        """The architecture, randomly initialised from torch's current random state."""
        if self.architecture is not None:
            return self.architecture()
        return reset_parameters(copied(self.module))

    def __repr__(self) -> str:
        count = parameter_count(self.module)
        return f"PretrainedModel {self.name}: {count:,} parameters, trained on {self.card.source}"


def resized(model: PretrainedModel, size: int | None) -> PretrainedModel:
    """The model with another input edge; None changes nothing.

    Raises:
        UsageError: the edge is smaller than the network takes.
    """
    return replace(model, transform=changed_transform(model, None, None, size))


def retrained(
    model: PretrainedModel,
    module: nn.Module,
    *,
    name: str,
    data: str,
    classes: tuple[str, ...],
    accuracy: float,
    architecture: Callable[[], nn.Module],
    origin: Origin,
    calibration: Calibration | None = None,
    known: KnownImages | None = None,
) -> PretrainedModel:
    """Turn a run's network into a model, with its classes and the original preprocessing.

    Args:
        name, data, accuracy: the run's; the accuracy is that on the test split.
        architecture: builds the network with the run's edits, randomly initialised.
        origin, calibration, known: the run's, too.
    """
    card = Card(
        name=name,
        family="run",
        source=f"{data}, starting from {model.name}",
        source_classes=len(classes),
        accuracy=accuracy,
        accuracy_of=f"on the test images of {data}",
        parameters=parameter_count(module),
        size=model.transform.size,
        min_size=model.card.min_size,
        only_size=model.card.only_size,
        on_disk=True,
        notes=(f"preprocessing as for {model.name}",),
    )
    return PretrainedModel(
        name=name,
        module=module,
        transform=model.transform,
        card=card,
        architecture=architecture,
        classes=classes,
        origin=origin,
        calibration=calibration,
        known=known,
    )


def facing(model: PretrainedModel, classes: int | None) -> PretrainedModel:
    """The model for data with `classes` classes; None: without data."""
    return replace(model, target_classes=classes)


def changed_transform(model: PretrainedModel, mean: Any, std: Any, size: int | None) -> Transform:
    """The model's preprocessing with these parts replaced; None leaves a part as it is.

    Raises:
        UsageError: a size, mean or standard deviation is out of range.
    """
    transform, least = model.transform, max(16, model.card.min_size or 0)
    if size is not None:
        _check_only_size(model, size)
        if size < least:
            raise UsageError(
                f"--size {size} is too small for {model.name}: use {least} pixels or more"
            )
        if size > MOST_PIXELS:
            raise UsageError(
                f"--size {size} is too large for any network here: use {MOST_PIXELS} pixels or "
                "fewer"
            )
        resize = round(size * transform.resize / transform.size)
        transform = replace(transform, size=size, resize=resize)
    if mean is not None:
        transform = replace(transform, mean=_three("mean", mean))
    if std is not None:
        transform = replace(transform, std=_three("std", std))
    return transform


def _check_only_size(model: PretrainedModel, size: int) -> None:
    """Raise `UsageError` if the network takes images of another size alone."""
    card = model.card
    if not card.only_size or size == card.size:
        return
    if card.family == TIMM:
        way = f"build it for those, %tl_load {card.name} --size {size}"
    else:
        way = f"leave out --size, or write --size {card.size}"
    raise UsageError(
        f"--size {size} does not fit {model.name}, whose positions are of {card.size} pixels: {way}"
    )


def _three(name: str, values: Any) -> tuple[float, float, float]:
    try:
        parts = values.split(",") if isinstance(values, str) else list(values)
        r, g, b = (float(v) for v in parts)
    except (TypeError, ValueError):
        r = g = b = math.nan
    if not all(map(math.isfinite, (r, g, b))):
        raise UsageError(f"--{name} {values} is not three numbers: write --{name} 0.5,0.5,0.5")
    if name == "std" and min(r, g, b) <= 0:
        raise UsageError(f"--std {values} must be above zero: write --std 0.25,0.25,0.25")
    return r, g, b


def parameter_count(module: nn.Module) -> int:
    """Number of values in all parameters."""
    return sum(p.numel() for p in module.parameters())


def reset_parameters(module: nn.Module) -> nn.Module:
    """Reinitialise the module's parameters, as far as its layers can."""
    for layer in module.modules():
        reset = getattr(layer, "reset_parameters", None)
        if callable(reset):
            reset()
    return module
