"""The record of one training, JSON both ways; only `module()` holds tensors."""

from __future__ import annotations

import itertools
import json
import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, TypeVar

from torch import nn

from tlnb.core.models.calibration import Calibration, KnownImages
from tlnb.core.models.module_copy import copied_or_shared
from tlnb.core.models.pretrained import Transform
from tlnb.core.planning.adapters import merge_adapters
from tlnb.core.planning.options import BY_RECIPE, TrainOptions
from tlnb.core.planning.plan import Plan
from tlnb.core.runtime.errors import OneLine, UsageError
from tlnb.core.runtime.typed_json import parse, typed
from tlnb.core.training.answers import Answers
from tlnb.core.training.events import Event, events_of_notes
from tlnb.core.training.freezing import Change, hashes
from tlnb.core.training.monitor_schedule import looks
from tlnb.core.training.refit_record import Refit, difference

SCHEMA = 1
DERIVED = ("strategy", "seed", "flops", "moved", "notes")  # written, and recomputed when read
KINDS = ("plain", "baseline", "equal-budget")
OLD_EQUAL_BUDGET = ", equal steps"  # ended such a baseline's name in 0.1.0, which had no kinds
Z95 = 1.959964  # two-sided 95% quantile of the normal distribution
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class EpochRecord:
    """One pass over the training images.

    Accuracies are None if the split does not exist; the one on `monitor` also after epochs without
    a look at it (`core.training.monitor_schedule`).
    """

    train_loss: float
    val_accuracy: float | None
    monitor_accuracy: float | None
    seconds: float  # of training, without evaluation
    train_accuracy: float | None = None  # running, while it learns; None in older records


@dataclass(frozen=True, kw_only=True)
class Point:
    """The state of a run at a look, on the split that curves and targets use."""

    epochs: int  # done by then
    seconds: float  # spent by then, without evaluation and bookkeeping
    accuracy: float


@dataclass(frozen=True, kw_only=True)
class Work:
    """What the optimiser did, head first included, and what it would have cost otherwise."""

    full_step: float  # FLOPs per image of one step with all layers trained
    plan_step: float  # the same as planned, without a cache
    steps: int
    images: int  # processed, over all epochs
    unfrozen_flops: float  # for the run's images, with all layers trained; no evaluation
    uncached_flops: float  # for the run's images, as planned, without a cache


@dataclass(frozen=True, kw_only=True)
class Cache(OneLine):
    """What a run computed once, not in every epoch: the outputs before the split point."""

    at: str  # the operation after which the network was split
    views: int  # of every training image
    bytes: int  # of all cached outputs
    place: str  # memory, disk
    dtype: str
    reused: bool  # whether all of it came from an earlier run

    def __repr__(self) -> str:
        reused = ", from an earlier run" if self.reused else ""
        size = f"{self.bytes / 1e6:.1f} MB in {self.place}"
        return f"Cache of everything up to {self.at}: {self.views} views, {size}{reused}"


@dataclass(frozen=True, kw_only=True)
class Forecast(OneLine):
    """The predicted cost of a training, from a few timed steps on a copy; later, its error."""

    name: str  # name of the run
    fingerprint: str  # of the data
    plan: Plan
    options: TrainOptions  # with all defaults filled in
    phases: dict[str, float]  # seconds
    flops_by_phase: dict[str, float]
    per_epoch: float  # seconds of one more epoch, without a look at monitor
    wh: float
    money: float
    currency: str
    peak_bytes: int  # peak memory of tensors
    bases: dict[str, str]  # figure → "measured: how" or "assumed: what"
    sample: int  # training images used for timing
    took: float  # seconds for the forecast itself
    notes: tuple[str, ...] = ()
    measured: float | None = None  # the run's seconds, once it is finished
    measured_flops: float | None = None
    per_look: float = 0.0  # seconds of one look at monitor
    look_share: float = 0.0  # its FLOPs, relative to those of an epoch's training
    steps: int | None = None  # of the optimiser, head first too; L-BFGS decides as it goes

    @property
    def seconds(self) -> float:
        """Seconds of all phases."""
        return sum(self.phases.values())

    @property
    def flops(self) -> float:
        """FLOPs of all phases."""
        return sum(self.flops_by_phase.values())

    @property
    def error(self) -> float | None:
        """|forecast − measured| / measured seconds; None before the run."""
        return None if not self.measured else abs(self.seconds - self.measured) / self.measured

    @property
    def flops_error(self) -> float | None:
        """The same error for FLOPs."""
        took = self.measured_flops
        return None if not took else abs(self.flops - took) / took

    def seconds_of(self, epochs: int) -> float:
        """Seconds of all phases for another number of epochs."""
        own = self.options.epochs or 0
        more = len(looks(epochs, epochs, self.look_share)) - len(looks(own, own, self.look_share))
        return self.seconds + (epochs - own) * self.per_epoch + more * self.per_look

    def epochs_within(self, seconds: float) -> int:
        """How many epochs fit into `seconds`, at most its own; 0 if not even one does."""
        return bisect_right(range(1, (self.options.epochs or 0) + 1), seconds, key=self.seconds_of)

    def __repr__(self) -> str:
        off = "" if self.error is None else f"; it took {self.measured:.2f} s, {self.error:.0%} off"
        return (
            f"Forecast {self.name}: {self.seconds:.2f} s, {self.flops / 1e9:.1f} GFLOP, "
            f"{self.wh:.3f} Wh, {self.money:.4f} {self.currency}{off}"
        )


@dataclass(frozen=True, kw_only=True)
class Run(OneLine):
    """The record of one training, and the proof of which layers moved."""

    name: str
    plan: Plan
    options: TrainOptions
    data: str
    fingerprint: str
    status: str  # finished, stopped, failed
    accuracy: float  # test
    interval: tuple[float, float]  # 95%, test
    balanced_accuracy: float
    test_images: int
    epochs: tuple[EpochRecord, ...]
    best_epoch: int | None  # whose weights are kept unless it was refitted; None: the last
    seconds: dict[str, float]
    flops_by_phase: dict[str, float]
    work: Work
    energy_wh: float
    money: float
    bases: dict[str, str]  # figure → "measured: how" or "assumed: what"
    device: str
    hardware: str
    precision: str
    # the proof: every layer compared to its start, in the anatomy's order
    changes: tuple[Change, ...]
    baseline_of: str | None = None
    started_from: str | None = None
    kind: str = "plain"  # of KINDS
    forecast: Forecast | None = None  # the latest for the same plan, options and data
    events: tuple[Event, ...] = ()  # what happened, oldest first
    versions: dict[str, str] = field(default_factory=dict)
    classes: tuple[str, ...] = ()
    edge: int = 0  # of the data's images, in pixels
    # on its pretraining task, with its old head: before, after
    source_accuracy: tuple[float, float] | None = None
    cache: Cache | None = None  # None: every epoch computed everything
    source_pictures: int = 0  # number of pictures used for source_accuracy
    wh_by_phase: dict[str, float] = field(default_factory=dict)
    currency: str = "usd"  # of its money
    threads: int = 1  # CPU threads
    inference_flops: float = 0.0  # of the whole trained network, per image
    group: str = ""  # the first of several runs that differ only in their seeds
    # (seed, test accuracy) of that group so far, this run included
    repeats: tuple[tuple[int, float], ...] = ()
    processes: int = 1  # that trained together, one device each; FLOPs and energy are their total
    found_flops: dict[str, float] = field(default_factory=dict)  # an earlier run paid; by phase
    refit: Refit | None = None  # its network is the run's; epochs, best epoch and curve are not
    calibration: Calibration | None = None  # None: its probabilities are as the network gives them
    uncalibrated: str = ""  # why
    _trained: nn.Module | None = field(default=None, repr=False, compare=False)
    _hashes: dict[str, str] | None = field(default=None, repr=False, compare=False)  # of layers
    _start_code: str = field(default="", repr=False, compare=False)  # `proof.StartState.code`
    _answers: Answers | None = field(default=None, repr=False, compare=False)
    _transform: Transform | None = field(default=None, repr=False, compare=False)
    _known: KnownImages | None = field(default=None, repr=False, compare=False)

    @property
    def notes(self) -> tuple[str, ...]:
        """What happened, in words."""
        return tuple(str(each) for each in self.events)

    def event(self, kind: str) -> Event | None:
        """The last event of a kind (`core.training.events`)."""
        return next((each for each in reversed(self.events) if each.kind == kind), None)

    @property
    def uncached(self) -> str:
        """Why it trained without a cache although one was wanted."""
        happened = self.event("uncached")
        return str(happened.facts["why"]) if happened else ""

    @property
    def moved(self) -> tuple[str, ...]:
        """Layers that differ from their start, bit for bit."""
        return tuple(change.name for change in self.changes if change.moved)

    @property
    def flops(self) -> float:
        """All FLOPs of the run, including evaluation."""
        return sum(self.flops_by_phase.values())

    @property
    def training_flops(self) -> float:
        """FLOPs without evaluation."""
        return self.flops - self.flops_by_phase.get("evaluating", 0.0)

    @property
    def flops_alone(self) -> dict[str, float]:
        """FLOPs by phase, had it found nothing that an earlier run computed."""
        paid, found = self.flops_by_phase, self.found_flops
        return {phase: paid.get(phase, 0.0) + found.get(phase, 0.0) for phase in (*paid, *found)}

    @property
    def work_alone(self) -> float:
        """`training_flops`, had it found nothing computed: what comparisons and checks count."""
        return sum(n for phase, n in self.flops_alone.items() if phase != "evaluating")

    @property
    def curve(self) -> tuple[Point, ...]:
        """Every look at monitor, else val, oldest first; nothing is known between looks."""
        before = difference(self.seconds, self.refit.seconds if self.refit else {})
        spent = sum(before.get(p, 0.0) for p in ("preparing", "caching", "warmup"))
        seconds = list(itertools.accumulate((e.seconds for e in self.epochs), initial=spent))
        looks = looked_at(self.epochs)
        return tuple(Point(epochs=n, seconds=seconds[n], accuracy=seen) for n, seen in looks)

    @property
    def watched(self) -> float | None:
        """The best accuracy on monitor (else val) at any look."""
        return max((accuracy for _, accuracy in looked_at(self.epochs)), default=None)

    @property
    def training_seconds(self) -> float:
        """Seconds of preparing, caching, head first and training; evaluation is excluded."""
        return sum(self.seconds.get(p, 0.0) for p in ("preparing", "caching", "warmup", "training"))

    @property
    def seed(self) -> int:
        return self.options.seed

    @property
    def strategy(self) -> str:
        return self.plan.strategy

    def module(self) -> nn.Module:
        """A copy of the trained network, in eval mode, on the CPU (`module_copy.copied_or_shared`).

        Adapters are merged into the weights.

        Raises:
            UsageError: the record was read from JSON, which holds no weights.
        """
        return merge_adapters(copied_or_shared(self.network()).eval())

    model = property(module)  # `run.model` is `run.module()`

    def network(self) -> nn.Module:
        """The trained network itself, read-only: runs share memory; `module()` gives a copy.

        Raises:
            UsageError: the record was read from JSON, which holds no weights.
        """
        return self._kept(self._trained, "weights")

    def hashes(self) -> dict[str, str]:
        """The hash of every layer in the trained network."""
        return self._hashes or hashes(self.network())

    def answers(self) -> Answers:
        """The network's predictions on the test images.

        Raises:
            UsageError: the record was read from JSON, which holds none.
        """
        return self._kept(self._answers, "its answers")

    def known_images(self) -> KnownImages | None:
        """The images that new ones are compared with; None where nothing is refused."""
        return self._known

    def transform(self) -> Transform:
        """The preprocessing that the network was trained with.

        Raises:
            UsageError: the record was read from JSON, which holds none.
        """
        return self._kept(self._transform, "its preprocessing")

    def _kept(self, held: T | None, what: str) -> T:
        if held is None:
            raise UsageError(
                f"run {self.name!r} was read from a record without {what}: train it again"
            )
        return held

    def seconds_to(self, target: float) -> float | None:
        """Seconds until a look found this accuracy on monitor (else val); None if none did."""
        _, point = self.reached(target)
        return None if point is None else point.seconds

    def reached(self, target: float) -> tuple[Point | None, Point | None]:
        """The first look that found this accuracy on monitor (else val), and the one before.

        Either is None if there is none. If epochs lie between the two, the run reached the accuracy
        at some moment between them.
        """
        before = None
        for point in self.curve:
            if point.accuracy >= target:
                return before, point
            before = point
        return before, None

    def __repr__(self) -> str:
        low, high = self.interval
        seconds = sum(self.seconds.values())
        return (
            f"Run {self.name}: {self.strategy} on {self.data}, {self.status}, accuracy "
            f"{self.accuracy:.1%} [{low:.1%}, {high:.1%}], {len(self.epochs)} epochs in "
            f"{seconds:.1f} s"
        )

    def to_json(self) -> str:
        """The record as JSON text."""
        private = ("_trained", "_hashes", "_answers", "_transform", "_start_code", "_known")
        nothing: dict[str, Any] = dict.fromkeys(private)
        values = asdict(replace(self, **nothing))
        for name in private:
            del values[name]
        derived: dict[str, Any] = {name: getattr(self, name) for name in DERIVED}
        if self.forecast is not None:
            values["forecast"] |= {"seconds": self.forecast.seconds, "error": self.forecast.error}
        return json.dumps({"schema": SCHEMA, **values, **derived}, indent=1)

    @classmethod
    def upgraded(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """Translate JSON of version 0.1.0: runs had notes instead of events, and no kind."""
        older: dict[str, Any] = {"kind": _kind_of(values)}
        values = {**values, "options": {"refit": False, **values["options"]}}
        if "events" not in values:
            older["events"] = events_of_notes(values.get("notes", ()))
        return older | {name: value for name, value in values.items() if name not in DERIVED}

    @classmethod
    def from_json(cls, text: str) -> Run:
        """Read the record back from its JSON, without weights.

        Raises:
            UsageError: the text is not JSON, or has another schema or unexpected fields.
        """
        try:
            values = parse(text)
            if values.pop("schema") != SCHEMA:
                raise UsageError(
                    f"the record has another schema than {SCHEMA}: write it again with this "
                    "version of tlnb"
                )
            for derived in ("seconds", "error") if values.get("forecast") else ():
                values["forecast"].pop(derived, None)
            return _plausible(typed(cls, values, "the record"))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UsageError(
                f"this is not a run record ({str(error)[:80]}): give the text of run.to_json()"
            ) from None


def _kind_of(values: Mapping[str, Any]) -> str:
    """The kind of a run whose record lacks it, judged by its name."""
    if not values.get("baseline_of"):
        return "plain"
    return "equal-budget" if str(values["name"]).endswith(OLD_EQUAL_BUDGET) else "baseline"


def _plausible(run: Run) -> Run:
    """Raise `ValueError` if a share is out of range, a count negative, or an option missing."""
    for name in BY_RECIPE:
        if getattr(run.options, name) is None:
            raise ValueError(f"{name} is missing")
    if run.kind not in KINDS or (run.kind == "plain") != (run.baseline_of is None):
        raise ValueError(f"a run of kind {run.kind!r}")
    watched = (
        a for e in run.epochs for a in (e.val_accuracy, e.monitor_accuracy, e.train_accuracy)
    )
    shares = [run.accuracy, *run.interval, run.balanced_accuracy, *(run.source_accuracy or ())]
    shares += [*(a for _, a in run.repeats), *(a for a in watched if a is not None)]
    possible = all(0 <= share <= 1 for share in shares)
    if not possible or min(run.test_images, run.source_pictures) < 0:
        raise ValueError("an accuracy is not between 0 and 1, or a count is negative")
    return run


def looked_at(epochs: Sequence[EpochRecord]) -> tuple[tuple[int, float], ...]:
    """Epochs done and accuracy at each look: at monitor if it exists, else at val."""
    values = [e.monitor_accuracy for e in epochs]
    if not any(v is not None for v in values):
        values = [e.val_accuracy for e in epochs]
    return tuple((done, value) for done, value in enumerate(values, 1) if value is not None)


def wilson_interval(right: int, total: int) -> tuple[float, float]:
    """95% interval of a share (Wilson, JASA 22, 1927): within 0..1, honest for few images."""
    if not total:
        return 0.0, 1.0
    share, z2 = right / total, Z95**2
    centre = (share + z2 / (2 * total)) / (1 + z2 / total)
    half = Z95 / (1 + z2 / total) * math.sqrt(share * (1 - share) / total + z2 / (4 * total**2))
    low, high = max(0.0, centre - half), min(1.0, centre + half)
    return (0.0 if right == 0 else low), (1.0 if right == total else high)
