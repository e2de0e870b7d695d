"""The session: the one mutable object. Every magic and every button is one call on it.

The calls are functions in modules named by subject. Each computes everything first and assigns
the next state last, so that a failing call leaves the session unchanged.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tlnb.core.costs.bill import Bill
from tlnb.core.data.dataset import DataSet
from tlnb.core.models.pretrained import PretrainedModel
from tlnb.core.planning.magic_lines import line
from tlnb.core.planning.other_tools import METHODS
from tlnb.core.planning.plan import Plan
from tlnb.core.runtime.errors import TLError, UsageError, did_you_mean
from tlnb.core.training.run import Run
from tlnb.session import (
    comparisons,
    evaluations,
    exports,
    loading,
    plan_editor,
    restoring,
    run_registry,
    training_calls,
)
from tlnb.session.check_results import Check, Checks
from tlnb.session.extensions import EXTENSIONS
from tlnb.session.guided_calls import guided
from tlnb.session.lock import mutates_session
from tlnb.session.session_base import SessionBase

PANELS = ("data", "model", "layers", "train", "compare", "use")


@guided
class Session(SessionBase):
    """What the learner has done so far: `dataset`, `model`, `plan`, `runs`, `bill`."""

    @property
    def dataset(self) -> DataSet | None:
        """The data set; None before `data`."""
        return self.state.dataset

    @property
    def model(self) -> PretrainedModel | None:
        """The model as loaded; None before `load`."""
        return self.state.model

    @property
    def plan(self) -> Plan | None:
        """What `train` would do, with direct changes of `model.module`; None before `load`."""
        try:
            return self.current().plan
        except TLError:  # the call that uses the change will report it
            return self.state.plan

    @property
    def runs(self) -> list[Run]:
        """All runs, oldest first, stopped ones included."""
        return list(self.state.runs)

    @property
    def bill(self) -> Bill:
        """What everything has cost."""
        return self.state.bill

    data = loading.data
    models = loading.models
    load = loading.load

    layers = plan_editor.layers
    strategy = plan_editor.strategy
    freeze = plan_editor.freeze
    unfreeze = plan_editor.unfreeze
    add = plan_editor.add
    remove = plan_editor.remove
    replace = plan_editor.replace
    undo = plan_editor.undo

    train = training_calls.train
    forecast = training_calls.forecast
    tune = training_calls.tune
    advise = training_calls.advise

    errors = evaluations.errors
    predict = evaluations.predict
    look = evaluations.look

    compare = comparisons.compare
    cost = comparisons.cost
    data_of = run_registry.data_of

    save = exports.save
    script = exports.script
    code = exports.code

    @mutates_session
    def resume(
        self,
        where: str | Path | None = None,
        *,
        trust: bool = False,
        names: Mapping[str, Any] | None = None,
    ) -> Run | Session:
        """Resume a stopped run; in an empty session, restore an earlier session and its run.

        Args:
            where: a session's folder or a file in it; default: this notebook's latest session,
                else the latest of all.
            trust: run code in it that is more than `nn.*` constructors; it may use `names`.

        Returns:
            The run, identical to one without the interruption; without a run, the session.

        Raises:
            UsageError: nothing to resume; data, weights or a module that no longer exist.
        """
        run = restoring.resume(self, where, trust, names or {})
        return self if run is None else run

    def check(
        self,
        name: str | None = None,
        *,
        export: str | Path | None = None,
        learner: str | None = None,
    ) -> Check | Checks:
        """Check an exercise against the session; without a name, list all and your progress.

        A step that is still missing shows one more hint each time. The session does not change.

        Args:
            export: write all results to this JSON file, under the name of the `learner`.

        Raises:
            UsageError: no such exercise, an error in the check itself, a file that cannot be
                written.
        """
        checked: Check | Checks = EXTENSIONS.check_exercise(self, name, export, learner)
        self.record(line("tl_check", name) if name is not None else "")
        return checked

    def panel(self, name: str | None = None) -> Any:
        """Open all panels, or one of `data`, `model`, `layers`, `train`, `compare`, `use`.

        Raises:
            UsageError: no such panel.
        """
        return EXTENSIONS.open_panel(self, name)

    def watch(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Register a callback for after every call that changes the session.

        Methods are held weakly. Returns a function that removes the callback.
        """
        return self.lock.changed.add(callback)

    def stop(self) -> Run:
        """Stop the training that a panel started and wait for it to end; its result is kept.

        Raises:
            UsageError: no training is running.
        """
        return self.background.ended(stop=True)  # type: ignore[no-any-return]

    def wait(self) -> Run:
        """Wait for the training that a panel started.

        Raises:
            UsageError: no training was started.
        """
        return self.background.ended(stop=False)  # type: ignore[no-any-return]

    @mutates_session
    def reset(self) -> Session:
        """Forget everything and start a new session."""
        self._begin()
        return self

    @property
    def next_line(self) -> str:
        """The most likely next line."""
        state = self.state
        if state.dataset is None:
            return "%tl_data digits --per-class 2"
        if state.model is None:
            return line("tl_load", loading.suggested_model(state.dataset))
        runs = run_registry.runs_on(state, state.dataset)
        if not runs:
            return "%tl_train"
        return "%tl_compare" if any(run.baseline_of for run in runs) else "%tl_train --scratch"

    def __repr__(self) -> str:
        rule = f" ({self.state.rule!r})" if self.state.rule else ""
        return f"tlnb session: {self.state!r}; next: {self.next_line}{rule}"

    def __getattr__(self, name: str) -> Any:
        """Answer other tools' method names with ours; called only for missing attributes."""
        if meant := METHODS.get(name):
            raise _NoSuch(f"tlnb has no tl.{name}: use tl.{meant}(...), or %tl_{meant} as a magic")
        plain = f"{type(self).__name__!r} object has no attribute {name!r}"
        public = [each for each in dir(type(self)) if each[0] != "_"]
        hint = "" if name.startswith("_") else did_you_mean(name, public)
        raise _NoSuch(f"tlnb has no tl.{name}: {hint}") if hint else AttributeError(plain)


class _NoSuch(UsageError, AttributeError):
    """A name that another tool uses; an AttributeError, so that `hasattr` is still False."""
