"""Records of looks: the data by a network's features, what its stages know, where in an image the evidence lies."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from tlnb.core.evaluation.probes import Probe
from tlnb.core.runtime.errors import OneLine


@dataclass(frozen=True)
class View(OneLine):
    """The images as one network's features place them."""

    of: str  # pretrained, random start, or a run
    points: tuple[
        tuple[float, float], ...
    ]  # one an image; distances mean something near by, axes mean nothing
    share: float  # of the images, whose nearest other image is of the same class
    neighbours: tuple[
        tuple[int, ...], ...
    ]  # for each example its nearest other images, nearest first

    def __repr__(self) -> str:
        return f"View {self.of}: nearest image is of the same class for {self.share:.1%}"


@dataclass(frozen=True)
class StageProbes(OneLine):
    """How much of the answer each stage's output holds, from input to output."""

    of: str  # pretrained, random start, or a run
    probes: tuple[Probe, ...]

    @property
    def best(self) -> Probe:
        """The stage whose output tells most; of equals the first."""
        return max(self.probes, key=lambda p: p.accuracy)

    def __repr__(self) -> str:
        return f"StageProbes {self.of}: {', '.join(f'{p.stage} {p.accuracy:.1%}' for p in self.probes)}"


@dataclass(frozen=True)
class Evidence(OneLine):
    """Where in one image the evidence for the predicted class lies."""

    name: str
    label: str
    probability: float
    truth: str | None  # where the image comes from the data
    border: (
        float | None
    )  # share of the positive evidence in the outer ring; None where there is no positive evidence

    def __repr__(self) -> str:
        border = (
            "no positive evidence"
            if self.border is None
            else f"{self.border:.0%} of the evidence in the border"
        )
        return f"Evidence {self.name}: {self.label} ({self.probability:.1%}), {border}"


@dataclass(frozen=True)
class Look(OneLine):
    """What a network sees. `kind` is `features`, `stages` or `evidence`; the other kinds' fields are empty."""

    kind: str
    model: str
    run: str | None
    data: str | None
    classes: tuple[str, ...]
    method: str
    labels: tuple[int, ...] = ()  # class number of each image on the map
    splits: tuple[tuple[str, int], ...] = ()  # where the images come from
    examples: tuple[int, ...] = ()  # images whose neighbours are listed
    views: tuple[View, ...] = ()
    pixels: float | None = None  # the same share for raw pixels
    chance: float | None = None  # and for a neighbour drawn at random
    depths: tuple[StageProbes, ...] = ()  # of `stages`, one a network
    images: tuple[Evidence, ...] = ()
    _pictures: Tensor | None = field(default=None, repr=False, compare=False)  # (N, 3, E, E) uint8
    _heat: Tensor | None = field(
        default=None, repr=False, compare=False
    )  # (N, E, E) positive evidence, largest 1

    def __repr__(self) -> str:
        by = f"run {self.run}" if self.run else self.model
        if self.kind == "evidence":
            shares = [e.border for e in self.images if e.border is not None]
            mean = f"{sum(shares) / len(shares):.0%}" if shares else "none"
            return f"Look at {len(self.images)} images by {by}: {mean} of the evidence in the border ({self.method})"
        if self.kind == "stages":
            best = (f"{d.of} {d.best.accuracy:.1%} at {d.best.stage}" for d in self.depths)
            return f"Look at the stages of {self.model} with {self.data}: a linear layer gets {', '.join(best)}"
        parts = [f"{view.of} {view.share:.1%}" for view in self.views]
        return (
            f"Look at {len(self.labels)} images of {self.data} by {self.model}: nearest image of the same class for "
            f"{', '.join(parts)}, pixels {self.pixels:.1%}, chance {self.chance:.1%}"
        )
