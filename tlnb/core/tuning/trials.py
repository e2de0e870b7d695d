"""Short trainings on part of the labels, as evidence for advice, within a limit of seconds.

All strategies are tried on the same folds for the same share of their epochs, so that they can be
compared image by image. Fewer and shorter trials are preferred to none.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from tlnb.core.data.dataset import IN_USE, DataSet
from tlnb.core.evaluation.probes import FOLDS
from tlnb.core.models.anatomy import Anatomy
from tlnb.core.models.clocks import CostTracker
from tlnb.core.models.pretrained import PretrainedModel
from tlnb.core.planning.edit import Scopes
from tlnb.core.planning.options import TrainOptions
from tlnb.core.planning.plan import Edit, Plan, plan_strategy
from tlnb.core.planning.recipes import recipe
from tlnb.core.storage.activation_cache import Store
from tlnb.core.training.run import Forecast
from tlnb.core.training.train import train

STRATEGIES = ("head", "partial", "full")  # from the fewest changes to the most
TOO_SHORT = "a budget of a minute is for the training itself"
SHORT = 0.25  # share of the epochs of a short trial
# Phases of a trial, which draws no curves and saves nothing; the last one depends on the epochs.
FIXED_PHASES, EPOCH_PHASE = ("preparing", "caching", "warmup"), "training"


@dataclass(kw_only=True)
class AdviceTask:
    """The model and data that need advice."""

    model: PretrainedModel
    anatomy: Anatomy
    data: DataSet
    edits: tuple[Edit, ...] = ()
    scopes: Scopes | None = None
    store: Store | None = None

    def task(self, strategy: str) -> tuple[Plan, TrainOptions]:
        """Plan and options of a strategy, as `train` would use them on all the data."""
        plan = plan_strategy(self.anatomy, strategy, self.edits)
        return plan, TrainOptions().filled(recipe(plan, self.data))


@dataclass(frozen=True, kw_only=True)
class Scheme:
    """Which strategies are tried, on how many of the folds, for which share of their epochs."""

    strategies: tuple[str, ...]
    folds: int
    epochs: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Trials:
    """What the trials said about the images that they held out."""

    logits: Mapping[str, np.ndarray] = field(default_factory=dict)  # strategy → (n, C)
    labels: np.ndarray  # (n,) class numbers of those images
    why_not: Mapping[str, str] = field(default_factory=dict)  # strategy → why it was not tried
    scheme: Scheme | None = None


def run_trials(
    case: AdviceTask,
    used: DataSet,
    forecasts: Mapping[str, Forecast],
    *,
    seconds: float,
    spent: CostTracker,
    report_step: Callable[[int], None],
) -> Trials:
    """Train strategies on folds of the labels, as many and as long as the seconds allow."""
    labels, folds = used.labels["train"].numpy(), used.labelled.folds(FOLDS)
    if not folds or not forecasts:
        reason = TOO_SHORT if folds else used.labelled.none_held
        return Trials(labels=labels[:0], why_not=dict.fromkeys(STRATEGIES, reason))
    whole = sum(case.data.splits.get(s, 0) for s in IN_USE)
    share = (len(folds) - 1) / len(folds) * len(labels) / whole
    scheme = choose_scheme(forecasts, share, len(folds), seconds)
    chosen = folds[: scheme.folds if scheme else 0]
    until = time.perf_counter() + seconds
    logits: dict[str, list[np.ndarray]] = {s: [] for s in scheme.strategies} if scheme else {}
    held: list[np.ndarray] = []
    for fold in chosen:
        if held and time.perf_counter() > until:  # they take longer than was forecast
            break
        for step, (strategy, found) in enumerate(logits.items()):
            report_step(step)
            found.append(_trial(case, used, strategy, fold, scheme, spent))
        held.append(fold[1])
    why_not = {
        strategy: f"trying it would take about {_takes(forecasts[strategy], share, SHORT):.0f} s"
        for strategy in STRATEGIES
        if strategy not in logits
    }
    return Trials(
        logits={strategy: np.concatenate(found) for strategy, found in logits.items()},
        labels=labels[np.concatenate(held)] if held else labels[:0],
        why_not=why_not,
        scheme=scheme and replace(scheme, folds=len(held)),
    )


def choose_scheme(
    forecasts: Mapping[str, Forecast], share: float, folds: int, seconds: float
) -> Scheme | None:
    """The most telling trials that fit into the seconds; None if not even the smallest do.

    Args:
        share: of all labels that a trial trains on.
    """
    for strategies in (STRATEGIES, STRATEGIES[:2]):
        for count, epochs in ((folds, 1.0), (1, 1.0), (1, SHORT)):
            takes = sum(_takes(forecasts[s], share, epochs) for s in strategies)
            if count * takes <= seconds:
                return Scheme(strategies=strategies, folds=count, epochs=epochs)
    return None


def _takes(forecast: Forecast, share: float, epochs: float) -> float:
    """Seconds of one trial."""
    phases = forecast.phases
    fixed = sum(phases.get(phase, 0.0) for phase in FIXED_PHASES)
    return share * (fixed + epochs * phases.get(EPOCH_PHASE, 0.0))


def _trial(
    case: AdviceTask,
    used: DataSet,
    strategy: str,
    fold: tuple[np.ndarray, np.ndarray],
    scheme: Scheme | None,
    spent: CostTracker,
) -> Any:
    """Logits `(n, C)` of the images that one training held out."""
    plan, options = case.task(strategy)
    if scheme is not None and scheme.epochs < 1:
        shorter = max(1, round(scheme.epochs * (options.epochs or 1)))
        options = replace(options, epochs=shorter)
    rows, held = map(torch.from_numpy, fold)
    run = train(
        case.model,
        case.anatomy,
        used.with_splits({"train": ("train", rows), "test": ("train", held)}),
        plan,
        options,
        name=f"advice: {plan.strategy}",
        scopes=case.scopes,
        store=case.store,
        trial=True,
    )
    if run.status == "stopped":
        raise KeyboardInterrupt
    spent.charge("advising", run.flops)
    logits = run.answers().logits
    assert logits is not None  # a trial keeps them
    return logits.numpy()
