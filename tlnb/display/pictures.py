"""Cards and charts of what a network gets wrong, says of new images, and sees. Numbers come from records alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from tlnb.core.evaluation.embeddings import NEIGHBOURS
from tlnb.core.evaluation.look import Evidence, Look, StageProbes, View
from tlnb.core.evaluation.predictions import ClassScore, Errors, Predictions
from tlnb.core.evaluation.saliency import BORDER
from tlnb.display.charts import LOOKS as LINES
from tlnb.display.charts import figure_of, png_of
from tlnb.display.html import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    SKY,
    VERMILION,
    Raw,
    bar,
    card,
    facts,
    line,
    measured,
    note,
    picture,
    safe,
    table,
)
from tlnb.display.words import interval, percent

LOOKS = (  # colour and marker of up to ten classes: told apart without colour, and without shape
    (BLUE, "o"),
    (ORANGE, "s"),
    (GREEN, "^"),
    (VERMILION, "D"),
    (PURPLE, "v"),
    (SKY, "P"),
    ("#000000", "X"),
    (GREY, "<"),
    ("#8c6d1f", ">"),
    ("#5b2a86", "*"),
)
SHOWN = 30  # rows of a table
PAIRS = 10
NUMBERED = 30  # classes up to which the matrix shows its counts
DRAWN = 100  # and up to which it is drawn
NAMED = 40  # classes up to which all are named
TITLE = 16  # characters of a class's name above a picture


def _cut(text: str, limit: int = TITLE) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _image(axes: Any, pixels: Tensor, title: str = "", size: float = 8) -> None:
    axes.imshow(
        pixels.permute(1, 2, 0).numpy(),
        interpolation="nearest" if pixels.shape[-1] <= 64 else "antialiased",
    )
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    if title:
        axes.set_title(title, fontsize=size, parse_math=False, pad=3)


# ── errors ────────────────────────────────────────────────────────────────────────────────────────────────────────


def errors_card(found: Errors) -> str:
    wrong = len(found.mistakes)
    rows = [
        ("run", found.run),
        (
            "test accuracy",
            measured(
                f"{percent(found.accuracy)} (95% interval {interval(found.interval)}%), {wrong} of {found.total:,} wrong"
            ),
        ),
        (
            "balanced accuracy",
            f"{percent(found.balanced_accuracy)}, the mean of the accuracies by class",
        ),
    ]
    parts = [facts(rows)]
    if 2 <= len(found.classes) <= DRAWN:
        parts.append(
            picture(
                matrix(found),
                f"confusion matrix of run {found.run}: {wrong} of {found.total} test images wrong",
                of_figures=True,
            )
        )
    if not wrong:
        parts.append(line(measured("No test image was wrong.")))
    if found._pictures is not None and wrong:
        shown = found.mistakes[: len(found._pictures)]
        titles = [f"{_cut(m.truth)} → {_cut(m.said)}\n{m.probability:.1%}" for m in shown]
        parts.append(
            line(
                measured(
                    f"The {len(shown)} most confident mistakes, true class → what it said, with its probability:"
                )
            )
        )
        alt = "; ".join(f"{m.truth} called {m.said}" for m in shown)
        parts.append(picture(pictures(found._pictures, titles), alt, of_figures=True))
    parts += [_confused(found), _by_class(found)]
    if found.note:
        parts.append(note(found.note))
    parts.append(
        note(
            "Measured on the test split, which was read once, at the end of the run; these are its answers from then."
        )
    )
    return card(f"Errors of run {found.run} on {found.data}", *parts)


def _confused(found: Errors) -> Raw:
    rows = [
        [c.truth, c.said, str(c.count), f"{c.count / c.of:.1%} of {c.of}"]
        for c in found.confused[:PAIRS]
    ]
    return (
        table(["true class", "said", "times", "share of the class"], rows, left=2, of_figures=True)
        if rows
        else Raw()
    )


def _by_class(found: Errors) -> Raw:
    scores: Sequence[ClassScore] = found.by_class
    title = ""
    if len(scores) > SHOWN:
        scores = sorted((s for s in scores if s.total), key=lambda s: s.right / s.total)[:SHOWN]
        title = line(f"The {SHOWN} of {len(found.classes)} classes with the lowest accuracy:")
    rows = [
        [
            s.name,
            *map(
                measured,
                (
                    f"{s.right} of {s.total}",
                    percent(s.accuracy),
                    bar(s.accuracy or 0),
                    interval(s.interval) if s.total else "–",
                ),
            ),
        ]
        for s in scores
    ]
    worst = len(found.by_class) > SHOWN
    return Raw(
        f"{title}{table(['class', 'right', 'accuracy', '', '95% interval'], rows, of_figures=worst)}"
    )


def matrix(found: Errors) -> bytes:
    """Rows are true classes, columns are answers. What is right is blue, what is wrong orange, by its share of the row."""
    counts = np.array(found.matrix)
    n = len(counts)
    shares = counts / np.maximum(1, counts.sum(1, keepdims=True))
    wrong = shares * (1 - np.eye(n))
    colours = np.ones((n, n, 3))
    colours -= np.sqrt(wrong / max(float(wrong.max()), 1e-9))[..., None] * (1 - _rgb(ORANGE))
    colours[np.arange(n), np.arange(n)] = 1 - np.diag(shares)[:, None] * (1 - _rgb(BLUE)) * 0.8
    names = [_cut(name) for name in found.classes]
    longest = max(map(len, names))
    cell, size, every = (
        (0.42, 8.0, 1)
        if n <= NUMBERED
        else (0.17, 7.0, 1)
        if n <= NAMED
        else (0.1, 8.0, 1 + n // 30)
    )
    ticks = range(0, n, every)
    edge = max(1.6, cell * n) + 0.5 + 0.075 * longest
    figure = figure_of(edge + 0.3, edge)
    axes = figure.subplots()
    axes.imshow(colours, interpolation="nearest")
    axes.set_xticks(
        ticks,
        names[::every],
        rotation=90 if 0.08 * longest > max(cell, 1.6 / n) * every else 0,
        fontsize=size,
        parse_math=False,
    )
    axes.set_yticks(ticks, names[::every], fontsize=size, parse_math=False)
    axes.set(xlabel="said", ylabel="true class")
    axes.tick_params(length=0)
    axes.set_xticks(np.arange(n + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(n + 1) - 0.5, minor=True)
    axes.grid(True, which="minor", color="#dddddd", lw=0.5)
    axes.tick_params(which="minor", length=0)
    for row, column in zip(*counts.nonzero(), strict=True):
        if n <= NUMBERED:
            dark = row == column and shares[row, column] > 0.6
            axes.text(
                column,
                row,
                f"{counts[row, column]}",
                ha="center",
                va="center",
                fontsize=7,
                color="white" if dark else "black",
            )
    return png_of(figure)


def _rgb(colour: str) -> Any:
    return np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255


def pictures(images: Tensor, titles: Sequence[str], columns: int = 5) -> bytes:
    """A grid of images `(N, 3, E, E)` with a title of two lines above each."""
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    figure = figure_of(1.8 * columns, 1.95 * rows)
    for i, axes in enumerate(figure.subplots(rows, columns, squeeze=False).flat):
        if i < len(images):
            _image(axes, images[i], titles[i], 8.5)
        else:
            axes.set_axis_off()
    return png_of(figure)


# ── predictions ───────────────────────────────────────────────────────────────────────────────────────────────────


def predictions_card(found: Predictions) -> str:
    thumbnails = found._pictures if found._pictures is not None else ()
    rows = []
    for i, each in enumerate(found.images[:SHOWN]):
        view = picture(_thumbnail(thumbnails[i]), each.name) if i < len(thumbnails) else ""
        first, *others = each.labels
        label, probability = first
        said = (
            Raw(f"<b>{safe(label)}</b>"),
            f"{probability:.1%}",
            bar(probability),
            ", ".join(f"{name} {p:.1%}" for name, p in others),
        )
        rows.append([view, each.name, *map(measured, said)])
    by = (
        f"run {found.run} ({found.model})"
        if found.run
        else f"{found.model} with its own output layer"
    )
    parts: list[str] = [table(["", "image", "label", "probability", "", "then"], rows, left=3)]
    if len(found.images) > SHOWN:
        parts.append(note(f"and {len(found.images) - SHOWN} more: .images has them all"))
    parts.append(
        note(
            f"Measured: by {by}, among {found.classes:,} classes. It can only answer with one of these, whatever the image shows."
        )
    )
    return card(
        f"{len(found.images)} image{'s' if len(found.images) != 1 else ''}, labelled by {by}",
        *parts,
    )


def _thumbnail(pixels: Tensor, edge: int = 72) -> bytes:
    """A small PNG; small images are enlarged by whole pixels."""
    import io

    from PIL import Image

    image = Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())
    how = Image.Resampling.NEAREST if image.width < edge else Image.Resampling.BILINEAR
    out = io.BytesIO()
    image.resize((edge, edge), how).save(out, format="png")
    return out.getvalue()


# ── look ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def look_card(found: Look) -> str:
    kinds = {"evidence": _evidence_card, "stages": _stages_card, "features": _features_card}
    return kinds[found.kind](found)


def _features_card(found: Look) -> str:
    total = len(found.labels)
    origin = ", ".join(f"{n} {split}" for split, n in found.splits)
    shares = [
        *((v.of, v.share) for v in found.views),
        ("raw pixels", found.pixels),
        ("chance", found.chance),
    ]
    rows = [[of, measured(percent(share)), measured(bar(share or 0))] for of, share in shares]
    alt = "two maps of the same images: " + "; ".join(
        f"{v.of}, nearest of the same class {v.share:.1%}" for v in found.views
    )
    parts = [
        line(
            f"{total} images ({origin}; none of test) as the output layer of each network would see them."
        ),
        picture(maps(found), alt),
        line("How often the nearest other image is of the same class:"),
        table(["features of", "same class", ""], rows),
    ]
    if found._pictures is not None:
        parts.append(
            line(f"Some images and their {NEIGHBOURS} nearest; a dashed frame marks another class:")
        )
        parts.append(picture(neighbours(found), _neighbours_text(found), of_figures=True))
    off = 100 * (1 / max(1, total)) ** 0.5
    parts.append(
        note(
            f"Measured on {total} images: differences below about {off:.0f} points are small. Nearness is the cosine."
        )
    )
    parts.append(
        note(
            f"The map is {found.method}, which keeps neighbours together; its axes and the gaps between groups mean nothing."
        )
    )
    return card(
        f"What {found.model} sees in {found.data}"
        + (f", and run {found.run}" if found.run else ", before any training"),
        *parts,
    )


def maps(found: Look) -> bytes:
    """One map a network: colour, marker and name by class."""
    labels = np.array(found.labels)
    figure = figure_of(4.4 * len(found.views), 4.3)
    for axes, view in zip(
        figure.subplots(1, len(found.views), squeeze=False)[0], found.views, strict=True
    ):
        _map(axes, view, labels, found.classes)
    return png_of(figure)


def _map(axes: Any, view: View, labels: Any, classes: Sequence[str]) -> None:
    from matplotlib import patheffects

    points = np.array(view.points)
    for c in np.unique(labels):
        colour, marker = LOOKS[c % len(LOOKS)]
        mine = points[labels == c]
        size = 8 if marker in "*PX" else 5.5
        axes.plot(*mine.T, marker, color=colour, ms=size, alpha=0.8, mec="white", mew=0.3)
        if len(classes) <= NAMED:
            x, y = mine[
                np.square(mine - np.median(mine, 0)).sum(1).argmin()
            ]  # the image in the middle of its class
            halo = [patheffects.withStroke(linewidth=4, foreground="white")]
            size = 12 if len(classes) <= 10 else 9
            axes.text(
                x,
                y,
                _cut(classes[c], 10),
                fontsize=size,
                weight="bold",
                color="#222222",
                ha="center",
                va="center",
                path_effects=halo,
                parse_math=False,
                zorder=5,
            )
    axes.set(xticks=[], yticks=[])
    axes.set_title(
        f"{view.of}: nearest of the same class {view.share:.1%}", fontsize=9, parse_math=False
    )
    axes.spines[:].set_color("#bbbbbb")
    axes.margins(0.06)


def neighbours(found: Look) -> bytes:
    """A row an example: the image, then its nearest by each network."""
    near = max(len(view.neighbours[0]) for view in found.views)
    starts = [1.6 + (near + 0.6) * block for block in range(len(found.views))]
    width, height = starts[-1] + near, len(found.examples) + 0.4
    figure = figure_of(0.66 * width, 0.66 * height)
    axes = figure.subplots()
    axes.set_axis_off()
    _place(axes, found, 0.0, -0.1, "image", None)
    for block, view in enumerate(found.views):
        _place(axes, found, starts[block], -0.1, f"nearest: {view.of}", None)
    for row, example in enumerate(found.examples):
        _place(axes, found, 0.0, row, example, None)
        for block, view in enumerate(found.views):
            for i, other in enumerate(view.neighbours[row]):
                _place(
                    axes,
                    found,
                    starts[block] + i,
                    row,
                    other,
                    found.labels[other] == found.labels[example],
                )
    axes.set(xlim=(-0.1, width), ylim=(height - 0.4, -0.4), aspect="equal")
    return png_of(figure)


def _place(axes: Any, found: Look, x: float, y: float, what: int | str, same: bool | None) -> None:
    """A text, or an image of edge 0.9 with a dashed frame where it is of another class."""
    from matplotlib.patches import Rectangle

    if isinstance(what, str):
        axes.text(x, y, what, fontsize=8, va="bottom", parse_math=False)
        return
    assert found._pictures is not None
    pixels = found._pictures[what].permute(1, 2, 0).numpy()
    axes.imshow(
        pixels,
        extent=(x, x + 0.9, y + 0.9, y),
        interpolation="nearest" if len(pixels) <= 64 else "antialiased",
    )
    if same is False:
        axes.add_patch(
            Rectangle(
                (x, y), 0.9, 0.9, fill=False, ec=VERMILION, lw=2.5, ls=(0, (2, 1)), capstyle="butt"
            )
        )


def _neighbours_text(found: Look) -> str:
    words = []
    for row, example in enumerate(found.examples):
        mine = found.classes[found.labels[example]]
        near = (
            f"{v.of}: {', '.join(found.classes[found.labels[i]] for i in v.neighbours[row])}"
            for v in found.views
        )
        words.append(f"{mine} is nearest to {'; '.join(near)}")
    return ". ".join(words)


def _stages_card(found: Look) -> str:
    head = ["stage", "features", *(words for depth in found.depths for words in (depth.of, "", ""))]
    rows = [
        [
            stages[0].stage,
            f"{stages[0].features:,}",
            *(
                measured(cell)
                for p in stages
                for cell in (percent(p.accuracy), f"± {100 * p.error:.1f}", bar(p.accuracy))
            ),
        ]
        for stages in zip(*(depth.probes for depth in found.depths), strict=False)
    ]
    alt = "; ".join(repr(depth) for depth in found.depths)
    return card(
        f"What each stage of {found.model} knows about {found.data}"
        + (f", and run {found.run}" if found.run else ""),
        picture(depths(found), alt),
        table(head, rows),
        note(
            f"Measured on {len(found.labels)} labels in use, none of test: {found.method} on each stage's output, averaged "
            "to a grid of 2×2."
        ),
        note(
            "± is one standard error. The same images, in the same parts, for every stage and network."
        ),
    )


def depths(found: Look) -> bytes:
    """Accuracy by stage, a line a network."""
    figure = figure_of(6.4, 2.8)
    axes = figure.subplots()
    chance = 100 * max(found.labels.count(c) for c in set(found.labels)) / len(found.labels)
    for depth, (colour, dash, marker) in zip(found.depths, LINES, strict=False):
        _depth(axes, depth, colour, dash, marker)
    axes.axhline(chance, color=GREY, lw=1, ls=":", label="always the most frequent class")
    axes.set(ylabel="accuracy, %", ylim=(0, 102))
    axes.legend(fontsize=8, frameon=False, loc="best")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(True, alpha=0.25)
    return png_of(figure)


def _depth(axes: Any, depth: StageProbes, colour: str, dash: str, marker: str) -> None:
    values, errors = [100 * p.accuracy for p in depth.probes], [100 * p.error for p in depth.probes]
    axes.errorbar(
        [p.stage for p in depth.probes],
        values,
        errors,
        color=colour,
        ls=dash,
        marker=marker,
        ms=5,
        lw=1.8,
        elinewidth=1,
        capsize=3,
        label=depth.of,
    )


def _evidence_card(found: Look) -> str:
    by = f"run {found.run} ({found.model})" if found.run else found.model
    rows = [
        [
            e.name,
            *([e.truth or "–"] if found.data else []),
            *map(measured, (e.label, f"{e.probability:.1%}", _border(e), bar(e.border or 0))),
        ]
        for e in found.images
    ]
    head = [
        "image",
        *(["true class"] if found.data else []),
        "said",
        "probability",
        "evidence in the border",
        "",
    ]
    parts: list[str] = []
    if found._pictures is not None and found._heat is not None:
        alt = "; ".join(
            f"{e.name}: {e.label}, {_border(e)} of the evidence in the border" for e in found.images
        )
        parts.append(picture(overlays(found), alt, of_figures=True))
    parts += [
        table(head, rows, left=len(head) - 3),
        note(f"Measured by {found.method}; bright is where the evidence for what it said lies."),
        note(
            f"The border is the outer ring that takes {BORDER:.0%} of the area: evidence spread evenly would give {BORDER:.0%}. "
            "Much more in many images hints at a network that reads the background; look at the pictures first."
        ),
    ]
    return card(f"Where {by} finds its evidence", *parts)


def _border(each: Evidence) -> str:
    return "no evidence" if each.border is None else f"{each.border:.0%}"


def overlays(found: Look) -> bytes:
    """Each image beside the same image with its evidence laid over it."""
    images, heat = found._pictures, found._heat
    assert images is not None and heat is not None
    columns = min(3, len(images))
    rows = -(-len(images) // columns)
    figure = figure_of(3.5 * columns, 2.05 * rows)
    grid = figure.subplots(rows, 2 * columns, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for i, each in enumerate(found.images):
        left, right = (
            grid[i // columns, 2 * (i % columns)],
            grid[i // columns, 2 * (i % columns) + 1],
        )
        _image(left, images[i], _cut(each.truth or each.name, 20), 8.5)
        _image(right, _grey(images[i]), f"said {_cut(each.label)}, {each.probability:.0%}", 8.5)
        right.imshow(
            heat[i].numpy(), cmap="viridis", alpha=0.6, vmin=0, vmax=1, interpolation="bilinear"
        )
    return png_of(figure)


def _grey(pixels: Tensor) -> Tensor:
    """Without colour, so that all colour is evidence."""
    return pixels.float().mean(0).round().byte().expand(3, -1, -1)


HTML: dict[type, Callable[[Any], str]] = {
    Errors: errors_card,
    Predictions: predictions_card,
    Look: look_card,
}
