"""A lock for torch's process-wide state (random number generator, attention backends).

Training holds the lock from start to end and yields it between steps; building a network or
counting FLOPs takes it for as long as that lasts. So a panel that trains and a cell that inspects
another network do not disturb each other's random numbers.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

YIELD_SECONDS = 0.05  # seconds that training waits for waiting threads to take the lock

_lock = threading.Condition(threading.RLock())
_waiting_lock = threading.Lock()
_waiting = 0


@contextmanager
def alone() -> Iterator[None]:
    """Hold the lock: only one thread is inside at a time. May be nested."""
    if not _lock.acquire(blocking=False):
        _count_waiting(1)
        try:
            _lock.acquire()
        finally:
            _count_waiting(-1)
    try:
        yield
    finally:
        _lock.notify_all()
        _lock.release()


def give_way() -> None:
    """Let waiting threads take the lock; call it inside `alone`, where an interruption is safe.

    Costs nothing if no thread is waiting.
    """
    if _waiting:
        _lock.wait(YIELD_SECONDS)


def _count_waiting(change: int) -> None:
    global _waiting
    with _waiting_lock:
        _waiting += change
