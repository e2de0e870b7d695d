"""What `Session.check` does, handed to the session by the package."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import tlnb.course.exercises  # noqa: F401 - the course's own; those of a teacher register themselves
from tlnb.core.runtime.errors import UsageError
from tlnb.course.checks import EXERCISES, find, judge, untried
from tlnb.course.hand_in import hand_in, write_hand_in
from tlnb.session import Session
from tlnb.session.check_results import Check, Checks


def check_exercise(
    session: Session, name: str | None, export: str | Path | None, learner: str | None
) -> Check | Checks:
    """Check an exercise, whose result the session keeps; without a name, all results so far.

    Raises:
        UsageError: no such exercise, a check that fails by itself, a file that cannot be written.
    """
    if (export is None) != (learner is None):
        raise UsageError(
            "results are written with both: %tl_check --export grades.json --learner NAME"
        )
    checked: Check | None = None
    if name is not None:
        checked = judge(find(name), session, session.names, session.checks.get(name))
        session.checks[name] = checked
    every = tuple(
        session.checks.get(each) or untried(asked) for each, asked in sorted(EXERCISES.items())
    )
    if export is not None:
        handed = hand_in(learner or "", every, session.runs, session.state.jobs, version("tlnb"))
        write_hand_in(Path(export).expanduser(), handed)
    return checked or Checks(every)
