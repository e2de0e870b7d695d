"""The lines of an earlier session, read back: each is parsed into a call with plain values and written anew, or left out.

`%tl_script` gives lines back to be run in a cell, and a session's file may have come with a cloned repository. IPython evaluates
`{…}` and `$name` in a magic's line before the magic sees it, so that nothing that was read may be pasted.
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
EDITS = ("add", "replace")  # their last word is code
PLACE = re.compile(r"(?:(?:before|after):)?[\w.]+")
MAGIC = re.compile(r"%tl_(\w+)(?: (.*))?")
FROM_PYTHON = re.compile(r"tl\.(?:data|predict|look)\(\.\.\.\)  # (.*)")
OWN = "  # your own module, by its variable's name"
FORBIDDEN = (
    "trust",
    "names",
    "called",
    "labels",
    "export",
    "learner",
)  # they run code, write files, or are no text
LEFT_OUT = "# left out of what was read, because they are not calls with plain values: {} lines"


@dataclass(frozen=True)
class Call:
    """A call of the session: words, and options by the names that magics give them."""

    name: str
    words: tuple[Any, ...]
    options: dict[str, Any]


def read_back(lines: Iterable[str], session: type, trust: bool = False) -> list[str]:
    """The lines written anew; a comment says how many are left out.

    Args:
        lines: of an earlier session, each without line ends and control characters.
        session: the class whose calls they are.
        trust: also give back code that is more than `nn.*` constructors with numbers, and calls that trust files.
    """
    found = [_again(text, session, trust) for text in lines]
    out = found.count(None)
    return [text for text in found if text is not None] + [LEFT_OUT.format(out)] * bool(out)


def _again(text: str, session: type, trust: bool) -> str | None:
    """A line written anew; None where it is no call with plain values."""
    if text.startswith("#"):
        return f"# {one_line(text.lstrip('#').strip())}"
    if found := FROM_PYTHON.fullmatch(text):
        return f"{text[: text.index('#')]}# {one_line(found[1])}"
    call = _of_magic(text, session) if text.startswith("%") else _of_python(text)
    if call is None or not _known(call, session) or not _harmless(call, trust):
        return None
    if call.name in EDITS:
        return (
            edit_line(call.name, *call.words) if len(call.words) == 2 and not call.options else None
        )
    return line(f"tl_{call.name}", *call.words, **call.options) + (
        OWN if text.endswith(OWN) else ""
    )


def _of_magic(text: str, session: type) -> Call | None:
    found = MAGIC.fullmatch(text)
    if found is None or found[1] not in CALLS:
        return None
    name, rest = found[1], found[2] or ""
    if name in EDITS:
        place, _, code = rest.partition(" ")
        return Call(name, (place, code.strip()), {})
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
    return Call(name, tuple(words), options)


def _of_python(text: str) -> Call | None:
    """`tl.name(…)` with texts, numbers and booleans."""
    try:
        call = ast.parse(text, mode="eval").body
        if not (
            isinstance(call, ast.Call)
            and isinstance(call.func, ast.Attribute)
            and isinstance(call.func.value, ast.Name)
        ):
            return None
        words = tuple(ast.literal_eval(each) for each in call.args)
        given = todays_options({str(k.arg): ast.literal_eval(k.value) for k in call.keywords})
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError, UsageError):
        return None
    options = dict(flag(name, value) for name, value in given.items())
    return Call(call.func.attr, words, options) if call.func.value.id == "tl" else None


def _known(call: Call, session: type) -> bool:
    """Whether the session has such a call, and all of its values are plain."""
    if call.name not in CALLS:
        return False
    values = (*call.words, *call.options.values())
    parameters = _parameters(session, call.name)
    count = sum(p.kind is p.POSITIONAL_OR_KEYWORD for p in parameters.values())
    fits = len(call.words) <= count or any(p.kind is p.VAR_POSITIONAL for p in parameters.values())
    names = {flag(name, None)[0] for name in parameters}
    return (
        fits
        and call.options.keys() <= names
        and all(type(v) in (str, int, float, bool) for v in values)
    )


@cache
def _parameters(session: type, name: str) -> dict[str, inspect.Parameter]:
    """The parameters of a session's call by name, options of a training included."""
    found = dict(inspect.signature(getattr(session, name)).parameters)
    del found["self"]
    rest = next((n for n, p in found.items() if p.kind is p.VAR_KEYWORD), None)
    if rest is not None:
        del found[rest]
        train = inspect.signature(session.train).parameters  # type: ignore[attr-defined]
        found |= {n: train[n] for n in Asked.__annotations__}
    return found


def _is_flag(option: str, name: str, session: type) -> bool:
    parameter = _parameters(session, name).get(keyword(option, None)[0])
    return parameter is not None and parameter.annotation == "bool"


def _harmless(call: Call, trust: bool) -> bool:
    """Whether a call runs no code, and writes nowhere but below the folder where it is run."""
    options = call.options
    if set(options) & set(FORBIDDEN) - ({"trust"} if trust else set()):
        return False
    if call.name in EDITS:
        place, code = (*map(str, call.words), "", "")[:2]
        return PLACE.fullmatch(place) is not None and (trust or is_literal(code))
    written = [
        options.get("job"),
        options.get("storage"),
        *(call.words if call.name == "save" else ()),
    ]
    return all(_below(str(path)) for path in written if path is not None)


def _below(path: str) -> bool:
    """Whether a path leads to a file in the folder where it is used, or in one inside, and none that is hidden."""
    parts = (*PurePosixPath(path).parts, *PureWindowsPath(path).parts)
    outside = PurePosixPath(path).is_absolute() or PureWindowsPath(path).anchor or "://" in path
    return not outside and not any(part.startswith((".", "~")) for part in parts)
