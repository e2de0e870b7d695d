"""Likely causes of a failed step, shared by several checks."""

from __future__ import annotations

from tlnb.core.training.run import Run

MAX_RATE_RATIO = 20  # a learning rate this many times off a known good one is wrong


def fitting(met: object, one: str, other: str) -> tuple[str, str]:
    """Two hints in order of relevance: `one` first if `met`, else `other`."""
    return (one, other) if met else (other, one)


def learned_little(run: Run, rate: float, epochs: int) -> str:
    """Why a run learned too little; empty if neither learning rate nor epochs explain it.

    Args:
        rate: a learning rate known to suffice.
        epochs: a number of epochs known to suffice.
    """
    used, had = run.options.lr or rate, len(run.epochs)
    if (
        run.options.optimizer == "adamw"
        and not rate / MAX_RATE_RATIO <= used <= rate * MAX_RATE_RATIO
    ):
        return f"a learning rate of {used:g} is far too {'large' if used > rate else 'small'}"
    if had < epochs:
        return "one epoch is too few" if had == 1 else f"{had} epochs are too few"
    return ""
