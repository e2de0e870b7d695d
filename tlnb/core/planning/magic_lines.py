"""Write session calls as magic lines and read them back; any names survive the round trip."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from tlnb.core.planning.options import OPTIONS, option_named
from tlnb.core.runtime.errors import one_line

# A word that needs no quotes in a magic's line: no space, quote, comment, `{x}` or `$x`, and no
# `;`, `?` or `\` at its end.
PLAIN = re.compile(r"(?!-)(?:[^\s\"'#{}$;?`]*[^\s\"'#{}$;?`\\])")

TOKEN = re.compile(r'(?:[^\s"\']|"[^"]*"|\'[^\']*\')+')


def line(magic: str, *words: Any, **options: Any) -> str:
    """A call as the magic one would type; options that are None or False are left out.

    What a magic line cannot hold (a file name with a brace, a line end) becomes the same call in
    Python.
    """
    given = {
        name: value for name, value in options.items() if value is not None and value is not False
    }
    written = [quoted(w) for w in words] + [quoted(v) for v in given.values() if v is not True]
    if None in written:
        return _call(magic, words, given)
    parts = [f"%{magic}", *(str(quoted(w)) for w in words)]
    for option, value in given.items():
        parts.append(f"--{option}" if value is True else f"--{option} {quoted(value)}")
    return " ".join(parts)


def train_line(asked: Mapping[str, Any], magic: str = "tl_train", **more: Any) -> str:
    """Training options (`Asked`) as a magic line; defaults are left out."""
    given = {
        flag: typed
        for each in OPTIONS
        if each.name in asked
        for flag, typed in each.given(asked[each.name]).items()
    }
    return line(magic, **given, **more)


def edit_line(name: str, at: str, code: str) -> str:
    """An edit (`add`, `replace`) as a magic, or as a Python call if a magic cannot hold it."""
    magic = f"%tl_{name} {at} {code}"
    typed = (
        one_line(magic) == magic
        and not re.search(r"\s", at)
        and not magic.endswith((";", "?", "\\"))
    )
    return magic if typed else f"tl.{name}({at!r}, {code!r})"


def keyword(flag: str, value: Any) -> tuple[str, Any]:
    """A magic's option as a Python keyword: `no-cache` and True become `cache=False`."""
    known = option_named(flag)
    if known is None:
        return flag.replace("-", "_"), value
    if known.either:
        return known.name, flag == known.flag
    return known.name, bool(value) is not known.default if known.is_switch else value


def flag(name: str, value: Any) -> tuple[str, Any]:
    """A Python keyword as a magic's option: `cache` and False become `no-cache` and True."""
    known = option_named(name)
    if known is None:
        return name.replace("_", "-"), value
    if known.either:
        return known.flags[value is False], True
    return known.flag, bool(value) is not known.default if known.is_switch else value


def tokens(line: str) -> tuple[list[str], bool]:
    """Split a magic line into words; also return whether a trailing `;` silences it.

    Quotes group words and are dropped; backslashes stay (Windows paths); `#` starts a comment at
    the start of the line or after a space.
    """
    words: list[str] = []
    for match in TOKEN.finditer(line):
        if match[0].startswith("#"):
            break
        words.append(match[0])
    silent = bool(words) and words[-1].endswith(";")
    if silent:
        words[-1] = words[-1].rstrip(";")
    plain = (
        re.sub(r'"([^"]*)"|\'([^\']*)\'', lambda m: m[1] if m[1] is not None else m[2], w)
        for w in words
    )
    return [w for w in plain if w], silent


def quoted(word: Any) -> str | None:
    """The word as a magic line can hold it; None if it cannot."""
    text = str(word)
    if PLAIN.fullmatch(text) and one_line(text) == text:
        return text
    if not text or text.startswith("-") or set(text) & set("{}$") or one_line(text) != text:
        return None
    return next((f"{quote}{text}{quote}" for quote in "\"'" if quote not in text), None)


def _call(magic: str, words: tuple[Any, ...], given: Mapping[str, Any]) -> str:
    pairs = [keyword(option, value) for option, value in given.items()]
    arguments = [_python(word) for word in words] + [
        f"{name}={_python(value)}" for name, value in pairs
    ]
    return f"{magic.replace('_', '.', 1)}({', '.join(arguments)})"


def _python(value: Any) -> str:
    return repr(value if isinstance(value, bool | int | float) else str(value))
