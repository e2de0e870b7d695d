"""Labels of images given as arrays: numbers, names, or one-hot rows."""

from __future__ import annotations

import numpy as np

from tlnb.core.runtime.errors import DataError, one_line


def label_names(labels: np.ndarray, count: int) -> list[str]:
    """Return the class name of each image.

    Args:
        labels: `(N,)` or `(N, 1)` numbers or names, or one-hot rows `(N, classes)`.
        count: number of images.

    Raises:
        DataError: the number of labels differs from the number of images, an image has several
            labels, or a label is missing.
    """
    if labels.ndim == 2 and labels.shape[1] > 1 and len(labels) == count:
        labels = _of_columns(labels)
    values = labels.ravel().tolist()
    if len(values) != count:
        raise DataError(f"{count} images but {len(values)} labels: give one label per image")
    missing = [i for i, value in enumerate(values) if value is None or value != value]
    if missing:
        raise DataError(
            f"label {missing[0]} is {values[missing[0]]}, and {len(missing)} of {count} are: "
            "leave out the images without a label"
        )
    whole = all(isinstance(value, float) and value.is_integer() for value in values)
    return [one_line(_name(int(value) if whole else value)) for value in values]


def _name(value: object) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _of_columns(labels: np.ndarray) -> np.ndarray:
    """The class number of each one-hot row."""
    numbers = labels.dtype.kind in "buif"
    if not numbers or not np.isin(labels, (0, 1)).all():
        raise DataError(
            f"labels of shape {labels.shape} must be zeros and ones: give one label per image, "
            "labels.argmax(1) if they are probabilities"
        )
    ones = labels.sum(1)
    if (ones != 1).any():
        row = int(np.flatnonzero(ones != 1)[0])
        raise DataError(
            f"image {row} has {int(ones[row])} labels: give one label per image, since "
            "multi-label classification is not supported"
        )
    return np.asarray(labels.argmax(1))
