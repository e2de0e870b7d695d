"""Train a hand-in's runs again, in a process of its own: `python -m tlnb.course.retraining FILE`.

A hand-in comes from a stranger: only built-in data and embedded networks are used, no code of its
own runs, nothing is downloaded, and the caller ends the process after a time limit.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tlnb import glyphnet
from tlnb.core.data.builtin import BUNDLED
from tlnb.core.runtime.errors import TLError, UsageError
from tlnb.core.runtime.typed_json import SENSELESS, parse, typed
from tlnb.core.training.run import Run
from tlnb.course.hand_in import HandedRun, read_hand_in, stack_of, weights_of

LIMIT_SECONDS = 300  # for all runs of one hand-in


@dataclass(frozen=True, kw_only=True)
class Retrained:
    """What came out when a run was trained again; `problem` says why it was not."""

    name: str
    problem: str = ""
    accuracy: float = 0.0
    interval: tuple[float, float] = (0.0, 1.0)  # 95%
    strategy: str = ""
    seed: int = 0
    moved: int = 0
    weights: str = ""
    stack: Mapping[str, str] | None = None


def retrain(file: Path, limit: float = LIMIT_SECONDS) -> dict[str, Retrained]:
    """Train a hand-in's runs again in another process, by their names.

    Args:
        limit: seconds after which the process is ended; what it finished counts.
    """
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder) / "results.jsonl"
        command: list[str | Path] = [
            sys.executable,
            "-m",
            "tlnb.course.retraining",
            file.resolve(),
            results,
        ]
        environment = {**os.environ, "TLNB_HOME": str(Path(folder) / "home")}
        options: dict[str, Any] = {"cwd": folder, "env": environment, "capture_output": True}
        with suppress(subprocess.TimeoutExpired):
            subprocess.run(command, timeout=limit, check=False, **options)
        lines = results.read_text("utf8").splitlines() if results.exists() else []
    found = [typed(Retrained, parse(line), "a result") for line in lines]
    return {each.name: each for each in found}


def _retrained(handed: HandedRun, job: Mapping[str, Any], folder: Path) -> Retrained:
    from tlnb.session import Session, trainings
    from tlnb.session.job_file import SCHEMA
    from tlnb.session.job_runner import prepared

    file = folder / "job.json"
    file.write_text(json.dumps({"schema": SCHEMA, **job}), "utf8")
    try:
        _refuse_what_is_elsewhere(job)
        session = Session()
        run = trainings.carry_out(session, prepared(session, file), time.perf_counter(), "")
    except TLError as error:
        return Retrained(name=handed.name, problem=str(error))
    except SENSELESS as error:
        return Retrained(name=handed.name, problem=f"its job makes no sense ({error})"[:120])
    return _result(handed.name, run)


def _result(name: str, run: Run) -> Retrained:
    return Retrained(
        name=name,
        accuracy=run.accuracy,
        interval=run.interval,
        strategy=run.strategy,
        seed=run.seed,
        moved=len(run.moved),
        weights=weights_of(run),
        stack=stack_of(run),
    )


def _refuse_what_is_elsewhere(job: Mapping[str, Any]) -> None:
    """Raise `UsageError` for data or a network that does not come with tlnb."""
    request, asked = job["facts"]["request"], job["asked"]
    if request["source"] not in BUNDLED or request["root"] or request["group"]:
        raise UsageError("its data do not come with tlnb, so it is not trained again")
    if asked["source"] not in glyphnet.names() or asked["weights"] not in ("default", "none"):
        raise UsageError("its network does not come with tlnb, so it is not trained again")


def main(file: Path, results: Path) -> None:
    """Train a hand-in's runs again and append each result to a file as a line of JSON."""
    for handed in read_hand_in(file).runs:
        if handed.job is not None:
            result = _retrained(handed, handed.job, results.parent)
            with results.open("a", encoding="utf8") as out:
                out.write(json.dumps(asdict(result)) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
