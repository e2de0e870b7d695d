"""What is tuned: a training as data, the values that are searched, and the plan that they mean."""

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

AROUND = 10.0  # times the recipe's learning rate, up and down
DECAYS = (1e-4, 0.5)
BATCHES = (16, 32, 64, 128)  # searched for a random start
DEEPER = ("head", "partial", "full")  # strategies within which the depth of freezing is searched


@dataclass(frozen=True)
class Task:
    """What is tuned: a training as data."""

    model: PretrainedModel
    anatomy: Anatomy
    data: DataSet
    plan: Plan
    options: TrainOptions  # filled in: the values that the search starts from
    scopes: Scopes | None = None

    @property
    def scratch(self) -> bool:
        return self.plan.start == "random"

    @property
    def key(self) -> str:
        """Everything that makes results comparable: two studies with the same key are one."""
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
        )
        options = replace(self.options, lr=None, weight_decay=None, augment=None, batch_size=None)
        return key_of(about, options, self.space)[:8]

    @property
    def depths(self) -> int | None:
        """How many stages, counted from the output, may train; None where depth is not searched."""
        return (
            len(self.anatomy.stages) if not self.scratch and self.plan.strategy in DEEPER else None
        )

    @property
    def space(self) -> tuple[str, ...]:
        """What is searched, in words."""
        lr = self.options.lr or 0.001
        augment = self.augmentations
        words = [
            f"learning rate {lr / AROUND:g} to {lr * AROUND:g}",
            f"weight decay {DECAYS[0]:g} to {DECAYS[1]:g}",
            f"augmentation {' or '.join(augment)}",
        ]
        words += [f"the last 1 to {self.depths} stages"] if self.depths else []
        return (*words, *([f"batches of {', '.join(map(str, BATCHES))}"] if self.scratch else []))

    @property
    def augmentations(self) -> tuple[str, str]:
        return ("none", "photo" if self.data.edge > DRAWING_EDGE else "light")

    def start(self) -> dict[str, Any]:
        """The recipe's values: the first trial, so that tuning never ends below it."""
        values: dict[str, Any] = {"lr": self.options.lr, "augment": self.options.augment}
        values["weight_decay"] = min(max(self.options.weight_decay or 0.0, DECAYS[0]), DECAYS[1])
        if values["augment"] not in self.augmentations:
            values["augment"] = self.augmentations[0]
        if self.depths:
            stages = self.anatomy.stages_of(self.plan.trained)
            values["last"] = max(1, len(stages))
        if self.scratch:
            values["batch_size"] = min(
                BATCHES, key=lambda size: abs(size - (self.options.batch_size or 32))
            )
        return values

    def suggest(self, trial: optuna.Trial) -> dict[str, Any]:
        """Values from the search space."""
        lr = self.options.lr or 0.001
        values: dict[str, Any] = {
            "lr": trial.suggest_float("lr", lr / AROUND, lr * AROUND, log=True),
            "weight_decay": trial.suggest_float("weight_decay", *DECAYS, log=True),
            "augment": trial.suggest_categorical("augment", self.augmentations),
        }
        if self.depths:
            values["last"] = trial.suggest_int("last", 1, self.depths)
        if self.scratch:
            values["batch_size"] = trial.suggest_categorical("batch_size", BATCHES)
        return values

    def planned(self, values: dict[str, Any]) -> tuple[Plan, TrainOptions]:
        """The plan and the options of a trial."""
        changed = {k: v for k, v in values.items() if k != "last"}
        plan = self.plan
        if "last" in values:
            plan = depth_plan(self.anatomy, self.plan, values["last"])
        return plan, replace(self.options, **changed, stage_lr=())


def depth_plan(anatomy: Anatomy, plan: Plan, last: int) -> Plan:
    """The plan that trains the last stages: `head` for one, `full` for all."""
    if last <= 1:
        return plan_strategy(anatomy, "head", plan.edits)
    if last >= len(anatomy.stages):
        return plan_strategy(anatomy, "full", plan.edits)
    return plan_strategy(anatomy, "partial", plan.edits, last)
