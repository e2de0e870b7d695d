"""Plans: what to start from, what to change, what to freeze, how to train. Pure data.

strategy       trains                                   made for
head           a new output layer                       little data
partial        the last stages and the output layer     a decent amount
full           everything, from the pretrained weights  a lot
scratch        everything, from a random start          the comparison
output-frozen  everything but a random output layer     the literal reading of "freeze the output layer"
adapter        small added parts and the output layer   adding layers, as it is done today
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from tlnb.core.models.anatomy import Anatomy
from tlnb.core.planning.options import TrainOptions
from tlnb.core.planning.size_rule import SizeRule
from tlnb.core.runtime.errors import OneLine, PlanError, UsageError, did_you_mean
from tlnb.core.runtime.typed_json import typed

STRATEGIES = ("head", "partial", "full", "scratch", "output-frozen", "adapter")
ALIASES = {
    **{"small": "head", "medium": "partial", "large": "full"},
    **{"linear-probe": "head", "feature-extraction": "head", "fine-tune": "full"},
}
SCHEMA = 1
HIGHEST_RANK = 256
ADAPTER = r".*\.parametrizations\.\w+\.0"  # an adapter's name in PyTorch
PARTIAL_SHARE = 1 / 3  # target share of the parameters before the output layer, for `partial`


@dataclass(frozen=True, kw_only=True)
class Edit(OneLine):
    """A change of the architecture.

    Layer names do not change: an added module becomes part of the layer it is next to.
    """

    kind: str  # "replace", "add", "remove" (the layer becomes nn.Identity), "adapt" (all layers)
    name: str  # the module to change; adapt: the output layers, which are left alone
    code: str = ""  # builds the new module; may use the names in_features and classes
    where: str = ""  # add: "before" or "after"
    part: str = ""  # add: the new module's name inside the one it is next to, "after1"
    in_features: int | None = None  # value of that name in the code: the input width there
    classes: int | None = None
    rank: int | None = None  # adapt: of each adapter
    automatic: bool = False  # made to fit the data's classes or a new width, not by the user

    def __post_init__(self) -> None:
        if self.kind not in ("replace", "add", "remove", "adapt"):
            raise ValueError(f"an edit of kind {self.kind!r}")
        known = self.where in ("before", "after") and re.fullmatch(f"{self.where}[0-9]+", self.part)
        if self.kind == "add" and not known:
            raise ValueError(f"an added part called {self.part!r}")
        if (self.kind == "adapt") != (self.rank in range(1, HIGHEST_RANK + 1)):
            raise ValueError(f"an edit of kind {self.kind!r} and rank {self.rank!r}")

    def __repr__(self) -> str:
        code = self.code if "\n" not in self.code else f"{self.code.splitlines()[0]} …"
        if self.kind == "add":
            return f"add {self.where}:{self.name} {code}"
        if self.kind == "adapt":
            return f"adapt all but {self.name} by rank {self.rank}"
        return f"replace {self.name} by {code}" if self.kind == "replace" else f"remove {self.name}"

    @property
    def made(self) -> str:
        """Full name of the new module; meaningless for "remove"."""
        return f"{self.name}.{self.part}" if self.kind == "add" else self.name

    @property
    def heads(self) -> tuple[str, ...]:
        """The output layers, which get no adapter; meaningful for "adapt" alone."""
        return tuple(self.name.split(", "))

    def covers(self, layer: str) -> bool:
        """Whether this edit created the layer."""
        if self.kind == "adapt":
            return bool(re.fullmatch(ADAPTER, layer))
        return self.kind != "remove" and (layer == self.made or layer.startswith(self.made + "."))


@dataclass(frozen=True, kw_only=True)
class Plan(OneLine):
    """What will be trained, and from which start. Runs copy the model and never change it."""

    model: str
    strategy: str
    start: str  # "pretrained" or "random"
    frozen: tuple[str, ...]
    trained: tuple[str, ...]
    trainable_params: int
    total_params: int
    edits: tuple[Edit, ...] = ()
    options: TrainOptions = field(default_factory=TrainOptions)
    notes: tuple[str, ...] = ()  # warnings to read before training it
    tuned: str = ""  # the study that found its options
    # Options that tuning found for its baseline; None: the recipe's.
    baseline_options: TrainOptions = field(default_factory=TrainOptions)
    baseline_tuned: str = ""  # the study that found them
    normalised: bool = True  # whether the network has layers that normalise (batch, layer, group …)

    def __post_init__(self) -> None:
        if self.strategy not in (*STRATEGIES, "custom") or self.start not in (
            "pretrained",
            "random",
        ):
            raise ValueError(
                f"a plan of strategy {self.strategy!r} from a start called {self.start!r}"
            )

    @property
    def adapters(self) -> Edit | None:
        """The edit that adds adapters, if any."""
        return next((edit for edit in self.edits if edit.kind == "adapt"), None)

    @property
    def lasting_edits(self) -> tuple[Edit, ...]:
        """The edits that the trained network keeps: its adapters are merged into the weights."""
        return tuple(edit for edit in self.edits if edit.kind != "adapt")

    def __repr__(self) -> str:
        share = self.trainable_params / max(self.total_params, 1)
        layers = f"{len(self.trained)} of {len(self.trained) + len(self.frozen)} layers"
        counts = f"{self.trainable_params:,} of {self.total_params:,} parameters ({share:.1%})"
        return (
            f"Plan {self.strategy} for {self.model}: trains {counts}, {layers}, start {self.start}"
        )

    def to_json(self) -> dict[str, Any]:
        """The plan as JSON values, names and numbers only."""
        return {"schema": SCHEMA, **asdict(self)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Plan:
        """Read a plan that `to_json` wrote.

        Raises:
            UsageError: another schema, or fields that do not fit.
        """
        try:
            fields = {k: v for k, v in values.items() if k != "schema"}
            if values.get("schema", SCHEMA) != SCHEMA:
                raise UsageError(
                    f"the plan has another schema than {SCHEMA}: "
                    "write it again with this version of tlnb"
                )
            return typed(cls, fields, "the plan")
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UsageError(
                f"this is not a plan ({str(error)[:80]}): give what plan.to_json() wrote"
            ) from None


@dataclass(frozen=True, kw_only=True)
class Strategies(OneLine):
    """The three strategies for one network, side by side."""

    plans: tuple[Plan, ...]
    step_flops: tuple[float, ...]  # forward and backward for one image, without a cache
    stages: tuple[tuple[str, ...], ...]  # the stages in which any layer trains
    rule: SizeRule | None = None  # for this amount of data

    @property
    def suggested(self) -> str | None:
        """The strategy that the rule leads to."""
        return self.rule.strategy if self.rule else None

    def __repr__(self) -> str:
        parts = [
            f"{p.strategy} trains {p.trainable_params / p.total_params:.1%}" for p in self.plans
        ]
        return f"Strategies for {self.plans[0].model}: {', '.join(parts)} of {self.plans[0].total_params:,} parameters"


def strategy_named(name: str) -> str:
    """The strategy of this name; `linear_probing`, `Feature Extraction`, `finetuning` work too.

    Raises:
        PlanError: no strategy has this name.
    """
    plain = re.sub(r"[\s_]+", "-", str(name).strip().lower()).replace("finetun", "fine-tun")
    plain = re.sub(r"^(linear-prob|fine-tun)(e|ing)$", r"\1e", plain)
    strategy = ALIASES.get(plain, plain)
    if strategy in STRATEGIES:
        return strategy
    if plain in ("lp-ft", "lpft"):
        raise PlanError(
            f"{name} is what full does without being told (the head is trained first): "
            "write %tl_strategy full"
        )
    known = (*STRATEGIES, *ALIASES)
    hint = did_you_mean(plain, known, "use " + ", ".join(known))
    raise PlanError(f"no strategy is called {name!r}: {hint}")


def plan_strategy(
    anatomy: Anatomy, name: str, edits: tuple[Edit, ...] = (), last: int | None = None
) -> Plan:
    """The plan of a strategy for this network.

    Args:
        last: `partial` only: train the last N stages, including the output layer's own stage.

    Raises:
        PlanError: an unknown strategy, or more stages than there are.
    """
    strategy = strategy_named(name)
    if last is not None and strategy != "partial":
        raise UsageError(f"--last needs strategy partial: %tl_strategy partial --last {last}")
    new = {n for n in anatomy.names if n in anatomy.heads or any(edit.covers(n) for edit in edits)}
    frozen: Iterable[str] = ()
    if strategy in ("head", "adapter"):
        frozen = set(anatomy.names) - new
    elif strategy == "partial":
        frozen = set(anatomy.names) - _last_stages(anatomy, last) - new
    elif strategy == "output-frozen":
        frozen = anatomy.heads
    return _plan(
        anatomy, strategy, "random" if strategy == "scratch" else "pretrained", set(frozen), edits
    )


def plan_freeze(plan: Plan, anatomy: Anatomy, patterns: Iterable[str]) -> Plan:
    """The plan with these layers frozen as well."""
    chosen = match(anatomy, patterns)
    return plan_custom(plan, anatomy, set(plan.frozen) | chosen)


def plan_unfreeze(plan: Plan, anatomy: Anatomy, patterns: Iterable[str]) -> Plan:
    """The plan with these layers unfrozen."""
    chosen = match(anatomy, patterns)
    return plan_custom(plan, anatomy, set(plan.frozen) - chosen)


def renewed(
    plan: Plan, anatomy: Anatomy, edits: tuple[Edit, ...], fresh: Edit | None = None
) -> Plan:
    """The same strategy, freezes and options for a changed anatomy; what `fresh` made trains."""
    frozen = {n for n in plan.frozen if not (fresh and fresh.covers(n))}
    return replace(_plan(anatomy, plan.strategy, plan.start, frozen, edits), options=plan.options)


def match(anatomy: Anatomy, patterns: Iterable[str]) -> set[str]:
    """Layer names that the patterns mean.

    A name means that module and everything inside it, or a stage; a glob matches full layer names;
    `a..b` is everything from the first layer of `a` to the last of `b`, in anatomy order.

    Raises:
        PlanError: a pattern that matches nothing.
    """
    layers: set[str] = set()
    for pattern in patterns:
        layers |= _range(anatomy, pattern) if ".." in pattern else _matches(anatomy, pattern)
    return layers


def matches(anatomy: Anatomy, pattern: str) -> bool:
    """Whether a pattern matches any layer."""
    try:
        return bool(match(anatomy, [pattern]))
    except PlanError:
        return False


def _matches(anatomy: Anatomy, pattern: str) -> set[str]:
    inside = {
        x.name
        for x in anatomy.layers
        if x.name == pattern or x.name.startswith(pattern + ".") or x.stage == pattern
    }
    if inside:
        return inside
    if any(c in pattern for c in "*?["):
        inside = {n for n in anatomy.names if fnmatch.fnmatchcase(n, pattern)}
    if not inside:
        parts = [
            ".".join(n.split(".")[:k]) for n in anatomy.names for k in range(1, n.count(".") + 2)
        ]
        stages = [s.name for s in anatomy.stages]
        hint = did_you_mean(pattern, [*stages, *parts], f"the stages are {', '.join(stages)}")
        raise PlanError(f"no layer matches {pattern!r}: {hint}")
    return inside


def _range(anatomy: Anatomy, pattern: str) -> set[str]:
    first, _, last = pattern.partition("..")
    names = _in_order(anatomy)
    start = min(map(names.index, _matches(anatomy, first))) if first else 0
    end = max(map(names.index, _matches(anatomy, last))) if last else len(names) - 1
    if start > end:
        raise PlanError(f"{first!r} comes after {last!r}: write {last}..{first}")
    return set(names[start : end + 1])


def _in_order(anatomy: Anatomy) -> list[str]:
    """Layer names in anatomy order; an unused layer lies with what is inside it (its adapters)."""
    places = {layer.name: place for place, layer in enumerate(anatomy.layers)}
    for layer in anatomy.layers:
        inside = [places[n] for n in anatomy.names if n.startswith(f"{layer.name}.")]
        if inside and not layer.used:
            places[layer.name] = min(inside)
    return sorted(places, key=places.__getitem__)


def _last_stages(anatomy: Anatomy, last: int | None) -> set[str]:
    """The layers that `partial` trains: the last stages, including the output layer's own.

    Without `last`, it takes at least one stage before the output layer's and never the first, and
    picks the number of stages whose share of the parameters is closest to a third. The output
    layer does not count, because its size follows from the number of classes. So a ResNet trains
    layer4, a transformer the last quarter of its blocks, and VGG the last convolutions with the
    classifier, although the classifier alone holds most of the parameters.
    """
    stages = [s.name for s in anatomy.stages if s.used]
    if last is not None:
        if not 1 <= last <= len(stages):
            raise PlanError(
                f"--last must be between 1 and {len(stages)}, the stages of {anatomy.model}, "
                f"got {last}"
            )
        return {x.name for x in anatomy.layers if x.stage in stages[-last:]}
    used = [x for x in anatomy.layers if x.used]
    if len(stages) < 3:  # too few stages to choose from: take the later half of the layers
        return {x.name for x in used[(len(used) + 1) // 2 :]}
    before = [x for x in used if x.name not in anatomy.heads]
    total = sum(x.params for x in before) or 1

    def distance(count: int) -> float:
        share = sum(x.params for x in before if x.stage in stages[-count:]) / total
        return abs(share - PARTIAL_SHARE)

    best = min(range(2, len(stages)), key=distance)
    return {x.name for x in used if x.stage in stages[-best:]}


def plan_custom(plan: Plan, anatomy: Anatomy, frozen: set[str]) -> Plan:
    """The plan with exactly these layers frozen."""
    made = _plan(anatomy, "custom", plan.start, frozen, plan.edits)
    return replace(made, options=plan.options)


def _plan(
    anatomy: Anatomy, strategy: str, start: str, frozen: set[str], edits: tuple[Edit, ...]
) -> Plan:
    trained = [x for x in anatomy.layers if x.name not in frozen]
    params = sum(x.params for x in trained)
    if not params:
        raise PlanError(
            f"everything in {anatomy.model} is frozen, so nothing would train: "
            f"%tl_unfreeze {anatomy.head}"
        )
    return Plan(
        model=anatomy.model,
        strategy=strategy,
        start=start,
        frozen=tuple(n for n in anatomy.names if n in frozen),
        trained=tuple(x.name for x in trained),
        trainable_params=params,
        total_params=anatomy.params,
        edits=edits,
        notes=anatomy.warnings,
        normalised=any("Norm" in x.kind for x in anatomy.layers),
    )
