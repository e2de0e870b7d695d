"""fastai's `fine_tune`: the new head alone for an epoch, then the whole network."""

from __future__ import annotations

from fastai.vision.all import CrossEntropyLossFlat, ImageDataLoaders, Learner, accuracy

from benchmarks.laps import Outcome
from benchmarks.peers.fastai import Watch, _groups, _transforms
from benchmarks.peers.loading import workers
from benchmarks.work import Task


def run(task: Task) -> Outcome:
    """`fine_tune` with fastai's defaults."""
    job, laps = task.job, task.laps
    laps.start()
    data = ImageDataLoaders.from_folder(
        job.data,
        train="train",
        valid="val",
        bs=job.batch_size,
        device=job.device,
        num_workers=workers(job.threads),
        **_transforms(task),
    )
    learner = Learner(
        data,
        task.network.requires_grad_(True),
        CrossEntropyLossFlat(),
        metrics=accuracy,
        splitter=lambda network: _groups(network, task.trained),
        cbs=Watch(laps),
    )
    with learner.no_bar(), learner.no_logging():
        learner.fine_tune(job.epochs)
    return laps.outcome(float(learner.recorder.values[-1][-1]))
