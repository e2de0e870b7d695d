"""Recommend a source: the candidate whose features tell the classes apart best, and how sure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import NormalDist

from tlnb.core.data.dataset import DataSet
from tlnb.core.data.pretraining_overlap import seen_by
from tlnb.core.models.catalogue import Card
from tlnb.core.models.clocks import Clock, CostTracker
from tlnb.core.models.pretrained import PretrainedModel
from tlnb.core.planning.size_rule import size_rule
from tlnb.core.runtime.device import machine
from tlnb.core.runtime.errors import listed
from tlnb.core.storage.activation_cache import Store
from tlnb.core.training.progress import Progress, Report
from tlnb.core.tuning.advise import NOT_MEASURED, WORTHWHILE_GAIN, Advice
from tlnb.core.tuning.sources import Candidate, Source, probe_sources

FEW_NAMES = 3  # networks that a sentence names


def advise_source(
    candidates: Sequence[Candidate],
    data: DataSet,
    used_by: Callable[[PretrainedModel], DataSet],
    *,
    store: Store,
    report: Report | None = None,
) -> tuple[Advice, CostTracker]:
    """Measure the candidates, and recommend one; returns the advice and its cost.

    Its strategy is the rule's for this amount of data, and its model the best source.

    Raises:
        ModelError, UsageError: as `probe_sources`.
    """
    spent = CostTracker(Clock(machine()))

    def report_step(step: int) -> None:
        if report is not None:
            report(Progress(run="advice", phase="advising", epoch=step, epochs=len(candidates)))

    sources, left_out = probe_sources(candidates, used_by, store, spent, report_step)
    seen = (_seen(source.card, data) for source in sources)
    overlaps = (f"{s.name}: {note}" for s, note in zip(sources, seen, strict=True) if note)
    rule = size_rule(data.per_class)
    advice = Advice(
        strategy=rule.strategy,
        rule=rule.strategy,
        rule_says=repr(rule),
        reason=_reason(sources, data),
        sure=_certainty(sources),
        model=sources[0].name,
        data=data.name,
        per_class=data.per_class,
        classes=len(data.classes),
        sources=sources,
        seconds=sum(spent.clock.seconds().values()),
        flags=(*left_out, *overlaps),
    )
    return advice, spent


def _seen(card: Card, data: DataSet) -> str:
    """Why a candidate may know these very images; else empty."""
    if card.family == "run" and card.source.startswith(f"{data.name}, "):
        return (
            f"it was trained on {data.name}, perhaps on labels that the probe holds out: what it "
            "gets right here says little about new images"
        )
    return seen_by(card.source, data.source_hint)


def _reason(sources: Sequence[Source], data: DataSet) -> str:
    """The verdict in a sentence or two."""
    best, *others = sources
    if best.accuracy is None:
        return f"Not measured: {data.labelled.none_held}."
    got = f"A linear probe on its features gets {best.accuracy:.1%} of {best.labels} labels right"
    if not others:
        return f"{got}, each held out. It is the only candidate: nothing to compare it with."
    tied = [source for source in others if source.tied]
    if tied:
        names = listed((source.name for source in tied), FEW_NAMES)
        most = (best.card.source_images or 0) > max(s.card.source_images or 0 for s in tied)
        large = "; of these it learned from the most images" if most else ""
        return f"{got}; it cannot be told apart from {names} with {best.labels} labels{large}."
    second = others[0]
    gap, error = second.behind or 0.0, second.error or 0.0
    return (
        f"{got}, and they get {100 * gap:.1f} ± {100 * error:.1f} points more probability than "
        f"with {second.name}."
    )


def _certainty(sources: Sequence[Source]) -> str:
    """How likely it is that no other candidate is more than a point better."""
    best, *others = sources
    if best.accuracy is None:
        return NOT_MEASURED.partition(":")[0]
    if not others:
        return "nothing to compare with"
    chance = min(map(_chance, others))
    return f"{chance:.0%} that no other of these is more than a point better"


def _chance(other: Source) -> float:
    """The probability that the best is at most a point worse than this one."""
    margin = (other.behind or 0.0) + WORTHWHILE_GAIN
    return NormalDist().cdf(margin / (other.error or 1e-9))
