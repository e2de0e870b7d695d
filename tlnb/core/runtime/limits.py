"""Limits of memory and disk, and the folder of caches.

Three environment variables change the defaults; each is read when it is needed: `TLNB_MEMORY` and
`TLNB_DISK` (amounts such as `500MB` or `2GB`) and `TLNB_CACHE` (a folder).
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

UNITS = {"": 1, **{unit: 1000**k for k, unit in enumerate("kmgt", 1)}}
UNITS |= {f"{unit}i": 1024**k for k, unit in enumerate("kmgt", 1)}
AMOUNT = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([kmgt]i?|)b?\s*", re.IGNORECASE | re.ASCII)
# a third of the available memory: networks, activations and other programs need the rest
MEMORY_SHARE = 3
ASSUMED_AVAILABLE = 6 * 10**9  # bytes, where the system does not tell: the budget is then 2 GB
DISK_SHARE = 5
MAX_DISK_BYTES = 20 * 10**9
CGROUPS = Path("/sys/fs/cgroup")
OWN_GROUPS = Path("/proc/self/cgroup")  # a line per hierarchy: number, controllers, path
IN_GROUP = r"^0::/(.*)$"
# version 1 of control groups
IN_OLD_GROUP = r"^\d+:(?:[^:\n]*,)?memory(?:,[^:\n]*)?:/(.*)$"


def parse_bytes(text: str) -> int:
    """Parse an amount of bytes: `500MB` → 500,000,000.

    Units: `KB`, `MB`, `GB`, `TB` (powers of 1,000), `KiB` … `TiB` (powers of 1,024); none: bytes.

    Raises:
        UsageError: anything else.
    """
    match = AMOUNT.fullmatch(text)
    if not match:
        raise UsageError(
            f"{text!r} is not an amount of bytes: write a number and a unit, e.g. 500MB or 2GB"
        )
    return int(Decimal(match[1]) * UNITS[match[2].lower()])


def memory_budget() -> int:
    """Bytes of main memory that data may use now.

    `TLNB_MEMORY`, or a third of what is available.

    Raises:
        UsageError: `TLNB_MEMORY` is not an amount of bytes.
    """
    limit = _limit_from_environment("TLNB_MEMORY")
    return available_memory() // MEMORY_SHARE if limit is None else limit


def free_on_gpu(gpu: torch.device | str) -> int:
    """Free bytes on an NVIDIA GPU, including those that torch's allocator holds in reserve."""
    free, _ = torch.cuda.mem_get_info(gpu)
    return int(free + torch.cuda.memory_reserved(gpu) - torch.cuda.memory_allocated(gpu))


def disk_budget(folder: Path) -> int:
    """Bytes that cached files may occupy in `folder`, which need not exist yet.

    `TLNB_DISK`, or a fifth of what is free there, at most 20 GB.

    Raises:
        UsageError: `TLNB_DISK` is not an amount of bytes.
    """
    limit = _limit_from_environment("TLNB_DISK")
    if limit is not None:
        return limit
    existing = next(p for p in (folder.absolute(), *folder.absolute().parents) if p.exists())
    return min(shutil.disk_usage(existing).free // DISK_SHARE, MAX_DISK_BYTES)


def cache_folder() -> Path:
    """The folder of caches: `TLNB_CACHE`, or `tlnb` in the user's cache folder. Not created."""
    folder = os.environ.get("TLNB_CACHE")
    return user_path(folder) if folder else _user_cache_folder() / "tlnb"


def _user_cache_folder() -> Path:
    if platform.system() == "Darwin":
        return Path.home() / "Library" / "Caches"
    name, default = "XDG_CACHE_HOME", ".cache"
    if platform.system() == "Windows":
        name, default = "LOCALAPPDATA", "AppData/Local"
    return Path(os.environ.get(name) or Path.home() / default)


def _limit_from_environment(variable: str) -> int | None:
    text = os.environ.get(variable)
    if not text:
        return None
    try:
        return parse_bytes(text)
    except UsageError as error:
        raise UsageError(f"{variable}: {error}") from None


def available_memory() -> int:
    """Bytes of main memory available without swapping, as far as the system tells."""
    if platform.system() == "Linux":
        return min(_free_in_system(), *_free_in_groups())
    try:
        import psutil
    except ImportError:
        return ASSUMED_AVAILABLE
    return int(psutil.virtual_memory().available)


def _free_in_system() -> int:
    match = re.search(
        r"^MemAvailable:\s*(\d+) kB", _read_or_empty(Path("/proc/meminfo")), re.MULTILINE
    )
    return int(match[1]) * 1024 if match else ASSUMED_AVAILABLE


def _free_in_groups() -> Iterator[int]:
    """Bytes that control groups leave.

    A container's limit may be far below the machine's memory.
    """
    for group in _own_groups(CGROUPS, IN_GROUP):
        yield _left_in_group(
            group / "memory.max", group / "memory.current", group / "memory.stat", "inactive_file"
        )
    for group in _own_groups(CGROUPS / "memory", IN_OLD_GROUP):
        limit, usage = group / "memory.limit_in_bytes", group / "memory.usage_in_bytes"
        yield _left_in_group(limit, usage, group / "memory.stat", "total_inactive_file")


def _own_groups(top: Path, pattern: str) -> Iterator[Path]:
    """The folders of this process's group and of its parents: each may have a limit."""
    own = re.search(pattern, _read_or_empty(OWN_GROUPS), re.MULTILINE)
    folder = top / own[1] if own else top
    for group in (folder, *folder.parents):
        if group.is_relative_to(top):
            yield group


def _left_in_group(limit: Path, usage: Path, statistics: Path, reclaimable: str) -> int:
    """A group's limit minus its usage; reclaimable page cache does not count as usage."""
    most, used = _read_or_empty(limit).strip(), _read_or_empty(usage).strip()
    if not (most.isdigit() and used.isdigit()):
        return sys.maxsize
    spare = re.search(rf"^{reclaimable} (\d+)$", _read_or_empty(statistics), re.MULTILINE)
    return max(0, int(most) - int(used) + (int(spare[1]) if spare else 0))


def _read_or_empty(file: Path) -> str:
    """The text of a system file; empty if it cannot be read."""
    try:
        return file.read_text()
    except OSError:
        return ""
