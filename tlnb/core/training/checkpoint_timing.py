"""What a run's checkpoints will take: how long one is to write, and how many are due."""

from __future__ import annotations

import os
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from tlnb.core.training import checkpoint
from tlnb.core.training.checkpoint import Checkpoint
from tlnb.core.training.session_folder import home_folder

TIMES, QUICK = 4, 0.1  # times that one is written, if it takes no more seconds than that


def count(epochs: int, seconds: float, at_risk: float) -> int:
    """Checkpoints that are due (`checkpoint.Due`) in so many epochs that take so many seconds together."""
    if seconds <= at_risk:
        return 0
    return epochs // max(1, int(at_risk * epochs / seconds))


class Writes:
    """Checkpoints to a folder that goes away; the time of one, which varies, is the mean of several where they are quick."""

    def __init__(self, epochs: int) -> None:
        self._epochs = epochs
        self._took: list[float] = []

    def keep(self, last: Checkpoint) -> None:
        """Write it, more than once if that is soon done; where it is known what one takes, do nothing."""
        # a checkpoint tells of every epoch before it
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
        """Of one."""
        return sum(self._took) / max(1, len(self._took))
