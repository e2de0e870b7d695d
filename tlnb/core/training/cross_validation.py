"""Calibrate on every label in use: the output layer is trained once for each fold, as in the run.

The trainings see the run's cached activations; held-out images are seen without augmentation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from tlnb.core.data.dataset import IN_USE, DataSet
from tlnb.core.models.calibration import Calibration, fitted_temperature
from tlnb.core.models.clocks import Clock, CostTracker
from tlnb.core.planning.options import TrainOptions
from tlnb.core.training.cached_inputs import CachedInputs
from tlnb.core.training.calibrating import Calibrated, held_out_folds, scores_of
from tlnb.core.training.context import TrainingContext
from tlnb.core.training.features import FeatureSource, T
from tlnb.core.training.run import Cache
from tlnb.core.training.split_choice import Demand
from tlnb.core.training.split_point import Place
from tlnb.core.training.training_inputs import Inputs


@dataclass(frozen=True)
class _Pool:
    """The images and labels in use, with what the run has cached of them."""

    images: Tensor  # (N, 3, E, E) uint8
    labels: Tensor  # (N,) int64
    views: tuple[Tensor, ...]  # each (N, …); the first is without augmentation


class _FoldSource(FeatureSource):
    """A source of activations that another has cached, for some of its images."""

    def __init__(self, first: FeatureSource, data: DataSet, costs: CostTracker) -> None:
        super().__init__(
            first.module,
            first.transform,
            data,
            first.machine,
            costs,
            first.store,
            pause=first._pause,
            ranks=first.ranks,
        )
        self._first, self.counts, self.cuts = first, first.counts, first.cuts
        self.cached: CachedInputs | None = None
        self.found: dict[tuple[str, ...], tuple[Any, str]] = {}  # of all folds

    def inputs(
        self, trained: tuple[str, ...], options: TrainOptions, before: Cache | None = None
    ) -> Inputs:
        assert self.cached is not None
        return self.cached

    def proven(
        self, trained: Sequence[str], pick: Callable[[Sequence[Place]], T | None], demand: Demand
    ) -> tuple[T | None, str]:
        """As for the first fold: all train the same layers of the same network."""
        key = tuple(trained)
        if key not in self.found:
            self.found[key] = self._first.proven(trained, pick, demand)
        return self.found[key]


def by_folds(
    context: TrainingContext, inputs: Inputs, fit: Callable[[TrainingContext], None]
) -> Calibrated:
    """The temperature by logits that were each given by a network that had not seen the label.

    Args:
        inputs: of the run, which has ended; cached.
        fit: trains the network from the run's start, in a context of a fold.
    """
    if not isinstance(inputs, CachedInputs):
        return Calibrated(why_not="cross-validation needs cached features")
    pool = _pool(context, inputs)
    with context.costs.phase("evaluating", "folds"):
        logits = torch.zeros(len(pool.labels), len(context.data.classes))
        for fold, held in _folds(context, inputs, pool):
            fit(fold)
            flops = fold.costs.flops
            logits[held] = scores_of(fold, inputs, pool.views[0][held])[0].cpu()
            looks = len(held) * inputs.cost.look / context.ranks.count
            context.costs.charge("evaluating", sum(flops.values()) + looks, "folds")
        temperature = fitted_temperature(logits, pool.labels)
    fitted = Calibration(
        temperature=temperature,
        threshold=-1.0,
        labels=len(pool.labels),
        method="cross-validation",
        layer=context.anatomy.head,
    )
    return Calibrated(calibration=fitted)


def _pool(context: TrainingContext, inputs: CachedInputs) -> _Pool:
    data, splits = context.data, [s for s in IN_USE if s in context.data.splits]
    held = [inputs.seen("val")] if "val" in splits else []
    return _Pool(
        torch.cat([data.images[split] for split in splits]),
        data.labels_in_use,
        tuple(torch.cat([view, *held]) for view in inputs.kept),
    )


def _folds(
    context: TrainingContext, inputs: CachedInputs, pool: _Pool
) -> Iterator[tuple[TrainingContext, Tensor]]:
    """A context for each fold, and the rows that it does not learn from."""
    found: dict[tuple[str, ...], tuple[Any, str]] = {}
    for rows, held in held_out_folds(context.data, context.options.seed):
        learned = torch.from_numpy(rows)
        images = {"train": pool.images[learned], "test": pool.images[:1]}
        labels = {"train": pool.labels[learned], "test": pool.labels[:1]}
        data = replace(
            context.data, images=MappingProxyType(images), labels=MappingProxyType(labels)
        )
        views = tuple(view[learned] for view in pool.views)
        costs = CostTracker(Clock(context.machine, meter=context.costs.clock.meter))
        source = _FoldSource(context.source, data, costs)
        source.cached, source.found = replace(inputs, kept=views, _seen={}), found
        fold = context.on_data(data, source, lambda _: None)
        yield replace(fold, costs=costs), torch.from_numpy(held)
