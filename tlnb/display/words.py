"""Numbers formatted for people."""

from __future__ import annotations

from collections.abc import Callable


def percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.1%}"


def seconds(value: float | None) -> str:
    """Format seconds: `0.4 s`, `12 s`, `14 min`, `2.5 h`."""
    if value is None:
        return "–"
    if value < 0.01:
        return "under 0.01 s"
    if value < 10:
        return f"{value:.2f} s" if value < 1 else f"{value:.1f} s"
    if value < 120:
        return f"{value:.0f} s"
    return f"{value / 60:.0f} min" if value < 7200 else f"{value / 3600:.1f} h"


def clock(value: float | None) -> str:
    """Format computing time up to GPU-years: like `seconds`, but in days from two days on."""
    if value is None or value < 2 * 86_400:
        return seconds(value)
    return f"{value / 86_400:,.0f} days"


def span(
    low: float | None, high: float | None, form: Callable[[float | None], str] = seconds
) -> str:
    """Format a moment between two times, `0.21 s–0.35 s`, or the later alone if they look alike."""
    before, after = form(low), form(high)
    return after if low is None or before == after else f"{before}–{after}"


def flops(value: float | None) -> str:
    """Format FLOPs with the unit that leaves one to three digits before the point."""
    if value is None:
        return "–"
    for unit, size in (
        ("EFLOP", 1e18),
        ("PFLOP", 1e15),
        ("TFLOP", 1e12),
        ("GFLOP", 1e9),
        ("MFLOP", 1e6),
    ):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return "under 1 MFLOP"


def count(value: float | None) -> str:
    """Format a count: `1,610`, `560 k`, `11.7 M`."""
    if value is None:
        return "–"
    if value < 100_000:
        return f"{value:,.0f}"
    return f"{value / 1e3:.0f} k" if value < 1e6 else f"{value / 1e6:.3g} M"


def size(value: float | None) -> str:
    """Format bytes in powers of ten."""
    if value is None:
        return "–"
    return f"{value / 1e6:.1f} MB" if value < 1e9 else f"{value / 1e9:.2f} GB"


def small(value: float | None, unit: str = "") -> str:
    """Format an amount with two decimals, or as `under 0.01`."""
    if value is None:
        return "–"
    return f"under 0.01 {unit}".rstrip() if value < 0.01 else f"{value:,.2f} {unit}".rstrip()


def money(value: float | None, currency: str = "") -> str:
    """Format money with two decimals, and without decimals from 1,000 on."""
    if value is None:
        return "–"
    return small(value, currency) if value < 1000 else f"{value:,.0f} {currency}".rstrip()


def memory(value: float) -> str:
    """Format bytes of memory in powers of ten, as whole MB or GB with one decimal."""
    return f"{value / 1e6:,.0f} MB" if value < 1e9 else f"{value / 1e9:.1f} GB"


def times(value: float) -> str:
    """Format a ratio: `3.4×`, `45×`."""
    return f"{value:.1f}×" if value < 20 else f"{value:.0f}×"


def interval(low_high: tuple[float, float] | None) -> str:
    return "" if low_high is None else f"{low_high[0] * 100:.1f}–{low_high[1] * 100:.1f}"
