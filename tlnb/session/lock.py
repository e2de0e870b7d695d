"""Session locking: one thread at a time changes a session.

A call that would change it while another thread is at work is refused in one line; reading is always allowed.
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


class SessionLock:
    """Held by the thread that changes the session."""

    def __init__(self) -> None:
        self.changed = Watchers()  # called without values after every call that changed the session
        self._lock = threading.RLock()
        self._depth = 0
        self._holder = "another call"

    @contextmanager
    def exclusive(self, holder: str = "another call") -> Iterator[None]:
        """Inside, this thread alone changes the session; afterwards the watchers are told. May be nested.

        Args:
            holder: what is at work, for those who are refused meanwhile.

        Raises:
            UsageError: another thread is at work.
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
        """Raises `UsageError` where another thread is at work."""
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
    """A session's call that changes it: one thread at a time, watchers told afterwards."""

    @functools.wraps(call)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
        session: Any = args[0]
        with session.lock.exclusive():
            try:
                return call(*args, **kwargs)
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
        # outside of `except`: the traceback, and all that its frames hold, are gone here
        free_memory()
        raise MemoryLimit(
            f"memory ran out in tl.{call.__name__}: "
            "use a smaller --size, fewer images (--limit) or a smaller model"
        )

    return guarded
