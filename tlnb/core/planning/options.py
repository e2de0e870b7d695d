"""Training options: the one list that every interface is generated from.

Each option is declared once, as a dataclass field with metadata. The magics' flags, the lines of
the transcript, the train panel's controls, Tab completion, other tools' names for an option and
the contents of a job file all come from it. `None` leaves a choice to the recipe.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cache
from numbers import Real
from typing import Any, TypedDict

from tlnb.core.planning.old_names import todays_options
from tlnb.core.runtime.device import PRECISIONS
from tlnb.core.runtime.errors import UsageError
from tlnb.core.runtime.typed_json import typed

AUGMENTATIONS = ("none", "light", "photo")
OPTIMIZERS = ("adamw", "lbfgs")
# Limits far beyond any useful value; they catch typing errors.
MOST_EPOCHS, MOST_IMAGES, MOST_DECAY, MOST_RATE = 10**6, 10**6, 1000, 100
MOST_SEED = 2**31 - 1  # times the prime between seeds, the most that random generators accept


@dataclass(frozen=True, kw_only=True)
class Option:
    """The metadata of one option.

    Args:
        help: help text of the magic's flag; `panel_help` replaces it in the panel.
        metavar: placeholder for the value in the help.
        number: type to parse the value's text to; None: it stays text.
        choices: the allowed values; empty: any.
        bounds: the smallest and the largest allowed value.
        label: label of the panel's control; empty: the panel has a button for it.
        empty: what an empty control means.
        rare: whether the panel shows it only on request.
        by_recipe: whether the recipe fills it in.
        either: whether `--x` and `--no-x` both exist, and without them the recipe decides.
        also: other tools' names for it, without hyphens and underscores.
        of_train: whether only `train` takes it, not a forecast or a job.
        in_job: whether a job file keeps it: true for how the network is trained, false for what
            the call is about.
    """

    name: str = ""  # the keyword of `Session.train`
    default: Any = None  # its default there
    help: str
    metavar: str = ""
    number: type[int] | type[float] | None = None
    choices: tuple[str, ...] = ()
    bounds: tuple[float, float] | None = None
    label: str = ""
    panel_help: str = ""
    empty: str = "as the recipe says"
    rare: bool = True
    by_recipe: bool = False
    either: bool = False
    also: tuple[str, ...] = ()
    of_train: bool = False
    in_job: bool = True

    @property
    def flag(self) -> str:
        """The magic's flag without `--`: `batch-size`; `no-…` for a switch on by default."""
        typed_name = self.name.rstrip("_").replace("_", "-")
        return f"no-{typed_name}" if self.default is True else typed_name

    @property
    def is_switch(self) -> bool:
        """Whether it is on or off."""
        return isinstance(self.default, bool)

    @property
    def flags(self) -> tuple[str, ...]:
        """All its flags without `--`."""
        return (self.flag, f"no-{self.flag}") if self.either else (self.flag,)

    def given(self, value: Any) -> dict[str, Any]:
        """A value as the flag that is typed for it, and what is typed after that."""
        if self.either and value is False:
            return {self.flags[1]: True}
        return {self.flag: self.typed(value)}

    def typed(self, value: Any) -> Any:
        """A value as typed after the flag: None for the default, True for a changed switch."""
        if self.is_switch:
            return True if bool(value) != self.default else None
        if value is None or value == self.default:
            return None
        return rates_text(value) if self.name == "lr" else getattr(value, "name", value)

    def check(self, value: Any) -> None:
        """Raise `UsageError` for a value of the wrong type, out of bounds, or not a choice."""
        if value is None:
            return
        if self.either and not isinstance(value, bool):
            name = self.name
            raise UsageError(f"{name}={value!r} is not a yes or no: write {name}=True")
        if self.bounds is not None:
            _check_number(self.name, value, whole=self.number is int)
            least, most = self.bounds
            if not least <= value <= most:
                side = "large" if value > most else "small"
                raise UsageError(f"--{self.flag} {value} is too {side}: use {least:,} to {most:,}")
        if self.choices and value not in self.choices:
            known = ", ".join(self.choices)
            raise UsageError(f"--{self.flag} {value} is not known: use one of {known}")


def option(default: Any, help: str, *, unasked: Any = ..., **about: Any) -> Any:
    """Declare a field as an option.

    Args:
        unasked: the default of the call, if it differs from the field's default.
    """
    asked = default if unasked is ... else unasked
    return field(default=default, metadata={"option": Option(help=help, default=asked, **about)})


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """How a network is trained; `None` leaves a choice to the recipe for this strategy and data."""

    epochs: int | None = option(
        None,
        "passes over the training images",
        metavar="N",
        number=int,
        bounds=(1, MOST_EPOCHS),
        label="epochs",
        rare=False,
        by_recipe=True,
        also=("epoch", "numepochs", "nepochs", "nepoch", "maxepochs", "numtrainepochs"),
    )
    lr: float | None = option(
        None,
        "learning rate, or by stage (discriminative): layer4=0.001,head=0.01",
        metavar="X",
        label="learning rate",
        rare=False,
        by_recipe=True,
        also=("learningrate", "rate", "baselr", "lrmax", "maxlr"),
    )
    stage_lr: tuple[tuple[str, float], ...] = field(default=(), metadata={"part_of": "lr"})
    batch_size: int | None = option(
        None,
        "images in one step",
        metavar="N",
        number=int,
        bounds=(1, MOST_IMAGES),
        label="batch size",
        by_recipe=True,
        also=("bs", "batch", "batchsize"),
    )
    weight_decay: float | None = option(
        None,
        "decay of the weights, not the biases",
        metavar="X",
        number=float,
        bounds=(0, MOST_DECAY),
        label="weight decay",
        by_recipe=True,
        also=("wd", "decay", "l2"),
    )
    augment: str | None = option(
        None,
        ", ".join(AUGMENTATIONS),
        metavar="HOW",
        choices=AUGMENTATIONS,
        label="augmentation",
        panel_help="How images are varied",
        rare=False,
        by_recipe=True,
        also=("augmentation", "augmentations", "transforms"),
    )
    seed: int = option(
        0,
        "seed of new layers, batches and augmentation; default 0",
        unasked=None,  # a baseline takes its run's
        metavar="S",
        number=int,
        bounds=(0, MOST_SEED),
        label="seed",
        also=("randomseed", "randomstate", "manualseed"),
    )
    precision: str = option(
        "auto",
        ", ".join(PRECISIONS),
        metavar="P",
        choices=PRECISIONS,
        label="precision",
        panel_help="Of the numbers in a step: auto takes bf16 where the hardware has it",
        also=("amp", "dtype"),
    )
    device: str | None = option(
        None,
        "cpu, cuda, mps; default: the best available",
        metavar="D",
        label="device",
        panel_help="cpu, cuda, mps",
        empty="the best available",
        also=("gpu", "cuda"),
    )
    cache: bool = option(
        True, "compute frozen layers again in every epoch", label="no cache of frozen layers"
    )
    class_weights: bool = option(
        False,
        "weight the loss by inverse class frequency",
        label="weight rare classes more",
        panel_help="Rare classes count more in the loss",
    )
    optimizer: str = option(
        "adamw",
        "adamw (in batches), or lbfgs for strategy head",
        metavar="HOW",
        choices=OPTIMIZERS,
        label="optimizer",
        panel_help="lbfgs: the output layer alone, all images at once",
        also=("optim", "opt"),
    )
    refit: bool | None = option(
        None,
        "train once more on all labels in use, those held out to choose with included; "
        "default: for strategy head, where some are held out",
        label="refit",
        panel_help="Once more on all labels in use, those held out to choose with included",
        either=True,
        also=("retrain", "refitall"),
    )
    batch_statistics: bool | None = option(
        None,
        "BatchNorm takes statistics from each batch and updates its own; default: not where a "
        "pretrained network other than glyphnet learns from fewer than 32 images (full: 64)",
        label="batch statistics",
        panel_help="BatchNorm takes statistics from each batch; no: it keeps its pretrained ones",
        either=True,
    )

    def __post_init__(self) -> None:
        for each in _declared(TrainOptions):
            each.check(getattr(self, each.name))
        rates = [("lr", self.lr), *(("lr " + stage, rate) for stage, rate in self.stage_lr)]
        for name, rate in rates:
            _check_number(name, rate, whole=False)
            if rate is not None and not 0 < rate < MOST_RATE:
                raise UsageError(
                    f"--{name} {rate} is not a learning rate: use a number above 0, e.g. --lr 0.001"
                )

    @classmethod
    def upgraded(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """JSON values with old names replaced: version 0.1.0 called the optimizer a solver."""
        return todays_options(values)

    def filled(self, recipe: TrainOptions) -> TrainOptions:
        """These options, with the recipe's values where none was chosen."""
        empty = [f.name for f in fields(self) if getattr(self, f.name) is None]
        return replace(self, **{name: getattr(recipe, name) for name in empty})


@dataclass(frozen=True, kw_only=True)
class CallOptions:
    """Options of a `train` call that do not change how the network is trained."""

    scratch: bool = option(
        False, "the baseline of the last run: same data, same loop, random start", in_job=False
    )
    from_: str | None = option(
        None,
        "continue from a run's weights",
        metavar="RUN",
        label="from run",
        empty="from the plan's start",
        in_job=False,
        also=("resume", "checkpoint", "init"),
    )
    name: str | None = option(
        None,
        "what to call the run",
        metavar="NAME",
        label="name",
        empty="by its strategy",
        in_job=False,
    )
    seeds: int = option(
        1,
        "train N times, each with the next seed; shows the spread",
        metavar="N",
        number=int,
        bounds=(1, MOST_EPOCHS),
        label="seeds",
        in_job=False,
        of_train=True,
    )
    budget: str | None = option(
        None,
        "2min, or 0.5usd: trains fewer epochs if the forecast exceeds it",
        metavar="B",
        label="budget",
        empty="none",
        in_job=False,
        of_train=True,
    )


class Asked(TypedDict, total=False):
    """Training options by the keywords of `Session.train`, in display order."""

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
    optimizer: str
    refit: bool | None
    batch_statistics: bool | None
    device: str | None


class AskedOfTrain(Asked, total=False):
    """Training options, with those that only `train` takes."""

    seeds: int
    budget: str | float | None


@cache
def _declared(kind: type[Any]) -> tuple[Option, ...]:
    """The options among the fields of a dataclass."""
    return tuple(
        replace(f.metadata["option"], name=f.name) for f in fields(kind) if "option" in f.metadata
    )


_by_name = {each.name: each for kind in (TrainOptions, CallOptions) for each in _declared(kind)}
OPTIONS = tuple(_by_name[name] for name in AskedOfTrain.__annotations__)
BY_RECIPE = tuple(each.name for each in OPTIONS if each.by_recipe)


def option_named(name: str) -> Option | None:
    """The option of this keyword or flag, `batch_size` or `batch-size`; None if unknown."""
    return next((each for each in OPTIONS if name in (each.name, *each.flags)), None)


def options_asked(asked: Mapping[str, Any]) -> TrainOptions:
    """The arguments of a call as `TrainOptions`; options of the call itself are left out.

    Raises:
        UsageError: an invalid value.
    """
    rate, by_stage = parse_rates(asked.get("lr"))
    kept = {each.name for each in OPTIONS if each.in_job} - {"lr"}
    given = {n: value for n, value in asked.items() if n in kept and value is not None}
    return TrainOptions(**given, lr=rate, stage_lr=by_stage)


def _check_number(name: str, value: Any, whole: bool) -> None:
    """Raise `UsageError` for text, a bool, or with `whole` a fraction."""
    wrong = (
        isinstance(value, bool)
        or not isinstance(value, Real)
        or (whole and not float(value).is_integer())
    )
    if value is not None and wrong:
        example = _as_number(value) or ("10" if whole else "0.001")
        kind = "whole number" if whole else "number"
        raise UsageError(
            f"{name.replace(' ', '_')}={value!r} is not a {kind}: write {name.split()[0]}={example}"
        )


def _as_number(text: Any) -> str:
    """A number that was given as text, `5` for `'5'`; empty for anything else."""
    plain = text.strip() if isinstance(text, str) else ""
    return plain if re.fullmatch(r"\d+([.]\d+)?(e-?\d+)?", plain) else ""


def options_from(values: Mapping[str, Any]) -> TrainOptions:
    """Read options from JSON values.

    Raises:
        ValueError: a value of another type.
    """
    return typed(TrainOptions, dict(values), "options")


def parse_rates(lr: Any) -> tuple[float | None, tuple[tuple[str, float], ...]]:
    """Parse `0.001`, `"layer4=0.001,head=0.01"` or a mapping: common rate, rates by stage.

    Raises:
        UsageError: a rate that is not a number.
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
                f"--lr {lr} is not a learning rate: write --lr 0.001 or --lr layer4=0.001,head=0.01"
            ) from None
    common = [rate for stage, rate in rates if not stage]
    return (common[-1] if common else None), tuple((s, r) for s, r in rates if s)


def _pairs(text: str) -> list[tuple[str, str]]:
    """Split `layer4=0.001,head=0.01` into pairs; a rate alone comes first in its pair."""
    parts = [part.strip() for part in text.split(",")]
    alone = [i for i, part in enumerate(parts) if "=" not in part]
    if len(parts) == 2 and len(alone) == 2 and all(part.isdigit() for part in parts):
        raise UsageError(f"--lr {text} has a decimal comma: write --lr {text.replace(',', '.')}")
    if len(alone) > 1:
        raise UsageError(
            f"--lr {text} has {len(alone)} rates: give one, --lr {parts[alone[0]]}, "
            "or one per stage, --lr head=0.01"
        )
    if alone and alone[0] and parts[alone[0]].isdigit():
        whole = f"{parts[alone[0] - 1]}.{parts[alone[0]]}"
        raise UsageError(f"--lr {text} has a decimal comma: write {whole}")
    return [(name, value) for name, _, value in (part.partition("=") for part in parts)]


def rates_text(lr: Any) -> str | None:
    """Learning rates as typed after `--lr`."""
    if isinstance(lr, Mapping):
        return ",".join(f"{stage}={rate:g}" for stage, rate in lr.items())
    return None if lr is None else str(lr)
