"""Training on a thread while the main thread is free.

Threads print and display nothing: who wants to show something is called back.
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

EVERY = 0.5  # seconds between two reports of a training: what a page draws, a small computer does not train with
POLL = 0.1  # seconds after which waiting can be interrupted


class Training:
    """A call that trains: how far it is, and how it ended. `value` is what it returned, `error` what it raised."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.running = True
        self.stopping = False
        self.progress: Progress | None = None
        self.history: list[Progress] = []  # one for each epoch of training, oldest first
        self.started = time.monotonic()
        self.value: Any = None
        self.error: BaseException | None = None
        self.thread: threading.Thread | None = None
        self._times: list[float] = []  # when each of the history came
        self._ended = threading.Event()

    def stop(self) -> None:
        """Ask it to end soon; what it has so far is kept."""
        self.stopping = True

    def wait(self, seconds: float | None = None) -> bool:
        """Whether it has ended, after so many seconds at most."""
        end = None if seconds is None else time.monotonic() + seconds
        while not self._ended.wait(POLL):  # in pieces, so that ■ can end the waiting
            if end is not None and time.monotonic() >= end:
                return False
        return True

    @property
    def left(self) -> float | None:
        """Seconds that the epochs to come will take at the pace of those so far; None before there is a pace."""
        found = self.history
        if not self.running or len(found) < 2 or not found[-1].epochs:
            return None
        pace = (self._times[-1] - self._times[0]) / (len(found) - 1)
        return pace * (found[-1].epochs - found[-1].epoch)

    @property
    def accuracy(self) -> float | None:
        """What the last look found; None before the first."""
        return next((p.accuracy for p in reversed(self.history) if p.accuracy is not None), None)

    def note(self, progress: Progress) -> None:
        """Remember where it is. A run that begins after another (a baseline's twin) begins a history of its own."""
        if self.progress is not None and self.progress.run != progress.run:
            self.history, self._times = [], []
        if progress.phase == "training":
            self._times.append(time.monotonic())
            self.history.append(progress)
        self.progress = progress

    def end(self, value: Any = None, error: BaseException | None = None) -> None:
        """How it ended."""
        self.value, self.error, self.running = value, error, False

    def close(self) -> None:
        """Let those go on who wait."""
        self._ended.set()


class Background:
    """Carries out a session's calls on a thread, one at a time, and tells how far they are."""

    def __init__(self, lock: SessionLock) -> None:
        self.progressed = Watchers()  # called with the `Training`, at most twice a second
        self.training: Training | None = None  # the last one
        self._lock = lock
        self._own = threading.local()

    @property
    def report(self) -> Report | None:
        """Who is told of progress: each thread has its own."""
        return getattr(self._own, "report", None)

    @report.setter
    def report(self, report: Report | None) -> None:
        self._own.report = report

    @property
    def running(self) -> Training | None:
        """The training that goes on now on another thread than the main one."""
        return self.training if self.training is not None and self.training.running else None

    def interrupted(self) -> bool:
        """Whether the calling thread was asked to stop."""
        found = self.running
        return found is not None and found.stopping and found.thread is threading.current_thread()

    def start(self, name: str, call: Callable[[], Any], foreground: bool | None = None) -> Training:
        """Call something that trains on a thread, and return at once.

        Args:
            name: what is at work, for people: `the training`.
            foreground: call it here instead, and return when it has ended; default: on Colab.

        Raises:
            UsageError: something is at work already.
        """
        self._lock.refuse_if_busy()
        training = Training(name)
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

    def _carry_out(self, training: Training, call: Callable[[], Any]) -> None:
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
        except Exception as error:  # handed to whoever waits, and to the panels
            training.end(error=error)
        finally:
            self.report = before

    def _reporter(self, training: Training) -> Report:
        told = 0.0

        def report(progress: Progress) -> None:
            nonlocal told
            new = training.progress is None or training.progress.phase != progress.phase
            training.note(progress)
            now = time.monotonic()
            if now - told >= EVERY or (new and (training.stopping or now - told >= EVERY / 4)):
                told = now
                self.progressed(training)

        return report

    def ended(self, stop: bool) -> Any:
        """Wait for what is at work, asked to stop or not, and return what it made.

        Raises:
            UsageError: nothing was ever started.
            Exception: what it raised.
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
    """Where messages of other threads do not reach the page reliably."""
    return "google.colab" in sys.modules
