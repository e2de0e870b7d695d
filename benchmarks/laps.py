"""A stopwatch that every peer carries, and what it read."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Outcome:
    """What one run took, in seconds."""

    fixed: float  # outside epochs: reading data in advance, a last test
    epochs: tuple[float, ...]  # each with its loading and evaluating
    parts: dict[str, float]  # where the time went
    images: int  # trained on while `parts` were noted
    accuracy: float | None  # test, 0..1
    again: float | None = None  # the same once more in the same session

    def seconds(self, epochs: int) -> float:
        """A run of so many epochs: as measured, or the fixed part and the median epoch so many times."""
        if not self.epochs or epochs == len(self.epochs):
            return self.fixed + sum(self.epochs)
        return self.fixed + epochs * statistics.median(self.epochs)

    @property
    def step_ms(self) -> float:
        """Milliseconds of training for one image, without loading it."""
        return 1000 * self.parts.get("training", 0.0) / max(self.images, 1)


class Laps:
    """Seconds by part and by epoch.

    Parts need the device synchronised after every batch. Processors lose nothing by that; on a GPU it would keep loading
    and computing apart that otherwise overlap, so there only the last epoch is taken to pieces, and it does not count
    as an epoch where others do.
    """

    def __init__(self, device: str, epochs: int) -> None:
        self._on_gpu, self._last = device.startswith("cuda"), epochs
        self._epoch = 0
        self._epochs: list[float] = []
        self._parts: dict[str, float] = {}
        self._images = 0

    def start(self) -> None:
        """From now on everything counts, memory too."""
        if self._on_gpu:
            torch.cuda.reset_peak_memory_stats()
        self._begin = self._mark = self._epoch_begin = self._now()

    def lap(self, part: str, images: int = 0) -> None:
        """The seconds since the last lap belong to this part, and went into so many images."""
        if self._detailed:
            now = self._now()
            self._parts[part] = self._parts.get(part, 0.0) + now - self._mark
            self._images += images
            self._mark = now

    def epoch_starts(self) -> None:
        """What was not noted before goes to no part."""
        self._epoch += 1
        self._epoch_begin = self._mark = self._now()

    def epoch_ends(self) -> None:
        """Keep its seconds."""
        self._mark = self._now()
        self._epochs.append(self._mark - self._epoch_begin)

    def outcome(self, accuracy: float | None) -> Outcome:
        """Stop. What it read so far, with the accuracy that was reached."""
        total = self._now() - self._begin
        epochs = self._epochs[:-1] if self._on_gpu and len(self._epochs) > 1 else self._epochs
        return Outcome(
            total - sum(self._epochs), tuple(epochs), self._parts, self._images, accuracy
        )

    @property
    def _detailed(self) -> bool:
        return not self._on_gpu or self._epoch in (0, self._last)

    def _now(self) -> float:
        if self._on_gpu:
            torch.cuda.synchronize()
        return time.perf_counter()
