"""Whose turn it is to change a session, who is told of changes, and training on a thread while the main thread is free.

One thread at a time changes a session. A call that wants to while another thread trains is refused in one line; reading
is always allowed. Threads print and display nothing: who wants to show something is called back.
"""

from __future__ import annotations

import functools
import inspect
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar

from tlnb.core.runtime.device import free_memory, out_of_memory
from tlnb.core.runtime.errors import MemoryLimit, UsageError
from tlnb.core.training.progress import Progress, Report

EVERY = 0.5  # seconds between two reports of a training: what a page draws, a small computer does not train with
POLL = 0.1  # seconds after which waiting can be interrupted

P = ParamSpec("P")
R = TypeVar("R")
Callback = Callable[..., None]


class Watchers:
    """Callbacks. Bound methods are held weakly: whoever is gone is not called."""

    def __init__(self) -> None:
        self._found: list[Callable[[], Callback | None]] = []

    def add(self, callback: Callback) -> Callable[[], None]:
        """Returns a call that takes the callback out again."""
        bound = inspect.ismethod(callback)
        held: Callable[[], Callback | None] = (
            weakref.WeakMethod(callback) if bound else lambda: callback
        )
        self._found = [*self._found, held]

        def remove() -> None:
            self._found = [f for f in self._found if f is not held]

        return remove

    def __call__(self, *values: Any) -> None:
        for held in self._found:
            callback = held()
            if callback is None:
                self._found = [f for f in self._found if f is not held]
            else:
                callback(*values)


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


class Turn:
    """Whose turn it is to change a session."""

    def __init__(self) -> None:
        self.changed = Watchers()  # called without values after every call that changed the session
        self.progressed = Watchers()  # called with the `Training`, at most twice a second
        self.training: Training | None = None  # the last one
        self._lock = threading.RLock()
        self._depth = 0
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

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Inside, this thread alone changes the session; afterwards the watchers are told. May be nested.

        Raises:
            UsageError: it is another thread's turn.
        """
        with self._mine():
            self._depth += 1
            try:
                yield
            finally:
                self._depth -= 1
                outermost = not self._depth
        if outermost:
            self.changed()

    @contextmanager
    def _mine(self) -> Iterator[None]:
        if not self._lock.acquire(blocking=False):
            name = self.running.name if self.running else "another call"
            raise UsageError(
                f"{name} is still at work, and this would change the session: %tl_stop ends it, %tl_wait waits for it"
            )
        try:
            yield
        finally:
            self._lock.release()

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
        with self._mine():
            training = Training(name)
        begun = threading.Event()

        def work() -> None:
            try:
                with self.taken():
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
                    f"{training.name} was stopped before its first step: nothing was kept"
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


def changing(call: Callable[P, R]) -> Callable[P, R]:
    """A session's call that changes it: one thread at a time, watchers told afterwards."""

    @functools.wraps(call)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
        session: Any = args[0]
        with session.turn.taken():
            try:
                return call(*args, **kwargs)
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
        # outside of `except`: the traceback, and all that its frames hold, are gone here
        free_memory()
        raise MemoryLimit(
            f"memory ran out in tl.{call.__name__}: give a smaller --size, fewer images (--limit) or a smaller model"
        )

    return guarded


def on_colab() -> bool:
    """Where messages of other threads do not reach the page reliably."""
    return "google.colab" in sys.modules
