"""Numbers as people read them."""

from __future__ import annotations


def percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.1%}"


def seconds(value: float | None) -> str:
    """`0.4 s`, `12 s`, `14 min`, `2.5 h`."""
    if value is None:
        return "–"
    if value < 0.01:
        return "under 0.01 s"
    if value < 10:
        return f"{value:.2f} s" if value < 1 else f"{value:.1f} s"
    if value < 120:
        return f"{value:.0f} s"
    return f"{value / 60:.0f} min" if value < 7200 else f"{value / 3600:.1f} h"


def span(low: float | None, high: float | None) -> str:
    """A moment that lies between two, `0.21 s–0.35 s`; just the later one where both read alike, or there is no earlier."""
    before, after = seconds(low), seconds(high)
    return after if low is None or before == after else f"{before}–{after}"


def clock(value: float | None) -> str:
    """Seconds of a computer's work, up to GPU-years: as `seconds`, and days above two."""
    if value is None or value < 2 * 86_400:
        return seconds(value)
    return f"{value / 86_400:,.0f} days"


def flops(value: float | None) -> str:
    """With the unit that leaves one to three digits before the point."""
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
    """`1,610`, `560 k`, `11.7 M`."""
    if value is None:
        return "–"
    if value < 100_000:
        return f"{value:,.0f}"
    return f"{value / 1e3:.0f} k" if value < 1e6 else f"{value / 1e6:.3g} M"


def size(value: float | None) -> str:
    """Bytes, in powers of ten."""
    if value is None:
        return "–"
    return f"{value / 1e6:.1f} MB" if value < 1e9 else f"{value / 1e9:.2f} GB"


def small(value: float | None, unit: str = "") -> str:
    """An amount that is not worth more than two decimals."""
    if value is None:
        return "–"
    return f"under 0.01 {unit}".rstrip() if value < 0.01 else f"{value:,.2f} {unit}".rstrip()


def money(value: float | None, currency: str = "") -> str:
    """Two decimals, and none for large sums."""
    if value is None:
        return "–"
    return small(value, currency) if value < 1000 else f"{value:,.0f} {currency}".rstrip()


def memory(value: float) -> str:
    """Bytes, in powers of ten, two digits."""
    return f"{value / 1e6:,.0f} MB" if value < 1e9 else f"{value / 1e9:.1f} GB"


def times(value: float) -> str:
    return f"{value:.1f}×" if value < 20 else f"{value:.0f}×"


def interval(low_high: tuple[float, float] | None) -> str:
    return "" if low_high is None else f"{low_high[0] * 100:.1f}–{low_high[1] * 100:.1f}"
