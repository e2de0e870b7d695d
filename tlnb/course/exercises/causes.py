"""What several checks need to name a cause."""

from __future__ import annotations

from tlnb.core.training.run import Run

FAR = 20  # times a rate that is known to do


def fitting(met: object, one: str, other: str) -> tuple[str, str]:
    """Two hints: the first of them foremost where it fits what was found, else the second."""
    return (one, other) if met else (other, one)


def learned_little(run: Run, rate: float, epochs: int) -> str:
    """Why a run learned too little, where this rate and so many epochs are known to do; empty where it is neither."""
    used, had = run.options.lr or rate, len(run.epochs)
    if run.options.optimizer == "adamw" and not rate / FAR <= used <= rate * FAR:
        return f"a learning rate of {used:g} is far too {'large' if used > rate else 'small'}"
    if had < epochs:
        return "one epoch is too few" if had == 1 else f"{had} epochs are too few"
    return ""
