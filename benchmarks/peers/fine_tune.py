"""fastai's `fine_tune`: the new head alone for an epoch, then the whole network."""

from __future__ import annotations

from benchmarks.laps import Outcome
from benchmarks.peers.fastai import learner_of
from benchmarks.work import Task

BASE_RATE = 2e-3  # fastai's default


def run(task: Task) -> Outcome:
    """`fine_tune` with fastai's defaults but for what the job says."""
    task.laps.start()
    task.network.requires_grad_(True)
    learner = learner_of(task)
    with learner.no_bar(), learner.no_logging():
        learner.fine_tune(task.job.epochs, base_lr=task.job.rate or BASE_RATE)
    return task.laps.outcome(float(learner.recorder.values[-1][-1]))
