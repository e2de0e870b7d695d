"""How much memory and disk may be used for what could be computed again, and where that lies."""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path

from tlnb.core.errors import UsageError

UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
MEMORY_SHARE, DISK_SHARE = 3, 5  # a third of what is available, a fifth of what is free
UNKNOWN_MEMORY = 6 * 10**9  # where the system does not say
DISK_MOST = 20 * 10**9


def parse_bytes(text: str) -> int:
    """`500MB`, `2 GB`, `1.5GiB`, `4096` → bytes.

    Raises:
        UsageError: anything else.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", text)
    if not found or found[2].upper() not in UNITS:
        raise UsageError(f"{text!r} is no amount of memory: write e.g. 500MB or 2GB")
    return int(float(found[1]) * UNITS[found[2].upper()])


def memory_budget() -> int:
    """Bytes that one thing kept in memory may take: `TLNB_MEMORY`, else a third of what is available now."""
    given = os.environ.get("TLNB_MEMORY")
    return parse_bytes(given) if given else _available() // MEMORY_SHARE


def disk_budget(folder: Path) -> int:
    """Bytes that our cache may take on this disk: `TLNB_DISK`, else a fifth of what is free, at most 20 GB."""
    given = os.environ.get("TLNB_DISK")
    if given:
        return parse_bytes(given)
    there = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    return min(DISK_MOST, shutil.disk_usage(there).free // DISK_SHARE)


def cache_folder() -> Path:
    """Where what could be computed again lies: `TLNB_CACHE`, else in the user's cache folder. Not made by asking."""
    given = os.environ.get("TLNB_CACHE")
    if given:
        return Path(given).expanduser()
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "tlnb"


def _available() -> int:
    found = [n for n in (_from_meminfo(), _from_cgroup()) if n is not None]
    return min(found) if found else UNKNOWN_MEMORY


def _from_meminfo() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text("ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)


def _from_cgroup() -> int | None:
    """What a container leaves: its limit less what it uses."""
    folder = Path("/sys/fs/cgroup")
    try:
        limit, used = ((folder / f"memory.{name}").read_text("ascii").strip() for name in ("max", "current"))
        return max(0, int(limit) - int(used))
    except (OSError, ValueError):  # no such file, or "max"
        return None
