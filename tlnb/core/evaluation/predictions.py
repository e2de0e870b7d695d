"""Errors of a trained network on the test split, with confidence, and labels for new images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from tlnb.core.data.dataset import DataSet
from tlnb.core.data.decoding import Values
from tlnb.core.evaluation.calibration import Reliability, reliability
from tlnb.core.evaluation.new_images import found_images, read_image
from tlnb.core.models.calibration import Calibration, KnownImages, noting_inputs
from tlnb.core.models.pretrained import Transform
from tlnb.core.runtime.errors import OneLine, UsageError
from tlnb.core.training.answers import Answers
from tlnb.core.training.run import Run, wilson_interval

CHUNK = 64  # images decoded and classified at a time
NONE_OF_THESE = "none of the classes I know"
MAX_PICTURES = 20  # mistakes, or new images, whose pictures the record keeps


@dataclass(frozen=True, kw_only=True)
class ClassScore(OneLine):
    """Results of one class on the test split."""

    name: str
    right: int
    total: int

    @property
    def accuracy(self) -> float | None:
        """Fraction of the class that is right; None if the split has no image of it."""
        return self.right / self.total if self.total else None

    @property
    def interval(self) -> tuple[float, float]:
        """95% interval of the accuracy."""
        return wilson_interval(self.right, self.total)

    def __repr__(self) -> str:
        return f"ClassScore {self.name}: {self.right} of {self.total} right"


@dataclass(frozen=True, kw_only=True)
class Mistake(OneLine):
    """A misclassified test image."""

    index: int  # row of the test split
    truth: str
    said: str
    probability: float  # of the predicted class
    of_truth: float  # of the true class

    def __repr__(self) -> str:
        return (
            f"Mistake, test image {self.index}: {self.truth} called {self.said} "
            f"({self.probability:.1%})"
        )


@dataclass(frozen=True, kw_only=True)
class Confusion(OneLine):
    """How often one class was mistaken for another."""

    truth: str
    said: str
    count: int
    of: int  # test images of the true class

    def __repr__(self) -> str:
        return f"Confusion: {self.truth} called {self.said} {self.count} times of {self.of}"


@dataclass(frozen=True, kw_only=True)
class Errors(OneLine):
    """A run's errors on its test split, which was read once, at the end of the run."""

    run: str
    data: str
    classes: tuple[str, ...]
    matrix: tuple[tuple[int, ...], ...]  # a row per true class, a column per predicted class
    by_class: tuple[ClassScore, ...]
    accuracy: float
    interval: tuple[float, float]  # 95%
    balanced_accuracy: float  # the mean accuracy over classes
    mistakes: tuple[Mistake, ...]  # most confident first
    confused: tuple[Confusion, ...]  # most frequent first
    reliability: Reliability
    note: str = ""  # why pictures are missing
    _pictures: Tensor | None = field(
        default=None, repr=False, compare=False
    )  # (n, 3, E, E) of the first mistakes

    @property
    def total(self) -> int:
        """Number of test images."""
        return sum(score.total for score in self.by_class)

    def __repr__(self) -> str:
        worst = (
            f", most often {self.confused[0].truth} called {self.confused[0].said}"
            if self.confused
            else ""
        )
        return (
            f"Errors of run {self.run}: {len(self.mistakes)} of {self.total} test images of "
            f"{self.data} wrong{worst}; balanced accuracy {self.balanced_accuracy:.1%}"
        )


def errors(run: Run, data: DataSet | None = None) -> Errors:
    """Analyse the recorded test predictions of a run. The network is not run again.

    Args:
        data: source of the mistakes' pictures, if it is the data that the run was tested on.

    Raises:
        UsageError: the record lacks the predictions.
    """
    answers = run.answers()
    names = run.classes
    count = len(names)
    pairs = answers.truths * count + answers.guesses
    matrix = torch.bincount(pairs, minlength=count * count).view(count, count)
    totals = matrix.sum(1).tolist()
    scores = tuple(
        ClassScore(name=n, right=int(matrix[c, c]), total=totals[c]) for c, n in enumerate(names)
    )
    wrong = (answers.truths != answers.guesses).nonzero().flatten()
    order = wrong[answers.sure[wrong].argsort(descending=True, stable=True)]
    same = data is not None and data.fingerprint == run.fingerprint
    pictures = (
        data.images["test"][order[:MAX_PICTURES]]
        if data is not None and same and len(order)
        else None
    )
    note = (
        "" if same else f"no pictures: the data in use are not those of run {run.name}, {run.data}"
    )
    return Errors(
        run=run.name,
        data=run.data,
        classes=names,
        matrix=tuple(map(tuple, matrix.tolist())),
        by_class=scores,
        accuracy=run.accuracy,
        interval=run.interval,
        balanced_accuracy=run.balanced_accuracy,
        mistakes=tuple(_mistake(answers, names, i) for i in order.tolist()),
        confused=_confused(matrix, names),
        reliability=reliability(run),
        note=note,
        _pictures=pictures,
    )


def _mistake(answers: Answers, names: Sequence[str], image: int) -> Mistake:
    return Mistake(
        index=image,
        truth=names[int(answers.truths[image])],
        said=names[int(answers.guesses[image])],
        probability=float(answers.sure[image]),
        of_truth=float(answers.sure_of_truth[image]),
    )


def _confused(matrix: Tensor, names: Sequence[str]) -> tuple[Confusion, ...]:
    totals = matrix.sum(1).tolist()
    off = [(t, s, n) for t, s in matrix.nonzero().tolist() if t != s for n in [int(matrix[t, s])]]
    off.sort(key=lambda each: (-each[2], -each[2] / totals[each[0]]))
    return tuple(Confusion(truth=names[t], said=names[s], count=n, of=totals[t]) for t, s, n in off)


# ── new images ────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class KnownImage(OneLine):
    """An image that a network learned from, and how like it a new one is."""

    label: str
    likeness: float  # cosine of what reaches the output layer
    row: int  # among the images that the network learned from

    def __repr__(self) -> str:
        return f"KnownImage: {self.label}, likeness {self.likeness:.2f}"


@dataclass(frozen=True)
class Prediction(OneLine):
    """Predicted classes of one image with probabilities (0..1), most probable first."""

    name: str
    labels: tuple[tuple[str, float], ...]
    refused: bool = False  # it is unlike all images that the network knows
    nearest: tuple[KnownImage, ...] = ()  # the most like it, nearest first

    @property
    def label(self) -> str | None:
        """The most probable class; None where the image is of none that the network knows."""
        return None if self.refused else self.labels[0][0]

    @property
    def probability(self) -> float:
        """Probability of the most probable class."""
        return self.labels[0][1]

    @property
    def said(self) -> str:
        """The answer in words."""
        return NONE_OF_THESE if self.refused else f"{self.label} ({self.probability:.1%})"

    def __repr__(self) -> str:
        return f"Prediction {self.name}: {self.said}"


@dataclass(frozen=True, kw_only=True)
class Predictions(OneLine):
    """Labels for new images, in the order given."""

    model: str
    run: str | None  # None: the loaded model, with its own classes
    classes: int  # number of classes to choose from
    images: tuple[Prediction, ...]
    calibration: Calibration | None = None
    why_not: str = ""  # why it is not calibrated
    always: bool = False  # whether it had to answer
    _pictures: Tensor | None = field(
        default=None, repr=False, compare=False
    )  # (n, 3, S, S) as the network sees them
    # of refused images the nearest known one, by their number, (3, E, E) each
    _nearest: Mapping[int, Tensor] = field(default_factory=dict, repr=False, compare=False)

    @property
    def labels(self) -> tuple[str | None, ...]:
        """The most probable class of each image; None where it is refused."""
        return tuple(image.label for image in self.images)

    @property
    def confidence(self) -> tuple[float, ...]:
        """The probability of the most probable class of each image."""
        return tuple(image.probability for image in self.images)

    def __len__(self) -> int:
        return len(self.images)

    def __repr__(self) -> str:
        by = f"run {self.run}" if self.run else f"{self.model} with its own classes"
        first = ", ".join(f"{p.name} is {p.said}" for p in self.images[:3])
        more = f" and {len(self) - 3} more" if len(self) > 3 else ""
        return f"Predictions by {by}: {first}{more}"


@dataclass(frozen=True, kw_only=True)
class Judge(OneLine):
    """A network for predictions: its classes, preprocessing, and the edge to decode images at."""

    model: str
    run: str | None
    module: nn.Module = field(repr=False)
    classes: tuple[str, ...]
    transform: Transform
    edge: int
    values: Values | None = (
        None  # black and white points of grey images of more than 8 bits, as in training
    )
    calibration: Calibration | None = None
    why_not: str = ""
    known: KnownImages | None = None
    learned_from: tuple[Tensor, ...] = field(default=(), repr=False)  # images, where at hand

    def __repr__(self) -> str:
        owner = f"run {self.run}" if self.run else "its own classes"
        return f"Judge: {self.model}, {owner}, {len(self.classes)} classes"


def predict(judge: Judge, images: Sequence[Any], top: int = 3, always: bool = False) -> Predictions:
    """Classify new images, decoded as the training images were.

    Args:
        images: files, folders, globs; PIL images; uint8 arrays `(H, W)`, `(H, W, 3)`, `(3, H, W)`.
        top: number of classes to give per image.
        always: answer also where an image is unlike all that the network knows.

    Raises:
        DataError: a file is missing or unreadable; nothing is predicted then.
        UsageError: no image is given, or `top` is below 1.
    """
    if top < 1:
        raise UsageError(f"--top {top} is too small: use 1 or more")
    sources = list(found_images(images))
    predictions: list[Prediction] = []
    kept: list[Tensor] = []
    for start in range(0, len(sources), CHUNK):
        part = sources[start : start + CHUNK]
        seen = judge.transform.fit(
            torch.stack([read_image(source, judge.edge, judge.values) for _, source in part])
        )
        kept.append(seen[: max(0, MAX_PICTURES - start)])
        predictions += _answers(judge, [name for name, _ in part], seen, top, always)
    return Predictions(
        model=judge.model,
        run=judge.run,
        classes=len(judge.classes),
        images=tuple(predictions),
        calibration=judge.calibration,
        why_not=judge.why_not,
        always=always,
        _pictures=torch.cat(kept),
        _nearest=_pictures_of_nearest(judge, predictions[:MAX_PICTURES]),
    )


def _answers(
    judge: Judge, names: Sequence[str], seen: Tensor, top: int, always: bool
) -> list[Prediction]:
    """Predictions for images at the network's edge `(n, 3, S, S)` uint8."""
    module, fitted = judge.module.eval(), judge.calibration
    features: list[Tensor] = []
    with torch.no_grad(), _noted(judge, features):
        logits = module(judge.transform.normalise(seen)).float()
    probabilities = (logits / (fitted.temperature if fitted else 1.0)).softmax(1)
    best = probabilities.topk(min(top, len(judge.classes)))
    predictions = []
    for image, name in enumerate(names):
        shares = zip(best.indices[image].tolist(), best.values[image].tolist(), strict=True)
        labels = tuple((judge.classes[c], p) for c, p in shares)
        nearest = _nearest(judge, features[0][image : image + 1]) if features else ()
        refused = bool(nearest) and not always and _is_foreign(judge, nearest)
        predictions.append(Prediction(name, labels, refused, nearest))
    return predictions


@contextmanager
def _noted(judge: Judge, features: list[Tensor]) -> Iterator[None]:
    """Inside, what reaches the output layer is noted where there are known images."""
    if judge.known is None or judge.calibration is None:
        yield
        return
    with noting_inputs(judge.module.get_submodule(judge.calibration.layer), features):
        yield


def _nearest(judge: Judge, features: Tensor) -> tuple[KnownImage, ...]:
    known = judge.known
    assert known is not None
    cosines, which = known.nearest(features)
    labels, rows = known.labels[which[0]].tolist(), known.rows[which[0]].tolist()
    each = zip(labels, cosines[0].tolist(), rows, strict=True)
    return tuple(KnownImage(judge.classes[label], near, row) for label, near, row in each)


def _is_foreign(judge: Judge, nearest: Sequence[KnownImage]) -> bool:
    likeness = sum(image.likeness for image in nearest) / len(nearest)
    return judge.calibration is not None and likeness < judge.calibration.threshold


def _pictures_of_nearest(judge: Judge, predictions: Sequence[Prediction]) -> dict[int, Tensor]:
    """The nearest known image of those that are refused, where the images are at hand."""
    found = {}
    for number, each in enumerate(predictions):
        row = each.nearest[0].row if each.refused else 0
        for images in judge.learned_from if each.refused else ():
            if 0 <= row < len(images):
                found[number] = images[row]
            row -= len(images)
    return found
