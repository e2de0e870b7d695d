"""Epochs after which `monitor` is looked at: fixed before the first step, by FLOPs and never by the clock.

`monitor` only draws curves and finds the time to a target; `val`, which decides, is looked at after every epoch.
"""

from __future__ import annotations

MONITOR_SHARE = 0.2  # of a run's training FLOPs that watching `monitor` may cost
MIN_LOOKS = 15  # looks that a run has, whatever they cost


def looks(epochs: int, training_flops: float, look_flops: float) -> tuple[int, ...]:
    """The epochs, counted from 0, after which `monitor` is looked at: densely first, then further and further apart.

    The first and the last epoch are always among them. The step from one to the next never shrinks, and grows about
    linearly: the looks then lie near the squares, which suits a learning curve, steep first and flat later.

    Args:
        epochs: of the run.
        training_flops: of all its epochs together.
        look_flops: of one look at all of `monitor`.

    Returns:
        All epochs where these are at most `MIN_LOOKS`, or all looks together cost at most `MONITOR_SHARE` of the training. Else as
        many as that share pays for, and at least `MIN_LOOKS`.
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
    """So many steps of at least 1 that sum to `length` and never shrink."""
    spare, weights = length - count, count * (count - 1) // 2
    steps = [1 + spare * i // max(1, weights) for i in range(count)]
    short = length - sum(
        steps
    )  # lost by rounding down: less than one for each step, so the last ones take it
    return [step + (i >= count - short) for i, step in enumerate(steps)]
