"""Built-in data sets that need no files: `digits`, `symbols`, `textures` and `faces`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from tlnb.core.data.request import DataRequest, refuse
from tlnb.core.data.splits import Parts, divide

DIGITS_TEST = 700
DIGITS_MONITOR = 200
FACES_MONITOR = 40


def digits(request: DataRequest) -> Parts:
    """scikit-learn's digits, 8×8 scaled bilinearly to 24, padded to 32; the last 700 for test."""
    from sklearn.datasets import load_digits

    own_test = "has its own test split (the last 700 by file order)"
    refuse(request, "digits", classes="has ten classes", test=own_test)
    bunch = load_digits()
    grey = torch.from_numpy(bunch.images).float()[:, None] / 16
    large = torch.nn.functional.interpolate(grey, 24, mode="bilinear", align_corners=False)
    padded = torch.nn.functional.pad(large, (4, 4, 4, 4))
    images = padded.mul(255).round().byte().expand(-1, 3, -1, -1)
    labels = torch.from_numpy(bunch.target).long()
    pool, test = np.split(np.arange(len(labels)), [-DIGITS_TEST])
    names = tuple(str(d) for d in range(10))
    return divide(
        "digits",
        names,
        images,
        labels,
        request,
        pool=pool,
        fixed={"test": test},
        spare_to_monitor=DIGITS_MONITOR,
    )


def digits_pixels(images: Tensor) -> Tensor:
    """The raw 8×8 pixels `(N, 64)` in 0..1 of `digits` images: at the centres of their blocks."""
    return images[:, 0, 5:28:3, 5:28:3].flatten(1).float() / 255


def symbols(request: DataRequest) -> Parts:
    """Invented letters: by default 20 classes with 20 labels each; 50 for test, 15 for monitor."""
    from tlnb.core.data.builtin.symbols import draw_symbols, symbol_names

    own_test = "draws its own test split"
    refuse(request, "symbols", limit="draws as many as --per-class says", test=own_test)
    classes, per_class = request.classes or 20, request.per_class or 20
    amounts = ((per_class, 1000 + request.seed), (50, 1), (15, 2))  # used, test, monitor: seeds
    drawn = [draw_symbols(classes, amount, seed) for amount, seed in amounts]
    images, labels = map(torch.cat, zip(*drawn, strict=True))
    ends = np.cumsum([len(numbers) for _, numbers in drawn])
    used, test, monitor = np.split(np.arange(ends[-1]), ends[:-1])
    fixed, names = {"test": test, "monitor": monitor}, symbol_names(classes)
    return divide("symbols", names, images, labels, request, pool=used, fixed=fixed)


def textures(request: DataRequest) -> Parts:
    """Grey patches of twelve materials; those for test and monitor come from separate strips."""
    from tlnb.core.data.builtin.skimage_data import MATERIALS, texture_patches

    own_test = "has its own test split (strips of their own)"
    refuse(request, "textures", classes="has twelve classes", test=own_test)
    images, labels, rows = texture_patches()
    fixed, names = {split: rows[split] for split in ("monitor", "test")}, tuple(MATERIALS)
    return divide("textures", names, images, labels, request, pool=rows["pool"], fixed=fixed)


def faces(request: DataRequest) -> Parts:
    """Faces and backgrounds. The test split is the last thirty of each by file order."""
    from tlnb.core.data.builtin.skimage_data import NO_NAMES, face_pictures

    own_test = "has its own test split (the last 30 of each class)"
    refuse(request, "faces", classes="has two classes", test=own_test)
    images, labels, rows = face_pictures()
    parts = divide(
        "faces",
        ("background", "face"),
        images,
        labels,
        request,
        pool=rows["pool"],
        fixed={"test": rows["test"]},
        spare_to_monitor=FACES_MONITOR,
    )
    return replace(parts, notes=(NO_NAMES,))


BUNDLED: dict[str, Callable[[DataRequest], Parts]] = {
    "digits": digits,
    "symbols": symbols,
    "textures": textures,
    "faces": faces,
}
