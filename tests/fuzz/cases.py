"""Whatever is read from outside: it is taken, or refused in one line. Anything else that is raised is a bug.

Every test draws `TLNB_FUZZ` cases: 25, with `tests/run --all` 100, the same each time; `TLNB_FUZZ=10000 tests/run tests/fuzz`
looks further, and elsewhere each time.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from tlnb.core.runtime.errors import TLError, one_line

CASES = int(os.environ.get("TLNB_FUZZ", "25"))

fuzz = settings(
    max_examples=CASES,
    deadline=None,
    derandomize=CASES <= 100,
    database=None,
    suppress_health_check=list(HealthCheck),
)

NASTY = (
    "",
    " ",
    "\0",
    "\n",
    "a\nb",
    "\r",
    "\x1b[2J",
    "\u2028",
    "\ud800",
    "{}",
    "{0}",
    "%s",
    "%n",
    "$x",
    "${x}",
    "'",
    '"',
    '"""',
    "\\",
    "\\N{x}",
    "-",
    "--",
    "-rf",
    "..",
    "../x",
    "/",
    "~",
    "~nobody",
    ".",
    "*",
    "[",
    "[z-a]",
    "(",
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "$\\frac$",
    "=",
    ";",
    "#",
    "?",
    "!ls",
    "; import os",
    "aux",
    "x" * 300,
    "é" * 200,
    "١٢",
    "²",
    "--5",
    "1e999",
    "nan",
    "-inf",
    "9" * 5000,
    "digits",
    "head",
    "layer1",
    "layer1..layer3",
    "none",
)

text = st.one_of(
    st.sampled_from(NASTY),
    st.text(max_size=12),
    st.text("aZ09.-_*?[]()!=,;:'\"\\/{}$%#<>&\n\t ", max_size=20),
)

number = st.one_of(
    st.sampled_from([-1, 0, 1, 2, 3, 10**9, 10**30, -(10**20)]), st.floats(), st.integers()
)

leaf = st.one_of(st.none(), st.booleans(), number, text)

value = st.recursive(
    leaf,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=6,
)


def one_line_or(call: Callable[[], Any]) -> Any:
    """What the call gives; None where it is refused in one line."""
    try:
        return call()
    except TLError as error:
        said = str(error)
        assert said and len(said.splitlines()) == 1 and one_line(said) == said, said
        said.encode()
        return None


def places(found: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in JSON's values."""
    yield at
    pairs = (
        found.items()
        if isinstance(found, dict)
        else enumerate(found)
        if isinstance(found, list)
        else ()
    )
    for key, inner in pairs:
        yield from places(inner, (*at, key))


@st.composite
def spoilt(draw: Any, record: str) -> str:
    """A JSON text with some of its values replaced, left out or renamed; or with some of its characters changed; or deep."""
    how = draw(st.sampled_from(["values", "values", "values", "text", "deep"]))
    if how == "deep":
        return draw(st.sampled_from(["[", '{"a":', '{"schema": 1, "plan": ['])) * draw(
            st.sampled_from([10, 20_000])
        )
    if how == "text":
        found = list(record)
        for _ in range(draw(st.integers(1, 4))):
            found[draw(st.integers(0, len(found) - 1))] = draw(st.characters(codec="utf-8"))
        return "".join(found)
    found = json.loads(record)
    for _ in range(draw(st.integers(1, 3))):
        inner = found
        *at, last = draw(st.sampled_from([p for p in places(found) if p] or [("x",)]))
        for key in at:
            inner = inner[key]
        match draw(st.sampled_from(["replace", "replace", "drop", "add"])):
            case "replace":
                inner[last] = draw(value)
            case "drop":
                del inner[last]
            case _ if isinstance(inner, dict):
                inner[draw(text)] = draw(value)
        if not isinstance(found, dict) or not found:
            break
    return json.dumps(found)


def damaged(draw: Any, whole: bytes) -> bytes:
    """Bytes changed, cut off, put in or doubled."""
    found = bytearray(whole)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, max(0, len(found) - 1)))
        match draw(st.sampled_from(["change", "change", "cut", "insert", "zeros"])):
            case "change" if found:
                found[at] ^= draw(st.integers(1, 255))
            case "cut":
                del found[at:]
            case "insert":
                found[at:at] = draw(st.binary(max_size=9))
            case _:
                found[at : at + 16] = bytes(len(found[at : at + 16]))
    return bytes(found)
