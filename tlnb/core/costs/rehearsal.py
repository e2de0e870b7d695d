"""Rehearse a training: run the real loop on a sample, timing each kind of work."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from tlnb.core.data.augment import draw
from tlnb.core.data.dataset import DataSet
from tlnb.core.models.clocks import Clock, CostTracker
from tlnb.core.planning.options import TrainOptions
from tlnb.core.storage.activation_cache import Store
from tlnb.core.training.batches import MicroBatches
from tlnb.core.training.checkpoint_state import CheckpointWriter, TrainingState
from tlnb.core.training.checkpoint_timing import Writes
from tlnb.core.training.context import TrainingContext, labels_on
from tlnb.core.training.features import FeatureSource, KeptRows
from tlnb.core.training.proof import StartState
from tlnb.core.training.run import Cache
from tlnb.core.training.split_choice import Choice
from tlnb.core.training.trainer import Trainer
from tlnb.core.training.training_inputs import NO_COST, Cost, Inputs

FIRST_FLOPS = 3e9  # per thread in the first, smallest rehearsal: some tenths of a second
# Images in a large network's first and second rehearsal: two sizes give the overhead of a pass.
FIRST_IMAGES, SECOND_IMAGES = 2, 8
SECOND_FLOPS = 4e10  # the most per thread in the second
FIRST_IMAGES_AT_MOST = 256
MOST_BATCHES = 6  # in a rehearsal
# Epochs of a rehearsal. The first is not timed; of the others, the median counts.
EPOCHS, MOST_EPOCHS = 2, 10
TIMED_SECONDS = 0.15  # training time needed for an epoch's time to stand out from noise
PASSES = ("steps", "prefix", "features", "look")  # kinds of work done in passes of several images

WorkKind = tuple[str, str]  # (phase, kind of work in it)


class RehearsalSource(FeatureSource):
    """A source over a sample that computes each kind of activation once.

    It also records which of them the real run would have to compute.
    """

    def __init__(
        self,
        real: FeatureSource,
        sample: DataSet,
        choice: tuple[Choice | None, str],
        costs: CostTracker,
    ) -> None:
        super().__init__(real.module, real.transform, sample, real.machine, costs, Store())
        self._real, self._choice, self.counts = real, choice, real.counts
        self._first: Tensor | None = None
        self.store.costs, self.cuts = real.store.costs, real.cuts
        self.missing: dict[WorkKind, float] = {}  # images that the real run would compute

    def choose(
        self, trained: tuple[str, ...], options: TrainOptions, before: Cache | None = None
    ) -> tuple[Choice | None, str]:
        return self._choice

    @property
    def is_keyed(self) -> bool:
        """Whether what is cached can be found again. What has no key, a refit computes once more."""
        choice, _ = self._choice
        return choice is None or self.known_identity(choice.place) is not None

    def data_key(self, split: str, kind: str, seed: int, view: int) -> tuple[object, ...]:
        return self._real.data_key(split, kind, seed, view)

    def kept(self, work: KeptRows, where: str) -> tuple[Tensor, bool]:
        known = work.key in self._real.store
        images = 0 if known else len(self._real.data.labels[work.split])
        kind = work.phase, work.part
        self.missing[kind] = self.missing.get(kind, 0.0) + images
        train = work.split == "train" and work.part == "prefix"
        if train and self._first is not None:
            return self._first, known  # further views take as long as the first
        # Bypass the store: it must not confuse a sample with the whole.
        with self.tally.phase(*kind):
            value = torch.cat(list(self.parts(work)))
        self.tally.charge(work.phase, len(value) * work.flops, work.part)
        if train:
            self._first = value
        return value, known


@dataclass(frozen=True, kw_only=True)
class Rehearsal:
    """The cost of a rehearsal by kind of work, and how much of each kind it did."""

    images: int  # training images in the sample
    splits: Mapping[str, int]
    seconds: dict[WorkKind, float]
    flops: dict[WorkKind, float]
    missing: dict[WorkKind, float]  # images that the real run sends through frozen layers
    is_keyed: bool  # as of the source
    other_seconds: float  # for work that does not grow with images or epochs
    checkpoint_seconds: float  # per checkpoint
    saved_bytes: float  # kept per image for the backward pass
    held_bytes: int  # peak GPU memory; 0 on CPUs, which do not report it
    took: float  # seconds
    epochs: int  # few enough that every split is evaluated after each
    cost: Cost

    def times_in(self, seconds: float) -> float:
        """How many times as many images could be rehearsed in `seconds`."""
        by_images = sum(took for kind, took in self.seconds.items() if kind[1] in PASSES)
        return (seconds - (self.took - by_images)) / max(1e-3, by_images)

    @property
    def enough_epochs(self) -> int:
        """Epochs for the next rehearsal: more if they are quick."""
        one = self.seconds.get(("training", "steps"), 0.0) / self.epochs
        return max(EPOCHS, min(MOST_EPOCHS, math.ceil(TIMED_SECONDS / max(one, 1e-3))))


@dataclass(frozen=True, kw_only=True)
class Rehearser:
    """Rehearses a training: chooses the number of images and epochs, and times them."""

    context: TrainingContext  # of the whole training
    start: StartState
    warm: bool  # the argument of `Trainer.run`
    choice: tuple[Choice | None, str]  # the split point of the whole training
    writes: Writes
    micro_batches: MicroBatches = field(default_factory=MicroBatches)

    # ── how many images ──

    @property
    def images(self) -> int:
        """Training images in the whole training."""
        return self.context.train_images

    @property
    def batch_size(self) -> int:
        """The batch size of the whole training."""
        return self.context.options.batch_size or 1

    def first_count(self) -> int:
        """Images in the first rehearsal: few for a large network.

        On a GPU a whole batch, which may take no longer than one image.
        """
        if not self.context.machine.on_cpu:
            return min(self.images, self.batch_size)
        count = self._images_in(FIRST_FLOPS)
        enough = count if count > SECOND_IMAGES else FIRST_IMAGES
        return self._whole_batches(min(self.images, FIRST_IMAGES_AT_MOST, enough))

    def first_epochs(self) -> int:
        """Epochs of the first rehearsal: more if they pass only through output layers."""
        only_output = set(self.context.plan.trained) <= set(self.context.anatomy.heads)
        return MOST_EPOCHS if self.choice[0] and only_output else EPOCHS

    def next_count(self, first: int, rehearsal: Rehearsal, seconds: float) -> int:
        """Images for a second rehearsal in `seconds`; the first's number if it was enough."""
        more = self._whole_batches(int(first * rehearsal.times_in(seconds)))
        if first == FIRST_IMAGES:  # a large network: take some more unless they take very long
            more = max(more, min(self.images, SECOND_IMAGES, self._images_in(SECOND_FLOPS)))
        return max(first, more)

    def _whole_batches(self, count: int) -> int:
        """At most `count` images, in batches of the run's size so that steps are comparable."""
        batch = self.batch_size
        count = min(self.images, max(MOST_BATCHES * batch, 256), count)
        return count if count < batch or count >= self.images else count // batch * batch

    def _images_in(self, flops: float) -> int:
        """How many images can be trained on with this many FLOPs per thread."""
        source = self.context.source
        step = source.counts.step(source.module, source.example())
        return int(flops * max(1, torch.get_num_threads()) / max(step, 1.0))

    # ── rehearsing ──

    def rehearse(self, count: int, epochs: int = EPOCHS) -> Rehearsal:
        """Train on a sample for some epochs and measure each kind of work.

        Its costs are charged to the whole training's tracker.

        Raises:
            KeyboardInterrupt: the rehearsal was interrupted.
        """
        began = time.perf_counter()
        trainer = self._trainer(count, epochs)
        held_bytes = self._run(trainer)
        context, costs = trainer.context, trainer.context.costs
        for (phase, part), cost in costs.parts.items():
            self.context.costs.charge(phase, cost.flops, part)
        seconds = {kind: cost.seconds for kind, cost in costs.parts.items()}
        if trainer.state.epochs:
            seconds["training", "steps"] = epochs * _usual_seconds(trainer.state)
        other = costs.clock.seconds()["other"] - seconds.get(("other", "keep"), 0.0)
        if trainer.checkpoints.held is not None:
            self.writes.keep(trainer.checkpoints.held)
        inputs, source = trainer.inputs, context.source
        assert isinstance(source, RehearsalSource)
        return Rehearsal(
            images=context.train_images,
            splits=context.data.splits,
            seconds=seconds,
            flops={kind: cost.flops for kind, cost in costs.parts.items()},
            missing=source.missing,
            is_keyed=source.is_keyed,
            other_seconds=max(0.0, other),
            checkpoint_seconds=self.writes.seconds,
            saved_bytes=_saved_bytes(context, inputs) if inputs else 0.0,
            held_bytes=held_bytes,
            took=time.perf_counter() - began,
            epochs=epochs,
            cost=inputs.cost if inputs else NO_COST,
        )

    def _trainer(self, count: int, epochs: int) -> Trainer:
        """A trainer of the same network on a sample; checkpoints stay in memory."""
        context = self.context
        # Undo an earlier rehearsal, which would otherwise look like a different network.
        context.module.load_state_dict(self.start.weights, strict=False)
        sample = _sample(context.data, count)
        costs = CostTracker(Clock(context.machine, meter=context.costs.clock.meter))
        batch_size = min(self.batch_size, len(sample.labels["train"]))
        context = replace(
            context,
            options=replace(context.options, epochs=epochs, batch_size=batch_size, refit=False),
            data=sample,
            costs=costs,
            labels=labels_on(context.machine, sample),
            source=RehearsalSource(context.source, sample, self.choice, costs),
        )
        checkpoints = CheckpointWriter(lambda _: None, math.inf, context.ranks)
        state = TrainingState(micro_batches=self.micro_batches)
        return Trainer(context, self.start, checkpoints, state=state)

    def _run(self, trainer: Trainer) -> int:
        """Train and test; return the peak GPU memory in bytes."""
        device = trainer.context.machine.device
        on_gpu = device.startswith("cuda")
        if on_gpu:
            torch.cuda.reset_peak_memory_stats(device)
        if trainer.run(self.warm) == "stopped":
            raise KeyboardInterrupt
        trainer.test()
        return torch.cuda.max_memory_allocated(device) if on_gpu else 0


def _usual_seconds(state: TrainingState) -> float:
    """The median seconds of an epoch, without the first if there are others."""
    return statistics.median_low(e.seconds for e in state.epochs[1:] or state.epochs)


def _sample(data: DataSet, count: int) -> DataSet:
    """At most `count` images of every split, spread evenly over it."""
    return data.with_splits(
        {split: (split, _spread(len(labels), count)) for split, labels in data.labels.items()}
    )


def _spread(length: int, count: int) -> Tensor:
    return torch.linspace(0, length - 1, min(length, count)).round().long()


def _saved_bytes(context: TrainingContext, inputs: Inputs) -> float:
    """Bytes that autograd saves per image for the backward pass, without parameters."""
    own = {p.untyped_storage().data_ptr() for p in context.module.state_dict().values()}
    sizes: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    context.set_modes()
    rows = inputs.train(0)[:2]
    ready = inputs.make(rows, draw(len(rows), inputs.augment, torch.Generator().manual_seed(0)))
    with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t), context.machine.autocast():
        inputs.teaches(ready).sum()
    return math.fsum(sizes.values()) / len(rows)
