"""Building blocks of cards. All text from outside is escaped here, once.

Tables are plain, because every front end styles them for its own theme; inline styles are used only
where they carry meaning.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable, Sequence
from html import escape

from tlnb.core.runtime.errors import one_line

BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY, GREY = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#D55E00",
    "#CC79A7",
    "#56B4E9",
    "#7f7f7f",
)  # Okabe & Ito (2008), distinguishable with any colour vision


class Raw(str):
    """HTML that is already escaped."""


class Measured(Raw):
    """HTML of a measured figure, or of words that depend on one; machines may differ.

    The element that holds it gets the class `measured`, which distinguishes it from exact values.
    """


MEASURED_CLASS = ' class="measured"'


def measured(value: object) -> Measured:
    """Mark a value as measured."""
    return Measured(safe(value))


def _measured_class(value: object) -> str:
    return MEASURED_CLASS if isinstance(value, Measured) else ""


def safe(value: object) -> str:
    """Escape markup and control characters, and replace invalid Unicode, which JSON refuses."""
    if isinstance(value, Raw):
        return value
    text = str(value).encode(errors="replace").decode()
    return escape("\n".join(map(one_line, text.split("\n"))))


def card(title: str, *parts: str) -> str:
    """A titled block; each part is safe HTML."""
    return f'<div class="tlnb"><p style="margin:0 0 .4em"><b>{safe(title)}</b></p>{"".join(parts)}</div>'


def page(title: str, *cards: str) -> str:
    """Cards as a self-contained HTML page."""
    head = f'<meta charset="utf-8"><title>{safe(title)}</title>'
    style = "font-family:sans-serif;max-width:70em;margin:1em auto"
    return f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head><body style="{style}">{"".join(cards)}</body></html>\n'


def line(text: object) -> Raw:
    return Raw(f'<p{_measured_class(text)} style="margin:.3em 0">{safe(text)}</p>')


def headline(figure: object, words: object = "") -> Raw:
    """The one figure that a card is about, large, and a sentence about it."""
    large = f'<span style="font-size:1.9em;line-height:1.3"><b>{safe(figure)}</b></span>'
    marked = Measured if isinstance(figure, Measured) or isinstance(words, Measured) else Raw
    return line(marked(f"{large} {safe(words)}" if words else large))


def folded(title: object, *parts: str) -> Raw:
    """What is one click away; empty if there is nothing."""
    inside = "".join(parts)
    if not inside:
        return Raw()
    return Raw(f'<details style="margin:.3em 0"><summary>{safe(title)}</summary>{inside}</details>')


def note(text: object) -> Raw:
    return Raw(
        f'<p{_measured_class(text)} style="margin:.3em 0;opacity:.75;font-size:90%">{safe(text)}</p>'
    )


def link(url: str, text: str) -> Raw:
    """A link; anything but an `http(s)` address stays text."""
    if not url.startswith(("https://", "http://")):
        return Raw(safe(text))
    return Raw(f'<a href="{safe(url)}" target="_blank" rel="noopener">{safe(text)}</a>')


# Opaque in light and dark themes: the front end's own colours, else the browser's system colours.
STICKY_HEAD_STYLE = (
    ";position:sticky;top:0;background:var(--jp-layout-color0,var(--vscode-editor-background,Canvas))"
    ";color:var(--jp-content-font-color1,var(--vscode-editor-foreground,CanvasText))"
)


def table(
    head: Sequence[object],
    rows: Iterable[Sequence[object]],
    left: int = 1,
    height: str = "",
    *,
    of_figures: bool = False,
) -> Raw:
    """A table whose first `left` columns are text and the others numbers.

    Args:
        of_figures: the choice and the order of the rows depend on measurements too.
        height: of a long table that scrolls under its head, e.g. `26em`.
    """

    def cells(tag: str, row: Sequence[object], number: str) -> str:
        styles = ("text-align:left" if i < left else number for i in range(len(row)))
        return "".join(
            f'<{tag}{_measured_class(c)} style="{s};vertical-align:top">{safe(c)}</{tag}>'
            for s, c in zip(styles, row, strict=True)
        )

    top = cells("th", head, "text-align:right")
    if height:
        top = top.replace(";vertical-align:top", f";vertical-align:bottom{STICKY_HEAD_STYLE}")
    body = "".join(
        f"<tr>{cells('td', row, 'text-align:right;white-space:nowrap')}</tr>" for row in rows
    )
    mark = MEASURED_CLASS if of_figures else ""
    scroll = f"overflow:auto;max-height:{height}" if height else "overflow-x:auto"
    return Raw(
        f'<div style="{scroll}"><table{mark} style="margin:.3em 0"><thead><tr>{top}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def facts(pairs: Iterable[tuple[str, object]]) -> Raw:
    """A table of names and values. Pairs without a value are left out."""
    rows = "".join(
        f'<tr><td style="text-align:left;vertical-align:top">{safe(k)}</td>'
        f'<td{_measured_class(v)} style="text-align:left">{safe(v)}</td></tr>'
        for k, v in pairs
        if v not in (None, "")
    )
    return Raw(f'<table style="margin:.3em 0"><tbody>{rows}</tbody></table>')


def bar(share: float, colour: str = BLUE, width: int = 90, hollow: float = 0.0) -> Raw:
    """A horizontal bar for a share from 0 to 1.

    Its last part, of length `hollow`, is an outline. The table shows the number beside it.
    """

    def piece(pixels: int, fill: str) -> str:
        box = f"display:inline-block;box-sizing:border-box;height:.75em;width:{pixels}px;border:1px solid {colour}"
        return f'<span style="{box};background:{fill}"></span>' if pixels else ""

    share = share if math.isfinite(share) else 0.0  # a diverged run has a card too
    filled = max(0, min(width, round(share * width)))
    filled = max(filled, 1) if share > 0 else 0
    outline = filled if hollow >= share else min(filled, round(hollow * width))
    pieces = piece(filled - outline, colour) + piece(outline, "transparent")
    return Raw(
        f'<span style="display:inline-block;width:{width}px;text-align:left;white-space:nowrap">{pieces}</span>'
    )


def interval_bar(low: float, value: float, high: float) -> Raw:
    """A share and its interval on a line from 0 to 1; the words beside it say the same."""
    left, middle, right = (max(0.0, min(1.0, each)) * 100 for each in (low, value, high))
    band = f"left:{left:.1f}%;width:{max(right - left, 0.5):.1f}%;height:.7em;top:.15em;background:{SKY}"
    tick = f"left:{middle:.1f}%;width:3px;height:1em;top:0;background:{BLUE}"
    pieces = "".join(
        f'<span style="position:absolute;{each}"></span>'
        for each in ("left:0;width:100%;height:1px;top:.5em;background:#888888", band, tick)
    )
    box = "position:relative;display:inline-block;width:240px;max-width:60%;height:1em"
    return Raw(f'0%&nbsp;<span style="{box}">{pieces}</span>&nbsp;100%')


def picture(png: bytes, alt: str, *, of_figures: bool = False) -> Raw:
    """An image with alternative text.

    Args:
        of_figures: its presence, or its text, depends on measurements.
    """
    data, mark, text = (
        base64.b64encode(png).decode(),
        MEASURED_CLASS if of_figures else "",
        safe(alt),
    )
    return Raw(
        f'<img{mark} alt="{text}" src="data:image/png;base64,{data}" style="max-width:100%;height:auto">'
    )


UNSCROLLED_ROWS = 12
MAX_ROWS = 1000


def long_table(head: list[str], rows: list[list[str]], left: int = 1) -> Raw:
    """A table that scrolls if it is long; it shows `MAX_ROWS` rows and counts the rest."""
    more = (
        f"and {len(rows) - MAX_ROWS:,} more: tl.dataset.skipped, tl.dataset.leaks"
        if len(rows) > MAX_ROWS
        else ""
    )
    rest = [[more, *[""] * (len(head) - 1)]] if more else []
    return table(
        head,
        [*rows[:MAX_ROWS], *rest],
        left=left,
        height="28em" if len(rows) > UNSCROLLED_ROWS else "",
    )
