"""One training as data: what `train` is going to do, what a job file holds, what a stopped run goes on with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from tlnb.core.data.dataset import DataSet
from tlnb.core.export import run_files
from tlnb.core.models.anatomy import Anatomy
from tlnb.core.models.pretrained import PretrainedModel
from tlnb.core.planning.options import TrainOptions
from tlnb.core.planning.plan import Plan
from tlnb.core.training.run import Run


@dataclass(frozen=True)
class Job:
    """One training, with all that is needed to begin it again or to go on with it."""

    name: str
    plan: Plan
    options: TrainOptions
    model: PretrainedModel
    anatomy: Anatomy
    asked: Mapping[str, Any]  # what was asked of `Session.load`
    data: DataSet
    baseline_of: str | None = None
    previous: Run | None = None
    note: str = ""  # what the run should say about how it came about
    group: str = ""  # of runs that differ in nothing but their seeds, the first's name

    def about(self, run: Run | None = None) -> dict[str, Any]:
        """As JSON's values; with the record once the run has ended."""
        ended = {} if run is None else {"record": run.to_json(), "hashes": run.hashes()}
        return {**self._about, **ended}

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
            "note": self.note,
            "group": self.group,
        }
