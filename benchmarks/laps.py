"""The stopwatch that every peer uses, and its readings."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Outcome:
    """The seconds of one run."""

    fixed: float  # outside epochs: reading data in advance, a final test
    epochs: tuple[float, ...]  # including loading and evaluation
    parts: dict[str, float]  # seconds by part of the work
    images: int  # trained on while `parts` were measured
    accuracy: float | None  # test, 0..1
    again: float | None = None  # seconds of the same training repeated in the same session
    processor: float = 0.0  # seconds of all the process's threads

    def seconds(self, epochs: int) -> float:
        """Seconds of a run of `epochs`: measured, or the fixed part plus median epochs."""
        if not self.epochs or epochs == len(self.epochs):
            return self.fixed + sum(self.epochs)
        return self.fixed + epochs * statistics.median(self.epochs)

    @property
    def step_ms(self) -> float:
        """Milliseconds of training per image, without loading."""
        return 1000 * self.parts.get("training", 0.0) / max(self.images, 1)


class Laps:
    """Measures seconds by part and by epoch.

    Parts require synchronising the device after every batch. On CPUs that costs nothing; on a GPU
    it would prevent loading and computing from overlapping. So on a GPU parts are measured only in
    the last epoch, which does not count as an epoch if there are others.
    """

    def __init__(self, device: str, epochs: int) -> None:
        self._on_gpu, self._last = device.startswith("cuda"), epochs
        self._epoch = 0
        self._epochs: list[float] = []
        self._parts: dict[str, float] = {}
        self._images = 0

    def start(self) -> None:
        """Start measuring time and peak memory."""
        if self._on_gpu:
            torch.cuda.reset_peak_memory_stats()
        self._begin = self._mark = self._epoch_begin = self._now()
        self._processor = time.process_time()

    def lap(self, part: str, images: int = 0) -> None:
        """Add the seconds since the last lap to a part, which processed `images` images."""
        if self._detailed:
            now = self._now()
            self._parts[part] = self._parts.get(part, 0.0) + now - self._mark
            self._images += images
            self._mark = now

    def epoch_starts(self) -> None:
        """Begin an epoch; time since the last lap belongs to no part."""
        self._epoch += 1
        self._epoch_begin = self._mark = self._now()

    def epoch_ends(self) -> None:
        """End an epoch and store its seconds."""
        self._mark = self._now()
        self._epochs.append(self._mark - self._epoch_begin)

    def outcome(self, accuracy: float | None) -> Outcome:
        """Stop, and return the readings with the accuracy reached."""
        total, processor = self._now() - self._begin, time.process_time() - self._processor
        epochs = self._epochs[:-1] if self._on_gpu and len(self._epochs) > 1 else self._epochs
        return Outcome(
            fixed=total - sum(self._epochs),
            epochs=tuple(epochs),
            parts=self._parts,
            images=self._images,
            accuracy=accuracy,
            processor=processor,
        )

    @property
    def _detailed(self) -> bool:
        return not self._on_gpu or self._epoch in (0, self._last)

    def _now(self) -> float:
        if self._on_gpu:
            torch.cuda.synchronize()
        return time.perf_counter()
