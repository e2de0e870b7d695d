"""The tutorial's image loading, for peers without their own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

from benchmarks.laps import Laps
from benchmarks.work import Task

RATE, MOMENTUM, DROP_EVERY, DROP = (
    0.001,
    0.9,
    7,
    0.1,
)  # SGD, and after how many epochs its rate falls to what share


class Loader(DataLoader):
    """A loader that records the time to load each batch and to move it to the device.

    The peer records the rest.
    """

    def __init__(self, data: ImageFolder, laps: Laps, device: str, **options: Any) -> None:
        self.laps, self.target = laps, device
        super().__init__(data, **options)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for images, labels in super().__iter__():
            self.laps.lap("loading")
            moved = (
                images.to(self.target, non_blocking=True),
                labels.to(self.target, non_blocking=True),
            )
            self.laps.lap("transfer")
            yield moved


def loaders(task: Task) -> tuple[Loader, Loader]:
    """Loaders of training images, randomly cropped and mirrored on request, and test images."""
    job, seen = task.job, task.transform
    ready = [transforms.ToTensor(), transforms.Normalize(seen.mean, seen.std)]
    middle = [transforms.Resize(seen.resize), transforms.CenterCrop(seen.size), *ready]
    mirror = [transforms.RandomHorizontalFlip()] if task.mirror else []
    varied = (
        [transforms.RandomResizedCrop(seen.size), *mirror, *ready]
        if job.augment != "none"
        else middle
    )
    options: dict[str, Any] = {
        "batch_size": job.batch_size,
        "num_workers": (count := workers(job.threads)),
        "persistent_workers": count > 0,
        "pin_memory": job.device.startswith("cuda"),
    }

    def loader(split: str, steps: list[Any], shuffle: bool) -> Loader:
        data = ImageFolder(Path(job.data, split), transforms.Compose(steps))
        return Loader(data, task.laps, job.device, shuffle=shuffle, **options)

    return loader("train", varied, True), loader("val", middle, False)


def workers(threads: int) -> int:
    """Number of loading processes; on one or two cores they would only slow training down."""
    return threads - 1 if threads > 2 else 0


def sgd(task: Task) -> torch.optim.SGD:
    """The tutorial's optimiser."""
    parameters = [p for p in task.network.parameters() if p.requires_grad]
    return torch.optim.SGD(parameters, lr=task.job.rate or RATE, momentum=MOMENTUM)
