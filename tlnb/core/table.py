"""Image files named in a CSV file, with their labels, splits and other columns. Nothing is decoded."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from tlnb.core.errors import DataError, listed, one_line
from tlnb.core.listing import CLOSED, LONGEST_NAME, ODD_NAME, SPLIT_FOLDERS, Listing
from tlnb.core.paths import is_file
from tlnb.core.splits import check_classes

COLUMNS = {
    "path": ("path", "file", "filename", "file_name", "filepath", "image", "image_path", "img"),
    "label": ("label", "class", "class_name", "target", "category", "species", "y"),
    "split": ("split", "set", "subset", "partition"),
}
NUMBER = re.compile(r"-?[0-9]{1,18}")


def list_table(file: Path) -> Listing:
    """The image files that a CSV file names: a column of paths (relative to it), one of labels, and maybe one of splits.

    Raises:
        DataError: no such columns, fewer than two classes, another split than train, val and test.
    """
    rows = read_table(file)
    first = rows[0][1] if rows else []
    head = {name.strip().lower(): i for i, name in enumerate(first)}
    where = {what: next((head[n] for n in names if n in head), None) for what, names in COLUMNS.items()}
    path_at, label_at, split_at = where["path"], where["label"], where["split"]
    if path_at is None or label_at is None:
        raise DataError(
            f"{file.name} has no columns path and label (it has {listed(head) or 'nothing'}): name them in its first line, "
            "e.g. path,label or path,label,split"
        )
    found = Listing(one_line(file.stem), file.parent, ())
    kept: list[tuple[str, str, list[str]]] = []
    for number, row in rows[1:]:
        if len(row) != len(first):
            found.skipped.append(f"line {number}: {len(row)} fields instead of {len(first)}")
            continue
        path, why = _named(file.parent, row[path_at])
        if why:
            found.skipped.append(f"line {number}, {one_line(row[path_at])[:LONGEST_NAME]}: {why}")
            continue
        label = row[label_at].strip()
        if not label or one_line(label) != label:
            found.skipped.append(f"line {number}: {ODD_NAME if label else 'no label'}")
            continue
        split = _split(row[split_at], file, number) if split_at is not None else ""
        found.paths.append(path)
        found.split_of.append(split)
        kept.append((label, split, row))
    found.classes = in_order({label for label, split, _ in kept if split in ("", "train")})
    check_classes(file.name, found.classes, found.skipped)
    return _labelled(found, kept, first)


def in_order(labels: Iterable[str]) -> tuple[str, ...]:
    """Class names sorted: by value where all of them are numbers."""
    names = list(labels)
    numeric = all(NUMBER.fullmatch(name) for name in names)
    return tuple(sorted(names, key=lambda name: (int(name) if numeric else 0, name)))


def _labelled(found: Listing, kept: Sequence[tuple[str, str, list[str]]], head: Sequence[str]) -> Listing:
    """Class numbers, without the classes that are never trained on, and the other columns."""
    number = {name: i for i, name in enumerate(found.classes)}
    use = [i for i, (label, _, _) in enumerate(kept) if label in number]
    dropped = Counter(label for label, _, _ in kept if label not in number)
    found.skipped += [f"{label}: {n} images of a class that is not in train" for label, n in sorted(dropped.items())]
    found.paths, found.split_of = [found.paths[i] for i in use], [found.split_of[i] for i in use]
    found.class_of = [number[kept[i][0]] for i in use]
    found.columns = {name.strip(): [kept[i][2][k] for i in use] for k, name in enumerate(head)}
    return found


def read_table(file: Path) -> list[tuple[int, list[str]]]:
    """The rows of a CSV file with commas, semicolons or tabs, each with the number of the line that it ends on.

    Raises:
        DataError: it cannot be read, or is no text.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
        lines = text.split("\n")  # no other line ends: lines are counted as editors do
        separator = max(",;\t", key=next(filter(str.strip, lines), "").count)
        reader = csv.reader(lines, delimiter=separator)
        return [(reader.line_num, row) for row in reader if any(map(str.strip, row))]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            f"{str(file)!r} cannot be read as a table ({str(error)[:80]}): give a CSV file in UTF-8"
        ) from None


def _named(top: Path, text: str) -> tuple[Path, str]:
    path = top / text.strip()
    try:
        if not path.exists():
            return path, "no such file"
        return path, "" if is_file(path) else "not a regular file"
    except PermissionError as error:
        return path, f"{CLOSED} ({error.strerror})"
    except (OSError, ValueError) as error:  # a name that is too long, or holds a zero
        return path, f"no file's name ({getattr(error, 'strerror', None) or error})"


def _split(text: str, file: Path, number: int) -> str:
    name = text.strip().lower()
    if name not in SPLIT_FOLDERS:
        raise DataError(f"{file.name}, line {number}: split {text!r} is none of train, val and test")
    return SPLIT_FOLDERS[name]
