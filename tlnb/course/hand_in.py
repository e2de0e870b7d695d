"""Hand-ins: a learner's results as a JSON file, written by their session and read by a teacher.

A hand-in has each exercise's result and each run's figures, with the job that trained it. A
checksum shows casual changes; figures changed together with it are found by training the job again
(`tlnb.course.grading`). Results are not judged again: of one that needs a run the table says where
none is handed in.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tlnb.core.runtime.errors import UsageError, one_line
from tlnb.core.runtime.paths import read_text
from tlnb.core.runtime.typed_json import parse, typed
from tlnb.core.training.run import Run
from tlnb.session.check_results import Check
from tlnb.session.job import Job

SCHEMA, OLD_SCHEMA = 2, 1  # 1 had neither jobs nor a checksum
MAX_BYTES = 5_000_000  # of a hand-in
MAX_ITEMS = 1000  # exercises, and runs


@dataclass(frozen=True, kw_only=True)
class HandedExercise:
    """The result of one exercise."""

    name: str
    title: str
    passed: bool
    met: tuple[str, ...]
    asked: str
    missing: str
    hints: int  # how many were shown
    hints_left: int
    learned: str
    attempts: int

    @property
    def is_consistent(self) -> bool:
        """Whether a check can give such a result."""
        return not self.passed or bool(self.attempts and not self.asked and not self.missing)


@dataclass(frozen=True, kw_only=True)
class HandedRun:
    """One run's figures, and the job that trained it."""

    name: str
    data: str
    model: str
    strategy: str
    seed: int
    status: str
    accuracy: float  # test, 0 to 1
    seconds: float
    moved: int  # number of layers
    baseline_of: str | None
    job: dict[str, Any] | None = None  # None: it cannot be trained again elsewhere
    weights: str = ""  # a hash of the trained network
    stack: dict[str, str] = field(default_factory=dict)  # what the weights depend on to the bit


@dataclass(frozen=True, kw_only=True)
class HandIn:
    """One learner's results."""

    schema: int
    learner: str
    written: str  # UTC, ISO 8601
    tlnb: str
    exercises: tuple[HandedExercise, ...]
    runs: tuple[HandedRun, ...]
    checksum: str = ""

    @property
    def is_unchanged(self) -> bool:
        """Whether the checksum fits; version 1 had none."""
        return self.schema == OLD_SCHEMA or self.checksum == checksum(asdict(self))

    def to_json(self) -> str:
        """The hand-in as JSON text."""
        return json.dumps(asdict(self), ensure_ascii=False, indent=1)


def checksum(values: Mapping[str, Any]) -> str:
    """The checksum of a hand-in's values, without the one that they hold."""
    rest = {name: value for name, value in values.items() if name != "checksum"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()[:32]


def hand_in(
    learner: str,
    checks: Iterable[Check],
    runs: Iterable[Run],
    jobs: Mapping[str, Job],
    version: str,
) -> HandIn:
    """What a session hands in.

    Args:
        jobs: each run's job, by the run's name.
        version: of tlnb.
    """
    values = HandIn(
        schema=SCHEMA,
        learner=learner,
        written=datetime.now(UTC).isoformat(timespec="seconds"),
        tlnb=version,
        exercises=tuple(_exercise(check) for check in checks),
        runs=tuple(_run(run, jobs.get(run.name)) for run in runs),
    )
    return HandIn(**{**vars(values), "checksum": checksum(asdict(values))})


def _exercise(check: Check) -> HandedExercise:
    return HandedExercise(**{**vars(check), "hints": len(check.hints)})


def _run(run: Run, job: Job | None) -> HandedRun:
    return HandedRun(
        name=run.name,
        data=run.data,
        model=run.plan.model,
        strategy=run.strategy,
        seed=run.seed,
        status=run.status,
        accuracy=run.accuracy,
        seconds=sum(run.seconds.values()),
        moved=len(run.moved),
        baseline_of=run.baseline_of,
        job=_job(run, job),
        weights=weights_of(run),
        stack=stack_of(run),
    )


def _job(run: Run, job: Job | None) -> dict[str, Any] | None:
    """The run's job as JSON has it; None if it needs more than a file can hold."""
    if job is None or run.status != "finished" or job.previous is not None:
        return None
    if job.data.request.source == "arrays" or job.asked["own"]:
        return None
    values: dict[str, Any] = json.loads(json.dumps(job.about()))
    return values


def weights_of(run: Run) -> str:
    """A hash of all layers of the trained network; empty for a run without its weights."""
    try:
        text = json.dumps(run.hashes(), sort_keys=True)
    except UsageError:
        return ""
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def stack_of(run: Run) -> dict[str, str]:
    """What the trained weights depend on to the bit, beside the job."""
    machine = {"hardware": run.hardware, "device": run.device, "precision": run.precision}
    return {**run.versions, **machine, "threads": str(run.threads)}


def read_hand_in(path: Path) -> HandIn:
    """Read a hand-in, which may come from anyone.

    Raises:
        UsageError: the file is not a hand-in.
    """
    try:
        values = typed(HandIn, parse(read_text(path, MAX_BYTES)), "the hand-in")
        if values.schema not in (SCHEMA, OLD_SCHEMA):
            raise ValueError(f"schema {values.schema}, not {SCHEMA}")
        if max(len(values.exercises), len(values.runs)) > MAX_ITEMS:
            raise ValueError(f"more than {MAX_ITEMS} exercises or runs")
        return values
    except (OSError, ValueError, TypeError) as error:
        reason = one_line(" ".join(str(error).split()))[:80]
        raise UsageError(
            f"{path.name} is not a hand-in ({reason}): "
            "%tl_check --export FILE --learner NAME writes one"
        ) from None


def write_hand_in(path: Path, handed: HandIn) -> None:
    """Write a hand-in to a file.

    Raises:
        UsageError: the file cannot be written.
    """
    try:
        path.write_text(handed.to_json(), "utf8")
    except OSError as error:
        raise UsageError(
            f"{path} cannot be written ({error.strerror}): choose a file in your own folder"
        ) from None
