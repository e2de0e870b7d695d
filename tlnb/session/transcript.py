"""Read back the transcript of an earlier session, line by line.

Each line is parsed into a call with plain values and written anew, or left out. `%tl_script`
offers the lines to be run in a cell, and a session's file may have come with a cloned repository.
IPython evaluates `{…}` and `$name` in a magic's line before the magic sees it, so a line that was
read must never be pasted as it is.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

from tlnb.core.planning.magic_lines import edit_line, flag, keyword, line, tokens
from tlnb.core.planning.old_names import todays_options, todays_words
from tlnb.core.planning.options import Asked
from tlnb.core.planning.safe_modules import is_literal
from tlnb.core.runtime.errors import UsageError, one_line

CALLS = frozenset(
    (
        "add",
        "advise",
        "check",
        "compare",
        "cost",
        "data",
        "errors",
        "forecast",
        "freeze",
        "load",
        "look",
        "predict",
        "remove",
        "replace",
        "resume",
        "save",
        "strategy",
        "train",
        "tune",
        "undo",
        "unfreeze",
    )
)
CODE_CALLS = ("add", "replace")  # calls whose last word is code
PLACE = re.compile(r"(?:(?:before|after):)?[\w.]+")
MAGIC = re.compile(r"%tl_(\w+)(?: (.*))?")
FROM_PYTHON = re.compile(r"tl\.(?:data|predict|look)\(\.\.\.\)  # (.*)")
OWN_MODULE_COMMENT = "  # your own module, by its variable's name"
# Options that run code, write files, or are not text.
FORBIDDEN_OPTIONS = ("trust", "names", "called", "labels", "export", "learner")
LEFT_OUT = "# left out of what was read, because they are not calls with plain values: {} lines"


@dataclass(frozen=True, kw_only=True)
class Call:
    """A session call: words, and options by their names in magics."""

    name: str
    words: tuple[Any, ...]
    options: dict[str, Any]


def read_back(lines: Iterable[str], session: type, trust: bool = False) -> list[str]:
    """Write the lines anew; a comment says how many were left out.

    Args:
        lines: of an earlier session, each without line ends and control characters.
        session: the class whose calls the lines are.
        trust: also return code that is more than `nn.*` constructors with numbers, and calls that
            trust files.
    """
    rewritten = [_rewrite(text, session, trust) for text in lines]
    kept = [text for text in rewritten if text is not None]
    left_out = len(rewritten) - len(kept)
    return [*kept, LEFT_OUT.format(left_out)] if left_out else kept


def _rewrite(text: str, session: type, trust: bool) -> str | None:
    """Write a line anew; None if it is not a call with plain values."""
    if text.startswith("#"):
        return f"# {one_line(text.lstrip('#').strip())}"
    if match := FROM_PYTHON.fullmatch(text):
        return f"{text[: text.index('#')]}# {one_line(match[1])}"
    call = _parse_magic(text, session) if text.startswith("%") else _parse_python(text)
    if call is None or not _known(call, session) or not _harmless(call, trust):
        return None
    if call.name in CODE_CALLS:
        fits = len(call.words) == 2 and not call.options
        return edit_line(call.name, *call.words) if fits else None
    comment = OWN_MODULE_COMMENT if text.endswith(OWN_MODULE_COMMENT) else ""
    return line(f"tl_{call.name}", *call.words, **call.options) + comment


def _parse_magic(text: str, session: type) -> Call | None:
    match = MAGIC.fullmatch(text)
    if match is None or match[1] not in CALLS:
        return None
    name, rest = match[1], match[2] or ""
    if name in CODE_CALLS:
        place, _, code = rest.partition(" ")
        return Call(name=name, words=(place, code.strip()), options={})
    if set(rest) & set("{}$"):
        return None
    words, options = list[str](), dict[str, Any]()
    left = iter(todays_words(tokens(rest)[0])[0])
    for word in left:
        if not word.startswith("-"):
            words.append(word)
        elif word.startswith("--"):
            options[word[2:]] = True if _is_flag(word[2:], name, session) else next(left, None)
        else:
            return None
    if any(f"no-{option}" in options for option in options):
        return None
    return Call(name=name, words=tuple(words), options=options)


def _parse_python(text: str) -> Call | None:
    """Parse `tl.name(…)` with strings, numbers and booleans."""
    try:
        call = ast.parse(text, mode="eval").body
        if not (
            isinstance(call, ast.Call)
            and isinstance(call.func, ast.Attribute)
            and isinstance(call.func.value, ast.Name)
        ):
            return None
        words = tuple(ast.literal_eval(argument) for argument in call.args)
        given = todays_options({str(k.arg): ast.literal_eval(k.value) for k in call.keywords})
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError, UsageError):
        return None
    options = dict(flag(name, value) for name, value in given.items())
    return (
        Call(name=call.func.attr, words=words, options=options)
        if call.func.value.id == "tl"
        else None
    )


def _known(call: Call, session: type) -> bool:
    """Whether the session has such a call and all its values are plain."""
    if call.name not in CALLS:
        return False
    values = (*call.words, *call.options.values())
    parameters = _parameters(session, call.name)
    count = sum(p.kind is p.POSITIONAL_OR_KEYWORD for p in parameters.values())
    fits = len(call.words) <= count or any(p.kind is p.VAR_POSITIONAL for p in parameters.values())
    names = {flag(name, value)[0] for name in parameters for value in (None, False)}
    return (
        fits
        and call.options.keys() <= names
        and all(type(v) in (str, int, float, bool) for v in values)
    )


@cache
def _parameters(session: type, name: str) -> dict[str, inspect.Parameter]:
    """The parameters of a session call by name, training options included."""
    parameters = dict(inspect.signature(getattr(session, name)).parameters)
    del parameters["self"]
    rest = next((n for n, p in parameters.items() if p.kind is p.VAR_KEYWORD), None)
    if rest is not None:
        del parameters[rest]
        train = inspect.signature(session.train).parameters  # type: ignore[attr-defined]
        parameters |= {n: train[n] for n in Asked.__annotations__}
    return parameters


def _is_flag(option: str, name: str, session: type) -> bool:
    parameter = _parameters(session, name).get(keyword(option, None)[0])
    return parameter is not None and parameter.annotation in ("bool", "bool | None")


def _harmless(call: Call, trust: bool) -> bool:
    """Whether a call runs no code and writes only below the current folder."""
    options = call.options
    if set(options) & set(FORBIDDEN_OPTIONS) - ({"trust"} if trust else set()):
        return False
    if call.name in CODE_CALLS:
        place, code = (*map(str, call.words), "", "")[:2]
        return PLACE.fullmatch(place) is not None and (trust or is_literal(code))
    written = [
        options.get("job"),
        options.get("storage"),
        *(call.words if call.name == "save" else ()),
    ]
    return all(_below(str(path)) for path in written if path is not None)


def _below(path: str) -> bool:
    """Whether a path leads to a file below the current folder that is not hidden."""
    parts = (*PurePosixPath(path).parts, *PureWindowsPath(path).parts)
    outside = PurePosixPath(path).is_absolute() or PureWindowsPath(path).anchor or "://" in path
    return not outside and not any(part.startswith((".", "~")) for part in parts)
