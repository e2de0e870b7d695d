"""What comparison cards say, as plain words: one source for HTML and for text."""

from __future__ import annotations

from collections.abc import Sequence

from tlnb.core.cost import Comparison, Row
from tlnb.core.record import Run, wilson_interval
from tlnb.display.words import flops, interval, percent, seconds, small, times


def comparison_table(found: Comparison) -> tuple[list[str], list[list[str]]]:
    """Head and rows."""
    target = "target" if found.target is None else percent(found.target)
    source = any(row.source_accuracy for row in found.rows)
    head = [
        "",
        "what",
        "test accuracy",
        "95% interval",
        "to train",
        f"to {target}",
        "FLOPs",
        "energy",
        "money",
        "steps",
        *(["on its own source"] if source else []),
    ]
    return head, [[*_cells(row, found), *([_on_source(row)] if source else [])] for row in found.rows]


def _on_source(row: Row) -> str:
    if row.source_accuracy is None:
        return "–"
    before, after = row.source_accuracy
    return percent(before) if before == after else f"{percent(before)} → {percent(after)}"


def on_its_source(run: Run) -> str:
    """What became of the network's accuracy on what it was pretrained on; empty where that is not at hand."""
    if run.source_accuracy is None:
        return ""
    before, after = run.source_accuracy
    how = f"{run.source_pictures:,} held-out pictures, measured"
    if before == after and all(any(e.covers(layer) for e in run.plan.edits) for layer in run.moved):
        return f"with its old output layer {percent(before)}, as before: only the output layer moved ({how})"
    intervals = [wilson_interval(round(a * run.source_pictures), run.source_pictures) for a in (before, after)]
    apart = intervals[0][0] > intervals[1][1] or intervals[1][0] > intervals[0][1]
    words = (
        ("it forgot" if after < before else "it gained") if apart else "a small difference, within the 95% intervals"
    )
    return f"with its old output layer {percent(before)} before, {percent(after)} after: {words} ({how})"


def _cells(row: Row, found: Comparison) -> list[str]:
    missed = row.seconds_to_target is None and row.curve and found.target is not None
    return [
        row.name, row.what, percent(row.accuracy), interval(row.interval) or "–", seconds(row.seconds),
        "not reached" if missed else seconds(row.seconds_to_target), flops(row.flops), small(row.wh, "Wh"),
        small(row.money, found.price.currency), "–" if row.steps is None else f"{row.steps:,}",
    ]  # fmt: skip


def verdict(found: Comparison) -> str:
    """The pair in two sentences; small differences are called small."""
    if found.run is None or found.baseline is None:
        return "No baseline yet: %tl_train --scratch trains one."
    by = {row.name: row for row in found.rows}
    run, baseline = by[found.run], by[found.baseline]
    gap = 100 * ((run.accuracy or 0) - (baseline.accuracy or 0))
    small_gap = "" if _apart(run, baseline) else " (within the 95% intervals: call it small)"
    words = [
        f"{run.name} gets {percent(run.accuracy)} of the test images right, {baseline.name} {percent(baseline.accuracy)}: "
        f"{gap:+.1f} points{small_gap}."
    ]
    if found.speedup is not None:
        least = "at least " if found.speedup_is_bound else ""
        words.append(f"It reached {percent(found.target)} {least}{times(found.speedup)} sooner.")
    return " ".join(words)


def _apart(one: Row, other: Row) -> bool:
    if one.interval is None or other.interval is None:
        return False
    return one.interval[0] > other.interval[1] or other.interval[0] > one.interval[1]


def findings(found: Comparison) -> list[str]:
    """What was saved and by what; after how many uses the pretraining has paid for itself."""
    words = []
    if found.saving is not None:
        saved = found.saving
        causes = (("fewer images shown", saved.fewer_steps), ("freezing", saved.freezing), ("caching", saved.caching))
        total = _signed(sum(v for _, v in causes))
        parts = ", ".join(f"{name} {_signed(v)}" for name, v in causes)
        words.append(f"FLOPs saved against the baseline: {total} ({parts}).")
    if found.pays_off_after is not None:
        words.append(
            "The pretraining was paid by someone else; counted in seconds, it has paid for itself after "
            f"{found.pays_off_after:,.0f} such uses."
        )
    return words


def footnotes(found: Comparison) -> list[str]:
    """What was measured and what was assumed."""
    price = f"{found.price.per_hour:g} {found.price.currency} an hour ({found.price.basis})"
    source = any(row.source_accuracy for row in found.rows)
    return [
        f"Seconds and FLOPs are measured, without evaluating; energy is assumed; money is seconds at {price}.",
        f"The target is read on {found.watched_split}; test images choose nothing.",
        *(
            ["On its own source: held-out pictures, the old output layer on what became of the other layers."]
            if source
            else []
        ),
        *found.notes,
    ]


def _signed(value: float) -> str:
    if abs(value) < 1e6:
        return "none"
    return flops(value) if value > 0 else f"−{flops(-value)}"


def grid(head: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """A table as text: the first `left` columns to the left, the others to the right."""
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]

    def text(row: Sequence[str]) -> str:
        cells = (c.ljust(w) if i < left else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
        return "  ".join(cells).rstrip()

    return "\n".join([text(head), "  ".join("-" * w for w in widths), *map(text, rows)])


def comparison_text(found: Comparison) -> str:
    """The whole comparison for a terminal."""
    head, rows = comparison_table(found)
    return "\n".join([verdict(found), "", grid(head, rows, left=2), "", *findings(found), *footnotes(found)])
