"""One training as data: for `train`, for a job file, and to resume a stopped run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from tlnb.core.data.dataset import DataSet
from tlnb.core.export import run_files
from tlnb.core.models.anatomy import Anatomy
from tlnb.core.models.pretrained import PretrainedModel
from tlnb.core.planning.edit import Scopes
from tlnb.core.planning.options import TrainOptions, options_from
from tlnb.core.planning.plan import Plan
from tlnb.core.runtime.typed_json import typed
from tlnb.core.training.events import Event, events_of_notes
from tlnb.core.training.run import Run

if TYPE_CHECKING:
    from tlnb.core.tuning.search_space import Task


@dataclass(frozen=True, kw_only=True)
class Job:
    """One training, with everything needed to repeat or resume it."""

    name: str
    plan: Plan
    options: TrainOptions
    model: PretrainedModel
    anatomy: Anatomy
    asked: Mapping[str, Any]  # the arguments of `Session.load`
    data: DataSet
    baseline_of: str | None = None
    previous: Run | None = None
    event: Event | None = None  # how the run came about, where it should say so
    group: str = ""  # the first run's name, for runs that differ only in their seeds

    def about(self, run: Run | None = None) -> dict[str, Any]:
        """The job as JSON values; with the run's record once it has ended."""
        ended = {} if run is None else {"record": run.to_json(), "hashes": run.hashes()}
        return {**self._about, **ended}

    def tuning_task(self, scopes: Scopes) -> Task:
        """This training as a start for a search of its hyperparameters."""
        from tlnb.core.tuning.search_space import Task

        return Task(
            model=self.model,
            anatomy=self.anatomy,
            data=self.data,
            plan=self.plan,
            options=self.options,
            scopes=scopes,
        )

    @cached_property
    def _about(self) -> dict[str, Any]:
        return {
            "run": self.name,
            "plan": asdict(self.plan),
            "options": asdict(self.options),
            "asked": dict(self.asked),
            "facts": run_files.facts_to(self.data.facts),
            "fingerprint": self.data.fingerprint,
            "baseline_of": self.baseline_of,
            "previous": self.previous.name if self.previous else None,
            "event": asdict(self.event) if self.event else None,
            "group": self.group,
        }


def is_about(about: Mapping[str, Any], job: Job) -> bool:
    """Whether a saved description, maybe by an older version, is of this job."""
    plan, options = Plan.from_json(about["plan"]), options_from(about["options"])
    facts = run_files.facts_to(run_files.facts_from(about["facts"]))
    current = {"plan": asdict(plan), "options": asdict(options), "facts": facts}
    saved = {**about, **current, "event": None}
    saved.pop("note", None)  # version 0.1.0 wrote a note instead of the event
    expected = {**job.about(), "event": None}
    return bool(json.loads(json.dumps(saved)) == json.loads(json.dumps(expected)))


def event_of(about: Mapping[str, Any]) -> Event | None:
    """The event that says how a run came about; version 0.1.0 wrote a note instead."""
    old = {"event": events_of_notes([about["note"]])[0]} if about.get("note") else {"event": None}
    written = {**old, **about}["event"]
    return typed(Event, written, "event") if written else None
