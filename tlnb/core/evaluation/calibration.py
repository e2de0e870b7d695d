"""How far a run's probabilities can be trusted: reliability, and accuracy by the share answered."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tlnb.core.models.calibration import Calibration
from tlnb.core.runtime.errors import OneLine
from tlnb.core.training.answers import Answers
from tlnb.core.training.run import Run

BINS = 15  # of equal mass
SIMULATIONS = 200
SHARES = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


@dataclass(frozen=True, kw_only=True)
class Bin:
    """Test images of about the same confidence."""

    confidence: float  # mean probability of the predicted class
    accuracy: float
    count: int


@dataclass(frozen=True, kw_only=True)
class Reliability(OneLine):
    """Confidence against accuracy on the test split."""

    bins: tuple[Bin, ...]  # from the least to the most confident
    error: float  # expected calibration error
    noise: float  # below this 95% of perfectly calibrated networks lie, on so many images
    by_share: tuple[tuple[float, float], ...]  # (share answered, accuracy), most confident first
    calibration: Calibration | None
    why_not: str  # why it is not calibrated
    refused: float | None = None  # share of test images that the threshold refuses
    accuracy_answered: float | None = None  # of the others

    def __repr__(self) -> str:
        return f"Reliability: expected calibration error {self.error:.3f} (noise {self.noise:.3f})"


def reliability(run: Run) -> Reliability:
    """How reliable a run's probabilities are on its test split.

    Raises:
        UsageError: the record lacks the predictions.
    """
    answers = run.answers()
    confidence = answers.sure.double().numpy()
    right = (answers.truths == answers.guesses).numpy()
    refused, accuracy = _refused(answers, run.calibration)
    return Reliability(
        bins=_bins(confidence, right),
        error=calibration_error(confidence, right),
        noise=calibration_noise(confidence),
        by_share=_by_share(confidence, right),
        calibration=run.calibration,
        why_not=run.uncalibrated,
        refused=refused,
        accuracy_answered=accuracy,
    )


def calibration_error(confidence: np.ndarray, right: np.ndarray) -> float:
    """Expected calibration error in bins of equal mass (Nguyen and O'Connor, EMNLP 2015).

    Args:
        confidence: `(N,)` from 0 to 1.
        right: `(N,)`, whether the prediction is right.
    """
    gaps = [
        len(rows) * abs(confidence[rows].mean() - right[rows].mean()) for rows in _rows(confidence)
    ]
    return float(sum(gaps) / max(1, len(confidence)))


def calibration_noise(confidence: np.ndarray) -> float:
    """The error that perfectly calibrated predictions stay below in 95 of 100 draws."""
    draw = np.random.default_rng(0)
    errors = [
        calibration_error(confidence, draw.random(len(confidence)) < confidence)
        for _ in range(SIMULATIONS)
    ]
    return float(np.quantile(errors, 0.95))


def _rows(confidence: np.ndarray) -> list[np.ndarray]:
    """Rows of each bin, from the least to the most confident."""
    order = np.argsort(confidence, kind="stable")
    return [rows for rows in np.array_split(order, BINS) if len(rows)]


def _bins(confidence: np.ndarray, right: np.ndarray) -> tuple[Bin, ...]:
    return tuple(
        Bin(
            confidence=float(confidence[rows].mean()),
            accuracy=float(right[rows].mean()),
            count=len(rows),
        )
        for rows in _rows(confidence)
    )


def _by_share(confidence: np.ndarray, right: np.ndarray) -> tuple[tuple[float, float], ...]:
    ordered = right[np.argsort(-confidence, kind="stable")]
    counts = [max(1, round(share * len(ordered))) for share in SHARES]
    return tuple(
        (share, float(np.mean(ordered[:n]))) for share, n in zip(SHARES, counts, strict=True)
    )


def _refused(answers: Answers, fitted: Calibration | None) -> tuple[float | None, float | None]:
    """The share of test images that are refused, and the accuracy of the others."""
    if fitted is None or answers.likeness is None:
        return None, None
    answered = answers.likeness >= fitted.threshold
    right = (answers.truths == answers.guesses)[answered]
    accuracy = float(right.double().mean()) if len(right) else None
    return 1 - float(answered.double().mean()), accuracy
