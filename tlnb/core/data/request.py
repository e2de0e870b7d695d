"""The options given when opening data."""

from __future__ import annotations

from dataclasses import dataclass

from tlnb.core.runtime.errors import UsageError

MOST_CLASSES = 2**15  # of data or a network: enough for ImageNet-21k
BOUNDS = {
    "per_class": (1, 10**7),
    "limit": (2, 10**9),
    "size": (8, 4096),
    "classes": (2, 10_000),
    "seed": (0, 2**31 - 1),
}


@dataclass(frozen=True, kw_only=True)
class DataRequest:
    """The user's options: everything needed to read the same data again."""

    source: str
    per_class: int | None = None
    limit: int | None = None
    val: float | None = None
    test: float | None = None
    size: int | None = None
    classes: int | None = None
    seed: int = 0
    group: str | None = None  # a regular expression, a CSV file, or a column of the table
    root: str | None = None  # folder of torchvision's data sets


def check_request(request: DataRequest) -> None:
    """Raise `UsageError` if an amount is out of range or options exclude each other."""
    for name, (least, most) in BOUNDS.items():
        value = getattr(request, name)
        if value is not None and not least <= value <= most:
            side = "large" if value > most else "small"
            raise UsageError(
                f"--{name.replace('_', '-')} {value} is too {side}: use {least} to {most:,}"
            )
    for name in ("val", "test"):
        share = getattr(request, name)
        if share is not None and not 0 <= share < 1:
            raise UsageError(
                f"--{name} must be a share from 0 to below 1, got {share}: try --{name} 0.2"
            )
    if request.per_class and request.limit:
        raise UsageError("--per-class and --limit exclude each other: give one of them")


def refuse(request: DataRequest, name: str, **reasons: str) -> None:
    """Raise `UsageError` with the reason if data set `name` does not take a given option."""
    for option, reason in reasons.items():
        if getattr(request, option) is not None:
            raise UsageError(f"{name} {reason}: leave out --{option.replace('_', '-')}")
