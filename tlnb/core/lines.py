"""Calls as the magic lines that one would type."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tlnb.core.options import rates_text


def line(magic: str, *words: Any, **options: Any) -> str:
    """A magic as one would type it; options that are None or False are left out."""
    parts = [f"%{magic}", *(_quoted(w) for w in words)]
    for option, value in options.items():
        if value is True:
            parts.append(f"--{option}")
        elif value is not None and value is not False:
            parts.append(f"--{option} {_quoted(value)}")
    return " ".join(parts)


def train_line(asked: Mapping[str, Any], magic: str = "tl_train", **more: Any) -> str:
    """What `Asked` holds, as a magic line; what is the default is left out."""
    given = {name.rstrip("_").replace("_", "-"): value for name, value in asked.items()}
    given |= {"lr": rates_text(given.get("lr")), "from": getattr(given.get("from"), "name", given.get("from")),
              "no-cache": not given.pop("cache", True)}  # fmt: skip
    for option, default in (("precision", "auto"), ("solver", "sgd")):
        given[option] = None if given.get(option) == default else given.get(option)
    return line(magic, **given, **more)


def _quoted(word: Any) -> str:
    return f'"{word}"' if any(c.isspace() for c in str(word)) else str(word)
