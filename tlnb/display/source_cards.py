"""The card of advice on a source: the verdict, how sure it is, and the candidates side by side."""

from __future__ import annotations

from tlnb.core.tuning.advise import Advice
from tlnb.core.tuning.sources import Source
from tlnb.display.charts import figure_of, png_of
from tlnb.display.html import (
    BLUE,
    GREY,
    Raw,
    bar,
    card,
    facts,
    folded,
    headline,
    line,
    measured,
    picture,
    safe,
    table,
)
from tlnb.display.words import count, interval, percent, seconds, size

HEAD = ("network", "labels right", "95%", "behind", "trained on", "its accuracy", "time", "size")


def sources_card(advice: Advice) -> str:
    """The best source, one chart, a table of what the notes name: relevant, large, accurate."""
    best = advice.sources[0]
    figure = best.name if best.accuracy is not None else "not measured"
    rows = [
        [_named(source, best), *map(measured, _measures(source)), *_stated(source), *_costs(source)]
        for source in advice.sources
    ]
    parts: list[str] = [
        headline(measured(figure), measured(advice.reason)),
        line(measured(Raw(f"<b>How sure</b>: {safe(advice.sure)}."))),
    ]
    if best.accuracy is not None:
        parts.append(picture(_chart(advice), _alternative(advice), of_figures=True))
    parts.append(table(HEAD, rows, of_figures=True))
    if best.accuracy is not None:
        parts.append(line(measured(Raw(f"next: <code>{safe(best.line)}</code>"))))
    parts += [line(Raw(f"<b>Note</b>: {safe(flag)}.")) for flag in advice.flags]
    parts += [folded("How it was measured", facts(_about(advice))), _depths(best)]
    return card(f"Which source for {advice.data}?", *parts)


def _named(source: Source, best: Source) -> str:
    return Raw(f"<b>{safe(source.name)}</b>") if source is best else source.name


def _measures(source: Source) -> list[str]:
    return [percent(source.accuracy), interval(source.interval), behind(source)]


def behind(source: Source) -> str:
    if source.behind is None or source.error is None:
        return "–"
    points = round(100 * source.behind, 1) + 0.0  # no -0.0
    return f"{points:.1f} ± {100 * source.error:.1f}" if source.error else "the first"


def _stated(source: Source) -> list[str]:
    """What its card states: large, and accurate."""
    known = source.card.source_images
    return [f"{count(known)} images" if known else "–", percent(source.card.accuracy)]


def _costs(source: Source) -> list[str]:
    return [measured(seconds(source.seconds)), size(source.bytes)]


def _about(advice: Advice) -> list[tuple[str, object]]:
    labels = advice.sources[0].labels
    return [
        (
            "labels right",
            f"relevant: how often a linear layer on the network's features, as strategy head trains "
            f"it, is right on a label held out; cross-validated on the {labels} labels in use; test "
            "images are not read",
        ),
        (
            "behind",
            "points behind the best, ± one standard error, image by image in the same folds",
        ),
        ("trained on, its accuracy", "large and accurate: what its card states; not measured here"),
        *((source.name, f"learned from {source.card.source}") for source in advice.sources),
        ("time", "of one pass of the labels in use through the network, on this machine"),
        ("this advice took", measured(f"{seconds(advice.seconds)}, which is on the bill")),
    ]


def _depths(best: Source) -> Raw:
    rows = [
        [p.stage, *map(measured, (percent(p.accuracy), f"± {100 * p.error:.1f}", bar(p.accuracy)))]
        for p in best.depths
    ]
    if not rows:
        return Raw()
    shown = table(["stage", "labels right", "", ""], rows, of_figures=True)
    return folded(measured(f"At which depth of {best.name} the classes are told apart"), shown)


def _chart(advice: Advice) -> bytes:
    """A dot with its interval for each candidate, the best at the top; hollow: clearly behind."""
    figure = figure_of(6.4, 0.7 + 0.28 * len(advice.sources))
    axes = figure.subplots()
    for row, source in enumerate(advice.sources):
        low, high = source.interval or (0.0, 1.0)
        colour = BLUE if source.tied else GREY
        axes.plot([100 * low, 100 * high], [row, row], color=colour, lw=1.6)
        face = colour if source.tied else "white"
        axes.plot(100 * (source.accuracy or 0.0), row, "o", ms=7, color=colour, mfc=face)
    axes.set_yticks(range(len(advice.sources)), [source.name for source in advice.sources])
    axes.invert_yaxis()
    axes.set(xlabel="labels held out that are right, %, with 95% intervals", xlim=(0, 101))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(True, axis="x", alpha=0.25)
    return png_of(figure)


def _alternative(advice: Advice) -> str:
    each = (f"{s.name} {percent(s.accuracy)} ({interval(s.interval)})" for s in advice.sources)
    return (
        f"labels held out that are right: {', '.join(each)}; filled: not told apart from the first"
    )
