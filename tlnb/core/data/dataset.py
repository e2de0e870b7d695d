"""Data sets: images and labels in splits, decoded once.

`open_data` is the only entry point. It turns a name, a folder or arrays into a `DataSet` whose
images are uint8 tensors, in memory or, if the images of a folder do not fit there, backed by a
file. `DataSet.request` records the options, so the same data can be read again at another size.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor

from tlnb.core.data.archive import archive_ending
from tlnb.core.data.arrays import from_arrays
from tlnb.core.data.builtin import BUNDLED
from tlnb.core.data.decoding import Progress, Telling
from tlnb.core.data.duplicates import (
    Leak,
    find_leaks,
    find_two_labels,
    series_note,
    two_labels_note,
)
from tlnb.core.data.image_loading import list_files, read_files
from tlnb.core.data.pretraining_overlap import imagenet_hint, seen_note
from tlnb.core.data.request import DataRequest, check_request, refuse
from tlnb.core.data.splits import SPLITS, Labelled, Parts
from tlnb.core.data.table import TABLES
from tlnb.core.data.torchvision_datasets import ARRAYS, LIBRARY, library_name, read_library
from tlnb.core.runtime.errors import DataError, OneLine, UsageError, did_you_mean
from tlnb.core.runtime.paths import user_path, written_beside

IN_USE = ("train", "val")  # the splits whose labels may be learned from
# Labels in the smallest class; what the limits rest on: core/planning/size_rule.py.
DECENT_FROM, A_LOT_FROM = 20, 1000
CONVENTION = (
    f"little < {DECENT_FROM} ≤ decent < {A_LOT_FROM:,} ≤ a lot, labels in the smallest class"
)
PHOTO_EDGE = 256  # photos are kept at this edge until a model asks for more
SMALLEST_PHOTO = 96  # edge below which images are treated as drawings
HASHED = 256  # images hashed at a time
REASONS = {
    "group": "has no files to group",
    "root": "does not come from torchvision",
    "classes": "has its own classes",
}


@dataclass(frozen=True, kw_only=True)
class DataFacts(OneLine):
    """What is known about a data set without its images: enough to read it again."""

    name: str
    classes: tuple[str, ...]
    splits: Mapping[str, int]
    edge: int  # of the decoded images, in pixels
    request: DataRequest
    folders: tuple[tuple[str, str], ...] = ()
    # black and white points of grey images of more than 8 bits
    values: tuple[float, float] | None = None
    transparent: bool = False  # whether images have transparent parts, now white
    own_range: bool = False  # whether integer and float images are scaled image by image

    @property
    def from_files(self) -> bool:
        """Whether the images came from files and can be decoded again at another size."""
        return self.request.source not in (*BUNDLED, *ARRAYS, "arrays")

    @property
    def plain_folder(self) -> bool:
        """Whether the images lie in class folders and were split by their labels alone."""
        source = self.request.source
        lists = source.lower().endswith(TABLES) or bool(archive_ending(Path(source)))
        plain = self.request.group is None and self.values is None and not self.own_range
        return self.from_files and not lists and source not in LIBRARY and plain

    def __repr__(self) -> str:
        images = sum(self.splits.values())
        return f"DataFacts of {self.name}: {len(self.classes)} classes, {images} images"


@dataclass(frozen=True, kw_only=True)
class DataSet(OneLine):
    """Images and labels by split.

    Training uses `train`, model selection `val`, reported figures `test`; `monitor` only draws
    curves.
    """

    name: str
    classes: tuple[str, ...]
    images: Mapping[str, Tensor] = field(repr=False)  # split → (N, 3, E, E) uint8
    labels: Mapping[str, Tensor] = field(repr=False)  # split → (N,) int64
    request: DataRequest
    skipped: tuple[str, ...] = ()
    # split → its folder, if the data folder defines splits
    folders: tuple[tuple[str, str], ...] = ()
    brought: tuple[str, ...] = ()  # splits that came with the data; the others were drawn here
    notes: tuple[str, ...] = ()  # what readers of the results should know, one sentence each
    # split → the images' file names, in order
    files: Mapping[str, tuple[str, ...]] = field(default_factory=dict, repr=False)
    groups: int | None = None  # number of groups, if groups are kept within one split
    # split → (N,) int64, if groups are kept within one split
    group_of: Mapping[str, Tensor] = field(default_factory=dict, repr=False)
    leaks: tuple[Leak, ...] = ()  # val and test images that an earlier split repeats
    two_labels: tuple[tuple[str, str], ...] = ()  # files of the same image in two classes
    source_hint: str = ""  # why ImageNet models may have seen these images
    # black and white points of grey images of more than 8 bits
    values: tuple[float, float] | None = None
    transparent: bool = False  # whether images have transparent parts, now white
    own_range: bool = False  # whether integer and float images are scaled image by image

    @property
    def splits(self) -> dict[str, int]:
        """Number of images per split."""
        return {split: len(self.labels[split]) for split in SPLITS if split in self.labels}

    def with_splits(self, taken: Mapping[str, tuple[str, Tensor | slice]]) -> DataSet:
        """Redefine the splits: new split → the split to take images from, and which of them."""
        images, labels, group_of = (
            MappingProxyType({s: held[of][rows] for s, (of, rows) in taken.items() if of in held})
            for held in (self.images, self.labels, self.group_of)
        )
        return replace(self, images=images, labels=labels, group_of=group_of)

    @property
    def labels_in_use(self) -> Tensor:
        """The labels that may be learned from, `(N,)`: those of `train`, then those of `val`."""
        return torch.cat([self.labels[s].cpu() for s in IN_USE if s in self.labels])

    @property
    def groups_in_use(self) -> Tensor | None:
        """The group of each of those labels, `(N,)`; None if images are not grouped."""
        of_splits = [self.group_of[split] for split in IN_USE if split in self.group_of]
        return torch.cat(of_splits) if of_splits else None

    @property
    def labelled(self) -> Labelled:
        """The labels in use with their groups, to hold some of them out."""
        groups = self.groups_in_use
        return Labelled(self.labels_in_use.numpy(), None if groups is None else groups.numpy())

    @property
    def counts(self) -> dict[str, int]:
        """Number of labels in use (`train` and `val`) per class."""
        found = torch.bincount(self.labels_in_use, minlength=len(self.classes)).tolist()
        return dict(zip(self.classes, found, strict=True))

    @property
    def per_class(self) -> int:
        """Number of labels in use in the smallest class."""
        return min(self.counts.values())

    @property
    def imbalance(self) -> float:
        """Ratio of the largest class's labels to the smallest's."""
        return max(self.counts.values()) / max(1, self.per_class)

    @property
    def mean_count(self) -> float:
        """Mean number of labels in use per class."""
        return sum(self.counts.values()) / len(self.classes)

    @property
    def from_files(self) -> bool:
        """Whether the images came from files and can be decoded again at another size."""
        return self.facts.from_files

    @property
    def photos(self) -> bool:
        """Whether the images came from files and are of a photograph's size."""
        return self.from_files and (self.request.size or self.edge) >= SMALLEST_PHOTO

    @property
    def size_verdict(self) -> str:
        """`little`, `decent` or `a lot`, by the smallest class."""
        return size_verdict(self.per_class)

    @property
    def edge(self) -> int:
        """Edge of the decoded images, in pixels."""
        return int(self.images["train"].shape[-1])

    @property
    def facts(self) -> DataFacts:
        """Everything but the images."""
        return DataFacts(**{each.name: getattr(self, each.name) for each in fields(DataFacts)})

    def save(self, path: str | Path) -> Path:
        """Write images and labels of every split to a `.npz` file; returns its path.

        The file holds `train_images` `(N, 3, E, E)` uint8, `train_labels` `(N,)` int64, the same
        for the other splits, and `classes`. It is written atomically.

        Raises:
            DataError: the file cannot be written.
        """
        target = user_path(path)
        arrays = {"classes": np.array(self.classes)}
        for split in self.splits:
            arrays[f"{split}_images"] = self.images[split].numpy()
            arrays[f"{split}_labels"] = self.labels[split].numpy()
        try:
            with written_beside(target) as half, half.open("wb") as file:
                np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
        except OSError as error:
            raise DataError(
                f"{str(target)!r} cannot be written ({error.strerror}): give a file in a folder "
                "that you can write to"
            ) from None
        return target

    @cached_property
    def fingerprint(self) -> str:
        """Hash of all images and labels."""
        digest = hashlib.blake2b(digest_size=8)
        for split in self.splits:
            # the images may be mapped from a file larger than memory
            for part in self.images[split].split(HASHED):
                digest.update(part.numpy().tobytes())
            digest.update(self.labels[split].numpy().tobytes())
        return digest.hexdigest()

    def __repr__(self) -> str:
        sizes = ", ".join(f"{count} {split}" for split, count in self.splits.items())
        skipped = f", {len(self.skipped)} files skipped" if self.skipped else ""
        twice = f", {len(self.leaks)} images in two splits" if self.leaks else ""
        return (
            f"DataSet {self.name}: {len(self.classes)} classes, {sizes} ({self.size_verdict} data)"
            f"{skipped}{twice}"
        )


def size_verdict(per_class: int) -> str:
    """Name an amount of labels by convention: little < 20 ≤ decent < 1,000 ≤ a lot."""
    if per_class < DECENT_FROM:
        return "little"
    return "decent" if per_class < A_LOT_FROM else "a lot"


def open_data(
    source: object,
    labels: object = None,
    request: DataRequest | None = None,
    edge: int | None = None,
    progress: Progress | None = None,
    telling: Telling | None = None,
    groups: object = None,
) -> DataSet:
    """Read a data set.

    Args:
        source: `digits`, `symbols`, `textures`, `faces`; a folder of class folders, or a .zip, .tar
            or .tgz of one; a table of paths and labels (.csv, .tsv); the name of a torchvision data
            set; or images `(N, H, W)`, `(N, H, W, 3)` or `(N, 3, H, W)` (uint8, or floats in 0..1).
        labels: `(N,)` class numbers or names, with arrays only.
        request: amounts, splits, seed.
        edge: decode photos to this edge in pixels.
        progress: called with (done, total) while files are checked and while they are decoded.
        telling: called with (`downloading` or `unpacking`, amount done, total).
        groups: `(N,)` groups, with arrays only.

    Raises:
        MemoryError, RuntimeError: memory ran out.
        DataError: the data are unknown, missing, empty, too few or unreadable, the disk is full, or
            a download failed.
        UsageError: an amount or a budget is out of range.
    """
    request = request or DataRequest(source=source if isinstance(source, str) else "arrays")
    check_request(request)
    if not isinstance(source, str | Path):
        return _looked_through(from_arrays(source, labels, request, groups), request)
    if labels is not None or groups is not None:
        raise UsageError(
            "labels and groups go with arrays only: leave them out for a name or a folder"
        )
    text = str(source)
    if text in BUNDLED:
        _refuse(request, text, "group", "root")
        return _data_set(BUNDLED[text](request), request)
    edge = edge or PHOTO_EDGE
    path, name = user_path(source), library_name(text)
    if path.exists():
        return _from_files(path, request, edge, progress, telling)
    if name is None:
        raise DataError(f"{text!r} is neither a data set nor a folder: {_instead(text)}")
    _refuse(request, name, "group", "classes")
    parts = read_library(name, request, edge, progress, telling)
    return _looked_through(parts, replace(request, source=name), photos=name not in ARRAYS)


def _from_files(
    path: Path, request: DataRequest, edge: int, progress: Progress | None, telling: Telling | None
) -> DataSet:
    _refuse(request, path.name, "root", "classes")
    listing = list_files(path, telling)
    where = listing.top if path.is_dir() else path
    if library_name(str(where)):  # it would be taken for torchvision's
        where = where.absolute()
    parts = read_files(listing, request, edge, progress)
    return _looked_through(parts, replace(request, source=str(where)))


def _refuse(request: DataRequest, name: str, *options: str) -> None:
    refuse(request, name, **{option: REASONS[option] for option in options})


def _instead(text: str) -> str:
    others = (
        f"give one of {', '.join(BUNDLED)}, a folder with one folder per class, or a torchvision "
        "data set"
    )
    return did_you_mean(text, [*BUNDLED, *LIBRARY], others)


def _looked_through(parts: Parts, request: DataRequest, photos: bool = True) -> DataSet:
    """Build the data set, noting duplicates across splits, split series and ImageNet images."""
    data = _data_set(parts, request)
    files = parts.files or {
        s: tuple(f"image {i} of {s}" for i in range(n)) for s, n in data.splits.items()
    }
    leaks = find_leaks(parts.images, files)
    two_labels = find_two_labels(parts.images, parts.labels, files)
    notes = [*parts.notes, two_labels_note(two_labels)]
    brings_test = "test" in parts.brought
    if photos and (brings_test or parts.groups is None):
        notes.append(series_note(leaks, data.splits["test"], brings_test, _grouping(request)))
    hint = imagenet_hint(
        parts.name, parts.classes, [f for names in parts.files.values() for f in names]
    )
    notes.append(seen_note(hint) if hint else "")
    return replace(
        data, notes=tuple(filter(None, notes)), leaks=leaks, two_labels=two_labels, source_hint=hint
    )


def _grouping(request: DataRequest) -> str:
    """The option that keeps related images together, for this kind of source."""
    if request.source == "arrays":
        return "tl.data(images, labels, group=GROUPS), one per image"
    start = "give the folder of its files by its path, and " if request.source in LIBRARY else ""
    return f"{start}--group REGEX-or-CSV"


def _data_set(parts: Parts, request: DataRequest) -> DataSet:
    values = {
        **vars(parts),
        "images": MappingProxyType(parts.images),
        "labels": MappingProxyType(parts.labels),
    }
    return DataSet(**values, request=request)
