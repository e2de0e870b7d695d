"""What the tests of safety share: how many cases are drawn, and sessions changed by someone who gets the checksum right."""

from __future__ import annotations

import json
import os
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings

from tlnb.core.runtime.errors import TLError, one_line

CASES = int(os.environ.get("TLNB_FUZZ", "25"))
EXHAUSTIVE = int(os.environ.get("TLNB_FUZZ_EXHAUSTIVE", "300"))  # a release takes 10,000
_common = {"deadline": None, "database": None, "suppress_health_check": list(HealthCheck)}
few = settings(max_examples=CASES, derandomize="TLNB_FUZZ" not in os.environ, **_common)
many = settings(
    max_examples=EXHAUSTIVE, derandomize="TLNB_FUZZ_EXHAUSTIVE" not in os.environ, **_common
)


def refused(call: Callable[[], Any]) -> str | None:
    """The one line that refuses a call; None where it is not refused. Anything else that is raised is a bug."""
    try:
        call()
    except TLError as error:
        said = str(error)
        assert said and one_line(said) == said and len(said.splitlines()) == 1, said
        said.encode()
        return said
    return None


def rewrite(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change a session's values, and its checksum with them."""
    file = folder / "session.json"
    outer = json.loads(file.read_text("utf8"))
    values = json.loads(outer["session"])
    changed = change(values)
    write_session(folder, json.dumps(values if changed is None else changed))


def write_session(folder: Path, text: str) -> None:
    """A session's file with this text and the right checksum."""
    file = folder / "session.json"
    outer = {"schema": 2, "session": text, "crc32": zlib.crc32(text.encode(errors="replace"))}
    file.write_text(json.dumps(outer), "utf8")


def put(values: Any, at: tuple[Any, ...], new: Any) -> None:
    """Set a place in JSON's values."""
    *path, last = at
    for key in path:
        values = values[key]
    values[last] = new


def peak_memory() -> int:
    """The most bytes of main memory that this process has held so far; 0 where the system does not say."""
    try:
        import resource
    except ImportError:  # Windows
        return 0
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most * (1 if sys.platform == "darwin" else 1024)
