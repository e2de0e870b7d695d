"""Data sets: images and labels in splits, decoded once.

`open_data` is the one way in. It turns a name, a folder or arrays into a `DataSet` whose images are uint8 tensors, in
memory or, where the images of a folder do not fit there, backed by a file. What was asked for is kept
(`DataSet.request`), so that the same data can be read again at another size.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor

from tlnb.core.arrays import from_arrays
from tlnb.core.bundled import BUNDLED
from tlnb.core.decoding import Progress
from tlnb.core.errors import DataError, UsageError
from tlnb.core.folders import read_folder
from tlnb.core.request import DataRequest, check_request
from tlnb.core.splits import SPLITS, Parts

LITTLE, DECENT = 100, 1000  # images per class: little < 100 <= decent < 1,000 <= a lot
PHOTO_EDGE = 256  # photos are kept at this edge until a model asks for more
HASHED = 256  # images at a time


@dataclass(frozen=True)
class DataFacts:
    """What is known of a data set without its images: enough to read the same again."""

    name: str
    classes: tuple[str, ...]
    splits: Mapping[str, int]
    edge: int  # of the decoded images, in pixels
    request: DataRequest
    folders: tuple[tuple[str, str], ...] = ()

    @property
    def from_files(self) -> bool:
        """Whether the images were decoded from files, and can be decoded again at another size."""
        return self.request.source not in (*BUNDLED, "arrays")

    def __repr__(self) -> str:
        return f"DataFacts of {self.name}: {len(self.classes)} classes, {sum(self.splits.values())} images"


@dataclass(frozen=True)
class DataSet:
    """Images and labels by split. `train` teaches, `val` chooses, `test` is reported, `monitor` only draws curves."""

    name: str
    classes: tuple[str, ...]
    images: Mapping[str, Tensor] = field(repr=False)  # split → (N, 3, E, E) uint8
    labels: Mapping[str, Tensor] = field(repr=False)  # split → (N,) int64
    request: DataRequest
    skipped: tuple[str, ...] = ()
    folders: tuple[tuple[str, str], ...] = ()  # split → the folder it was read from, where a folder brings its own
    notes: tuple[str, ...] = ()  # what a reader of the results should know, a sentence each

    @property
    def splits(self) -> dict[str, int]:
        """How many images each split has."""
        return {split: len(self.labels[split]) for split in SPLITS if split in self.labels}

    @property
    def counts(self) -> dict[str, int]:
        """Labels in use (`train` and `val`) by class."""
        used = torch.cat([self.labels[s] for s in ("train", "val") if s in self.labels])
        found = torch.bincount(used, minlength=len(self.classes)).tolist()
        return dict(zip(self.classes, found, strict=True))

    @property
    def per_class(self) -> int:
        """Labels in use in the smallest class."""
        return min(self.counts.values())

    @property
    def mean_count(self) -> float:
        """Labels in use per class, on average."""
        return sum(self.counts.values()) / len(self.classes)

    @property
    def from_files(self) -> bool:
        """Whether the images were decoded from files, and can be decoded again at another size."""
        return self.facts.from_files

    @property
    def size_verdict(self) -> str:
        """`little`, `decent` or `a lot`."""
        return size_verdict(self.mean_count)

    @property
    def edge(self) -> int:
        """Edge of the decoded images in pixels."""
        return int(self.images["train"].shape[-1])

    @property
    def facts(self) -> DataFacts:
        """Everything but the images."""
        return DataFacts(self.name, self.classes, self.splits, self.edge, self.request, self.folders)

    def save(self, path: str | Path) -> Path:
        """Write images and labels of every split to a `.npz` file that NumPy reads; returns its path.

        It holds `train_images` `(N, 3, E, E)` uint8, `train_labels` `(N,)` int64, the same for the other splits, and
        `classes`. The file appears whole or not at all.
        """
        target = Path(path).expanduser()
        arrays = {"classes": np.array(self.classes)}
        for split in self.splits:
            arrays[f"{split}_images"] = self.images[split].numpy()
            arrays[f"{split}_labels"] = self.labels[split].numpy()
        unfinished = target.with_name(target.name + ".part")
        try:
            with unfinished.open("wb") as file:
                np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
            unfinished.replace(target)
        except OSError as error:
            raise DataError(
                f"{str(target)!r} cannot be written ({error.strerror}): give a file in a folder of yours"
            ) from None
        finally:
            unfinished.unlink(missing_ok=True)
        return target

    @cached_property
    def fingerprint(self) -> str:
        """Hash of all images and labels."""
        digest = hashlib.blake2b(digest_size=8)
        for split in self.splits:
            for part in self.images[split].split(HASHED):  # they may lie in a file larger than memory
                digest.update(part.numpy().tobytes())
            digest.update(self.labels[split].numpy().tobytes())
        return digest.hexdigest()

    def __repr__(self) -> str:
        sizes = ", ".join(f"{count} {split}" for split, count in self.splits.items())
        skipped = f", {len(self.skipped)} files skipped" if self.skipped else ""
        return f"DataSet {self.name}: {len(self.classes)} classes, {sizes} ({self.size_verdict} data){skipped}"


def size_verdict(images_per_class: float) -> str:
    """How much data that is: a convention (little < 100 ≤ decent < 1,000 ≤ a lot), not a law of nature."""
    if images_per_class < LITTLE:
        return "little"
    return "decent" if images_per_class < DECENT else "a lot"


def open_data(
    source: object, labels: object = None, request: DataRequest | None = None, edge: int | None = None,
    progress: Progress | None = None,
) -> DataSet:  # fmt: skip
    """Read a data set.

    Args:
        source: `digits`, `symbols`, `textures`, `faces`, a folder of class folders, or images `(N, H, W)`,
            `(N, H, W, 3)` or `(N, 3, H, W)` (uint8, or floats in 0..1).
        labels: `(N,)` class numbers or names, with arrays only.
        request: amounts, splits, seed.
        edge: decode photos to this edge in pixels.
        progress: called with (done, total) while files are decoded.

    Raises:
        DataError: unknown, missing, empty, too little, or unreadable data; no room for it.
        UsageError: an amount or a budget that makes no sense.
    """
    request = request or DataRequest(source if isinstance(source, str) else "arrays")
    check_request(request)
    if not isinstance(source, str | Path):
        return _data_set(from_arrays(source, labels, request), request)
    if labels is not None:
        raise UsageError("labels go with arrays only: leave them out for a name or a folder")
    if str(source) in BUNDLED:
        return _data_set(BUNDLED[str(source)](request), request)
    folder = Path(source).expanduser()
    return _data_set(read_folder(folder, request, edge or PHOTO_EDGE, progress), replace(request, source=str(folder)))


def _data_set(parts: Parts, request: DataRequest) -> DataSet:
    images, labels = MappingProxyType(parts.images), MappingProxyType(parts.labels)
    return DataSet(parts.name, parts.classes, images, labels, request, parts.skipped, parts.folders, parts.notes)
