"""Cards and charts of a run's mistakes and of predictions for new images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from tlnb.core.evaluation.predictions import NONE_OF_THESE, ClassScore, Errors, Predictions
from tlnb.display.charts import INK, ON_PICTURE, figure_of, png_of
from tlnb.display.html import (
    BLUE,
    ORANGE,
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
from tlnb.display.pictures import MAX_NAMED_CLASSES, pictures, shortened
from tlnb.display.reliability import reliability_parts
from tlnb.display.words import interval, percent

MAX_ROWS = 30  # rows of a table
MAX_CONFUSED_PAIRS = 10
MAX_NUMBERED_CLASSES = 30  # up to so many classes the matrix shows its counts
MAX_DRAWN_CLASSES = 100  # up to so many classes it is drawn


def errors_card(errors: Errors) -> str:
    wrong = len(errors.mistakes)
    rows = [
        ("run", errors.run),
        (
            "test accuracy",
            measured(
                f"{percent(errors.accuracy)} (95% interval {interval(errors.interval)}%), {wrong} of {errors.total:,} wrong"
            ),
        ),
        (
            "balanced accuracy",
            f"{percent(errors.balanced_accuracy)}, the mean of the accuracies by class",
        ),
    ]
    parts = [facts(rows)]
    if 2 <= len(errors.classes) <= MAX_DRAWN_CLASSES:
        parts.append(
            picture(
                matrix(errors),
                f"confusion matrix of run {errors.run}: {wrong} of {errors.total} test images wrong",
                of_figures=True,
            )
        )
    if not wrong:
        parts.append(line(measured("No test image was wrong.")))
    if errors._pictures is not None and wrong:
        shown = errors.mistakes[: len(errors._pictures)]
        titles = [f"{shortened(m.truth)} → {shortened(m.said)}\n{m.probability:.1%}" for m in shown]
        parts.append(
            line(
                measured(
                    f"The {len(shown)} most confident mistakes, true class → predicted class, with its probability:"
                )
            )
        )
        alt = "; ".join(f"{m.truth} called {m.said}" for m in shown)
        parts.append(picture(pictures(errors._pictures, titles), alt, of_figures=True))
    parts += [_confused(errors), _by_class(errors), *reliability_parts(errors)]
    if errors.note:
        parts.append(note(errors.note))
    parts.append(
        note(
            "Measured on the test split, which was read once, at the end of the run; these are the predictions made then."
        )
    )
    return card(f"Errors of run {errors.run} on {errors.data}", *parts)


def _confused(errors: Errors) -> Raw:
    rows = [
        [c.truth, c.said, str(c.count), f"{c.count / c.of:.1%} of {c.of}"]
        for c in errors.confused[:MAX_CONFUSED_PAIRS]
    ]
    return (
        table(["true class", "said", "times", "share of the class"], rows, left=2, of_figures=True)
        if rows
        else Raw()
    )


def _by_class(errors: Errors) -> Raw:
    scores: Sequence[ClassScore] = errors.by_class
    title = ""
    if len(scores) > MAX_ROWS:
        scores = sorted((s for s in scores if s.total), key=lambda s: s.right / s.total)[:MAX_ROWS]
        title = line(f"The {MAX_ROWS} of {len(errors.classes)} classes with the lowest accuracy:")
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
    worst = len(errors.by_class) > MAX_ROWS
    return Raw(
        f"{title}{table(['class', 'right', 'accuracy', '', '95% interval'], rows, of_figures=worst)}"
    )


def matrix(errors: Errors) -> bytes:
    """Draw the confusion matrix by shares of a row, the true class: blue is right, orange wrong."""
    counts = np.array(errors.matrix)
    n = len(counts)
    shares = counts / np.maximum(1, counts.sum(1, keepdims=True))
    wrong = shares * (1 - np.eye(n))
    colours = np.ones((n, n, 4))
    tint = np.sqrt(wrong / max(float(wrong.max()), 1e-9))[..., None] * (1 - _rgb(ORANGE))
    colours[..., :3] -= tint
    diagonal = np.arange(n), np.arange(n)
    colours[(*diagonal, slice(3))] = 1 - np.diag(shares)[:, None] * (1 - _rgb(BLUE)) * 0.8
    colours[..., 3] = counts > 0  # empty cells show the page
    names = [shortened(name) for name in errors.classes]
    longest = max(map(len, names))
    cell, size, every = _matrix_layout(n)
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
    axes.grid(True, which="minor", color=INK, alpha=0.35, lw=0.5)
    axes.tick_params(which="minor", length=0)
    for row, column in zip(*counts.nonzero(), strict=True):
        if n <= MAX_NUMBERED_CLASSES:
            dark = row == column and shares[row, column] > 0.6
            axes.text(
                column,
                row,
                f"{counts[row, column]}",
                ha="center",
                va="center",
                fontsize=7,
                color="white" if dark else "black",
                gid=ON_PICTURE,
            )
    return png_of(figure)


def _matrix_layout(classes: int) -> tuple[float, float, int]:
    """Edge of a cell in inches, font size, and distance between named classes."""
    if classes <= MAX_NUMBERED_CLASSES:
        return 0.42, 8.0, 1
    if classes <= MAX_NAMED_CLASSES:
        return 0.17, 7.0, 1
    return 0.1, 8.0, 1 + classes // 30


def _rgb(colour: str) -> Any:
    return np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255


def predictions_card(predictions: Predictions) -> str:
    rows = [_prediction_row(predictions, i) for i in range(len(predictions.images[:MAX_ROWS]))]
    by = (
        f"run {predictions.run} ({predictions.model})"
        if predictions.run
        else f"{predictions.model} with its own output layer"
    )
    head = ["", "image", "label", "probability", "", "then"]
    parts: list[str] = [table(head, rows, left=3)]
    if len(predictions.images) > MAX_ROWS:
        parts.append(note(f"and {len(predictions.images) - MAX_ROWS} more: .images has them all"))
    words = f"Measured: by {by}, among {predictions.classes:,} classes. {_trust(predictions)}"
    parts.append(note(words))
    count = len(predictions.images)
    return card(f"{count} image{'s' if count != 1 else ''}, labelled by {by}", *parts)


def _prediction_row(predictions: Predictions, number: int) -> list[object]:
    each = predictions.images[number]
    seen = predictions._pictures if predictions._pictures is not None else ()
    view = picture(_thumbnail(seen[number]), each.name) if number < len(seen) else ""
    if each.refused:
        return [view, each.name, *map(measured, _refusal(predictions, number))]
    first, *others = each.labels
    said = (
        Raw(f"<b>{safe(first[0])}</b>"),
        f"{first[1]:.1%}",
        bar(first[1]),
        ", ".join(f"{name} {p:.1%}" for name, p in others),
    )
    return [view, each.name, *map(measured, said)]


def _refusal(predictions: Predictions, number: int) -> tuple[object, ...]:
    """What is said of an image that is refused: the nearest that the network knows."""
    near = predictions.images[number].nearest
    names = (safe(f"{image.label} {image.likeness:.2f}") for image in near)
    nearest = predictions._nearest.get(number)
    view = picture(_thumbnail(nearest), near[0].label) if nearest is not None else ""
    nearby = Raw("<br>".join(("nearest, by likeness:", *names)))
    return Raw(f"<b>{safe(NONE_OF_THESE)}</b>"), "", view, nearby


def _trust(predictions: Predictions) -> str:
    """What the probabilities mean, and what is refused."""
    fitted = predictions.calibration
    if fitted is None:
        return (
            f"Probabilities are not calibrated ({predictions.why_not}), and it can only answer "
            "with one of these, whatever the image shows."
        )
    how = f"Probabilities calibrated on {fitted.labels} labels ({fitted.method})."
    if predictions.always:
        return f"{how} Nothing was to be refused (--always)."
    return (
        f"{how} Refused: what is less like the nearest known images than {fitted.threshold:.2f}; "
        "--always answers anyway."
    )


def _thumbnail(pixels: Tensor, edge: int = 72) -> bytes:
    """A small PNG of an image; images below `edge` are enlarged without smoothing."""
    import io

    from PIL import Image

    image = Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())
    how = Image.Resampling.NEAREST if image.width < edge else Image.Resampling.BILINEAR
    out = io.BytesIO()
    image.resize((edge, edge), how).save(out, format="png")
    return out.getvalue()
