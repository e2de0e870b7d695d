"""What a trained network said about the test split."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from tlnb.core.runtime.errors import OneLine


@dataclass(frozen=True, kw_only=True)
class Answers(OneLine):
    """A trained network's predictions on the test split, which is read once; one per image."""

    truths: Tensor  # (N,) int64 class numbers
    guesses: Tensor  # (N,) int64
    sure: Tensor  # (N,) float32 probability of the guess, calibrated where the run is
    sure_of_truth: Tensor  # (N,) float32 probability of the true class
    logits: Tensor | None = None  # (N, C) float32, for trials only: runs do not keep them
    # (N,) float32, what `Calibration.threshold` is compared with; None: the run has no threshold
    likeness: Tensor | None = None

    def __repr__(self) -> str:
        return (
            f"Answers: {len(self.truths)} images, {int((self.truths == self.guesses).sum())} right"
        )
