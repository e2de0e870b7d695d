"""How far probabilities can be trusted: a reliability diagram, and a table that says the same."""

from __future__ import annotations

from tlnb.core.evaluation.calibration import Reliability
from tlnb.core.evaluation.predictions import Errors
from tlnb.display.charts import figure_of, png_of
from tlnb.display.html import BLUE, GREY, VERMILION, Raw, folded, line, measured, picture, table
from tlnb.display.words import percent


def reliability_parts(errors: Errors) -> list[Raw]:
    """How sure it was, in one line; folded, the diagram with its tables."""
    found = errors.reliability
    alt = f"reliability of run {errors.run}: expected calibration error {found.error:.3f}"
    bins = [[percent(b.confidence), percent(b.accuracy), str(b.count)] for b in found.bins]
    shares = [[f"{share:.0%}", percent(accuracy)] for share, accuracy in found.by_share]
    return [
        line(measured(reliability_words(found))),
        folded(
            "How sure it was, and how often it was right",
            picture(_diagram(found), alt, of_figures=True),
            table(["mean probability", "accuracy", "images"], bins, of_figures=True),
            table(["share answered, surest first", "accuracy"], shares, of_figures=True),
        ),
    ]


def reliability_words(found: Reliability) -> str:
    """The calibration error beside its noise, and what the threshold refuses."""
    fitted = found.calibration
    how = f"calibrated on {fitted.labels} labels" if fitted else f"not calibrated ({found.why_not})"
    words = (
        f"Probabilities are {how}: they are off by {found.error:.3f} on average; perfect ones "
        f"would be by up to {found.noise:.3f} on so many images."
    )
    if found.refused is None:
        return words
    answered = percent(found.accuracy_answered)
    return (
        f"{words} {found.refused:.1%} of them would be refused; of the others {answered} are right."
    )


def _diagram(found: Reliability) -> bytes:
    figure = figure_of(7.2, 2.8)
    left, right = figure.subplots(1, 2)
    left.plot([0, 100], [0, 100], ":", color=GREY, lw=1, label="as sure as right")
    points = [(100 * b.confidence, 100 * b.accuracy) for b in found.bins]
    left.plot(*zip(*points, strict=True), "-o", color=BLUE, ms=5, lw=1.4, label="15 bins")
    left.set(xlabel="mean probability, %", ylabel="accuracy, %", xlim=(0, 102), ylim=(0, 102))
    left.legend(fontsize=8, frameon=False, loc="upper left")
    shares = [(100 * share, 100 * accuracy) for share, accuracy in found.by_share]
    right.plot(*zip(*shares, strict=True), "--s", color=VERMILION, ms=5, lw=1.4)
    right.set(xlabel="share answered, surest first, %", ylabel="accuracy, %", ylim=(None, 101))
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(True, alpha=0.25)
    return png_of(figure)
