"""Hyperparameter search with Optuna. Test images are never used to choose.

Trials are scored on the held-out labels (`val`) if the data has them, else by cross-validation on
the training labels, where the last epoch counts, as it does in the run. Results are stored in a
journal file or a database, so that a study can be continued later and shared by several processes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch

from tlnb.core.data.dataset import DataSet
from tlnb.core.planning.options import TrainOptions
from tlnb.core.planning.plan import Plan
from tlnb.core.runtime.errors import OneLine, TLError, UsageError
from tlnb.core.storage.activation_cache import Store
from tlnb.core.training.progress import Progress, Report
from tlnb.core.training.run import Run
from tlnb.core.training.session_folder import home_folder
from tlnb.core.training.train import train
from tlnb.core.tuning.optuna_study import beginning_with, imported_optuna, open_study, sampler
from tlnb.core.tuning.search_space import Task

if TYPE_CHECKING:
    import optuna

FOLDS = 3
CLOSE_ACCURACY = 0.01  # difference in accuracy within which a trial counts as good as the best


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One set of hyperparameters and its result."""

    number: int
    values: dict[str, Any]
    accuracy: float | None  # on the labels that score trials; None: stopped before any
    status: str  # finished, pruned, stopped
    seconds: float
    flops: float
    wh: float


@dataclass(frozen=True, kw_only=True)
class Tuning(OneLine):
    """A study: its trials, oldest first, and the best plan."""

    name: str
    strategy: str  # of the plan that was tuned; `scratch` for a baseline
    data: str
    judged_by: str
    trials: tuple[Trial, ...]
    plan: Plan  # with the best trial's values
    seconds: float  # of this call
    flops: float
    wh: float
    storage: str
    status: str = "finished"  # or "stopped", by an interrupt or a full disk
    space: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()  # repairs of its journal, if any

    @property
    def best(self) -> Trial | None:
        """The first of the best trials."""
        scored = [t for t in self.trials if t.status == "finished" and t.accuracy is not None]
        return max(scored, key=lambda t: (t.accuracy or 0.0, -t.number), default=None)

    def until_close(self, points: float = CLOSE_ACCURACY) -> tuple[int, float] | None:
        """(trials, seconds) until one came within `points` of the best accuracy, or None."""
        best, spent = self.best, 0.0
        for count, trial in enumerate(self.trials, 1):
            spent += trial.seconds
            if (
                best
                and trial.status == "finished"
                and (trial.accuracy or 0.0) >= (best.accuracy or 0.0) - points - 1e-9
            ):
                return count, spent
        return None

    def __repr__(self) -> str:
        best = (
            f"best {self.best.accuracy:.1%} by {self.judged_by}" if self.best else "none finished"
        )
        return f"Tuning {self.name}: {len(self.trials)} trials, {best}, {self.seconds:.1f} s ({self.status})"


def tune(
    task: Task,
    trials: int,
    *,
    seconds: float | None = None,
    storage: str | None = None,
    seed: int = 0,
    store: Store | None = None,
    report: Report | None = None,
) -> tuple[Tuning, list[Run]]:
    """Search hyperparameters. An interrupt ends the search; the trials so far count.

    Args:
        trials: number of trials to add to the study.
        seconds: no trial starts that would likely end later.
        storage: a file for Optuna's journal, or a database URL; default: a journal in TLNB_HOME,
            named by the task's key.

    Returns:
        The study with all its trials, including those of other processes, and the runs of this
        call, to be charged.

    Raises:
        UsageError: Optuna is missing, too few labels to hold any out, storage that cannot be used.
    """
    if trials < 1:
        raise UsageError(f"--trials {trials} is too small: use 1 or more")
    imported_optuna()
    parts, judged_by = to_choose_by(task.data, seed)
    place = storage or _default_storage(task)
    name = f"{'scratch' if task.scratch else 'tuned'}-{task.plan.model}-{task.key}"
    study, notes = open_study(name, place, seed, task.options.epochs or 1)
    search = _Search(task, study, parts, seed, store or Store())
    began = time.perf_counter()
    status, note = search.add(trials, seconds, began, report or (lambda _: None))
    tuning = Tuning(
        name=name,
        strategy="scratch" if task.scratch else task.plan.strategy,
        data=task.data.name,
        judged_by=judged_by,
        trials=tuple(
            _trial(t) for t in study.trials if t.state.is_finished() and _is_sound(task, t)
        ),
        plan=task.plan,
        seconds=time.perf_counter() - began,
        flops=sum(run.flops for run in search.runs),
        wh=sum(run.energy_wh for run in search.runs),
        storage=place,
        status=status,
        space=task.space,
        notes=(*notes, note) if note else notes,
    )
    return replace(tuning, plan=_with_best(task, tuning)), search.runs


class _Search:
    """Adds trials to a study."""

    def __init__(
        self, task: Task, study: optuna.Study, parts: list[DataSet], seed: int, store: Store
    ) -> None:
        self._task, self._study, self._parts = task, study, parts
        self._seed, self._store = seed, store
        self._sampler, self._expected = study.sampler, len(study.trials)
        self.runs: list[Run] = []

    def add(
        self, trials: int, seconds: float | None, began: float, report: Report
    ) -> tuple[str, str]:
        """Add trials; return `finished` or `stopped` (an interrupt, a full disk), and a note.

        Raises:
            UsageError: not even the first trial could be written.
        """
        for count in range(trials):
            if seconds is not None and count and not _fits(began, count, seconds):
                break
            try:
                best = max(self._accuracies(), default=None)
                report(
                    Progress(
                        run=self._study.study_name,
                        phase="tuning",
                        epoch=count,
                        epochs=trials,
                        loss=None,
                        accuracy=best,
                    )
                )
                if not self._add_one():
                    return "stopped", ""
            # Between trials; an interrupt within a trial ends its training, which is charged.
            except KeyboardInterrupt:
                return "stopped", ""
            except OSError as error:  # a full disk; the trials so far count
                reason = error.strerror or type(error).__name__
                if not self.runs:
                    raise UsageError(
                        f"the study cannot be written ({reason}): free some space, then try again"
                    ) from None
                return "stopped", f"the study could no longer be written ({reason})"
        return "finished", ""

    def _accuracies(self) -> list[float]:
        """Accuracies of the completed trials."""
        return [
            t.value
            for t in self._study.trials
            if t.value is not None and t.state.name == "COMPLETE"
        ]

    def _add_one(self) -> bool:
        """Run one trial; return False if it was interrupted."""
        from optuna.trial import TrialState

        trial = self._study.ask()
        # Other processes add trials too; seeding by the number avoids drawing the same values.
        if trial.number != self._expected:
            self._sampler = sampler(self._seed + trial.number)
        self._expected = trial.number + 1
        # The recipe's values come first, so that tuning never ends below them.
        self._study.sampler = (
            self._sampler if trial.number else beginning_with(self._task.start(), self._sampler)
        )
        tried = _try(self._task, trial, self._parts, self._store)
        self.runs += tried.runs
        if tried.stopped:
            self._study.tell(trial, state=TrialState.FAIL)
        elif tried.pruned:
            self._study.tell(trial, None, state=TrialState.PRUNED)
        else:
            self._study.tell(trial, tried.accuracy)
        return not tried.stopped


def _with_best(task: Task, tuning: Tuning) -> Plan:
    """The task's plan with the best values in its options, or in its baseline's options."""
    if tuning.best is None:
        return task.plan
    plan, options = task.planned(tuning.best.values)
    chosen = TrainOptions(
        lr=options.lr,
        weight_decay=options.weight_decay,
        augment=options.augment,
        batch_size=options.batch_size if task.scratch else None,
    )
    if task.scratch:
        return replace(task.plan, baseline_options=chosen, baseline_tuned=tuning.name)
    old = task.plan
    return replace(
        plan,
        options=chosen,
        tuned=tuning.name,
        baseline_options=old.baseline_options,
        baseline_tuned=old.baseline_tuned,
    )


# ── one trial ─────────────────────────────────────────────────────────────────────────────────────


class _Pruned(KeyboardInterrupt):
    """Ends a training early, as an interrupt would, so that its cost is recorded."""


@dataclass
class _Tried:
    runs: list[Run] = field(default_factory=list)
    pruned: bool = False
    stopped: bool = False

    @property
    def accuracy(self) -> float:
        return sum(run.accuracy for run in self.runs) / len(self.runs)


def _try(task: Task, trial: optuna.Trial, parts: list[DataSet], store: Store) -> _Tried:
    """Train with a trial's values on every part; frozen layers are computed only once."""
    plan, options = task.planned(task.suggest(trial))
    tried = _Tried()
    for number, data in enumerate(parts):
        watch = _pruning(trial, tried, number * (options.epochs or 1))
        run = train(
            task.model,
            task.anatomy,
            data,
            plan,
            options,
            name=f"trial {trial.number}",
            scopes=task.scopes,
            report=watch,
            store=store,
            trial=True,
        )
        tried.runs.append(run)
        tried.stopped = run.status == "stopped" and not tried.pruned
        if tried.pruned or tried.stopped:
            break
    for figure in ("seconds", "flops", "energy_wh"):
        values = (getattr(run, figure) for run in tried.runs)
        whole = sum(sum(v.values()) if isinstance(v, dict) else v for v in values)
        trial.set_user_attr(figure.removeprefix("energy_"), whole)
    return tried


def _pruning(trial: optuna.Trial, tried: _Tried, before: int) -> Callable[[Progress], None]:
    """A progress callback that ends a training if the study's pruner says so."""

    def watch(progress: Progress) -> None:
        if progress.phase != "training" or progress.accuracy is None:
            return
        trial.report(progress.accuracy, before + progress.epoch)
        if progress.epoch < progress.epochs and trial.should_prune():
            tried.pruned = True
            raise _Pruned

    return watch


def to_choose_by(data: DataSet, seed: int = 0) -> tuple[list[DataSet], str]:
    """Split the data for trials, without the real test images and those that only draw curves.

    Returns:
        Data sets with `train` and, as `test`, the images that score a trial; and in words what
        those are.

    Raises:
        UsageError: no labels can be held out, since a class has one or the groups are too few.
    """
    if "val" in data.splits:
        every = slice(None)
        part = data.with_splits(
            {"train": ("train", every), "val": ("val", every), "test": ("val", every)}
        )
        return [part], f"{data.splits['val']} held-out labels"
    folds = data.labelled.folds(FOLDS, seed)
    if not folds:
        raise UsageError(data.labelled.none_held)
    parts = []
    for rows, held in folds:
        learns, judges = ("train", torch.from_numpy(rows)), ("train", torch.from_numpy(held))
        parts.append(data.with_splits({"train": learns, "monitor": judges, "test": judges}))
    groups = " of whole groups" * (data.labelled.groups is not None)
    return parts, f"cross-validation on the training labels, {len(folds)} folds{groups}"


# ── the contents of a study ───────────────────────────────────────────────────────────────────────


def _is_sound(task: Task, trial: optuna.trial.FrozenTrial) -> bool:
    """Whether a trial fits this search: anyone can write anything into a journal."""
    figures = [trial.user_attrs.get(name) for name in ("seconds", "flops", "wh")]
    accuracies = [trial.value or 0.0, *trial.intermediate_values.values()]
    try:
        task.planned(dict(trial.params))
        sound = all(type(f) in (int, float) and 0 <= float(f) < math.inf for f in figures)
        in_range = all(0 <= accuracy <= 1 for accuracy in accuracies)
        return sound and trial.params.keys() == task.start().keys() and in_range
    except (TLError, TypeError, ValueError):
        return False


def _default_storage(task: Task) -> str:
    return str(home_folder() / "studies" / f"{task.plan.model}-{task.key}.log")


def _trial(trial: optuna.trial.FrozenTrial) -> Trial:
    status = {"COMPLETE": "finished", "PRUNED": "pruned"}.get(trial.state.name, "stopped")
    attrs = trial.user_attrs
    accuracy = (
        trial.value if status == "finished" else trial.intermediate_values.get(trial.last_step or 0)
    )
    return Trial(
        number=trial.number,
        values=dict(trial.params),
        accuracy=accuracy,
        status=status,
        seconds=attrs["seconds"],
        flops=attrs["flops"],
        wh=attrs["wh"],
    )


def _fits(began: float, done: int, seconds: float) -> bool:
    """Whether one more trial of average length is likely to fit."""
    spent = time.perf_counter() - began
    return spent + spent / done <= seconds
