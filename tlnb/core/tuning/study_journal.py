"""Repair a study's journal, which has one JSON object per line.

A full disk or a killed process leaves half a line behind, and whatever is appended to that is lost
with it. So a journal is cut after its last whole line; a damaged one is set aside.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tlnb.core.runtime.paths import is_link, read_text
from tlnb.core.runtime.typed_json import parse

if TYPE_CHECKING:
    import optuna

MOST_BYTES = 2 * 10**8  # of a journal


def mended(place: str) -> str:
    """Repair a journal so that Optuna can read it to its end; databases need no repair.

    Returns:
        What was done, in one line; empty if nothing was.

    Raises:
        OSError, ValueError: as `sound_journal`.
    """
    from optuna.storages.journal import JournalFileOpenLock

    path = Path(place).expanduser()
    if "://" in place or not os.path.lexists(path):
        return ""
    lock = JournalFileOpenLock(str(path))
    lock.acquire()
    try:
        return sound_journal(path)
    finally:
        lock.release()


def check_scores(trials: Sequence[optuna.trial.FrozenTrial]) -> None:
    """Check that every trial that has ended has one score, as Optuna's samplers assume.

    Raises:
        ValueError: a trial with several scores, or an empty list of them.
    """
    for trial in trials:
        if trial.values is not None and len(trial.values) != 1:
            raise ValueError(f"trial {trial.number} has {len(trial.values)} scores, expected one")


def sound_journal(path: Path) -> str:
    """Cut a journal after its last whole line, or set a damaged one aside.

    Call it only while holding the journal's lock.

    Returns:
        What was done, in one line; empty if nothing was, or there is no journal yet.

    Raises:
        OSError: the journal cannot be read or changed.
        ValueError: the file is not a journal at all.
    """
    if is_link(path):
        return set_aside(path, "it is a link")
    if not path.exists():
        return ""
    try:
        text = read_text(path, MOST_BYTES)
    except UnicodeDecodeError:
        return set_aside(path, "it is not text")
    whole, end, rest = text.rpartition("\n")
    lines = whole.split("\n") if end else []
    if lines and not _is_entry(lines[0]):
        raise ValueError("it is not an Optuna journal")
    if not all(map(_is_entry, lines)):
        return set_aside(path, "it has damaged lines")
    if not rest:
        return ""
    os.truncate(path, len((whole + end).encode()))
    return f"the last line of {path.name} was cut off and is left out"


def set_aside(path: Path, why: str) -> str:
    """Rename a journal, so that a new one starts; return what was done, in one line.

    Raises:
        OSError: the journal cannot be renamed.
    """
    aside = next(
        p
        for k in range(1, 10**6)
        if not os.path.lexists(p := path.with_name(f"{path.name}.damaged-{k}"))
    )
    path.rename(aside)
    return (
        f"the study in {path.name} cannot be read ({why}): "
        f"it is kept as {aside.name}, and a new one starts"
    )


def _is_entry(line: str) -> bool:
    try:
        entry: Any = parse(line)
    except ValueError:
        return False
    return (
        isinstance(entry, dict)
        and type(entry.get("op_code")) is int
        and isinstance(entry.get("worker_id"), str)
    )
