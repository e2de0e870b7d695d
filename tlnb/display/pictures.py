"""Pictures on cards: images with titles, and the styles of classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from tlnb.display.charts import figure_of, png_of
from tlnb.display.html import BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILION

CLASS_STYLES = (  # colour and marker of up to ten classes; either alone distinguishes them
    (BLUE, "o"),
    (ORANGE, "s"),
    (GREEN, "^"),
    (VERMILION, "D"),
    (PURPLE, "v"),
    (SKY, "P"),
    ("#c51b7d", "X"),
    (GREY, "<"),
    ("#8c6d1f", ">"),
    ("#5b2a86", "*"),
)
MAX_NAMED_CLASSES = 40  # up to so many classes all are named
TITLE_LENGTH = 16  # characters of a class's name above a picture


def shortened(text: str, limit: int = TITLE_LENGTH) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"


def draw_image(axes: Any, pixels: Tensor, title: str) -> None:
    axes.imshow(
        pixels.permute(1, 2, 0).numpy(),
        interpolation="nearest" if pixels.shape[-1] <= 64 else "antialiased",
    )
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    if title:
        axes.set_title(title, fontsize=8.5, parse_math=False, pad=3)


def pictures(images: Tensor, titles: Sequence[str], columns: int = 5) -> bytes:
    """Draw a grid of images `(N, 3, E, E)`, each with a title of up to two lines above it."""
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    figure = figure_of(1.8 * columns, 1.95 * rows)
    for i, axes in enumerate(figure.subplots(rows, columns, squeeze=False).flat):
        if i < len(images):
            draw_image(axes, images[i], titles[i])
        else:
            axes.set_axis_off()
    return png_of(figure)
