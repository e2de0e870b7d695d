"""Cards and charts of what a network sees: embeddings, probes by stage, saliency."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from tlnb.core.evaluation.embeddings import NEIGHBOURS
from tlnb.core.evaluation.look import Evidence, Look, StageProbes, View
from tlnb.core.evaluation.saliency import BORDER
from tlnb.display.charts import LINE_STYLES, figure_of, png_of, style_axes
from tlnb.display.html import GREY, VERMILION, bar, card, line, measured, note, picture, table
from tlnb.display.pictures import CLASS_STYLES, MAX_NAMED_CLASSES, draw_image, shortened
from tlnb.display.words import percent


def look_card(look: Look) -> str:
    kinds = {"evidence": _evidence_card, "stages": _stages_card, "features": _features_card}
    return kinds[look.kind](look)


def _features_card(look: Look) -> str:
    total = len(look.labels)
    origin = ", ".join(f"{n} {split}" for split, n in look.splits)
    shares = [
        *((v.of, v.share) for v in look.views),
        ("raw pixels", look.pixels),
        ("chance", look.chance),
    ]
    rows = [[of, measured(percent(share)), measured(bar(share or 0))] for of, share in shares]
    alt = "two maps of the same images: " + "; ".join(
        f"{v.of}, nearest of the same class {v.share:.1%}" for v in look.views
    )
    parts = [
        line(
            f"{total} images ({origin}; none from test) as the output layer of each network would see them."
        ),
        picture(maps(look), alt),
        line("How often the nearest other image has the same class:"),
        table(["features of", "same class", ""], rows),
    ]
    if look._pictures is not None:
        parts.append(
            line(
                f"Some images and their {NEIGHBOURS} nearest; a dashed frame marks a different class:"
            )
        )
        parts.append(picture(neighbours(look), _neighbours_text(look), of_figures=True))
    off = 100 * (1 / max(1, total)) ** 0.5
    parts.append(
        note(
            f"Measured on {total} images: differences below about {off:.0f} points are small. Nearest by cosine similarity."
        )
    )
    parts.append(
        note(
            f"The map is {look.method}, which keeps neighbours together; its axes and the gaps between groups have no meaning."
        )
    )
    return card(
        f"What {look.model} sees in {look.data}"
        + (f", and run {look.run}" if look.run else ", before any training"),
        *parts,
    )


def maps(look: Look) -> bytes:
    """Draw one map per network, with colour, marker and name by class."""
    labels = np.array(look.labels)
    figure = figure_of(4.4 * len(look.views), 4.3)
    for axes, view in zip(
        figure.subplots(1, len(look.views), squeeze=False)[0], look.views, strict=True
    ):
        _draw_map(axes, view, labels, look.classes)
    return png_of(figure)


def _draw_map(axes: Any, view: View, labels: Any, classes: Sequence[str]) -> None:
    from matplotlib import patheffects

    points = np.array(view.points)
    for c in np.unique(labels):
        colour, marker = CLASS_STYLES[c % len(CLASS_STYLES)]
        class_points = points[labels == c]
        size = 8 if marker in "*PX" else 5.5
        axes.plot(*class_points.T, marker, color=colour, ms=size, alpha=0.8, mec="white", mew=0.3)
        if len(classes) <= MAX_NAMED_CLASSES:
            x, y = class_points[
                np.square(class_points - np.median(class_points, 0)).sum(1).argmin()
            ]  # the image in the middle of its class
            halo = [patheffects.withStroke(linewidth=4, foreground="white")]
            size = 12 if len(classes) <= 10 else 9
            axes.text(
                x,
                y,
                shortened(classes[c], 10),
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


def neighbours(look: Look) -> bytes:
    """Draw one row per example: the image, then its nearest neighbours for each network."""
    near = max(len(view.neighbours[0]) for view in look.views)
    starts = [1.6 + (near + 0.6) * block for block in range(len(look.views))]
    width, height = starts[-1] + near, len(look.examples) + 0.4
    figure = figure_of(0.66 * width, 0.66 * height)
    axes = figure.subplots()
    axes.set_axis_off()
    _draw_cell(axes, look, 0.0, -0.1, "image", None)
    for block, view in enumerate(look.views):
        _draw_cell(axes, look, starts[block], -0.1, f"nearest: {view.of}", None)
    for row, example in enumerate(look.examples):
        _draw_cell(axes, look, 0.0, row, example, None)
        for block, view in enumerate(look.views):
            for i, other in enumerate(view.neighbours[row]):
                _draw_cell(
                    axes,
                    look,
                    starts[block] + i,
                    row,
                    other,
                    look.labels[other] == look.labels[example],
                )
    axes.set(xlim=(-0.1, width), ylim=(height - 0.4, -0.4), aspect="equal")
    return png_of(figure)


def _draw_cell(
    axes: Any, look: Look, x: float, y: float, what: int | str, same: bool | None
) -> None:
    """Draw a text, or an image of edge 0.9, with a dashed frame if its class differs."""
    from matplotlib.patches import Rectangle

    if isinstance(what, str):
        axes.text(x, y, what, fontsize=8, va="bottom", parse_math=False)
        return
    assert look._pictures is not None
    pixels = look._pictures[what].permute(1, 2, 0).numpy()
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


def _neighbours_text(look: Look) -> str:
    words = []
    for row, example in enumerate(look.examples):
        own_class = look.classes[look.labels[example]]
        near = (
            f"{v.of}: {', '.join(look.classes[look.labels[i]] for i in v.neighbours[row])}"
            for v in look.views
        )
        words.append(f"{own_class} is nearest to {'; '.join(near)}")
    return ". ".join(words)


def _stages_card(look: Look) -> str:
    head = ["stage", "features", *(words for depth in look.depths for words in (depth.of, "", ""))]
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
        for stages in zip(*(depth.probes for depth in look.depths), strict=False)
    ]
    alt = "; ".join(repr(depth) for depth in look.depths)
    return card(
        f"What each stage of {look.model} knows about {look.data}"
        + (f", and run {look.run}" if look.run else ""),
        picture(depths(look), alt),
        table(head, rows),
        note(
            f"Measured on {len(look.labels)} labels in use, none from test: {look.method} on each stage's output, averaged "
            "to a grid of 2×2."
        ),
        note(
            "± is one standard error. Every stage and network gets the same images in the same folds."
        ),
    )


def depths(look: Look) -> bytes:
    """Plot accuracy by stage, one line per network."""
    figure = figure_of(6.4, 2.8)
    axes = figure.subplots()
    chance = 100 * max(look.labels.count(c) for c in set(look.labels)) / len(look.labels)
    for depth, (colour, dash, marker) in zip(look.depths, LINE_STYLES, strict=False):
        _draw_depth(axes, depth, colour, dash, marker)
    axes.axhline(chance, color=GREY, lw=1, ls=":", label="always the most frequent class")
    axes.set(ylabel="accuracy, %", ylim=(0, 102))
    axes.legend(fontsize=8, frameon=False, loc="best")
    style_axes(axes)
    return png_of(figure)


def _draw_depth(axes: Any, depth: StageProbes, colour: str, dash: str, marker: str) -> None:
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


def _evidence_card(look: Look) -> str:
    by = f"run {look.run} ({look.model})" if look.run else look.model
    rows = [
        [
            e.name,
            *([e.truth or "–"] if look.data else []),
            *map(measured, (e.label, f"{e.probability:.1%}", _border_share(e), bar(e.border or 0))),
        ]
        for e in look.images
    ]
    head = [
        "image",
        *(["true class"] if look.data else []),
        "said",
        "probability",
        "evidence in the border",
        "",
    ]
    parts: list[str] = []
    if look._pictures is not None and look._heat is not None:
        alt = "; ".join(
            f"{e.name}: {e.label}, {_border_share(e)} of the evidence in the border"
            for e in look.images
        )
        parts.append(picture(overlays(look), alt, of_figures=True))
    parts += [
        table(head, rows, left=len(head) - 3),
        note(f"Measured by {look.method}; bright areas hold the evidence for the predicted class."),
        note(
            f"The border is the outer ring with {BORDER:.0%} of the area: evidence spread evenly would give {BORDER:.0%}. "
            "Much more in many images suggests that the network reads the background; look at the pictures first."
        ),
    ]
    return card(f"Where {by} finds its evidence", *parts)


def _border_share(each: Evidence) -> str:
    return "no evidence" if each.border is None else f"{each.border:.0%}"


def overlays(look: Look) -> bytes:
    """Draw each image beside the same image with its evidence overlaid."""
    images, heat = look._pictures, look._heat
    assert images is not None and heat is not None
    columns = min(3, len(images))
    rows = -(-len(images) // columns)
    figure = figure_of(3.5 * columns, 2.05 * rows)
    grid = figure.subplots(rows, 2 * columns, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for i, each in enumerate(look.images):
        row, column = divmod(i, columns)
        left, right = grid[row, 2 * column : 2 * column + 2]
        draw_image(left, images[i], shortened(each.truth or each.name, 20))
        draw_image(right, _grey(images[i]), f"said {shortened(each.label)}, {each.probability:.0%}")
        right.imshow(
            heat[i].numpy(), cmap="viridis", alpha=0.6, vmin=0, vmax=1, interpolation="bilinear"
        )
    return png_of(figure)


def _grey(pixels: Tensor) -> Tensor:
    """The image in grey, so that all colour is evidence."""
    return pixels.float().mean(0).round().byte().expand(3, -1, -1)
