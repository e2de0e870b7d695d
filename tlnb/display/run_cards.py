"""Cards of a plan, a run with its proof, and a saved run."""

from __future__ import annotations

import statistics

from tlnb.core.export.onnx_file import Agreement
from tlnb.core.export.save import Saved
from tlnb.core.planning.plan import Plan
from tlnb.core.training.freezing import Change
from tlnb.core.training.run import Run
from tlnb.core.training.trouble import trouble
from tlnb.display import charts
from tlnb.display.bills import forecast_score
from tlnb.display.html import (
    Raw,
    bar,
    card,
    facts,
    folded,
    headline,
    interval_bar,
    line,
    measured,
    note,
    picture,
    safe,
    table,
)
from tlnb.display.networks import STRATEGY_MEANINGS, frozen_of
from tlnb.display.tables import pretraining_accuracy_words
from tlnb.display.words import flops, interval, seconds, size, small

MOVED_BY = (
    "By: how long the change is, as a share of what was there at the start (‖Δw‖ / ‖w‖). Above 100% "
    "little is left of the start, as in a new output layer; a few percent is fine-tuning."
)


def plan_card(plan: Plan) -> str:
    share = plan.trainable_params / max(plan.total_params, 1)
    rows = [
        ("strategy", f"{plan.strategy}: {STRATEGY_MEANINGS[plan.strategy]}"),
        ("start", "the pretrained weights" if plan.start == "pretrained" else "random"),
        (
            "trains",
            Raw(
                f"{plan.trainable_params:,} of {plan.total_params:,} parameters ({share:.1%}) {bar(share)}"
            ),
        ),
        ("layers that train", _layer_names(plan.trained)),
        ("frozen", _layer_names(plan.frozen) or "nothing"),
        ("edits", _edits(plan) or "none"),
    ]
    return card(
        f"Plan: {plan.strategy}", facts(rows), *(line(f"Note: {words}") for words in plan.notes)
    )


def _edits(plan: Plan) -> Raw:
    """One line per edit; automatic ones are marked."""
    words = (
        f"<code>{safe(repr(e))}</code>{' (to fit your data)' if e.automatic else ''}"
        for e in plan.edits
    )
    return Raw("<br>".join(words))


def _layer_names(names: tuple[str, ...]) -> str:
    return (
        ", ".join(names)
        if len(names) <= 8
        else f"{', '.join(names[:3])} … {names[-1]} ({len(names)} layers)"
    )


def run_card(run: Run) -> str:
    """Accuracy large with its interval, what changed, time and work, the curve; the rest folded."""
    low, high = run.interval
    right = f"of {run.test_images:,} test images right (95% interval {interval(run.interval)}%)"
    rows = [
        ("changed", _changed(run)),
        ("baseline of", run.baseline_of),
        ("time", measured(seconds(run.training_seconds))),
        ("work", measured(f"{flops(run.training_flops)}{_alone(run)}")),
        ("over seeds", _repeats(run)),
        ("on its own source", measured(pretraining_accuracy_words(run)) if _forgot(run) else None),
        ("the curve", _while_learning(run)),
        ("notes", "; ".join(run.notes)),
    ]
    wrong = trouble(run)
    parts = [
        line(measured(Raw(f"<b>✗ {safe(wrong)}</b>"))) if wrong else Raw(),
        headline(f"{run.accuracy:.1%}", right),
        line(measured(interval_bar(low, run.accuracy, high))),
        facts(rows),
    ]
    if charts.has_curve(run):
        alt = f"training loss and accuracy of {run.name} by epoch; test accuracy {run.accuracy:.1%}"
        parts.append(picture(charts.learning(run), alt))
    parts += [folded("Cost and settings", facts(_details(run))), _folded_proof(run)]
    return card(_title(run), *parts)


def _while_learning(run: Run) -> str | None:
    """What the curve shows of a run that held out no labels."""
    if run.curve or not run.epochs or run.epochs[-1].train_accuracy is None:
        return None
    return (
        "training accuracy, counted before each step: no labels were held out to draw another; "
        "high says little about new images"
    )


def _title(run: Run) -> str:
    strategy = "" if run.name == run.strategy else f" ({run.strategy})"
    status = "" if run.status == "finished" else f": {run.status}"
    return f"Run {run.name}{strategy} on {run.data}{status}"


def _details(run: Run) -> list[tuple[str, object]]:
    phases = ", ".join(f"{p} {s:.2f}" for p, s in run.seconds.items() if s >= 0.005)
    evaluating = run.flops - run.training_flops
    done = f"{flops(run.training_flops)} to train, {flops(evaluating)} to evaluate (counted)"
    return [
        ("strategy", f"{run.strategy}, of {run.plan.model}"),
        ("trained", f"{len(run.epochs)} epochs, {_steps(run)}"),
        ("seconds", measured(f"{phases} (measured)")),
        ("FLOPs", measured(done)),
        ("computed once", _cache_words(run)),
        ("probabilities", measured(_calibration_words(run))),
        ("energy", measured(f"{small(run.energy_wh, 'Wh')} ({_kind(run, 'energy_wh')})")),
        ("money", measured(f"{small(run.money, run.currency)} ({_kind(run, 'money')})")),
        ("forecast", measured(forecast_score(run.forecast)) if run.forecast else None),
        ("on its own source", None if _forgot(run) else measured(pretraining_accuracy_words(run))),
        ("options", measured(_options(run)) if run.plan.tuned else _options(run)),
        ("on", measured(f"{run.hardware}, {run.device}, {run.precision}" + _process_count(run))),
    ]


def _calibration_words(run: Run) -> str:
    """What the probabilities were calibrated on, or why they were not; empty for older records."""
    if run.calibration is None:
        return f"not calibrated: {run.uncalibrated}" if run.uncalibrated else ""
    return f"calibrated on {run.calibration.labels} labels ({run.calibration.method})"


def _kind(run: Run, figure: str) -> str:
    """`measured`, or `assumed` with where to read how."""
    kind = run.bases.get(figure, "").partition(":")[0]
    return f"{kind}: %tl_cost says how" if kind == "assumed" else kind


def _changed(run: Run) -> str:
    """What really moved, beside what was to train."""
    share = f"{run.plan.trainable_params:,} of {run.plan.total_params:,} parameters train"
    broken = [change.name for change in run.changes if change.frozen and change.moved]
    if broken:
        return f"✗ frozen layers too: {', '.join(broken[:3])}; {share}"
    heads = {layer for layer in run.moved if any(e.covers(layer) for e in run.plan.edits)}
    if not run.moved:
        return f"nothing; {share}"
    mark = "" if trouble(run) else " ✓"
    if run.moved == tuple(heads) or set(run.moved) == heads:
        return f"only the output layer{mark} ({share})"
    moved, every = len(run.moved), len(run.changes)
    which = "every layer" if moved == every else f"{moved} of {every} layers, no frozen one"
    return f"{which}{mark} ({share})"


def _alone(run: Run) -> str:
    """What the run would have cost without what an earlier one had computed."""
    if run.work_alone <= run.training_flops * (1 + 1e-9):
        return ""
    return f"; alone {flops(run.work_alone)}: an earlier run computed and paid for the rest"


def _forgot(run: Run) -> bool:
    """Whether its accuracy on its pretraining task changed."""
    return run.source_accuracy is not None and run.source_accuracy[0] != run.source_accuracy[1]


def _folded_proof(run: Run) -> Raw:
    if not run.changes:
        return Raw()
    title = "Proof: every layer compared with its start, bit for bit"
    return folded(title, proof(run), note(MOVED_BY))


def _process_count(run: Run) -> str:
    return f", {run.processes} processes together" if run.processes > 1 else ""


def _steps(run: Run) -> str:
    """The steps of AdamW, or the evaluations of L-BFGS, whose line search decides how many."""
    return f"{run.work.steps} {'steps' if run.options.optimizer == 'adamw' else 'evaluations of all images'}"


def _repeats(run: Run) -> str | None:
    """Mean and standard deviation of test accuracy over runs that differ only in seed."""
    if len(run.repeats) < 2:
        return None
    accuracies = [accuracy for _, accuracy in run.repeats]
    each = ", ".join(f"{accuracy:.1%} (seed {seed})" for seed, accuracy in run.repeats)
    return f"{statistics.fmean(accuracies):.1%} ± {100 * statistics.stdev(accuracies):.1f} points: {each}"


def proof(run: Run) -> Raw:
    """What really moved, by stage from input to output; every layer was compared bit for bit."""
    stages: dict[str, list[Change]] = {}
    for change in run.changes:
        stages.setdefault(change.stage, []).append(change)
    rows = []
    for stage, layers in stages.items():
        moved = [c for c in layers if c.moved]
        weights = [c.weights for c in moved if c.weights is not None]
        statistics = [c.statistics for c in moved if c.statistics is not None]
        planned = frozen_of(sum(c.frozen for c in layers), len(layers))
        moved_layers = f"{len(moved)} of {len(layers)} layers" if moved else "nothing, bit for bit"
        amounts = [_range(weights), bar(max(weights, default=0.0)), _range(statistics)]
        rows.append([stage, planned, moved_layers, *(map(measured, amounts) if moved else amounts)])
    head = ["stage", "planned", "what really moved", "weights by", "", "running statistics by"]
    return table(head, rows, left=3)


def _range(values: list[float]) -> str:
    """The range from the layer that moved least to the one that moved most: `0.3% to 12%`."""
    if not values:
        return "–"
    low, high = (f"{v:.2%}" if v < 0.1 else f"{v:.0%}" for v in (min(values), max(values)))
    return low if low == high else f"{low} to {high}"


def _cache_words(run: Run) -> Raw | None:
    """What the run computed once instead of in every epoch."""
    cache = run.cache
    if cache is None:
        return None
    views = f"{cache.views} views of each image" if cache.views > 1 else "each image"
    kept = f"{cache.bytes / 1e6:,.1f} MB" if cache.bytes >= 1e5 else f"{cache.bytes / 1e3:,.0f} kB"
    reused = "; found: an earlier run had computed and paid for it" if cache.reused else ""
    place = "memory" if cache.place == "memory" else "a file"
    return measured(f"everything up to {cache.at}, for {views}: {kept} in {place}{reused}")


def _options(run: Run) -> str:
    o = run.options
    rate = f"lr {o.lr:g}" + "".join(f", {stage} {value:g}" for stage, value in o.stage_lr)
    return f"{rate}, batches of {o.batch_size}, weight decay {o.weight_decay:g}, augmentation {o.augment}, seed {o.seed}"


def saved_card(saved: Saved) -> str:
    rows = [
        ("file", saved.path),
        ("size", size(saved.bytes)),
        ("takes", saved.takes),
        ("use it", Raw(f"<code>{safe(saved.use)}</code>")),
        *([("checked", _compared(saved.compared))] if saved.compared else []),
    ]
    return card(f"Run {saved.run}, saved", facts(rows))


def _compared(found: Agreement) -> str:
    """How far a saved network agrees with the run's."""
    return (
        f"{found.by} gives the same class for {found.same} of {found.images} images, "
        f"probabilities within {found.difference:.1g} ({found.weights} weights)"
    )
