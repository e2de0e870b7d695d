"""tlnb, through the session calls that its magics make."""

from __future__ import annotations

import os
import tempfile
import time
from dataclasses import replace

from benchmarks.laps import Outcome
from benchmarks.work import Task
from tlnb.core.training.run import Run
from tlnb.session import Session


def run(task: Task) -> Outcome:
    """Load data, set the strategy, train; on request, train again in the same session.

    Caches and the session's folder are new.
    """
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TLNB_CACHE"], os.environ["TLNB_HOME"] = f"{folder}/cache", f"{folder}/home"
        return _timed(task)


def _timed(task: Task) -> Outcome:
    job = task.job
    session = Session()
    session.load(job.model, job.weights, size=job.size)
    task.network.cpu()  # tlnb builds its own network: this one would only occupy memory
    task.laps.start()
    start = time.perf_counter()
    session.data(job.data, val=0.0)  # all training images teach, as in the others
    decoding = time.perf_counter() - start
    session.strategy(job.strategy)
    done = _train(session, task)
    total = time.perf_counter() - start
    seconds = [epoch.seconds for epoch in done.epochs]  # of training; the rest is in the fixed part
    images = len(seconds) * len(session.dataset.labels["train"])
    parts = {"loading": decoding, **done.seconds}
    if job.device.startswith(
        "cuda"
    ):  # as for the others: the first epoch wakes the GPU's libraries
        parts["training"], images = seconds[-1], images // len(seconds)
    outcome = Outcome(total - sum(seconds), tuple(seconds), parts, images, done.accuracy)
    return replace(outcome, again=_again(session, task)) if job.again else outcome


def _train(session: Session, task: Task) -> Run:
    """Train; a run synchronises the device before it ends."""
    job = task.job
    return session.train(
        epochs=job.epochs,
        batch_size=job.batch_size,
        augment=None if job.augment == "recipe" else job.augment,
        seed=job.seed,
        device=job.device,
    )


def _again(session: Session, task: Task) -> float:
    """Seconds of the same training repeated."""
    start = time.perf_counter()
    _train(session, task)
    return time.perf_counter() - start
