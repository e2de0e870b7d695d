"""The rule by amount of data: with what to start, what to try then, and what that rests on.

The frame is the notes': prefer few changes; little data → `head`, a decent amount → `partial`, a lot
→ `full`. The limits come from `MEASURED`, with the letters' network on data similar to its source.

decent, from 20: from 5 labels a class on, `partial` leads `head` by more than a point and by more
    than two standard errors, on average over digits and symbols; from 20 on, some labels are held
    out, so that one sees whether it does on one's own data.
a lot, from 1,000: the largest amount measured. Up to there `full` is never more than two standard
    errors ahead of `partial`, so it is tried last; above, the notes' rule is all there is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from tlnb.core.data.dataset import size_verdict
from tlnb.core.runtime.errors import OneLine

FOR_VERDICT = {"little": "head", "decent": "partial", "a lot": "full"}
SHORT_BUDGET = 60.0  # seconds: too few to try more than `head`
TRY = {"partial": "%tl_strategy partial", "full": "%tl_strategy full"}


@dataclass(frozen=True, kw_only=True)
class Measured(OneLine):
    """Test accuracies in percent, mean and standard deviation over seeds (BENCHMARKS.md)."""

    data: str
    per_class: int
    head: tuple[float, float]
    partial: tuple[float, float]
    full: tuple[float, float]
    seeds: int = 5

    def lead(self, more: str, fewer: str) -> tuple[float, float]:
        """Points that one strategy is ahead of another, and the standard error of that.

        The error is that of two independent means, though the seeds drew the same images.
        """
        (high, spread), (low, other) = getattr(self, more), getattr(self, fewer)
        return high - low, math.hypot(spread, other) / math.sqrt(self.seeds)


_DIGITS = (
    (1, (78.4, 4.8), (80.1, 3.6), (79.9, 3.1)),
    (2, (91.0, 6.3), (92.3, 5.0), (93.2, 4.2)),
    (5, (96.3, 1.0), (97.2, 0.9), (97.6, 0.7)),
    (10, (97.1, 0.7), (98.1, 0.2), (98.2, 0.9)),
    (20, (98.2, 0.6), (98.6, 0.3), (98.4, 0.3)),
    (50, (98.9, 0.2), (98.9, 0.3), (99.1, 0.3)),
    (100, (99.0, 0.3), (99.4, 0.2), (99.2, 0.4)),
)
_SYMBOLS = (
    (1, (60.0, 3.3), (62.0, 3.7), (59.5, 2.6)),
    (5, (84.0, 1.3), (87.1, 1.3), (86.9, 1.6)),
    (20, (90.3, 0.8), (94.2, 1.1), (94.2, 1.0)),
    (100, (94.8, 0.5), (97.7, 0.4), (97.1, 0.4)),
    (300, (96.3, 0.3), (98.7, 0.5), (98.7, 0.3)),
    (1000, (96.5, 0.4), (99.1, 0.2), (99.4, 0.2)),
)
MEASURED = tuple(
    Measured(
        data=data, per_class=n, head=head, partial=partial, full=full, seeds=3 if n == 1000 else 5
    )
    for data, rows in (("digits", _DIGITS), ("symbols", _SYMBOLS))
    for n, head, partial, full in rows
)


@dataclass(frozen=True, kw_only=True)
class SizeRule(OneLine):
    """What the rule says for an amount of data."""

    verdict: str  # little, decent, a lot
    case: str  # amount, short (budget), seen (the source's own images), far (source)
    strategy: str  # what it leads to: head, partial or full

    @property
    def words(self) -> str:
        """The same sentence wherever the rule is shown."""
        if self.case == "far":
            other = (
                "%tl_train --scratch beside it as a check"
                if self.verdict == "a lot"
                else "fewer layers (%tl_remove), or another source (%tl_models)"
            )
            return f"a far source: start with head; then try {TRY['full']}, and {other}"
        if self.case == "short":
            return "stay with head: a minute is too short to try more"
        if self.case == "seen":
            return "stay with head: on a source's own images partial was no better where measured"
        then = {"head": (), "partial": ("partial",), "full": ("partial", "full")}[self.strategy]
        tries = ", then ".join(TRY[strategy] for strategy in then)
        return (
            f"start with head; then try {tries}" if tries else "start with head, the fewest changes"
        )

    def __repr__(self) -> str:
        return f"{self.verdict}: {self.words}"


def size_rule(
    per_class: int, *, budget: float | None = None, seen: bool = False, far: bool = False
) -> SizeRule:
    """The rule for so many labels in the smallest class.

    Args:
        budget: seconds that training may take.
        seen: the source may hold these very images (ants and bees with SqueezeNet, 122 a class:
            head 91.5, partial 91.5, full 90.8).
        far: earlier layers were measured to know more than the last (textures, 10 a class, with a
            network that knows letters only: head 27.9, partial 37.6, full 43.7).
    """
    verdict = size_verdict(per_class)
    if budget is not None and budget <= SHORT_BUDGET:
        return SizeRule(verdict=verdict, case="short", strategy="head")
    if seen:
        return SizeRule(verdict=verdict, case="seen", strategy="head")
    if far:
        return SizeRule(verdict=verdict, case="far", strategy="full")
    return SizeRule(verdict=verdict, case="amount", strategy=FOR_VERDICT[verdict])
