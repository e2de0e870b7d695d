"""The expected cost of a run's checkpoints: the time to write one, and how many are due."""

from __future__ import annotations

import os
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from tlnb.core.training import checkpoint
from tlnb.core.training.checkpoint import Checkpoint
from tlnb.core.training.session_folder import home_folder

TIMES, QUICK = 4, 0.1  # repeated writes, if one takes at most this many seconds


def count(epochs: int, seconds: float, at_risk: float) -> int:
    """Number of checkpoints due (`checkpoint.Due`) in `epochs` that take `seconds` together."""
    if seconds <= at_risk:
        return 0
    return epochs // max(1, int(at_risk * epochs / seconds))


class Writes:
    """Times checkpoint writes in a temporary folder.

    The time varies, so if a write is quick, several are averaged.
    """

    def __init__(self, epochs: int) -> None:
        self._epochs = epochs
        self._took: list[float] = []

    def keep(self, last: Checkpoint) -> None:
        """Write a checkpoint, repeatedly if it is quick; do nothing once the time is known."""
        # A checkpoint contains the records of all epochs before it.
        as_halfway = max(1, self._epochs // 2 // len(last.epochs))
        halfway = replace(last, epochs=last.epochs * as_halfway)
        home = home_folder()
        writable = home.is_dir() and os.access(home, os.W_OK)
        with tempfile.TemporaryDirectory(dir=home if writable else None) as folder:
            while not self._took or (len(self._took) < TIMES and self._took[-1] < QUICK):
                began = time.perf_counter()
                checkpoint.write(Path(folder) / "rehearsal.safetensors", {}, halfway)
                self._took.append(time.perf_counter() - began)

    @property
    def seconds(self) -> float:
        """Seconds per checkpoint."""
        return sum(self._took) / max(1, len(self._took))
