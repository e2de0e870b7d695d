"""Recommend a strategy: a rule by amount of data, updated by short trainings.

The advice weighs accuracy against changes: it is the strategy with the fewest changes that no other
is expected to beat by more than a point. Expectations start from a rule fitted on some settings
(see BENCHMARKS.md) and are updated by cross-validated trainings on the labels in use, in proportion
to how much those can tell. Accuracy on a few images says little, so trainings are compared by their
log-loss. Test images, and those that only draw curves, are not read.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from tlnb.core.costs.forecast import forecast
from tlnb.core.costs.prices import Price
from tlnb.core.data.dataset import DataSet
from tlnb.core.data.splits import folds_of
from tlnb.core.evaluation.probes import (
    FOLDS,
    Probe,
    cross_validated,
    labels_in_use,
    probe,
    stage_features,
)
from tlnb.core.models.anatomy import Anatomy
from tlnb.core.models.clocks import Clock, CostTracker
from tlnb.core.models.flops import forward_flops
from tlnb.core.models.pretrained import PretrainedModel
from tlnb.core.planning.edit import Scopes, build
from tlnb.core.planning.options import TrainOptions
from tlnb.core.planning.plan import FOR_VERDICT, Edit, plan_strategy
from tlnb.core.planning.recipes import recipe
from tlnb.core.runtime.device import machine
from tlnb.core.runtime.errors import OneLine
from tlnb.core.storage.activation_cache import Store
from tlnb.core.training.progress import Progress, Report
from tlnb.core.training.run import Forecast
from tlnb.core.training.trainer import train

STRATEGIES = ("head", "partial", "full")  # from the fewest changes to the most
WORTHWHILE_GAIN = 0.01  # accuracy that more changes must gain to be recommended
TRIAL_SECONDS = 20.0  # for trial trainings, unless a larger budget allows more
BUDGET_SHARE = 0.1  # of the budget, that advice may take
# Phases of a trial, which draws no curves and saves nothing.
TRIAL_PHASES = ("preparing", "caching", "warmup", "training")

# The share of a frozen network's errors that training the last stages removes, and the further
# share that training all stages removes: expectation and standard deviation, fitted on sixteen
# settings (BENCHMARKS.md).
PARTIAL_GAIN = (0.15, 0.10)
FULL_GAIN = (0.02, 0.10)
# Standard deviation, as a share of the errors, for what a log-loss on part of the labels misses.
MODEL_DOUBT = 0.10
LEAST_SD = 0.004
LEAST_LOSS = 0.01  # floor for the loss of a frozen network that is almost always right
TEMPERATURES = np.geomspace(0.2, 20, 25)


@dataclass(frozen=True, kw_only=True)
class Tried:
    """A strategy trained on part of the labels and scored on the rest."""

    strategy: str
    accuracy: float | None  # cross-validated; None: not tried
    gain: float | None  # in accuracy over the strategy before it, estimated from the log-losses
    error: float | None  # standard error of that gain, image by image
    expected: float  # accuracy above `head`, from rule and trial together
    sd: float  # of that expectation
    forecast: Forecast
    affordable: bool
    why_not: str = ""  # why it was not tried


@dataclass(frozen=True, kw_only=True)
class Advice(OneLine):
    """The recommended strategy and the reasons."""

    strategy: str
    reason: str
    rule: str  # the strategy by the rule for this amount of data
    model: str
    data: str
    per_class: float
    classes: int
    evidence: tuple[Tried, ...]
    probes: tuple[Probe, ...]
    fractions: tuple[tuple[float, float], ...]  # (share of the labels, accuracy of the last probe)
    sure: str  # how sure, in words
    seconds: float
    flags: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"Advice: {self.strategy} for {self.model} on {self.data}. {self.reason}"


@dataclass
class AdviceTask:
    """The model and data that need advice."""

    model: PretrainedModel
    anatomy: Anatomy
    data: DataSet
    edits: tuple[Edit, ...] = ()
    scopes: Scopes | None = None
    store: Store | None = None

    def task(self, strategy: str, data: DataSet | None = None) -> tuple[Any, TrainOptions]:
        """Plan and options of a strategy, as `train` would use them on all the data."""
        plan = plan_strategy(self.anatomy, strategy, self.edits)
        return plan, TrainOptions().filled(recipe(plan, data or self.data))


def advise(
    case: AdviceTask,
    *,
    budget: float | None = None,
    budget_text: str = "",
    price: Price | None = None,
    report: Report | None = None,
    flags: Sequence[str] = (),
) -> tuple[Advice, CostTracker]:
    """Measure, and recommend a strategy.

    Args:
        budget: seconds that the training may take.
        flags: other remarks, such as target images that come from the pretraining data.

    Returns:
        The advice and its cost.
    """
    spent, began = CostTracker(Clock(machine())), time.perf_counter()
    tell = report or (lambda _: None)
    used = labels_in_use(case.data)
    folds = min(FOLDS, used.per_class)
    steps = 2 + 2 * len(STRATEGIES)

    def report_step(step: int) -> None:
        tell(Progress(run="advice", phase="advising", epoch=step, epochs=steps))

    report_step(0)
    probes, fractions = _probed(case, used, folds, spent) if folds > 1 else ((), ())
    forecasts = {}
    for step, strategy in enumerate(STRATEGIES, 1):
        plan, options = case.task(strategy)
        forecasts[strategy], tally = forecast(
            case.model,
            case.anatomy,
            case.data,
            plan,
            options,
            name=strategy,
            scopes=case.scopes,
            store=case.store,
            price=price,
        )
        spent.charge("advising", sum(tally.flops.values()))
        report_step(step)
    trials, why_not = _trials(
        case=case,
        used=used,
        folds=folds,
        forecasts=forecasts,
        allowance=max(TRIAL_SECONDS, BUDGET_SHARE * (budget or 0.0)),
        spent=spent,
        report_step=lambda k: report_step(1 + len(STRATEGIES) + k),
    )
    tried = _weighed(used.labels["train"].numpy(), probes, trials, why_not, forecasts, budget)
    chosen = verdict([t for t in tried if t.affordable])
    advice = Advice(
        strategy=chosen.strategy,
        reason=_reason(chosen, tried, budget_text),
        rule=FOR_VERDICT[case.data.size_verdict],
        model=case.model.name,
        data=case.data.name,
        per_class=case.data.mean_count,
        classes=len(case.data.classes),
        evidence=tried,
        probes=probes,
        fractions=fractions,
        sure=_certainty(chosen, tried),
        seconds=time.perf_counter() - began,
        flags=(*flags, *_differs(probes)),
    )
    return advice, spent


# ── probes ────────────────────────────────────────────────────────────────────────────────────────


def _probed(
    case: AdviceTask, used: DataSet, folds: int, spent: CostTracker
) -> tuple[tuple[Probe, ...], tuple[tuple[float, float], ...]]:
    """Probe each stage's output as features, and the last stage's with half of the labels."""
    images, labels = used.images["train"], used.labels["train"].numpy()
    module = build(case.model, case.edits, "pretrained", 0, case.scopes)
    stages = stage_features(module, case.anatomy, case.model.transform, images)
    spent.charge("advising", len(images) * forward_flops(module, case.model.transform(images[:2])))
    probes = probe(stages, labels, folds)
    last = list(stages.values())[-1]
    # Half of a fold's labels must hold one per class.
    enough = used.per_class * (folds - 1) / folds / 2 >= 1
    half = cross_validated(last, labels, folds, share=0.5) if enough else None
    fractions = ((0.5, float(half.mean())), (1.0, probes[-1].accuracy)) if half is not None else ()
    return probes, fractions


# ── trials ────────────────────────────────────────────────────────────────────────────────────────


def _trials(
    case: AdviceTask,
    used: DataSet,
    folds: int,
    forecasts: Mapping[str, Forecast],
    allowance: float,
    spent: CostTracker,
    report_step: Callable[[int], None],
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Train each strategy that is quick enough on folds of the labels.

    Returns:
        Logits of the held-out images `(n, C)` by strategy, and why others were left out.
    """
    logits: dict[str, np.ndarray] = {}
    why_not: dict[str, str] = {}
    whole = sum(case.data.splits.get(s, 0) for s in ("train", "val"))
    left = allowance
    for step, strategy in enumerate(STRATEGIES):
        report_step(step)
        share = (folds - 1) / max(folds, 1) * len(used.labels["train"]) / whole
        takes = folds * share * sum(forecasts[strategy].phases[phase] for phase in TRIAL_PHASES)
        if folds < 2:
            why_not[strategy] = "a class has one label: none can be held out"
        elif takes > left:
            why_not[strategy] = f"trying it would take about {takes:.0f} s"
            break
        else:
            logits[strategy] = _held_out_logits(case, used, strategy, folds, spent)
            left -= takes
    return logits, why_not


def _held_out_logits(
    case: AdviceTask, used: DataSet, strategy: str, folds: int, spent: CostTracker
) -> np.ndarray:
    """Logits `(n, C)` of each image from the training that held it out."""
    plan, options = case.task(strategy)
    labels = used.labels["train"]
    logits = np.zeros((len(labels), len(used.classes)), np.float32)
    for rows, held in folds_of(labels.numpy(), folds, seed=0):
        part = used.with_splits(
            {"train": ("train", torch.from_numpy(rows)), "test": ("train", torch.from_numpy(held))}
        )
        run = train(
            case.model,
            case.anatomy,
            part,
            plan,
            options,
            name=f"advice: {strategy}",
            scopes=case.scopes,
            store=case.store,
            trial=True,
        )
        if run.status == "stopped":
            raise KeyboardInterrupt
        spent.charge("advising", run.flops)
        held_logits = run.answers().logits
        assert held_logits is not None  # a trial keeps them
        logits[held] = held_logits.numpy()
    return logits


# ── the verdict ───────────────────────────────────────────────────────────────────────────────────


def _weighed(
    labels: np.ndarray,
    probes: Sequence[Probe],
    trials: Mapping[str, np.ndarray],
    why_not: Mapping[str, str],
    forecasts: Mapping[str, Forecast],
    budget: float | None,
) -> tuple[Tried, ...]:
    """For each strategy, the accuracy expected above `head`: the rule updated by trials."""
    accuracies = {
        strategy: float((logits.argmax(1) == labels).mean()) for strategy, logits in trials.items()
    }
    losses = {strategy: calibrated_loss(logits, labels) for strategy, logits in trials.items()}
    head = accuracies.get("head", probes[-1].accuracy if probes else None)
    wrong = max(1 - head, 0.5 / len(labels)) if head is not None else 0.0
    expected = {"head": (0.0, 0.0), "partial": PARTIAL_GAIN, "full": FULL_GAIN}
    mean, variance, weighed = 0.0, 0.0, list[Tried]()
    for strategy, before in zip(STRATEGIES, ("", *STRATEGIES), strict=False):
        gain = error = None
        if strategy in losses and before in losses:
            scale = max(LEAST_LOSS, losses["head"].mean())
            gains = wrong * (losses[before] - losses[strategy]) / scale
            gain, error = float(gains.mean()), float(gains.std(ddof=1)) / math.sqrt(len(gains))
        share, sd_of_share = expected[strategy]
        doubt = None if error is None else math.hypot(error, MODEL_DOUBT * wrong)
        prior_sd = max(LEAST_SD, wrong * sd_of_share) if sd_of_share and wrong else 0.0
        step, sd = _combined(wrong * share, prior_sd, gain, doubt)
        mean, variance = mean + step, variance + sd**2
        affordable = budget is None or strategy == "head" or forecasts[strategy].seconds <= budget
        skipped = why_not.get(
            strategy, "" if strategy in trials else "a shallower strategy already took too long"
        )
        weighed.append(
            Tried(
                strategy=strategy,
                accuracy=accuracies.get(strategy),
                gain=gain,
                error=error,
                expected=mean,
                sd=math.sqrt(variance),
                forecast=forecasts[strategy],
                affordable=affordable,
                why_not=skipped,
            )
        )
    return tuple(weighed)


def calibrated_loss(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Cross-entropy `(n,)` of each image from logits `(n, C)`, after temperature scaling.

    One temperature, the best for these logits, is used for all: networks that train longer become
    more confident in everything, which says nothing about what they know.

    Source: Guo et al., On Calibration of Modern Neural Networks, ICML 2017.
    """

    def loss(temperature: float) -> np.ndarray:
        scaled = logits.astype(np.float64) / temperature
        scaled -= scaled.max(1, keepdims=True)
        true_logits = scaled[np.arange(len(labels)), labels]
        losses: np.ndarray = np.log(np.exp(scaled).sum(1)) - true_logits
        return losses

    return min((loss(t) for t in TEMPERATURES), key=lambda losses: float(losses.mean()))


def verdict(tried: Sequence[Tried]) -> Tried:
    """The strategy with the fewest changes that none should beat by more than a point."""
    best = max(t.expected for t in tried)
    return next(t for t in tried if t.expected >= best - WORTHWHILE_GAIN)


def _combined(
    mean: float, sd: float, measured: float | None, error: float | None
) -> tuple[float, float]:
    """Combine a prior and a measurement, weighted by precision (normal conjugate update)."""
    if measured is None or not error or not sd:
        return mean, sd
    weights = 1 / sd**2, 1 / error**2
    return (mean * weights[0] + measured * weights[1]) / sum(weights), math.sqrt(1 / sum(weights))


def _reason(chosen: Tried, tried: Sequence[Tried], budget: str) -> str:
    """The reason in one or two sentences."""
    best = max((t for t in tried if t.affordable), key=lambda t: t.expected)
    if chosen.strategy == "head" and chosen.accuracy is None and best.sd == 0:
        words = "No labels can be held out for a comparison, so the fewest changes win."
    elif best is chosen and chosen.strategy != "head":
        gain = f"{100 * chosen.expected:.1f} points more than head, ± {100 * chosen.sd:.1f}"
        words = f"It is expected to gain {gain}."
    elif best is chosen:
        words = "More changes are not expected to gain anything."
    else:
        more, sd = best.expected - chosen.expected, math.sqrt(max(0.0, best.sd**2 - chosen.sd**2))
        gain = f"{100 * more:.1f} points more, ± {100 * sd:.1f}"
        words = f"{best.strategy} is expected to gain {gain}: too little to justify more changes."
    dear = [t.strategy for t in tried if not t.affordable]
    over = f" {' and '.join(dear)} would exceed {budget}." if dear else ""
    return words + over


def _certainty(chosen: Tried, tried: Sequence[Tried]) -> str:
    """How likely it is that no other strategy is more than a point better."""
    rivals = [t for t in tried if t is not chosen and t.affordable]
    chances = [
        _below(chosen.expected - t.expected + WORTHWHILE_GAIN, abs(t.sd**2 - chosen.sd**2))
        for t in rivals
    ]
    chance = min(chances, default=1.0)
    return (
        f"that no other strategy is more than a point better: {chance:.0%}, "
        "by the expectations above"
    )


def _below(margin: float, variance: float) -> float:
    """The probability that a centred normal variable of this variance stays below a margin."""
    if variance <= 0:
        return float(margin >= 0)
    return 0.5 * (1 + math.erf(margin / math.sqrt(2 * variance)))


def _differs(probes: Sequence[Probe]) -> tuple[str, ...]:
    """A remark if an earlier stage's features separate the classes better than the last's."""
    if len(probes) < 2:
        return ()
    best, last = max(probes, key=lambda p: p.accuracy), probes[-1]
    if best.accuracy - last.accuracy <= best.error + last.error:
        return ()
    return (
        f"a different problem: features of {best.stage} tell the classes apart better than those of {last.stage} "
        f"({best.accuracy:.1%} and {last.accuracy:.1%})",
    )
