"""An epoch by AdamW: one step for each batch, in micro-batches where memory demands it, by one process or several."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tlnb.core.planning.options import TrainOptions
from tlnb.core.runtime.device import Machine, free_memory, out_of_memory
from tlnb.core.runtime.distributed import ALONE, Ranks, uses_batch_statistics
from tlnb.core.runtime.errors import MemoryLimit, UsageError
from tlnb.core.training.batch_sizes import batches_of
from tlnb.core.training.batches import (
    Batch,
    MicroBatches,
    epoch_batches,
    note_once,
    weight_share,
    without_single_images,
)
from tlnb.core.training.context import TrainingContext
from tlnb.core.training.events import Event, event
from tlnb.core.training.optimizers import AdamW, can_fuse_all, parameter_groups, steps_of
from tlnb.core.training.training_inputs import Inputs


class EpochResult(NamedTuple):
    """What an epoch did."""

    loss: float  # mean over all items
    steps: int
    images: int  # shown
    accuracy: float  # of the network as it learned: each batch before its step


Epochs = Callable[[int], EpochResult]  # trains one epoch, given its number from 0


class AdamWEpochs:
    """Epochs by AdamW with one-cycle rates."""

    def __init__(
        self,
        context: TrainingContext,
        inputs: Inputs,
        trained: tuple[str, ...],
        options: TrainOptions,
        micro_batches: MicroBatches,
        events: list[Event],
    ) -> None:
        """For a network in its modes.

        Args:
            trained: the layers that step.
            options: of this phase, filled in.
            events: where larger batches and the processes' batch statistics are noted.

        Raises:
            UsageError: batches, or some processes' shares of them, too small for batch statistics.
        """
        options = without_single_images(context, inputs.teaches, options, events)
        self._context, self._inputs, self._options = context, inputs, options
        self._micro_batches = micro_batches
        groups = parameter_groups(context.module, context.anatomy, trained, options)
        machine = context.machine
        self.adamw = AdamW.of(
            groups,
            options,
            steps_of(options, context.train_images),
            fused=can_fuse_all(context.module, machine.device),
            fp16=machine.precision == "fp16",
        )
        self._shared = _shared(context, inputs.teaches, options, events)

    def __call__(self, epoch: int) -> EpochResult:
        """Train one epoch."""
        context, adamw = self._context, self.adamw
        loss, accuracy = train_epoch(
            self._shared,
            epoch_batches(context, self._inputs, self._options, epoch),
            adamw.optimizer,
            adamw.schedule,
            context.machine,
            scaler=adamw.scaler,
            class_weights=context.class_weights,
            micro_batches=self._micro_batches,
            ranks=context.ranks,
        )
        images = context.train_images
        return EpochResult(loss, batches_of(self._options, images), images, accuracy)


def _shared(
    context: TrainingContext, module: nn.Module, options: TrainOptions, events: list[Event]
) -> nn.Module:
    """The module as several processes train it.

    Raises:
        UsageError: some would have too few images for batch statistics.
    """
    count = context.ranks.count
    if count > 1 and uses_batch_statistics(module):
        images = context.train_images
        fewest = images // batches_of(options, images) // count
        synchronised = context.machine.device.startswith("cuda")
        if fewest < (1 if synchronised else 2):
            raise UsageError(
                f"batches of {options.batch_size} on {count} processes leave some {fewest} images, too few for batch "
                "statistics: fewer processes, a larger --batch-size, or %tl_freeze the BatchNorm layers"
            )
        whose = "over all processes (SyncBatchNorm)" if synchronised else "each process's own"
        note_once(events, event("shared-batches", processes=count, whose=whose))
    all_used = all(layer.used for layer in context.anatomy.layers)
    return context.ranks.wrapped(module, unused=not all_used)


def train_epoch(
    module: nn.Module,
    batches: Iterable[Batch | tuple[Tensor, Tensor]],
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    machine: Machine,
    *,
    scaler: torch.amp.GradScaler | None = None,
    class_weights: Tensor | None = None,
    label_smoothing: float = 0.0,
    micro_batches: MicroBatches | None = None,
    ranks: Ranks = ALONE,
) -> tuple[float, float]:
    """One optimiser step for each batch of inputs and labels; mean loss and accuracy over all items.

    The modes, and what needs gradients, are the caller's business; so is a gradient scaler for fp16, which must
    outlive the epoch, and `micro_batches`, which grow when memory runs out. Several processes take one step together:
    each has its share of every batch (a `Batch`), and a module that averages gradients over them (`Ranks.wrapped`).

    Raises:
        MemoryLimit: not even one item fits in memory.
    """
    total, right, seen = *torch.zeros(2, device=machine.device), 0
    scaler = scaler or torch.amp.GradScaler(enabled=False)
    micro_batches = micro_batches or MicroBatches()

    def loss_of(inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        with machine.autocast():
            logits = module(inputs)
            loss = F.cross_entropy(logits, labels, class_weights, label_smoothing=label_smoothing)
        return loss, (logits.detach().argmax(1) == labels).sum()

    gradients = _Gradients(loss_of, optimizer, scaler, class_weights, micro_batches)
    for inputs, labels, share, of in (Batch(*batch) for batch in batches):
        # since a mean of the processes' gradients is to be their sum
        scale = None if ranks.count == 1 else share * ranks.count
        items = ranks.draws.of = of or len(labels)
        loss, hits = gradients(inputs, labels, scale)
        scaler.step(optimizer)
        scaler.update()
        schedule.step()
        total += loss * (share * items)
        right += hits * (share > 0)  # an idle process shows an image of another's
        seen += items
    return float(ranks.sum(total)) / seen, float(ranks.sum(right)) / seen


class _Gradients(NamedTuple):
    """Computes a batch's gradients: whole, or in micro-batches where memory demands it."""

    # inputs, labels → their mean loss, and how many were right
    loss_of: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    class_weights: Tensor | None
    micro_batches: MicroBatches

    def __call__(
        self, inputs: Tensor, labels: Tensor, scale: Tensor | float | None = None
    ) -> tuple[Tensor, Tensor]:
        """The batch's mean loss, its gradients in place, and how many were right.

        Args:
            scale: of a process among several, whose backward pass meets the others': it cannot be begun again in
                micro-batches.

        Raises:
            MemoryLimit: not even one item fits in memory; or the whole batch does not, for a process among several.
        """
        while True:
            self.optimizer.zero_grad(set_to_none=True)
            try:
                return self._backward(inputs, labels, scale)
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
            if scale is not None:
                raise MemoryLimit(
                    f"{len(labels)} images do not fit in a process's memory: a smaller --batch-size, or more processes"
                )
            # outside of `except`: the traceback, and all tensors that its frames hold, are gone here
            self.optimizer.zero_grad(set_to_none=True)
            free_memory()
            self._divide(len(labels))

    def _backward(
        self, inputs: Tensor, labels: Tensor, scale: Tensor | float | None
    ) -> tuple[Tensor, Tensor]:
        if self.micro_batches.count == 1:
            loss, right = self.loss_of(inputs, labels)
            self.scaler.scale(loss if scale is None else loss * scale).backward()
            return loss.detach(), right
        total, hits = torch.zeros(2, device=labels.device)
        for part, part_labels in self._parts(inputs, labels):
            share = weight_share(part_labels, labels, self.class_weights)
            loss, right = self.loss_of(part, part_labels)
            self.scaler.scale(loss * share).backward()
            total += loss.detach() * share
            hits += right
        return total, hits

    def _parts(self, inputs: Tensor, labels: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        count = self.micro_batches.count
        return zip(inputs.tensor_split(count), labels.tensor_split(count), strict=True)

    def _divide(self, items: int) -> None:
        """Twice as many micro-batches."""
        if self.micro_batches.count >= items:
            raise MemoryLimit(
                "not even one image fits in memory for training: a smaller --size, or fewer layers to train"
            )
        self.micro_batches.count = min(2 * self.micro_batches.count, items)
