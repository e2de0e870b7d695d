"""The loop of PyTorch's transfer-learning tutorial.

Source: pytorch.org/tutorials/beginner/transfer_learning_tutorial.
"""

from __future__ import annotations

import copy

import torch
from torch import nn

from benchmarks.laps import Laps, Outcome
from benchmarks.peers.loading import DROP, DROP_EVERY, Loader, loaders, sgd
from benchmarks.work import Task


def run(task: Task) -> Outcome:
    """Alternate training and testing, and keep the weights with the best test accuracy."""
    network, laps = task.network, task.laps
    optimizer = sgd(task)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, DROP_EVERY, DROP)
    laps.start()
    train, test = loaders(task)
    best, kept = -1.0, network.state_dict()
    for _ in range(task.job.epochs):
        laps.epoch_starts()
        _phase(network.train(), train, laps, optimizer)
        schedule.step()
        reached = _phase(network.eval(), test, laps)
        if reached > best:
            best, kept = reached, copy.deepcopy(network.state_dict())
        laps.epoch_ends()
    network.load_state_dict(kept)
    return laps.outcome(best)


def _phase(
    network: nn.Module, batches: Loader, laps: Laps, optimizer: torch.optim.Optimizer | None = None
) -> float:
    """Go once over the images and return the accuracy; without an optimiser, do not train."""
    judge = nn.CrossEntropyLoss()
    losses, right = 0.0, 0
    for images, labels in batches:
        with torch.set_grad_enabled(optimizer is not None):
            scores = network(images)
            loss = judge(scores, labels)
        if optimizer is not None:
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        losses += loss.item() * len(labels)
        right += int((scores.argmax(1) == labels).sum())
        laps.lap("training" if optimizer else "evaluating", len(labels) if optimizer else 0)
    return right / len(batches.dataset)
