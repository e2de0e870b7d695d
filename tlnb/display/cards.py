"""A card for each type of record: a title, a table of figures, and a chart where one helps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tlnb.core.costs.bill import Bill
from tlnb.core.data.dataset import DataSet
from tlnb.core.evaluation.comparison import Comparison
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
from tlnb.display.bills import advice_card, bill_card, forecast_card, tuning_card
from tlnb.display.check_cards import check_card, checks_card
from tlnb.display.data_cards import data_card
from tlnb.display.error_cards import errors_card, predictions_card
from tlnb.display.html import Raw, card, facts, line, measured, note, picture, safe, table
from tlnb.display.look_cards import look_card
from tlnb.display.model_cards import catalogue_card, catalogue_entry_card, model_card
from tlnb.display.networks import anatomy_card, strategies_card
from tlnb.display.run_cards import plan_card, run_card, saved_card
from tlnb.display.tables import comparison_table, findings, footnotes, verdict
from tlnb.display.words import interval, percent, seconds
from tlnb.session import Session
from tlnb.session.check_results import Check, Checks


def comparison_card(comparison: Comparison) -> str:
    head, rows = comparison_table(comparison)
    parts: list[str] = [line(measured(verdict(comparison)))]
    curves = [row.name for row in comparison.rows if row.curve]
    if curves:
        alt = f"accuracy against seconds for {', '.join(curves)}, and where the seconds went"
        parts.append(picture(charts.comparison(comparison), alt))
    named = [
        [Raw(f"<b>{safe(name)}</b>{note(what)}"), *map(measured, rest)]
        for name, what, *rest in rows
    ]
    parts.append(table(["", *head[2:]], named))
    parts += [line(measured(words)) for words in findings(comparison)]
    if comparison.break_even is not None and comparison.break_even.uses is not None:
        alt = f"what uses cost in all, from scratch and with pretraining paid; equal after {comparison.break_even.uses:,.0f} uses"
        parts.append(picture(charts.break_even(comparison.break_even), alt, of_figures=True))
    parts += [note(words) for words in footnotes(comparison)]
    parts += [note(measured(words)) for words in comparison.notes]
    return card(f"Side by side on {comparison.data}", *parts)


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
    parts.append(line(Raw(f"next: <code>{safe(session.next_line)}</code>")))
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
