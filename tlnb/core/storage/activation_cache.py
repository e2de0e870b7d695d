"""Activations that were computed once: in memory, else in memory-mapped files; the least recently used go first.

A key says everything that the values depend on, so that what is found is right. Small things that took long to compute
are written to files too, for the next kernel.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections import OrderedDict
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tlnb.core.runtime.errors import OneLine
from tlnb.core.runtime.limits import cache_folder, disk_budget, free_on_gpu, memory_budget
from tlnb.core.storage import checked_arrays

WORTH_A_FILE = 1e11  # FLOPs from which a value in memory is written to a file too: a second or more
SMALL = 256 * 2**20  # bytes up to which it is
STORED = (torch.bfloat16,)  # as int16: NumPy has no such type


class Store(OneLine):
    """Tensors by key. `keep` computes and keeps; `get` finds."""

    def __init__(self) -> None:
        self._held: OrderedDict[str, Tensor] = OrderedDict()
        # Counted FLOPs by name, by a key of what was counted.
        self.costs: dict[str, dict[str, float]] = {}
        # By a key of network and place: why it may not be split there, or "".
        self.proofs: dict[str, str] = {}
        # Passes through networks, by a key of the network (`split_recording.Recording`).
        self.recordings: dict[str, Any] = {}

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

    def drop(self, key: str) -> None:
        """Forget the tensor of this key."""
        self._held.pop(key, None)
        checked_arrays.remove(_folder() / f"{key}.npy")

    def __contains__(self, key: str) -> bool:
        """Whether `get` would find it, short of damage."""
        return key in self._held or (_folder() / f"{key}.npy").is_file()

    def keep(
        self, key: str, count: int, parts: Iterable[Tensor], place: str, flops: float = 0.0
    ) -> Tensor:
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
        alike = [k for k, t in self._held.items() if t.device == value.device]
        taken = sum(self._held[k].nbytes for k in alike)
        most = (
            memory_budget()
            if value.device.type != "cuda"
            else (free_on_gpu(value.device) + taken) // 2
        )
        for oldest in alike[:-1]:
            if taken > most:
                taken -= self._held.pop(oldest).nbytes

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
    """A file, filled part by part, and mapped."""
    coming = iter(parts)
    first = next(coming)
    layout = first.ndim == 4 and first.is_contiguous(memory_format=torch.channels_last)
    facts = {"dtype": str(first.dtype).removeprefix("torch."), "channels_last": layout}
    row, file = _rows(first[:1], layout), _folder() / f"{key}.npy"
    checked_arrays.make_room(file.parent, count * row.nbytes)
    rows = (_rows(part, layout) for part in chain([first], coming))
    checked_arrays.write(file, (count, *row.shape[1:]), row.dtype, rows, lambda: facts)
    return _opened(file, facts)


def _rows(part: Tensor, layout: bool) -> Any:
    """As NumPy takes it: channels last in memory are channels last in the file."""
    plain = part.detach().cpu()
    plain = plain.permute(0, 2, 3, 1) if layout else plain
    plain = plain.contiguous()
    return (plain.view(torch.int16) if plain.dtype in STORED else plain).numpy()


def _read(key: str) -> Tensor | None:
    """None where it is not there, or damaged: then it is computed again."""
    file = _folder() / f"{key}.npy"
    facts = checked_arrays.read(file)
    try:
        return None if facts is None else _opened(file, facts)
    except (OSError, ValueError, KeyError):  # removed meanwhile; another version's
        return None


def _opened(path: Path, facts: dict[str, Any]) -> Tensor:
    raw = torch.from_numpy(np.load(path, mmap_mode="c", allow_pickle=False))
    value = raw.view(torch.bfloat16) if facts["dtype"] == "bfloat16" else raw
    return value.permute(0, 3, 1, 2) if facts["channels_last"] else value
