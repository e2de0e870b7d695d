"""Light drawings that update on a click or during training, as inline SVG.

Text has the page's own colour. The label of each drawing describes it in words, and nothing is
distinguished by colour alone.
"""

from __future__ import annotations

from collections.abc import Sequence

from tlnb.core.models.anatomy import Anatomy, Stage
from tlnb.core.training.progress import Progress
from tlnb.display.html import BLUE, GREEN, VERMILION, Raw, safe
from tlnb.display.networks import frozen_of
from tlnb.display.words import percent

# size of the network's drawing, in units that scale with the page
NETWORK_WIDTH, NETWORK_HEIGHT = 760, 150
MAX_NAMED_STAGES = 16  # up to so many stages have their names below
MAX_CURVE_POINTS = 160  # at most, in a curve
HATCH_SPACING = 7  # distance between two hatch lines
PLOT_WIDTH, PLOT_HEIGHT = 340, 120


def _svg(width: int, height: int, label: str, *parts: str) -> Raw:
    style = f"display:block;width:100%;max-width:{width}px;height:auto"
    return Raw(
        f'<svg viewBox="0 0 {width} {height}" style="{style}" role="img" aria-label="{safe(label)}" '
        f'font-family="sans-serif" fill="currentColor">{"".join(parts)}</svg>'
    )


def _text(x: float, y: float, words: object, anchor: str = "middle", size: int = 11) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}">{safe(words)}</text>'


# ── the network ───────────────────────────────────────────────────────────────────────────────────


def network(read: Anatomy) -> Raw:
    """Draw the stages from input to output.

    The width of a box grows with the square root of its parameters, its height with that of its
    FLOPs. The trained share is filled from the bottom, the frozen share is hatched.
    """
    stages = read.stages
    widths = _scaled([s.params for s in stages], NETWORK_WIDTH - 90 - 8 * len(stages))
    heights = [18 + 92 * (s.flops / max(1, *(t.flops for t in stages))) ** 0.5 for s in stages]
    parts = [_text(20, 68, "image"), _arrow(38)]
    x = 48.0
    for i, (stage, width, height) in enumerate(zip(stages, widths, heights, strict=True)):
        parts.append(_box(stage, x, width, height))
        if len(stages) <= MAX_NAMED_STAGES:
            parts.append(
                _text(x + width / 2, 134 if i % 2 == 0 else 147, _short(stage.name, width))
            )
        x += width + 8
    parts += [_arrow(x - 4), _text(x + 8, 68, "scores", "start")]
    states = ", ".join(f"{s.name} {frozen_of(s.frozen, s.layers)}" for s in stages[:60])
    return _svg(
        NETWORK_WIDTH, NETWORK_HEIGHT, f"{read.model} from input to output: {states}", *parts
    )


def _scaled(values: Sequence[int], room: float) -> list[float]:
    """Widths that fill `room`, by the square root of the values, with a visible minimum."""
    roots = [max(1, v) ** 0.5 for v in values]
    least = min(14.0, room / len(roots))
    spare = max(0.0, room - least * len(roots))
    return [least + spare * r / sum(roots) for r in roots]


def _box(stage: Stage, x: float, width: float, height: float) -> str:
    share = (
        1 - stage.frozen_params / stage.params
        if stage.params
        else float(stage.frozen < stage.layers)
    )
    top, filled = 62 - height / 2, height * share
    tip = f"<title>{safe(stage.name)}: {stage.params:,} parameters, {frozen_of(stage.frozen, stage.layers)}</title>"
    outline = f'x="{x:.1f}" y="{top:.1f}" width="{width:.1f}" height="{height:.1f}" rx="2"'
    return (
        f'<g>{tip}<path d="{_hatch(x, top, width, height - filled)}" stroke="currentColor" stroke-width="1" opacity=".45"/>'
        f'<rect x="{x:.1f}" y="{top + height - filled:.1f}" width="{width:.1f}" height="{filled:.1f}" rx="2" fill="{BLUE}"/>'
        f'<rect {outline} fill="none" stroke="currentColor" stroke-width="1"/></g>'
    )


def _hatch(x: float, y: float, width: float, height: float) -> str:
    """Diagonal lines in a box: an SVG pattern fails where its id belongs to a hidden copy."""
    if width <= 0 or height <= 0:
        return ""
    lines = []
    for k in range(HATCH_SPACING, int(width + height), HATCH_SPACING):
        start = f"M{x + max(0.0, k - height):.1f} {y + min(k, height):.1f}"
        lines.append(f"{start}L{x + min(k, width):.1f} {y + max(0.0, k - width):.1f}")
    return "".join(lines)


def _arrow(x: float) -> str:
    return f'<path d="M{x:.1f} 64h5l-3 -3m3 3l-3 3" stroke="currentColor" fill="none"/>'


def _short(name: str, width: float) -> str:
    room = max(3, round(width / 3.2))
    return name if len(name) <= room else name[: room - 1] + "…"


# ── shares ────────────────────────────────────────────────────────────────────────────────────────


def meter(what: str, share: float | None, words: str) -> Raw:
    """A labelled bar from 0 to 1; without a share only words."""
    if share is None:
        drawn = ""
    else:
        filled = f"width:{100 * min(1.0, share):.1f}%;background:{BLUE};height:100%"
        drawn = (
            '<span style="display:inline-block;width:12em;max-width:30vw;height:.8em;border:1px solid currentColor;'
            f'vertical-align:middle;margin-right:.6em"><span style="display:block;{filled}"></span></span>'
        )
    return Raw(
        f'<div style="line-height:1.7"><span style="display:inline-block;width:8em">{safe(what)}</span>'
        f"{drawn}<span>{safe(words)}</span></div>"
    )


# ── curves during training ────────────────────────────────────────────────────────────────────


def curves(history: Sequence[Progress]) -> Raw:
    """Training loss and accuracy by epoch so far, side by side."""
    if not history:
        return Raw()
    epochs = max(history[-1].epochs, 1)
    losses = [
        (p.epoch / epochs, p.loss) for p in history if p.loss is not None and p.loss == p.loss
    ]
    seen = [(p.epoch / epochs, p.accuracy) for p in history if p.accuracy is not None]
    plots = []
    if losses:
        top = max(y for _, y in losses) or 1.0
        plots.append(
            _plot(
                "training loss",
                losses,
                top=top,
                most=f"{top:.2g}",
                last=f"{losses[-1][1]:.3f}",
                colour=VERMILION,
                dash="",
            )
        )
    if seen:
        plots.append(
            _plot(
                "accuracy",
                seen,
                top=1.0,
                most="100%",
                last=percent(seen[-1][1]),
                colour=GREEN,
                dash="5 2",
            )
        )
    row = "".join(
        f'<div style="flex:1 1 16em;max-width:{PLOT_WIDTH}px">{plot}</div>' for plot in plots
    )
    return Raw(f'<div style="display:flex;flex-wrap:wrap;gap:.6em">{row}</div>')


def _plot(
    title: str,
    points: Sequence[tuple[float, float]],
    *,
    top: float,
    most: str,
    last: str,
    colour: str,
    dash: str,
) -> Raw:
    left, right, high, low = 40, PLOT_WIDTH - 12, 22, PLOT_HEIGHT - 18
    sampled = points[:: max(1, len(points) // MAX_CURVE_POINTS)]
    sampled = sampled if sampled[-1] == points[-1] else [*sampled, points[-1]]
    placed = [
        (left + x * (right - left), low - min(1.0, max(0.0, y / top)) * (low - high))
        for x, y in sampled
    ]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in placed)
    x, y = placed[-1]
    parts = (
        _text(left, 13, f"{title}: {last}", "start", 12),
        f'<path d="M{left} {high}V{low}H{right}" fill="none" stroke="currentColor" opacity=".5"/>',
        _text(left - 5, high + 4, most, "end", 10),
        _text(left - 5, low + 3, "0", "end", 10),
        f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2" stroke-dasharray="{dash}"/>',
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}"/>',
    )
    return _svg(PLOT_WIDTH, PLOT_HEIGHT, f"{title} so far, now {last}", *parts)
