"""Exercises: a check examines the session step by step, and reports the first step not met.

A check is a function that takes the session (and optionally the notebook's variables) and yields a
`Step` for each requirement, in order. Code after a step that is not met does not run. The learner
who meets all steps is shown the function's return value:

    @exercise("mine", "Train a new output layer on digits")
    def mine(tl):
        run = yield from a_run(tl)
        moved = f"{len(run.moved)} layers moved"
        yield Step("only the output layer moved", run.moved == ("head",), moved, "%tl_freeze")
        return f"{run.accuracy:.1%} with {run.plan.trainable_params:,} parameters trained"
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from tlnb.core.data.dataset import DataFacts, DataSet
from tlnb.core.runtime.errors import UsageError, did_you_mean, listed
from tlnb.core.training.run import Run
from tlnb.session import Session
from tlnb.session.check_results import Check


@dataclass(frozen=True)
class Step:
    """One requirement of an exercise."""

    what: str  # a statement that is true when the step is met
    met: bool
    missing: str = ""  # what was found instead; shown when it is not met
    hints: tuple[str, ...] = ()  # another one is shown at each check that still fails here

    def __init__(self, what: str, met: object, missing: str = "", *hints: str) -> None:
        self.__dict__.update(what=what, met=bool(met), missing=missing, hints=hints)


Steps = Generator[Step, None, str | None]


@dataclass(frozen=True, kw_only=True)
class Exercise:
    """A check with its name and title."""

    name: str
    title: str
    steps: Callable[..., Steps]


EXERCISES: dict[str, Exercise] = {}
A_RUN = "there is a run"


def exercise(name: str, title: str) -> Callable[[Callable[..., Steps]], Callable[..., Steps]]:
    """Register a function as the check of exercise `name`; a later one replaces it."""

    def register(steps: Callable[..., Steps]) -> Callable[..., Steps]:
        EXERCISES[name] = Exercise(name=name, title=title, steps=steps)
        return steps

    return register


def find(name: str) -> Exercise:
    """The exercise of this name.

    Raises:
        UsageError: no exercise has this name.
    """
    if name not in EXERCISES:
        hint = did_you_mean(name, EXERCISES, f"there are {listed(sorted(EXERCISES), 40)}")
        raise UsageError(f"no exercise is called {name!r}: {hint}")
    return EXERCISES[name]


def judge(
    asked: Exercise, session: Session, names: Mapping[str, Any], before: Check | None = None
) -> Check:
    """Check an exercise without changing the session.

    Args:
        names: the notebook's variables.
        before: the last result: a step that still fails shows one more hint.

    Raises:
        UsageError: the check itself fails: its author's mistake, not the learner's.
    """
    wants = len(inspect.signature(asked.steps).parameters)
    steps = asked.steps(*(session, names)[:wants])
    try:
        met, failed, learned = _walk(steps)
    except Exception as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:100]}"
        raise UsageError(
            f"the check of exercise {asked.name!r} itself failed ({reason}): its author has to fix it"
        ) from error
    attempts = 1 + (before.attempts if before else 0)
    check = replace(untried(asked), met=met, attempts=attempts)
    if failed is None:
        return replace(check, passed=True, learned=learned)
    shown = _hints_shown(failed, before)
    return replace(
        check,
        asked=failed.what,
        missing=failed.missing,
        hints=failed.hints[:shown],
        hints_left=len(failed.hints) - shown,
    )


def begins_with_a_run(asked: Exercise) -> bool:
    """Whether the first thing that an exercise asks for, of a new session, is a run."""
    try:
        return judge(asked, Session(), {}).asked == A_RUN
    except UsageError:
        return False


def _walk(steps: Steps) -> tuple[tuple[str, ...], Step | None, str]:
    """The steps that are met, the first that is not, and what the learner is shown at the end."""
    met: list[str] = []
    while True:
        try:
            step = next(steps)
        except StopIteration as end:
            return tuple(met), None, end.value or ""
        if not step.met:
            return tuple(met), step, ""
        met.append(step.what)


def _hints_shown(step: Step, before: Check | None) -> int:
    """How many hints of a step that is not met are shown: one more if it failed last time."""
    if before is None or before.asked != step.what:
        return 0
    return min(len(step.hints), len(before.hints) + 1)


def untried(asked: Exercise) -> Check:
    """The result of an exercise that has not been checked yet."""
    return Check(name=asked.name, title=asked.title, passed=False)


# ── steps that many checks share ──


def some_data(tl: Session, *sources: str, line: str = "") -> Generator[Step, None, DataSet]:
    """Require data, from one of these sources if any are given."""
    data = tl.dataset
    line = line or f"%tl_data {sources[0] if sources else 'digits'}"
    yield Step("data are loaded", data is not None, "no data yet", line)
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
    """Require a finished run that is not a baseline, and return the last one.

    Args:
        strategy: the run's strategy.
        where: a condition on the run, which `like` states in words.
        line: the line that would help, shown as a hint.
    """
    runs = [r for r in tl.runs if r.baseline_of is None]
    yield Step(A_RUN, runs, "nothing was trained yet", line)
    ended = [r for r in runs if r.status == "finished"]
    yield Step(
        "it ran to its end",
        ended,
        f"run {runs[-1].name!r} is {runs[-1].status}",
        "%tl_resume continues it",
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
    given = [f"{option} {value}" for option, value in amount.items() if value is not None]
    return " ".join([facts.name, *given])
