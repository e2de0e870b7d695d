"""Labels of images that come as arrays: numbers, names, a row of zeros and a one for each image."""

from __future__ import annotations

import numpy as np

from tlnb.core.runtime.errors import DataError, one_line


def label_names(labels: np.ndarray, count: int) -> list[str]:
    """The class name of each image.

    Args:
        labels: `(N,)` or `(N, 1)` numbers or names, or `(N, classes)` with a one in the column of each image's class.
        count: of the images.

    Raises:
        DataError: another number of labels; several for an image; one that is missing.
    """
    if labels.ndim == 2 and labels.shape[1] > 1 and len(labels) == count:
        labels = _of_columns(labels)
    values = labels.ravel().tolist()
    if len(values) != count:
        raise DataError(f"{count} images but {len(values)} labels: give one label an image")
    missing = [i for i, value in enumerate(values) if value is None or value != value]
    if missing:
        raise DataError(
            f"label {missing[0]} is {values[missing[0]]}, and {len(missing)} of {count} are: leave out the images without one"
        )
    whole = all(isinstance(value, float) and value.is_integer() for value in values)
    return [one_line(_name(int(value) if whole else value)) for value in values]


def _name(value: object) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _of_columns(labels: np.ndarray) -> np.ndarray:
    """The number of the column that holds the one, for each row."""
    numbers = labels.dtype.kind in "buif"
    if not numbers or not np.isin(labels, (0, 1)).all():
        raise DataError(
            f"labels of shape {labels.shape} that are not zeros and ones: give one label an image, "
            "labels.argmax(1) where they are probabilities"
        )
    ones = labels.sum(1)
    if (ones != 1).any():
        row = int(np.flatnonzero(ones != 1)[0])
        raise DataError(
            f"image {row} has {int(ones[row])} labels: give one label an image, more than one is not learned here"
        )
    return np.asarray(labels.argmax(1))
