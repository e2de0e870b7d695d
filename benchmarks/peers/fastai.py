"""The peer fastai."""

from __future__ import annotations

from typing import Any

from fastai.vision.all import (
    Callback,
    CropPad,
    CrossEntropyLossFlat,
    Flip,
    ImageDataLoaders,
    Learner,
    Normalize,
    RandomResizedCrop,
    Resize,
    accuracy,
)
from torch import nn

from benchmarks.laps import Laps, Outcome
from benchmarks.peers.loading import workers
from benchmarks.work import Task
from tlnb.core.training.freezing import layer_of


class Watch(Callback):
    """Records where the time goes."""

    def __init__(self, laps: Laps) -> None:
        self.laps = laps

    def before_epoch(self) -> None:
        self.laps.epoch_starts()

    def before_batch(self) -> None:
        self.laps.lap("loading")  # fastai moves a batch to the device while loading it

    def after_batch(self) -> None:
        self.laps.lap(
            "training" if self.training else "evaluating", len(self.yb[0]) if self.training else 0
        )

    def after_epoch(self) -> None:
        self.laps.epoch_ends()


def run(task: Task) -> Outcome:
    """Train a learner with a frozen first group of layers for one cycle."""
    job, laps = task.job, task.laps
    laps.start()
    learner = learner_of(task)
    learner.freeze()
    if (
        job.device.startswith("cuda") and task.machine.precision == "bf16"
    ):  # its mixed precision is for CUDA only
        learner.to_bf16()
    with learner.no_bar(), learner.no_logging():
        learner.fit_one_cycle(job.epochs)
    return laps.outcome(float(learner.recorder.values[-1][-1]))


def learner_of(task: Task) -> Learner:
    """A learner for the task's photos, with a group of parameters that are frozen and one that trains."""
    job = task.job
    data = ImageDataLoaders.from_folder(
        job.data,
        train="train",
        valid="val",
        bs=job.batch_size,
        device=job.device,
        num_workers=workers(job.threads),
        **_transforms(task),
    )
    return Learner(
        data,
        task.network,
        CrossEntropyLossFlat(),
        metrics=accuracy,
        splitter=lambda n: _groups(n, task.trained),
        cbs=Watch(task.laps),
    )


def _transforms(task: Task) -> dict[str, list[Any]]:
    """fastai's own transforms that are closest to the tutorial's."""
    seen = task.transform
    items = [Resize(seen.resize), CropPad(seen.size)]
    batches: list[Any] = [
        Normalize.from_stats(seen.mean, seen.std, cuda=task.job.device.startswith("cuda"))
    ]
    if task.job.augment != "none":
        items = [RandomResizedCrop(seen.size, min_scale=0.08)]
        batches = [Flip(), *batches] if task.mirror else batches
    return {"item_tfms": items, "batch_tfms": batches}


def _groups(network: nn.Module, trained: tuple[str, ...]) -> list[list[nn.Parameter]]:
    """Two groups: the frozen parameters, if there are any, and the trained ones."""
    trains = [
        p for name in trained for p in layer_of(network, name)._parameters.values() if p is not None
    ]
    known = {id(p) for p in trains}
    frozen = [p for p in network.parameters() if id(p) not in known]
    return [frozen, trains] if frozen else [trains]
