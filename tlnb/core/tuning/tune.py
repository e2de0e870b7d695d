"""Searching hyperparameters with Optuna: what to search, what to choose by, and what it cost. Test images choose nothing.

Where the data hold labels out (`val`) trials are judged by those; else by cross-validation on the training labels, whose
last epoch counts, as it does in the run. Results lie in a journal file or a database, so that a study can go on later and
several processes can share it.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from tlnb.core.data.dataset import DataSet
from tlnb.core.data.splits import folds_of
from tlnb.core.models.anatomy import Anatomy
from tlnb.core.models.pretrained import PretrainedModel
from tlnb.core.planning.edit import Scopes
from tlnb.core.planning.options import TrainOptions
from tlnb.core.planning.plan import Plan, plan_strategy
from tlnb.core.planning.recipes import DRAWING_EDGE
from tlnb.core.runtime.errors import OneLine, TLError, UsageError
from tlnb.core.storage.activation_cache import Store, key_of
from tlnb.core.training.progress import Progress, Report
from tlnb.core.training.run import Run
from tlnb.core.training.session_folder import home_folder
from tlnb.core.training.trainer import train
from tlnb.core.tuning.study_journal import check_scores, mended, set_aside

if TYPE_CHECKING:
    import optuna

FOLDS = 3
AROUND = 10.0  # times the recipe's learning rate, up and down
DECAYS = (1e-4, 0.5)
BATCHES = (16, 32, 64, 128)  # searched for a random start
DEEPER = ("head", "partial", "full")  # strategies within which the depth of freezing is searched
STARTUP = 5  # trials that are drawn at random before the search learns, and before any is pruned
OPENING = (0.1, 0.3, 1.0)  # seconds before a study that could not be opened is tried again
CLOSE = 0.01  # accuracy within which a trial is as good as the best


@dataclass(frozen=True)
class Trial:
    """One set of hyperparameters, and what became of it."""

    number: int
    values: dict[str, Any]
    accuracy: float | None  # on what trials are judged by; None: stopped before it could be told
    status: str  # finished, pruned, stopped
    seconds: float
    flops: float
    wh: float


@dataclass(frozen=True)
class Tuning(OneLine):
    """A study: its trials, oldest first, and what they found."""

    name: str
    strategy: str  # of the plan it was for; `scratch` for a baseline
    data: str
    judged_by: str
    trials: tuple[Trial, ...]
    plan: Plan  # with the best trial's values
    seconds: float  # of this call
    flops: float
    wh: float
    storage: str
    status: str = "finished"  # stopped: by an interrupt
    space: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()  # what became of its journal, where something did

    @property
    def best(self) -> Trial | None:
        """The first of the best trials."""
        told = [t for t in self.trials if t.status == "finished" and t.accuracy is not None]
        return max(told, key=lambda t: (t.accuracy or 0.0, -t.number), default=None)

    def until_close(self, points: float = CLOSE) -> tuple[int, float] | None:
        """(trials, seconds) until one came within so much of the best accuracy; None without any."""
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
        found = (
            f"best {self.best.accuracy:.1%} by {self.judged_by}" if self.best else "none finished"
        )
        return f"Tuning {self.name}: {len(self.trials)} trials, {found}, {self.seconds:.1f} s ({self.status})"


@dataclass(frozen=True)
class Task:
    """What is tuned: a training as data."""

    model: PretrainedModel
    anatomy: Anatomy
    data: DataSet
    plan: Plan
    options: TrainOptions  # filled in: the values that the search starts from
    scopes: Scopes | None = None

    @property
    def scratch(self) -> bool:
        return self.plan.start == "random"

    @property
    def key(self) -> str:
        """Everything that makes results comparable: two studies with the same key are one."""
        plan = (
            self.plan
            if self.depths is None
            else replace(self.plan, strategy="custom", frozen=(), trained=())
        )
        about = (
            plan.model,
            plan.start,
            plan.edits,
            plan.frozen,
            self.model.weights,
            self.data.fingerprint,
        )
        options = replace(self.options, lr=None, weight_decay=None, augment=None, batch_size=None)
        return key_of(about, options, self.space)[:8]

    @property
    def depths(self) -> int | None:
        """How many stages, counted from the output, may train; None where depth is not searched."""
        return (
            len(self.anatomy.stages) if not self.scratch and self.plan.strategy in DEEPER else None
        )

    @property
    def space(self) -> tuple[str, ...]:
        """What is searched, in words."""
        lr = self.options.lr or 0.001
        augment = self.augmentations
        words = [
            f"learning rate {lr / AROUND:g} to {lr * AROUND:g}",
            f"weight decay {DECAYS[0]:g} to {DECAYS[1]:g}",
            f"augmentation {' or '.join(augment)}",
        ]
        words += [f"the last 1 to {self.depths} stages"] if self.depths else []
        return (*words, *([f"batches of {', '.join(map(str, BATCHES))}"] if self.scratch else []))

    @property
    def augmentations(self) -> tuple[str, str]:
        return ("none", "photo" if self.data.edge > DRAWING_EDGE else "light")

    def start(self) -> dict[str, Any]:
        """The recipe's values: the first trial, so that tuning never ends below it."""
        values: dict[str, Any] = {"lr": self.options.lr, "augment": self.options.augment}
        values["weight_decay"] = min(max(self.options.weight_decay or 0.0, DECAYS[0]), DECAYS[1])
        if values["augment"] not in self.augmentations:
            values["augment"] = self.augmentations[0]
        if self.depths:
            stages = self.anatomy.stages_of(self.plan.trained)
            values["last"] = max(1, len(stages))
        if self.scratch:
            values["batch_size"] = min(
                BATCHES, key=lambda size: abs(size - (self.options.batch_size or 32))
            )
        return values

    def suggest(self, trial: optuna.Trial) -> dict[str, Any]:
        """Values from the search space."""
        lr = self.options.lr or 0.001
        values: dict[str, Any] = {
            "lr": trial.suggest_float("lr", lr / AROUND, lr * AROUND, log=True),
            "weight_decay": trial.suggest_float("weight_decay", *DECAYS, log=True),
            "augment": trial.suggest_categorical("augment", self.augmentations),
        }
        if self.depths:
            values["last"] = trial.suggest_int("last", 1, self.depths)
        if self.scratch:
            values["batch_size"] = trial.suggest_categorical("batch_size", BATCHES)
        return values

    def planned(self, values: dict[str, Any]) -> tuple[Plan, TrainOptions]:
        """The plan and the options of a trial."""
        found = {k: v for k, v in values.items() if k != "last"}
        plan = self.plan
        if "last" in values:
            plan = depth_plan(self.anatomy, self.plan, values["last"])
        return plan, replace(self.options, **found, stage_lr=())


def depth_plan(anatomy: Anatomy, plan: Plan, last: int) -> Plan:
    """The plan that trains the last stages: `head` for one, `full` for all."""
    if last <= 1:
        return plan_strategy(anatomy, "head", plan.edits)
    if last >= len(anatomy.stages):
        return plan_strategy(anatomy, "full", plan.edits)
    return plan_strategy(anatomy, "partial", plan.edits, last)


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
    """Search. An interrupt ends it; what was tried so far counts.

    Args:
        trials: to add to what the study has.
        seconds: no trial begins that is likely to end later.
        storage: a file for Optuna's journal, or a database's URL; default: a journal by the task's key in TLNB_HOME.

    Returns:
        The study with all its trials, those of other processes included, and the runs of this call, to be charged.

    Raises:
        UsageError: no Optuna, too few labels to choose by, storage that cannot be used.
    """
    if trials < 1:
        raise UsageError(f"--trials {trials} tries nothing: use 1 or more")
    study_of, pruned, failed = _optuna()
    parts, judged_by = to_choose_by(task.data, seed)
    place = storage or _default_storage(task)
    name = f"{'scratch' if task.scratch else 'tuned'}-{task.plan.model}-{task.key}"
    study, notes = study_of(name, place, seed, task.options.epochs or 1)
    sampler, expected = study.sampler, len(study.trials)
    runs, status, tell, held = list[Run](), "finished", report or (lambda _: None), store or Store()
    began = time.perf_counter()
    for count in range(trials):
        if seconds is not None and count and not _room(began, count, seconds):
            break
        try:
            done = (
                t.value for t in study.trials if t.value is not None and t.state.name == "COMPLETE"
            )
            best = max(done, default=None)
            tell(Progress(name, "tuning", count, trials, None, best))
            trial = study.ask()
            if (
                trial.number != expected
            ):  # others add trials too: by its number each draws what none of them draws
                sampler = _sampler(seed + trial.number)
            study.sampler, expected = (
                sampler if trial.number else _recipe(task, sampler),
                trial.number + 1,
            )
            mine = _try(task, trial, parts, held)
            runs += mine.runs
            if mine.stopped:
                study.tell(trial, state=failed)
                status = "stopped"
                break
            study.tell(
                trial, None if mine.pruned else mine.accuracy, state=pruned if mine.pruned else None
            )
        except (
            KeyboardInterrupt
        ):  # between trials: within one it ends the training, which is charged
            status = "stopped"
            break
        except OSError as error:  # a full disk: what was tried counts
            if not runs:
                raise UsageError(
                    f"the study cannot be written ({_reason(error)}): free some room, then try again"
                ) from None
            status, notes = (
                "stopped",
                (*notes, f"the study could not be written any more ({_reason(error)})"),
            )
            break
    found = tuple(_trial(t) for t in study.trials if t.state.is_finished() and _is_sound(task, t))
    tuning = Tuning(
        name,
        "scratch" if task.scratch else task.plan.strategy,
        task.data.name,
        judged_by,
        found,
        task.plan,
        time.perf_counter() - began,
        sum(r.flops for r in runs),
        sum(r.energy_wh for r in runs),
        place,
        status,
        task.space,
        notes,
    )
    return replace(tuning, plan=_with_best(task, tuning)), runs


def _with_best(task: Task, tuning: Tuning) -> Plan:
    """The task's plan with the best values in its options, or in those for its baseline."""
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


# ── one trial ─────────────────────────────────────────────────────────────────────────────────────────────────────


class _Enough(KeyboardInterrupt):
    """Ends a training early, as an interrupt would: what it cost is kept."""


@dataclass
class _Tried:
    runs: list[Run] = field(default_factory=list)
    pruned: bool = False
    stopped: bool = False

    @property
    def accuracy(self) -> float:
        return sum(run.accuracy for run in self.runs) / len(self.runs)


def _try(task: Task, trial: optuna.Trial, parts: list[DataSet], store: Store) -> _Tried:
    """Train with a trial's values, on every part; what is frozen is computed once for all trials."""
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
    """Ends a training that others of the study were ahead of at the same epoch."""

    def watch(progress: Progress) -> None:
        if progress.phase != "training" or progress.accuracy is None:
            return
        trial.report(progress.accuracy, before + progress.epoch)
        if progress.epoch < progress.epochs and trial.should_prune():
            tried.pruned = True
            raise _Enough

    return watch


def to_choose_by(data: DataSet, seed: int = 0) -> tuple[list[DataSet], str]:
    """The data as trials see them: the real test images, and those that only draw curves, are not among them.

    Returns:
        Data sets with `train`, and with `test` standing for what trials are judged by; and in words what that is.

    Raises:
        UsageError: a class with one label, of which none can be held out.
    """
    if "val" in data.splits:
        every = slice(None)
        judged = data.with_splits(
            {"train": ("train", every), "val": ("val", every), "test": ("val", every)}
        )
        return [judged], f"{data.splits['val']} held-out labels"
    folds = min(FOLDS, data.per_class)
    if folds < 2:
        raise UsageError(
            "one label in a class leaves nothing to choose by: %tl_data with --per-class 2 or more"
        )
    parts = []
    for rows, held in folds_of(data.labels["train"].numpy(), folds, seed):
        learns, judges = ("train", torch.from_numpy(rows)), ("train", torch.from_numpy(held))
        parts.append(data.with_splits({"train": learns, "monitor": judges, "test": judges}))
    return parts, f"cross-validation on the training labels, {folds} folds"


# ── Optuna ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _optuna() -> tuple[
    Callable[[str, str, int, int], tuple[optuna.Study, tuple[str, ...]]], Any, Any
]:
    """How a study is opened, with what became of its journal; and the two states that are told."""
    try:
        import optuna
    except ImportError:
        raise UsageError(
            "tuning needs Optuna: pip install 'tlnb[tune]', then restart the kernel"
        ) from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)

    def study_in(name: str, place: str) -> optuna.Study:
        storage = _storage(place)
        make = partial(
            optuna.create_study,
            storage=storage,
            study_name=name,
            direction="maximize",
            load_if_exists=True,
        )
        study = _opened(make)
        check_scores(study.get_trials())  # all of them can be read
        return study

    def study_of(
        name: str, place: str, seed: int, epochs: int
    ) -> tuple[optuna.Study, tuple[str, ...]]:
        try:
            notes = [mended(place)]
            try:
                study = study_in(name, place)
            except Exception as error:
                if "://" in place or isinstance(error, OSError):
                    raise
                notes.append(set_aside(Path(place).expanduser(), type(error).__name__))
                study = study_in(name, place)
            study.sampler = _sampler(seed + len(study.trials))
            study.pruner = optuna.pruners.MedianPruner(STARTUP, n_warmup_steps=max(1, epochs // 4))
            return study, tuple(filter(None, notes))
        except Exception as error:  # a file, a database, its driver: each raises its own
            reason = " ".join(str(error).split())[:100]
            raise UsageError(
                f"--storage {place} cannot be used ({reason}): give a file, or sqlite:///tuning.db"
            ) from None

    return study_of, optuna.trial.TrialState.PRUNED, optuna.trial.TrialState.FAIL


def _opened(open_study: Callable[[], optuna.Study]) -> optuna.Study:
    """The study; one that several processes make at the same moment is there at the next look."""
    for wait in OPENING:
        try:
            return open_study()
        except (
            Exception
        ):  # each storage has its own words for what another process did a moment before
            time.sleep(wait)
    return open_study()


def _recipe(task: Task, otherwise: Any) -> Any:
    """The sampler of a study's first trial: the recipe's values, so that tuning never ends below them."""
    from optuna.exceptions import ExperimentalWarning
    from optuna.samplers import PartialFixedSampler

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)  # it has been that since 2.4
        return PartialFixedSampler(task.start(), otherwise)


def _sampler(seed: int) -> Any:
    from optuna.samplers import TPESampler

    return TPESampler(seed=seed, n_startup_trials=STARTUP)


def _storage(place: str) -> Any:
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

    if "://" in place:
        return place
    path = Path(place).expanduser()
    path.parent.mkdir(parents=True, exist_ok=True)
    return JournalStorage(JournalFileBackend(str(path), lock_obj=JournalFileOpenLock(str(path))))


def _reason(error: OSError) -> str:
    return error.strerror or type(error).__name__


def _is_sound(task: Task, found: optuna.trial.FrozenTrial) -> bool:
    """Whether a trial is one of this search's: a journal holds what anybody wrote into it."""
    figures = [found.user_attrs.get(name) for name in ("seconds", "flops", "wh")]
    told = [found.value or 0.0, *found.intermediate_values.values()]
    try:
        task.planned(dict(found.params))
        sound = all(type(f) in (int, float) and 0 <= float(f) < math.inf for f in figures)
        return (
            sound and found.params.keys() == task.start().keys() and all(0 <= a <= 1 for a in told)
        )
    except (TLError, TypeError, ValueError):
        return False


def _default_storage(task: Task) -> str:
    return str(home_folder() / "studies" / f"{task.plan.model}-{task.key}.log")


def _trial(found: optuna.trial.FrozenTrial) -> Trial:
    status = {"COMPLETE": "finished", "PRUNED": "pruned"}.get(found.state.name, "stopped")
    attrs = found.user_attrs
    accuracy = (
        found.value if status == "finished" else found.intermediate_values.get(found.last_step or 0)
    )
    return Trial(
        found.number,
        dict(found.params),
        accuracy,
        status,
        attrs["seconds"],
        attrs["flops"],
        attrs["wh"],
    )


def _room(began: float, done: int, seconds: float) -> bool:
    """Whether one more trial as long as those before is likely to fit."""
    spent = time.perf_counter() - began
    return spent + spent / done <= seconds
