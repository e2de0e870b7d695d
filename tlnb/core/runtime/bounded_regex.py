"""Regular expressions that may have come with a file: some take longer than the universe is old.

`re` has no limit of its own. An expression that repeats once at most takes time that grows with the square of a name; all others
are carried out in a process of their own, which can be ended.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Sequence

from tlnb.core.runtime.errors import UsageError

SECONDS = 10.0
REPEATS = re.compile(r"[*+?{]")
LONGEST = 1000  # characters
PROGRAM = """
import json, re, sys
pattern, names = json.load(sys.stdin)
found = re.compile(pattern)
matches = [found.search(name) for name in names]
json.dump([None if m is None else m[1 if found.groups and m[1] is not None else 0] for m in matches], sys.stdout)
"""


def may_take_long(pattern: str) -> bool:
    """Whether an expression may take more than a moment for a file's name: it repeats twice, or within a repetition."""
    return len(REPEATS.findall(pattern)) > 1


def group_in(pattern: re.Pattern[str], text: str) -> str | None:
    """What the first parenthesis matched in a text, else the whole match; None without a match."""
    found = pattern.search(text)
    return None if found is None else found[1 if pattern.groups and found[1] is not None else 0]


def first_groups(pattern: str, texts: Sequence[str]) -> list[str | None]:
    """`group_in` for many texts, within ten seconds; an interrupt ends it.

    Raises:
        UsageError: an expression that is too long, or takes longer.
    """
    if len(pattern) > LONGEST:
        raise UsageError(
            f"--group has {len(pattern):,} characters, more than {LONGEST:,}: use a CSV file of paths and groups"
        )
    given = json.dumps([pattern, list(texts)])
    command = [sys.executable, "-I", "-S", "-c", PROGRAM]
    try:
        done = subprocess.run(
            command, input=given, capture_output=True, text=True, timeout=SECONDS, encoding="ascii"
        )
        found: list[str | None] = json.loads(done.stdout)
        return found
    except subprocess.TimeoutExpired:
        raise UsageError(
            f"--group {pattern} takes more than {SECONDS:.0f} s for {len(texts):,} files: leave out nested repetitions, "
            'e.g. --group "([^/]+)_"'
        ) from None
    except (OSError, ValueError) as error:
        raise UsageError(
            f"--group {pattern} could not be carried out ({error}): use a CSV file of paths and groups"
        ) from None
