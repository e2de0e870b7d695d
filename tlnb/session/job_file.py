"""Job files: a training written by a session, to be run anywhere by `job_runner`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tlnb.core.export.save import Saved
from tlnb.core.runtime.errors import UsageError
from tlnb.core.runtime.paths import read_text, written_beside
from tlnb.core.runtime.typed_json import parse
from tlnb.session.job import Job

SCHEMA = 1


def write_job(job: Job, path: Path) -> Saved:
    """Write a job file: data request and fingerprint, model, plan and options.

    It holds no images and no weights.

    Raises:
        UsageError: data or a module from Python, which a file cannot name; a folder that cannot
            be written to.
    """
    if job.data.request.source == "arrays":
        raise UsageError("a job file cannot hold data from Python: use a folder, or data by name")
    if job.asked["own"]:
        raise UsageError(
            f"a job file cannot hold your own module {job.asked['source']!r}: "
            "load a model by name or file"
        )
    if job.previous is not None:
        raise UsageError(
            f"a job starts from the plan, not from run {job.previous.name!r}: leave out --from"
        )
    text = json.dumps({"schema": SCHEMA, **job.about()}, indent=1)
    write_whole(path, text)
    use = f"python -m tlnb train {path} --out DIR"
    return Saved(
        path=str(path),
        run=job.name,
        format="job",
        bytes=len(text.encode()),
        takes="nothing: it names data, model, plan and options",
        use=use,
    )


def read_job(path: Path) -> dict[str, Any]:
    """Read a job file.

    Raises:
        UsageError: the file is missing, damaged, or of another version.
    """
    try:
        values = parse(read_text(path))
        if values["schema"] != SCHEMA:
            raise UsageError(
                f"{path} has schema {values['schema']}, expected {SCHEMA}: "
                "write it again with %tl_save --job"
            )
        return {
            k: values[k]
            for k in ("run", "plan", "options", "asked", "facts", "fingerprint", "baseline_of")
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split())[:80]
        raise UsageError(
            f"{path} is not a job file ({reason}): %tl_save --job {path.name} writes one"
        ) from None


def write_whole(path: Path, text: str) -> None:
    """Write a file atomically: it appears whole or not at all."""
    try:
        with written_beside(path) as half:
            half.write_text(text, "utf8")
    except OSError as error:
        raise UsageError(
            f"{path} cannot be written ({error.strerror}): choose a folder that you can write to"
        ) from None
