"""The minimum for training an output layer: decode each image and pass it through once."""

from __future__ import annotations

import torch

from benchmarks.laps import Outcome
from benchmarks.peers.raw import decoded, scores
from benchmarks.work import Task


def run(task: Task) -> Outcome:
    """Decode once, and run one forward pass over training and test images."""
    task.network.to(memory_format=torch.channels_last)
    task.laps.start()
    images, _, rest, _ = decoded(task)
    task.laps.lap("loading")
    images, rest = images.to(task.job.device), rest.to(task.job.device)
    task.laps.lap("transfer")
    scores(images, task)
    scores(rest, task)
    task.laps.lap("evaluating")
    return task.laps.outcome(None)
