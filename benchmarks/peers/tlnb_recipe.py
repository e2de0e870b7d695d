"""tlnb as it is used: its own recipe, with labels held out and a refit where it says so."""

from __future__ import annotations

import os
import tempfile
import time

from benchmarks.laps import Outcome
from benchmarks.work import Task
from tlnb.session import Session


def run(task: Task) -> Outcome:
    """Load data, set the strategy, train; caches and the session's folder are new."""
    job = task.job
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TLNB_CACHE"], os.environ["TLNB_HOME"] = f"{folder}/cache", f"{folder}/home"
        session = Session()
        session.load(job.model, job.weights, size=job.size)
        start, work = time.perf_counter(), time.process_time()
        session.data(job.data, seed=job.seed)
        session.strategy(job.strategy)
        done = session.train(seed=job.seed, device=job.device)
        seconds, work = time.perf_counter() - start, time.process_time() - work
    return Outcome(seconds, (), dict(done.seconds), 0, done.accuracy, processor=work)
