"""Groups: all photos of one plant, patient or place stay within one split."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tlnb.core.data.image_listing import Listing, class_name
from tlnb.core.data.table import read_table
from tlnb.core.runtime.bounded_regex import first_groups, group_in, may_take_long
from tlnb.core.runtime.errors import DataError, UsageError, listed
from tlnb.core.runtime.paths import user_path


def group_files(listing: Listing, option: str) -> Listing:
    """Return the listing with a group for each file.

    Args:
        option: a column of the table; a CSV file of paths and groups; or a regular expression whose
            first parenthesis (else the whole match) in a file's path is its group. A file without
            one is a group of its own.

    Raises:
        DataError: the CSV file does not exist, or all files are in one group.
        UsageError: the expression is invalid or matches nothing.
    """
    names = [_name(path, listing.top) for path in listing.paths]
    if option in listing.columns:
        groups: list[str | None] = [g.strip() or None for g in listing.columns[option]]
    elif option.lower().endswith(".csv"):
        groups = _from_table(user_path(option), names)
    else:
        groups = _by_pattern(option, names)
    alone = [i for i, g in enumerate(groups) if g is None]
    if len(alone) == len(groups):
        raise UsageError(
            f"--group {option} matches none of the {len(groups)} files, e.g. {names[0]!r}: "
            f"{_example(names)}"
        )
    if alone:
        listing.notes.append(
            f"{len(alone)} files have no group, so each is a group of its own: "
            f"{listed((names[i] for i in alone), 3)}"
        )
    listing.group_of = [names[i] if g is None else f"group {g}" for i, g in enumerate(groups)]
    if len(set(listing.group_of)) < 2:
        raise DataError(
            f"--group {option} puts all images into one group: nothing would be left to test on"
        )
    return listing


def _name(path: Path, top: Path) -> str:
    """A file's path below the folder, with accents in Unicode's composed form."""
    below = path.relative_to(top) if path.is_relative_to(top) else path
    return class_name(below.as_posix())


def group_numbers(groups: Sequence[str]) -> np.ndarray:
    """Number the group names: `(N,)`."""
    return np.unique(np.array(groups), return_inverse=True)[1].astype(np.int64)


def _by_pattern(pattern: str, names: Sequence[str]) -> list[str | None]:
    try:
        expression = re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise UsageError(
            f"--group {pattern} is not a valid regular expression ({error}): {_example(names)}"
        ) from None
    if may_take_long(pattern):
        return first_groups(pattern, names)
    return [group_in(expression, name) for name in names]


def _from_table(file: Path, names: Sequence[str]) -> list[str | None]:
    if not file.is_file():
        raise DataError(
            f"{str(file)!r} does not exist: --group takes a CSV file of paths and groups, or a "
            "regular expression"
        )
    rows = [row for _, row in read_table(file) if len(row) > 1]
    group_of = {class_name(row[0].strip().removeprefix("./")): row[1].strip() for row in rows}
    return [group_of.get(name) or group_of.get(name.rpartition("/")[2]) for name in names]


def _example(names: Sequence[str]) -> str:
    """A pattern that would match the letters before the last number of a file's name."""
    name = names[0].rpartition("/")[2]
    return f'e.g. --group "([^/]+)_" for the part before the underscore in {name!r}'
