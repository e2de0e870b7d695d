"""Plans: what to start from, what to change, what to freeze, how to train. Pure data, made before anything is done.

strategy       trains                                   made for
head           a new output layer                       little data
partial        the last stages and the output layer     a decent amount
full           everything, from the pretrained weights  a lot
scratch        everything, from a random start          the comparison
output-frozen  everything but a random output layer     the literal reading of "freeze the output layer"
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from tlnb.core.anatomy import Anatomy
from tlnb.core.errors import PlanError, UsageError, did_you_mean

STRATEGIES = ("head", "partial", "full", "scratch", "output-frozen")
FOR_VERDICT = {"little": "head", "decent": "partial", "a lot": "full"}  # the rule by amount of data
ALIASES = {"small": "head", "medium": "partial", "large": "full"}
PARTIAL_SHARE = 1 / 3  # `partial` takes stages from the output on until so much of the parameters trains
AUGMENTATIONS = ("none", "light", "photo")


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

    def __post_init__(self) -> None:
        self._at_least("epochs", 1)
        self._at_least("batch_size", 1)
        self._at_least("weight_decay", 0)
        rates = [("lr", self.lr), *(("lr " + stage, rate) for stage, rate in self.stage_lr)]
        for name, rate in rates:
            if rate is not None and not 0 < rate < 100:
                raise UsageError(f"--{name} {rate} is no learning rate: use a number above 0, e.g. --lr 0.001")
        if self.augment is not None and self.augment not in AUGMENTATIONS:
            raise UsageError(f"--augment {self.augment} is not known: use one of {', '.join(AUGMENTATIONS)}")

    def _at_least(self, name: str, least: float) -> None:
        value = getattr(self, name)
        if value is not None and not value >= least:
            raise UsageError(f"--{name.replace('_', '-')} {value} is too small: use {least} or more")

    def filled(self, recipe: TrainOptions) -> TrainOptions:
        """These options, with the recipe's where nothing was chosen."""
        empty = [f.name for f in fields(self) if getattr(self, f.name) is None]
        return replace(self, **{name: getattr(recipe, name) for name in empty})


@dataclass(frozen=True)
class Edit:
    """A change of the architecture. `code` builds the new module; layer names stay PyTorch's."""

    kind: str  # "replace"
    name: str
    code: str

    def __repr__(self) -> str:
        return f"{self.kind} {self.name} by {self.code}"


@dataclass(frozen=True)
class Plan:
    """What will be trained, and from where. The model itself is not touched until a run copies it."""

    model: str
    strategy: str
    start: str  # "pretrained" or "random"
    frozen: tuple[str, ...]
    trained: tuple[str, ...]
    trainable_params: int
    total_params: int
    edits: tuple[Edit, ...] = ()
    options: TrainOptions = field(default_factory=TrainOptions)

    def __repr__(self) -> str:
        share = self.trainable_params / max(self.total_params, 1)
        layers = f"{len(self.trained)} of {len(self.trained) + len(self.frozen)} layers"
        counts = f"{self.trainable_params:,} of {self.total_params:,} parameters ({share:.1%})"
        return f"Plan {self.strategy} for {self.model}: trains {counts}, {layers}, start {self.start}"

    def to_json(self) -> dict[str, Any]:
        """Names and numbers only."""
        return {"schema": 1, **asdict(self)}


@dataclass(frozen=True)
class Strategies:
    """The three strategies for one network, side by side."""

    plans: tuple[Plan, ...]
    step_flops: tuple[float, ...]  # forward and backward for one image, nothing cached
    size_verdict: str | None = None
    suggested: str | None = None  # by the rule of thumb for this amount of data

    def __repr__(self) -> str:
        parts = [f"{p.strategy} trains {p.trainable_params / p.total_params:.1%}" for p in self.plans]
        return f"Strategies for {self.plans[0].model}: {', '.join(parts)} of {self.plans[0].total_params:,} parameters"


def plan_strategy(anatomy: Anatomy, name: str, edits: tuple[Edit, ...] = (), last: int | None = None) -> Plan:
    """The plan of a strategy for this network.

    Args:
        last: `partial` only: train so many stages, counted from the output (the output layer's own stage included).

    Raises:
        PlanError: an unknown strategy, or more stages than there are.
    """
    strategy = ALIASES.get(name, name)
    if strategy not in STRATEGIES:
        known = (*STRATEGIES, *ALIASES)
        raise PlanError(f"no strategy is called {name!r}: {did_you_mean(name, known, 'use ' + ', '.join(known))}")
    if last is not None and strategy != "partial":
        raise UsageError(f"--last goes with partial only: write %tl_strategy partial --last {last}")
    every = anatomy.names
    frozen: Iterable[str] = ()
    if strategy == "head":
        frozen = [n for n in every if n != anatomy.head]
    elif strategy == "partial":
        kept = _last_stages(anatomy, last)
        frozen = [x.name for x in anatomy.layers if x.stage not in kept and x.name != anatomy.head]
    elif strategy == "output-frozen":
        frozen = [anatomy.head]
    return _plan(anatomy, strategy, "random" if strategy == "scratch" else "pretrained", set(frozen), edits)


def plan_freeze(plan: Plan, anatomy: Anatomy, patterns: Iterable[str]) -> Plan:
    """The plan with these layers frozen too."""
    chosen = match(anatomy, patterns)
    return _custom(plan, anatomy, set(plan.frozen) | chosen)


def plan_unfreeze(plan: Plan, anatomy: Anatomy, patterns: Iterable[str]) -> Plan:
    """The plan with these layers training again."""
    chosen = match(anatomy, patterns)
    return _custom(plan, anatomy, set(plan.frozen) - chosen)


def renewed(plan: Plan, anatomy: Anatomy, edits: tuple[Edit, ...]) -> Plan:
    """The same strategy, freezes and options for an anatomy whose output layer changed (new data)."""
    return replace(_plan(anatomy, plan.strategy, plan.start, set(plan.frozen), edits), options=plan.options)


def match(anatomy: Anatomy, patterns: Iterable[str]) -> set[str]:
    """Layer names that the patterns mean.

    A name means that module and all inside it, or a stage; a glob matches full layer names; `a..b` is everything from
    the first layer of `a` to the last of `b`, in the order of the anatomy.

    Raises:
        PlanError: a pattern that matches nothing.
    """
    found: set[str] = set()
    for pattern in patterns:
        found |= _range(anatomy, pattern) if ".." in pattern else _matches(anatomy, pattern)
    return found


def _matches(anatomy: Anatomy, pattern: str) -> set[str]:
    inside = {x.name for x in anatomy.layers
              if x.name == pattern or x.name.startswith(pattern + ".") or x.stage == pattern}  # fmt: skip
    if inside:
        return inside
    if any(c in pattern for c in "*?["):
        inside = {n for n in anatomy.names if fnmatch.fnmatchcase(n, pattern)}
    if not inside:
        parts = [".".join(n.split(".")[:k]) for n in anatomy.names for k in range(1, n.count(".") + 2)]
        stages = ", ".join(s.name for s in anatomy.stages)
        hint = did_you_mean(pattern, parts, f"the stages are {stages}")
        raise PlanError(f"no layer matches {pattern!r}: {hint}")
    return inside


def _range(anatomy: Anatomy, pattern: str) -> set[str]:
    first, _, last = pattern.partition("..")
    names = anatomy.names
    start = min(map(names.index, _matches(anatomy, first))) if first else 0
    end = max(map(names.index, _matches(anatomy, last))) if last else len(names) - 1
    if start > end:
        raise PlanError(f"{first!r} comes after {last!r}: write {last}..{first}")
    return set(names[start : end + 1])


def _last_stages(anatomy: Anatomy, last: int | None) -> set[str]:
    stages = anatomy.stages
    if last is not None:
        if not 1 <= last <= len(stages):
            raise PlanError(
                f"--last {last} does not fit: {anatomy.model} has {len(stages)} stages, use 1 to {len(stages)}"
            )
        return {s.name for s in stages[-last:]}
    kept: set[str] = set()
    params = 0
    for stage in reversed(stages):
        kept.add(stage.name)
        params += stage.params
        if len(kept) > 1 and params >= PARTIAL_SHARE * anatomy.params:
            break
    return kept


def _custom(plan: Plan, anatomy: Anatomy, frozen: set[str]) -> Plan:
    made = _plan(anatomy, "custom", plan.start, frozen, plan.edits)
    return replace(made, options=plan.options)


def _plan(anatomy: Anatomy, strategy: str, start: str, frozen: set[str], edits: tuple[Edit, ...]) -> Plan:
    trained = [x for x in anatomy.layers if x.name not in frozen]
    params = sum(x.params for x in trained)
    if not params:
        raise PlanError(f"everything in {anatomy.model} is frozen: nothing would train; %tl_unfreeze {anatomy.head}")
    return Plan(
        anatomy.model, strategy, start, tuple(n for n in anatomy.names if n in frozen),
        tuple(x.name for x in trained), params, anatomy.params, edits,
    )  # fmt: skip
