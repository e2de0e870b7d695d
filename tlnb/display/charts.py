"""PNG charts, drawn with matplotlib's `Figure` because pyplot has global state.

Series differ by marker and dash as well as by colour. The ground is transparent, and text and axes
have a grey that can be read on light and on dark pages.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from tlnb.core.data.dataset import DataSet
from tlnb.core.evaluation.comparison import BreakEven, Comparison, Row
from tlnb.core.training.run import Run
from tlnb.core.tuning.tune import Tuning
from tlnb.display.html import BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILION

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
MAX_COLUMNS, MAX_ROWS, MAX_SAMPLES = 20, 6, 60
MAX_CHART_COLOURS = 4096  # colours; charts have fewer, photographs more
ON_PICTURE = "on a picture"  # the gid of text whose ground is not the page
INK = "#7a7a7a"  # contrast of 4.3 with white and with JupyterLab's dark ground


def figure_of(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=100, facecolor="none", layout="constrained")


def png_of(figure: Figure) -> bytes:
    """Render a figure as PNG on a transparent ground.

    The few colours of a chart fit a palette, which makes notebooks a third of the size. Photographs
    keep their colours.
    """
    import numpy as np
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    _use_ink(figure)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba()).copy()
    pixels[..., 3] = np.minimum(255, (pixels[..., 3].astype(int) + 8) // 17 * 17)  # 16 steps
    image = Image.fromarray(pixels)
    if image.getcolors(MAX_CHART_COLOURS) is not None:
        image = image.quantize(method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    out = io.BytesIO()
    image.save(out, format="png", optimize=True)
    return out.getvalue()


def _use_ink(figure: Figure) -> None:
    """Give what is black by default a colour for light and dark pages."""
    from matplotlib.text import Text

    for axes in figure.axes:
        axes.patch.set_alpha(0)
        axes.tick_params(which="both", color=INK, labelcolor=INK)
        for spine in axes.spines.values():
            if spine.get_edgecolor()[:3] == (0, 0, 0):
                spine.set_color(INK)
    for text in figure.findobj(Text):
        if text.get_color() == "black" and text.get_gid() != ON_PICTURE:
            text.set_color(INK)


def words(text: str) -> str:
    """Escape a name for matplotlib: `$` starts a formula, a leading `_` hides a legend."""
    return (" " if text.startswith("_") else "") + text.replace("$", "\\$")


def style_axes(axes: Any) -> None:
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
    """Plot by epoch the training loss, and val or monitor accuracy, else that while learning."""
    curves = [
        (name, [(epoch, 100 * v) for epoch, v in enumerate(values, 1) if v is not None], *style)
        for name, values, style in (
            ("monitor", [e.monitor_accuracy for e in run.epochs], (BLUE, "-")),
            ("val", [e.val_accuracy for e in run.epochs], (GREEN, "--")),
        )
    ]
    curves = [curve for curve in curves if curve[1]] or _while_learning(run)
    figure = figure_of(7.2 if curves else 3.8, 2.6)
    panels = figure.subplots(1, 2 if curves else 1, squeeze=False)[0]
    losses = [e.train_loss for e in run.epochs]
    panels[0].plot(range(1, len(losses) + 1), losses, color=VERMILION, lw=1.8)
    panels[0].set(xlabel="epoch", ylabel="training loss", ylim=(0, None))
    if curves:
        _accuracies(panels[1], run, curves)
    for axes in panels:
        axes.xaxis.get_major_locator().set_params(integer=True)
        style_axes(axes)
    return png_of(figure)


def _while_learning(run: Run) -> list[Any]:
    """The curve of a run that held out no labels: accuracy on what it was learning from."""
    values = [e.train_accuracy for e in run.epochs]
    points = [(epoch, 100 * v) for epoch, v in enumerate(values, 1) if v is not None]
    return [("training", points, ORANGE, "-.")] if points else []


def _accuracies(axes: Any, run: Run, curves: list[Any]) -> None:
    for name, points, colour, dash in curves:
        axes.plot(*zip(*points, strict=True), dash, color=colour, lw=1.8, label=name)
    end = f"test, at the end: {run.accuracy:.1%}"
    axes.axhline(100 * run.accuracy, color=GREY, lw=1, ls=":", label=end)
    axes.set(xlabel="epoch", ylabel="accuracy, %", ylim=(0, 101))
    axes.legend(fontsize=8, frameon=False, loc="lower right")


def comparison(record: Comparison) -> bytes:
    """Plot accuracy against the work so far; stars mark where the target was reached."""
    rows = [row for row in record.rows if row.curve]
    figure = figure_of(7.2, 3.2)
    axes = figure.subplots()
    styles = LINE_STYLES * (1 + len(rows) // len(LINE_STYLES))
    for row, style in zip(rows, styles, strict=False):
        _curve(axes, row, record.target, style)
    if record.target is not None:
        axes.axhline(100 * record.target, color=GREY, lw=1, ls=":")
        place = (0.01, 100 * record.target)
        at = ("axes fraction", "data")
        text = f"target {record.target:.1%}"
        axes.annotate(text, place, xycoords=at, va="bottom", fontsize=8)
    axes.set_xscale("log")
    axes.set(xlabel="work so far, GFLOP (log scale)", ylim=(0, 102))
    axes.set(ylabel=f"{record.watched_split} accuracy, %")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(_few_minor_labels)
    axes.tick_params(axis="x", which="minor", labelsize=8)
    axes.legend(fontsize=8, frameon=False, loc="lower right")
    style_axes(axes)
    return png_of(figure)


def _curve(axes: Any, row: Row, target: float | None, style: tuple[str, str, str]) -> None:
    colour, dash, marker = style
    x, y = [work / 1e9 for work, _ in row.curve], [100 * a for _, a in row.curve]
    every = max(1, len(x) // 8)
    looks = {"lw": 1.6, "ms": 5, "marker": marker, "markevery": every}
    axes.plot(x, y, dash, color=colour, label=words(row.name), **looks)
    if row.to_target.flops is not None:
        place = (row.to_target.flops / 1e9, 100 * (target or 0))
        axes.plot(*place, marker="*", ms=13, color=colour, mec="white")


def _few_minor_labels(value: float, _: float) -> str:
    """Label only 2 and 5 between powers of ten."""
    return f"{value:g}" if f"{value:e}"[0] in "25" else ""


def break_even(record: BreakEven) -> bytes:
    """Plot the total cost by number of uses: from scratch, and with pretraining paid once."""
    uses = record.uses or 1.0
    most = max(4.0, 2 * uses)
    unit, scale = ("GFLOP", 1e9) if record.unit == "FLOPs" else (record.unit, 1.0)
    once, run, baseline = (each / scale for each in (record.once, record.run, record.baseline))
    figure = figure_of(5.6, 2.4)
    axes = figure.subplots()
    lines = (
        ("from scratch every time", 0.0, baseline, VERMILION, "--"),
        ("pretraining once, then this run", once, run, BLUE, "-"),
    )
    for name, start, each, colour, dash in lines:
        axes.plot([0, most], [start, start + most * each], dash, color=colour, lw=1.8, label=name)
    meet = (uses, uses * baseline)
    axes.plot(*meet, "o", color=GREY, ms=7)
    label = f"{uses:,.0f} uses"
    axes.annotate(label, meet, xytext=(6, -12), textcoords="offset points", fontsize=8)
    axes.set(xlabel="uses", ylabel=f"{unit} in all", xlim=(0, most), ylim=(0, None))
    axes.legend(fontsize=8, frameon=False, loc="upper left")
    style_axes(axes)
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
    style_axes(axes)
    return png_of(figure)


def has_curve(run: Run) -> bool:
    """Whether a run has a curve to draw."""
    return bool(run.epochs) and (bool(run.curve) or len(run.epochs) > 1)
