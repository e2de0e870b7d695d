"""The content of comparison cards as plain text, shared by HTML and text cards."""

from __future__ import annotations

from tlnb.core.evaluation.comparison import Comparison, Ratio, Row, Spent
from tlnb.core.training.run import Run, wilson_interval
from tlnb.display.words import clock, flops, interval, money, percent, small, span, times

SAME_WORK = "about as much work"
NOTICEABLE = 1.05  # ratio of two amounts of work from which they are called different


def comparison_table(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """Head and rows of the comparison; columns without information are left out."""
    target = "target" if comparison.target is None else percent(comparison.target)
    later = {row.inference_flops for row in comparison.rows if row.inference_flops}
    columns = [
        ("", lambda row: row.name, True),
        ("what", lambda row: row.what, True),
        ("test accuracy", _accuracy, True),
        ("95% interval", lambda row: interval(row.interval) or "–", True),
        ("balanced", lambda row: percent(row.balanced_accuracy), comparison.skewed),
        ("to train", lambda row: clock(row.seconds), True),
        (
            f"to {target}",
            lambda row: _time_to_target(row, comparison),
            comparison.target is not None,
        ),
        ("FLOPs", lambda row: flops(row.flops), True),
        (
            f"FLOPs to {target}",
            lambda row: flops(row.to_target.flops),
            comparison.target is not None,
        ),
        ("energy, Wh", lambda row: small(row.wh), True),
        (f"money, {comparison.price.currency}", lambda row: money(row.money), True),
        ("by phase", _phases, any(row.phases for row in comparison.rows)),
        ("steps", lambda row: "–" if row.steps is None else f"{row.steps:,}", True),
        ("an image later", lambda row: flops(row.inference_flops), len(later) > 1),
        (
            "on its own source",
            _pretraining_accuracy,
            any(row.source_accuracy for row in comparison.rows),
        ),
    ]
    shown = [(head, cell) for head, cell, wanted in columns if wanted]
    return [head for head, _ in shown], [
        [cell(row) for _, cell in shown] for row in comparison.rows
    ]


def _accuracy(row: Row) -> str:
    if row.spread is None:
        return percent(row.accuracy)
    return f"{percent(row.accuracy)} ± {100 * row.spread:.1f} ({row.seeds} seeds)"


def _phases(row: Row) -> str:
    took = [
        (p, s) for p, s in row.phases.items() if s >= 0.005 and p not in ("evaluating", "other")
    ]
    return ", ".join(f"{phase} {s:.2f} s" for phase, s in took) or "–"


def _time_to_target(row: Row, comparison: Comparison) -> str:
    return (
        "not reached"
        if _missed(row, comparison)
        else span(row.to_target.since, row.seconds_to_target)
    )


def _pretraining_accuracy(row: Row) -> str:
    if row.source_accuracy is None:
        return "–"
    before, after = row.source_accuracy
    return percent(before) if before == after else f"{percent(before)} → {percent(after)}"


def pretraining_accuracy_words(run: Run) -> str:
    """The network's accuracy on its pretraining task, before and after; empty if unknown."""
    if run.source_accuracy is None:
        return ""
    before, after = run.source_accuracy
    how = f"{run.source_pictures:,} of its held-out pictures, measured; its card counts all of them"
    if before == after and all(any(e.covers(layer) for e in run.plan.edits) for layer in run.moved):
        return f"with its old output layer {percent(before)}, unchanged: only the output layer moved ({how})"
    intervals = [
        wilson_interval(round(a * run.source_pictures), run.source_pictures)
        for a in (before, after)
    ]
    apart = intervals[0][0] > intervals[1][1] or intervals[1][0] > intervals[0][1]
    words = "it forgot" if after < before else "it gained"
    if not apart:
        words = "a small difference, within the 95% intervals"
    return f"with its old output layer {percent(before)} before, {percent(after)} after: {words} ({how})"


def short_table(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """Head and rows of the five columns that decide: accuracy, work, time, money, what trained.

    Costs are those up to the target; of what has none, all of it. Where classes differ in size,
    balanced accuracy takes the place of money.
    """
    until = "" if comparison.target is None else f" to {percent(comparison.target)}"
    balanced = ["balanced"] if comparison.skewed else []
    paid = [] if comparison.skewed else [f"money, {comparison.price.currency}"]
    head = ["", "test accuracy", *balanced, f"work{until}", f"time{until}", *paid]
    rows = [_short_row(row, comparison) for row in comparison.rows]
    return [*head, "parameters trained"], rows


def _short_row(row: Row, comparison: Comparison) -> list[str]:
    missed, spent = _missed(row, comparison), row.to_target
    if not spent.known:
        spent = Spent(seconds=row.seconds, flops=row.flops, money=row.money)
    spread = f"({interval(row.interval)})" if row.interval else ""
    paid = money(row.money if missed else spent.money)
    return [
        row.name,
        f"{_accuracy(row)} {spread}".strip(),
        *([percent(row.balanced_accuracy)] if comparison.skewed else []),
        "not reached" if missed else flops(spent.flops),
        "not reached" if missed else span(spent.since, spent.seconds, clock),
        *([] if comparison.skewed else [paid]),
        "–" if row.trained_params is None else f"{row.trained_params:,}",
    ]


def _missed(row: Row, comparison: Comparison) -> bool:
    return bool(row.curve) and comparison.target is not None and not row.to_target.known


def verdict(comparison: Comparison) -> str:
    """Work and time to the target, then test accuracy; differences within intervals are small."""
    saved = saved_words(comparison)
    return f"{saved}: {accuracies_words(comparison)}" if saved else accuracies_words(comparison)


def accuracies_words(comparison: Comparison) -> str:
    """The test accuracies of run and baseline, and their difference."""
    if comparison.run is None or comparison.baseline is None:
        return "No baseline yet: %tl_train --scratch trains one."
    by = {row.name: row for row in comparison.rows}
    run, baseline = by[comparison.run], by[comparison.baseline]
    several = " (means over seeds)" if run.seeds > 1 or baseline.seeds > 1 else ""
    gap = 100 * ((run.accuracy or 0) - (baseline.accuracy or 0))
    small_gap = (
        "" if _intervals_differ(run, baseline) else " (within the 95% intervals: call it small)"
    )
    return (
        f"{run.name} gets {percent(run.accuracy)} of the test images right, "
        f"{baseline.name} {percent(baseline.accuracy)}: {gap:+.1f} points{several or small_gap}."
    )


def saved_words(comparison: Comparison) -> str:
    """`21 times less work to 61.0% (45× sooner)`; empty without a baseline or a target."""
    if comparison.ratio is None:
        return ""
    return f"{less_work(comparison)} to {percent(comparison.target)} ({_sooner(comparison.ratio)})"


def than_words(comparison: Comparison) -> str:
    """What follows the headline: `than scratch to reach 61.0% on monitor; 45× sooner`."""
    if comparison.ratio is None:
        return ""
    than = "as" if less_work(comparison) == SAME_WORK else "than"
    until = f"{percent(comparison.target)} on {comparison.watched_split}"
    return f"{than} {comparison.baseline} to reach {until}; {_sooner(comparison.ratio)} here"


def _sooner(ratio: Ratio) -> str:
    least = "at least " if ratio.is_bound else ""
    sooner = ratio.seconds >= 1
    words = times(ratio.seconds if sooner else 1 / ratio.seconds)
    return f"{least}{words} {'sooner' if sooner else 'later'}"


def less_work(comparison: Comparison) -> str:
    """The headline: `21 times less work`."""
    if comparison.ratio is None:
        return ""
    ratio, least = comparison.ratio.work, "at least " if comparison.ratio.is_bound else ""
    if ratio >= NOTICEABLE:
        return f"{least}{_number(ratio)} times less work"
    if ratio > 1 / NOTICEABLE:
        return SAME_WORK
    return f"{_number(1 / ratio)} times more work"


def _number(ratio: float) -> str:
    return f"{ratio:.1f}" if ratio < 10 else f"{ratio:.0f}"


def _intervals_differ(one: Row, other: Row) -> bool:
    if one.interval is None or other.interval is None:
        return False
    return one.interval[0] > other.interval[1] or other.interval[0] > one.interval[1]


def saving_words(comparison: Comparison) -> str:
    """The FLOPs saved with their causes; empty without a baseline."""
    saved = comparison.saving
    if saved is None:
        return ""
    causes = (
        ("fewer images shown", saved.fewer_steps),
        ("freezing", saved.freezing),
        ("caching", saved.caching),
    )
    total = _signed(sum(v for _, v in causes))
    parts = ", ".join(f"{name} {_signed(v)}" for name, v in causes)
    return f"FLOPs saved against the baseline: {total} ({parts})."


def break_even_words(comparison: Comparison) -> str:
    """Uses until pretraining has paid for itself: in FLOPs, then in seconds or money."""
    counted = [
        ("FLOPs" if b.unit == "FLOPs" else "seconds" if b.unit == "seconds" else "money", b.uses)
        for b in (comparison.break_even, comparison.break_even_paid)
        if b is not None
    ]
    if not counted:
        return ""
    (unit, uses), *others = counted
    also = "".join(f"; in {name} after {_uses(many)}" for name, many in others)
    paid = f"Someone else paid for the pretraining; counted in {unit}, it has paid for itself after"
    return f"{paid} {_uses(uses)}{also}."


def _uses(uses: float | None) -> str:
    return "no number of uses: this one saved nothing" if uses is None else f"{uses:,.0f} such uses"


def findings(comparison: Comparison) -> list[str]:
    """The savings with their causes, and the uses until pretraining pays for itself."""
    return [w for w in (saving_words(comparison), break_even_words(comparison)) if w]


def footnotes(comparison: Comparison) -> list[str]:
    """Which figures were measured and which were assumed, and what the rows and columns are."""
    price = f"{comparison.price.per_hour:g} {comparison.price.currency} an hour"
    energy = sorted(
        {row.basis.split(",")[0] for row in comparison.rows if row.kind in ("run", "baseline")}
    )
    own = any(row.source_accuracy for row in comparison.rows)
    source = "On its own source: held-out pictures, with the old output layer on the trained network's other layers."
    others = [f"{row.name}: {row.what}" for row in comparison.rows if not row.curve]
    return [
        f"Work is FLOPs, counted; seconds are measured; both without evaluation; {' and '.join(energy)}; "
        f"money is seconds at {price} (%tl_cost says whose price).",
        f"The target is measured on {comparison.watched_split}; test images are not used to choose.",
        *([f"Not trained here: {'; '.join(others)}."] if others else []),
        *_interval_notes(comparison),
        *_inference_notes(comparison),
        *([source] if own else []),
    ]


def _interval_notes(comparison: Comparison) -> list[str]:
    """Explain times that lie between two evaluations of the watched split."""
    apart = any(row.to_target.since is not None for row in comparison.rows)
    words = (
        f"{comparison.watched_split.capitalize()} is evaluated after some epochs only: two times mean the evaluations before "
        "and after the target was reached; all other figures count up to the later one."
    )
    return [words] if apart else []


def _inference_notes(comparison: Comparison) -> list[str]:
    """The cost of using a trained network, if it is the same for all."""
    later = {row.inference_flops for row in comparison.rows if row.inference_flops}
    return (
        [f"Using any of these networks takes {flops(later.pop())} an image."]
        if len(later) == 1
        else []
    )


def _signed(value: float) -> str:
    if abs(value) < 1e6:
        return "none"
    return flops(value) if value > 0 else f"−{flops(-value)}"
