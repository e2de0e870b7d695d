"""When a checkpoint is written, and what a kill costs."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.resuming import begun, own_home, same, stop_after  # noqa: F401 - a fixture of every test here
from tlnb.core.runtime.errors import UsageError
from tlnb.core.training import checkpoint, session_folder
from tlnb.core.training.checkpoint import Due
from tlnb.core.training.checkpoint_timing import count
from tlnb.session import Session

# ── when a checkpoint is written ──────────────────────────────────────────────────────────────────────────────────


@given(st.lists(st.floats(0.001, 30), min_size=1, max_size=60), st.floats(0, 20))
def test_a_kill_loses_no_more_than_is_at_risk_or_the_epoch_in_progress(
    took: list[float], at_risk: float
):
    """Epochs of a run take about as long; where one takes longer than the one before it, so much more may be lost."""
    now = [0.0]
    due, kept, before = Due(at_risk, lambda: now[0]), 0.0, None
    for seconds in took:
        now[0] += seconds
        expected = seconds if before is None else before
        assert now[0] - kept <= max(at_risk, expected) + max(0.0, seconds - expected) + 1e-9
        if due.after_epoch():
            due.written()
            kept = now[0]
        before = seconds


@pytest.mark.parametrize(("seconds", "writes"), [(0.01, 0), (0.5, 5), (3.0, 33), (12.0, 100)])
def test_an_epoch_of_milliseconds_earns_no_checkpoint_and_one_of_ten_seconds_its_own(
    seconds: float, writes: int
):
    now = [0.0]
    due, found = Due(10, lambda: now[0]), 0
    for _ in range(100):
        now[0] += seconds
        if due.after_epoch():
            due.written()
            found += 1
    assert found == writes == count(100, 100 * seconds, 10)  # as forecasts say


@pytest.mark.parametrize("text", ["soon", "-1", "nan"])
def test_what_is_no_number_of_seconds_gets_one_line(monkeypatch, text: str):
    monkeypatch.setenv("TLNB_AT_RISK", text)
    session = begun(strategy="head")
    with pytest.raises(UsageError, match=f"TLNB_AT_RISK={text} is not a number of seconds"):
        session.train(epochs=1)
    assert session.runs == []


@pytest.mark.parametrize("at_risk", ["0", "1000"])
def test_writing_more_or_less_often_changes_no_result(monkeypatch, at_risk: str):
    written: list[int] = []
    write = checkpoint.write
    monkeypatch.setattr(
        checkpoint, "write", lambda *a: (written.append(len(a[2].epochs)), write(*a))
    )
    monkeypatch.setenv("TLNB_AT_RISK", at_risk)
    run = begun(strategy="partial").train(epochs=3)
    assert written == ([1, 2, 3, 3] if at_risk == "0" else [3])  # what it changed comes last
    monkeypatch.delenv("TLNB_AT_RISK")
    same(run, begun(strategy="partial").train(epochs=3))


@pytest.mark.parametrize("raised", [KeyboardInterrupt, ValueError])
def test_what_cuts_a_run_short_in_the_middle_of_an_epoch_loses_none_that_was_over(
    monkeypatch, raised
):
    whole, session = begun().train(epochs=5, batch_size=8), begun()
    real, over = torch.nn.functional.cross_entropy, [0]
    session.report = lambda p: over.append(p.epoch) if p.phase == "training" else None

    def sometimes(scores, labels, *args, **kwargs):
        over[0] += over[-1] == 3
        if over[0] == 2:  # the second batch of the fourth epoch
            raise raised
        return real(scores, labels, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(torch.nn.functional, "cross_entropy", sometimes)
        if raised is KeyboardInterrupt:
            assert session.train(epochs=5, batch_size=8).status == "stopped"
        else:
            with pytest.raises(raised):
                session.train(epochs=5, batch_size=8)
    session.report = None
    assert len(checkpoint.read(session.store.folder.run_file("full"))[1].epochs) == 3
    session.store.close()
    same(Session().resume(), whole)


# ── a real kernel, killed ─────────────────────────────────────────────────────────────────────────────────────────

TRAIN = """
import torch
torch.set_num_threads(1)
from tlnb import tl
tl.data("digits", per_class=2); tl.load("glyphnet"); tl.strategy("partial")
print("ready", flush=True)
tl.report = lambda p: print(p.phase, p.epoch, flush=True)
tl.train(epochs=6)
"""


@pytest.mark.parametrize(("strategy", "amount"), [("full", 2), ("head", 20)])
@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_resumed_run_counts_what_another_had_cached(strategy: str, amount: int, elsewhere: bool):
    session = begun(amount, strategy)
    quick = {"epochs": 3, "augment": "none"}
    first, again = session.train(**quick), session.train(**quick)
    stop_after(session, 2, "refit" if amount == 20 else "training")
    stopped = session.train(**quick)
    assert stopped.status == "stopped"
    session.report = None
    if elsewhere:  # a later kernel, whose checkpoint says what had been found
        session.store.close()
        session = Session()
    resumed = session.resume()
    assert first.found_flops == {} and again.found_flops["caching"] > 0
    assert resumed.status == "finished" and resumed.name == stopped.name
    alone = sum(resumed.flops_alone.values())
    assert alone == pytest.approx(sum(first.flops_alone.values()))
    if not elsewhere:
        assert resumed.found_flops == pytest.approx(again.found_flops)


def killed(seconds: float) -> int:
    """A process that trains, killed so long after it began to; the last epoch that it said had ended."""
    every = {**os.environ, "TLNB_AT_RISK": "0"}  # each epoch is written
    process = subprocess.Popen(
        [sys.executable, "-c", TRAIN], stdout=subprocess.PIPE, text=True, env=every
    )
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    said = process.stdout.read().split("\n")
    process.wait()
    return max(
        (int(line.split()[1]) for line in said[:-1] if line.startswith("training")), default=0
    )


def test_a_killed_process_loses_at_most_the_epoch_in_progress():
    torch.set_num_threads(1)
    whole = begun(strategy="partial").train(epochs=6)
    draw = random.Random(0)
    for _ in range(4):  # `python -m benchmarks.kills` does it to real kernels, fifty times
        ended = killed(draw.uniform(0.05, 0.6))
        later = Session()
        folder = session_folder.find_session(None)
        kept = folder / "runs" / "partial.safetensors"
        epochs = len(checkpoint.read(kept)[1].epochs) if kept.exists() else 0
        assert epochs >= ended
        resumed = later.resume()
        if isinstance(resumed, Session):  # it had finished
            resumed = later.runs[-1]
        assert resumed.status == "finished" and len(resumed.epochs) == 6
        assert np.allclose(
            [e.train_loss for e in resumed.epochs], [e.train_loss for e in whole.epochs], atol=1e-4
        )
        later.store.close()
        for path in sorted(folder.rglob("*"), reverse=True):
            path.unlink() if path.is_file() else path.rmdir()
        folder.rmdir()
