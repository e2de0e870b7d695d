"""Options of one training, shared by every door. `None` leaves a choice to the recipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from numbers import Real
from typing import Any, TypedDict

from tlnb.core.planning.old_names import todays_options
from tlnb.core.runtime.errors import UsageError
from tlnb.core.runtime.typed_json import typed

AUGMENTATIONS = ("none", "light", "photo")
OPTIMIZERS = ("adamw", "lbfgs")
MOST_EPOCHS, MOST_IMAGES, MOST_DECAY = (
    10**6,
    10**6,
    1000,
)  # far beyond what is of use: a slip of the finger
MOST_SEED = 2**31 - 1  # random generators take no larger one times the prime between seeds


@dataclass(frozen=True)
class TrainOptions:
    """Options of one training. `None` leaves the choice to the recipe for this strategy and amount of data."""

    epochs: int | None = None
    lr: float | None = None
    stage_lr: tuple[tuple[str, float], ...] = ()
    batch_size: int | None = None
    weight_decay: float | None = None
    augment: str | None = None
    seed: int = 0
    precision: str = "auto"
    device: str | None = None
    cache: bool = True
    class_weights: bool = False
    optimizer: str = "adamw"  # in batches; "lbfgs": the output layer alone, all images at once

    def __post_init__(self) -> None:
        self._between("epochs", 1, MOST_EPOCHS)
        self._between("batch_size", 1, MOST_IMAGES)
        self._between("weight_decay", 0, MOST_DECAY)
        self._between("seed", 0, MOST_SEED)
        rates = [("lr", self.lr), *(("lr " + stage, rate) for stage, rate in self.stage_lr)]
        for name, rate in rates:
            _check_number(name, rate, whole=False)
            if rate is not None and not 0 < rate < 100:
                raise UsageError(
                    f"--{name} {rate} is no learning rate: use a number above 0, e.g. --lr 0.001"
                )
        for name, value, known in (
            ("augment", self.augment, AUGMENTATIONS),
            ("optimizer", self.optimizer, OPTIMIZERS),
        ):
            if value is not None and value not in known:
                raise UsageError(f"--{name} {value} is not known: use one of {', '.join(known)}")

    def _between(self, name: str, least: float, most: float) -> None:
        value = getattr(self, name)
        _check_number(name, value, whole=name != "weight_decay")
        if value is not None and not least <= value <= most:
            raise UsageError(
                f"--{name.replace('_', '-')} {value} is too {_side(value, most)}: use {least:,} to {most:,}"
            )

    @classmethod
    def upgraded(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """JSON's values by today's names: until 0.1.0 the optimizer was called a solver."""
        return todays_options(values)

    def filled(self, recipe: TrainOptions) -> TrainOptions:
        """These options, with the recipe's where nothing was chosen."""
        empty = [f.name for f in fields(self) if getattr(self, f.name) is None]
        return replace(self, **{name: getattr(recipe, name) for name in empty})


def _check_number(name: str, value: Any, whole: bool) -> None:
    """Raises `UsageError` for text, for truth, and for a fraction where whole numbers are counted."""
    wrong = (
        isinstance(value, bool)
        or not isinstance(value, Real)
        or (whole and not float(value).is_integer())
    )
    if value is not None and wrong:
        example = "10" if whole else "0.001"
        kind = "whole number" if whole else "number"
        raise UsageError(
            f"{name.replace(' ', '_')}={value!r} is not a {kind}: write {name.split()[0]}={example}"
        )


def _side(value: float, most: float) -> str:
    return "large" if value > most else "small"


class Asked(TypedDict, total=False):
    """What one may ask of a training, by the names of `Session.train`."""

    epochs: int | None
    lr: float | str | Mapping[str, float] | None
    batch_size: int | None
    weight_decay: float | None
    augment: str | None
    scratch: bool
    from_: Any  # a run, or its name
    seed: int | None
    name: str | None
    cache: bool
    precision: str
    class_weights: bool
    device: str | None
    optimizer: str


def options_from(values: Mapping[str, Any]) -> TrainOptions:
    """Options back from JSON.

    Raises:
        ValueError: a value of another type.
    """
    return typed(TrainOptions, dict(values), "options")


def parse_rates(lr: Any) -> tuple[float | None, tuple[tuple[str, float], ...]]:
    """`0.001`, `"layer4=0.001,head=0.01"` or a mapping → the rate for all, and rates by stage.

    Raises:
        UsageError: what is no number.
    """
    if lr is None:
        return None, ()
    pairs = lr.items() if isinstance(lr, Mapping) else _pairs(str(lr))
    rates = []
    for stage, rate in pairs:
        stage, rate = (stage, rate) if rate != "" else ("", stage)
        try:
            rates.append((stage.strip(), float(rate)))
        except (TypeError, ValueError):
            raise UsageError(
                f"--lr {lr} is no learning rate: write --lr 0.001 or --lr layer4=0.001,head=0.01"
            ) from None
    common = [rate for stage, rate in rates if not stage]
    return (common[-1] if common else None), tuple((s, r) for s, r in rates if s)


def _pairs(text: str) -> list[tuple[str, str]]:
    """`layer4=0.001,head=0.01` as pairs; a rate alone stands first in its pair.

    Raises:
        UsageError: a decimal comma, or several rates without a stage.
    """
    parts = [part.strip() for part in text.split(",")]
    alone = [i for i, part in enumerate(parts) if "=" not in part]
    if len(parts) == 2 and len(alone) == 2 and all(part.isdigit() for part in parts):
        raise UsageError(f"--lr {text} has a decimal comma: write --lr {text.replace(',', '.')}")
    if len(alone) > 1:
        raise UsageError(
            f"--lr {text} holds {len(alone)} rates: give one, --lr {parts[alone[0]]}, or one by stage, --lr head=0.01"
        )
    if alone and alone[0] and parts[alone[0]].isdigit():
        whole = f"{parts[alone[0] - 1]}.{parts[alone[0]]}"
        raise UsageError(f"--lr {text} has a decimal comma: write {whole}")
    return [(name, value) for name, _, value in (part.partition("=") for part in parts)]


def rates_text(lr: Any) -> str | None:
    """The same as it would be typed after `--lr`."""
    if isinstance(lr, Mapping):
        return ",".join(f"{stage}={rate:g}" for stage, rate in lr.items())
    return None if lr is None else str(lr)
