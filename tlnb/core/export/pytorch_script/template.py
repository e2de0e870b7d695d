"""Templates that read like what they make."""

from __future__ import annotations

import re
import string
from collections.abc import Mapping
from typing import Any

from tlnb.core.runtime.errors import one_line

WIDTH = 120
OURS = "your_module"  # stands in a script for the file that holds the user's own code
CONDITION = re.compile(r"\s*#\? (?P<flags>[\w! ]+)$")


def fill(template: str, flags: Mapping[str, bool], values: Mapping[str, Any]) -> str:
    """The template's lines whose condition holds, with `$name` replaced.

    A condition stands at the end of its line, as `#? warm !augmented`: all of these must hold, `!` means not.
    """
    lines = []
    for line in template.strip("\n").split("\n"):
        found = CONDITION.search(line)
        if found and not all(
            flags[f.lstrip("!")] != f.startswith("!") for f in found["flags"].split()
        ):
            continue
        lines.append(line[: found.start()] if found else line)
    return string.Template("\n".join(lines)).substitute(values)


def quoted(text: str) -> str:
    """As ruff writes it: double quotes unless that needs a backslash."""
    return f'"{text}"' if text.isprintable() and not set(text) & {'"', "\\"} else repr(text)


def literal(values: Mapping[str, float]) -> str:
    """A dictionary of numbers on one line."""
    return f"{{{', '.join(f'{quoted(k)}: {v:g}' for k, v in values.items())}}}"


def assigned(name: str, values: Mapping[str, float], note: str) -> list[str]:
    """`NAME = {…}` with a comment, on one line or an item a line."""
    line = f"{name} = {literal(values)}"
    if len(line) <= WIDTH:
        return noted(line, note)
    return [
        f"{name} = {{  # {one_line(note)}",
        *(f"    {quoted(k)}: {v:g}," for k, v in values.items()),
        "}",
    ]


def noted(line: str, note: str) -> list[str]:
    """The comment behind the line, or where that gets too long above it. A name in it may hold a line end."""
    note = one_line(note)
    both = f"{line}  # {note}"
    return [both] if len(both) <= WIDTH else [f"# {note}", line]


def signature(name: str, arguments: list[str], returns: str) -> str:
    """`def name(…) -> returns:`, broken as ruff does."""
    line = f"def {name}({', '.join(arguments)}) -> {returns}:"
    if len(line) <= WIDTH:
        return line
    inner = f"    {', '.join(arguments)}"
    if len(inner) > WIDTH:
        inner = "\n".join(f"    {argument}," for argument in arguments)
    return f"def {name}(\n{inner}\n) -> {returns}:"
