"""The content of comparison cards as plain text, shared by HTML and text cards."""

from __future__ import annotations

from collections.abc import Sequence

from tlnb.core.evaluation.comparison import BreakEven, Comparison, Row
from tlnb.core.training.run import Run, wilson_interval
from tlnb.display.words import clock, flops, interval, money, percent, small, span, times


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


def _time_to_target(row: Row, comparison: Comparison) -> str:
    missed = row.seconds_to_target is None and row.curve and comparison.target is not None
    return "not reached" if missed else span(row.to_target.since, row.seconds_to_target)


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
    how = f"{run.source_pictures:,} held-out pictures, measured"
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


def verdict(comparison: Comparison) -> str:
    """Compare run and baseline in two sentences.

    Differences within the 95% intervals are called small.
    """
    if comparison.run is None or comparison.baseline is None:
        return "No baseline yet: %tl_train --scratch trains one."
    by = {row.name: row for row in comparison.rows}
    run, baseline = by[comparison.run], by[comparison.baseline]
    several = " (means over seeds)" if run.seeds > 1 or baseline.seeds > 1 else ""
    gap = 100 * ((run.accuracy or 0) - (baseline.accuracy or 0))
    small_gap = (
        "" if _intervals_differ(run, baseline) else " (within the 95% intervals: call it small)"
    )
    words = [
        f"{run.name} gets {percent(run.accuracy)} of the test images right, {baseline.name} {percent(baseline.accuracy)}: "
        f"{gap:+.1f} points{several or small_gap}."
    ]
    if comparison.speedup is not None:
        least = "at least " if comparison.speedup_is_bound else ""
        words.append(
            f"It reached {percent(comparison.target)} {least}{times(comparison.speedup)} sooner."
        )
    return " ".join(words)


def _intervals_differ(one: Row, other: Row) -> bool:
    if one.interval is None or other.interval is None:
        return False
    return one.interval[0] > other.interval[1] or other.interval[0] > one.interval[1]


def findings(comparison: Comparison) -> list[str]:
    """The savings with their causes, and the uses until pretraining pays for itself."""
    words = []
    if comparison.saving is not None:
        saved = comparison.saving
        causes = (
            ("fewer images shown", saved.fewer_steps),
            ("freezing", saved.freezing),
            ("caching", saved.caching),
        )
        total = _signed(sum(v for _, v in causes))
        parts = ", ".join(f"{name} {_signed(v)}" for name, v in causes)
        words.append(f"FLOPs saved against the baseline: {total} ({parts}).")
    if comparison.break_even is not None:
        words.append(_break_even(comparison.break_even))
    return words


def _break_even(break_even: BreakEven) -> str:
    unit = "seconds" if break_even.unit == "seconds" else "money"
    paid = f"Someone else paid for the pretraining; counted in {unit}, "
    if break_even.uses is None:
        return f"{paid}it never pays for itself here: this use cost at least as much as training from scratch."
    return f"{paid}it has paid for itself after {break_even.uses:,.0f} such uses."


def footnotes(comparison: Comparison) -> list[str]:
    """Which figures were measured and which were assumed."""
    price = f"{comparison.price.per_hour:g} {comparison.price.currency} an hour ({comparison.price.basis})"
    source = any(row.source_accuracy for row in comparison.rows)
    energy = sorted(
        {row.basis.split(",")[0] for row in comparison.rows if row.kind in ("run", "baseline")}
    )
    return [
        f"Seconds and FLOPs are measured, without evaluation; {' and '.join(energy)}; money is seconds at {price}.",
        f"The target is measured on {comparison.watched_split}; test images are not used to choose.",
        *_interval_notes(comparison),
        *_inference_notes(comparison),
        *(
            [
                "On its own source: held-out pictures, with the old output layer on the trained network's other layers."
            ]
            if source
            else []
        ),
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


def grid(head: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Format a table as text: the first `left` columns flush left, the others flush right."""
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]

    def text(row: Sequence[str]) -> str:
        cells = (
            c.ljust(w) if i < left else c.rjust(w)
            for i, (c, w) in enumerate(zip(row, widths, strict=True))
        )
        return "  ".join(cells).rstrip()

    return "\n".join([text(head), "  ".join("-" * w for w in widths), *map(text, rows)])


def comparison_text(comparison: Comparison) -> str:
    """The whole comparison for a terminal."""
    head, rows = comparison_table(comparison)
    return "\n".join(
        [
            verdict(comparison),
            "",
            grid(head, rows, left=2),
            "",
            *findings(comparison),
            *footnotes(comparison),
            *comparison.notes,
        ]
    )
