"""The session: the one object that changes. Every magic and every button is one call on it.

A call is a function of the module that its subject names. It computes everything first and puts the next state in place
last, so that a call that fails leaves the session as it was.
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
from tlnb.core.runtime.errors import TLError, UsageError
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
from tlnb.session.base import SessionBase
from tlnb.session.check_results import Check, Checks
from tlnb.session.extensions import EXTENSIONS
from tlnb.session.lock import mutates_session

PANELS = ("data", "model", "layers", "train", "compare")


class Session(SessionBase):
    """What the learner has done so far: `dataset`, `model`, `plan`, `runs`, `bill`."""

    @property
    def dataset(self) -> DataSet | None:
        """The data; None before `data`."""
        return self.state.dataset

    @property
    def model(self) -> PretrainedModel | None:
        """The model as it was loaded; None before `load`."""
        return self.state.model

    @property
    def plan(self) -> Plan | None:
        """What `train` would do, direct changes of `model.module` included; None before `load`."""
        try:
            return self.current().plan
        except TLError:  # said by the call that would use the change
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
        """Go on with a run that was stopped; in an empty session, with an earlier session and the run that its end cut off.

        Args:
            where: a session's folder or a file in it; default: the last session of this notebook, else the last of all.
            trust: run code in it that is more than `nn.*` constructors; it may use `names`.

        Returns:
            The run, which is what it would have been without the interruption; without one, the session.

        Raises:
            UsageError: nothing to go on with; data, weights or a module that are no longer there.
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
        """Check an exercise against what the session holds; without a name, all exercises and how far you are.

        A step that is still missing shows one more hint each time. Nothing of the session changes.

        Args:
            export: write all results to this JSON file, under the name of the `learner`.

        Raises:
            UsageError: no such exercise, a check that fails by itself, a file that cannot be written.
        """
        checked: Check | Checks = EXTENSIONS.check_exercise(self, name, export, learner)
        self.record(line("tl_check", name) if name is not None else "")
        return checked

    def panel(self, name: str | None = None) -> Any:
        """The same with the mouse: all panels, or one of `data`, `model`, `layers`, `train`, `compare`.

        Raises:
            UsageError: there is no such panel.
        """
        return EXTENSIONS.open_panel(self, name)

    def watch(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Be called after every call that changed the session. Methods are held weakly; what is returned ends it."""
        return self.lock.changed.add(callback)

    def stop(self) -> Run:
        """Stop the training that a panel started, and wait until it has ended. What it has so far is kept.

        Raises:
            UsageError: there is none.
        """
        return self.background.ended(stop=True)  # type: ignore[no-any-return]

    def wait(self) -> Run:
        """Wait for the training that a panel started.

        Raises:
            UsageError: there was none.
        """
        return self.background.ended(stop=False)  # type: ignore[no-any-return]

    @mutates_session
    def reset(self) -> Session:
        """Forget everything: a new session."""
        self._begin()
        return self

    @property
    def next_line(self) -> str:
        """The line that most likely comes next."""
        state = self.state
        if state.dataset is None:
            return "%tl_data digits --per-class 2"
        if state.model is None:
            return "%tl_load glyphnet"
        runs = run_registry.runs_on(state, state.dataset)
        if not runs:
            return "%tl_train"
        return "%tl_compare" if any(run.baseline_of for run in runs) else "%tl_train --scratch"

    def __repr__(self) -> str:
        return f"tlnb session: {self.state!r}; next: {self.next_line}"

    def __getattr__(self, name: str) -> Any:
        """Names of other tools are answered with ours. Only asked for what is not there."""
        if meant := METHODS.get(name):
            raise _NoSuch(f"tlnb has no tl.{name}: use tl.{meant}(...), or %tl_{meant} as a magic")
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")


class _NoSuch(UsageError, AttributeError):
    """A name of another tool's; `hasattr` is still answered with no."""
