"""Runs recorded elsewhere, with notes for the reader, compared like the user's own.

A record is a JSON file: `schema`, `recorded` (a date), `typed` (the lines that made it), `notes`,
`data` (`name`, `counts` by class, `splits`, `skipped`), `model` (a name of the catalogue), `runs`
(each as `Run.to_json` writes it).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tlnb.core.costs.pretraining import pretraining_of
from tlnb.core.evaluation.compare import compare
from tlnb.core.evaluation.comparison import Comparison
from tlnb.core.models.catalogue import torchvision_card, torchvision_weights
from tlnb.core.runtime.errors import OneLine, UsageError
from tlnb.core.runtime.paths import read_text, user_path
from tlnb.core.runtime.typed_json import parse, typed
from tlnb.core.training.run import Run

SCHEMA = 1


@dataclass(frozen=True, kw_only=True)
class RecordedData:
    """What a comparison needs to know about data that are not available."""

    name: str
    counts: Mapping[str, int]  # labels in use per class
    splits: Mapping[str, int]
    skipped: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Recorded(OneLine):
    """Runs that someone else trained, elsewhere."""

    when: str  # a date
    typed: tuple[str, ...]  # the lines that were typed
    notes: tuple[str, ...]  # what a reader must know, one sentence each
    data: RecordedData
    model: str
    runs: tuple[Run, ...]

    def __repr__(self) -> str:
        accuracies = ", ".join(f"{run.name} {run.accuracy:.1%}" for run in self.runs)
        return (
            f"Recorded on {self.when}: {self.model} on {self.data.name}, {accuracies} "
            f"({self.hardware})"
        )

    @property
    def hardware(self) -> str:
        """The hardware they ran on."""
        run = self.runs[0]
        versions = f", torch {run.versions['torch']}" if "torch" in run.versions else ""
        return f"{run.hardware}, {run.device}, {run.threads} threads, {run.precision}{versions}"

    def compare(self, target: float | None = None) -> Comparison:
        """Compare the runs; notes say that they were recorded, when, and on what hardware.

        Args:
            target: accuracy in 0..1 to measure the time to; default: the highest that all of them
                reached.
        """
        known = torchvision_weights(self.model)
        unpaid = pretraining_of(torchvision_card(self.model)) if known else None
        comparison = compare(self.runs, self.data, unpaid, target=target)
        return replace(
            comparison,
            notes=(
                f"recorded on {self.when}, not measured here: {self.hardware}",
                *self.notes,
                *comparison.notes,
            ),
        )


@dataclass(frozen=True, kw_only=True)
class _File:
    """The fields of the file; its runs are checked one by one."""

    schema: int
    recorded: str
    typed: tuple[str, ...]
    notes: tuple[str, ...]
    data: RecordedData
    model: str
    runs: tuple[dict[str, Any], ...]


def read_recorded(file: str | Path) -> Recorded:
    """Read the runs in a file.

    Raises:
        UsageError: the file does not exist, its path is invalid, or it does not hold recorded runs.
    """
    path = user_path(file)
    try:
        values = parse(read_text(path))
        if values["schema"] != SCHEMA:
            raise UsageError(
                f"{path.name} has another schema than {SCHEMA}: record the runs with this version "
                "of tlnb"
            )
        record = typed(_File, values, "the file")
        runs = tuple(Run.from_json(json.dumps(run)) for run in record.runs)
        _check(record.data, runs)
        return Recorded(
            when=record.recorded,
            typed=record.typed,
            notes=record.notes,
            data=record.data,
            model=record.model,
            runs=runs,
        )
    except OSError as error:
        raise UsageError(
            f"{str(path)!r} cannot be read ({error.strerror}): give a file of recorded runs"
        ) from None
    except (
        KeyError,
        TypeError,
        ValueError,
        RecursionError,
    ) as error:  # what can be parsed may still be nested too deeply to write
        raise UsageError(
            f"{path.name} does not hold recorded runs ({str(error)[:80]}): give another file"
        ) from None


def _check(data: RecordedData, runs: Sequence[Run]) -> None:
    """Raise `ValueError` if there is nothing to compare."""
    if not runs:
        raise ValueError("no runs")
    if not data.counts or min(data.counts.values()) < 0:
        raise ValueError("no classes, or a negative count")
