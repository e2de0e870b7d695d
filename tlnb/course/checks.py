"""Exercises: a check looks at the session's state step by step, and says of the first step that is not met what is missing.

A check is a function that takes the session (and, if it wants them, the notebook's variables) and yields a `Step` for
everything that it asks for, in order. What stands after a step that is not met is not run. What the function returns is told
to the learner who has met them all:

    @exercise("mine", "Train a new output layer on digits")
    def mine(tl):
        run = yield from a_run(tl)
        yield Step("only the output layer moved", run.moved == ("head",), f"{len(run.moved)} layers moved", "%tl_freeze")
        return f"{run.accuracy:.1%} of the test images, with {run.plan.trainable_params:,} parameters trained"
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tlnb.core.runtime.errors import OneLine, UsageError, did_you_mean, listed

if TYPE_CHECKING:
    from tlnb.core.data.dataset import DataFacts, DataSet
    from tlnb.core.training.run import Run
    from tlnb.session import Session

SCHEMA = 1


@dataclass(frozen=True)
class Step:
    """One thing that an exercise asks for."""

    what: str  # as a statement that is true when it is met
    met: bool
    missing: str = ""  # what was found instead; shown when it is not met
    hints: tuple[
        str, ...
    ] = ()  # one more is shown each time that the exercise is checked and still lacks this step

    def __init__(self, what: str, met: object, missing: str = "", *hints: str) -> None:
        for name, value in (
            ("what", what),
            ("met", bool(met)),
            ("missing", missing),
            ("hints", hints),
        ):
            object.__setattr__(self, name, value)


Steps = Generator[Step, None, str | None]


@dataclass(frozen=True)
class Exercise:
    """A check with its name and what it asks for."""

    name: str
    title: str
    steps: Callable[..., Steps]


@dataclass(frozen=True)
class Check(OneLine):
    """What became of an exercise."""

    name: str
    title: str
    passed: bool
    met: tuple[str, ...] = ()  # the steps that are met, in order
    asked: str = ""  # the first that is not
    missing: str = ""  # what was found instead
    hints: tuple[str, ...] = ()  # as many as were earned
    hints_left: int = 0
    learned: str = ""  # told when it is passed
    attempts: int = 0

    def __repr__(self) -> str:
        if not self.attempts:
            return f"Check {self.name}: not tried yet ({self.title})"
        if self.passed:
            return f"Check {self.name}: passed. {self.learned}".rstrip()
        instead = f"; found: {self.missing}" if self.missing else ""
        hint = f"; hint: {self.hints[-1]}" if self.hints else ""
        return f"Check {self.name}: not yet; missing: {self.asked}{instead}{hint}"


@dataclass(frozen=True)
class Checks(OneLine):
    """All exercises there are, and how far the learner is."""

    checks: tuple[Check, ...]

    def __repr__(self) -> str:
        return (
            f"Checks: {sum(c.passed for c in self.checks)} of {len(self.checks)} exercises passed"
        )


EXERCISES: dict[str, Exercise] = {}


def exercise(name: str, title: str) -> Callable[[Callable[..., Steps]], Callable[..., Steps]]:
    """Make a function the check of the exercise `name`; a later one of the same name takes its place."""

    def register(steps: Callable[..., Steps]) -> Callable[..., Steps]:
        EXERCISES[name] = Exercise(name, title, steps)
        return steps

    return register


def find(name: str) -> Exercise:
    """The exercise of this name.

    Raises:
        UsageError: there is none.
    """
    if name not in EXERCISES:
        hint = did_you_mean(name, EXERCISES, f"there are {listed(sorted(EXERCISES), 40)}")
        raise UsageError(f"no exercise is called {name!r}: {hint}")
    return EXERCISES[name]


def judge(
    asked: Exercise, session: Session, names: Mapping[str, Any], before: Check | None = None
) -> Check:
    """Check an exercise; nothing of the session changes.

    Args:
        names: the notebook's variables.
        before: what became of it last time: a step that still fails shows one more hint.

    Raises:
        UsageError: the check itself fails, which is its author's mistake, not the learner's.
    """
    attempts = 1 + (before.attempts if before else 0)
    met: list[str] = []
    wants = len(inspect.signature(asked.steps).parameters)
    steps = asked.steps(*(session, names)[:wants])
    try:
        while True:
            step = next(steps)
            if not step.met:
                again = before is not None and before.asked == step.what
                shown = (
                    min(len(step.hints), len(before.hints) + 1)
                    if before is not None and again
                    else 0
                )
                return Check(
                    asked.name,
                    asked.title,
                    False,
                    tuple(met),
                    step.what,
                    step.missing,
                    step.hints[:shown],
                    len(step.hints) - shown,
                    attempts=attempts,
                )
            met.append(step.what)
    except StopIteration as end:
        return Check(
            asked.name, asked.title, True, tuple(met), learned=end.value or "", attempts=attempts
        )
    except Exception as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:100]}"
        raise UsageError(
            f"the check of exercise {asked.name!r} itself failed ({reason}): its author has to mend it"
        ) from error


def untried(asked: Exercise) -> Check:
    """An exercise that was not checked yet."""
    return Check(asked.name, asked.title, False)


def grades(learner: str, checks: Iterable[Check], runs: Iterable[Run], version: str) -> str:
    """One learner's results as JSON text. It says what the learner's session said: it is no proof against cheating."""
    done = [
        {**asdict(check), "met": list(check.met), "hints": len(check.hints)} for check in checks
    ]
    brief = [
        {
            "name": r.name,
            "data": r.data,
            "model": r.plan.model,
            "strategy": r.strategy,
            "seed": r.seed,
            "status": r.status,
            "accuracy": r.accuracy,
            "seconds": sum(r.seconds.values()),
            "moved": len(r.moved),
            "baseline_of": r.baseline_of,
        }
        for r in runs
    ]
    when = datetime.now(UTC).isoformat(timespec="seconds")
    values = {
        "schema": SCHEMA,
        "learner": learner,
        "written": when,
        "tlnb": version,
        "exercises": done,
        "runs": brief,
    }
    return json.dumps(values, ensure_ascii=False, indent=1)


def write_grades(path: Path, text: str) -> None:
    """Raises `UsageError` where the file cannot be written."""
    try:
        path.write_text(text, "utf8")
    except OSError as error:
        raise UsageError(
            f"{path} cannot be written ({error.strerror}): give a file in a folder of yours"
        ) from None


# ── what many checks ask for ──


def some_data(tl: Session, *sources: str, line: str = "") -> Generator[Step, None, DataSet]:
    """Data are there, of one of these sources."""
    data = tl.dataset
    line = line or f"%tl_data {sources[0] if sources else 'digits'}"
    yield Step("there are data", data is not None, "no data yet", line)
    assert data is not None
    if sources:
        wanted = " or ".join(sources)
        yield Step(
            f"the data are {wanted}",
            data.request.source in sources,
            f"the data are {data.request.source}",
            line,
        )
    return data


def a_run(
    tl: Session,
    strategy: str | None = None,
    where: Callable[[Run, DataFacts], bool] | None = None,
    *,
    like: str = "",
    line: str = "%tl_train",
) -> Generator[Step, None, Run]:
    """The last finished run that is no baseline; of those that fulfil `where`, which `like` puts in words."""
    runs = [r for r in tl.runs if r.baseline_of is None]
    yield Step("there is a run", runs, "nothing was trained yet", line)
    ended = [r for r in runs if r.status == "finished"]
    yield Step(
        "it ran to its end",
        ended,
        f"run {runs[-1].name!r} is {runs[-1].status}",
        "%tl_resume goes on with it",
    )
    if strategy is not None:
        kept = [r for r in ended if r.strategy == strategy]
        strategies = ", ".join(dict.fromkeys(r.strategy for r in ended))
        yield Step(
            f"its strategy is {strategy}",
            kept,
            f"so far there are runs of {strategies}",
            f"%tl_strategy {strategy}, then %tl_train",
        )
        ended = kept
    if where is not None:
        kept = [r for r in ended if where(r, tl.data_of(r))]
        yield Step(
            like,
            kept,
            f"run {ended[-1].name!r}, on {_data_words(tl.data_of(ended[-1]))}, is not like that",
            line,
        )
        ended = kept
    return ended[-1]


def _data_words(facts: DataFacts) -> str:
    request = facts.request
    amount = {
        "--per-class": request.per_class,
        "--limit": request.limit,
        "--classes": request.classes,
        "--seed": request.seed or None,
    }
    return " ".join(
        [
            facts.name,
            *(f"{option} {value}" for option, value in amount.items() if value is not None),
        ]
    )
