"""What torch has one of in a process (random numbers, attention's switches) is used by one thread at a time.

Training holds it from start to end and gives way between its steps; what builds a network or counts FLOPs takes it for
that long. So a panel that trains and a cell that looks at another network leave each other's numbers as they are.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

PATIENCE = 0.05  # seconds that training waits for those who asked to take over

_held = threading.Condition(threading.RLock())
_counting = threading.Lock()
_waiting = 0


@contextmanager
def alone() -> Iterator[None]:
    """No other thread is inside at the same time. May be nested."""
    if not _held.acquire(blocking=False):
        _wait(1)
        try:
            _held.acquire()
        finally:
            _wait(-1)
    try:
        yield
    finally:
        _held.notify_all()
        _held.release()


def give_way() -> None:
    """Inside `alone`, where an interruption does no harm: let those in who wait. Costs nothing if nobody does."""
    if _waiting:
        _held.wait(PATIENCE)


def _wait(more: int) -> None:
    global _waiting
    with _counting:
        _waiting += more
