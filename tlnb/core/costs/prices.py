"""Prices per hour: a small dated table in `prices.toml`; the user's own price wins."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from tlnb.core.runtime.errors import OneLine, UsageError
from tlnb.core.runtime.paths import user_path
from tlnb.core.runtime.typed_json import SENSELESS, typed

PRICE_TABLE = Path(__file__).with_name("prices.toml")
TABLE_VARIABLE = "TLNB_PRICES"
AMOUNT = r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([A-Za-z€£¥$]*)\s*"  # number and unit or currency
UNITS = {"": 1.0, "s": 1.0, "sec": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}  # in seconds


@dataclass(frozen=True, kw_only=True)
class Price(OneLine):
    """What an hour of a machine costs."""

    per_hour: float
    currency: str = "usd"
    basis: str = ""

    def of(self, seconds: float) -> float:
        """The money for this many seconds."""
        return seconds * self.per_hour / 3600

    def __repr__(self) -> str:
        return f"Price {self.per_hour:g} {self.currency} an hour ({self.basis})"


def parse_price(text: str | float) -> Price:
    """Parse a price per hour: `0.5`, `0.5usd`, `0.5usd/h`, `2eur/h`.

    Raises:
        UsageError: anything else.
    """
    match = re.fullmatch(rf"{AMOUNT}(?:/\s*h(?:our)?)?\s*", str(text))
    if not match:
        raise UsageError(f"--price {text} is not a price: write --price 0.5usd/h")
    if not math.isfinite(float(match[1])):
        raise UsageError(f"--price {str(text)[:40]} … is not a price: write --price 0.5usd/h")
    currency = match[2].lower() or "usd"
    return Price(per_hour=float(match[1]), currency=currency, basis="assumed: your figure")


def parse_budget(text: str | float, price: Price) -> float:
    """Convert a budget to seconds.

    A budget is a time (`90s`, `5min`, `2h`), a bare number of seconds, or money (`2usd`), which is
    converted at `price`.

    Raises:
        UsageError: anything else, or a currency other than the price's.
    """
    match = re.fullmatch(AMOUNT, str(text))
    unit = match[2].lower() if match else ""
    known = unit in UNITS or unit == price.currency
    if not match or not known or not 0 < float(match[1]) < math.inf:
        raise UsageError(
            f"--budget {text} is not a budget: write --budget 2min, or money as --budget 0.5{price.currency}"
        )
    if unit in UNITS:
        return float(match[1]) * UNITS[unit]
    if not price.per_hour:
        raise UsageError(
            f"--budget {text} sets no limit, because an hour costs nothing: write --budget 2min"
        )
    return float(match[1]) / price.per_hour * 3600


def list_price(device: str, hardware: str = "", threads: int = 1) -> Price:
    """The assumed price of a device (`cpu`, `cuda:0`, `mps`), by the hardware's name.

    Raises:
        UsageError: the user's own table cannot be read.
    """
    kind = "cpu" if device in ("cpu", "mps") else "gpu"  # Apple's GPU is part of its processor
    for entry in _entries():
        if _applies(entry, kind, hardware):
            return _price_of(entry, threads)
    basis = f"assumed: the price table has no entry for {hardware or device}"
    return Price(per_hour=0.0, currency="usd", basis=basis)


def _applies(entry: Mapping[str, Any], kind: str, hardware: str) -> bool:
    """Whether an entry is for this kind of device, or matches the name of the hardware."""
    if entry["device"] in ("cpu", "gpu"):
        return bool(entry["device"] == kind)
    return re.search(entry["device"], hardware, re.IGNORECASE) is not None


def _price_of(entry: Mapping[str, Any], threads: int) -> Price:
    per_thread = entry["per"] == "thread"
    count = threads if per_thread else 1
    currency = entry.get("currency", "usd")
    each = f", {entry['per_hour']:g} {currency} a thread" if per_thread else ""
    basis = f"assumed: list price of {entry['as_of']} ({entry['source']}){each}"
    return Price(per_hour=entry["per_hour"] * count, currency=currency, basis=basis)


def _entries() -> list[dict[str, Any]]:
    own = os.environ.get(TABLE_VARIABLE)
    return [*(_read(user_path(own)) if own else []), *_read(PRICE_TABLE)]


@cache
def _read(path: Path) -> list[dict[str, Any]]:
    import tomllib

    try:
        entries = list(tomllib.loads(path.read_text("utf8"))["price"])
        for entry in entries:
            _check(entry)
        return entries
    except (*SENSELESS, re.error) as error:
        reason = str(error)[:100]
        raise UsageError(
            f"{TABLE_VARIABLE}: {path} is not a valid price table ({reason}): see {PRICE_TABLE}"
        ) from None


def _check(entry: Mapping[str, Any]) -> None:
    """Raise one of `SENSELESS` or `re.error` unless an entry has all that a price needs."""
    re.compile(entry["device"])
    is_amount = 0 <= float(entry["per_hour"]) < math.inf
    if not is_amount or entry["per"] not in ("thread", "device"):
        raise ValueError(f"{entry['device']}: per_hour or per")
    typed(str, entry.get("currency", "usd"), "currency")
    entry["as_of"], entry["source"]
