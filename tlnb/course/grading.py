"""Grade a class: a table of hand-ins, what each exercise lacks most often, and what was altered."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from random import SystemRandom

from tlnb.core.runtime.errors import UsageError, listed, one_line
from tlnb.course.checks import EXERCISES, begins_with_a_run
from tlnb.course.hand_in import HandedRun, HandIn, read_hand_in
from tlnb.course.retraining import Retrained, retrain
from tlnb.session.job_file import write_whole

CANVAS = ("Student", "ID", "SIS User ID", "SIS Login ID", "Section")  # what its import needs
MOODLE = ("Email address",)  # Moodle matches learners by it
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet would run a cell that begins so
MAX_NAME = 40  # characters of a name in the table


@dataclass(frozen=True, kw_only=True)
class Graded:
    """One hand-in, and what is wrong with it."""

    file: str
    handed: HandIn | None  # None: it could not be read
    problems: tuple[str, ...] = ()
    verified: int = 0  # number of runs that were trained again with the same result
    unverified: tuple[str, ...] = ()  # why others were not

    @property
    def passed(self) -> frozenset[str]:
        """The names of the exercises that count: none of a hand-in with a problem."""
        each = self.handed.exercises if self.handed and not self.problems else ()
        return frozenset(e.name for e in each if e.passed)

    @property
    def without_a_run(self) -> list[str]:
        """Passed exercises that ask for a run first, where none that ended is handed in.

        It is no contradiction: `%tl_reset` keeps results and drops runs.
        """
        if self.handed is None or any(run.status == "finished" for run in self.handed.runs):
            return []
        known = sorted(self.passed & set(EXERCISES))
        return [name for name in known if begins_with_a_run(EXERCISES[name])]

    @property
    def learner(self) -> str:
        """The learner's name, without an address in `Ada Lovelace <ada@example.org>`."""
        return one_line(_split_name(self.handed.learner)[0]) if self.handed else self.file

    def fulfils(self, required: Iterable[str]) -> bool:
        """Whether nothing is wrong and all these exercises are passed."""
        return not self.problems and self.passed >= set(required)


def grade_all(where: Path, verify: str = "0") -> list[Graded]:
    """Grade a hand-in, or all `.json` files of a folder and the folders in it.

    Args:
        verify: the share of the hand-ins to train again, `10%`; the sample is random.

    Raises:
        UsageError: no such folder or file, nothing in it, not a share.
    """
    files = _files(where)
    count = _sample_size(verify, len(files))
    chosen = set(SystemRandom().sample(files, count))
    return [_graded(file, file in chosen) for file in files]


def _files(where: Path) -> list[Path]:
    if where.is_file():
        return [where]
    if not where.is_dir():
        raise UsageError(f"{where} is not there: give a folder of hand-ins, or one of them")
    inside = (p for p in sorted(where.rglob("*.json")) if p.is_file() and not p.is_symlink())
    files = [p for p in inside if p.resolve().is_relative_to(where.resolve())]
    if not files:
        raise UsageError(
            f"{where} has no hand-ins (.json): "
            "learners write one with %tl_check --export FILE --learner NAME"
        )
    return files


def _sample_size(verify: str, files: int) -> int:
    match = re.fullmatch(r"(\d+(?:[.]\d+)?)(%?)", verify.strip())
    share = float(match[1]) / (100 if match[2] else 1) if match else -1
    if not 0 <= share <= 1:
        raise UsageError(f"--verify {verify} is not a share: write --verify 10%")
    return ceil(share * files)


def _graded(file: Path, verify: bool) -> Graded:
    try:
        handed = read_hand_in(file)
    except UsageError as error:
        return Graded(file=file.name, handed=None, problems=(str(error),))
    problems = tuple(_contradictions(handed))
    if not verify or problems:
        return Graded(file=file.name, handed=handed, problems=problems)
    again = retrain(file) if any(run.job for run in handed.runs) else {}
    compared = {run.name: _difference(run, again.get(run.name)) for run in handed.runs}
    return Graded(
        file=file.name,
        handed=handed,
        problems=tuple(f"run {name!r}: {d}" for name, (d, _) in compared.items() if d),
        verified=sum(d == why == "" for d, why in compared.values()),
        unverified=tuple(f"run {name!r}: {why}" for name, (_, why) in compared.items() if why),
    )


def _contradictions(handed: HandIn) -> Iterable[str]:
    """What in a hand-in cannot be as its session wrote it."""
    if not handed.is_unchanged:
        yield "its checksum does not fit: it was changed after it was written"
    for each in handed.exercises:
        if not each.is_consistent:
            yield f"exercise {each.name!r} is marked as passed although a step is missing"
    names = [run.name for run in handed.runs]
    if len(set(names)) < len(names):
        yield "two of its runs have the same name"


def _difference(run: HandedRun, again: Retrained | None) -> tuple[str, str]:
    """What differs in a run trained again, and why it could not be compared; both may be empty."""
    if run.job is None:
        return "", "it has no job, so it was not trained again"
    if again is None:
        return "", "training it again took too long"
    if again.problem:
        return "", again.problem
    for what in ("strategy", "seed", "moved"):
        if getattr(run, what) != getattr(again, what):
            return f"{what} is {getattr(again, what)}, not {getattr(run, what)}", ""
    same_stack = run.stack == again.stack
    low, high = again.interval
    close = run.accuracy == again.accuracy if same_stack else low <= run.accuracy <= high
    if not close:
        return f"its accuracy is {again.accuracy:.1%}, not {run.accuracy:.1%}", ""
    if same_stack and run.weights != again.weights:
        return "its weights are not those that its job trains", ""
    return "", ""


# ── tables ──


def report(graded: Sequence[Graded]) -> str:
    """The results as text: a line for each learner, what is missing most often, what is wrong."""
    total = len(EXERCISES)
    lines = [
        f"{each.learner[:MAX_NAME]:<{MAX_NAME}} {len(each.passed):>2} of {total}  {_words(each)}"
        for each in graded
    ]
    lacks = [f"{name}: {what} ({n} learners)" for name, (what, n) in missing_most(graded).items()]
    wrong = [f"{one_line(each.file)}: {p}" for each in graded for p in each.problems]
    parts = [lines, *([["", "Missing most often", *lacks]] if lacks else [])]
    parts += [["", "Not counted", *map(one_line, wrong)]] if wrong else []
    return "\n".join(line.rstrip() for part in parts for line in part)


def _words(each: Graded) -> str:
    if each.problems:
        return "not counted, see below"
    runs = f"{each.verified} runs trained again: the same result" if each.verified else ""
    others = f"{len(each.unverified)} not trained again" if each.unverified else ""
    lone = f"no run handed in for {listed(each.without_a_run)}" if each.without_a_run else ""
    return ", ".join(words for words in (runs, others, lone) if words)


def missing_most(graded: Sequence[Graded]) -> dict[str, tuple[str, int]]:
    """By exercise: the step that most learners who tried lack, and how many they are."""
    asked: dict[str, Counter[str]] = {}
    for each in graded:
        for exercise in each.handed.exercises if each.handed and not each.problems else ():
            if exercise.attempts and not exercise.passed and exercise.name in EXERCISES:
                asked.setdefault(exercise.name, Counter())[one_line(exercise.asked)[:100]] += 1
    return {name: asked[name].most_common(1)[0] for name in sorted(asked)}


def write_csv(path: Path, graded: Sequence[Graded]) -> None:
    """Write a table with the columns that the imports of Canvas and Moodle look for.

    Raises:
        UsageError: the file cannot be written.
    """
    names = sorted(EXERCISES)
    titles = [_plain(f"{name} {EXERCISES[name].title}") for name in names]
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow([*CANVAS, *MOODLE, *titles, "tlnb total"])
    table.writerow(["    Points Possible", *[""] * 5, *["1"] * len(names), len(names)])
    for each in graded:
        name, address = _split_name(each.handed.learner) if each.handed else (each.file, "")
        points = [int(exercise in each.passed) for exercise in names]
        who = [_plain(name), "", "", _plain(address), "", _plain(address)]
        table.writerow([*who, *points, sum(points)])
    write_whole(path, text.getvalue())


def _split_name(learner: str) -> tuple[str, str]:
    match = re.fullmatch(r"\s*([^<>]*?)\s*<\s*([^<>\s]+)\s*>\s*", learner)
    return (match[1] or match[2], match[2]) if match else (learner, "")


def _plain(text: str) -> str:
    """A cell that no spreadsheet takes for a formula."""
    safe = one_line(text)
    return f"'{safe}" if safe.startswith(FORMULA) else safe
