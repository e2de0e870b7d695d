"""The state of a session as one frozen record; a call computes the next one and replaces it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from tlnb.core.costs.bill import Bill
from tlnb.core.data.dataset import DataFacts, DataSet
from tlnb.core.data.pretraining_overlap import seen_by
from tlnb.core.models.anatomy import Anatomy
from tlnb.core.models.pretrained import PretrainedModel, resized
from tlnb.core.planning.edit import Scopes
from tlnb.core.planning.plan import Plan
from tlnb.core.planning.prepare import Parts, Prepared
from tlnb.core.planning.size_rule import SizeRule, size_rule
from tlnb.core.runtime.errors import OneLine, UsageError
from tlnb.core.training.run import Forecast, Run
from tlnb.session.job import Job

Network = tuple[PretrainedModel, Anatomy]


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class SessionState(OneLine):
    """Everything that a session knows; its mappings are never mutated."""

    dataset: DataSet | None = None
    model: PretrainedModel | None = None
    plan: Plan | None = None
    runs: tuple[Run, ...] = ()  # oldest first
    bill: Bill = field(default_factory=Bill)
    anatomy: Anatomy | None = None  # of the model with the plan's edits
    scopes: Scopes = field(default_factory=dict)  # the user's names that edits mention
    parts: Parts = field(default_factory=dict)  # of the model, to detect direct changes
    asked: Mapping[str, Any] = field(default_factory=dict)  # how the model was loaded
    history: tuple[Plan, ...] = ()  # earlier plans for this model, for undo
    networks: Mapping[str, Network] = field(default_factory=dict)  # what each run trained
    facts: Mapping[str, DataFacts] = field(default_factory=dict)  # about each run's data
    jobs: Mapping[str, Job] = field(default_factory=dict)  # each run's job
    unfinished: tuple[str, ...] = ()  # stopped runs that can be resumed, oldest first
    equal_budget: Mapping[str, Run] = field(default_factory=dict)  # by the baseline's name
    forecasts: tuple[Forecast, ...] = ()
    lost: tuple[str, ...] = ()  # what an earlier session had that did not come back, a line each

    def loaded(self) -> tuple[PretrainedModel, Anatomy, Plan]:
        """The model, its anatomy with the plan's edits, and the plan.

        Raises:
            UsageError: no model is loaded.
        """
        if self.model is None or self.anatomy is None or self.plan is None:
            raise UsageError("no model is loaded: %tl_load glyphnet")
        return self.model, self.anatomy, self.plan

    def data(self) -> DataSet:
        """The data set.

        Raises:
            UsageError: no data yet.
        """
        if self.dataset is None:
            raise UsageError("no data yet: %tl_data digits --per-class 2")
        return self.dataset

    @property
    def rule(self) -> SizeRule | None:
        """What the rule says for these data and this model; None without data."""
        if self.dataset is None:
            return None
        source = self.model.card.source if self.model else ""
        seen = bool(seen_by(source, self.dataset.source_hint))
        return size_rule(self.dataset.per_class, seen=seen)

    def sized(self) -> PretrainedModel:
        """The model with the input edge that the data asks for."""
        model = self.loaded()[0]
        return resized(model, self.dataset.request.size if self.dataset else None)

    def with_prepared(self, prepared: Prepared) -> SessionState:
        """The state with this model and plan."""
        return replace(
            self,
            model=prepared.model,
            parts=prepared.parts,
            anatomy=prepared.anatomy,
            plan=prepared.plan,
            scopes={**self.scopes, **prepared.scopes},
        )

    def __repr__(self) -> str:
        parts = [
            f"data: {self.dataset.name}" if self.dataset else "no data yet",
            f"model: {self.model.name}" if self.model else "no model yet",
            *([f"plan: {self.plan.strategy}"] if self.plan else []),
            f"{len(self.runs)} runs",
            *self.lost,
        ]
        return ", ".join(parts)
