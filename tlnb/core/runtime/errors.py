"""Errors that a user can mend: one line that says what is wrong, which value, and what would work.

    TLError
    ├── DataError     data that is missing, unknown, too little, unreadable
    ├── ModelError    an unknown model, damaged or foreign weights
    ├── PlanError     an unknown strategy or layer, an edit that does not fit, nothing left to train
    ├── UsageError    a call out of order, an option that does not exist or has a bad value
    ├── MemoryLimit   not even the smallest piece of the work fits in memory
    └── DeviceLost    a GPU that no longer answers: the kernel has to be started again

Anything else that is raised is a bug of ours and keeps its traceback.
"""

from __future__ import annotations

import difflib
import functools
import unicodedata
from collections.abc import Callable, Iterable
from typing import Any

LONGEST = 1000  # characters of an error


class TLError(Exception):
    """One line for the user, whatever is quoted in it. IPython shows just that line, and nbval still sees a failed cell."""

    def __str__(self) -> str:
        text = one_line(super().__str__())
        return text if len(text) <= LONGEST else f"{text[: LONGEST // 2]} … {text[-LONGEST // 2 :]}"

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


class DeviceLost(TLError):
    """The device does not answer any more; what was kept on disk is still there."""


def one_line(text: str) -> str:
    """The text with line ends, control characters and what is no valid text written as escapes (`\\n`)."""
    if text.isprintable():
        return text
    return "".join(c if _printable(c) else c.encode("unicode_escape").decode() for c in text)


class OneLine:
    """Its subclasses' `__repr__` is one printable line, whatever a file put into it: terminals obey control characters."""

    def __init_subclass__(cls, **given: Any) -> None:
        super().__init_subclass__(**given)
        if "__repr__" in vars(cls):
            cls.__repr__ = _in_one_line(cls.__repr__)  # type: ignore[method-assign]


def _in_one_line(own: Callable[[Any], str]) -> Callable[[Any], str]:
    @functools.wraps(own)
    def __repr__(self: Any) -> str:
        return one_line(own(self))

    return __repr__


def _printable(character: str) -> bool:
    return (
        character.isprintable() or unicodedata.category(character) == "Zs"
    )  # spaces of other widths


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
