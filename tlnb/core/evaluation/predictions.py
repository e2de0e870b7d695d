"""A trained network judged: which test images it gets wrong and how sure it was; and labels for new images."""

from __future__ import annotations

import glob
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tlnb.core.data.dataset import DataSet
from tlnb.core.data.decoding import Values, decode, extensions, squared
from tlnb.core.models.pretrained import Transform
from tlnb.core.runtime.errors import DataError, OneLine, UsageError, did_you_mean, one_line
from tlnb.core.runtime.paths import is_file, is_folder, user_path
from tlnb.core.training.run import Run, wilson_interval

CHUNK = 64  # images decoded and shown to the network at a time
MAX_PICTURES = 20  # mistakes, and new images, of which the record keeps a picture


@dataclass(frozen=True)
class ClassScore(OneLine):
    """How one class fares on the test split."""

    name: str
    right: int
    total: int

    @property
    def accuracy(self) -> float | None:
        """Fraction of the class that is right; None where the split has none of it."""
        return self.right / self.total if self.total else None

    @property
    def interval(self) -> tuple[float, float]:
        """95% interval of the accuracy."""
        return wilson_interval(self.right, self.total)

    def __repr__(self) -> str:
        return f"ClassScore {self.name}: {self.right} of {self.total} right"


@dataclass(frozen=True)
class Mistake(OneLine):
    """A test image that was called something else."""

    index: int  # row of the test split
    truth: str
    said: str
    probability: float  # that the network gave to what it said
    of_truth: float  # and to the true class

    def __repr__(self) -> str:
        return f"Mistake, test image {self.index}: {self.truth} called {self.said} ({self.probability:.1%})"


@dataclass(frozen=True)
class Confusion(OneLine):
    """How often one class was called another."""

    truth: str
    said: str
    count: int
    of: int  # test images of the true class

    def __repr__(self) -> str:
        return f"Confusion: {self.truth} called {self.said} {self.count} times of {self.of}"


@dataclass(frozen=True)
class Errors(OneLine):
    """What a run gets wrong on its test split, which was read once, at the end of the run."""

    run: str
    data: str
    classes: tuple[str, ...]
    matrix: tuple[tuple[int, ...], ...]  # a row for each true class, a column for each answer
    by_class: tuple[ClassScore, ...]
    accuracy: float
    interval: tuple[float, float]  # 95%
    balanced_accuracy: float  # the mean of the accuracies by class
    mistakes: tuple[Mistake, ...]  # most confident first
    confused: tuple[Confusion, ...]  # most frequent first
    note: str = ""  # why there are no pictures
    _pictures: Tensor | None = field(
        default=None, repr=False, compare=False
    )  # (n, 3, E, E) of the first mistakes

    @property
    def total(self) -> int:
        """Test images."""
        return sum(score.total for score in self.by_class)

    def __repr__(self) -> str:
        worst = (
            f", most often {self.confused[0].truth} called {self.confused[0].said}"
            if self.confused
            else ""
        )
        return (
            f"Errors of run {self.run}: {len(self.mistakes)} of {self.total} test images of {self.data} wrong{worst}; "
            f"balanced accuracy {self.balanced_accuracy:.1%}"
        )


def errors(run: Run, data: DataSet | None = None) -> Errors:
    """What the run answered on its test split, taken apart. The network is not asked again.

    Args:
        data: where pictures of the mistakes are taken from, if it is the data that the run was tested on.

    Raises:
        UsageError: a record without the answers.
    """
    answers = run.answers()
    names = run.classes
    count = len(names)
    matrix = torch.bincount(answers.truths * count + answers.guesses, minlength=count * count).view(
        count, count
    )
    totals = matrix.sum(1).tolist()
    scores = tuple(ClassScore(n, int(matrix[c, c]), totals[c]) for c, n in enumerate(names))
    wrong = (answers.truths != answers.guesses).nonzero().flatten()
    order = wrong[answers.sure[wrong].argsort(descending=True, stable=True)]
    mistakes = tuple(
        Mistake(
            i,
            names[int(answers.truths[i])],
            names[int(answers.guesses[i])],
            float(answers.sure[i]),
            float(answers.sure_of_truth[i]),
        )
        for i in order.tolist()
    )
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
        run.name,
        run.data,
        names,
        tuple(map(tuple, matrix.tolist())),
        scores,
        run.accuracy,
        run.interval,
        run.balanced_accuracy,
        mistakes,
        _confused(matrix, names),
        note,
        pictures,
    )


def _confused(matrix: Tensor, names: Sequence[str]) -> tuple[Confusion, ...]:
    totals = matrix.sum(1).tolist()
    off = [(t, s, n) for t, s in matrix.nonzero().tolist() if t != s for n in [int(matrix[t, s])]]
    off.sort(key=lambda each: (-each[2], -each[2] / totals[each[0]]))
    return tuple(Confusion(names[t], names[s], n, totals[t]) for t, s, n in off)


# ── new images ────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Prediction(OneLine):
    """What a network calls one image: classes with probabilities (0..1), most probable first."""

    name: str
    labels: tuple[tuple[str, float], ...]

    @property
    def label(self) -> str:
        """The most probable class."""
        return self.labels[0][0]

    @property
    def probability(self) -> float:
        """Of the most probable class."""
        return self.labels[0][1]

    def __repr__(self) -> str:
        return f"Prediction {self.name}: {self.label} ({self.probability:.1%})"


@dataclass(frozen=True)
class Predictions(OneLine):
    """Labels for new images, in the order in which the images were given."""

    model: str
    run: str | None  # None: the loaded model with its own classes
    classes: int  # among how many it chose
    images: tuple[Prediction, ...]
    _pictures: Tensor | None = field(
        default=None, repr=False, compare=False
    )  # (n, 3, S, S) as the network sees them

    def __len__(self) -> int:
        return len(self.images)

    def __repr__(self) -> str:
        by = f"run {self.run}" if self.run else f"{self.model} with its own classes"
        first = ", ".join(f"{p.name} is {p.label} ({p.probability:.1%})" for p in self.images[:3])
        more = f" and {len(self) - 3} more" if len(self) > 3 else ""
        return f"Predictions by {by}: {first}{more}"


@dataclass(frozen=True)
class Judge(OneLine):
    """A network that can be asked: its classes, its preprocessing, the edge at which images are decoded for it."""

    model: str
    run: str | None
    module: nn.Module = field(repr=False)
    classes: tuple[str, ...]
    transform: Transform
    edge: int
    values: Values | None = (
        None  # black and white of grey images of more than 8 bits, as of those that taught it
    )

    def __repr__(self) -> str:
        return f"Judge: {self.model}, {f'run {self.run}' if self.run else 'its own classes'}, {len(self.classes)} classes"


def predict(judge: Judge, images: Sequence[Any], top: int = 3) -> Predictions:
    """What the network calls new images. They are decoded as the training images were.

    Args:
        images: files, folders, globs; PIL images; uint8 arrays `(H, W)`, `(H, W, 3)`, `(3, H, W)`.
        top: how many classes to give for each.

    Raises:
        DataError: a file that is missing or cannot be read; nothing is predicted then.
        UsageError: no image, or `top` below 1.
    """
    if top < 1:
        raise UsageError(f"--top {top} is too small: use 1 or more")
    sources = list(found_images(images))
    predictions: list[Prediction] = []
    kept: list[Tensor] = []
    module = judge.module.eval()
    for start in range(0, len(sources), CHUNK):
        part = sources[start : start + CHUNK]
        seen = judge.transform.fit(
            torch.stack([read_image(source, judge.edge, judge.values) for _, source in part])
        )
        kept.append(seen[: max(0, MAX_PICTURES - start)])
        with torch.no_grad():
            probabilities = module(judge.transform.normalise(seen)).float().softmax(1)
        best = probabilities.topk(min(top, len(judge.classes)))
        for (name, _), shares, rows in zip(
            part, best.values.tolist(), best.indices.tolist(), strict=True
        ):
            predictions.append(
                Prediction(
                    name, tuple((judge.classes[c], p) for c, p in zip(rows, shares, strict=True))
                )
            )
    return Predictions(
        judge.model, judge.run, len(judge.classes), tuple(predictions), torch.cat(kept)
    )


def found_images(given: Iterable[Any]) -> Iterator[tuple[str, Any]]:
    """Names and images, or their files: folders and globs opened.

    Raises:
        DataError: a file, folder or glob that leads to no image.
        UsageError: nothing was given.
    """
    given = list(given)
    if not given:
        raise UsageError("no image was given: %tl_predict dog.jpg, or a folder")
    for number, item in enumerate(given, 1):
        if isinstance(item, str | Path):
            yield from ((_short(path), path) for path in _files(str(item)))
        else:
            yield f"image {number}", item


def _files(pattern: str) -> list[Path]:
    path = user_path(pattern)
    if is_file(path):
        return [path]
    if is_folder(path):
        files = _images(
            p
            for p in path.rglob("*")
            if not any(q.startswith(".") for q in p.relative_to(path).parts)
        )
    elif glob.has_magic(pattern):
        files = _images(map(Path, glob.glob(str(path), recursive=True)))  # noqa: PTH207 - an absolute glob too
    else:
        near = [p.name for p in path.parent.iterdir()] if is_folder(path.parent) else []
        hint = did_you_mean(
            path.name,
            near,
            "give an image file, a folder of images, or a glob such as photos/*.jpg",
        )
        raise DataError(f"no file {pattern!r}: {hint}")
    if not files:
        raise DataError(
            f"no image lies in {pattern!r}: give files that end in {', '.join(extensions())}"
        )
    return files


def _images(paths: Iterable[Path]) -> list[Path]:
    return sorted(p for p in paths if is_file(p) and p.suffix.lower() in extensions())


def _short(path: Path) -> str:
    return one_line(str(Path(*path.parts[-2:])))


def read_image(source: Any, edge: int, values: Values | None = None) -> Tensor:
    """One image as (3, edge, edge) uint8: a file, a PIL image, or a uint8 array, all squared alike.

    Args:
        values: what is black and what is white in grey images of more than 8 bits; None: by each image's own range.

    Raises:
        DataError: a file that cannot be read, or an array of another type or shape.
    """
    if isinstance(source, Path):
        pixels = decode(source, edge, values)
        if isinstance(pixels, str):
            raise DataError(f"{source} {pixels}: leave it out, or give another file")
        return pixels
    return squared(_as_picture(source), edge, values)


def _as_picture(source: Any) -> Any:
    """A PIL image from a PIL image or a uint8 array."""
    from PIL import Image

    if isinstance(source, Image.Image):
        return source
    pixels = source.numpy() if isinstance(source, Tensor) else np.asarray(source)
    if not pixels.size:
        raise DataError(
            f"an image of shape {pixels.shape} holds no pixels: give uint8 (H, W), (H, W, 3) or (3, H, W)"
        )
    if pixels.ndim == 3 and pixels.shape[-1] not in (1, 3, 4) and pixels.shape[0] in (1, 3):
        pixels = np.moveaxis(pixels, 0, -1)
    if pixels.ndim == 3 and pixels.shape[-1] == 1:
        pixels = pixels[..., 0]
    if pixels.dtype != np.uint8 or not (
        pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[-1] in (3, 4))
    ):
        raise DataError(
            f"an image of type {pixels.dtype} and shape {pixels.shape} cannot be read: give uint8 (H, W), (H, W, 3) or (3, H, W)"
        )
    return Image.fromarray(np.ascontiguousarray(pixels))
