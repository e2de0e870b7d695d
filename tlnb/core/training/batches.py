"""The batches of an epoch: which images, in what order, augmented how, and which rows of them are this process's."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from tlnb.core.data.augment import draw
from tlnb.core.planning.options import TrainOptions
from tlnb.core.runtime.device import Machine
from tlnb.core.runtime.distributed import uses_batch_statistics
from tlnb.core.storage.memory_map import batches as mapped_batches
from tlnb.core.storage.memory_map import is_mapped
from tlnb.core.training.batch_sizes import batches_of, none_alone
from tlnb.core.training.context import SEED_STRIDE, TrainingContext
from tlnb.core.training.events import Event, event
from tlnb.core.training.training_inputs import Inputs


class Batch(NamedTuple):
    """What one process has of a batch."""

    inputs: Tensor
    labels: Tensor
    share: Tensor | float = 1  # of the whole batch's weight in the loss
    of: int = 0  # items of the whole batch; 0: these are all


@dataclass
class MicroBatches:
    """Into how many micro-batches a batch is split, whose gradients add up. Grows when memory runs out."""

    count: int = 1


def weight_share(part: Tensor, whole: Tensor, class_weights: Tensor | None) -> Tensor | float:
    """What some labels weigh in the mean over all: classes may weigh differently."""
    if class_weights is None:
        return len(part) / len(whole)
    return class_weights[part].sum() / class_weights[whole].sum()


def without_single_images(
    context: TrainingContext, module: nn.Module, options: TrainOptions, events: list[Event]
) -> TrainOptions:
    """Batches of two or more images where batch statistics are taken: those of one image tell nothing.

    Args:
        module: in the modes for training.
        events: where a larger batch is noted, once.

    Raises:
        UsageError: batches of one image were asked for.
    """
    if context.ranks.count > 1:
        return options
    fitted = none_alone(options, context.train_images, uses_batch_statistics(module))
    if fitted.batch_size != options.batch_size:
        note_once(events, event("joined-batches", size=options.batch_size or 1))
    return fitted


def note_once(events: list[Event], noted: Event) -> None:
    """Add an event unless it is there."""
    if noted not in events:
        events.append(noted)


def epoch_batches(
    context: TrainingContext, inputs: Inputs, options: TrainOptions, epoch: int
) -> Iterator[Batch]:
    """Batches of nearly equal size: no last batch of one image, which batch statistics could not bear.

    Of each, this process's rows. One that has none takes part with a row that weighs nothing, so that gradients meet.
    """
    machine, ranks = context.machine, context.ranks
    generator = torch.Generator().manual_seed(options.seed * SEED_STRIDE + epoch)
    images, labels = inputs.train(epoch), context.labels["train"]
    order = torch.randperm(len(labels), generator=generator)
    whole_batches = list(order.tensor_split(batches_of(options, len(labels))))
    shards = [ranks.shard(len(rows)) for rows in whole_batches]
    busy = [ranks.busy(shard) for shard in shards]
    own_rows = [rows[own] for rows, own in zip(whole_batches, busy, strict=True)]
    drawn = [
        draw(len(rows), inputs.augment, generator)[:, own]
        for rows, own in zip(whole_batches, busy, strict=True)
    ]
    numbers = machine.placed(torch.cat(drawn, 1)).split([len(rows) for rows in own_rows], 1)
    pairs = _pairs(images, labels, own_rows, machine)
    for rows, shard, augmentation, (batch, batch_labels) in zip(
        whole_batches, shards, numbers, pairs, strict=True
    ):
        context.stop_check()
        ready, targets = (
            inputs.make(machine.placed(batch), augmentation),
            machine.placed(batch_labels),
        )
        if ranks.count == 1:
            yield Batch(ready, targets)
        else:
            whole = labels[machine.placed(rows)]
            share = weight_share(whole[shard], whole, context.class_weights)
            yield Batch(ready, targets, share, len(rows))


def _pairs(
    images: Tensor, labels: Tensor, batches: list[Tensor], machine: Machine
) -> Iterator[tuple[Tensor, Tensor]]:
    """The images and labels of every batch of row numbers, from where the images lie."""
    if images.device.type != "cpu":
        # one copy of the row numbers an epoch: a step waits for none
        placed = machine.placed(torch.cat(batches)).split([len(rows) for rows in batches])
        return ((images[rows], labels[rows]) for rows in placed)
    on_cpu = labels.cpu()
    if is_mapped(images):  # a file, read as it is needed
        return mapped_batches(images, on_cpu, batches, pin=labels.is_cuda)
    return ((images[rows], on_cpu[rows]) for rows in batches)
