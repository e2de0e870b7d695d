"""A fast training loop in plain PyTorch."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor

from benchmarks.laps import Outcome
from benchmarks.work import Task, classes
from tlnb.core.data.dataset import BUNDLED, open_data

RATES = {"head": 0.01}  # of AdamW; everything else:
RATE = 0.001
MIN_CROP_AREA, RATIO = 0.08, 4 / 3  # of a crop, as torchvision's
CHUNK = 64  # images in a forward pass without gradient


def run(task: Task) -> Outcome:
    """Decode everything, train on batches in memory, test once."""
    job, laps, machine = task.job, task.laps, task.machine
    network = task.network.to(memory_format=torch.channels_last)
    torch.backends.cudnn.benchmark = True  # on GPUs: the fastest convolution for these shapes
    laps.start()
    images, labels, rest, truths = decoded(task)
    laps.lap("loading")
    images, labels, rest, truths = (x.to(job.device) for x in (images, labels, rest, truths))
    laps.lap("transfer")
    rate = RATES.get(job.strategy, RATE)
    steps = math.ceil(len(images) / job.batch_size)
    optimizer = torch.optim.AdamW(
        [p for p in network.parameters() if p.requires_grad], lr=rate, fused=True
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, job.epochs * steps)
    for _ in range(job.epochs):
        laps.epoch_starts()
        for rows in torch.randperm(len(images), device=job.device).tensor_split(steps):
            optimizer.zero_grad(set_to_none=True)
            with machine.autocast():
                loss = F.cross_entropy(
                    network(ready(images[rows], task, varied=True)), labels[rows]
                )
            loss.backward()
            optimizer.step()
            schedule.step()
        laps.lap("training", len(images))
        laps.epoch_ends()
    guesses = scores(rest, task).argmax(1)
    laps.lap("evaluating")
    return laps.outcome(float((guesses == truths).float().mean()))


def scores(images: Tensor, task: Task) -> Tensor:
    """Logits `(N, classes)` in eval mode."""
    task.network.eval()
    size = (
        CHUNK if task.job.device.startswith("cuda") else 8
    )  # more photos do not fit a core's cache
    with torch.inference_mode(), task.machine.autocast():
        return torch.cat(
            [task.network(ready(part, task, varied=False)) for part in images.split(size)]
        )


def ready(images: Tensor, task: Task, varied: bool) -> Tensor:
    """Turn uint8 `(N, 3, E, E)` into the network's input `(N, 3, size, size)`.

    Crops at random if `varied`, else from the middle.
    """
    size, edge = task.transform.size, images.shape[-1]
    floats = images.contiguous(memory_format=torch.channels_last).float()
    if varied and task.job.augment != "none":
        floats = F.grid_sample(
            floats, _crops(len(images), size, task), padding_mode="border", align_corners=False
        )
    elif edge != size:
        start = (edge - size) // 2
        floats = floats[..., start : start + size, start : start + size]
    mean, std = (
        _by_channel(numbers, images.device) for numbers in (task.transform.mean, task.transform.std)
    )
    return ((floats - mean) / std).contiguous(memory_format=torch.channels_last)


@cache
def _by_channel(numbers: tuple[float, ...], device: torch.device) -> Tensor:
    """Numbers as `(3, 1, 1)` on the scale 0..255; cached, as a GPU waits for the copy."""
    return torch.tensor(numbers, device=device).view(3, 1, 1) * 255


def _crops(count: int, size: int, task: Task) -> Tensor:
    """Sampling positions of random crops: a grid `(N, size, size, 2)`."""
    area, shape, x, y, side = torch.rand(5, count, device=task.job.device)
    area = MIN_CROP_AREA + (1 - MIN_CROP_AREA) * area
    ratio = RATIO ** (2 * shape - 1)
    width, height = (area * ratio).sqrt().clamp(max=1), (area / ratio).sqrt().clamp(max=1)
    left, top = (1 - width) * (2 * x - 1), (1 - height) * (2 * y - 1)
    if task.mirror:
        width = torch.where(side < 0.5, -width, width)
    none = torch.zeros_like(width)
    matrix = torch.stack([width, none, left, none, height, top], 1).view(count, 2, 3)
    return F.affine_grid(matrix, [count, 3, size, size], align_corners=False)


# ── decoding ──────────────────────────────────────────────────────────────────────────────────────


def decoded(task: Task) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Training images `(N, 3, E, E)` uint8 and labels, then test images and labels."""
    data = task.job.data
    if data in BUNDLED:
        dataset = open_data(data)
        return (
            dataset.images["train"],
            dataset.labels["train"],
            dataset.images["test"],
            dataset.labels["test"],
        )
    return (*_split(task, "train"), *_split(task, "val"))


def _split(task: Task, split: str) -> tuple[Tensor, Tensor]:
    names = classes(task.job.data)
    files = [
        (path, i)
        for i, name in enumerate(names)
        for path in sorted(Path(task.job.data, split, name).iterdir())
    ]
    with ThreadPoolExecutor(task.job.threads) as pool:
        images = list(pool.map(lambda file: _decode(file[0], task.transform.resize), files))
    return torch.stack(images), torch.tensor([label for _, label in files])


def _decode(path: Path, edge: int) -> Tensor:
    """The middle square `(3, edge, edge)`; JPEGs are decoded no larger than needed."""
    with Image.open(path) as image:
        image.draft("RGB", (edge, edge))
        square = ImageOps.fit(image.convert("RGB"), (edge, edge), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(square)).permute(2, 0, 1)
