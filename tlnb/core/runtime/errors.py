"""Errors the user can fix: one line saying what is wrong, which value, and what would work.

    TLError
    ├── DataError     data that is missing, unknown, too little, unreadable
    ├── ModelError    an unknown model, damaged or foreign weights
    ├── PlanError     an unknown strategy or layer, an edit that does not fit, nothing left to train
    ├── UsageError    a call out of order, an option that does not exist or has a bad value
    ├── MemoryLimit   not even the smallest piece of the work fits in memory
    └── DeviceLost    a GPU that no longer answers: the kernel must be restarted

Any other exception is a bug in tlnb and keeps its traceback.
"""

from __future__ import annotations

import difflib
import functools
import unicodedata
from collections.abc import Callable, Iterable
from typing import Any

MAX_ERROR_LENGTH = 1000  # characters of an error


class TLError(Exception):
    """One line for the user, whatever text it quotes.

    IPython shows just that line, and nbval still sees a failed cell.
    """

    def __str__(self) -> str:
        text = one_line(super().__str__())
        half = MAX_ERROR_LENGTH // 2
        return text if len(text) <= MAX_ERROR_LENGTH else f"{text[:half]} … {text[-half:]}"

    def _render_traceback_(self, *_: object) -> list[str]:
        return [f"{type(self).__name__}: {self}"]


class DataError(TLError):
    """The data cannot be used as requested."""


class ModelError(TLError):
    """The model or its weights cannot be used as requested."""


class PlanError(TLError):
    """The plan cannot be made as requested."""


class UsageError(TLError):
    """The call cannot be made now, or not with this value."""


class MemoryLimit(TLError):
    """Memory ran out, and smaller pieces of the work do not help."""


class DeviceLost(TLError):
    """The device stopped answering; everything already saved to disk is intact."""


def one_line(text: str) -> str:
    """Escape line ends, control characters and invalid Unicode in a text (`\\n`)."""
    if text.isprintable():
        return text
    return "".join(c if _printable(c) else c.encode("unicode_escape").decode() for c in text)


class OneLine:
    """Base class that turns the `__repr__` of its subclasses into one printable line.

    A file may put control characters into a name, and terminals obey them.
    """

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "__repr__" in vars(cls):
            cls.__repr__ = _one_line_repr(cls.__repr__)  # type: ignore[method-assign]


def _one_line_repr(original: Callable[[Any], str]) -> Callable[[Any], str]:
    @functools.wraps(original)
    def __repr__(self: Any) -> str:
        return one_line(original(self))

    return __repr__


def _printable(character: str) -> bool:
    # category Zs: spaces of other widths
    return character.isprintable() or unicodedata.category(character) == "Zs"


def did_you_mean(word: str, known: Iterable[str], otherwise: str = "") -> str:
    """Suggest close matches to `word` as the end of an error line; without any, `otherwise`."""
    by_lower = {k.lower(): k for k in known}
    close = difflib.get_close_matches(word.lower(), by_lower, n=3, cutoff=0.6)
    if close:
        return "did you mean " + " or ".join(by_lower[c] for c in close) + "?"
    return otherwise


def listed(words: Iterable[str], limit: int = 12) -> str:
    """Join words as `a, b, c and 5 more`, at most `limit` of them by name."""
    known = list(words)
    shown = ", ".join(known[:limit])
    return shown if len(known) <= limit else f"{shown} and {len(known) - limit} more"
