"""Results as Markdown tables."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping

from benchmarks.measure import Result
from benchmarks.peers import ABOUT

REFERENCE = "tutorial"
REPEATED = " again"
OVERHEAD_PEERS = ("raw", "tlnb")  # what `overhead` compares


def runs_table(results: list[Result], epochs: list[int], peak: Mapping[str, float]) -> str:
    """Seconds of whole runs, for `head` and `partial`; `peak` is not used."""
    by_label = rows(results)
    references = {e: _median(_seconds(by_label.get(REFERENCE, []), e)) for e in epochs}
    head = [
        "",
        *(cell for e in epochs for cell in (f"{e} epochs, s", "speed-up")),
        "test accuracy",
        "measured",
    ]
    lines = []
    for label, row in by_label.items():
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
                lines.append([label + REPEATED, *cells, "the same", "in full"])
    return markdown(head, lines) + gpu_table(by_label)


def steps_table(results: list[Result], epochs: list[int], peak: Mapping[str, float]) -> str:
    """Milliseconds of training per image for `full` and `scratch`, loading excluded."""
    by_label = rows(results)
    reference = _median(_each(by_label.get(REFERENCE, []), lambda r: r.outcome.step_ms))
    top = max(peak.values(), default=0.0)
    head = ["", "ms per image", "speed-up", "GFLOP/s", "of the matmul peak", "test accuracy"]
    lines = []
    for label, row in by_label.items():
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
    return markdown(head, lines) + gpu_table(by_label)


def overhead_table(results: list[Result], epochs: list[int], peak: Mapping[str, float]) -> str:
    """Format `steps_table`, and the overhead of tlnb's loop over the raw one."""
    by_label = rows(results)
    raw, ours = (
        _median(_each(by_label.get(name, []), lambda r: r.outcome.step_ms))
        for name in OVERHEAD_PEERS
    )
    extra = f"\n\ntlnb takes {ours / raw - 1:+.1%} of the raw loop's time." if raw and ours else ""
    return steps_table(results, epochs, peak) + extra


def gpu_table(by_label: Mapping[str, list[Result]]) -> str:
    """Images per second, seconds by part, and memory; empty for CPUs."""
    lines = []
    for label, row in by_label.items():
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
        "seconds of reading in advance and of one epoch by part (tlnb: everything except training)",
        "most GiB held",
    ]
    return "\n\n" + markdown(head, lines) if lines else ""


def notes(labels: Iterable[str]) -> str:
    """One line about each peer."""
    return "\n".join(f"* `{name}`: {text}." for name, text in ABOUT.items() if name in set(labels))


def rows(results: Iterable[Result]) -> dict[str, list[Result]]:
    """Results by row, in order of first appearance."""
    by_label: dict[str, list[Result]] = {}
    for result in results:
        by_label.setdefault(result.job.label, []).append(result)
    return by_label


def spread(values: list[float]) -> str:
    """Median (min–max) with three significant figures; a single value alone."""
    if not values:
        return "–"
    low, high = min(values), max(values)
    around = f" ({_figures(low)}–{_figures(high)})" if len(values) > 1 else ""
    return _figures(statistics.median(values)) + around


def markdown(head: list[str], lines: list[list[str]]) -> str:
    """A Markdown table; short lines are padded with empty cells."""
    filled = [line + [""] * (len(head) - len(line)) for line in lines]
    return "\n".join(
        "| " + " | ".join(line) + " |" for line in [head, ["---"] * len(head), *filled]
    )


def _figures(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _problem(row: list[Result]) -> str:
    """Why a row has no figures; empty unless all of its runs failed."""
    return "" if any(r.outcome for r in row) else row[0].problem


def _each(row: list[Result], value: Callable[[Result], float]) -> list[float]:
    return [value(r) for r in row if r.outcome]


def _seconds(row: list[Result], epochs: int) -> list[float]:
    """Seconds of runs with exactly `epochs` epochs if there are any, else extrapolated ones."""
    exact = [r for r in row if r.job.epochs == epochs]
    return _each(exact or row, lambda r: r.outcome.seconds(epochs))


def _median(values: list[float]) -> float | None:
    return statistics.median(values) if values else None


def _speedup(reference: float | None, value: float | None) -> str:
    return f"×{reference / value:.3g}" if reference and value else "–"


def _accuracies(row: list[Result]) -> str:
    """Median accuracies by number of epochs."""
    counts = sorted({r.job.epochs for r in row if r.outcome and r.outcome.accuracy is not None})
    accuracies = {
        e: [r.outcome.accuracy for r in row if r.outcome and r.job.epochs == e] for e in counts
    }
    return ", ".join(f"{statistics.median(accuracies[e]):.1%} after {e}" for e in counts) or "–"


def _how(row: list[Result], epochs: list[int]) -> str:
    measured = {r.job.epochs for r in row if r.outcome}
    if set(epochs) <= measured or not any(r.outcome.epochs for r in row if r.outcome):
        return "in full"
    return f"extrapolated from {max(measured)} epoch{'s' * (max(measured) > 1)}"
