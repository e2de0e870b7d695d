"""The search space of tuning: the values searched, and the plans they give."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from tlnb.core.data.dataset import DataSet
from tlnb.core.models.anatomy import Anatomy
from tlnb.core.models.pretrained import PretrainedModel
from tlnb.core.planning.edit import Scopes
from tlnb.core.planning.options import TrainOptions
from tlnb.core.planning.plan import Plan, plan_strategy
from tlnb.core.planning.recipes import DRAWING_EDGE
from tlnb.core.storage.activation_cache import key_of

if TYPE_CHECKING:
    import optuna

RATE_FACTOR = 10.0  # learning rates from the recipe's divided by this to the recipe's times this
DECAY_RANGE = (1e-4, 0.5)
BATCH_SIZES = (16, 32, 64, 128)  # searched only from scratch
DEPTH_STRATEGIES = ("head", "partial", "full")  # for these, the number of trained stages too


@dataclass(frozen=True, kw_only=True)
class Task:
    """The training to tune, as data."""

    model: PretrainedModel
    anatomy: Anatomy
    data: DataSet
    plan: Plan
    options: TrainOptions  # filled in: the starting values of the search
    scopes: Scopes | None = None

    @property
    def scratch(self) -> bool:
        return self.plan.start == "random"

    @property
    def key(self) -> str:
        """A hash of everything that makes results comparable: equal keys share one study."""
        plan = (
            self.plan
            if self.depths is None
            else replace(self.plan, strategy="custom", frozen=(), trained=())
        )
        about = (
            plan.model,
            plan.start,
            plan.edits,
            plan.frozen,
            self.model.weights,
            self.data.fingerprint,
            *self._judged_by_groups,
        )
        options = replace(self.options, lr=None, weight_decay=None, augment=None, batch_size=None)
        return key_of(about, options, self.space)[:8]

    @property
    def _judged_by_groups(self) -> list[int]:
        """The group of each label where folds of whole groups score trials; else empty."""
        groups = self.data.groups_in_use
        return [] if groups is None or "val" in self.data.splits else groups.tolist()

    @property
    def depths(self) -> int | None:
        """The most stages, counted from the output, that may train; None if not searched."""
        if self.scratch or self.plan.strategy not in DEPTH_STRATEGIES:
            return None
        return len(self.anatomy.stages)

    @property
    def space(self) -> tuple[str, ...]:
        """The search space in words."""
        lr = self.options.lr or 0.001
        augment = self.augmentations
        words = [
            f"learning rate {lr / RATE_FACTOR:g} to {lr * RATE_FACTOR:g}",
            f"weight decay {DECAY_RANGE[0]:g} to {DECAY_RANGE[1]:g}",
            f"augmentation {' or '.join(augment)}",
        ]
        words += [f"the last 1 to {self.depths} stages"] if self.depths else []
        words += [f"batches of {', '.join(map(str, BATCH_SIZES))}"] if self.scratch else []
        return tuple(words)

    @property
    def augmentations(self) -> tuple[str, str]:
        return ("none", "photo" if self.data.edge > DRAWING_EDGE else "light")

    def start(self) -> dict[str, Any]:
        """The recipe's values: the first trial, so that tuning never ends below it."""
        values: dict[str, Any] = {"lr": self.options.lr, "augment": self.options.augment}
        least, most = DECAY_RANGE
        values["weight_decay"] = min(max(self.options.weight_decay or 0.0, least), most)
        if values["augment"] not in self.augmentations:
            values["augment"] = self.augmentations[0]
        if self.depths:
            stages = self.anatomy.stages_of(self.plan.trained)
            values["last"] = max(1, len(stages))
        if self.scratch:
            values["batch_size"] = min(
                BATCH_SIZES, key=lambda size: abs(size - (self.options.batch_size or 32))
            )
        return values

    def suggest(self, trial: optuna.Trial) -> dict[str, Any]:
        """Draw values from the search space."""
        lr = self.options.lr or 0.001
        values: dict[str, Any] = {
            "lr": trial.suggest_float("lr", lr / RATE_FACTOR, lr * RATE_FACTOR, log=True),
            "weight_decay": trial.suggest_float("weight_decay", *DECAY_RANGE, log=True),
            "augment": trial.suggest_categorical("augment", self.augmentations),
        }
        if self.depths:
            values["last"] = trial.suggest_int("last", 1, self.depths)
        if self.scratch:
            values["batch_size"] = trial.suggest_categorical("batch_size", BATCH_SIZES)
        return values

    def planned(self, values: dict[str, Any]) -> tuple[Plan, TrainOptions]:
        """The plan and options of a trial with these values."""
        changed = {k: v for k, v in values.items() if k != "last"}
        plan = self.plan
        if "last" in values:
            plan = depth_plan(self.anatomy, self.plan, values["last"])
        return plan, replace(self.options, **changed, stage_lr=())


def depth_plan(anatomy: Anatomy, plan: Plan, last: int) -> Plan:
    """The plan that trains the last stages: `head` for one stage, `full` for all."""
    if last <= 1:
        return plan_strategy(anatomy, "head", plan.edits)
    if last >= len(anatomy.stages):
        return plan_strategy(anatomy, "full", plan.edits)
    return plan_strategy(anatomy, "partial", plan.edits, last)
