"""A run as it stands at the end of an epoch, in a file: enough to go on as if nothing had happened.

The file is in the safetensors format: tensors, and names and numbers as JSON in its header. It appears whole or not at
all, and a checksum says whether it is still what was written. No pickle.
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

from tlnb.core.runtime.errors import UsageError
from tlnb.core.runtime.paths import is_file
from tlnb.core.runtime.typed_json import parse, typed
from tlnb.core.training.events import Event, events_of_notes
from tlnb.core.training.run import Cache, EpochRecord, Work

SCHEMA = 2
KEY = "tlnb_checkpoint"
AT_RISK = "10"  # seconds


class Due:
    """When a checkpoint is to be written: at the end of an epoch, before a kill could lose more than `at_risk` seconds of
    work, or where an epoch takes longer than that, more than the epoch.

    Ten seconds earn a tenth of a second's writing, and even one that takes longer than an epoch (as on a GPU) is a small
    share of them; a run of a few seconds needs none. What is learned does not depend on it.
    """

    def __init__(self, at_risk: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._at_risk, self._clock = at_risk, clock
        self._written = self._ended = clock()

    def after_epoch(self) -> bool:
        """Whether to write now. To be asked once at the end of each epoch: the next is expected to take as long."""
        now = self._clock()
        took, self._ended = now - self._ended, now
        return now - self._written + took > self._at_risk

    def written(self) -> None:
        """From now on no work is at risk."""
        self._written = self._ended = self._clock()


def at_risk() -> float:
    """Seconds of work that a kill may lose, where an epoch does not take longer: `TLNB_AT_RISK`, by default ten.

    Raises:
        UsageError: no number of seconds.
    """
    text = os.environ.get("TLNB_AT_RISK") or AT_RISK
    with contextlib.suppress(ValueError):
        if (seconds := float(text)) >= 0:
            return seconds
    raise UsageError(f"TLNB_AT_RISK={text} is not a number of seconds: %env TLNB_AT_RISK=10")


@dataclass(frozen=True)
class Checkpoint:
    """A run at the end of an epoch. Random numbers need no room: each epoch draws its own from seed and number."""

    epochs: tuple[EpochRecord, ...]
    best: float  # val accuracy of the best epoch so far; -1 without val
    best_epoch: int | None
    seconds: dict[str, float]  # by phase
    flops: dict[str, float]
    work: Work
    steps: int  # of the schedule
    cache: Cache | None
    events: tuple[Event, ...]
    pieces: int  # into which batches are split since memory ran out; 1: whole
    scaler: dict[str, float] = field(default_factory=dict)  # of fp16's gradients
    wh: dict[str, float] = field(default_factory=dict)  # by phase
    start: dict[str, str] = field(default_factory=dict)  # hash of each layer before the first step
    code: str = ""  # key of what the network computes, its numbers apart (`proof.StartState`)
    # "last/…" and, where that is another epoch's, "best/…" by full name, "optimizer/3/exp_avg" by parameter,
    # "scale/0/mean" by output layer
    tensors: Mapping[str, Tensor] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def upgraded(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """JSON's values by today's names: version 0.1.0 had notes in place of events."""
        rest = dict(values)
        return rest | {"events": events_of_notes(rest.pop("notes"))} if "notes" in rest else rest

    def part(self, name: str) -> dict[str, Tensor]:
        """The tensors of `last`, `best`, `optimizer` or `scale`, without that prefix."""
        start = name + "/"
        return {k.removeprefix(start): t for k, t in self.tensors.items() if k.startswith(start)}

    def held(self) -> Checkpoint:
        """The same for later: what the optimiser goes on changing is copied, the rest no longer changes."""
        tensors = {
            k: t.clone() if k.startswith("optimizer/") else t for k, t in self.tensors.items()
        }
        return replace(self, tensors=tensors)


def write(path: Path, about: Mapping[str, Any], checkpoint: Checkpoint) -> None:
    """Write a checkpoint, and `about`, which says what run it is of.

    Raises:
        OSError: a full disk, a folder that cannot be written to.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    tensors = {k: t.detach().cpu().contiguous() for k, t in checkpoint.tensors.items()}
    values = {f: getattr(checkpoint, f) for f in checkpoint.__dataclass_fields__ if f != "tensors"}
    # vars: `asdict` copies deep, and hundreds of epochs are written after each
    values |= {
        "epochs": [vars(e) for e in checkpoint.epochs],
        "work": asdict(checkpoint.work),
        "cache": asdict(checkpoint.cache) if checkpoint.cache else None,
        "events": [asdict(each) for each in checkpoint.events],
    }
    text = json.dumps({"schema": SCHEMA, "about": about, "state": values})
    header = {KEY: text, "crc32": str(checksum(text, tensors))}
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        half.unlink(missing_ok=True)  # a link of that name would be written through
        save_file(tensors, half, metadata=header)
        half.replace(path)
    except SafetensorError as error:  # its word for a full disk
        raise OSError(28, " ".join(str(error).split())[:100]) from None
    finally:
        with contextlib.suppress(OSError):
            half.unlink(missing_ok=True)


def read(path: Path) -> tuple[dict[str, Any], Checkpoint]:
    """What run a checkpoint is of, and the checkpoint.

    Raises:
        UsageError: no checkpoint, damaged, or of another version.
    """
    from safetensors import SafetensorError, safe_open

    try:
        if not is_file(path):
            raise OSError("not a regular file")
        with safe_open(path, framework="pt") as opened:
            header = opened.metadata() or {}
            tensors = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118 - no mapping
        text = header[KEY]
        values = parse(text)
        if values["schema"] != SCHEMA:
            raise UsageError(
                f"{path.name} has schema {values['schema']}, not {SCHEMA}: train that run again"
            )
        if int(header["crc32"]) != checksum(text, tensors):
            raise UsageError(f"{path.name} is damaged (its checksum differs): train that run again")
        about = typed(dict[str, Any], values["about"], "about")
        return about, replace(
            _plausible(typed(Checkpoint, values["state"], "state")), tensors=tensors
        )
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, AttributeError) as error:
        reason = " ".join(str(error).split())[:80]
        raise UsageError(
            f"{path.name} is no checkpoint, or damaged ({reason}): train that run again"
        ) from None


def _plausible(checkpoint: Checkpoint) -> Checkpoint:
    """Raises `ValueError` where a figure is no number, negative, or no share: costs and curves are made of them."""
    shares = [
        a for e in checkpoint.epochs for a in (e.val_accuracy, e.monitor_accuracy) if a is not None
    ]
    cache = (checkpoint.cache.views, checkpoint.cache.bytes) if checkpoint.cache else ()
    amounts = [
        *checkpoint.seconds.values(),
        *checkpoint.flops.values(),
        *checkpoint.wh.values(),
        *vars(checkpoint.work).values(),
        *cache,
        *(e.seconds for e in checkpoint.epochs),
        checkpoint.steps,
    ]
    if not all(0 <= share <= 1 for share in shares) or not -1 <= checkpoint.best <= 1:
        raise ValueError("an accuracy that is no share")
    if not all(0 <= amount < math.inf for amount in amounts) or not all(
        map(math.isfinite, checkpoint.scaler.values())
    ):
        raise ValueError("an amount that is none")
    return checkpoint


def checksum(text: str, tensors: Mapping[str, Tensor]) -> int:
    """CRC-32 of a text and of tensors on the CPU: their names, types, shapes and numbers."""
    crc = zlib.crc32(text.encode())
    for key in sorted(tensors):
        crc = zlib.crc32(f"{key} {tensors[key].dtype} {tuple(tensors[key].shape)}".encode(), crc)
        crc = zlib.crc32(tensors[key].contiguous().reshape(-1).view(torch.uint8).numpy().data, crc)
    return crc
