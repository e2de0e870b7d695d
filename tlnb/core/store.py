"""Activations that were computed once: in memory, else in memory-mapped files; the least recently used go first.

A key says everything that the values depend on, so that what is found is right. Small things that took long to compute
are written to files too, for the next kernel.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tlnb.core.memory import cache_folder, disk_budget, memory_budget

WORTH_A_FILE = 1e11  # FLOPs from which a value in memory is written to a file too: a second or more
SMALL = 256 * 2**20  # bytes up to which it is
HASHED = 2**24  # bytes at a time
STORED = {torch.bfloat16: "int16"}  # NumPy has no such type


class Store:
    """Tensors by key. `keep` computes and keeps; `get` finds."""

    def __init__(self) -> None:
        self._held: OrderedDict[str, Tensor] = OrderedDict()
        self.costs: dict[
            str, tuple[float, float, float, float, float]
        ] = {}  # counted FLOPs, by a key of what was counted

    def get(self, key: str, device: str = "cpu") -> Tensor | None:
        """The tensor of this key, or None. One from a file is checked against its hash."""
        if key in self._held:
            self._held.move_to_end(key)
            return self._held[key]
        found = _read(key)
        if found is not None and found.nbytes <= memory_budget():
            found = found.clone().to(device)
            self._hold(key, found)
        return found

    def __contains__(self, key: str) -> bool:
        """Whether `get` would find it, short of damage."""
        return key in self._held or (_folder() / f"{key}.npy").is_file()

    def keep(self, key: str, count: int, parts: Iterable[Tensor], place: str, flops: float = 0.0) -> Tensor:
        """All rows of `parts` as one tensor of `count` rows, kept under this key.

        Args:
            place: `memory` or `disk`.
            flops: what they took to compute.

        Raises:
            OSError: the disk is full, or cannot be written to.
        """
        if place == "disk":
            return _write(key, count, parts)
        value = _joined(count, parts)
        self._hold(key, value)
        if flops >= WORTH_A_FILE and value.nbytes <= min(SMALL, disk_budget(cache_folder()) // 4):
            with contextlib.suppress(OSError):  # a convenience for later; now all is well without
                _write(key, count, [value])
        return value

    def _hold(self, key: str, value: Tensor) -> None:
        self._held[key] = value
        self._held.move_to_end(key)
        while len(self._held) > 1 and sum(t.nbytes for t in self._held.values()) > memory_budget():
            self._held.popitem(last=False)

    def __repr__(self) -> str:
        return f"Store: {len(self._held)} tensors, {sum(t.nbytes for t in self._held.values()) / 1e6:.1f} MB"


def key_of(*parts: object) -> str:
    """A key from everything that a value depends on."""
    return hashlib.blake2b(repr(parts).encode(), digest_size=16).hexdigest()


def _joined(count: int, parts: Iterable[Tensor]) -> Tensor:
    """One tensor, filled part by part: never twice in memory."""
    value, at = None, 0
    for part in parts:
        if value is None:
            value = torch.empty((count, *part.shape[1:]), dtype=part.dtype, device=part.device)
            if part.ndim == 4 and part.is_contiguous(memory_format=torch.channels_last):
                value = value.contiguous(memory_format=torch.channels_last)
        value[at : at + len(part)] = part
        at += len(part)
    if value is None:
        raise ValueError("no rows")
    return value


# ── files ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _folder() -> Path:
    return cache_folder() / "activations"


def _write(key: str, count: int, parts: Iterable[Tensor]) -> Tensor:
    """A memory-mapped file, filled part by part; it appears whole or not at all."""
    folder = _folder()
    folder.mkdir(parents=True, exist_ok=True)
    target, half = folder / f"{key}.npy", folder / f".{key}.{os.getpid()}.npy"
    digest = hashlib.sha256()
    mapped: Any = None
    dtype, at, layout = torch.float32, 0, False
    try:
        for part in parts:
            if mapped is None:
                dtype = part.dtype
                layout = part.ndim == 4 and part.is_contiguous(memory_format=torch.channels_last)
            rows = _rows(part, layout)
            if mapped is None:
                shape = (count, *rows.shape[1:])
                _check_room(half, int(np.prod(shape)) * rows.itemsize)
                mapped = np.lib.format.open_memmap(half, "w+", rows.dtype, shape)
            mapped[at : at + len(rows)] = rows
            digest.update(rows.tobytes())
            at += len(rows)
        mapped.flush()
        del mapped
        facts = {"dtype": str(dtype).removeprefix("torch."), "hash": digest.hexdigest(), "channels_last": layout}
        note = half.with_suffix(".json")
        note.write_text(json.dumps(facts), "utf8")
        half.replace(target)
        note.replace(target.with_suffix(".json"))
    finally:
        half.unlink(missing_ok=True)
        half.with_suffix(".json").unlink(missing_ok=True)
    _prune(folder, spare=target)
    return _opened(target, facts)


def _rows(part: Tensor, layout: bool) -> Any:
    """As NumPy takes it: channels last in memory are channels last in the file."""
    plain = part.detach().cpu()
    plain = plain.permute(0, 2, 3, 1) if layout else plain
    plain = plain.contiguous()
    return (plain.view(torch.int16) if plain.dtype in STORED else plain).numpy()


def _check_room(path: Path, size: int) -> None:
    """A mapped file on a full disk ends the process without a word: look first.

    Raises:
        OSError: it would not fit.
    """
    if size > disk_budget(path.parent):
        raise OSError(28, "not enough room on the disk")


def _read(key: str) -> Tensor | None:
    path = _folder() / f"{key}.npy"
    try:
        facts = json.loads(path.with_suffix(".json").read_text("utf8"))
        value = _opened(path, facts)
        if _hash(value, bool(facts["channels_last"])) == facts["hash"]:
            os.utime(path)
            return value
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass  # not there, or damaged: it is computed again
    return None


def _opened(path: Path, facts: dict[str, Any]) -> Tensor:
    raw = torch.from_numpy(np.load(path, mmap_mode="c", allow_pickle=False))
    value = raw.view(getattr(torch, facts["dtype"])) if raw.dtype == torch.int16 else raw
    return value.permute(0, 3, 1, 2) if facts["channels_last"] else value


def _hash(value: Tensor, layout: bool) -> str:
    digest = hashlib.sha256()
    step = max(1, HASHED // max(1, value[0].numel() * value.element_size()))
    for part in value.split(step):
        digest.update(_rows(part, layout).tobytes())
    return digest.hexdigest()


def _prune(folder: Path, spare: Path) -> None:
    """The least recently used files go until the rest fits the budget."""
    files = sorted(_sizes(folder, spare), key=lambda f: f[0])
    total, limit = sum(size for _, size, _ in files), disk_budget(folder) - spare.stat().st_size
    for _, size, path in files:
        if total <= limit:
            return
        with contextlib.suppress(OSError):  # another kernel may use it, or have removed it
            path.unlink()
            path.with_suffix(".json").unlink()
            total -= size


def _sizes(folder: Path, spare: Path) -> Iterator[tuple[float, int, Path]]:
    for path in folder.glob("*.npy"):
        with contextlib.suppress(OSError):
            if path != spare:
                yield path.stat().st_mtime, path.stat().st_size, path
