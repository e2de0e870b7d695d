"""A card for each type of record: title, the figures as a table, a chart where one helps."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

from tlnb.core.costs.bill import Bill
from tlnb.core.costs.pretraining import pretraining_of
from tlnb.core.data.dataset import DataSet
from tlnb.core.data.duplicates import Leak
from tlnb.core.evaluation.comparison import Comparison
from tlnb.core.export.pytorch_script import Script
from tlnb.core.export.save import Saved
from tlnb.core.models.anatomy import Anatomy
from tlnb.core.models.catalogue import Card, Catalogue
from tlnb.core.models.pretrained import PretrainedModel, Transform
from tlnb.core.planning.plan import Plan, Strategies
from tlnb.core.training.freezing import Change
from tlnb.core.training.run import Forecast, Run
from tlnb.core.tuning.advise import Advice
from tlnb.core.tuning.tune import Tuning
from tlnb.course.checks import Check, Checks
from tlnb.display import charts, pictures
from tlnb.display.bills import (
    advice_card,
    bill_card,
    forecast_card,
    forecast_score,
    pretraining_facts,
    tuning_card,
)
from tlnb.display.check_cards import check_card, checks_card
from tlnb.display.html import (
    BLUE,
    Raw,
    bar,
    card,
    facts,
    line,
    link,
    measured,
    note,
    picture,
    safe,
    table,
)
from tlnb.display.networks import MEANING, anatomy_card, frozen_of, strategies_card
from tlnb.display.tables import comparison_table, findings, footnotes, on_its_source, verdict
from tlnb.display.words import count, flops, interval, percent, seconds, size, small
from tlnb.session import Session

SHOWN = 1000  # rows of a list
SKEWED = 3.0  # times more labels in the largest class than in the smallest: it is said


def data_card(data: DataSet) -> str:
    counts = data.counts
    low, high = min(counts.values()), max(counts.values())
    each = f"{low}" if low == high else f"{low} to {high}"
    splits = ", ".join(f"{n:,} {split}" for split, n in data.splits.items())
    used = sum(counts.values())
    rows = [
        (
            "classes",
            f"{len(data.classes)}: {', '.join(data.classes[:12])}{' …' if len(data.classes) > 12 else ''}",
        ),
        ("images", splits),
        ("labels in use", f"{used:,} ({each} in each class)"),
        (
            "size verdict",
            f"{data.size_verdict} (a convention: little < 100 ≤ decent < 1,000 ≤ a lot, images per class)",
        ),
        ("kept at", f"{data.edge}×{data.edge} pixels"),
    ]
    if data.imbalance >= SKEWED:
        few, many = (next(c for c, n in counts.items() if n == amount) for amount in (low, high))
        skew = f"{many} has {data.imbalance:.3g} times as many labels as {few}: see balanced accuracy, or train --class-weights"
        rows.append(("imbalance", skew))
    if data.groups is not None:
        rows.append(("groups", f"{data.groups:,}, each on one side of every split made here"))
    parts = [facts(rows), *(note(words) for words in data.notes)]
    if data.leaks:
        same = sum(leak.same for leak in data.leaks)
        parts.append(
            line(
                f"{len(data.leaks)} images are in two splits ({same} the same, {len(data.leaks) - same} nearly):"
            )
        )
        parts.append(
            _list(
                ["image", "repeats"],
                [[f"{k.image} ({k.split})", _repeated(k)] for k in data.leaks],
                left=2,
            )
        )
    if data.skipped:
        parts.append(line(f"{len(data.skipped)} files were skipped:"))
        parts.append(_list(["file and reason"], [[s] for s in data.skipped]))
    training = "all training images" if data.splits["train"] <= 120 else "some training images"
    parts.append(
        picture(charts.samples(data), f"{training} of {data.name}, a column for each class")
    )
    return card(f"{data.name}: {splits}", *parts)


def _repeated(leak: Leak) -> str:
    return f"{leak.other} ({leak.other_split}), {'pixel for pixel' if leak.same else 'nearly'}"


def _list(head: list[str], rows: list[list[str]], left: int = 1) -> Raw:
    """All rows, scrolled where there are many; of thousands the first ones, and how many more there are."""
    more = (
        f"and {len(rows) - SHOWN:,} more: tl.dataset.skipped, tl.dataset.leaks"
        if len(rows) > SHOWN
        else ""
    )
    rest = [[more, *[""] * (len(head) - 1)]] if more else []
    return table(head, [*rows[:SHOWN], *rest], left=left, height="28em" if len(rows) > FEW else "")


FEW = 12  # rows that are shown without scrolling
ORDERS = {
    "small": "by parameters, the embedded ones before the others",
    "accurate": "by top-1 accuracy, the embedded ones, which learned from other data, after the others",
    "fast": "by FLOPs for one image, the embedded ones before the others",
}


def catalogue_card(found: Catalogue) -> str:
    rows = [
        [
            c.name,
            _wide(c.source),
            count(c.source_classes),
            percent(c.accuracy),
            bar(c.accuracy or 0, BLUE, 60),
            percent(c.top5),
            count(c.parameters),
            flops(c.flops),
            size(c.bytes),
            _edge(c.size),
            _edge(c.min_size),
            "yes" if c.on_disk else "no",
            _links(c),
        ]
        for c in found.cards
    ]
    head = [
        "model",
        "trained on",
        "classes",
        "top-1",
        "",
        "top-5",
        "parameters",
        "one image",
        "file",
        "input",
        "at least",
        "on disk",
        "more",
    ]
    many = "model" if len(found.cards) == 1 else "models"
    return card(
        f"{len(found.cards)} {many}, {found.sort} first",
        table(head, rows, left=2, height="28em" if len(rows) > FEW else ""),
        note(
            f"Order: {ORDERS[found.sort]}. Figures are those of the weights that load by default, measured by who trained "
            "them, not here. An accuracy holds for its own data: compare it within one source; chance is one in so many "
            "classes. One image is one forward pass, a multiply-add counted as two. Input is the image's edge in pixels, "
            "as trained and at least."
        ),
        note(
            "%tl_load NAME loads one; its card lists its other weights. %tl_models --sort accurate, or fast"
        ),
    )


def _wide(text: str) -> Raw:
    """Room for a few words on a line."""
    return Raw(f'<span style="display:inline-block;min-width:9em">{safe(text)}</span>')


def _edge(pixels: int | None) -> str:
    return f"{pixels or '–'}"


def _links(c: Card) -> Raw:
    found = (
        link(url, text)
        for text, url in (("recipe", c.recipe), ("licence", c.licence))
        if url.startswith("http")
    )
    return Raw(", ".join(found) or "–")


def model_card(model: PretrainedModel) -> str:
    c, t = model.card, model.transform
    rows = [
        ("trained on", _source(c)),
        ("accuracy there", _accuracies(c)),
        ("parameters", f"{c.parameters:,}" if c.parameters else None),
        (
            "one image",
            f"{flops(c.flops)} forward, a multiply-add counted as two" if c.flops else None,
        ),
        ("input", _input(t)),
        ("", f"mean {_numbers(t.mean)}; standard deviation {_numbers(t.std)}"),
        ("output layer", _output(model)),
        ("the bill you did not pay", _took(c)),
        ("weights", _weights(model)),
        ("what they are", c.about),
        ("recipe", link(c.recipe, c.recipe) if c.recipe else None),
        ("licence", link(c.licence, c.licence) if c.licence else None),
    ]
    parts = [facts(rows), *(note(n) for n in c.notes)]
    if c.others:
        parts.append(
            line(Raw(f"Other weights, by <code>%tl_load {safe(c.name)} --weights NAME</code>:"))
        )
        parts.append(_others(c))
    return card(f"{model.name}: {c.source}", *parts)


def _source(c: Card) -> str:
    if not c.source_classes:
        return c.source
    images = f"{count(c.source_images)} images, " if c.source_images else ""
    return f"{c.source}: {images}{c.source_classes:,} classes"


def _accuracies(c: Card) -> str | None:
    if c.accuracy is None:
        return None
    five = f", top-5 {percent(c.top5)}" if c.top5 is not None else ""
    whose = "measured by the run" if c.family == "run" else "as stated by who trained it"
    return f"{percent(c.accuracy)} {c.accuracy_of}{five} (chance: {percent(c.chance)}), {whose}"


def _input(t: Transform) -> str:
    cut = "" if t.resize == t.size else f", cut from the middle after resizing to {t.resize}"
    return f"{t.size}×{t.size} pixels{cut} ({t.interpolation})"


def _output(model: PretrainedModel) -> str:
    has = f"{model.card.source_classes:,} classes" if model.card.source_classes else "its own"
    if model.target_classes is None:
        return f"{has}; kept until there are data, then replaced for their classes"
    return f"{has}; replaced by a new one for {model.target_classes:,} classes when the data came"


def _took(c: Card) -> Raw | None:
    found = pretraining_of(c)
    if found is None:
        return (
            None if c.family in ("own", "run") else Raw("not known: no recipe of it is published")
        )
    lines = (f"{safe(name)}: {safe(text)}" for name, text in pretraining_facts(found) if text)
    return Raw("<br>".join(lines))


def _weights(model: PretrainedModel) -> str:
    c = model.card
    if model.weights == "none":
        return "random: --weights none"
    if c.weights:
        return (
            f"{c.weights} ({'the default, ' if model.weights == 'default' else ''}{size(c.bytes)})"
        )
    if model.weights != "default":
        return f"from {model.weights}"
    return {"own": "as your module holds them", "run": "the run's"}.get(
        c.family, f"embedded ({size(c.bytes)})"
    )


def _others(c: Card) -> Raw:
    rows = [
        [
            o.weights,
            o.about,
            percent(o.accuracy),
            percent(o.top5),
            flops(o.flops),
            str(o.size),
            size(o.bytes),
            "yes" if o.on_disk else "no",
        ]
        for o in c.others
    ]
    head = ["weights", "what they are", "top-1", "top-5", "one image", "input", "file", "on disk"]
    return table(head, rows, left=2)


def _numbers(values: tuple[float, ...]) -> str:
    return ", ".join(f"{v:g}" for v in values)


def plan_card(made: Plan) -> str:
    share = made.trainable_params / max(made.total_params, 1)
    rows = [
        ("strategy", f"{made.strategy}: {MEANING[made.strategy]}"),
        ("start", "the pretrained weights" if made.start == "pretrained" else "random"),
        (
            "trains",
            Raw(
                f"{made.trainable_params:,} of {made.total_params:,} parameters ({share:.1%}) {bar(share)}"
            ),
        ),
        ("layers that train", _some(made.trained)),
        ("frozen", _some(made.frozen) or "nothing"),
        ("edits", _edits(made) or "none"),
    ]
    return card(
        f"Plan: {made.strategy}", facts(rows), *(line(f"Note: {words}") for words in made.notes)
    )


def _edits(made: Plan) -> Raw:
    """One line an edit; those that only fit the network to the data say so."""
    words = (
        f"<code>{safe(repr(e))}</code>{' (to fit your data)' if e.automatic else ''}"
        for e in made.edits
    )
    return Raw("<br>".join(words))


def _some(names: tuple[str, ...]) -> str:
    return (
        ", ".join(names)
        if len(names) <= 8
        else f"{', '.join(names[:3])} … {names[-1]} ({len(names)} layers)"
    )


def run_card(run: Run) -> str:
    phases = [(p, s) for p, s in run.seconds.items() if s >= 0.005]
    rows = [
        (
            "test accuracy",
            Raw(
                f"<b>{run.accuracy:.1%}</b> (95% interval {interval(run.interval)}%, {run.test_images:,} images)"
            ),
        ),
        (
            "trained",
            f"{run.plan.trainable_params:,} of {run.plan.total_params:,} parameters, "
            f"{len(run.epochs)} epochs, {_steps(run)}",
        ),
        ("seconds", measured(", ".join(f"{p} {s:.2f}" for p, s in phases) + " (measured)")),
        (
            "FLOPs",
            measured(
                f"{flops(run.training_flops)} to train, {flops(run.flops - run.training_flops)} to evaluate (counted)"
            ),
        ),
        ("computed once", _cached(run)),
        ("energy", measured(f"{small(run.energy_wh, 'Wh')} ({run.bases.get('energy_wh', '')})")),
        ("money", measured(f"{small(run.money, run.currency)} ({run.bases.get('money', '')})")),
        ("forecast", measured(forecast_score(run.forecast)) if run.forecast else None),
        ("over seeds", _repeats(run)),
        ("on its own source", measured(on_its_source(run))),
        ("options", measured(_options(run)) if run.plan.tuned else _options(run)),
        ("on", measured(f"{run.hardware}, {run.device}, {run.precision}" + _together(run))),
        ("notes", "; ".join(run.notes)),
    ]
    if run.baseline_of:
        rows.insert(0, ("baseline of", run.baseline_of))
    parts = [facts(rows), proof(run)]
    if charts.has_curve(run):
        parts.append(
            picture(
                charts.learning(run),
                f"training loss and accuracy of {run.name} by epoch; test accuracy {run.accuracy:.1%}",
            )
        )
    return card(f"Run {run.name}: {run.status}, {run.strategy} on {run.data}", *parts)


def _together(run: Run) -> str:
    return f", {run.processes} processes together" if run.processes > 1 else ""


def _steps(run: Run) -> str:
    """Of AdamW as planned; a line search takes as many evaluations as it needs."""
    return f"{run.work.steps} {'steps' if run.options.optimizer == 'adamw' else 'evaluations of all images'}"


def _repeats(run: Run) -> str | None:
    """Mean and spread of the test accuracies of runs that differ in nothing but their seeds."""
    if len(run.repeats) < 2:
        return None
    found = [accuracy for _, accuracy in run.repeats]
    each = ", ".join(f"{accuracy:.1%} (seed {seed})" for seed, accuracy in run.repeats)
    return f"{statistics.fmean(found):.1%} ± {100 * statistics.stdev(found):.1f} points: {each}"


def proof(run: Run) -> Raw:
    """What really moved, stage by stage from input to output: every layer was compared with its start, to the bit."""
    stages: dict[str, list[Change]] = {}
    for change in run.changes:
        stages.setdefault(change.stage, []).append(change)
    rows = []
    for stage, layers in stages.items():
        moved = [c for c in layers if c.moved]
        weights = [c.weights for c in moved if c.weights is not None]
        statistics = [c.statistics for c in moved if c.statistics is not None]
        planned = frozen_of(sum(c.frozen for c in layers), len(layers))
        found = f"{len(moved)} of {len(layers)} layers" if moved else "nothing, to the bit"
        much = [_shares(weights), bar(max(weights, default=0.0)), _shares(statistics)]
        rows.append([stage, planned, found, *(map(measured, much) if moved else much)])
    head = [
        "stage",
        "planned",
        "what really moved",
        "weights, ‖Δw‖ / ‖w‖",
        "",
        "running statistics",
    ]
    return Raw(line(Raw("<b>Proof</b>: every layer beside its start")) + table(head, rows, left=3))


def _shares(values: list[float]) -> str:
    """`0.3% to 12%`: from the layer that moved least to the one that moved most."""
    if not values:
        return "–"
    low, high = (f"{v:.2%}" if v < 0.1 else f"{v:.0%}" for v in (min(values), max(values)))
    return low if low == high else f"{low} to {high}"


def _cached(run: Run) -> Raw | None:
    """What the run did not compute in every epoch."""
    found = run.cache
    if found is None:
        return None
    views = f"{found.views} views of each image" if found.views > 1 else "each image"
    kept = f"{found.bytes / 1e6:,.1f} MB" if found.bytes >= 1e5 else f"{found.bytes / 1e3:,.0f} kB"
    reused = "; found from an earlier run, which paid for it" if found.reused else ""
    place = "memory" if found.place == "memory" else "a file"
    return measured(f"everything up to {found.at}, for {views}: {kept} in {place}{reused}")


def _options(run: Run) -> str:
    o = run.options
    rate = f"lr {o.lr:g}" + "".join(f", {stage} {value:g}" for stage, value in o.stage_lr)
    return f"{rate}, batches of {o.batch_size}, weight decay {o.weight_decay:g}, augmentation {o.augment}, seed {o.seed}"


def comparison_card(found: Comparison) -> str:
    head, rows = comparison_table(found)
    parts: list[str] = [line(measured(verdict(found)))]
    curves = [row.name for row in found.rows if row.curve]
    if curves:
        alt = f"accuracy against seconds for {', '.join(curves)}, and where the seconds went"
        parts.append(picture(charts.comparison(found), alt))
    named = [
        [Raw(f"<b>{safe(name)}</b>{note(what)}"), *map(measured, rest)]
        for name, what, *rest in rows
    ]
    parts.append(table(["", *head[2:]], named))
    parts += [line(measured(words)) for words in findings(found)]
    if found.break_even is not None and found.break_even.uses is not None:
        alt = f"what uses cost in all, from scratch and with pretraining paid; equal after {found.break_even.uses:,.0f} uses"
        parts.append(picture(charts.break_even(found.break_even), alt, of_figures=True))
    parts += [note(words) for words in footnotes(found)]
    parts += [note(measured(words)) for words in found.notes]
    return card(f"Side by side on {found.data}", *parts)


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
    parts.append(line(Raw(f"next: <code>{safe(session.next_line)}</code>")))
    return card("Where we are", *parts)


def saved_card(saved: Saved) -> str:
    rows = [
        ("file", saved.path),
        ("size", size(saved.bytes)),
        ("takes", saved.takes),
        ("use it", Raw(f"<code>{safe(saved.use)}</code>")),
    ]
    return card(f"Run {saved.run}, saved", facts(rows))


def script_card(script: Script) -> str:
    style = "max-height:36em;overflow:auto;margin:.3em 0;padding:.6em .8em;border:1px solid #7f7f7f80;border-radius:4px"
    code = f'<pre style="{style};line-height:1.35;white-space:pre">{safe(str(script))}</pre>'
    return card(repr(script), Raw(code))


def card_of_card(found: Card) -> str:
    rows = [
        ("trained on", _source(found)),
        ("accuracy there", _accuracies(found)),
        ("parameters", f"{found.parameters:,}" if found.parameters else None),
        ("one image", f"{flops(found.flops)} forward" if found.flops else None),
        ("input", f"{_edge(found.size)} pixels, at least {_edge(found.min_size)}"),
        (
            "weights",
            f"{found.weights or found.family}, {size(found.bytes)}, {'on disk' if found.on_disk else 'not on disk yet'}",
        ),
        ("what they are", found.about),
        ("licence", link(found.licence, found.licence) if found.licence else None),
    ]
    return card(found.name, facts(rows), *(note(n) for n in found.notes))


HTML: dict[type, Callable[[Any], str]] = {
    DataSet: data_card,
    Catalogue: catalogue_card,
    PretrainedModel: model_card,
    Card: card_of_card,
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
    **pictures.HTML,
}
