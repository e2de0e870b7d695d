"""Image files listed in a CSV table, with labels, splits and other columns.

Nothing is decoded.

Columns are recognised by their usual names. Unusable rows are listed with the reason: a missing
label, a missing file, a file listed twice.
"""

from __future__ import annotations

import codecs
import csv
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tlnb.core.data.image_listing import INVALID_NAME, LONGEST_NAME, Listing, class_name
from tlnb.core.data.split_names import settled, split_name, yes_or_no
from tlnb.core.data.splits import check_classes, check_most_classes
from tlnb.core.data.table_files import TableFiles
from tlnb.core.runtime.errors import DataError, listed, one_line
from tlnb.core.runtime.paths import is_file, read_text

# Column names without case, spaces and underscores; the first one in a table counts.
COLUMNS = {
    what: names.split()
    for what, names in {
        "path": "path filepath filepaths file files filename filenames imagepath imgpath imagefile "
        "imagename imgname image images img imageid imgid photo picture id uid uuid name",
        "label": "label labels class classes classname target category species y breed diagnosis "
        "classid classlabel labelname dx tag",
        "split": "split splits set subset partition usage phase dataset",
    }.items()
}
SPLITS_BY_FLAG = {  # flag columns → the split of true rows, and of false ones
    **dict.fromkeys(("isvalid", "isval", "isvalidation", "isdev"), ("val", "train")),
    "istest": ("test", "train"),
    **dict.fromkeys(("istrain", "istraining", "istrainingimage"), ("train", "test")),
}
ONE, ZERO = frozenset(("1", "1.0")), frozenset(("0", "0.0"))
# Columns that hold splits only if a value says so.
SPLIT_ONLY_BY_VALUE = ("usage", "phase", "dataset")
NOT_LABELS = frozenset(
    ("", "nan", "NaN", "NAN", "None", "null", "NULL", "<NA>", "#N/A", "N/A", "n/a")
)
WHOLE = re.compile(r"-?[0-9]{1,18}([.]0*)?")
NUMBER = re.compile(r"-?[0-9]{1,18}")
TABLES = (".csv", ".tsv")
ROWS_TRIED = 50  # rows used to find the folder of the files


@dataclass(frozen=True, kw_only=True)
class _Columns:
    """Positions of a table's columns."""

    path: int
    label: int  # -1: one-hot columns, one per class
    split: int | None
    marked: tuple[str, str] | None  # the splits of true and false in a flag column
    by_class: tuple[int, ...] = ()  # the one-hot columns


@dataclass(frozen=True, kw_only=True)
class _Row:
    number: int  # line number
    fields: list[str]
    path: Path
    label: str
    split: str = ""


def list_table(file: Path) -> Listing:
    """List the image files in a CSV file of relative paths, labels and, optionally, splits.

    File extensions may be omitted, the files may lie in a folder beside the table, and a file that
    is listed twice counts once.

    Raises:
        DataError: columns are missing, there are fewer than two classes, or a split is not train,
            val or test.
    """
    rows = read_table(file)
    head = rows[0][1] if rows else []
    columns = _columns(file, head, [row for _, row in rows[1:]])
    listing = Listing(one_line(file.stem), file.parent, ())
    tried = [row for _, row in rows[1 : ROWS_TRIED + 1] if len(row) == len(head)]
    files = TableFiles(file.parent, [row[columns.path].strip() for row in tried])
    if files.dropped:
        listing.notes.append(
            f"the first {files.dropped} folders of each path do not exist here and are dropped"
        )
    if files.top != file.parent:
        listing.notes.append(f"the files lie in {one_line(files.top.name)}/")
    each = (_row(files, columns, head, number, fields, listing) for number, fields in rows[1:])
    usable = _whole_numbers([row for row in each if row])
    rows_by_split = _with_splits(file, columns, head, usable, listing)
    check_most_classes(file.name, _classes(rows_by_split))
    kept = _once(_of_known_classes(rows_by_split, listing), listing)
    listing.classes = _classes(kept)
    check_classes(file.name, listing.classes, listing.skipped)
    return _filled(listing, kept, head)


def _classes(rows: Iterable[_Row]) -> tuple[str, ...]:
    """The classes that occur in train."""
    return in_order({row.label for row in rows if row.split in ("", "train")})


def in_order(labels: Iterable[str]) -> tuple[str, ...]:
    """Sort class names, by value if all of them are numbers."""
    names = list(labels)
    numeric = all(NUMBER.fullmatch(name) for name in names)
    return tuple(sorted(names, key=lambda name: (int(name) if numeric else 0, name)))


def read_table(file: Path) -> list[tuple[int, list[str]]]:
    """The rows of a CSV file with commas, semicolons or tabs, each with its last line number.

    Raises:
        DataError: the file cannot be read or is not text.
    """
    try:
        text = _text(file)
        lines = text.split("\n")  # split at \n only, to count lines as editors do
        separator = max(",;\t|", key=next(filter(str.strip, lines), "").count)
        reader = csv.reader(lines, delimiter=separator, skipinitialspace=True)
        rows = [(reader.line_num, row) for row in reader if any(map(str.strip, row))]
        width = len(rows[0][1]) if rows else 0
        return [(number, _without_blank_ends(row, width)) for number, row in rows]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            f"{str(file)!r} cannot be read as a table ({str(error)[:80]}): give a CSV file in UTF-8"
        ) from None


def _text(file: Path) -> str:
    """The text of a file in UTF-8, or in UTF-16 like Excel's "Unicode text", with any line ends."""
    wide = is_file(file) and _starts(file) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    text = read_text(file, encoding="utf-16" if wide else "utf-8-sig")
    return text if "\n" in text else text.replace("\r", "\n")


def _starts(file: Path) -> bytes:
    with file.open("rb") as opened:
        return opened.read(2)


def _without_blank_ends(row: list[str], width: int) -> list[str]:
    """Drop the blank fields that trailing commas create."""
    while len(row) > width and not row[-1].strip():
        row = row[:-1]
    return row


# ── columns ───────────────────────────────────────────────────────────────────────────────────────


def _columns(file: Path, head: Sequence[str], rows: Sequence[Sequence[str]]) -> _Columns:
    places = {_plain(name): i for i, name in reversed(list(enumerate(head)))}
    path, split = (_first(COLUMNS[what], places) for what in ("path", "split"))
    marked = None
    if split is None and (flag := next((n for n in SPLITS_BY_FLAG if n in places), None)):
        split, marked = places[flag], SPLITS_BY_FLAG[flag]
    taken = (path, split)
    label = _first([name for name in COLUMNS["label"] if places.get(name) not in taken], places)
    others = [i for i in range(len(head)) if i not in (path, split)]
    if label is None and path is not None and len(others) == 1:  # `id,breed`
        label = others[0]
    if label is None and path is not None and _one_a_row(rows, others, len(head)):
        return _Columns(path=path, label=-1, split=split, marked=marked, by_class=tuple(others))
    if path is None or label is None:
        missing = [what for what, at in (("path", path), ("label", label)) if at is None]
        looked_for = "; ".join(f"{what}: {listed(COLUMNS[what], 30)}" for what in missing)
        raise DataError(
            f"{file.name} has no column{'s' * (len(missing) > 1)} {' and '.join(missing)} "
            f"(it has {listed(map(one_line, head)) or 'nothing'}; looked for {looked_for}): "
            "name them in its first line, e.g. path,label or path,label,split"
        )
    return _Columns(path=path, label=label, split=split, marked=marked)


def _one_a_row(rows: Sequence[Sequence[str]], columns: Sequence[int], width: int) -> bool:
    """Whether these columns are one-hot: zeros and ones, with a single one in each row."""
    marks = [[row[i].strip() for i in columns] for row in rows if len(row) == width]
    signs = {mark for row in marks for mark in row}
    single = all(sum(mark in ONE for mark in row) == 1 for row in marks)
    return len(columns) > 1 and bool(marks) and signs <= ONE | ZERO and single


def _label(columns: _Columns, head: Sequence[str], fields: Sequence[str]) -> str:
    if columns.label >= 0:
        return class_name(fields[columns.label].strip())
    one = next(i for i in columns.by_class if fields[i].strip() in ONE)
    return class_name(head[one].strip())


def _plain(name: str) -> str:
    return re.sub(r"[\W_]", "", name).lower()


def _first(names: Iterable[str], places: Mapping[str, int]) -> int | None:
    return next((places[name] for name in names if name in places), None)


# ── rows ──────────────────────────────────────────────────────────────────────────────────────────


def _row(
    files: TableFiles,
    columns: _Columns,
    head: Sequence[str],
    number: int,
    fields: list[str],
    listing: Listing,
) -> _Row | None:
    """A usable row; otherwise None, with the reason added to the skipped files."""
    if len(fields) != len(head):
        listing.skipped.append(f"line {number}: {len(fields)} fields instead of {len(head)}")
        return None
    name, label = fields[columns.path].strip(), _label(columns, head, fields)
    path, why = files.find(name)
    if why:
        listing.skipped.append(f"line {number}, {one_line(name)[:LONGEST_NAME]}: {why}")
    elif label in NOT_LABELS:
        listing.skipped.append(f"line {number}: no label{f' ({label})' * bool(label)}")
    elif one_line(label) != label:
        listing.skipped.append(f"line {number}: {INVALID_NAME}")
    else:
        return _Row(number=number, fields=fields, path=path, label=label)
    return None


def _whole_numbers(rows: Sequence[_Row]) -> list[_Row]:
    """Turn labels `1.0` into `1` if all are whole: pandas writes a column with gaps so."""
    if not all(WHOLE.fullmatch(row.label) for row in rows):
        return list(rows)
    return [replace(row, label=row.label.partition(".")[0]) for row in rows]


def _once(rows: Sequence[_Row], listing: Listing) -> list[_Row]:
    """Keep each file once, and drop files listed with two labels."""
    by_file: dict[str, list[_Row]] = {}
    for row in rows:
        by_file.setdefault(str(row.path), []).append(row)
    kept = []
    for first, *more in by_file.values():
        labels = sorted({row.label for row in (first, *more)})
        if len(labels) == 1:
            kept.append(first)
            why = f"listed already, in line {first.number}"
            listing.skipped += [f"line {row.number}: {why}" for row in more]
        else:
            why = f"listed with more than one label ({listed(labels, 4)})"
            listing.skipped.append(f"line {first.number}: {why}")
    return kept


def _of_known_classes(rows: Sequence[_Row], listing: Listing) -> list[_Row]:
    """Drop rows of classes that do not occur in train."""
    known = set(_classes(rows))
    dropped = Counter(row.label for row in rows if row.label not in known)
    why = "images of a class that is not in train"
    listing.skipped += [f"{label}: {n} {why}" for label, n in sorted(dropped.items())]
    return [row for row in rows if row.label in known]


def _filled(listing: Listing, kept: Sequence[_Row], head: Sequence[str]) -> Listing:
    """Fill the listing with the rows' files, class numbers and other columns."""
    kept = _of_known_classes(kept, listing)
    number = {name: i for i, name in enumerate(listing.classes)}
    listing.paths, listing.split_of = [row.path for row in kept], [row.split for row in kept]
    listing.class_of = [number[row.label] for row in kept]
    listing.columns = {name.strip(): [row.fields[k] for row in kept] for k, name in enumerate(head)}
    return listing


# ── splits ────────────────────────────────────────────────────────────────────────────────────────


def _with_splits(
    file: Path, columns: _Columns, head: Sequence[str], rows: Sequence[_Row], listing: Listing
) -> list[_Row]:
    if columns.split is None:
        return list(rows)
    at, marked = columns.split, columns.marked
    texts = [row.fields[at].strip() for row in rows]
    meant = {text: _split(text, marked) for text in dict.fromkeys(texts)}
    if _plain(head[at]) in SPLIT_ONLY_BY_VALUE and not any(meant[text] for text in meant if text):
        return list(rows)
    for row, text in zip(rows, texts, strict=True):
        if meant[text] is None:
            ways = "true and false" if marked else "train, val and test"
            raise DataError(
                f"{file.name}, line {row.number}: {one_line(head[at])} must be one of {ways}, "
                f"got {text!r}"
            )
    if blank := texts.count(""):
        listing.notes.append(f"{blank} rows without a split are trained on")
    final = settled(split for split in meant.values() if split)
    splits = [final[meant[text] or ""] for text in texts]
    return [replace(row, split=split) for row, split in zip(rows, splits, strict=True)]


def _split(text: str, marked: tuple[str, str] | None) -> str | None:
    """The split that a field means; None if unknown. A blank field means train."""
    if not text:
        return "train"
    if marked:
        answer = yes_or_no(text)
        return None if answer is None else marked[0 if answer else 1]
    name = split_name(text)
    return name and name.split
