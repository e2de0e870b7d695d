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
from itertools import pairwise

import numpy as np

from tlnb.core.costs.forecast import forecast
from tlnb.core.costs.prices import Price
from tlnb.core.data.dataset import DataSet
from tlnb.core.data.pretraining_overlap import seen_by
from tlnb.core.evaluation.probes import (
    FOLDS,
    Probe,
    calibrated_loss,
    cross_validated,
    labels_in_use,
    probe,
    stage_features,
)
from tlnb.core.models.clocks import Clock, CostTracker
from tlnb.core.models.flops import forward_flops
from tlnb.core.planning.edit import build
from tlnb.core.planning.size_rule import SizeRule, size_rule
from tlnb.core.runtime.device import machine
from tlnb.core.runtime.errors import OneLine
from tlnb.core.training.progress import Progress, Report
from tlnb.core.training.run import Forecast
from tlnb.core.tuning.sources import Source
from tlnb.core.tuning.trials import STRATEGIES, AdviceTask, Trials, run_trials

WORTHWHILE_GAIN = 0.01  # accuracy that more changes must gain to be recommended
ADVICE_SECONDS = 20.0  # that advice takes at most, or less if the budget is smaller
BUDGET_SHARE = 0.1  # of a larger budget, that advice may take instead
LEAST_TRIAL_SHARE = 0.5  # of those seconds, kept for trials however long the rest took
LEAST_PER_CLASS = 20  # of many classes some are left out, rather than keep fewer images of each

# The share of a frozen network's errors that training the last stages removes, and the further
# share that training all stages removes: expectation and standard deviation, fitted on sixteen
# settings (BENCHMARKS.md).
PARTIAL_GAIN = (0.15, 0.10)
FULL_GAIN = (0.02, 0.10)
EXPECTED = {"head": (0.0, 0.0), "partial": PARTIAL_GAIN, "full": FULL_GAIN}
# Standard deviation, as a share of the errors, for what a log-loss on part of the labels misses.
MODEL_DOUBT = 0.10
SHORT_DOUBT = 2.0  # times as much for trials of fewer epochs
LEAST_SD = 0.004
NOT_MEASURED = "not measured: only the rule of thumb"
LEAST_LOSS = 0.01  # floor for the loss of a frozen network that is almost always right


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
    per_class: float  # labels in the smallest class
    classes: int
    sure: str  # how sure, in words
    seconds: float
    evidence: tuple[Tried, ...] = ()
    probes: tuple[Probe, ...] = ()
    fractions: tuple[
        tuple[float, float], ...
    ] = ()  # (share of the labels, accuracy of the last probe)
    flags: tuple[str, ...] = ()
    trials: str = ""  # what the trials were, in words
    sources: tuple[Source, ...] = ()  # best first, where it is about the source
    rule_says: str = ""  # the rule in words
    far: bool = False  # whether an earlier stage was measured to know more than the last

    def __repr__(self) -> str:
        if self.sources:
            return f"Advice: {self.model} as the source for {self.data}. {self.reason}"
        return f"Advice: {self.strategy} for {self.model} on {self.data}. {self.reason}"


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
    used = labels_in_use(case.data, LEAST_PER_CLASS)

    def report_step(step: int) -> None:
        if report is not None:
            report(
                Progress(
                    run="advice",
                    phase="advising",
                    epoch=step,
                    epochs=2 + 2 * len(STRATEGIES),
                )
            )

    report_step(0)
    probes, fractions = _probed(case, used, spent)
    report_step(1)
    forecasts = _forecasts(case, price, spent, lambda k: report_step(2 + k))
    limit = _limit(budget)
    rule = _rule(case, budget, _differs(probes) != ())
    trials = run_trials(
        case,
        used,
        {} if rule.case == "short" else forecasts,
        seconds=max(LEAST_TRIAL_SHARE * limit, limit - (time.perf_counter() - began)),
        spent=spent,
        report_step=lambda k: report_step(2 + len(STRATEGIES) + k),
    )
    report_step(2 + 2 * len(STRATEGIES))
    tried = _weighed(trials, probes, forecasts, budget)
    chosen = _chosen(tried, rule.strategy)
    advice = Advice(
        strategy=chosen.strategy,
        reason=_reason(chosen, tried, rule, budget_text),
        rule=rule.strategy,
        rule_says=repr(rule),
        far=rule.case == "far",
        model=case.model.name,
        data=case.data.name,
        per_class=case.data.per_class,
        classes=len(case.data.classes),
        evidence=tried,
        probes=probes,
        fractions=fractions,
        sure=_certainty(chosen, tried),
        trials=_scheme_words(trials),
        seconds=time.perf_counter() - began,
        flags=(*flags, *_differs(probes)),
    )
    return advice, spent


def _rule(case: AdviceTask, budget: float | None, far: bool) -> SizeRule:
    """The rule for these data, this source and this budget."""
    seen = seen_by(case.model.card.source, case.data.source_hint) != ""
    return size_rule(case.data.per_class, budget=budget, seen=seen, far=far)


def _limit(budget: float | None) -> float:
    """Seconds that the advice may take, for a training that may take `budget` seconds."""
    if budget is None:
        return ADVICE_SECONDS
    return max(min(ADVICE_SECONDS, budget), BUDGET_SHARE * budget)


def _forecasts(
    case: AdviceTask, price: Price | None, spent: CostTracker, report_step: Callable[[int], None]
) -> dict[str, Forecast]:
    """What each strategy would take on all the data; a second or so each."""
    forecasts = {}
    for step, strategy in enumerate(STRATEGIES):
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
            share=0.0,
        )
        spent.charge("advising", sum(tally.flops.values()))
        report_step(step)
    return forecasts


# ── probes ────────────────────────────────────────────────────────────────────────────────────────


def _probed(
    case: AdviceTask, used: DataSet, spent: CostTracker
) -> tuple[tuple[Probe, ...], tuple[tuple[float, float], ...]]:
    """Probe each stage's output as features, and the last stage's with half of the labels."""
    images, labels = used.images["train"], used.labelled
    folds = len(labels.folds(FOLDS))
    if not folds:
        return (), ()
    module = build(case.model, case.edits, "pretrained", 0, case.scopes)
    stages = stage_features(module, case.anatomy, case.model.transform, images)
    spent.charge("advising", len(images) * forward_flops(module, case.model.transform(images[:2])))
    probes = probe(stages, labels)
    last = list(stages.values())[-1]
    # Half of a fold's labels, or of its groups, must hold one per class.
    enough = labels.fewest * (folds - 1) / folds / 2 >= 1
    half = cross_validated(last, labels, share=0.5) if enough else None
    fractions = ((0.5, float(half.mean())), (1.0, probes[-1].accuracy)) if half is not None else ()
    return probes, fractions


# ── the verdict ───────────────────────────────────────────────────────────────────────────────────


def _weighed(
    trials: Trials,
    probes: Sequence[Probe],
    forecasts: Mapping[str, Forecast],
    budget: float | None,
) -> tuple[Tried, ...]:
    """For each strategy, the accuracy expected above `head`: the rule updated by trials."""
    labels = trials.labels
    right = {name: logits.argmax(1) == labels for name, logits in trials.logits.items()}
    accuracies = {name: float(each.mean()) for name, each in right.items()}
    losses = {name: calibrated_loss(logits, labels) for name, logits in trials.logits.items()}
    head = accuracies.get("head", probes[-1].accuracy if probes else None)
    wrong = max(1 - head, 0.5 / max(1, len(labels))) if head is not None else 0.0
    doubt = MODEL_DOUBT * wrong
    doubt *= SHORT_DOUBT if trials.scheme is not None and trials.scheme.epochs < 1 else 1.0
    mean, variance, weighed = 0.0, 0.0, list[Tried]()
    for strategy, before in zip(STRATEGIES, ("", *STRATEGIES), strict=False):
        gain, error = _gain(losses, before, strategy, wrong)
        share, sd_of_share = EXPECTED[strategy]
        prior_sd = max(LEAST_SD, wrong * sd_of_share) if sd_of_share and wrong else 0.0
        all_doubt = None if error is None else math.hypot(error, doubt)
        step, sd = _combined(wrong * share, prior_sd, gain, all_doubt)
        mean, variance = mean + step, variance + sd**2
        affordable = budget is None or strategy == "head" or forecasts[strategy].seconds <= budget
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
                why_not=trials.why_not.get(strategy, ""),
            )
        )
    return tuple(weighed)


def _gain(
    losses: Mapping[str, np.ndarray], before: str, strategy: str, wrong: float
) -> tuple[float | None, float | None]:
    """The gain in accuracy over the strategy before, and its standard error, from log-losses."""
    if strategy not in losses or before not in losses:
        return None, None
    scale = max(LEAST_LOSS, losses["head"].mean())
    gains = wrong * (losses[before] - losses[strategy]) / scale
    return float(gains.mean()), float(gains.std(ddof=1)) / math.sqrt(len(gains))


def verdict(tried: Sequence[Tried]) -> Tried:
    """The strategy with the fewest changes that none should beat by more than a point.

    What a trial did not show, of more changes, is not expected of them: ties go to fewer changes.
    """
    levels, before = list[float](), None
    for each in tried:
        step = each.expected - (before.expected if before else 0.0)
        step = min(0.0, step) if is_tie(before, each) else step
        levels.append((levels[-1] if levels else 0.0) + step)
        before = each
    best = max(levels)
    chosen = zip(tried, levels, strict=True)
    return next(t for t, level in chosen if level >= best - WORTHWHILE_GAIN)


def is_tie(fewer: Tried | None, more: Tried) -> bool:
    """Whether both were tried, and more changes showed no gain beyond its standard error."""
    return fewer is not None and more.gain is not None and more.gain <= (more.error or 0.0)


def _combined(
    mean: float, sd: float, measured: float | None, error: float | None
) -> tuple[float, float]:
    """Combine a prior and a measurement, weighted by precision (normal conjugate update)."""
    if measured is None or not error or not sd:
        return mean, sd
    weights = 1 / sd**2, 1 / error**2
    return (mean * weights[0] + measured * weights[1]) / sum(weights), math.sqrt(1 / sum(weights))


def _chosen(tried: Sequence[Tried], rule: str) -> Tried:
    """The verdict of the trials; without any, the rule of thumb's, or fewer changes if too dear."""
    affordable = [t for t in tried if t.affordable]
    if any(t.accuracy is not None for t in tried):
        return verdict(affordable)
    most = STRATEGIES.index(rule)
    return [t for t in affordable if STRATEGIES.index(t.strategy) <= most][-1]


def _reason(chosen: Tried, tried: Sequence[Tried], rule: SizeRule, budget: str) -> str:
    """The reason in one or two sentences."""
    rest = [t for t in tried if t.affordable]
    best = max(rest, key=lambda t: t.expected)
    after = {t.strategy: (u, is_tie(t, u)) for t, u in pairwise(rest)}
    more, tie = after.get(chosen.strategy, (chosen, False))
    if not any(t.accuracy is not None for t in tried):
        impossible = "No labels can be held out for a comparison"
        why = impossible if "held out" in chosen.why_not else "No trial fits into the time"
        why = "Nothing was tried" if rule.case == "short" else why
        words = f"{why}: {NOT_MEASURED} ({rule!r})."
    elif tie and best is not chosen:
        words = (
            f"{more.strategy} got {more.accuracy:.1%} of the labels held out right, "
            f"{chosen.strategy} {chosen.accuracy:.1%}: no clear difference, so the fewest changes win."
        )
    elif best is chosen and chosen.strategy != "head":
        gain = f"{100 * chosen.expected:.1f} points more than head, ± {100 * chosen.sd:.1f}"
        words = f"It is expected to gain {gain}."
    elif best is chosen:
        words = "More changes are not expected to gain anything."
    else:
        extra, sd = best.expected - chosen.expected, math.sqrt(max(0.0, best.sd**2 - chosen.sd**2))
        gain = f"{100 * extra:.1f} points more, ± {100 * sd:.1f}"
        words = f"{best.strategy} is expected to gain {gain}: too little to justify more changes."
    if any(t.accuracy is not None for t in tried) and chosen.strategy != rule.strategy:
        words += (
            f" The rule of thumb leads to {rule.strategy}; what was measured on your labels wins."
        )
    dear = [t.strategy for t in tried if not t.affordable]
    over = f" {' and '.join(dear)} would exceed {budget}." if dear else ""
    return words + over


def _certainty(chosen: Tried, tried: Sequence[Tried]) -> str:
    """How likely it is that no other strategy is more than a point better, and by what evidence."""
    untried = [t.strategy for t in tried if t.accuracy is None]
    if len(untried) == len(tried):
        return NOT_MEASURED
    rivals = [t for t in tried if t is not chosen and t.affordable]
    chances = [
        _below(chosen.expected - t.expected + WORTHWHILE_GAIN, abs(t.sd**2 - chosen.sd**2))
        for t in rivals
    ]
    chance = min(chances, default=1.0)
    by = f"; {' and '.join(untried)} not measured: only by the rule of thumb" if untried else ""
    return f"{chance:.0%} that no other strategy is more than a point better{by}"


def _scheme_words(trials: Trials) -> str:
    """What was tried: images held out, folds, epochs."""
    scheme = trials.scheme
    if scheme is None:
        return NOT_MEASURED
    held = f"{len(trials.labels):,} labels held out in {scheme.folds} fold"
    short = f", {scheme.epochs:.0%} of the epochs" if scheme.epochs < 1 else ""
    classes = len(np.unique(trials.labels))
    return f"{held}{'s' if scheme.folds > 1 else ''}, of {classes} classes{short}"


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
