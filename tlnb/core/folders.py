"""Data from a folder of class folders: what lies there, decoded once, in memory or, where that is too small, in files.

The splits are decided before anything is decoded, as if every file could be read, so that the images of a split are
written next to each other in the first place. Only where some file turns out to be unreadable, or another choice of the
same files was decoded earlier, are images moved.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tlnb.core.bundled import BUNDLED
from tlnb.core.decoding import Progress, decode_each, extensions
from tlnb.core.errors import DataError, did_you_mean, listed
from tlnb.core.image_cache import Decoded, ImageCache, Unreadable, image_cache
from tlnb.core.memory import memory_budget
from tlnb.core.request import DataRequest
from tlnb.core.splits import Parts, Rows, check_classes, split_rows

SPARSE = 2  # images that are not used are dropped from memory where they are more than one in so many


@dataclass
class _Listing:
    """The image files of a folder: their paths, splits and class numbers, and what else lies there."""

    folder: Path
    parts: dict[str, Path]
    classes: tuple[str, ...]
    skipped: list[str]
    paths: list[Path] = field(default_factory=list)
    split_of: list[str] = field(default_factory=list)
    class_of: list[int] = field(default_factory=list)


def read_folder(folder: Path, request: DataRequest, edge: int, progress: Progress | None) -> Parts:
    """Images and labels of a folder, or of its `train`, `val` and `test` folders where it has those.

    Args:
        edge: of the decoded images, in pixels.
        progress: called with (done, total) while files are decoded.

    Raises:
        DataError: a missing or empty folder, one class, too few images, none that can be read, no room on the disk.
        UsageError: a budget in `TLNB_MEMORY` or `TLNB_DISK` that makes no sense.
    """
    found = _listing(folder)
    rows = _rows(found, request, {})
    order = _order(rows, np.arange(len(found.paths)), {})
    budget = memory_budget()
    cache = image_cache(found.paths, edge) if len(order) * 3 * edge**2 > budget else None
    decoded = _decoded(found.paths, order, edge, cache, progress)
    unreadable = decoded.unreadable
    reasons = [f"{Path(*found.paths[i].parts[-2:])}: {why}" for i, why in sorted(unreadable.items())]
    if len(reasons) == len(found.paths):
        raise DataError(f"none of the {len(reasons)} images could be read: {listed(reasons, 1)}")
    if unreadable:
        rows = _rows(found, request, unreadable)
    labels = torch.tensor(found.class_of)
    return Parts(
        folder.resolve().name, found.classes, _divided(decoded, rows, cache, budget),
        {split: labels[torch.from_numpy(part)] for split, part in rows.items()},
        (*found.skipped, *reasons), _folders(found, unreadable),
    )  # fmt: skip


# ── what lies there ───────────────────────────────────────────────────────────────────────────────────────────────


def _listing(folder: Path) -> _Listing:
    _check_folder(folder)
    parts = _split_folders(folder)
    files, skipped = _list_files(folder, parts)
    classes = tuple(sorted(files.get("train", files.get("", {}))))
    check_classes(f"folder {str(folder)!r}", classes)
    found = _Listing(folder, parts, classes, skipped)
    for split, by_class in files.items():
        for name in filter(classes.__contains__, by_class):
            found.paths += by_class[name]
            found.split_of += [split] * len(by_class[name])
            found.class_of += [classes.index(name)] * len(by_class[name])
    return found


def _check_folder(folder: Path) -> None:
    if folder.is_dir():
        return
    if folder.exists():
        raise DataError(f"{str(folder)!r} is a file: give the folder that holds one folder per class")
    near = did_you_mean(
        str(folder), BUNDLED, f"give one of {', '.join(BUNDLED)}, or a folder with one folder per class"
    )
    raise DataError(f"no data set and no folder is called {str(folder)!r}: {near}")


def _split_folders(folder: Path) -> dict[str, Path]:
    """The folder of each split; the split of a flat folder is the empty string."""
    names = {p.name.lower(): p for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")}
    split_of = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
    parts = {split_of[n]: p for n, p in names.items() if n in split_of}
    return {"": folder} if "train" not in parts or len(parts) < len(names) else parts


def _list_files(folder: Path, parts: Mapping[str, Path]) -> tuple[dict[str, dict[str, list[Path]]], list[str]]:
    """Image files by split and class, and what else lies there."""
    files: dict[str, dict[str, list[Path]]] = {}
    skipped: list[str] = []
    endings = extensions()
    for split, top in parts.items():
        for sub in sorted(p for p in top.iterdir() if p.is_dir() and not p.name.startswith(".")):
            found = [p for p in sorted(sub.rglob("*")) if p.is_file()]
            good = [p for p in found if p.suffix.lower() in endings and not p.name.startswith(".")]
            others = set(found) - set(good)
            skipped += [f"{p.relative_to(folder)}: {_why_not(p)}" for p in found if p in others]
            if good:
                files.setdefault(split, {})[sub.name] = good
    return files, skipped


def _why_not(path: Path) -> str:
    return "hidden file" if path.name.startswith(".") else f"not an image type ({path.suffix or 'no extension'})"


# ── which images go where ─────────────────────────────────────────────────────────────────────────────────────────


def _rows(found: _Listing, request: DataRequest, unreadable: Unreadable) -> Rows:
    """The numbers of the files of each split, chosen from the readable ones."""
    fixed = _brought(found, unreadable)
    pool = fixed.pop("train")
    return split_rows(found.folder.resolve().name, found.classes, np.array(found.class_of), request, pool, fixed)


def _brought(found: _Listing, unreadable: Unreadable) -> Rows:
    """The readable files of each split that the folder brings; all of a flat folder may be trained on."""
    where = np.array(found.split_of)
    readable = ~np.isin(np.arange(len(where)), list(unreadable))
    rows = {"train": np.flatnonzero(((where == "train") | (where == "")) & readable)}
    rows |= {s: np.flatnonzero((where == s) & readable) for s in ("val", "test") if (readable & (where == s)).any()}
    if "val" in rows and "test" not in rows:  # train/ and val/ alone: as in the well-known tutorial, val is the test
        rows["test"] = rows.pop("val")
    return rows


def _folders(found: _Listing, unreadable: Unreadable) -> tuple[tuple[str, str], ...]:
    """Split → the folder it was read from, where a folder brings its own."""
    if "train" not in found.parts:
        return ()
    brought = _brought(found, unreadable).items()
    return tuple((split, found.parts[found.split_of[rows[0]]].name) for split, rows in brought)


def _order(rows: Rows, files: np.ndarray, unreadable: Unreadable) -> np.ndarray:
    """The readable ones of `files`, those of a split next to each other, unused ones last."""
    used = np.concatenate(list(rows.values()))
    rest = files[~np.isin(files, [*used, *unreadable])]
    return np.concatenate([used, rest]).astype(np.int64)


# ── decoding and dividing ─────────────────────────────────────────────────────────────────────────────────────────


def _decoded(
    paths: Sequence[Path], order: np.ndarray, edge: int, cache: ImageCache | None, progress: Progress | None
) -> Decoded:
    """All files, in memory, or with a cache in a file, where they may lie already."""
    if cache is not None and (known := cache.find(order)):
        return known
    unreadable: Unreadable = {}
    images = _images(paths, order, edge, progress, unreadable)
    if cache is not None:
        return cache.write(order, edge, images, unreadable)
    held = torch.empty((len(order), 3, edge, edge), dtype=torch.uint8)
    for row, image in enumerate(images):
        held[row] = image
    return Decoded(held, order, unreadable)


def _images(
    paths: Sequence[Path], order: np.ndarray, edge: int, progress: Progress | None, unreadable: Unreadable
) -> Iterator[Tensor]:
    """Every file decoded; a black image stands for what is unreadable, which is noted."""
    for number, image in zip(order.tolist(), decode_each([paths[i] for i in order], edge, progress), strict=True):
        if isinstance(image, str):
            unreadable[number] = image
            yield torch.zeros((3, edge, edge), dtype=torch.uint8)
        else:
            yield image


def _divided(decoded: Decoded, rows: Rows, cache: ImageCache | None, budget: int) -> dict[str, Tensor]:
    """The images of each split: views of what was decoded where they lie side by side, else copies in memory."""
    used = sum(map(len, rows.values()))
    size = decoded.images[0].numel()
    if cache is not None and used * size > budget:
        decoded = _side_by_side(decoded, rows, cache)
        return _views(decoded, rows)
    if cache is None and _lies_side_by_side(decoded, rows) and used * SPARSE >= len(decoded.order):
        return _views(decoded, rows)
    return {split: decoded.images[torch.from_numpy(part)] for split, part in _places(decoded, rows).items()}


def _side_by_side(decoded: Decoded, rows: Rows, cache: ImageCache) -> Decoded:
    """The same images in a file in which those of a split lie side by side."""
    if _lies_side_by_side(decoded, rows):
        return decoded
    order = _order(rows, np.sort(decoded.order), decoded.unreadable)
    moved = (decoded.images[place] for place in _places(decoded, {"": order})[""].tolist())
    return cache.find(order, just_this=True) or cache.write(order, decoded.images.shape[-1], moved, decoded.unreadable)


def _lies_side_by_side(decoded: Decoded, rows: Rows) -> bool:
    return all((np.diff(places) == 1).all() for places in _places(decoded, rows).values())


def _views(decoded: Decoded, rows: Rows) -> dict[str, Tensor]:
    return {s: decoded.images[places[0] : places[-1] + 1] for s, places in _places(decoded, rows).items()}


def _places(decoded: Decoded, rows: Rows) -> Rows:
    """Where the images of these files lie."""
    place = np.empty(decoded.order.max() + 1, dtype=np.int64)
    place[decoded.order] = np.arange(len(decoded.order))
    return {split: place[part] for split, part in rows.items()}
