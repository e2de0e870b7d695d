"""Session locking: one thread at a time changes a session.

A call that would change it while another thread works is refused in one line; reading is always
allowed.
"""

from __future__ import annotations

import functools
import inspect
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar

from tlnb.core.runtime.device import free_memory, out_of_memory
from tlnb.core.runtime.errors import MemoryLimit, UsageError

P = ParamSpec("P")
R = TypeVar("R")
Callback = Callable[..., None]


class Watchers:
    """Callbacks. Bound methods are held weakly, so that watchers can be garbage-collected."""

    def __init__(self) -> None:
        self._references: list[Callable[[], Callback | None]] = []

    def add(self, callback: Callback) -> Callable[[], None]:
        """Add a callback; return a function that removes it."""
        bound = inspect.ismethod(callback)
        reference: Callable[[], Callback | None] = (
            weakref.WeakMethod(callback) if bound else lambda: callback
        )
        self._references = [*self._references, reference]
        return lambda: self._remove(reference)

    def _remove(self, reference: Callable[[], Callback | None]) -> None:
        self._references = [r for r in self._references if r is not reference]

    def __call__(self, *values: Any) -> None:
        for reference in self._references:
            callback = reference()
            if callback is None:
                self._remove(reference)
            else:
                callback(*values)


class SessionLock:
    """Held by the thread that changes the session."""

    def __init__(self) -> None:
        self.changed = Watchers()  # called without values after each call that changes the session
        self._lock = threading.RLock()
        self._depth = 0
        self._holder = "another call"

    @contextmanager
    def exclusive(self, holder: str = "another call") -> Iterator[None]:
        """Lock the session for this thread and notify watchers afterwards; may be nested.

        Args:
            holder: what is running, for the message to calls that are refused meanwhile.

        Raises:
            UsageError: another thread holds the lock.
        """
        with self._held():
            self._holder = self._holder if self._depth else holder
            self._depth += 1
            try:
                yield
            finally:
                self._depth -= 1
                outermost = not self._depth
        if outermost:
            self.changed()

    def refuse_if_busy(self) -> None:
        """Raise `UsageError` if another thread holds the lock."""
        with self._held():
            pass

    @contextmanager
    def _held(self) -> Iterator[None]:
        if not self._lock.acquire(blocking=False):
            raise UsageError(
                f"{self._holder} is still at work, and this would change the session: "
                "%tl_stop ends it, %tl_wait waits for it"
            )
        try:
            yield
        finally:
            self._lock.release()


def mutates_session(call: Callable[P, R]) -> Callable[P, R]:
    """Decorate a call that changes the session: it holds the lock and notifies watchers."""

    @functools.wraps(call)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
        session: Any = args[0]
        with session.lock.exclusive():
            try:
                return call(*args, **kwargs)
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
        # Outside `except`, the traceback and everything its frames hold have been released.
        free_memory()
        raise MemoryLimit(
            f"memory ran out in tl.{call.__name__}: "
            "use a smaller --size, fewer images (--limit) or a smaller model"
        )

    return guarded
