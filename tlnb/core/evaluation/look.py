"""Records of looks: features, probes of stages, and where in an image the evidence lies."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from tlnb.core.evaluation.probes import Probe
from tlnb.core.runtime.errors import OneLine


@dataclass(frozen=True, kw_only=True)
class View(OneLine):
    """A map of the images by one network's features."""

    of: str  # pretrained, random start, or a run
    points: tuple[
        tuple[float, float], ...
    ]  # one per image; only short distances have a meaning, axes have none
    share: float  # share of images whose nearest other image has the same class
    neighbours: tuple[
        tuple[int, ...], ...
    ]  # for each example, its nearest other images, nearest first

    def __repr__(self) -> str:
        return f"View {self.of}: nearest image is of the same class for {self.share:.1%}"


@dataclass(frozen=True)
class StageProbes(OneLine):
    """Probe accuracies of each stage's output, from input to output."""

    of: str  # pretrained, random start, or a run
    probes: tuple[Probe, ...]

    @property
    def best(self) -> Probe:
        """The most accurate stage; the first of equals."""
        return max(self.probes, key=lambda p: p.accuracy)

    def __repr__(self) -> str:
        accuracies = ", ".join(f"{p.stage} {p.accuracy:.1%}" for p in self.probes)
        return f"StageProbes {self.of}: {accuracies}"


@dataclass(frozen=True, kw_only=True)
class Evidence(OneLine):
    """Where in an image the evidence for the predicted class lies."""

    name: str
    label: str
    probability: float
    truth: str | None  # known for images from the data
    border: float | None  # share of positive evidence in the outer ring; None if there is none

    def __repr__(self) -> str:
        border = (
            "no positive evidence"
            if self.border is None
            else f"{self.border:.0%} of the evidence in the border"
        )
        return f"Evidence {self.name}: {self.label} ({self.probability:.1%}), {border}"


@dataclass(frozen=True, kw_only=True)
class Look(OneLine):
    """What a network sees.

    `kind` is `features`, `stages` or `evidence`; the fields of other kinds are empty.
    """

    kind: str
    model: str
    run: str | None
    data: str | None
    classes: tuple[str, ...]
    method: str
    labels: tuple[int, ...] = ()  # class number of each image on the map
    splits: tuple[tuple[str, int], ...] = ()  # the splits that the images come from
    examples: tuple[int, ...] = ()  # images whose neighbours are listed
    views: tuple[View, ...] = ()
    pixels: float | None = None  # the share for raw pixels
    chance: float | None = None  # the share for a random neighbour
    depths: tuple[StageProbes, ...] = ()  # for `stages`, one per network
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
            return (
                f"Look at {len(self.images)} images by {by}: {mean} of the evidence in the border "
                f"({self.method})"
            )
        if self.kind == "stages":
            best = (f"{d.of} {d.best.accuracy:.1%} at {d.best.stage}" for d in self.depths)
            return (
                f"Look at the stages of {self.model} with {self.data}: a linear layer gets "
                f"{', '.join(best)}"
            )
        parts = [f"{view.of} {view.share:.1%}" for view in self.views]
        return (
            f"Look at {len(self.labels)} images of {self.data} by {self.model}: nearest image of "
            f"the same class for {', '.join(parts)}, pixels {self.pixels:.1%}, "
            f"chance {self.chance:.1%}"
        )
