"""Training from a panel: on a thread, stopped, waited for, forecast, tuned."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest

from tests.panels.held import GATE, ended, lines, until
from tlnb.core.runtime import torch_lock
from tlnb.core.runtime.errors import UsageError
from tlnb.core.runtime.torch_lock import alone, give_way
from tlnb.panels import panel_of
from tlnb.panels.train_panel import TrainPanel
from tlnb.session import Session, background
from tlnb.session.lock import SessionLock

# ── training in the background ────────────────────────────────────────────────────────────────────────────────────


def test_while_it_trains_reading_is_allowed_and_changing_is_refused(held: Session):
    panel: TrainPanel = panel_of(held, "train")
    panel.controls["epochs"].value = "3"
    panel.go.click()
    until(lambda: GATE.steps)
    assert held.background.running and not panel.stop.disabled and panel.go.disabled
    assert held.layers().model == "net" and "tl_load" in str(held.script())
    plan = held.plan
    for call in (
        lambda: held.freeze("head"),
        lambda: held.data("digits"),
        lambda: held.load("glyphnet"),
        held.reset,
        held.train,
        lambda: held.strategy("head"),
        held.undo,
        held.resume,
    ):
        with pytest.raises(UsageError, match="the training is still at work.*%tl_stop"):
            call()
    assert held.plan is plan and held.runs == []
    layers = panel_of(held, "layers")
    layers.strategies["head"].click()
    assert "still at work" in layers.error.value
    GATE.open.set()
    assert held.wait().status == "finished" and len(held.runs) == 1
    assert lines(held)[-1] == "%tl_train --epochs 3"


def test_stop_keeps_what_there_is_and_go_on_ends_it(held: Session):
    panel: TrainPanel = panel_of(held, "train")
    panel.controls["epochs"].value = "400"
    GATE.open.set()
    panel.go.click()
    until(lambda: held.background.training.history)
    panel.stop.click()
    assert "stopping" in panel.live.value and panel.did.value == "%tl_stop"
    run = ended(held).value
    assert run.status == "stopped" and 0 < len(run.epochs) < 400 and not panel.resume.disabled
    assert "press Resume" in panel.error.value and "%tl_resume" in run.notes[-1]
    panel.resume.click()
    until(lambda: len(held.background.training.history) > 1)
    assert (
        held.stop().status == "stopped"
        and len(held.runs) == 1
        and len(held.runs[0].epochs) > len(run.epochs)
    )


def test_a_stop_before_the_first_epoch_ends(held: Session):
    panel = panel_of(held, "train")
    panel.go.click()
    until(lambda: GATE.steps)
    panel.stop.click()
    GATE.open.set()
    run = ended(held).value
    assert run.status == "stopped" and run.epochs == () and held.runs == [run]


def test_background_and_foreground_give_the_same(small: Session):
    small.load("glyphnet")
    small.add("before:head", "nn.Dropout(0.5)")
    here = small.train(epochs=4)
    there = small.background.start("the training", lambda: small.train(epochs=4))
    while there.running:
        small.strategy()  # counts FLOPs and draws random numbers meanwhile
    there.wait()
    assert [e.train_loss for e in here.epochs] == [e.train_loss for e in there.value.epochs]


def test_errors_in_the_thread_appear_in_the_panel(held: Session, monkeypatch):
    panel = panel_of(held, "train")
    panel.controls["lr"].value = "quick"
    panel.go.click()
    assert isinstance(ended(held).error, UsageError)
    assert "--lr quick is not a learning rate" in panel.error.value and held.runs == []
    monkeypatch.setattr("tlnb.session.trainings.train", lambda *_, **__: 1 / 0)
    panel.controls["lr"].value = ""
    panel.go.click()
    with pytest.raises(ZeroDivisionError):
        held.wait()
    assert "ZeroDivisionError" in panel.error.value and isinstance(panel.failure, ZeroDivisionError)
    assert not panel.go.disabled


def test_on_colab_it_trains_in_the_foreground(small: Session, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "google.colab", object())
    panel = panel_of(small, "train")
    panel.controls["epochs"].value = "1"
    panel.go.click()
    assert (
        small.background.training.thread is None
        and len(small.runs) == 1
        and "Proof" in panel.view.value
    )


def test_nothing_to_stop_or_to_wait_for(session: Session):
    for call in (session.stop, session.wait):
        with pytest.raises(UsageError, match="no training was started from a panel"):
            call()


def test_updates_come_at_most_five_times_a_second(monkeypatch):
    thread, now, seen = background.Background(SessionLock()), [100.0], []
    monkeypatch.setattr(background.time, "monotonic", lambda: now[0])
    thread.progressed.add(seen.append)
    report = thread._reporter(background.BackgroundCall("the training"))
    from tlnb.core.training.progress import Progress

    for epoch in range(1000):
        report(Progress(run="run", phase="training", epoch=epoch + 1, epochs=1000, loss=0.5))
        now[0] += 0.01
    assert len(seen) <= 51


def test_the_time_left_goes_by_the_pace(monkeypatch):
    from tlnb.core.training.progress import Progress

    training, now = background.BackgroundCall("the training"), [0.0]
    monkeypatch.setattr(background.time, "monotonic", lambda: now[0])
    assert training.left is None
    for epoch in range(1, 6):
        now[0] = 2.0 * epoch
        training.note(
            Progress(run="run", phase="training", epoch=epoch, epochs=10, loss=0.1, accuracy=0.5)
        )
    assert training.left == pytest.approx(10.0)


def test_those_who_wait_get_their_turn_between_steps():
    order: list[str] = []
    inside = threading.Event()

    def train() -> None:
        with alone():
            inside.set()
            until(lambda: torch_lock._waiting)
            order.append("step")
            give_way()
            order.append("step")

    thread = threading.Thread(target=train)
    thread.start()
    inside.wait()
    with alone():
        order.append("other")
    thread.join()
    assert order == ["step", "other", "step"]


# ── forecasts and tuning ──────────────────────────────────────────────────────────────────────────────────────────


def test_a_forecast_is_shown_and_belongs_to_its_plan(small: Session):
    layers, train = panel_of(small, "layers"), panel_of(small, "train")
    assert "not predicted for this plan" in layers.shares.value
    layers.predict.click()
    assert "in all (forecast)" in layers.shares.value and lines(small)[-1] == "%tl_forecast"
    layers.strategies["full"].click()
    assert "not predicted for this plan" in layers.shares.value
    layers.strategies["head"].click()
    assert "in all (forecast)" in layers.shares.value
    train.controls["epochs"].value = "3"
    train.ask.click()
    assert "orecast" in train.live.value and lines(small)[-1] == "%tl_forecast --epochs 3"
    assert train.error.value == ""


def test_tuning_counts_in_or_out(small: Session):
    from tlnb.core.costs.bill import Charge

    small.train(epochs=1)
    panel = panel_of(small, "compare")
    assert panel.tuning.disabled
    tuning = Charge(
        phase="training", seconds=7200.0, flops=0.0, wh=0.0, money=0.0, run="tuning", kind="tuning"
    )
    small.commit(replace(small.state, bill=small.bill.with_charge(tuning)))
    panel.refresh()
    assert (
        not panel.tuning.disabled
        and "with tuning" in panel.bill.value
        and "2.0 h" in panel.bill.value
    )
    panel.tuning.value = False
    assert "2.0 h" not in panel.bill.value
    panel.tuning.value = True
    panel.go.click()
    ended(small)
    assert lines(small)[-1] == "%tl_compare --tuning in"
