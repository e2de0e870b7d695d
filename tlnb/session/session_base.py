"""What all session calls share: the state, the transcript, the lock, the store on disk."""

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
    """A session without its calls: functions in other modules that compute first, then `commit`."""

    def __init__(self) -> None:
        self.names: Mapping[str, Any] = {}  # the notebook's variables, for checks of exercises
        # Checks survive a reset: a learner resets the session for each exercise.
        self.checks: dict[str, Check] = {}
        self.lock = SessionLock()
        self.background = Background(self.lock)
        self.store = SessionStore()
        self._begin()

    def _begin(self) -> None:
        self.store.close()
        self.store = SessionStore()
        self.state = SessionState()
        self.transcript: list[str] = []
        self.cache = Store()  # cached activations, for later runs

    def commit(self, state: SessionState, *lines: str) -> None:
        """Replace the state. Call it only while holding `lock`."""
        self.state = state
        self.record(*lines)

    def record(self, *lines: str) -> None:
        """Append to the transcript; calls that only read do so while another thread trains."""
        self.transcript.extend(line for line in lines if line)

    def save_to_disk(self) -> None:
        """Save the session for a later kernel."""
        self.store.write(self.state, self.transcript)

    def current(self) -> SessionState:
        """The state with direct changes of `model.module` applied; nothing is assigned."""
        return with_direct_changes(self.state)[0]

    def noticed(self) -> SessionState:
        """As `current`, for calls that change the session: assigned and in the transcript."""
        state, line = with_direct_changes(self.state)
        if line:
            self.commit(state, line)
        return state

    @property
    def report(self) -> Report | None:
        """The calling thread's progress callback; each thread has its own."""
        return self.background.report

    @report.setter
    def report(self, report: Report | None) -> None:
        self.background.report = report

    def tell(self, run: str, phase: str, done: int, total: int) -> None:
        """Report progress of work that is not a training."""
        if self.report is not None:
            self.report(Progress(run=run, phase=phase, epoch=done, epochs=total))
