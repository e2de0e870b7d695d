"""The card of advice: the strategy, why, and what was measured."""

from __future__ import annotations

from tlnb.core.data.dataset import CONVENTION
from tlnb.core.tuning.advise import NOT_MEASURED, Advice, Tried, is_tie
from tlnb.display.html import Raw, bar, card, facts, folded, headline, line, measured, safe, table
from tlnb.display.source_cards import sources_card
from tlnb.display.words import money, percent, seconds


def advice_card(advice: Advice) -> str:
    """The verdict, each strategy in plain words; the rule of thumb and the probes are folded."""
    if advice.sources:
        return sources_card(advice)
    head = ["strategy", "held-out labels right", "what the trial showed", "expected over head"]
    before = [None, *advice.evidence]
    rows = [
        [_name(tried, advice), *map(measured, _row(fewer, tried))]
        for fewer, tried in zip(before, advice.evidence, strict=False)
    ]
    currency = advice.evidence[0].forecast.currency
    head += ["time", f"money, {currency}"]
    parts: list[str] = [
        headline(measured(advice.strategy), measured(advice.reason)),
        line(measured(Raw(f"<b>How sure</b>: {safe(advice.sure)}."))),
        table(head, rows, left=3, of_figures=True),
    ]
    parts += [line(Raw(f"<b>Note</b>: {safe(flag)}.")) for flag in advice.flags]
    parts.append(folded("The rule of thumb, and how it was measured", facts(_about(advice))))
    parts.append(folded("What each frozen stage already knows", *_probes(advice)))
    return card(f"Advice for {advice.model} on {advice.data}: {advice.strategy}", *parts)


def _name(tried: Tried, advice: Advice) -> str:
    bold = Raw(f"<b>{tried.strategy}</b>")
    return bold if tried.strategy == advice.strategy else tried.strategy


def _row(fewer: Tried | None, tried: Tried) -> list[str]:
    cost = tried.forecast
    return [
        percent(tried.accuracy),
        _shown(fewer, tried),
        _expected(tried),
        seconds(cost.seconds),
        money(cost.money),
    ]


def _shown(fewer: Tried | None, tried: Tried) -> str:
    """What the trial showed beside the strategy with fewer changes."""
    if not tried.affordable:
        return "over the budget"
    if tried.accuracy is None:
        return f"not tried: {tried.why_not}"
    if fewer is None or tried.gain is None:
        return "the fewest changes"
    points = f"{100 * tried.gain:+.1f} ± {100 * (tried.error or 0):.1f} points by probability"
    if is_tie(fewer, tried):
        return f"no clear gain over {fewer.strategy} ({points})"
    return f"better than {fewer.strategy} ({points})"


def _expected(tried: Tried) -> str:
    if tried.strategy == "head":
        return "–"
    if not tried.sd:
        return "not measured"
    basis = ", by the rule of thumb" if tried.accuracy is None else ""
    return f"{100 * tried.expected:+.1f} ± {100 * tried.sd:.1f}{basis}"


def _about(advice: Advice) -> list[tuple[str, object]]:
    shares = advice.fractions
    halves = (
        f"a probe gets {percent(shares[0][1])}, with all {percent(shares[1][1])}" if shares else ""
    )
    return [
        (
            "the rule of thumb",
            f"{advice.rule_says} ({advice.per_class:,.0f} labels in the smallest of {advice.classes} "
            f"classes; a convention: {CONVENTION})",
        ),
        ("tried on", measured(advice.trials or NOT_MEASURED)),
        ("half of the labels", measured(halves) if halves else None),
        (
            "measured by",
            "training on some of the labels in use and asking for the rest; points by probability: how much more of it "
            "the true class gets than from the strategy before, as a share of head's mistakes, ± one standard error; "
            "test images are not read",
        ),
        ("this advice took", measured(f"{seconds(advice.seconds)}, which is on the bill")),
    ]


def _probes(advice: Advice) -> list[str]:
    if not advice.probes:
        return []
    rows = [
        [p.stage, *map(measured, (percent(p.accuracy), f"± {100 * p.error:.1f}", bar(p.accuracy)))]
        for p in advice.probes
    ]
    words = line("How often a logistic regression on a stage's output is right:")
    return [words, table(["stage", "accuracy", "", ""], rows)]
