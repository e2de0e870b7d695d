"""Which strategy, why, and how sure: the rule by amount of data, and evidence measured in seconds on the labels in use.

What is weighed is accuracy gained against changes made: the strategy with the fewest changes that no other is expected to
beat by more than a point. Expectations start from a rule that was fixed on some settings (see BENCHMARKS.md) and move with
what cross-validated trainings on these very labels show, as far as those can tell. How often they are right of a few images
says little; how sure they are of the truth says more, and is what counts. Test images, and those that only draw curves, are
not read.
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
CLOSE = (
    0.01  # a point of accuracy, for which no further changes are made: few changes are preferred
)
ALLOWANCE = 20.0  # seconds for trial trainings, unless a larger budget allows more
OF_BUDGET = 0.1  # of the budget, that advice may take
OF_A_TRIAL = (
    "preparing",
    "caching",
    "warmup",
    "training",
)  # phases: a trial watches no curves and keeps nothing

# The share of a frozen network's mistakes that training the last stages removes, and that training all stages removes beyond
# that: expectation and standard deviation, fixed on sixteen settings (BENCHMARKS.md).
REMOVED = (0.15, 0.10)
FURTHER = (0.02, 0.10)
BEYOND = 0.10  # of the mistakes: what part of the labels, and a log-loss, cannot say; a standard deviation more
LEAST_SD = 0.004
LEAST_LOSS = 0.01  # of a frozen network that is all but always right
TEMPERATURES = np.geomspace(0.2, 20, 25)


@dataclass(frozen=True)
class Tried:
    """A strategy trained on part of the labels and judged by the rest."""

    strategy: str
    accuracy: float | None  # cross-validated; None: not tried
    gain: float | None  # of accuracy over the strategy before it, by how sure they are of the truth
    error: float | None  # standard error of that gain, image by image
    expected: float  # accuracy above `head`, expectation and trial together
    sd: float  # of that expectation
    forecast: Forecast
    affordable: bool
    why_not: str = ""  # tried


@dataclass(frozen=True)
class Advice(OneLine):
    """Which strategy, and why."""

    strategy: str
    reason: str
    rule: str  # what the rule by amount of data says
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
class Case:
    """What advice is for."""

    model: PretrainedModel
    anatomy: Anatomy
    data: DataSet
    edits: tuple[Edit, ...] = ()
    scopes: Scopes | None = None
    store: Store | None = None

    def task(self, strategy: str, data: DataSet | None = None) -> tuple[Any, TrainOptions]:
        """Plan and options of a strategy, as `train` would take them for all the data."""
        plan = plan_strategy(self.anatomy, strategy, self.edits)
        return plan, TrainOptions().filled(recipe(plan, data or self.data))


def advise(
    case: Case,
    *,
    budget: float | None = None,
    budget_text: str = "",
    price: Price | None = None,
    report: Report | None = None,
    flags: Sequence[str] = (),
) -> tuple[Advice, CostTracker]:
    """Measure, and say which strategy.

    Args:
        budget: seconds that the training may take.
        flags: what else should be known, such as target images from the source's own data.

    Returns:
        The advice, and what finding it took.
    """
    spent, began = CostTracker(Clock(machine())), time.perf_counter()
    tell = report or (lambda _: None)
    used = labels_in_use(case.data)
    folds = min(FOLDS, used.per_class)
    steps = 2 + 2 * len(STRATEGIES)

    def said(step: int) -> None:
        tell(Progress("advice", "advising", step, steps))

    said(0)
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
        said(step)
    allowance = max(ALLOWANCE, OF_BUDGET * (budget or 0.0))
    trials, why_not = _trials(
        case, used, folds, forecasts, allowance, spent, lambda k: said(1 + len(STRATEGIES) + k)
    )
    tried = _weighed(used.labels["train"].numpy(), probes, trials, why_not, forecasts, budget)
    chosen = verdict([t for t in tried if t.affordable])
    found = Advice(
        chosen.strategy,
        _reason(chosen, tried, budget_text),
        FOR_VERDICT[case.data.size_verdict],
        case.model.name,
        case.data.name,
        case.data.mean_count,
        len(case.data.classes),
        tried,
        probes,
        fractions,
        _sure(chosen, tried),
        time.perf_counter() - began,
        (*flags, *_differs(probes)),
    )
    return found, spent


# ── probes ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _probed(
    case: Case, used: DataSet, folds: int, spent: CostTracker
) -> tuple[tuple[Probe, ...], tuple[tuple[float, float], ...]]:
    """Each stage's output as features; and the last one's with half of the labels."""
    images, labels = used.images["train"], used.labels["train"].numpy()
    module = build(case.model, case.edits, "pretrained", 0, case.scopes)
    stages = stage_features(module, case.anatomy, case.model.transform, images)
    spent.charge("advising", len(images) * forward_flops(module, case.model.transform(images[:2])))
    probes = probe(stages, labels, folds)
    last = list(stages.values())[-1]
    enough = (
        used.per_class * (folds - 1) / folds / 2 >= 1
    )  # half of a fold's labels: one in each class
    half = cross_validated(last, labels, folds, share=0.5) if enough else None
    fractions = ((0.5, float(half.mean())), (1.0, probes[-1].accuracy)) if half is not None else ()
    return probes, fractions


# ── trials ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _trials(
    case: Case,
    used: DataSet,
    folds: int,
    forecasts: Mapping[str, Forecast],
    allowance: float,
    spent: CostTracker,
    said: Callable[[int], None],
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """What each strategy says of held-out images, logits (n, C); those that take too long are left out, and why."""
    found: dict[str, np.ndarray] = {}
    why_not: dict[str, str] = {}
    whole = sum(case.data.splits.get(s, 0) for s in ("train", "val"))
    left = allowance
    for step, strategy in enumerate(STRATEGIES):
        said(step)
        share = (folds - 1) / max(folds, 1) * len(used.labels["train"]) / whole
        takes = folds * share * sum(forecasts[strategy].phases[phase] for phase in OF_A_TRIAL)
        if folds < 2:
            why_not[strategy] = "a class has one label: none can be held out"
        elif takes > left:
            why_not[strategy] = f"trying it would take about {takes:.0f} s"
            break
        else:
            found[strategy] = _tried(case, used, strategy, folds, spent)
            left -= takes
    return found, why_not


def _tried(case: Case, used: DataSet, strategy: str, folds: int, spent: CostTracker) -> np.ndarray:
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
        said = run.answers().logits
        assert said is not None  # a trial's are there
        logits[held] = said.numpy()
    return logits


# ── the verdict ───────────────────────────────────────────────────────────────────────────────────────────────────


def _weighed(
    labels: np.ndarray,
    probes: Sequence[Probe],
    trials: Mapping[str, np.ndarray],
    why_not: Mapping[str, str],
    forecasts: Mapping[str, Forecast],
    budget: float | None,
) -> tuple[Tried, ...]:
    """For each strategy what is expected above `head`: the rule, moved by what trials showed."""
    accuracies = {
        strategy: float((logits.argmax(1) == labels).mean()) for strategy, logits in trials.items()
    }
    losses = {strategy: calibrated_loss(logits, labels) for strategy, logits in trials.items()}
    head = accuracies.get("head", probes[-1].accuracy if probes else None)
    wrong = max(1 - head, 0.5 / len(labels)) if head is not None else 0.0
    expected = {"head": (0.0, 0.0), "partial": REMOVED, "full": FURTHER}
    mean, variance, found = 0.0, 0.0, list[Tried]()
    for strategy, before in zip(STRATEGIES, ("", *STRATEGIES), strict=False):
        gain = error = None
        if strategy in losses and before in losses:
            each = (
                wrong * (losses[before] - losses[strategy]) / max(LEAST_LOSS, losses["head"].mean())
            )
            gain, error = float(each.mean()), float(each.std(ddof=1)) / math.sqrt(len(each))
        share, sd_of_share = expected[strategy]
        doubt = None if error is None else math.hypot(error, BEYOND * wrong)
        prior = wrong * share, max(LEAST_SD, wrong * sd_of_share) if sd_of_share and wrong else 0.0
        step, sd = _together(*prior, gain, doubt)
        mean, variance = mean + step, variance + sd**2
        affordable = budget is None or strategy == "head" or forecasts[strategy].seconds <= budget
        skipped = why_not.get(
            strategy, "" if strategy in trials else "a shallower strategy already took too long"
        )
        found.append(
            Tried(
                strategy,
                accuracies.get(strategy),
                gain,
                error,
                mean,
                math.sqrt(variance),
                forecasts[strategy],
                affordable,
                skipped,
            )
        )
    return tuple(found)


def calibrated_loss(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Cross-entropy of each image `(n,)` from logits `(n, C)`, divided by the one temperature that suits them best: networks
    that are trained longer are surer of everything, which says nothing of what they know.

    Source: Guo and others, On Calibration of Modern Neural Networks, ICML 2017.
    """

    def loss(temperature: float) -> np.ndarray:
        scaled = logits.astype(np.float64) / temperature
        scaled -= scaled.max(1, keepdims=True)
        found: np.ndarray = np.log(np.exp(scaled).sum(1)) - scaled[np.arange(len(labels)), labels]
        return found

    return min((loss(t) for t in TEMPERATURES), key=lambda each: float(each.mean()))


def verdict(tried: Sequence[Tried]) -> Tried:
    """The fewest changes that no further ones are expected to beat by more than a point."""
    best = max(t.expected for t in tried)
    return next(t for t in tried if t.expected >= best - CLOSE)


def _together(
    mean: float, sd: float, measured: float | None, error: float | None
) -> tuple[float, float]:
    """An expectation and a measurement, each by its precision (the normal distribution's conjugate update)."""
    if measured is None or not error or not sd:
        return mean, sd
    weights = 1 / sd**2, 1 / error**2
    return (mean * weights[0] + measured * weights[1]) / sum(weights), math.sqrt(1 / sum(weights))


def _reason(chosen: Tried, tried: Sequence[Tried], budget: str) -> str:
    """In two sentences."""
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


def _sure(chosen: Tried, tried: Sequence[Tried]) -> str:
    """How likely it is that no other strategy is more than a point better."""
    rivals = [t for t in tried if t is not chosen and t.affordable]
    chance = min(
        (_below(chosen.expected - t.expected + CLOSE, abs(t.sd**2 - chosen.sd**2)) for t in rivals),
        default=1.0,
    )
    return (
        f"that no other strategy is more than a point better: {chance:.0%}, "
        "by the expectations above"
    )


def _below(margin: float, variance: float) -> float:
    """Chance that a normal deviate of this variance stays below a margin."""
    return (
        0.5 * (1 + math.erf(margin / math.sqrt(2 * variance)))
        if variance > 0
        else float(margin >= 0)
    )


def _differs(probes: Sequence[Probe]) -> tuple[str, ...]:
    """A different problem: an earlier stage's features say more than the last one's."""
    if len(probes) < 2:
        return ()
    best, last = max(probes, key=lambda p: p.accuracy), probes[-1]
    if best.accuracy - last.accuracy <= best.error + last.error:
        return ()
    return (
        f"a different problem: features of {best.stage} tell the classes apart better than those of {last.stage} "
        f"({best.accuracy:.1%} and {last.accuracy:.1%})",
    )
