"""What all calls of a session share: its state, the transcript, and who else has a part in it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tlnb.core.runtime.errors import OneLine
from tlnb.core.storage.activation_cache import Store
from tlnb.core.training.progress import Progress, Report
from tlnb.session.background import Background
from tlnb.session.check_results import Check
from tlnb.session.direct_changes import with_direct_changes
from tlnb.session.lock import SessionLock
from tlnb.session.state import SessionState
from tlnb.session.store import SessionStore


class SessionBase(OneLine):
    """A session without its calls, which are functions of modules of their own: they compute first, then `commit`."""

    def __init__(self) -> None:
        self.names: Mapping[str, Any] = {}  # the notebook's variables, for checks of exercises
        self.checks: dict[str, Check] = {}  # survive a reset: a learner begins anew for each
        self.lock = SessionLock()
        self.background = Background(self.lock)
        self.store = SessionStore()
        self._begin()

    def _begin(self) -> None:
        """Begin anew, in another folder."""
        self.store.close()
        self.store = SessionStore()
        self.state = SessionState()
        self.transcript: list[str] = []
        self.cache = Store()  # what was computed once, for later runs

    def commit(self, state: SessionState, *lines: str) -> None:
        """Put the next state in this one's place. For the thread that has `lock`."""
        self.state = state
        self.record(*lines)

    def record(self, *lines: str) -> None:
        """Add to the transcript, which calls that only read do, too, while another thread trains."""
        self.transcript.extend(line for line in lines if line)

    def save_to_disk(self) -> None:
        """Write what a later kernel should find again."""
        self.store.write(self.state, self.transcript)

    def current(self) -> SessionState:
        """The state as direct changes of `model.module` make it; nothing is assigned."""
        return with_direct_changes(self.state)[0]

    def noticed(self) -> SessionState:
        """The same for calls that change the session: assigned, with a line of the transcript."""
        state, line = with_direct_changes(self.state)
        if line:
            self.commit(state, line)
        return state

    @property
    def report(self) -> Report | None:
        """Who is told of progress: each thread has its own."""
        return self.background.report

    @report.setter
    def report(self, report: Report | None) -> None:
        self.background.report = report

    def tell(self, run: str, phase: str, done: int, total: int) -> None:
        """Tell of progress that is not of a training."""
        if self.report is not None:
            self.report(Progress(run, phase, done, total))
