"""How much memory and disk may be used, and where files that can be made again are kept.

Three environment variables change the defaults, each read when it is needed: `TLNB_MEMORY` and `TLNB_DISK` (amounts
such as `500MB` or `2GB`) and `TLNB_CACHE` (a folder).
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import sys
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import torch

from tlnb.core.runtime.errors import UsageError
from tlnb.core.runtime.paths import user_path

UNITS = {
    "": 1,
    "k": 10**3,
    "m": 10**6,
    "g": 10**9,
    "t": 10**12,
    "ki": 2**10,
    "mi": 2**20,
    "gi": 2**30,
    "ti": 2**40,
}
AMOUNT = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([kmgt]i?|)b?\s*", re.IGNORECASE | re.ASCII)
MEMORY_SHARE = (
    3  # a third of the available memory: networks, activations and other programs need the rest
)
ASSUMED_AVAILABLE = 6 * 10**9  # where the system does not say: two gigabytes may then be used
DISK_SHARE = 5
DISK_MOST = 20 * 10**9
CGROUPS = Path("/sys/fs/cgroup")
OWN_GROUPS = Path(
    "/proc/self/cgroup"
)  # a line for each hierarchy: number, controllers, the group's path
IN_GROUP = r"^0::/(.*)$"
IN_OLD_GROUP = (
    r"^\d+:(?:[^:\n]*,)?memory(?:,[^:\n]*)?:/(.*)$"  # the first version of control groups
)


def parse_bytes(text: str) -> int:
    """`500MB` → 500,000,000 bytes. Units: `KB`, `MB`, `GB`, `TB` (thousands), `KiB` … `TiB` (1,024s), none for bytes.

    Raises:
        UsageError: anything else.
    """
    found = AMOUNT.fullmatch(text)
    if not found:
        raise UsageError(
            f"{text!r} is no number of bytes: write a number and a unit, e.g. 500MB or 2GB"
        )
    return int(Decimal(found[1]) * UNITS[found[2].lower()])


def memory_budget() -> int:
    """Bytes of main memory that data may take now: `TLNB_MEMORY`, or a third of what is available.

    Raises:
        UsageError: `TLNB_MEMORY` is no number of bytes.
    """
    asked = _asked("TLNB_MEMORY")
    return _available() // MEMORY_SHARE if asked is None else asked


def available_memory() -> int:
    """Bytes of main memory that can be had without swapping, as far as the system says."""
    return _available()


def free_on_gpu(gpu: torch.device | str) -> int:
    """Bytes free on an NVIDIA GPU, those included that torch holds for later."""
    free, _ = torch.cuda.mem_get_info(gpu)
    return int(free + torch.cuda.memory_reserved(gpu) - torch.cuda.memory_allocated(gpu))


def disk_budget(folder: Path) -> int:
    """Bytes that kept files may take in `folder`: `TLNB_DISK`, or a fifth of what is free there, at most 20 GB.

    The folder need not exist yet.

    Raises:
        UsageError: `TLNB_DISK` is no number of bytes.
    """
    asked = _asked("TLNB_DISK")
    if asked is not None:
        return asked
    there = next(p for p in (folder.absolute(), *folder.absolute().parents) if p.exists())
    return min(shutil.disk_usage(there).free // DISK_SHARE, DISK_MOST)


def cache_folder() -> Path:
    """Where files that can be made again are kept: `TLNB_CACHE`, or `tlnb` in the user's cache folder. Not created."""
    asked = os.environ.get("TLNB_CACHE")
    return user_path(asked) if asked else _user_caches() / "tlnb"


def _user_caches() -> Path:
    if platform.system() == "Darwin":
        return Path.home() / "Library" / "Caches"
    name, usual = (
        ("LOCALAPPDATA", "AppData/Local")
        if platform.system() == "Windows"
        else ("XDG_CACHE_HOME", ".cache")
    )
    return Path(os.environ.get(name) or Path.home() / usual)


def _asked(variable: str) -> int | None:
    text = os.environ.get(variable)
    if not text:
        return None
    try:
        return parse_bytes(text)
    except UsageError as error:
        raise UsageError(f"{variable}: {error}") from None


def _available() -> int:
    """Bytes that can be had without swapping, as far as the system says."""
    if platform.system() == "Linux":
        return min(_free_in_system(), *_free_in_groups())
    try:
        import psutil
    except ImportError:
        return ASSUMED_AVAILABLE
    return int(psutil.virtual_memory().available)


def _free_in_system() -> int:
    found = re.search(r"^MemAvailable:\s*(\d+) kB", _text(Path("/proc/meminfo")), re.MULTILINE)
    return int(found[1]) * 1024 if found else ASSUMED_AVAILABLE


def _free_in_groups() -> Iterator[int]:
    """What control groups leave: in a container the limit lies far below the machine's memory."""
    for group in _own_groups(CGROUPS, IN_GROUP):
        yield _left(
            group / "memory.max", group / "memory.current", group / "memory.stat", "inactive_file"
        )
    for group in _own_groups(CGROUPS / "memory", IN_OLD_GROUP):
        limit, usage = group / "memory.limit_in_bytes", group / "memory.usage_in_bytes"
        yield _left(limit, usage, group / "memory.stat", "total_inactive_file")


def _own_groups(top: Path, pattern: str) -> Iterator[Path]:
    """The folder of this process's group and of those that it lies in: each may have a limit."""
    own = re.search(pattern, _text(OWN_GROUPS), re.MULTILINE)
    folder = top / own[1] if own else top
    for group in (folder, *folder.parents):
        if group.is_relative_to(top):
            yield group


def _left(limit: Path, usage: Path, statistics: Path, reclaimable: str) -> int:
    """A group's limit less what it uses; files that are only kept in memory for speed do not count."""
    most, used = _text(limit).strip(), _text(usage).strip()
    if not (most.isdigit() and used.isdigit()):
        return sys.maxsize
    spare = re.search(rf"^{reclaimable} (\d+)$", _text(statistics), re.MULTILINE)
    return max(0, int(most) - int(used) + (int(spare[1]) if spare else 0))


def _text(file: Path) -> str:
    """A file of the system's, empty where there is none."""
    try:
        return file.read_text()
    except OSError:
        return ""
