"""A card for each type of record: a title, a table of figures, and a chart where one helps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tlnb.core.costs.bill import Bill
from tlnb.core.data.dataset import DataSet
from tlnb.core.evaluation.comparison import Comparison, Row
from tlnb.core.evaluation.look import Look
from tlnb.core.evaluation.predictions import Errors, Predictions
from tlnb.core.export.pytorch_script import Script
from tlnb.core.export.save import Saved
from tlnb.core.models.anatomy import Anatomy
from tlnb.core.models.catalogue import Card, Catalogue
from tlnb.core.models.pretrained import PretrainedModel
from tlnb.core.planning.plan import Plan, Strategies
from tlnb.core.training.run import Forecast, Run
from tlnb.core.tuning.advise import Advice
from tlnb.core.tuning.tune import Tuning
from tlnb.display import charts
from tlnb.display.advice_cards import advice_card
from tlnb.display.bills import bill_card, forecast_card, tuning_card
from tlnb.display.check_cards import check_card, checks_card
from tlnb.display.data_cards import data_card
from tlnb.display.error_cards import errors_card, predictions_card
from tlnb.display.html import (
    Raw,
    card,
    facts,
    folded,
    headline,
    line,
    measured,
    note,
    picture,
    safe,
    table,
)
from tlnb.display.look_cards import look_card
from tlnb.display.model_cards import catalogue_card, catalogue_entry_card, model_card
from tlnb.display.networks import anatomy_card, strategies_card
from tlnb.display.run_cards import plan_card, run_card, saved_card
from tlnb.display.tables import (
    accuracies_words,
    break_even_words,
    comparison_table,
    footnotes,
    less_work,
    saving_words,
    short_table,
    than_words,
)
from tlnb.display.words import interval, percent, seconds
from tlnb.session import Session
from tlnb.session.check_results import Check, Checks


def comparison_card(comparison: Comparison) -> str:
    """What the run saved, one chart, the five columns that decide; the rest is folded."""
    figure, words = less_work(comparison), measured(than_words(comparison))
    parts: list[str] = [headline(measured(figure), words)] if figure else []
    parts.append(line(measured(accuracies_words(comparison))))
    curves = [row.name for row in comparison.rows if row.curve]
    if curves:
        alt = f"accuracy against work for {', '.join(curves)}"
        parts.append(picture(charts.comparison(comparison), alt))
    head, rows = short_table(comparison)
    named = [
        [_named(row), *map(measured, cells[1:])]
        for row, cells in zip(comparison.rows, rows, strict=True)
    ]
    parts.append(table(head, named))
    if paid := break_even_words(comparison):
        parts.append(line(measured(paid)))
    parts += [note(measured(words)) for words in comparison.notes]
    return card(f"Side by side on {comparison.data}", *parts, _all_figures(comparison))


def _named(row: Row) -> Raw:
    what = row.what.removesuffix(f", {row.name}")
    return Raw(f"<b>{safe(row.name)}</b>{note(what)}")


def _all_figures(comparison: Comparison) -> Raw:
    """Every column, what was saved by what, the break-even's chart, and how it was measured."""
    head, rows = comparison_table(comparison)
    parts: list[str] = [table(head, [[*row[:2], *map(measured, row[2:])] for row in rows], left=2)]
    if words := saving_words(comparison):
        parts.append(line(measured(words)))
    found = comparison.break_even
    if found is not None and found.uses is not None:
        alt = f"what uses cost in all, from scratch and with pretraining paid; equal after {found.uses:,.0f} uses"
        parts.append(picture(charts.break_even(found), alt, of_figures=True))
    return folded(
        "All figures, and how they were measured", *parts, *map(note, footnotes(comparison))
    )


def session_card(session: Session) -> str:
    rows = [
        ("data", repr(session.dataset) if session.dataset else "none yet"),
        ("model", repr(session.model) if session.model else "none yet"),
        ("plan", repr(session.plan) if session.plan else "none yet"),
    ]
    parts: list[str] = [facts(rows)]
    if session.runs:
        runs = [
            [
                r.name,
                r.data,
                r.strategy,
                *map(
                    measured,
                    (percent(r.accuracy), interval(r.interval), seconds(r.training_seconds)),
                ),
            ]
            for r in session.runs
        ]
        parts.append(
            table(
                ["run", "data", "strategy", "test accuracy", "95% interval", "seconds to train"],
                runs,
                left=3,
            )
        )
    parts += [note(text) for text in session.state.lost]
    rule = safe(f" ({session.state.rule!r})") if session.state.rule else ""
    parts.append(line(Raw(f"next: <code>{safe(session.next_line)}</code>{rule}")))
    return card("Where we are", *parts)


def script_card(script: Script) -> str:
    style = "max-height:36em;overflow:auto;margin:.3em 0;padding:.6em .8em;border:1px solid #7f7f7f80;border-radius:4px"
    code = f'<pre style="{style};line-height:1.35;white-space:pre">{safe(str(script))}</pre>'
    return card(repr(script), Raw(code))


HTML: dict[type, Callable[[Any], str]] = {
    DataSet: data_card,
    Catalogue: catalogue_card,
    PretrainedModel: model_card,
    Card: catalogue_entry_card,
    Anatomy: anatomy_card,
    Plan: plan_card,
    Strategies: strategies_card,
    Run: run_card,
    Comparison: comparison_card,
    Bill: bill_card,
    Forecast: forecast_card,
    Tuning: tuning_card,
    Advice: advice_card,
    Saved: saved_card,
    Session: session_card,
    Script: script_card,
    Check: check_card,
    Checks: checks_card,
    Errors: errors_card,
    Predictions: predictions_card,
    Look: look_card,
}
