"""Errors that a user can mend: one line that says what is wrong, which value, and what would work.

    TLError
    ├── DataError     data that is missing, unknown, too little, unreadable
    ├── ModelError    an unknown model, damaged or foreign weights
    ├── PlanError     an unknown strategy or layer, an edit that does not fit, nothing left to train
    ├── UsageError    a call out of order, an option that does not exist or has a bad value
    └── MemoryLimit   not even the smallest piece of the work fits in memory

Anything else that is raised is a bug of ours and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class TLError(Exception):
    """One line for the user. IPython shows just that line, and nbval still sees a failed cell."""

    def _render_traceback_(self, *_: object) -> list[str]:
        return [f"{type(self).__name__}: {self}"]


class DataError(TLError):
    """The data cannot be used as asked."""


class ModelError(TLError):
    """The model or its weights cannot be used as asked."""


class PlanError(TLError):
    """The plan cannot be made as asked."""


class UsageError(TLError):
    """The call cannot be made now, or not with this value."""


class MemoryLimit(TLError):
    """Memory ran out, and smaller pieces of the work do not help."""


def did_you_mean(word: str, known: Iterable[str], otherwise: str = "") -> str:
    """The end of an error line: close matches to `word`, else `otherwise`."""
    by_lower = {k.lower(): k for k in known}
    close = difflib.get_close_matches(word.lower(), by_lower, n=3, cutoff=0.6)
    if close:
        return "did you mean " + " or ".join(by_lower[c] for c in close) + "?"
    return otherwise


def listed(words: Iterable[str], limit: int = 12) -> str:
    """`a, b, c` with the rest counted."""
    known = list(words)
    shown = ", ".join(known[:limit])
    return shown if len(known) <= limit else f"{shown} and {len(known) - limit} more"
