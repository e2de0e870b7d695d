"""Templates that read like the script they produce."""

from __future__ import annotations

import re
import string
from collections.abc import Mapping
from typing import Any

from tlnb.core.runtime.errors import one_line

WIDTH = 120
USER_MODULE = "your_module"  # placeholder in a script for the file with the user's own code
CONDITION = re.compile(r"\s*#\? (?P<flags>[\w! ]+)$")


def fill(template: str, flags: Mapping[str, bool], values: Mapping[str, Any]) -> str:
    """The template's lines whose condition holds, with `$name` replaced.

    A condition is written at the end of its line, such as `#? warm !augmented`: all flags must
    hold, `!` means not.
    """
    lines = []
    for line in template.strip("\n").split("\n"):
        match = CONDITION.search(line)
        if match and not all(
            flags[f.lstrip("!")] != f.startswith("!") for f in match["flags"].split()
        ):
            continue
        lines.append(line[: match.start()] if match else line)
    return string.Template("\n".join(lines)).substitute(values)


def quoted(text: str) -> str:
    """A string literal as ruff formats it: double quotes unless that needs a backslash."""
    return f'"{text}"' if text.isprintable() and not set(text) & {'"', "\\"} else repr(text)


def literal(values: Mapping[str, float]) -> str:
    """A dictionary of numbers on one line."""
    return f"{{{', '.join(f'{quoted(k)}: {v:g}' for k, v in values.items())}}}"


def assigned(name: str, values: Mapping[str, float], note: str) -> list[str]:
    """`NAME = {…}` with a comment, on one line or with one item per line."""
    line = f"{name} = {literal(values)}"
    if len(line) <= WIDTH:
        return noted(line, note)
    return [
        f"{name} = {{  # {one_line(note)}",
        *(f"    {quoted(k)}: {v:g}," for k, v in values.items()),
        "}",
    ]


def noted(line: str, note: str) -> list[str]:
    """The line with a comment after it, or above it if too long; line ends are escaped."""
    note = one_line(note)
    both = f"{line}  # {note}"
    return [both] if len(both) <= WIDTH else [f"# {note}", line]


def signature(name: str, arguments: list[str], returns: str) -> str:
    """`def name(…) -> returns:`, broken into lines as ruff does."""
    line = f"def {name}({', '.join(arguments)}) -> {returns}:"
    if len(line) <= WIDTH:
        return line
    inner = f"    {', '.join(arguments)}"
    if len(inner) > WIDTH:
        inner = "\n".join(f"    {argument}," for argument in arguments)
    return f"def {name}(\n{inner}\n) -> {returns}:"
