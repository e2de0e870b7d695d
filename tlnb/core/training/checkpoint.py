"""Checkpoints: a run at the end of an epoch, in a file that allows an exact continuation.

The file is in the safetensors format: tensors, and names and numbers as JSON in its header. It is
written atomically, and a checksum detects damage. No pickle.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import time
import zlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tlnb.core.models.calibration import Calibration
from tlnb.core.runtime.errors import UsageError
from tlnb.core.runtime.paths import is_file, written_beside
from tlnb.core.runtime.typed_json import parse, typed
from tlnb.core.training.events import Event, events_of_notes
from tlnb.core.training.run import Cache, EpochRecord, Work

SCHEMA = 2
KEY = "tlnb_checkpoint"
AT_RISK = "10"  # default, in seconds
REFIT = "refit/"  # before the names of the second pass's tensors


class Due:
    """Decides when to write a checkpoint.

    One is written at the end of an epoch if a kill could otherwise lose more than `at_risk` seconds
    of work, or more than one epoch if epochs take longer than that.

    Ten seconds of work justify a tenth of a second of writing, and even a write that takes longer
    than an epoch (as on a GPU) is a small share of them; a run of a few seconds needs none. Results
    do not depend on it.
    """

    def __init__(self, at_risk: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._at_risk, self._clock = at_risk, clock
        self._written = self._ended = clock()

    def after_epoch(self) -> bool:
        """Whether to write now. Call it once per epoch, at its end.

        The next epoch is expected to take as long.
        """
        now = self._clock()
        took, self._ended = now - self._ended, now
        return now - self._written + took > self._at_risk

    def written(self) -> None:
        """Record that all work so far is safe."""
        self._written = self._ended = self._clock()


def at_risk() -> float:
    """Seconds of work that a kill may lose, unless an epoch takes longer.

    Set by `TLNB_AT_RISK`; default: ten.

    Raises:
        UsageError: it is not a number of seconds.
    """
    text = os.environ.get("TLNB_AT_RISK") or AT_RISK
    with contextlib.suppress(ValueError):
        if (seconds := float(text)) >= 0:
            return seconds
    raise UsageError(f"TLNB_AT_RISK={text} is not a number of seconds: %env TLNB_AT_RISK=10")


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A run at the end of an epoch. RNG states are not needed: each epoch seeds its own."""

    epochs: tuple[EpochRecord, ...]
    best: float  # val accuracy of the best epoch so far; -1 without val
    best_epoch: int | None
    seconds: dict[str, float]  # by phase
    flops: dict[str, float]
    work: Work
    steps: int  # of the learning-rate schedule
    cache: Cache | None
    events: tuple[Event, ...]
    pieces: int  # micro-batches per batch since memory ran out; 1: not split
    scaler: dict[str, float] = field(default_factory=dict)  # of the fp16 gradient scaler
    wh: dict[str, float] = field(default_factory=dict)  # by phase
    # as in `CostTracker`; None and empty in checkpoints of older versions
    found: dict[str, tuple[str, float]] | None = None
    known: tuple[str, ...] = ()
    start: dict[str, str] = field(default_factory=dict)  # hash of each layer before the first step
    # where the second pass stands, on all labels; its costs are among those above
    refit: Checkpoint | None = None
    # how the first pass was calibrated, and else why not; both empty until a refit begins
    calibration: Calibration | None = None
    uncalibrated: str = ""
    code: str = ""  # key of what the network computes, its numbers apart (`proof.StartState`)
    # "last/…" and, if from another epoch, "best/…" by full name, "optimizer/3/exp_avg" by
    # parameter, "scale/0/mean" by output layer
    tensors: Mapping[str, Tensor] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def upgraded(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """Translate JSON values of older versions: 0.1.0 had notes instead of events."""
        rest = dict(values)
        return rest | {"events": events_of_notes(rest.pop("notes"))} if "notes" in rest else rest

    def part(self, name: str) -> dict[str, Tensor]:
        """The tensors of `last`, `best`, `optimizer` or `scale`, without that prefix."""
        start = name + "/"
        return {k.removeprefix(start): t for k, t in self.tensors.items() if k.startswith(start)}

    def all_tensors(self) -> dict[str, Tensor]:
        """The tensors, with those of the refit under "refit/"."""
        second = self.refit.tensors if self.refit else {}
        return {**self.tensors, **{f"{REFIT}{key}": tensor for key, tensor in second.items()}}

    def with_tensors(self, tensors: Mapping[str, Tensor]) -> Checkpoint:
        """The checkpoint with what `all_tensors` gave."""
        second = {k.removeprefix(REFIT): t for k, t in tensors.items() if k.startswith(REFIT)}
        first = {k: t for k, t in tensors.items() if not k.startswith(REFIT)}
        refit = replace(self.refit, tensors=second) if self.refit else None
        return replace(self, tensors=first, refit=refit)

    def held(self) -> Checkpoint:
        """The same checkpoint to keep.

        The optimiser's tensors are copied; the others no longer change, nor do those of a first
        pass that has ended.
        """
        if self.refit is not None:
            return replace(self, refit=self.refit.held())
        tensors = {
            k: t.clone() if k.startswith("optimizer/") else t for k, t in self.tensors.items()
        }
        return replace(self, tensors=tensors)


def write(path: Path, about: Mapping[str, Any], checkpoint: Checkpoint) -> None:
    """Write a checkpoint, and `about`, which describes its run.

    Raises:
        OSError: the disk is full, or the folder cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    tensors = {k: t.detach().cpu().contiguous() for k, t in checkpoint.all_tensors().items()}
    text = json.dumps({"schema": SCHEMA, "about": about, "state": _values(checkpoint)})
    header = {KEY: text, "crc32": str(checksum(text, tensors))}
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with written_beside(path) as half:
            save_file(tensors, half, metadata=header)
    except SafetensorError as error:  # raised for a full disk
        raise OSError(28, " ".join(str(error).split())[:100]) from None


def _values(checkpoint: Checkpoint) -> dict[str, Any]:
    """A checkpoint as JSON values."""
    values = {f: getattr(checkpoint, f) for f in checkpoint.__dataclass_fields__ if f != "tensors"}
    # Uses vars, since `asdict` copies deeply, and hundreds of epochs are written after each.
    return values | {
        "epochs": [vars(e) for e in checkpoint.epochs],
        "work": asdict(checkpoint.work),
        "cache": asdict(checkpoint.cache) if checkpoint.cache else None,
        "events": [asdict(each) for each in checkpoint.events],
        "refit": _values(checkpoint.refit) if checkpoint.refit else None,
        "calibration": asdict(checkpoint.calibration) if checkpoint.calibration else None,
    }


def read(path: Path) -> tuple[dict[str, Any], Checkpoint]:
    """Read a checkpoint and the description of its run.

    Raises:
        UsageError: the file is not a checkpoint, is damaged, or is of another version.
    """
    from safetensors import SafetensorError, safe_open

    try:
        if not is_file(path):
            raise OSError("not a regular file")
        with safe_open(path, framework="pt") as opened:
            header = opened.metadata() or {}
            keys = opened.keys()  # `opened` is not a mapping
            tensors = {key: opened.get_tensor(key) for key in keys}
        text = header[KEY]
        values = parse(text)
        if values["schema"] != SCHEMA:
            raise UsageError(
                f"{path.name} has schema {values['schema']}, not {SCHEMA}: train that run again"
            )
        if int(header["crc32"]) != checksum(text, tensors):
            raise UsageError(f"{path.name} is damaged (its checksum differs): train that run again")
        about = typed(dict[str, Any], values["about"], "about")
        return about, _plausible(typed(Checkpoint, values["state"], "state")).with_tensors(tensors)
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, AttributeError) as error:
        reason = " ".join(str(error).split())[:80]
        raise UsageError(
            f"{path.name} is not a checkpoint, or is damaged ({reason}): train that run again"
        ) from None


def _plausible(checkpoint: Checkpoint) -> Checkpoint:
    """Raise `ValueError` if a figure is not a number, negative, or a share out of range.

    Costs and curves are made of them.
    """
    if checkpoint.refit is not None:
        _plausible(checkpoint.refit)
    shares = [
        a for e in checkpoint.epochs for a in (e.val_accuracy, e.monitor_accuracy) if a is not None
    ]
    cache = (checkpoint.cache.views, checkpoint.cache.bytes) if checkpoint.cache else ()
    amounts = [
        *checkpoint.seconds.values(),
        *checkpoint.flops.values(),
        *checkpoint.wh.values(),
        *(flops for _, flops in (checkpoint.found or {}).values()),
        *vars(checkpoint.work).values(),
        *cache,
        *(e.seconds for e in checkpoint.epochs),
        checkpoint.steps,
    ]
    if not all(0 <= share <= 1 for share in shares) or not -1 <= checkpoint.best <= 1:
        raise ValueError("an accuracy is not between 0 and 1")
    if not all(0 <= amount < math.inf for amount in amounts) or not all(
        map(math.isfinite, checkpoint.scaler.values())
    ):
        raise ValueError("an amount is negative or not finite")
    return checkpoint


def checksum(text: str, tensors: Mapping[str, Tensor]) -> int:
    """CRC-32 of a text and of CPU tensors: their names, types, shapes and values."""
    crc = zlib.crc32(text.encode())
    for key in sorted(tensors):
        crc = zlib.crc32(f"{key} {tensors[key].dtype} {tuple(tensors[key].shape)}".encode(), crc)
        crc = zlib.crc32(tensors[key].contiguous().reshape(-1).view(torch.uint8).numpy().data, crc)
    return crc
