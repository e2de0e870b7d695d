"""Find runs, and what the session knows about each."""

from __future__ import annotations

from typing import Any

from tlnb.core.data.dataset import DataFacts, DataSet
from tlnb.core.runtime.errors import UsageError, did_you_mean, one_line
from tlnb.core.training.run import Run
from tlnb.session.session_base import SessionBase
from tlnb.session.state import Network, SessionState

LONGEST_NAME = 100  # characters in a run's name


def data_of(self: SessionBase, run: str | Run) -> DataFacts:
    """Describe the data that a run was trained on.

    Raises:
        UsageError: no such run, or one that was not trained in this session.
    """
    name = run_meant(self.state, run).name
    if name not in self.state.facts:
        raise UsageError(f"run {name!r} was not trained in this session: its data is unknown")
    return self.state.facts[name]


def run_meant(state: SessionState, which: str | Run) -> Run:
    """The run itself, or the run of this name.

    Raises:
        UsageError: no run has that name.
    """
    if isinstance(which, Run):
        return which
    by_name = {run.name: run for run in state.runs}
    if which not in by_name:
        known = (
            f"the runs are {', '.join(by_name)}"
            if by_name
            else "there are no runs yet, %tl_train first"
        )
        raise UsageError(f"no run is called {which!r}: {did_you_mean(which, by_name, known)}")
    return by_name[which]


def name_of(run: str | Run | None) -> Any:
    """A run's name, as the transcript shows it."""
    return getattr(run, "name", run)


def last_run(state: SessionState, which: str | Run | None = None) -> Run:
    """The given run; by default the latest that is not a baseline.

    Raises:
        UsageError: there is no such run.
    """
    if which is not None:
        return run_meant(state, which)
    run = _last_plain(state.runs)
    if run is None:
        raise UsageError("no run yet: %tl_train")
    return run


def has_plain_run(state: SessionState) -> bool:
    """Whether there is a run that is not a baseline."""
    return _last_plain(state.runs) is not None


def run_to_match(state: SessionState, data: DataSet) -> Run:
    """The run that a new baseline would be matched to.

    Raises:
        UsageError: there is no such run on this data.
    """
    run = _last_plain(runs_on(state, data))
    if run is None:
        raise UsageError(
            "a baseline needs a run to compare with: %tl_train first, then %tl_train --scratch"
        )
    return run


def runs_on(state: SessionState, data: DataSet) -> tuple[Run, ...]:
    """The runs on this data, oldest first."""
    return tuple(run for run in state.runs if run.fingerprint == data.fingerprint)


def network_of(state: SessionState, run: Run) -> Network:
    """The model that a run started from, and the anatomy of what it trained.

    Raises:
        UsageError: a run of another session, or one that came back as a record.
    """
    if run.name not in state.networks:
        raise UsageError(
            f"run {run.name!r} is a record without its network: %tl_load that and train it again"
        )
    return state.networks[run.name]


def new_name(state: SessionState, wanted: str | None) -> str:
    """A name that no run has yet: `head`, then `head-2`.

    Raises:
        UsageError: a name that does not fit in one line.
    """
    base = wanted or (state.plan.strategy if state.plan else "run")
    if one_line(base) != base or base != base.strip() or len(base) > LONGEST_NAME:
        raise UsageError(
            f"--name {base[:80]!r} is not a valid name: "
            f"use up to {LONGEST_NAME} characters in one line, e.g. --name first"
        )
    taken = {run.name for run in state.runs}
    candidates = (base, *(f"{base}-{k}" for k in range(2, len(taken) + 2)))
    return next(name for name in candidates if name not in taken)


def _last_plain(runs: tuple[Run, ...]) -> Run | None:
    return next((run for run in reversed(runs) if run.baseline_of is None), None)
