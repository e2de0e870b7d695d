"""Epochs after which `monitor` is evaluated, fixed before the first step by FLOPs, not by time.

`monitor` only draws curves and finds the time to a target; `val`, which decides, is evaluated after
every epoch.
"""

from __future__ import annotations

MONITOR_SHARE = 0.2  # share of a run's training FLOPs that evaluating `monitor` may cost
MIN_LOOKS = 15  # looks of a run, whatever they cost


def looks(epochs: int, training_flops: float, look_flops: float) -> tuple[int, ...]:
    """The epochs, counted from 0, after which `monitor` is evaluated.

    They are dense at first, then sparser.

    The first and the last epoch are always among them. The step from one to the next never shrinks,
    and grows about linearly: the looks lie near the squares, which suits a learning curve, steep
    first and flat later.

    Args:
        epochs: of the run.
        training_flops: of all its epochs together.
        look_flops: of one look at all of `monitor`.

    Returns:
        All epochs if there are at most `MIN_LOOKS`, or if all looks together cost at most
        `MONITOR_SHARE` of the training. Otherwise as many as that share pays for, and at least
        `MIN_LOOKS`.
    """
    count = max(MIN_LOOKS, _affordable(MONITOR_SHARE * training_flops, look_flops, epochs))
    if count >= epochs:
        return tuple(range(epochs))
    at = [0]
    for step in _steps(epochs - 1, count - 1):
        at.append(at[-1] + step)
    return tuple(at)


def _affordable(budget: float, cost: float, most: int) -> int:
    return most if cost * most <= budget else int(budget / cost)


def _steps(length: int, count: int) -> list[int]:
    """Split `length` into `count` steps of at least 1 that never shrink."""
    spare, weights = length - count, count * (count - 1) // 2
    steps = [1 + spare * i // max(1, weights) for i in range(count)]
    # Rounding down loses less than one per step, so the last steps make up for it.
    short = length - sum(steps)
    return [step + (i >= count - short) for i, step in enumerate(steps)]
