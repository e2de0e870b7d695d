"""Extrapolate a rehearsal to the whole training: each kind of work, times its frequency."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from tlnb.core.costs.rehearsal import PASSES, Rehearsal, WorkKind
from tlnb.core.models.clocks import PHASES
from tlnb.core.planning.options import TrainOptions
from tlnb.core.planning.recipes import WARMUP
from tlnb.core.storage.memory_map import is_mapped
from tlnb.core.training.calibrating import (
    held_out_folds,
    images_looked_at,
    method_of,
    only_heads,
)
from tlnb.core.training.checkpoint_timing import count as checkpoints_due
from tlnb.core.training.context import TrainingContext
from tlnb.core.training.features import FIXED
from tlnb.core.training.optimizers import steps_of
from tlnb.core.training.split_evaluation import looks_at_monitor

LEAST_IMAGE_SHARE = 0.4  # the least share of a pass's seconds that its images take


@dataclass(frozen=True, kw_only=True)
class FixedCosts:
    """The costs of a run that do not depend on its number of images and epochs."""

    preparing_seconds: float
    source_seconds: float  # for the evaluation on the pretraining task
    source_flops: float
    other_seconds: float


@dataclass(frozen=True, kw_only=True)
class Extrapolation:
    """The cost of a whole training, from a rehearsal of it."""

    context: TrainingContext  # of the whole training
    options: TrainOptions
    rehearsal: Rehearsal
    fixed: FixedCosts
    at_risk: float  # seconds of work that may be lost (`checkpoint.Due`)
    cached_bytes: int

    def factors(self) -> dict[WorkKind, float]:
        """How many times the rehearsal's work the run does, by kind."""
        done, real, sample = self.rehearsal, self.context.data.splits, self.rehearsal.splits
        epochs = self.options.epochs or 0
        looks = looks_at_monitor(self.context.data, self.options, done.cost)
        watched = epochs * real.get("val", 0) + len(looks) * real.get("monitor", 0)
        grow = real["train"] / sample["train"]
        fixed_images = max(1, sum(sample.get(split, 0) for split in FIXED))
        again = sum(self.passes) / real["train"]  # what a refit does once more
        return {
            ("caching", "prefix"): (1.0 if done.is_keyed else again)
            * self._missing("caching", "prefix")
            / sample["train"],
            ("caching", "features"): again * self._missing("caching", "features") / sample["train"],
            ("caching", "statistics"): again * grow,
            ("warmup", "steps"): again * grow,
            ("training", "steps"): again * grow * epochs / done.epochs,
            ("evaluating", "prefix"): self._missing("evaluating", "prefix") / fixed_images,
            ("evaluating", "look"): (watched + real["test"] + self._calibrating()) / self._looked(),
            ("other", "keep"): len(self.passes) * epochs / done.epochs,
        }

    @property
    def _calibrated(self) -> str:
        """How the run will be calibrated; empty: not at all."""
        options = replace(self.options, cache=bool(self.options.cache and self.cached_bytes))
        return method_of(self.context, options).name

    def _calibrating(self) -> int:
        """Images that calibrating looks at."""
        frozen = only_heads(self.context.plan, self.context.anatomy.heads)
        refit = bool(self.options.refit)
        return images_looked_at(self._calibrated, self.context.data.splits, frozen, refit)

    def _folds(self) -> dict[WorkKind, float]:
        """The rehearsal's work that cross-validation does, by kind and how many times."""
        if self._calibrated != "cross-validation":
            return {}
        done, sample = self.rehearsal, self.rehearsal.splits["train"]
        labels = len(self.context.data.labels_in_use)
        folds = held_out_folds(self.context.data, self.context.options.seed)
        again = max(0, len(folds) - 1) * labels / sample
        return {
            ("caching", "features"): again,
            ("caching", "statistics"): again,
            ("training", "steps"): again * (self.options.epochs or 0) / done.epochs,
            ("evaluating", "look"): labels / self._looked(),
        }

    @property
    def passes(self) -> tuple[int, ...]:
        """The images that each pass learns from; a refit is the second."""
        splits, refit = self.context.data.splits, self.options.refit
        return (splits["train"], *((splits["train"] + splits["val"],) if refit else ()))

    def _missing(self, phase: str, part: str) -> float:
        """Images that the real run sends through frozen layers."""
        return self.rehearsal.missing.get((phase, part), 0.0)

    def _looked(self) -> int:
        """Images that the rehearsal evaluated."""
        splits = self.rehearsal.splits
        each_epoch = sum(splits.get(split, 0) for split in ("val", "monitor"))
        return self.rehearsal.epochs * each_epoch + splits["test"]

    def seconds(self) -> dict[str, float]:
        """Seconds by phase."""
        phases, done, fixed = dict.fromkeys(PHASES, 0.0), self.rehearsal, self.fixed
        for kind, factor in self.factors().items():
            phases[kind[0]] += factor * done.seconds.get(kind, 0.0)
        for kind, factor in self._folds().items():
            phases["evaluating"] += factor * done.seconds.get(kind, 0.0)
        phases["preparing"] += fixed.preparing_seconds
        phases["evaluating"] += fixed.source_seconds
        checkpoints = done.checkpoint_seconds * self._checkpoints(phases)
        phases["other"] += fixed.other_seconds + done.other_seconds + checkpoints
        return phases

    def _checkpoints(self, phases: Mapping[str, float]) -> int:
        epochs = len(self.passes) * (self.options.epochs or 0)
        epochs = 0 if self.options.optimizer == "lbfgs" else epochs
        return checkpoints_due(epochs, phases["training"] + phases["evaluating"], self.at_risk)

    def flops(self) -> dict[str, float]:
        """FLOPs by phase."""
        phases: dict[str, float] = {}
        for kind, factor in self.factors().items():
            flops = factor * self.rehearsal.flops.get(kind, 0.0)
            phases[kind[0]] = phases.get(kind[0], 0.0) + flops
        folds = (n * self.rehearsal.flops.get(kind, 0.0) for kind, n in self._folds().items())
        phases["evaluating"] += self.fixed.source_flops + sum(folds)
        return {phase: flops for phase, flops in phases.items() if flops}

    def steps(self) -> int | None:
        """Optimizer steps, as the run will count them; None for L-BFGS."""
        if self.options.optimizer == "lbfgs":
            return None
        phases = [self.options]
        if ("warmup", "steps") in self.rehearsal.seconds:
            phases.append(WARMUP)
        return sum(steps_of(phase, images) for images in self.passes for phase in phases)

    def per_epoch(self) -> float:
        """Seconds of one more epoch, without evaluating `monitor`."""
        one, two = (
            replace(self, options=replace(self.options, epochs=epochs)).seconds()
            for epochs in (1, 2)
        )
        return sum(two.values()) - sum(one.values()) - self.per_look()

    def per_look(self) -> float:
        """Seconds of one evaluation of `monitor`."""
        images = self.context.data.splits.get("monitor", 0)
        return images * self.rehearsal.seconds.get(("evaluating", "look"), 0.0) / self._looked()

    def look_share(self) -> float:
        """FLOPs of one evaluation of `monitor`, relative to an epoch's training."""
        splits, cost = self.context.data.splits, self.rehearsal.cost
        return splits.get("monitor", 0) * cost.look / max(1.0, splits["train"] * cost.done)

    def peak_bytes(self) -> int:
        """Peak memory in bytes.

        The sum of parameters, gradients and moments; two copies of the trained parameters and one
        of their moments; a batch's activations; images; the cache. Activations in frozen layers
        while features are cached are only measured on a GPU, where the sample's chunks are as
        large as the run's.
        """
        context = self.context
        held = sum(t.nbytes for t in context.module.state_dict().values())
        trains = 4 * context.plan.trainable_params
        size = min(self.options.batch_size or 1, context.train_images)
        batch = self.rehearsal.saved_bytes * size
        images = sum(t.nbytes for t in context.data.images.values() if not is_mapped(t))
        both = len(self.passes)  # a refit holds images and caches of its own
        whole = int(held + 7 * trains + batch + both * (images + self.cached_bytes))
        return max(whole, self.rehearsal.held_bytes)


def as_in_whole_passes(context: TrainingContext, first: Rehearsal, second: Rehearsal) -> Rehearsal:
    """The second rehearsal, with the seconds it would take in passes of the run's size.

    Otherwise a few images would mostly measure a large network's overhead per pass.
    """
    if second.images <= first.images or not context.machine.on_cpu:
        return second
    batch, chunk = context.options.batch_size or 1, context.source.chunk()
    seconds = dict(second.seconds)
    for kind, took in second.seconds.items():
        if kind[1] in PASSES:
            size = batch if kind[1] == "steps" else chunk
            before = (first.images, first.seconds.get(kind, took))
            seconds[kind] = in_larger_passes(before, (second.images, took), size)
    return replace(second, seconds=seconds)


def in_larger_passes(first: tuple[int, float], second: tuple[int, float], size: int) -> float:
    """Seconds that the second sample's images would have taken in passes of `size` images.

    A pass has a fixed cost (an optimizer step, fetching the weights) and a cost per image; both
    follow from two samples, each `(images, seconds)` in one pass. The images take at least the
    share `LEAST_IMAGE_SHARE`.
    """
    (fewer, before), (images, took) = first, second
    if images >= size or not took:
        return took
    by_images = (took - before) * images / (images - fewer) / took
    by_images = min(1.0, max(LEAST_IMAGE_SHARE, by_images))
    return took * (by_images + (1 - by_images) * images / size)
