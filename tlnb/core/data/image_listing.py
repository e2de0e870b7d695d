"""List the image files of a folder with their splits, classes and groups. Nothing is decoded.

Whatever is not used is listed with the reason: hidden files, other types, broken links, unreadable
folders, files outside any class folder, class folders without images, and classes that are absent
from train.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from tlnb.core.data.decoding import extensions, holds_image
from tlnb.core.data.split_names import check_splits_come_first, split_folders, split_name
from tlnb.core.data.splits import check_classes
from tlnb.core.runtime.errors import DataError, listed, one_line
from tlnb.core.runtime.paths import is_file, is_folder, is_there

# extensions of cameras' raw files
RAW = tuple(
    map(
        ".{}".format,
        ("cr2", "cr3", "nef", "nrw", "arw", "dng", "orf", "rw2", "pef", "srw", "raf", "thm"),
    )
)
CLASSES_COMPARED = 100  # class folders
MAX_WRAPPERS = 4  # nested folders that hold nothing but one folder
LONGEST_NAME = 80  # characters of a name that are shown
CANNOT_OPEN = "cannot be opened"
LINK_OUTSIDE = "a link out of the folder, which is not followed: copy what it leads to"
INVALID_NAME = "its name holds a line end, a control character, or invalid text"


@dataclass
class Listing:
    """Image files: paths, splits (empty without any), class numbers, and what is not used."""

    name: str
    top: Path  # file names are shown relative to it
    classes: tuple[str, ...]
    paths: list[Path] = field(default_factory=list)
    split_of: list[str] = field(default_factory=list)
    class_of: list[int] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    # split → its folder, if the folder defines splits
    parts: dict[str, Path] = field(default_factory=dict)
    group_of: list[str] | None = None
    # the other columns of a table, by name
    columns: dict[str, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def shown(self, number: int) -> str:
        """A file's display name, relative to the folder."""
        return shown(self.paths[number], self.top)


def shown(path: Path, top: Path) -> str:
    """Shorten a path below `top`; if it lies elsewhere, keep only its end."""
    words, start = os.fspath(path), f"{top}{os.sep}"  # as text for speed, since there may be many
    if not words.startswith(start):
        start, words = "", f"{path.parent.name}{os.sep}{path.name}"
    clean = one_line(words[len(start) :])  # names need not be valid text
    if len(clean) <= LONGEST_NAME:
        return clean
    return f"{clean[: LONGEST_NAME // 2]}…{clean[-LONGEST_NAME // 2 :]}"


# ── folders ───────────────────────────────────────────────────────────────────────────────────────


def list_folder(folder: Path, called: str = "", skipped: Sequence[str] = ()) -> Listing:
    """List the image files of a folder of class folders, or of a folder of such splits.

    Splits are recognised by the words in their names (`train2017`, `test_set`) and because the same
    class folders lie in each. Class names are compared and shown in Unicode's composed form, since
    folders copied from a Mac use another.

    Args:
        called: what the user calls the folder, if not by its path.
        skipped: what is already known to be skipped, with reasons.

    Raises:
        DataError: there are fewer than two classes, the folder or a split's folder cannot be
            opened, or it is ambiguous which folders are splits.
    """
    top, beside = inner_folder(folder)
    parts, stray = _split_folders(top)
    skipped = [*skipped, *beside, *stray]
    files = {split: _by_class(part, top, skipped) for split, part in parts.items()}
    trained = files.get("train", files.get("", {}))
    classes = tuple(sorted(name for name, paths in trained.items() if paths))
    called = called or f"folder {str(folder)!r}"
    check_classes(called, classes, skipped, folders=True)
    listing = Listing(one_line(top.resolve().name), top, classes, skipped=skipped)
    if "" in parts:
        listing.notes += _check_flat(top, classes, called)
    else:
        listing.parts = parts
    for split, by_class in files.items():
        for name, paths in by_class.items():
            _add(listing, split, name, paths)
    listing.notes += _by_content(listing)
    return listing


def _by_content(listing: Listing) -> list[str]:
    """A note about files that are images although their names do not say so."""
    endings = extensions()
    odd = [shown(path, listing.top) for path in listing.paths if path.suffix.lower() not in endings]
    if not odd:
        return []
    return [f"{listed(odd, 3)}: read, since the content is an image, whatever the name says"]


def inner_folder(folder: Path) -> tuple[Path, list[str]]:
    """Descend through folders that hold only one folder (`archive/photos/train/…`).

    A folder with images beside its only folder stops the descent. Other files found on the way are
    returned with the reason why they are not used.

    Raises:
        DataError: the folder cannot be opened.
    """
    chain = _wrapped(folder)
    beside = [_stray(outer, folder, {inner}) for outer, inner in pairwise(chain)]
    return chain[-1], [words for reasons in beside for words in reasons]


def _wrapped(folder: Path) -> list[Path]:
    """A folder and those it merely wraps, down to the first with several; else the folder alone."""
    chain = [folder]
    while len(chain) <= MAX_WRAPPERS and (inner := _only_folder(chain[-1])) is not None:
        chain.append(inner)
        if len(_class_names(inner)) > 1:
            return chain
    return [folder]


def _only_folder(folder: Path) -> Path | None:
    """The only folder in a folder, if no images lie beside it."""
    inside = [p for p in _entries(folder) if not _hidden(p)]
    folders = [p for p in inside if is_folder(p)]
    beside = {p.suffix.lower() for p in inside if not is_folder(p)}
    return folders[0] if len(folders) == 1 and not beside & set(extensions()) else None


def _class_names(folder: Path) -> set[str]:
    """The names of the folders in a folder; none if it cannot be opened."""
    with suppress(OSError), os.scandir(folder) as entries:
        return {class_name(e.name) for e in entries if e.is_dir() and not _hidden(Path(e.name))}
    return set()


def _names_below(folder: Path) -> set[str]:
    """The class names below a folder that may be a split; else they do not matter."""
    if split_name(folder.name):
        with suppress(DataError):  # reported when its images are listed
            return _class_names(_wrapped(folder)[-1])
    return _class_names(folder)


def _check_flat(top: Path, classes: Sequence[str], called: str) -> list[str]:
    """A note if all class folders hold the same folders, which may be the classes."""
    below = [_class_names(top / name) for name in classes[:CLASSES_COMPARED]]
    if len(below) < 2 or len(below[0]) < 2 or any(names != below[0] for names in below):
        return []
    check_splits_come_first(called, below)
    inner = listed(sorted(below[0]), 4)
    return [
        f"each class folder holds {inner}: if those are the classes, give one of "
        f"{listed(classes, 4)} as the folder"
    ]


def class_name(text: str) -> str:
    """A class name in Unicode's composed form (NFC): é is one character, however it was stored."""
    return unicodedata.normalize("NFC", text)


def _add(listing: Listing, split: str, name: str, paths: Sequence[Path]) -> None:
    if name not in listing.classes:
        what = f"{len(paths)} images of a class that is not in train"
        folder = listing.parts.get(split, listing.top) / name
        why = what if paths else "a class folder without images"
        listing.skipped.append(f"{shown(folder, listing.top)}: {why}")
        return
    listing.paths += paths
    listing.split_of += [split] * len(paths)
    listing.class_of += [listing.classes.index(name)] * len(paths)


def _split_folders(folder: Path) -> tuple[dict[str, Path], list[str]]:
    """The folder of each split, and what lies beside them.

    A folder without splits has one split, the empty string.

    Raises:
        DataError: a split's folder cannot be opened (without its images another split would be made
            in its place), or it is ambiguous which folders are splits.
    """
    folders = [p for p in _entries(folder) if is_folder(p) and not _hidden(p)]
    named = any(split_name(p.name) for p in folders)
    known = {p.name: _names_below(p) for p in folders if named}
    folder_of = split_folders(f"folder {str(folder)!r}", known)
    if not folder_of:
        return {"": folder}, []
    parts = {split: folder / name for split, name in folder_of.items()}
    others = [p for p in folders if p not in parts.values()]
    beside = ", ".join(part.name for part in parts.values())
    stray = [f"{shown(p, folder)}: a folder beside {beside}" for p in others]
    inner = {split: inner_folder(path) for split, path in parts.items()}
    stray += _stray(folder, folder, set(folders))
    stray += [words for _, found in inner.values() for words in found]
    return {split: path for split, (path, _) in inner.items()}, stray


def _by_class(part: Path, top: Path, skipped: list[str]) -> dict[str, list[Path]]:
    """Image files by class folder; whatever else lies there is added to `skipped`."""
    endings = extensions()
    folders = [p for p in _entries(part) if is_folder(p) and not _hidden(p)]
    skipped += _stray(part, top, set(folders))
    by_class: dict[str, list[Path]] = {}
    for folder in folders:
        good: list[Path] = []
        if one_line(folder.name) != folder.name:  # it would become the class name
            skipped.append(f"{shown(folder, top)}: {INVALID_NAME}, rename the folder")
            continue
        known = len(skipped)
        for path in _walk(folder, top, skipped):
            why = _why_not(path, endings, top)
            if why:
                skipped.append(f"{shown(path, top)}: {why}")
            else:
                good.append(path)
        if f"{shown(folder, top)}: {CANNOT_OPEN}" not in (
            words.partition(" (")[0] for words in skipped[known:]
        ):
            name = class_name(folder.name)
            # Otherwise the folder is already reported, and not as one without images.
            by_class[name] = sorted([*by_class.get(name, ()), *good])
    return by_class


def _stray(part: Path, top: Path, known: set[Path]) -> list[str]:
    """What lies beside the class folders."""
    reasons = []
    for path in _entries(part):
        if path in known:
            continue
        if is_folder(path):
            reasons += _hidden_files(path, top)
        else:
            reasons.append(f"{shown(path, top)}: {_why_beside(path)}")
    return reasons


def _why_beside(path: Path) -> str:
    """Why an entry beside the class folders, apparently not a folder, is not used."""
    if _hidden(path):
        return "hidden file"
    try:
        path.stat()
    except FileNotFoundError:
        return "a link to nothing"
    except OSError as error:  # it may be a class folder
        return f"{CANNOT_OPEN} ({error.strerror})"
    return "not in a class folder"


def _hidden_files(folder: Path, top: Path) -> list[str]:
    """A line about a hidden folder, if it holds anything."""
    closed: list[OSError] = []
    count = sum(len(files) for _, _, files in os.walk(folder, onerror=closed.append))
    what = [f"{count} files"] * bool(count)
    what += [f"{len(closed)} folders {CANNOT_OPEN}"] * bool(closed)
    if not what:
        return []
    return [f"{shown(folder, top)}: hidden folder ({', '.join(what)})"]


def _walk(folder: Path, top: Path, skipped: list[str]) -> Iterator[Path]:
    """Yield all files below a folder, following links but entering no folder twice."""
    seen: set[tuple[int, int]] = set()

    def unreadable(error: OSError) -> None:
        skipped.append(f"{shown(Path(error.filename), top)}: {CANNOT_OPEN} ({error.strerror})")

    for place, folders, files in os.walk(folder, followlinks=True, onerror=unreadable):
        directory = Path(place)
        if _leads_out(directory, top):
            skipped.append(f"{shown(directory, top)}: {LINK_OUTSIDE}")
            folders.clear()
            continue
        state = directory.stat()
        if (state.st_dev, state.st_ino) in seen and state.st_ino:
            skipped.append(f"{shown(directory, top)}: a link to a folder that is read already")
            folders.clear()
            continue
        seen.add((state.st_dev, state.st_ino))
        for name in sorted(folders):
            if name.startswith("."):
                skipped += _hidden_files(directory / name, top)
        folders[:] = sorted(n for n in folders if not n.startswith("."))
        yield from (directory / name for name in sorted(files))


def _entries(folder: Path) -> list[Path]:
    """The entries of a folder, sorted."""
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise DataError(
            f"folder {str(folder)!r} {CANNOT_OPEN} ({error.strerror}): make it readable to you, "
            "or move it elsewhere"
        ) from None


def _hidden(path: Path) -> bool:
    return path.name.startswith(".") or path.name == "__MACOSX"


def _leads_out(path: Path, top: Path) -> bool:
    """Whether a path is a link out of the folder: data from elsewhere may point at any file."""
    return path.is_symlink() and not path.resolve().is_relative_to(top.resolve())


def _why_not(path: Path, endings: Sequence[str], top: Path) -> str:
    """Why a file is not used, without decoding it; empty for an image, judged by content."""
    if _hidden(path):
        return "hidden file"
    named = path.suffix.lower() in endings
    if not is_file(path):
        return _why_no_file(path) if named else _no_image(path)
    if _leads_out(path, top):  # and is not opened
        return LINK_OUTSIDE if named else _no_image(path)
    return "" if named or (not _is_raw(path) and holds_image(path)) else _no_image(path)


def _why_no_file(path: Path) -> str:
    if is_there(path):
        return "not a regular file"
    return "a link to nothing, or a folder that may not be entered"


def _is_raw(path: Path) -> bool:
    return path.suffix.lower() in RAW


def _no_image(path: Path) -> str:
    remedy = ": a camera's raw file, with a small preview at most; export it as .jpg"
    return f"not an image type ({path.suffix or 'no extension'}){remedy * _is_raw(path)}"
