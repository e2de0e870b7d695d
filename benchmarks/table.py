"""Results as Markdown tables."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping

from benchmarks.measure import Result
from benchmarks.peers import ABOUT

REFERENCE = "tutorial"
AGAIN = " again"
SAME = ("raw", "tlnb")  # what `overhead` compares


def runs_table(results: list[Result], epochs: list[int], peak: Mapping[str, float]) -> str:
    """Seconds of whole runs, for `head` and `partial`. `peak` plays no part."""
    found = rows(results)
    references = {e: _median(_seconds(found.get(REFERENCE, []), e)) for e in epochs}
    head = [
        "",
        *(cell for e in epochs for cell in (f"{e} epochs, s", "speed-up")),
        "test accuracy",
        "measured",
    ]
    lines = []
    for label, row in found.items():
        if problem := _problem(row):
            lines.append([label, problem])
            continue
        times = {e: _seconds(row, e) for e in epochs}
        cells = [
            c
            for e in epochs
            for c in (spread(times[e]), _speedup(references[e], _median(times[e])))
        ]
        lines.append([label, *cells, _accuracies(row), _how(row, epochs)])
        if again := {
            e: [o.again for r in row if r.job.epochs == e and (o := r.outcome) and o.again]
            for e in epochs
        }:
            cells = [
                c
                for e in epochs
                for c in (spread(again[e]), _speedup(references[e], _median(again[e])))
            ]
            if any(again.values()):
                lines.append([label + AGAIN, *cells, "the same", "in full"])
    return markdown(head, lines) + gpu_table(found)


def steps_table(results: list[Result], epochs: list[int], peak: Mapping[str, float]) -> str:
    """Milliseconds of training for one image, for `full` and `scratch`; loading and evaluating are not in it."""
    found = rows(results)
    reference = _median(_each(found.get(REFERENCE, []), lambda r: r.outcome.step_ms))
    top = max(peak.values(), default=0.0)
    head = ["", "ms an image", "speed-up", "GFLOP/s", "of the matmul peak", "test accuracy"]
    lines = []
    for label, row in found.items():
        if problem := _problem(row):
            lines.append([label, problem])
            continue
        times = _each(row, lambda r: r.outcome.step_ms)
        rate = _median(_each(row, lambda r: r.gflops)) or 0.0
        share = f"{rate / top:.0%}" if top else "–"
        lines.append(
            [
                label,
                spread(times),
                _speedup(reference, _median(times)),
                f"{rate:.1f}",
                share,
                _accuracies(row),
            ]
        )
    return markdown(head, lines) + gpu_table(found)


def overhead_table(results: list[Result], epochs: list[int], peak: Mapping[str, float]) -> str:
    """`steps_table`, and what tlnb's loop takes beyond the raw one."""
    found = rows(results)
    raw, ours = (_median(_each(found.get(name, []), lambda r: r.outcome.step_ms)) for name in SAME)
    extra = f"\n\ntlnb takes {ours / raw - 1:+.1%} of the raw loop's time." if raw and ours else ""
    return steps_table(results, epochs, peak) + extra


def gpu_table(found: Mapping[str, list[Result]]) -> str:
    """Images a second, where the seconds went, and memory; nothing for processors."""
    lines = []
    for label, row in found.items():
        done = [r for r in row if r.outcome and r.job.device.startswith("cuda")]
        if done:
            outcome = done[-1].outcome
            rate = 1000 / outcome.step_ms if outcome.step_ms else 0.0
            where = ", ".join(
                f"{part} {seconds:.2f}"
                for part, seconds in outcome.parts.items()
                if seconds >= 0.005
            )
            lines.append([label, f"{rate:,.0f}", where, f"{done[-1].peak_bytes / 2**30:.2f}"])
    head = [
        "",
        "images/s, training",
        "seconds of reading in advance and of one epoch taken apart (tlnb: all but for training)",
        "most GiB held",
    ]
    return "\n\n" + markdown(head, lines) if lines else ""


def notes(labels: Iterable[str]) -> str:
    """What each peer is, a line each."""
    return "\n".join(f"* `{name}`: {text}." for name, text in ABOUT.items() if name in set(labels))


def rows(results: Iterable[Result]) -> dict[str, list[Result]]:
    """Results by row, in the order in which they come."""
    found: dict[str, list[Result]] = {}
    for result in results:
        found.setdefault(result.job.label, []).append(result)
    return found


def spread(values: list[float]) -> str:
    """Median (least–most), three figures; of one value just that."""
    if not values:
        return "–"
    low, high = min(values), max(values)
    around = f" ({_figures(low)}–{_figures(high)})" if len(values) > 1 else ""
    return _figures(statistics.median(values)) + around


def markdown(head: list[str], lines: list[list[str]]) -> str:
    """A table; short lines are filled up."""
    filled = [line + [""] * (len(head) - len(line)) for line in lines]
    return "\n".join(
        "| " + " | ".join(line) + " |" for line in [head, ["---"] * len(head), *filled]
    )


def _figures(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _problem(row: list[Result]) -> str:
    """Why a row has no figures: none of its runs came to an end."""
    return "" if any(r.outcome for r in row) else row[0].problem


def _each(row: list[Result], value: Callable[[Result], float]) -> list[float]:
    return [value(r) for r in row if r.outcome]


def _seconds(row: list[Result], epochs: int) -> list[float]:
    """Of runs of just so many epochs where there are any, otherwise what the others come to."""
    exact = [r for r in row if r.job.epochs == epochs]
    return _each(exact or row, lambda r: r.outcome.seconds(epochs))


def _median(values: list[float]) -> float | None:
    return statistics.median(values) if values else None


def _speedup(reference: float | None, value: float | None) -> str:
    return f"×{reference / value:.3g}" if reference and value else "–"


def _accuracies(row: list[Result]) -> str:
    """Medians after so many epochs."""
    counts = sorted({r.job.epochs for r in row if r.outcome and r.outcome.accuracy is not None})
    found = {
        e: [r.outcome.accuracy for r in row if r.outcome and r.job.epochs == e] for e in counts
    }
    return ", ".join(f"{statistics.median(found[e]):.1%} after {e}" for e in counts) or "–"


def _how(row: list[Result], epochs: list[int]) -> str:
    measured = {r.job.epochs for r in row if r.outcome}
    if set(epochs) <= measured or not any(r.outcome.epochs for r in row if r.outcome):
        return "in full"
    return f"extrapolated from {max(measured)} epoch{'s' * (max(measured) > 1)}"
