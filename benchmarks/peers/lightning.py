"""The peer Lightning."""

from __future__ import annotations

import logging
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from benchmarks.laps import Outcome
from benchmarks.peers.loading import DROP, DROP_EVERY, loaders, sgd
from benchmarks.work import Task


class Classifier(LightningModule):
    """The network with its loss, optimiser and accuracy."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.task, self.network = task, task.network
        self.right = torch.zeros((), dtype=torch.int64, device=task.job.device)

    def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
        images, labels = batch
        return F.cross_entropy(self.network(images), labels)

    def validation_step(self, batch: tuple[Tensor, Tensor], _: int) -> None:
        images, labels = batch
        self.right += (self.network(images).argmax(1) == labels).sum()

    def configure_optimizers(self) -> dict[str, Any]:
        optimizer = sgd(self.task)
        return {
            "optimizer": optimizer,
            "lr_scheduler": torch.optim.lr_scheduler.StepLR(optimizer, DROP_EVERY, DROP),
        }

    def on_train_batch_end(self, _: Any, batch: tuple[Tensor, Tensor], __: int) -> None:
        self.task.laps.lap("training", len(batch[1]))

    def on_validation_batch_end(self, *_: Any) -> None:
        self.task.laps.lap("evaluating")

    def on_train_epoch_start(self) -> None:
        self.task.laps.epoch_starts()

    def on_validation_epoch_start(self) -> None:
        self.right.zero_()

    def on_train_epoch_end(self) -> None:  # called after the epoch's validation
        self.task.laps.epoch_ends()


def run(task: Task) -> Outcome:
    """`Trainer.fit` without extras."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    task.network.train()  # Lightning does not change modes
    on_gpu = task.job.device.startswith("cuda")
    classifier = Classifier(task)
    task.laps.start()
    train, test = loaders(task)
    trainer = Trainer(
        max_epochs=task.job.epochs,
        accelerator="gpu" if on_gpu else "cpu",
        devices=1,
        logger=False,
        precision="bf16-mixed" if task.machine.precision == "bf16" else "32-true",
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(classifier, train, test)
    return task.laps.outcome(int(classifier.right) / len(test.dataset))
