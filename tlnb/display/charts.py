"""PNG charts, drawn with matplotlib's `Figure` because pyplot has global state.

Series differ by marker and dash as well as by colour.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from tlnb.core.data.dataset import DataSet
from tlnb.core.evaluation.comparison import BreakEven, Comparison, Row
from tlnb.core.training.run import Run
from tlnb.core.tuning.tune import Tuning
from tlnb.display.html import BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILION
from tlnb.display.words import seconds

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LINE_STYLES = (
    (BLUE, "-", "o"),
    (VERMILION, "--", "s"),
    (GREEN, "-.", "^"),
    (ORANGE, ":", "D"),
    (PURPLE, "-", "v"),
    (SKY, "--", "P"),
)
PHASE_COLOURS = {"preparing": GREY, "caching": SKY, "warmup": ORANGE, "training": BLUE}
MAX_COLUMNS, MAX_ROWS, MAX_SAMPLES = 20, 6, 60
MAX_CHART_COLOURS = 4096  # colours; charts have fewer, photographs more


def figure_of(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=100, facecolor="white", layout="constrained")


def png_of(figure: Figure) -> bytes:
    """Render a figure as PNG.

    The few colours of a chart fit a palette, which makes notebooks a third of the size. Photographs
    keep their colours.
    """
    import numpy as np
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    image = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    if image.getcolors(MAX_CHART_COLOURS) is not None:
        image = image.quantize(dither=Image.Dither.NONE)
    out = io.BytesIO()
    image.save(out, format="png", optimize=True)
    return out.getvalue()


def words(text: str) -> str:
    """Escape a name for matplotlib: `$` starts a formula, a leading `_` hides a legend."""
    return (" " if text.startswith("_") else "") + text.replace("$", "\\$")


def _style_axes(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(True, alpha=0.25)


def samples(data: DataSet) -> bytes:
    """Draw training images, one column per class."""
    import numpy as np

    labels = data.labels["train"]
    classes = list(range(min(len(data.classes), MAX_COLUMNS)))
    rows = min(
        MAX_ROWS,
        MAX_SAMPLES // len(classes),
        max(1, int(labels.bincount(minlength=len(data.classes)).max())),
    )
    figure = figure_of(min(9.5, 0.55 * len(classes) + 0.4), 0.55 * rows + 0.35)
    axes = np.atleast_2d(figure.subplots(rows, len(classes), squeeze=False))
    for c in classes:
        images = data.images["train"][(labels == c).nonzero()[:rows, 0]]
        for r in range(rows):
            axes[r, c].set_axis_off()
            if r < len(images):
                axes[r, c].imshow(images[r].permute(1, 2, 0).numpy(), interpolation="nearest")
        title = data.classes[c]
        axes[0, c].set_title(
            title if len(title) <= 9 else title[:8] + "…", fontsize=8, parse_math=False
        )
    return png_of(figure)


def learning(run: Run) -> bytes:
    """Plot the training loss and the validation or monitor accuracy by epoch."""
    figure = figure_of(7.2, 2.6)
    left, right = figure.subplots(1, 2)
    epochs = range(1, len(run.epochs) + 1)
    left.plot(epochs, [e.train_loss for e in run.epochs], color=VERMILION, lw=1.8)
    left.set(xlabel="epoch", ylabel="training loss", ylim=(0, None))
    curves = (
        ("monitor", [e.monitor_accuracy for e in run.epochs], BLUE, "-"),
        ("val", [e.val_accuracy for e in run.epochs], GREEN, "--"),
    )
    for name, values, colour, dash in curves:
        seen = [(epoch, 100 * v) for epoch, v in zip(epochs, values, strict=True) if v is not None]
        if seen:
            right.plot(*zip(*seen, strict=True), dash, color=colour, lw=1.8, label=name)
    right.axhline(
        100 * run.accuracy, color=GREY, lw=1, ls=":", label=f"test, at the end: {run.accuracy:.1%}"
    )
    right.set(xlabel="epoch", ylabel="accuracy, %", ylim=(0, 101))
    right.legend(fontsize=8, frameon=False, loc="lower right")
    for axes in (left, right):
        axes.xaxis.get_major_locator().set_params(integer=True)
        _style_axes(axes)
    return png_of(figure)


def comparison(record: Comparison) -> bytes:
    """Plot accuracy against seconds (left) and seconds by phase (right)."""
    rows = [row for row in record.rows if row.curve]
    figure = figure_of(8.6, 0.32 * len(rows) + 2.6)
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    for row, (colour, dash, marker) in zip(
        rows, LINE_STYLES * (1 + len(rows) // len(LINE_STYLES)), strict=False
    ):
        x, y = [s for s, _ in row.curve], [100 * a for _, a in row.curve]
        left.plot(
            x,
            y,
            dash,
            color=colour,
            lw=1.6,
            marker=marker,
            markevery=max(1, len(x) // 8),
            ms=5,
            label=words(row.name),
        )
        if row.seconds_to_target is not None:
            left.plot(
                row.seconds_to_target,
                100 * (record.target or 0),
                marker="*",
                ms=13,
                color=colour,
                mec="white",
            )
    if record.target is not None:
        left.axhline(100 * record.target, color=GREY, lw=1, ls=":")
        left.annotate(
            f"target {record.target:.1%}",
            (0.99, 100 * record.target),
            xycoords=("axes fraction", "data"),
            ha="right",
            va="bottom",
            fontsize=8,
            color="#444444",
        )
    left.set_xscale("log")
    left.xaxis.set_major_formatter("{x:g}")
    left.xaxis.set_minor_formatter(_few_minor_labels)
    left.tick_params(axis="x", which="minor", labelsize=8)
    left.set(
        xlabel="seconds spent (log scale)",
        ylabel=f"{record.watched_split} accuracy, %",
        ylim=(0, 102),
    )
    if rows:
        left.legend(
            fontsize=8, frameon=False, loc="center right" if len(rows) < 3 else "lower right"
        )
    _style_axes(left)
    _phases(right, rows)
    return png_of(figure)


def _few_minor_labels(value: float, _: int) -> str:
    """Label only 2 and 5 between powers of ten."""
    return f"{value:g}" if f"{value:e}"[0] in "25" else ""


def _phases(axes: Any, rows: list[Row]) -> None:
    names = [words(row.name) for row in rows]
    start = [0.0] * len(rows)
    for phase, colour in PHASE_COLOURS.items():
        widths = [row.phases.get(phase, 0.0) for row in rows]
        if any(w > 0 for w in widths):
            axes.barh(names, widths, left=start, color=colour, label=phase, height=0.6)
            start = [s + w for s, w in zip(start, widths, strict=True)]
    for name, total in zip(names, start, strict=True):
        axes.annotate(f" {seconds(total)}", (total, name), va="center", fontsize=8)
    axes.invert_yaxis()
    axes.margins(x=0.2)
    axes.set(xlabel="seconds, without evaluating")
    if rows:
        axes.legend(
            fontsize=8,
            frameon=False,
            loc="lower right",
            bbox_to_anchor=(1, 1),
            ncols=2,
            borderaxespad=0,
        )
    _style_axes(axes)


def break_even(record: BreakEven) -> bytes:
    """Plot the total cost by number of uses: from scratch, and with pretraining paid once."""
    uses = record.uses or 1.0
    most = max(4.0, 2 * uses)
    figure = figure_of(5.6, 2.4)
    axes = figure.subplots()
    lines = (
        ("from scratch every time", 0.0, record.baseline, VERMILION, "--"),
        ("pretraining once, then this run", record.once, record.run, BLUE, "-"),
    )
    for name, once, each, colour, dash in lines:
        axes.plot([0, most], [once, once + most * each], dash, color=colour, lw=1.8, label=name)
    axes.plot(uses, uses * record.baseline, "o", color=GREY, ms=7)
    axes.annotate(
        f"{uses:,.0f} uses",
        (uses, uses * record.baseline),
        xytext=(6, -12),
        textcoords="offset points",
        fontsize=8,
    )
    axes.set(xlabel="uses", ylabel=f"{record.unit} in all", xlim=(0, most), ylim=(0, None))
    axes.legend(fontsize=8, frameon=False, loc="upper left")
    _style_axes(axes)
    return png_of(figure)


def tuning(record: Tuning) -> bytes:
    """Plot every trial's accuracy against the seconds spent, and the best so far."""
    spent, best, at, tops = 0.0, 0.0, [], []
    for trial in record.trials:
        spent += trial.seconds
        best = max(best, trial.accuracy or 0.0) if trial.status == "finished" else best
        at.append(spent)
        tops.append(100 * best)
    figure = figure_of(6.4, 2.4)
    axes = figure.subplots()
    styles = (("finished", BLUE, "o"), ("pruned", ORANGE, "x"))
    for status, colour, marker in styles:
        points = [
            (x, 100 * t.accuracy)
            for x, t in zip(at, record.trials, strict=True)
            if t.status == status and t.accuracy is not None
        ]
        if points:
            axes.plot(
                *zip(*points, strict=True), marker, color=colour, ms=5, label=f"a trial, {status}"
            )
    axes.step(at, tops, where="post", color=VERMILION, lw=1.6, label="the best so far")
    axes.set(xlabel="seconds of tuning", ylabel="accuracy, %", ylim=(None, 101))
    axes.legend(fontsize=8, frameon=False, loc="lower right")
    _style_axes(axes)
    return png_of(figure)


def has_curve(run: Run) -> bool:
    """Whether a run has a curve to draw."""
    return bool(run.epochs) and (bool(run.curve) or len(run.epochs) > 1)
