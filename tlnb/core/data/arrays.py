"""Data sets given as arrays."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset

from tlnb.core.data.array_labels import label_names
from tlnb.core.data.pil_images import is_pil, pil_pixels
from tlnb.core.data.request import DataRequest, refuse
from tlnb.core.data.splits import Parts, check_classes, divide
from tlnb.core.data.table import in_order
from tlnb.core.runtime.errors import DataError, UsageError


def from_arrays(
    source: object, labels: object, request: DataRequest, groups: object = None
) -> Parts:
    """Read images in any of the usual shapes with class numbers or names `(N,)`.

    `groups`, if given, are `(N,)` too.

    Raises:
        DataError: the images have another shape, type or range, there are fewer than two classes,
            or the number of labels differs from the number of images.
        UsageError: labels are missing, or an option applies to files only.
    """
    _refuse_dataset(source)
    if labels is None:
        raise UsageError("arrays need labels: tl.data(images, labels)")
    refuse(
        request,
        "arrays",
        group="have no file names that could say it, give group= with one group per image",
        root="do not come from torchvision",
        classes="have the classes of their labels",
    )
    resized: tuple[str, ...] = ()
    if is_pil(source):
        source, resized = pil_pixels(source, request.size)  # type: ignore[arg-type]
    images, notes = _square(as_images(source))
    notes = (*resized, *notes)
    names = label_names(_plain(labels, "labels"), len(images))
    classes = in_order(set(names))
    where = {name: i for i, name in enumerate(classes)}
    targets = torch.tensor([where[n] for n in names])
    check_classes("the arrays", classes)
    numbers = None if groups is None else _group_numbers(groups, len(names))
    pool = np.arange(len(names))
    parts = divide("arrays", classes, images, targets, request, pool=pool, fixed={}, groups=numbers)
    return replace(parts, notes=notes, groups=None if numbers is None else len(np.unique(numbers)))


def _refuse_dataset(source: object) -> None:
    """Raise `UsageError` for other libraries' data sets and loaders, with the line to use."""
    kind, root = type(source).__name__, getattr(source, "root", None)
    inner = getattr(source, "dataset", None)  # of a DataLoader, a Subset, a fastai DataLoader
    if root is None and inner is not None:
        kind, root = f"{kind} of a {type(inner).__name__}", getattr(inner, "root", None)
    if isinstance(source, list | tuple) and source and isinstance(source[0], str | Path):
        raise UsageError(
            "a list of files is not read: give a CSV file with the columns path and label instead"
        )
    remedy = ""
    if isinstance(root, str | Path) and not isinstance(source, str | Path):
        remedy = f"the folder that it reads itself, {_line_for(root, source, inner)}"
    elif line := _line_of_tensors(source, inner):
        remedy = f"its images and labels, {line}"
    elif hasattr(source, "features") and hasattr(source, "column_names"):
        remedy = "its images and labels, tl.data(list(d['image']), d['label'])"
    elif hasattr(source, "to_csv"):
        raise UsageError(
            f"a {kind} is not read: write it to a file, table.to_csv('labels.csv', index=False), "
            "and use tl.data('labels.csv')"
        )
    elif isinstance(source, Dataset | DataLoader) or hasattr(source, "features"):
        remedy = "a folder of class folders, or arrays, tl.data(images, labels)"
    if remedy:
        raise UsageError(f"a {kind} is not read: give {remedy}")


def _line_for(root: str | Path, source: object, inner: object) -> str:
    """The call that reads the folder of a torchvision data set."""
    if hasattr(source, "samples") or hasattr(inner, "samples"):
        return f"tl.data({str(root)!r})"
    return f"tl.data({type(inner or source).__name__!r}, root={str(root)!r})"


def _line_of_tensors(source: object, inner: object) -> str:
    """The call that reads a `TensorDataset` or a loader of one; empty for anything else."""
    tensors = getattr(source if inner is None else inner, "tensors", ())
    if not isinstance(source, Dataset | DataLoader) or len(tensors) != 2 or _is_subset(source):
        return ""
    of = "loader.dataset" if isinstance(source, DataLoader) else "dataset"
    return f"tl.data(*{of}.tensors)"


def _is_subset(source: object) -> bool:
    """Whether a data set, or the data set of a loader, is a torch `Subset`."""
    return isinstance(source, Subset) or isinstance(getattr(source, "dataset", None), Subset)


def _square(images: Tensor) -> tuple[Tensor, tuple[str, ...]]:
    """Crop images `(N, 3, H, W)` to their centre squares, as photos are; a note if that cut any."""
    height, width = images.shape[-2:]
    if height == width:
        return images, ()
    edge = min(height, width)
    top, left = (height - edge) // 2, (width - edge) // 2
    cut = images[..., top : top + edge, left : left + edge]
    note = f"images of {height} × {width} pixels are cropped to their centre {edge} × {edge}"
    return cut, (note,)


def _group_numbers(groups: object, count: int) -> np.ndarray:
    names = [str(group) for group in _plain(groups, "groups").ravel().tolist()]
    if len(names) != count:
        raise DataError(f"{count} images but {len(names)} groups: give one group per image")
    return np.unique(names, return_inverse=True)[1].astype(np.int64)


def as_images(source: object) -> Tensor:
    """Images in any of the usual shapes as `(N, 3, H, W)` uint8; a view for grey images.

    A fourth channel is taken as opacity, and images are blended onto white.

    Raises:
        DataError: the shape is another, or the values are not numbers in 0..255 (floats: 0..1).
    """
    pixels = _plain(source, "images")
    if pixels.ndim == 3:
        pixels = pixels[..., None]
    if pixels.ndim != 4:
        raise DataError(
            f"images have shape {pixels.shape}: give (N, H, W), (N, H, W, 3) or (N, 3, H, W)"
            f"{_unrolled(pixels.shape)}"
        )
    if pixels.shape[1] not in (1, 3) and (pixels.shape[-1] in (1, 3) or pixels.shape[1] != 4):
        pixels = np.moveaxis(pixels, -1, 1)
    if pixels.shape[1] not in (1, 3, 4):
        raise DataError(
            f"images have {pixels.shape[1]} channels: give grey (1), RGB (3) or RGBA (4)"
        )
    if not pixels.size:
        raise DataError(f"images have shape {pixels.shape}, which holds no pixels: give some")
    ready = _bytes(pixels)
    colours = torch.from_numpy(_on_white(ready) if ready.shape[1] == 4 else ready)
    return colours.expand(-1, 3, -1, -1)  # splitting copies


def _unrolled(shape: tuple[int, ...]) -> str:
    """The call that turns rows of pixels into images, if the rows are squares."""
    edge = math.isqrt(shape[1]) if len(shape) == 2 else 0
    return f", images.reshape(-1, {edge}, {edge})" if edge > 1 and edge**2 == shape[1] else ""


def _on_white(pixels: np.ndarray) -> np.ndarray:
    """Blend RGBA images `(N, 4, H, W)` onto white as RGB."""
    colours, opacity = pixels[:, :3].astype(np.float32), pixels[:, 3:].astype(np.float32) / 255
    return np.asarray((colours * opacity + 255 * (1 - opacity)).round().astype(np.uint8))


def _bytes(pixels: np.ndarray) -> np.ndarray:
    """Convert pixels to uint8 in 0..255; returns the same array if it already is."""
    if pixels.dtype.kind not in "buif":
        raise DataError(
            f"images are of type {pixels.dtype}: give whole numbers in 0..255, or floats in 0..1"
        )
    whole, least, most = pixels.dtype.kind in "ui", pixels.min(), pixels.max()
    top = 255 if whole else 1
    if not (least >= 0 and most <= top):  # NaN fails both comparisons
        scale = "divide them by their largest value for floats in 0..1"
        if not whole:
            scale = _float_remedy(float(least), float(most))
        raise DataError(
            f"{'whole' if whole else 'float'} images must lie in 0..{top}, these lie in "
            f"{least:g}..{most:g}: {scale}"
        )
    if whole and most == 1:
        raise DataError(
            "whole images must lie in 0..255, these lie in 0..1: all but black, give images * 255"
        )
    scaled = pixels if whole else np.round(pixels.astype(np.float32) * 255)
    return np.require(scaled, np.uint8, ["C"])


def _float_remedy(least: float, most: float) -> str:
    if -1 <= least < 0 and most <= 1:
        return "these look like -1..1, give (images + 1) / 2"
    if least < 0:
        return (
            "they look standardised, give them as they were before, or "
            "(images - images.min()) / np.ptp(images)"
        )
    if most <= 128:
        return f"divide by their largest value, {most:g}"
    return "divide by 255, or give uint8"


def _plain(values: object, what: str) -> np.ndarray:
    """Convert anything array-like to a NumPy array."""
    if isinstance(values, list | tuple) and values and all(isinstance(v, Tensor) for v in values):
        values = [_of_tensor(v) for v in values]
    if isinstance(values, np.ndarray) and values.dtype == object and values.ndim == 1:
        values = values.tolist()  # an array of arrays
    try:
        return _of_tensor(values) if isinstance(values, Tensor) else np.asarray(values)
    except (ValueError, TypeError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:80]
        raise DataError(
            f"the {what} cannot be read as an array ({reason}): give all of them the same shape"
        ) from None


def _of_tensor(values: Tensor) -> np.ndarray:
    """Convert a tensor of any kind: NumPy lacks bf16 and rejects CUDA and autograd tensors."""
    plain = values.detach().cpu()
    if plain.dtype == torch.bfloat16:
        plain = plain.float()
    return plain.resolve_conj().resolve_neg().numpy()
