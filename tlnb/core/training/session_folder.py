"""The folder of a session: its runs while it trains, so that a killed kernel loses little.

TLNB_HOME (default ./.tlnb)/sessions/<start in UTC>-<process>/
    session.json              data, model, plan, runs, bill, and the run in progress
    runs/<name>.start.safetensors   the stopped run that it began from, if any
    runs/<name>.safetensors   the run at its last checkpoint, or its changes once it has finished
    lock                      held as long as the kernel lives

`checkpoint.Due` decides when a checkpoint is written.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import zlib
from collections.abc import Mapping
from datetime import UTC, datetime
from hashlib import blake2b
from pathlib import Path
from typing import Any

from tlnb.core.runtime.errors import UsageError
from tlnb.core.runtime.paths import is_link, read_text, user_path, written_beside
from tlnb.core.runtime.typed_json import parse, typed
from tlnb.core.training import checkpoint
from tlnb.core.training.checkpoint import Checkpoint

SCHEMA = 2
OF_JOB = "session"  # subfolder of a job's folder for its session
SESSIONS_KEPT = 20  # the oldest are deleted when a new one begins


def home_folder() -> Path:
    """The folder of all sessions. It is not created."""
    return user_path(os.environ.get("TLNB_HOME") or ".tlnb")


class SessionFolder:
    """The folder of one session, locked as long as this object lives."""

    def __init__(self, folder: Path) -> None:
        from filelock import FileLock

        self.path = folder
        _no_link(folder)
        (folder / "runs").mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(
            folder / "lock", thread_local=False
        )  # a training thread acquires it, reset releases it
        self._lock.acquire(timeout=0)

    @classmethod
    def fresh(cls) -> SessionFolder:
        """Create the folder of a new session, deleting the oldest if there are many.

        Raises:
            OSError: it cannot be created.
        """
        top = home_folder() / "sessions"
        _prune(top)
        began = datetime.now(UTC).strftime("%Y%m%d-%H%M%S-%f")  # local time goes back and forth
        return cls(top / f"{began}-{os.getpid()}-{os.urandom(2).hex()}")

    def run_file(self, name: str) -> Path:
        """The file of a run."""
        return self.path / "runs" / f"{_safe(name)}.safetensors"

    def write_run(self, name: str, about: Mapping[str, Any], saved: Checkpoint) -> None:
        """Write the current state of a run.

        Raises:
            OSError: the disk is full, for example.
        """
        checkpoint.write(self.run_file(name), about, saved)

    def start_file(self, name: str) -> Path:
        """The file of what a run began from, where that was another run that could still go on."""
        return self.path / "runs" / f"{_safe(name)}.start.safetensors"

    def write_start(self, name: str, about: Mapping[str, Any], found: Checkpoint) -> None:
        """Write the run that another begins from, as it is then.

        Raises:
            OSError: a full disk, say.
        """
        checkpoint.write(self.start_file(name), about, found)

    def write_session(self, values: Mapping[str, Any]) -> None:
        """Write the session's state.

        Raises:
            OSError: the disk is full, for example.
        """
        text = json.dumps(values)
        whole = {"schema": SCHEMA, "crc32": zlib.crc32(text.encode()), "session": text}
        with written_beside(self.path / "session.json") as half:
            half.write_text(json.dumps(whole), "utf8")

    def close(self) -> None:
        """Release the lock."""
        self._lock.release()


def find_session(where: str | Path | None) -> Path:
    """Find a session: the given one, else the latest of this notebook, else of all.

    A file in a session's folder works, too. Sessions of running kernels are skipped.

    Raises:
        UsageError: there is none.
    """
    if where is not None:
        path = user_path(where)
        for folder in (path / OF_JOB, path, path.parent, path.parent.parent):
            if (folder / "session.json").is_file():
                return folder
        if not (path / "sessions").is_dir():
            raise UsageError(
                f"{str(where)!r} is not a session of tlnb: give the folder that has a session.json"
            )
    top = (home_folder() if where is None else user_path(where)) / "sessions"
    sessions = sorted(
        (f.parent for f in top.glob("*/session.json")), key=lambda f: f.name, reverse=True
    )
    free = [folder for folder in sessions if not in_use(folder)]
    if not free:
        busy = " except those of running kernels" if sessions else ""
        raise UsageError(f"no earlier session in {top}{busy}: %tl_data and %tl_load start one")
    mine = [folder for folder in free if notebook() and _notebook_of(folder) == notebook()]
    return next((folder for folder in mine or free if _notebook_of(folder) is not None), free[0])


def _notebook_of(folder: Path) -> object:
    """The notebook of a session; None if the session cannot be read."""
    try:
        return read_session(folder).get("notebook", "")
    except UsageError:
        return None


def read_session(folder: Path) -> dict[str, Any]:
    """Read a session's state.

    Raises:
        UsageError: it is damaged, or of another version.
    """
    try:
        values = parse(read_text(folder / "session.json"))
        if values["schema"] != SCHEMA:
            raise UsageError(
                f"the session in {folder} has schema {values['schema']}, not {SCHEMA}: start a "
                "new one"
            )
        if zlib.crc32(values["session"].encode()) != values["crc32"]:
            raise ValueError("its checksum differs")
        return typed(dict[str, Any], parse(values["session"]), "the session")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:80]
        raise UsageError(
            f"the session in {folder} cannot be read ({reason}): start a new one"
        ) from None


def in_use(folder: Path) -> bool:
    """Whether the kernel of a session is still running."""
    from filelock import FileLock, Timeout

    try:
        _no_link(folder)
        with FileLock(folder / "lock", timeout=0):
            return False
    except (Timeout, OSError):
        return True


def _no_link(folder: Path) -> None:
    """Raise `OSError` if a session's lock or one of its folders is a link.

    Writing would change the link's target.
    """
    for path in (folder / "lock", folder / "runs", folder):
        if is_link(path):
            raise OSError(errno.ELOOP, f"{path.name} is a link")


def notebook() -> str:
    """The notebook of this kernel, as far as Jupyter tells."""
    return os.environ.get("JPY_SESSION_NAME", "")


def _safe(name: str) -> str:
    """A run's name as a file name: valid on all file systems, and unique for each name."""
    plain = re.sub(r"[^a-z0-9_-]+", "-", name.lower())[:60]
    return (
        plain
        if plain == name
        else f"{plain}-{blake2b(name.encode(errors='replace'), digest_size=8).hexdigest()}"
    )


def _prune(top: Path) -> None:
    folders = sorted(top.glob("*/")) if top.is_dir() else []
    for folder in folders[: max(0, len(folders) - SESSIONS_KEPT + 1)]:
        if not in_use(folder):
            shutil.rmtree(folder, ignore_errors=True)
