"""Cards as text for terminals: tables cut to the width, sentences broken into lines."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from typing import Any

from tlnb.core.evaluation.comparison import Comparison
from tlnb.core.evaluation.predictions import Errors
from tlnb.core.models.anatomy import Anatomy
from tlnb.core.models.catalogue import Catalogue
from tlnb.core.planning.plan import Strategies
from tlnb.core.tuning.advise import Advice
from tlnb.display.networks import STRATEGY_DATA, STRATEGY_MEANINGS, state_of
from tlnb.display.reliability import reliability_words
from tlnb.display.source_cards import behind
from tlnb.display.tables import findings, footnotes, short_table, verdict
from tlnb.display.words import count, flops, interval, percent, seconds, size

WIDTH = 80  # columns that every terminal has
GAP = "  "
NAME_WIDTH = 19  # of a first column that leaves room for the others
MAX_CONFUSED = 10


def grid(
    head: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1, width: int = WIDTH
) -> str:
    """Format a table as text: the first `left` columns flush left, the others flush right.

    If it is wider than `width`, names are shortened to `NAME_WIDTH`, then the last columns go.
    """
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    if sum(widths) + len(GAP) * (len(widths) - 1) > width:
        widths[0] = min(widths[0], NAME_WIDTH)
    while len(widths) > 1 and sum(widths) + len(GAP) * (len(widths) - 1) > width:
        widths.pop()
    return _lines(head, rows, widths, left)


def _lines(
    head: Sequence[str], rows: Sequence[Sequence[str]], widths: Sequence[int], left: int
) -> str:
    def text(row: Sequence[str]) -> str:
        cells = (
            _cut(cell, w).ljust(w) if i < left else cell.rjust(w)
            for i, (cell, w) in enumerate(zip(row, widths, strict=False))
        )
        return GAP.join(cells).rstrip()

    return "\n".join([text(head), GAP.join("-" * w for w in widths), *map(text, rows)])


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def comparison_text(comparison: Comparison, width: int = WIDTH) -> str:
    """The five columns that decide, as far as they fit, and what was found."""
    head, rows = short_table(comparison)
    parts = [verdict(comparison), "", grid(head, rows, width=width), ""]
    return "\n".join([*parts, *findings(comparison), *footnotes(comparison), *comparison.notes])


def anatomy_text(read: Anatomy, width: int = WIDTH) -> str:
    """Stages, or with `detailed` layers: frozen or not, parameters, FLOPs."""
    units: Sequence[Any] = read.layers if read.detailed else read.stages
    head = ["layer" if read.detailed else "stage", "in training", "parameters", "FLOPs"]
    rows = [[u.name, state_of(u), f"{u.params:,}", flops(u.flops)] for u in units]
    return f"{read!r}\n\n{grid(head, rows, 2, width)}"


def strategies_text(strategies: Strategies, width: int = WIDTH) -> str:
    """What each strategy trains, the amount of data it suits, and what a step costs."""
    head = ["strategy", "trains", "parameters", "a step", "for"]
    rows = [
        [
            plan.strategy,
            STRATEGY_MEANINGS[plan.strategy],
            f"{plan.trainable_params:,}",
            flops(cost),
            STRATEGY_DATA.get(plan.strategy, ""),
        ]
        for plan, cost in zip(strategies.plans, strategies.step_flops, strict=True)
    ]
    rule = f"\n\n{strategies.rule!r}" if strategies.rule else ""
    return f"{strategies!r}\n\n{grid(head, rows, 2, width)}{rule}"


def catalogue_text(catalogue: Catalogue, width: int = WIDTH) -> str:
    """The catalogue's models: accuracy on their own data, size, what they were trained on."""
    head = ["model", "top-1", "parameters", "one image", "on disk", "trained on"]
    rows = [
        [
            c.name,
            percent(c.accuracy),
            count(c.parameters),
            flops(c.flops),
            "yes" if c.on_disk else "no",
            _cut(c.source, 24),
        ]
        for c in catalogue.cards
    ]
    words = f"{catalogue!r}; an accuracy is of the data trained on"
    return f"{words}\n\n{grid(head, rows, width=width)}"


def errors_text(errors: Errors, width: int = WIDTH) -> str:
    """Accuracy by class, and the pairs that were confused most often."""
    classes = [
        [s.name, f"{s.right} of {s.total}", percent(s.accuracy), interval(s.interval)]
        for s in errors.by_class
    ]
    pairs = [[c.truth, c.said, str(c.count)] for c in errors.confused[:MAX_CONFUSED]]
    tables = [grid(["class", "right", "accuracy", "95% interval"], classes, width=width)]
    if pairs:
        tables.append(grid(["true class", "said", "times"], pairs, 2, width))
    bins = [
        [percent(b.confidence), percent(b.accuracy), str(b.count)] for b in errors.reliability.bins
    ]
    tables.append(grid(["mean probability", "accuracy", "images"], bins, 0, width))
    return "\n\n".join([repr(errors), *tables, reliability_words(errors.reliability)])


def advice_text(advice: Advice, width: int = WIDTH) -> str:
    """The candidates for a source; advice on a strategy is its line."""
    if not advice.sources:
        return repr(advice)
    head = ["network", "right", "95%", "behind", "images", "states", "time", "size"]
    rows = [
        [
            source.name,
            percent(source.accuracy),
            "–".join(f"{100 * end:.0f}" for end in source.interval or ()),
            behind(source).removeprefix("the ").replace(" ± ", "±"),
            count(source.card.source_images),
            percent(source.card.accuracy),
            seconds(source.seconds),
            size(source.bytes),
        ]
        for source in advice.sources
    ]
    after = [*(f"Note: {flag}." for flag in advice.flags), f"next: {advice.sources[0].line}"]
    table = grid(head, rows, width=width)
    return "\n".join([repr(advice), "", table, "", f"How sure: {advice.sure}.", *after])


TEXT: dict[type, Callable[..., str]] = {
    Comparison: comparison_text,
    Anatomy: anatomy_text,
    Strategies: strategies_text,
    Catalogue: catalogue_text,
    Errors: errors_text,
    Advice: advice_text,
}


def terminal_text(value: object, width: int) -> str:
    """A value's text card with no line wider than the terminal."""
    text = TEXT[type(value)](value, width)
    return "\n".join(
        textwrap.fill(each, width) if len(each) > width else each for each in text.split("\n")
    )
