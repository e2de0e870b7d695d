"""Cards about costs: the bill, forecasts, pretraining, advice and tuning."""

from __future__ import annotations

import re
from pathlib import Path

from tlnb.core.costs.bill import Bill, Charge, price_basis
from tlnb.core.costs.pretraining import Pretraining
from tlnb.core.planning.options import OPTIONS
from tlnb.core.training.run import Forecast
from tlnb.core.tuning.tune import Trial, Tuning
from tlnb.display import charts
from tlnb.display.html import (
    Raw,
    bar,
    card,
    facts,
    folded,
    line,
    measured,
    note,
    picture,
    safe,
    table,
)
from tlnb.display.networks import work
from tlnb.display.words import clock, flops, memory, money, percent, seconds, small

KIND_NAMES = {
    "run": "runs",
    "baseline": "baselines, from scratch",
    "equal budget": "baselines with equal steps",
    "tuning": "tuning",
    "forecasting": "forecasting",
    "advising": "advising",
}
SAME_PRICE = "assumed: the price above"
FIGURE_COLUMNS = ["seconds", "FLOPs", "energy", "money", "basis"]


def bill_card(bill: Bill) -> str:
    """Sums by kind, the total, the pretraining bill that others paid, and every charge."""
    kinds = [[KIND_NAMES[kind], *_figures(total, bill)] for kind, total in bill.kinds.items()]
    kinds.append([Raw("<b>total</b>"), *_figures(bill.total, bill)])
    rows = [
        [KIND_NAMES[c.kind], c.run, c.phase, *_figures(c, bill)]
        for kind in bill.kinds
        for c in bill.charges
        if c.kind == kind
    ]
    parts: list[str] = [table(["for", *FIGURE_COLUMNS], kinds)]
    parts += [note(measured(text)) for text in _basis_lines(bill.total)]
    parts += _unpaid(bill.unpaid, bill.total) if bill.unpaid else []
    height = "22em" if len(rows) > 14 else ""
    charges = table(["for", "what", "phase", *FIGURE_COLUMNS], rows, left=3, height=height)
    parts += [folded("Every charge", charges)] if rows else []
    return card(repr(bill), *parts)


def _figures(c: Charge, bill: Bill) -> list[object]:
    figures = (
        seconds(c.seconds),
        work(c.flops),
        small(c.wh, "Wh"),
        money(c.money, bill.currency),
        c.basis,
    )
    return [measured(figure) for figure in figures]


def _basis_lines(total: Charge) -> list[str]:
    names = {"seconds": "Seconds", "flops": "FLOPs", "wh": "Energy", "money": "Money"}
    return [f"{names[k]}: {kind}, {how}." for k, (kind, how) in total.bases.items() if k in names]


def _unpaid(pretraining: Pretraining, paid: Charge) -> list[Raw]:
    title = Raw(
        f"<b>The bill you did not pay</b>: pretraining {safe(pretraining.model)}, by someone else, once"
    )
    basis = price_basis(pretraining.price)
    known = pretraining.price.basis.partition(": ")[2] in paid.bases.get("money", ("", ""))[1]
    return [line(title), facts(pretraining_facts(pretraining, SAME_PRICE if known else basis))]


def pretraining_facts(
    pretraining: Pretraining, basis: str = "assumed: %tl_cost says how"
) -> list[tuple[str, object]]:
    """The cost of pretraining as rows of (figure, value with its basis).

    Args:
        basis: what the money is based on.
    """
    price = pretraining.price
    time = f"{clock(pretraining.seconds)} on {pretraining.hardware}"
    return [
        ("time", f"{time} ({_basis_words(pretraining, 'seconds')})"),
        ("FLOPs", f"{flops(pretraining.flops)} ({_basis_words(pretraining, 'flops')})"),
        (
            "energy",
            f"{_energy(pretraining.wh)} ({_basis_words(pretraining, 'wh')})"
            if pretraining.wh is not None
            else None,
        ),
        ("money", f"{money(pretraining.money, price.currency)} ({basis})"),
    ]


def _basis_words(pretraining: Pretraining, figure: str) -> str:
    kind, how = pretraining.bases[figure]
    return f"{'estimate' if kind == 'assumed' else kind}: {how}"


def _energy(value: float) -> str:
    return small(value, "Wh") if value < 1000 else f"{value / 1000:,.0f} kWh"


def forecast_card(forecast: Forecast) -> str:
    """Seconds by phase with bars, other figures and, after the run, the forecast's error."""
    phases = {phase: s for phase, s in forecast.phases.items() if s >= 0.005}
    longest = max(phases.values(), default=1.0)
    rows = [
        [phase, seconds(s), bar(s / longest), work(forecast.flops_by_phase.get(phase, 0.0))]
        for phase, s in phases.items()
    ]
    rows.append([Raw("<b>all</b>"), seconds(forecast.seconds), "", flops(forecast.flops)])
    about = [
        ("epochs", f"{forecast.options.epochs}, each about {seconds(forecast.per_epoch)}"),
        ("energy", measured(f"{small(forecast.wh, 'Wh')} ({forecast.bases['wh']})")),
        (
            "money",
            measured(f"{money(forecast.money, forecast.currency)} ({forecast.bases['money']})"),
        ),
        (
            "memory at most",
            measured(f"{memory(forecast.peak_bytes)} ({forecast.bases['peak_bytes']})"),
        ),
        ("how", measured(f"{forecast.bases['seconds']}; FLOPs {forecast.bases['flops']}")),
        ("this forecast took", f"{seconds(forecast.took)}, which is on the bill"),
        ("afterwards", measured(forecast_score(forecast))),
        ("notes", "; ".join(forecast.notes)),
    ]
    title = f"Forecast of {forecast.name}: {seconds(forecast.seconds)}, {flops(forecast.flops)}"
    return card(
        title, table(["phase", "seconds", "", "FLOPs"], rows, of_figures=True), facts(about)
    )


def tuning_card(tuning: Tuning) -> str:
    """The best values, the time until close to them, a chart against time, and every trial."""
    best, close = tuning.best, tuning.until_close()
    about: list[tuple[str, object]] = [
        (
            "best",
            measured(
                f"trial {best.number}: {percent(best.accuracy)} ({_option_words(best)})"
                if best
                else "no trial finished"
            ),
        ),
        (
            "within a point of it",
            measured(f"after {close[0]} trials, {seconds(close[1])}") if close else None,
        ),
        ("judged by", tuning.judged_by + "; test images are not used to choose"),
        ("searched", "; ".join(tuning.space)),
        (
            "this call took",
            f"{seconds(tuning.seconds)}, {flops(tuning.flops)}, which is on the bill as tuning",
        ),
        ("saved in", _public_location(tuning.storage)),
        ("notes", "; ".join(tuning.notes)),
    ]
    names = list(dict.fromkeys(name for t in tuning.trials for name in t.values))
    head = [
        "trial",
        "status",
        *(OPTION_NAMES.get(n, n) for n in names),
        "accuracy",
        "seconds",
        "FLOPs",
    ]
    order = sorted(
        tuning.trials, key=lambda t: (t.status != "finished", -(t.accuracy or 0.0), t.number)
    )
    rows = [
        [
            t.number,
            t.status,
            *(_option_value(t.values.get(n)) for n in names),
            percent(t.accuracy),
            seconds(t.seconds),
            work(t.flops),
        ]
        for t in order
    ]
    parts: list[str] = [facts(about)]
    if best:
        alt = f"best accuracy so far against seconds of tuning; finally {percent(best.accuracy)}"
        parts.append(picture(charts.tuning(tuning), alt))
    height = "22em" if len(rows) > 16 else ""
    parts.append(folded("Every trial", table(head, rows, left=2, height=height, of_figures=True)))
    return card(
        f"Tuning for {tuning.strategy} on {tuning.data}: {len(tuning.trials)} trials ({tuning.status})",
        *parts,
    )


OPTION_NAMES = {each.name: each.label for each in OPTIONS} | {"last": "stages that train"}


def _public_location(storage: str) -> str:
    """A database's URL without its password, or a file with its parent folder, fit to be shared."""
    if "://" in storage:
        return re.sub(r"//[^/@]*@", "//…@", storage)
    parts = Path(storage).parts
    return storage if len(parts) < 3 else "…/" + "/".join(parts[-2:])


def _option_words(trial: Trial) -> str:
    return ", ".join(
        f"{OPTION_NAMES.get(name, name)} {_option_value(value)}"
        for name, value in trial.values.items()
    )


def _option_value(value: object) -> str:
    if value is None:
        return "–"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def forecast_score(forecast: Forecast) -> str:
    """The error of a forecast in words; empty before the run."""
    if forecast.error is None:
        return ""
    of_flops = f", {forecast.flops_error:.1%} in FLOPs" if forecast.flops_error is not None else ""
    return f"forecast {seconds(forecast.seconds)}, took {seconds(forecast.measured)}: {forecast.error:.0%} off in time{of_flops}"
