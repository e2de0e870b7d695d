"""Choose and split images by their labels alone, before any image is read."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from tlnb.core.data.request import MOST_CLASSES, DataRequest
from tlnb.core.runtime.errors import DataError, listed

MIN_FOR_VAL = 20  # labels in the smallest class from which a fifth is held out for model selection
VAL_SHARE = TEST_SHARE = 0.2
SPLITS = ("train", "val", "monitor", "test")

Rows = dict[str, np.ndarray]  # split → (n,) int64
Fold = tuple[np.ndarray, np.ndarray]  # rows to learn from, rows held out


@dataclass(frozen=True, kw_only=True)
class Parts:
    """The parts of a data set: images `(N, 3, E, E)` uint8 and labels `(N,)` int64 by split."""

    name: str
    classes: tuple[str, ...]
    images: Mapping[str, Tensor]
    labels: Mapping[str, Tensor]
    skipped: tuple[str, ...] = ()
    folders: tuple[tuple[str, str], ...] = ()
    # split → the names of its images
    files: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    groups: int | None = None  # number of groups, if images are grouped
    group_of: Mapping[str, Tensor] = field(default_factory=dict)  # split → (N,) int64, then
    notes: tuple[str, ...] = ()  # what readers of the results should know, one sentence each
    brought: tuple[str, ...] = ()  # splits that came with the data; the others were drawn here
    # black and white points of grey images of more than 8 bits
    values: tuple[float, float] | None = None
    transparent: bool = False  # whether images have, or may have, transparent parts
    own_range: bool = False  # whether whole numbers and fractions are scaled image by image


def divide(
    name: str,
    classes: tuple[str, ...],
    images: Tensor,
    labels: Tensor,
    request: DataRequest,
    *,
    pool: np.ndarray,
    fixed: Mapping[str, np.ndarray],
    spare_to_monitor: int = 0,
    groups: np.ndarray | None = None,
) -> Parts:
    """Split images in memory as `split_rows` does."""
    rows_by_split = split_rows(
        name=name,
        classes=classes,
        y=labels.numpy(),
        request=request,
        pool=pool,
        fixed=fixed,
        spare_to_monitor=spare_to_monitor,
        groups=groups,
    )
    rows = {split: torch.from_numpy(part) for split, part in rows_by_split.items()}
    return Parts(
        name=name,
        classes=classes,
        images={s: images[r].contiguous() for s, r in rows.items()},
        labels={s: labels[r] for s, r in rows.items()},
        brought=tuple(fixed),
        group_of=by_split(rows_by_split, groups),
    )


def by_split(rows: Rows, groups: np.ndarray | None) -> dict[str, Tensor]:
    """The group of each split's rows; empty if images are not grouped."""
    return {} if groups is None else {s: torch.from_numpy(groups[r]) for s, r in rows.items()}


def split_rows(
    name: str,
    classes: tuple[str, ...],
    y: np.ndarray,
    request: DataRequest,
    *,
    pool: np.ndarray,
    fixed: Mapping[str, np.ndarray],
    spare_to_monitor: int = 0,
    groups: np.ndarray | None = None,
) -> Rows:
    """Choose the rows in use from `pool`, then hold out test and val.

    `fixed` splits stay as they are.

    Args:
        y: the class number of every row, `(N,)`.
        pool: the rows to choose from.
        fixed: splits that came with the data.
        spare_to_monitor: number of unused rows that become the split `monitor`.
        groups: the group of every row, `(N,)`: each stays within one of the splits made here.

    Raises:
        DataError: there are too few groups to hold some out, fewer images than asked for, or none
            left for a class or for testing.
    """
    rng = np.random.default_rng(request.seed)
    parts = dict(fixed)
    pool = _by_turns(pool, y, rng)
    if "test" not in parts:
        share = TEST_SHARE if request.test is None else request.test
        pool, parts["test"] = _hold_out(pool, y, share, groups, request.seed)
    used = _amount(pool, y, classes, request)
    if spare_to_monitor:
        parts["monitor"] = np.setdiff1d(pool, used, assume_unique=True)[:spare_to_monitor]
    smallest = _smallest(y[used], classes)
    if "val" not in parts and (request.val is not None or smallest >= MIN_FOR_VAL):
        share = VAL_SHARE if request.val is None else request.val
        try:
            used, parts["val"] = _hold_out(used, y, share, groups, request.seed)
        # Too few groups to hold some out a second time: the schedule is then fixed, as for
        # small data.
        except DataError:
            if request.val is not None:
                raise
    rows = {split: part for split, part in {"train": used, **parts}.items() if len(part)}
    if "test" not in rows:
        raise DataError(f"{name} leaves no test images: give more images, or a larger --test")
    return rows


def _smallest(y: np.ndarray, classes: tuple[str, ...]) -> int:
    """Images of the smallest class among the labels `(n,)`; one without any is an error."""
    counts = np.bincount(y, minlength=len(classes))
    missing = [name for name, count in zip(classes, counts, strict=True) if not count]
    if missing:
        raise DataError(
            f"nothing is left to train on for {listed(missing)}: ask for more images, or leave "
            "out --test"
        )
    return int(counts.min())


def check_classes(
    what: str, classes: Sequence[str], skipped: Sequence[str] = (), folders: bool = False
) -> None:
    """Check that there are at least two classes, and at most `MOST_CLASSES`.

    Args:
        what: the owner of the classes, for the message.
        skipped: what is not used, with reasons, which may explain missing classes.
        folders: whether each class is a folder.

    Raises:
        DataError: there are too few or too many classes.
    """
    check_most_classes(what, classes)
    if len(classes) < 2:
        none = f"no class{' folder' * folders} with images"
        count = f"one class ({classes[0]})" if classes else none
        why = f" (skipped: {listed(skipped, 1)})" if skipped else ""
        raise DataError(
            f"{what} has {count}{why}: at least two classes are needed"
            f"{', one folder each' * folders}"
        )


def check_most_classes(what: str, classes: Sequence[str]) -> None:
    """Check that there are at most `MOST_CLASSES` classes.

    Raises:
        DataError: there are more.
    """
    if len(classes) > MOST_CLASSES:
        raise DataError(
            f"{what} has {len(classes):,} classes, more than {MOST_CLASSES:,}: is the label's "
            "column the one that you mean?"
        )


def _by_turns(pool: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Shuffle so that classes alternate: any prefix is stratified and holds all smaller ones."""
    shuffled = rng.permutation(pool)
    turn = np.empty(len(shuffled), dtype=np.int64)
    for c in np.unique(y[shuffled]):
        mine = y[shuffled] == c
        turn[mine] = np.arange(mine.sum())
    return np.asarray(shuffled[np.argsort(turn, kind="stable")])


def _held_out(rows: np.ndarray, y: np.ndarray, share: float) -> tuple[np.ndarray, np.ndarray]:
    """Hold out the last `share` of every class, at least one image if the class has two."""
    held = []
    for c in np.unique(y[rows]):
        mine = rows[y[rows] == c]
        count = min(len(mine) - 1, max(1, round(share * len(mine)))) if share else 0
        held.append(mine[len(mine) - count :])
    out = np.concatenate(held)
    return rows[~np.isin(rows, out)], out


def _hold_out(
    rows: np.ndarray, y: np.ndarray, share: float, groups: np.ndarray | None, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    if groups is None or not share:
        return _held_out(rows, y, share)
    return _held_out_groups(rows, y, share, groups, seed)


def _held_out_groups(
    rows: np.ndarray, y: np.ndarray, share: float, groups: np.ndarray, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Hold out about `share` of the rows in whole groups, every class in both parts if possible."""
    count = len(np.unique(groups[rows]))
    # number of classes not held out, distance from the share, the fold
    best: tuple[int, float, np.ndarray] | None = None
    # larger parts if small ones miss a class
    for folds in range(max(2, min(round(1 / share), count)), 1, -1):
        for kept, held in _folds(rows, y, groups, folds, seed):
            trained, tested = (set(y[rows[part]].tolist()) for part in (kept, held))
            rank = len(trained - tested), abs(len(held) / len(rows) - share)
            if trained >= tested and len(held) and (best is None or rank < best[:2]):
                best = *rank, held
        if best is not None and not best[0]:
            break
    if best is None:
        raise DataError(
            f"{count} groups cannot be divided so that every class is left to train on: "
            "give a finer --group, or leave it out"
        )
    inside = np.zeros(len(rows), dtype=bool)
    inside[best[2]] = True
    return rows[~inside], rows[inside]


def _folds(
    rows: np.ndarray, y: np.ndarray, groups: np.ndarray, count: int, seed: int
) -> list[Fold]:
    """scikit-learn's stratified folds of whole groups: (kept, held out) positions in `rows`."""
    from sklearn.model_selection import StratifiedGroupKFold

    if len(np.unique(groups[rows])) < count or np.bincount(y[rows]).max() < count:
        return []
    folds = StratifiedGroupKFold(count, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # classes with fewer images than folds
        return list(folds.split(rows, y[rows], groups[rows]))


@dataclass(frozen=True, eq=False)
class Labelled:
    """Labels `(N,)` int64 and, if images come in groups, the group of each, `(N,)` int64.

    Whoever holds some of them out does it here, so that no group is on both sides.
    """

    labels: np.ndarray
    groups: np.ndarray | None = None

    @property
    def fewest(self) -> int:
        """How many labels the smallest class has; if images come in groups, how many groups."""
        labels = self.labels
        if self.groups is not None:
            labels = np.unique(np.stack([labels, self.groups]), axis=1)[0]
        return int(np.unique(labels, return_counts=True)[1].min())

    @property
    def none_held(self) -> str:
        """Why no labels can be held out where `folds` is empty, and what to give."""
        if self.groups is None or Labelled(self.labels).fewest < 2:
            return (
                "a class has a single label, so none can be held out: give two or more, "
                "%tl_data … --per-class 2"
            )
        return (
            "the groups cannot be divided so that every class is left to learn from, so none can "
            "be held out: give a finer --group, or images of more groups"
        )

    def folds(self, most: int, seed: int = 0) -> list[Fold]:
        """Stratified, shuffled folds: (rows to learn from, rows held out); empty if impossible.

        There are `most` of them, or as many as the smallest class has labels. Groups are held out
        whole, in the most folds that each leave every class to learn from.
        """
        if self.groups is not None:
            counts = range(most, 1, -1)
            return next(filter(None, (self._of_groups(count, seed) for count in counts)), [])
        count = min(most, self.fewest)
        if count < 2:
            return []
        from sklearn.model_selection import StratifiedKFold

        folds = StratifiedKFold(count, shuffle=True, random_state=seed)
        return list(folds.split(self.labels, self.labels))

    def repeated(self, most: int, repeats: int) -> list[list[Fold]]:
        """The folds of so many seeds, of those that have any."""
        return [found for seed in range(repeats) if (found := self.folds(most, seed))]

    def _of_groups(self, count: int, seed: int) -> list[Fold]:
        assert self.groups is not None
        folds = _folds(np.arange(len(self.labels)), self.labels, self.groups, count, seed)
        classes = len(np.unique(self.labels))
        left = (len(np.unique(self.labels[kept])) * bool(len(held)) for kept, held in folds)
        return folds if all(count == classes for count in left) else []


def _amount(
    pool: np.ndarray, y: np.ndarray, classes: tuple[str, ...], request: DataRequest
) -> np.ndarray:
    if request.limit:
        if request.limit < len(classes):
            raise DataError(
                f"--limit {request.limit} is less than one image for each of {len(classes)} classes"
            )
        return pool[: request.limit]
    if not request.per_class:
        return pool
    counts = np.bincount(y[pool], minlength=len(classes))
    if counts.min() < request.per_class:
        poorest = int(counts.argmin())
        raise DataError(
            f"class {classes[poorest]!r} has {counts[poorest]} images, fewer than --per-class "
            f"{request.per_class}: use --per-class {counts[poorest]} or less"
        )
    return np.concatenate([pool[y[pool] == c][: request.per_class] for c in range(len(classes))])
