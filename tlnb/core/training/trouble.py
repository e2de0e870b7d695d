"""What is wrong with a run: it diverged, or learned nothing or little."""

from __future__ import annotations

import math

from tlnb.core.training.run import Run

RISEN = 1.1  # times its first epoch's loss, and …
NOT_FITTED = 0.4  # … above this share of a guess's loss: a loss near zero may double
FITTED = 0.9  # accuracy while learning or on test, from which a high loss is only caution


def trouble(run: Run) -> str:
    """The most telling symptom, with its figure; empty if there is none.

    A loss that is not a number, or rises; accuracy while learning at or below a guess's (one
    divided by the number of classes); a test accuracy whose 95% interval includes a guess's; a
    training loss that stays high, with many training images wrong. What was learned is asked of
    finished runs of several epochs: an epoch's figures are counted before each of its steps.
    """
    losses, classes = [e.train_loss for e in run.epochs], len(run.classes)
    guess = math.log(max(classes, 1))
    if run.event("not-a-number") or not all(map(math.isfinite, losses)):
        return "the training diverged: its loss is not a number"
    if classes < 2 or not losses:
        return ""
    if losses[-1] > max(RISEN * losses[0], NOT_FITTED * guess):
        return f"the training diverged: its loss rose from {losses[0]:.2f} to {losses[-1]:.2f}"
    whole = run.status == "finished" and len(losses) > 1
    learned = run.epochs[-1].train_accuracy if whole else None
    if learned is not None and learned <= 1 / classes:
        return f"nothing was learned: {learned:.1%} of the training images right, as by guessing"
    if run.test_images and run.interval[0] <= 1 / classes:
        return f"not told apart from guessing, which gets {1 / classes:.1%} right"
    high = losses[-1] > NOT_FITTED * guess
    if high and learned is not None and max(learned, run.accuracy) < FITTED:
        still = f"the training loss is still {losses[-1]:.2f} (guessing: {guess:.2f})"
        return f"little was learned: {still}, {learned:.0%} of the training images right"
    return ""
