"""Train once more on all labels in use, those that were held out to choose with included.

A network that all labels taught is better than one that only most of them taught (Goodfellow,
Bengio and Courville, "Deep Learning", 2016, algorithm 7.2). The first pass chooses; the second has
the same start, seed and schedule.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from types import MappingProxyType

import torch
from torch import Tensor, nn

from tlnb.core.data.dataset import IN_USE, DataSet
from tlnb.core.storage.activation_cache import key_of
from tlnb.core.storage.memory_map import as_one
from tlnb.core.training.context import TrainingContext
from tlnb.core.training.features import FeatureSource, KeptRows, T
from tlnb.core.training.progress import Progress, Report
from tlnb.core.training.run import EpochRecord
from tlnb.core.training.split_choice import Demand
from tlnb.core.training.split_point import Place
from tlnb.core.training.split_replay import Replay


def with_all_labels(data: DataSet) -> DataSet:
    """The data with all labels in use to train on, and the test split.

    Images in a file stay there: `image_loading` puts the splits in use next to each other.
    """
    images, labels = (
        MappingProxyType({"train": _all([held[s] for s in IN_USE]), "test": held["test"]})
        for held in (data.images, data.labels)
    )
    return replace(data, images=images, labels=labels)


def _all(parts: Sequence[Tensor]) -> Tensor:
    together = as_one(parts)
    return torch.cat(list(parts)) if together is None else together


def context_for_all(context: TrainingContext) -> TrainingContext:
    """The same training on all labels in use, with nothing held out. Caches are shared."""
    data = with_all_labels(context.data)
    return context.on_data(data, AllLabels(context.source, data), _as_refit(context.report))


def epochs_for_all(epochs: Sequence[EpochRecord], held_out: int) -> int:
    """How many epochs the refit takes: to the last as good as the best, within a standard error.

    The one-standard-error rule (Breiman et al., "Classification and Regression Trees", 1984,
    section 3.4.3): a few held-out labels tell epochs apart by luck, and a schedule that ends early
    ends with a high learning rate. It is all of them unless the network got clearly worse.

    Args:
        held_out: labels that the accuracies are shares of; one of them more or less tells nothing.
    """
    values = [e.val_accuracy or 0.0 for e in epochs]
    best = max(values)
    doubt = max(math.sqrt(best * (1 - best) / held_out), 1 / held_out)
    as_good = [number for number, value in enumerate(values, 1) if value >= best - doubt - 1e-9]
    return as_good[-1]


def _as_refit(report: Report) -> Report:
    """Progress that says it is the refit's: the curves are those of the first pass."""

    def told(progress: Progress) -> None:
        report(replace(progress, phase="refit") if progress.phase == "training" else progress)

    return told


@dataclass(frozen=True, kw_only=True)
class _RowsThrough:
    """Rows of a split through a frozen prefix; images are brought to the device when asked."""

    compute: Callable[[], Callable[[slice | Tensor], Tensor]]
    prefix: nn.Module
    drawn: tuple[str, int, int]  # augmentation, seed, view

    def __call__(self, rows: slice | Tensor) -> Tensor:
        return self.compute()(rows)


class AllLabels(FeatureSource):
    """A source of training inputs from all labels in use.

    What the first pass has cached of their images is used. In each cached view the images that were
    held out are as they are: augmented ones would take a fifth of caching and of the run's seconds,
    and add 0.1 points (`python -m benchmarks.linear_probe` measures what a refit adds).
    """

    def __init__(self, first: FeatureSource, data: DataSet) -> None:
        super().__init__(
            first.module,
            first.transform,
            data,
            first.machine,
            first.tally,
            first.store,
            pause=first._pause,
            ranks=first.ranks,
        )
        self._first, self.counts, self.cuts = first, first.counts, first.cuts

    def forget(self) -> None:
        super().forget()
        self._first.forget()

    def proven(
        self, trained: Sequence[str], pick: Callable[[Sequence[Place]], T | None], demand: Demand
    ) -> tuple[T | None, str]:
        """As for the first pass, whose proofs hold: it is the same network."""
        return self._first.proven(trained, pick, demand)

    def through(
        self, prefix: nn.Module, split: str, kind: str = "none", seed: int = 0, view: int = 0
    ) -> Callable[[slice | Tensor], Tensor]:
        @cache
        def compute() -> Callable[[slice | Tensor], Tensor]:
            return super(AllLabels, self).through(prefix, split, kind, seed, view)

        return _RowsThrough(compute=compute, prefix=prefix, drawn=(kind, seed, view))

    def kept(self, work: KeptRows, where: str) -> tuple[Tensor, bool]:
        """A value from the store, or joined from those of the splits, of which some may be new."""
        through = work.rows
        if work.split != "train" or not isinstance(through, _RowsThrough):
            return super().kept(work, where)
        of_splits = [self._of_split(work, through, split, where) for split in IN_USE]
        joined = replace(work, rows=_joined([value for value, _ in of_splits]), flops=0.0)
        value, _ = super().kept(joined, where)
        return value, all(found for _, found in of_splits)

    def _of_split(
        self, work: KeptRows, through: _RowsThrough, split: str, where: str
    ) -> tuple[Tensor, bool]:
        first, prefix = self._first, through.prefix
        drawn = through.drawn if split == "train" else ("none", 0, 0)
        assert isinstance(prefix, Replay) and prefix.stop is not None
        key = key_of(first.identity(prefix.stop), first.data_key(split, *drawn))
        found = first.store.get(key, first.machine.device)  # which the first pass has looked at
        if first.ranks.every(found is not None) and found is not None:
            return found, True
        rows = first.through(prefix, split, *drawn)
        return first.kept(replace(work, key=key, split=split, rows=rows), where)


def _joined(parts: Sequence[Tensor]) -> Callable[[slice | Tensor], Tensor]:
    """Rows of several tensors, as if they were one."""
    count = sum(map(len, parts))

    def rows(some: slice | Tensor) -> Tensor:
        wanted, before, taken = torch.arange(count)[some], 0, []
        for part in parts:
            inside = (wanted >= before) & (wanted < before + len(part))
            taken.append(part[wanted[inside] - before])
            before += len(part)
        return torch.cat(taken)

    return rows
