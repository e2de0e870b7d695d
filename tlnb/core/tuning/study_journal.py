"""A study's journal, one JSON object a line: read up to its last whole line, and set aside where it is damaged.

A disk that was full, or a process that was killed, leaves half a line behind; whatever is appended to that is lost with it.
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

MOST = 2 * 10**8  # bytes


def mended(place: str) -> str:
    """See to it that Optuna can read a journal to its end; what had to be done, in a line. Databases see to themselves.

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
    """Sees to it that every trial that ended has one score: Optuna's samplers count on that.

    Raises:
        ValueError: one has none, or several.
    """
    for trial in trials:
        if trial.values is not None and len(trial.values) != 1:
            raise ValueError(f"trial {trial.number} has {len(trial.values)} scores, expected one")


def sound_journal(path: Path) -> str:
    """Make a journal end with its last whole line; one that is damaged is set aside. To be called under the journal's lock.

    Returns:
        What was done, in a line; empty where nothing was, or there is no journal yet.

    Raises:
        OSError: it cannot be read or changed.
        ValueError: a file that is no journal at all.
    """
    if is_link(path):
        return set_aside(path, "it is a link")
    if not path.exists():
        return ""
    try:
        text = read_text(path, MOST)
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
    """Rename a journal, so that a new one begins; what was done, in a line.

    Raises:
        OSError: it cannot be renamed.
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
        found: Any = parse(line)
    except ValueError:
        return False
    return (
        isinstance(found, dict)
        and type(found.get("op_code")) is int
        and isinstance(found.get("worker_id"), str)
    )
