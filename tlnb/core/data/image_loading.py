"""Load data from image files: decoded once, in memory or, if that is too small, in a file.

The splits are chosen before anything is decoded, as if every file could be read: the images of a
split are then written next to each other, and only files in use are decoded. If only some files are
used, or they are cached in a file, files that are plainly not images are first found by their first
and last bytes. If a file turns out to be unreadable only when decoded, the splits are chosen again
without it and the images are rearranged.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tlnb.core.data.archive import archive_ending, unpacked
from tlnb.core.data.decoding import Progress, Telling, Values, decode_each, look_over
from tlnb.core.data.duplicates import shared_groups
from tlnb.core.data.groups import group_files, group_numbers
from tlnb.core.data.image_cache import Decoded, ImageCache, Unreadable, image_cache
from tlnb.core.data.image_listing import Listing, list_folder
from tlnb.core.data.pixel_survey import survey
from tlnb.core.data.request import DataRequest
from tlnb.core.data.splits import SPLITS, Parts, Rows, by_split, split_rows
from tlnb.core.data.table import TABLES, list_table
from tlnb.core.runtime.errors import DataError, listed, one_line
from tlnb.core.runtime.limits import memory_budget
from tlnb.core.runtime.paths import is_file


def list_files(source: Path, telling: Telling | None = None) -> Listing:
    """List the image files of a folder, an archive (.zip, .tar, .tgz) or a table (.csv, .tsv).

    Raises:
        DataError: another kind of file, a damaged archive, or no classes.
    """
    if source.is_dir():
        return list_folder(source)
    if source.suffix.lower() in TABLES:
        return list_table(source)
    ending = archive_ending(source) if is_file(source) else ""
    if not ending:
        raise DataError(
            f"{str(source)!r} is a file: give a folder with one folder per class, a .zip, .tar or "
            ".tgz of one, or a table of paths and labels (.csv, .tsv)"
        )
    folder, refused = unpacked(source, telling)
    listing = list_folder(folder, one_line(source.name), refused)
    listing.name = one_line(source.name[: -len(ending)])
    return listing


@dataclass(frozen=True, kw_only=True)
class _Reading:
    listing: Listing
    request: DataRequest
    edge: int  # of the decoded images, in pixels
    values: Values | None  # the range of the files' values, if it is above 8 bits
    progress: Progress | None

    def rows(self, unreadable: Unreadable) -> Rows:
        return _rows(self.listing, self.request, unreadable)


def read_files(
    listing: Listing, request: DataRequest, edge: int, progress: Progress | None = None
) -> Parts:
    """Read images and labels of the files in a listing.

    Args:
        edge: of the decoded images, in pixels.
        progress: called with (done, total) while files are checked, if they are, and while they are
            decoded.

    Raises:
        MemoryError, RuntimeError: memory ran out.
        DataError: there are too few images or groups, no image can be read, or the disk is full.
        UsageError: a budget in `TLNB_MEMORY` or `TLNB_DISK`, or the pattern of groups, is invalid.
    """
    if request.group is not None:
        listing = group_files(listing, request.group)
    unreadable: Unreadable = {}
    rows, seen = _rows(listing, request, unreadable), survey(listing.paths)
    cached = _count(rows) * 3 * edge**2 > memory_budget()
    if cached or _count(rows) < len(listing.paths):
        unreadable |= look_over(listing.paths, progress)
        rows = _rows(listing, request, unreadable)
    reading = _Reading(
        listing=listing, request=request, edge=edge, values=seen.values, progress=progress
    )
    rows, images = (_in_file if cached else _in_memory)(reading, rows, unreadable)
    labels = torch.tensor(listing.class_of)
    return Parts(
        name=listing.name,
        classes=listing.classes,
        images=images,
        labels={split: labels[torch.from_numpy(part)] for split, part in rows.items()},
        skipped=(*listing.skipped, *_reasons(listing, unreadable)),
        folders=_folders(listing, rows),
        files={s: tuple(listing.shown(i) for i in part.tolist()) for s, part in rows.items()},
        groups=_groups(listing, unreadable),
        group_of=by_split(rows, _group_numbers(listing)),
        notes=(*_notes(listing, rows), *seen.notes),
        brought=tuple(s for s in _brought(listing, unreadable) if s != "train"),
        values=seen.values,
        transparent=seen.transparent,
        own_range=seen.own_range,
    )


def _count(rows: Rows) -> int:
    return sum(map(len, rows.values()))


def _reasons(listing: Listing, unreadable: Unreadable) -> list[str]:
    return [f"{listing.shown(i)}: {why}" for i, why in sorted(unreadable.items())]


def _groups(listing: Listing, unreadable: Unreadable) -> int | None:
    """Number of groups among the readable files; None if files are not grouped."""
    if listing.group_of is None:
        return None
    return len({group for number, group in enumerate(listing.group_of) if number not in unreadable})


def _group_numbers(listing: Listing) -> np.ndarray | None:
    return None if listing.group_of is None else group_numbers(listing.group_of)


def _notes(listing: Listing, rows: Rows) -> tuple[str, ...]:
    shared = 0 if listing.group_of is None else shared_groups(rows, group_numbers(listing.group_of))
    between = f"{shared} groups lie in more than one of the splits that came with the data"
    return (*listing.notes, *[between] * bool(shared), *_untested(listing, rows))


def _untested(listing: Listing, rows: Rows) -> list[str]:
    """A note about classes without test images, whose accuracy stays unknown."""
    tested = {listing.class_of[i] for i in rows["test"].tolist()}
    missing = [name for number, name in enumerate(listing.classes) if number not in tested]
    note = f"no test images for {listed(missing, 6)}: the accuracy does not cover them"
    return [note] * bool(missing)


# ── which images go where ─────────────────────────────────────────────────────────────────────────


def _rows(listing: Listing, request: DataRequest, unreadable: Unreadable) -> Rows:
    """The file numbers of each split, chosen from the readable files."""
    if len(unreadable) == len(listing.paths):
        reasons = _reasons(listing, unreadable)
        raise DataError(f"none of the {len(reasons)} images could be read: {listed(reasons, 1)}")
    fixed = _brought(listing, unreadable)
    pool = fixed.pop("train")
    groups = _group_numbers(listing)
    try:
        name, classes, y = listing.name, listing.classes, np.array(listing.class_of)
        return split_rows(name, classes, y, request, pool=pool, fixed=fixed, groups=groups)
    except DataError as error:
        if not unreadable:
            raise
        raise DataError(f"{error} (not read: {listed(_reasons(listing, unreadable), 1)})") from None


def _brought(listing: Listing, unreadable: Unreadable) -> Rows:
    """The readable files of the splits that came with the data; those without one may train."""
    where = np.array(listing.split_of)
    readable = ~np.isin(np.arange(len(where)), list(unreadable))
    rows = {"train": np.flatnonzero(((where == "train") | (where == "")) & readable)}
    held_out = {split: np.flatnonzero((where == split) & readable) for split in ("val", "test")}
    rows |= {split: part for split, part in held_out.items() if len(part)}
    # with train and val alone, val is the test, as in the well-known tutorial
    if "val" in rows and "test" not in rows:
        rows["test"] = rows.pop("val")
    return rows


def _folders(listing: Listing, rows: Rows) -> tuple[tuple[str, str], ...]:
    """Split → the folder it was read from, if the data folder defines splits."""
    where = {split: listing.split_of[part[0]] for split, part in rows.items()}
    if "train" not in listing.parts:
        return ()
    own = {"train": "train"} | {s: w for s, w in where.items() if w != "train"}
    paths = {split: listing.parts[name].relative_to(listing.top) for split, name in own.items()}
    return tuple((split, path.as_posix()) for split, path in paths.items())


# ── decoding ──────────────────────────────────────────────────────────────────────────────────────


def _in_memory(
    reading: _Reading, rows: Rows, unreadable: Unreadable
) -> tuple[Rows, dict[str, Tensor]]:
    """The splits and their images, views of one tensor; unreadable files go to `unreadable`."""
    order = _order(rows)
    held = torch.empty((len(order), 3, reading.edge, reading.edge), dtype=torch.uint8)
    for row, image in enumerate(_images(reading, order, unreadable)):
        held[row] = image
    if not np.isin(order, list(unreadable)).any():
        return rows, _views(held, rows)
    while np.isin(_order(rows), list(unreadable)).any():
        rows = reading.rows(unreadable)
        missing = np.setdiff1d(_order(rows), order)
        if len(missing):
            more = list(_images(replace(reading, progress=None), missing, unreadable))
            order, held = np.concatenate([order, missing]), torch.cat([held, torch.stack(more)])
    _move(held, order, _order(rows))
    return rows, _views(held, rows)


def _move(held: Tensor, order: np.ndarray, wanted: np.ndarray) -> None:
    """Permute rows in place, without a second copy: those `wanted` first, in that order."""
    behind = order[~np.isin(order, wanted)]
    place = {number: row for row, number in enumerate(order.tolist())}
    source = [place[number] for number in [*wanted.tolist(), *behind.tolist()]]
    for start in range(len(source)):
        if source[start] == start:
            continue
        first, row = held[start].clone(), start
        while source[row] != start:
            held[row] = held[source[row]]
            source[row], row = row, source[row]
        held[row], source[row] = first, row


def _in_file(
    reading: _Reading, rows: Rows, unreadable: Unreadable
) -> tuple[Rows, dict[str, Tensor]]:
    """As `_in_memory`, but with images in a cache file, which may exist already."""
    cache = image_cache(reading.listing.paths, reading.edge, reading.values)
    decoded = _written(reading, cache, _order(rows), unreadable)
    again = replace(reading, progress=None)
    while np.isin(_order(rows), list(unreadable)).any():
        rows = reading.rows(unreadable)
        decoded = _written(again, cache, _order(rows), unreadable, earlier=decoded)
    return rows, _views(decoded.images, rows)


def _written(
    reading: _Reading,
    cache: ImageCache,
    order: np.ndarray,
    unreadable: Unreadable,
    earlier: Decoded | None = None,
) -> Decoded:
    """Write the images in this order; rows of an earlier file of the same images are copied."""
    known = cache.find(order, just_this=earlier is not None) or earlier
    if known is not None:
        unreadable |= known.unreadable
        if np.array_equal(known.order, order):
            return known
    numbers, row_of, excluded = order.tolist(), dict[int, int](), Unreadable()
    if known is not None:
        row_of = {number: row for row, number in enumerate(known.order.tolist())}
        excluded = {n: why for n, why in known.unreadable.items() if n in set(numbers)}
    fresh = _images(reading, order[~np.isin(order, list(row_of))], excluded)
    images = (known.images[row_of[n]] if known and n in row_of else next(fresh) for n in numbers)
    decoded = cache.write(order, reading.edge, images, excluded)
    unreadable |= excluded
    return decoded


def _images(reading: _Reading, order: np.ndarray, unreadable: Unreadable) -> Iterator[Tensor]:
    """Yield every file decoded; unreadable ones are recorded and yield a black image."""
    paths = [reading.listing.paths[i] for i in order]
    decoded = decode_each(paths, reading.edge, reading.progress, reading.values)
    for number, image in zip(order.tolist(), decoded, strict=True):
        if isinstance(image, str):
            unreadable[number] = image
            yield torch.zeros((3, reading.edge, reading.edge), dtype=torch.uint8)
        else:
            yield image


def _order(rows: Rows) -> np.ndarray:
    """The numbers of the files in use, those of each split next to each other."""
    return np.concatenate([rows[split] for split in _in_turn(rows)]).astype(np.int64)


def _in_turn(rows: Rows) -> list[str]:
    """The splits as they lie; train and val next to each other, so that one view can hold both."""
    return [split for split in SPLITS if split in rows]


def _views(images: Tensor, rows: Rows) -> dict[str, Tensor]:
    turn = _in_turn(rows)
    parts = images[: _count(rows)].split([len(rows[split]) for split in turn])
    views = dict(zip(turn, parts, strict=True))
    return {split: views[split] for split in rows}
