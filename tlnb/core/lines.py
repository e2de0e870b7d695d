"""Calls as the magic lines that one would type."""

from __future__ import annotations

from typing import Any


def line(magic: str, *words: Any, **options: Any) -> str:
    """A magic as one would type it; options that are None or False are left out."""
    parts = [f"%{magic}", *(_quoted(w) for w in words)]
    for option, value in options.items():
        if value is True:
            parts.append(f"--{option}")
        elif value is not None and value is not False:
            parts.append(f"--{option} {_quoted(value)}")
    return " ".join(parts)


def _quoted(word: Any) -> str:
    return f'"{word}"' if any(c.isspace() for c in str(word)) else str(word)
