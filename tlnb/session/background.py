"""Background training: one worker thread, progress reports by callback.

Worker threads never print or display anything; whoever shows progress registers a callback.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from tlnb.core.runtime.errors import UsageError
from tlnb.core.training.progress import Progress, Report
from tlnb.session.lock import SessionLock, Watchers

# Seconds between progress reports. On a small computer drawing competes with training.
REPORT_INTERVAL = 0.5
POLL_INTERVAL = 0.1  # seconds until a wait notices an interrupt


class BackgroundCall:
    """A call that trains: its progress, and the `value` it returned or the `error` it raised."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.running = True
        self.stopping = False
        self.progress: Progress | None = None
        self.history: list[Progress] = []  # one per training epoch, oldest first
        self.started = time.monotonic()
        self.value: Any = None
        self.error: BaseException | None = None
        self.thread: threading.Thread | None = None
        self._times: list[float] = []  # when each entry of `history` arrived
        self._ended = threading.Event()

    def stop(self) -> None:
        """Ask the training to end soon; its result so far is kept."""
        self.stopping = True

    def wait(self, seconds: float | None = None) -> bool:
        """Wait at most `seconds`; return whether the training has ended."""
        end = None if seconds is None else time.monotonic() + seconds
        while not self._ended.wait(POLL_INTERVAL):  # short waits, so that ■ can interrupt
            if end is not None and time.monotonic() >= end:
                return False
        return True

    @property
    def left(self) -> float | None:
        """Seconds left at the pace of the epochs so far; None before two epochs have ended."""
        history = self.history
        if not self.running or len(history) < 2 or not history[-1].epochs:
            return None
        pace = (self._times[-1] - self._times[0]) / (len(history) - 1)
        return pace * (history[-1].epochs - history[-1].epoch)

    @property
    def accuracy(self) -> float | None:
        """The latest accuracy; None before the first evaluation."""
        return next((p.accuracy for p in reversed(self.history) if p.accuracy is not None), None)

    def note(self, progress: Progress) -> None:
        """Record progress. A second run (a baseline's twin) starts a new history."""
        if self.progress is not None and self.progress.run != progress.run:
            self.history, self._times = [], []
        if progress.phase == "training":
            self._times.append(time.monotonic())
            self.history.append(progress)
        self.progress = progress

    def end(self, value: Any = None, error: BaseException | None = None) -> None:
        """Record the outcome."""
        self.value, self.error, self.running = value, error, False

    def close(self) -> None:
        """Release the threads that wait for this training."""
        self._ended.set()


class Background:
    """Runs a session's calls on a worker thread, one at a time, and reports their progress."""

    def __init__(self, lock: SessionLock) -> None:
        self.progressed = Watchers()  # called with the `BackgroundCall`, at most twice a second
        self.training: BackgroundCall | None = None  # the latest
        self._lock = lock
        self._thread_local = threading.local()

    @property
    def report(self) -> Report | None:
        """The calling thread's progress callback; each thread has its own."""
        return getattr(self._thread_local, "report", None)

    @report.setter
    def report(self, report: Report | None) -> None:
        self._thread_local.report = report

    @property
    def running(self) -> BackgroundCall | None:
        """The training now running on the worker thread, if any."""
        return self.training if self.training is not None and self.training.running else None

    def interrupted(self) -> bool:
        """Whether the calling thread was asked to stop."""
        training = self.running
        if training is None or not training.stopping:
            return False
        return training.thread is threading.current_thread()

    def start(
        self, name: str, call: Callable[[], Any], foreground: bool | None = None
    ) -> BackgroundCall:
        """Run a call that trains on a worker thread, and return immediately.

        Args:
            name: what is running, in words for people: `the training`.
            foreground: run the call on this thread and return when it has ended; default: on Colab.

        Raises:
            UsageError: another call is already running.
        """
        self._lock.refuse_if_busy()
        training = BackgroundCall(name)
        begun = threading.Event()

        def work() -> None:
            try:
                with self._lock.exclusive(name):
                    self.training = training
                    begun.set()
                    self._carry_out(training, call)
            finally:
                begun.set()
                training.close()

        if on_colab() if foreground is None else foreground:
            work()
            return training
        training.thread = threading.Thread(target=work, name=f"tlnb: {name}", daemon=True)
        training.thread.start()
        begun.wait()
        return training

    def _carry_out(self, training: BackgroundCall, call: Callable[[], Any]) -> None:
        before = self.report
        self.report = self._reporter(training)
        try:
            training.end(call())
        except KeyboardInterrupt:
            training.end(
                error=UsageError(
                    f"{training.name} was stopped before its first step: nothing was saved"
                )
            )
        except Exception as error:  # re-raised for whoever waits, and shown by the panels
            training.end(error=error)
        finally:
            self.report = before

    def _reporter(self, training: BackgroundCall) -> Report:
        last_report = 0.0

        def report(progress: Progress) -> None:
            nonlocal last_report
            new_phase = training.progress is None or training.progress.phase != progress.phase
            training.note(progress)
            now = time.monotonic()
            since = now - last_report
            early = new_phase and (training.stopping or since >= REPORT_INTERVAL / 4)
            if since >= REPORT_INTERVAL or early:
                last_report = now
                self.progressed(training)

        return report

    def ended(self, stop: bool) -> Any:
        """Wait for the training and return its result; with `stop`, ask it to end first.

        Raises:
            UsageError: no training was started.
            Exception: what the training raised.
        """
        training = self.training
        if training is None or (stop and not training.running):
            what = "stop" if stop else "wait for"
            raise UsageError(
                f"nothing to {what}: no training was started from a panel; ■ stops a cell"
            )
        if stop:
            training.stop()
        training.wait()
        if training.error is not None:
            raise training.error
        return training.value


def on_colab() -> bool:
    """Whether this is Colab, where messages from other threads may not reach the page."""
    return "google.colab" in sys.modules
