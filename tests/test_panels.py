"""Panels without a browser: controls are set and clicked, the session answers, whatever is typed."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from pathlib import Path

import nbformat
import pytest
import torch
from torch import nn

from tests.conftest import picture
from tlnb import background
from tlnb.core.alone import alone, give_way
from tlnb.core.errors import PlanError, UsageError
from tlnb.core.meter import step_flops
from tlnb.panels import open_panel, panel_of
from tlnb.panels.card import VIEW
from tlnb.panels.layers import LayersPanel
from tlnb.panels.train import TrainPanel
from tlnb.session import PANELS, Session


@pytest.fixture(autouse=True)
def as_a_user_has_it(monkeypatch, tmp_path: Path):
    monkeypatch.delenv("TLNB_TESTING")
    monkeypatch.setenv("TLNB_HOME", str(tmp_path / "home"))


def lines(session: Session) -> list[str]:
    return str(session.script()).splitlines()[1:]


def ended(session: Session) -> background.Training:
    """The last training, once it and what it led to have ended."""
    while True:
        training = session.turn.training
        assert training is not None and training.wait(60)
        if training is session.turn.training:
            return training


class Held(nn.Module):
    """A network whose every step waits until it may go on."""

    def __init__(self) -> None:
        super().__init__()
        self.flat, self.head = nn.Flatten(), nn.Linear(3072, 10)
        self.drop = nn.Dropout(0.5)

    def forward(self, x):
        if GATE.armed and self.training:
            GATE.steps += 1
            GATE.open.wait(20)
        return self.head(self.drop(self.flat(x)))


class Gate:
    def __init__(self) -> None:
        self.open, self.armed, self.steps = threading.Event(), False, 0


GATE = Gate()


@pytest.fixture
def held(session: Session):
    """A session whose training stands still until GATE opens."""
    GATE.open, GATE.armed, GATE.steps = threading.Event(), False, 0
    session.data("digits", per_class=2)
    session.load(Held(), size=32, called="net")
    session.strategy("full")
    GATE.armed = True
    yield session
    GATE.open.set()
    if session.turn.training is not None:
        session.turn.training.wait(60)
    GATE.armed = False


def until(true, seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.005)


# ── the whole line ────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_whole_line_with_the_mouse(session: Session):
    data, model, layers, train, compare = (panel_of(session, name) for name in PANELS)
    data.take.click()
    assert session.dataset.name == "digits" and session.dataset.per_class == 2
    assert "little" in data.view.value and "data:image/png;base64," in data.view.value
    assert model.list.value == "name:glyphnet"
    model.go.click()
    assert session.model.name == "glyphnet"
    layers.strategies["partial"].click()
    assert session.plan.strategy == "partial" and layers.strategies["partial"].icon == "check"
    layers.strategies["head"].click()
    train.epochs.value = "5"
    train.go.click()
    assert ended(session).value is session.runs[0]
    assert "Proof" in train.view.value and train.stop.disabled and not train.go.disabled
    train.epochs.value = "2"
    train.scratch.click()
    ended(session)
    assert [r.baseline_of for r in session.runs] == [None, "head"]
    compare.go.click()
    ended(session)
    assert "Side by side on digits" in compare.view.value
    assert all(panel.error.value == "" for panel in (data, model, layers, train, compare))
    typed = ["%tl_data digits --per-class 2", "%tl_load glyphnet", "%tl_strategy partial", "%tl_strategy head",
             "%tl_train --epochs 5", "%tl_train --epochs 2 --scratch", "%tl_compare"]  # fmt: skip
    assert lines(session) == typed
    assert {panel.did.value for panel in (data, model, layers, train, compare)} == {"%tl_compare"}


def test_all_panels_are_tabs_in_the_order_of_the_work(session: Session):
    tabs = panel_of(session, "all").box
    assert [tabs.get_title(i) for i in range(5)] == ["1 Data", "2 Model", "3 Layers", "4 Train", "5 Compare"]
    assert tabs.children == tuple(panel_of(session, name).box for name in PANELS)


def test_a_panel_reopened_is_the_session_as_it_is(session: Session):
    assert panel_of(session, "data") is panel_of(session, "data")
    session.data("digits", limit=40, seed=3)
    panel = panel_of(session, "data")
    assert (panel.source.value, panel.amount.value, panel.number.value, panel.seed.value) == ("digits", "limit", 40, 3)


def test_a_call_from_elsewhere_updates_open_panels(session: Session):
    layers, train = panel_of(session, "layers"), panel_of(session, "train")
    assert layers.freeze.disabled and train.go.disabled
    session.data("digits", per_class=1)
    session.load("glyphnet")
    assert not layers.freeze.disabled and not train.go.disabled and train.epochs.placeholder == "100"
    session.unfreeze("layer4")
    assert [b.description for b in layers.buttons][-2:] == ["layer4: trains", "head: trains"]
    assert train.plan.value.count("custom") == 1 and layers.did.value == "%tl_unfreeze layer4"
    session.reset()
    assert layers.buttons == [] and layers.did.value == "" and train.go.disabled


# ── layers ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_stages_patterns_edits_and_undo(small: Session):
    panel: LayersPanel = panel_of(small, "layers")
    next(b for b in panel.buttons if b.description.startswith("layer4")).click()
    assert "layer4.conv1" in small.plan.trained and panel.undo.disabled is False
    panel.pattern.value = "*.bn1"
    panel.freeze.click()
    assert "layer4: 1 of 6 frozen" in [b.description for b in panel.buttons]
    assert "layer4.bn1" in small.plan.frozen
    panel.kind.value, panel.part.value, panel.code.value = "before", "head", "nn.Dropout(0.2)"
    panel.apply.click()
    assert lines(small)[-1] == "%tl_add before:head nn.Dropout(0.2)" and "nn.Dropout" in panel.notes.value
    panel.kind.value = "remove"
    assert panel.code.disabled
    panel.undo.click()
    assert lines(small)[-1] == "%tl_undo" and "Dropout" not in panel.notes.value
    assert panel.error.value == ""


def test_a_partly_frozen_stage_trains_after_a_click(small: Session):
    panel = panel_of(small, "layers")
    small.strategy("full")
    small.freeze("layer4.bn1")
    button = next(b for b in panel.buttons if b.description.startswith("layer4"))
    assert "1 of" in button.description
    button.click()
    assert button.description == "layer4: trains"


def test_the_last_thing_that_trains_cannot_be_frozen_and_the_panel_says_why(small: Session):
    panel = panel_of(small, "layers")
    before = small.plan
    next(b for b in panel.buttons if b.description.startswith("head")).click()
    assert "everything in glyphnet is frozen" in panel.error.value and 'role="alert"' in panel.error.value
    assert small.plan is before
    panel.strategies["full"].click()
    assert panel.error.value == ""


@pytest.mark.parametrize("strategy", ["head", "partial", "full"])
def test_a_steps_share_is_what_counting_says(small: Session, strategy: str):
    from tlnb.core.edit import build
    from tlnb.core.freeze import set_modes

    small.strategy(strategy)
    network = build(small.model, small.plan.edits, "pretrained", 0)
    set_modes(network, set(small.plan.trained))
    counted = step_flops(network, small.model.transform.example(2))
    assert small.layers().step_flops == pytest.approx(counted, rel=0.02)


def test_a_thousand_layers(session: Session):
    deep = nn.Sequential(nn.Flatten(), *[nn.Linear(48 if i else 3072, 48) for i in range(999)], nn.Linear(48, 10))
    session.load(deep, size=32, called="deep")
    panel = panel_of(session, "layers")
    panel.pattern.value = "500..600"
    panel.unfreeze.click()
    assert len(session.plan.trained) == 102 and panel.error.value == ""
    panel.every.click()
    assert panel.detail.value.count("<tr>") > 1000
    assert len(panel.part.options) <= 400


def test_three_layers(session: Session):
    session.load(
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)),
        size=32,
        called="tiny",
    )
    panel = panel_of(session, "layers")
    assert panel.error.value == "" and "<svg" in panel.drawing.value


# ── what is typed ─────────────────────────────────────────────────────────────────────────────────────────────────

NASTY = [
    "",
    " ",
    "x",
    "-1",
    "0",
    "1e999",
    "nan",
    "1,5",
    "%",
    "{}",
    "'\"",
    "<script>",
    "../..",
    "\x00",
    "日本",
    "a" * 5000,
    "1" * 400,
]


@pytest.mark.parametrize("text", NASTY)
def test_nothing_typed_raises(small: Session, text: str, tmp_path: Path, monkeypatch):
    (tmp_path / "a" / "b").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "a" / "b")  # so that ../.. is not half of this disk
    panels = {name: panel_of(small, name) for name in PANELS}
    panels["data"].source.value, panels["data"].folder.value = "another folder", text
    panels["data"].take.click()
    panels["model"].find.value = text
    for control in (panels["layers"].pattern, panels["layers"].part, panels["layers"].code):
        control.value = text
    for button in (panels["layers"].freeze, panels["layers"].unfreeze):
        button.click()
    for kind in ("after", "before", "replace", "remove"):
        panels["layers"].kind.value = kind
        panels["layers"].apply.click()
        panels["layers"].part.value = "head"
    panels["compare"].price.value = text
    panels["compare"].go.click()
    for panel in panels.values():
        panel.did.value = text
        assert "<script" not in panel.error.value and panel.failure is None
        assert panel.did.value == panel._last


@pytest.mark.parametrize("control", ["epochs", "lr", "batch", "decay", "name"])
@pytest.mark.parametrize("text", ["x", "-1", "nan", "1e999", "a=b=c", "\x00<script>", "9" * 30])
def test_nothing_typed_for_training_raises(held: Session, control: str, text: str):
    panel: TrainPanel = panel_of(held, "train")
    GATE.open.set()
    panel.epochs.value = "1"
    getattr(panel, control).value = text
    if (control, text) == ("epochs", "9" * 30):
        return  # a number of epochs like any other
    panel.go.click()
    if held.turn.training is not None:
        ended(held)
    assert panel.failure is None and "<script" not in panel.error.value
    assert panel.error.value or held.runs


def test_hostile_and_foreign_names_are_shown_as_they_are(session: Session, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("<img src=x onerror=alert(1)>", "Äpfel & Birnen", "français"):
        for i in range(4):
            picture(tmp_path / "fotos" / name / f"{i}.png", 60 + 10 * i)
    panel = panel_of(session, "data")
    panel.fill()
    assert ("fotos/", "fotos") in panel.source.options
    panel.source.value = "fotos"
    panel.amount.value = "all"
    assert panel.number.disabled
    panel.take.click()
    assert panel.error.value == "" and session.dataset.classes[0].startswith("<img")
    assert "<img src=x" not in panel.view.value and "Äpfel &amp; Birnen" in panel.view.value


def test_a_thousand_classes(session: Session):
    images, labels = torch.randint(0, 255, (4000, 3, 8, 8), dtype=torch.uint8).numpy(), list(range(1000)) * 4
    data, layers = panel_of(session, "data"), panel_of(session, "layers")
    session.data(images, labels)
    session.load("glyphnet")
    assert data.error.value == layers.error.value == "" and "and 700 more classes" in data.view.value
    assert len(data.view.value) < 1_000_000
    assert data.source.value == "arrays" and data.take.disabled  # they come from a cell
    data.source.value = "digits"
    assert not data.take.disabled


def test_an_error_is_no_longer_there_after_the_next_action(session: Session):
    panel = panel_of(session, "data")
    panel.source.value, panel.folder.value = "another folder", "no such folder"
    panel.take.click()
    assert "no data set and no folder" in panel.error.value and session.dataset is None
    panel.source.value = "digits"
    panel.take.click()
    assert panel.error.value == ""


# ── model ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_finding_and_sorting_networks(session: Session):
    panel = panel_of(session, "model")
    panel.find.value = "resnet*"
    assert panel.list.value == "name:resnet18" and "IMAGENET1K_V1" in str(panel.weights.options) + panel.view.value
    assert panel.did.value == "%tl_models resnet* --sort small" and lines(session) == []
    panel.sort.value = "accurate"
    assert next(v for _, v in panel.list.options) == "name:resnet152"
    panel.find.value = "no such network"
    assert panel.go.disabled and "no model matches" in panel.error.value
    panel.find.value = ""
    assert not panel.go.disabled and panel.error.value == ""


def test_own_networks_and_runs_can_be_loaded(small: Session, monkeypatch):
    own = nn.Sequential(nn.Flatten(), nn.Linear(3072, 10))
    monkeypatch.setattr("tlnb.panels.model.user_names", lambda: {"mine": own, "_hidden": own})
    small.train(epochs=1)
    panel = panel_of(small, "model")
    values = [value for _, value in panel.list.options]
    assert "own:mine" in values and "run:head" in values and "own:_hidden" not in values
    panel.list.value = "run:head"
    assert panel.weights.disabled
    panel.go.click()
    assert small.model.name == "head" and panel.error.value == ""


# ── training in the background ────────────────────────────────────────────────────────────────────────────────────


def test_while_it_trains_reading_is_allowed_and_changing_is_refused(held: Session):
    panel: TrainPanel = panel_of(held, "train")
    panel.epochs.value = "3"
    panel.go.click()
    until(lambda: GATE.steps)
    assert held.turn.running and not panel.stop.disabled and panel.go.disabled
    assert held.layers().model == "net" and "tl_load" in str(held.script())
    plan = held.plan
    for call in (lambda: held.freeze("head"), lambda: held.data("digits"), lambda: held.load("glyphnet"), held.reset, held.train,
                 lambda: held.strategy("head"), held.undo, held.resume):  # fmt: skip
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
    panel.epochs.value = "400"
    GATE.open.set()
    panel.go.click()
    until(lambda: held.turn.training.history)
    panel.stop.click()
    assert "stopping" in panel.live.value and panel.did.value == "%tl_stop"
    run = ended(held).value
    assert run.status == "stopped" and 0 < len(run.epochs) < 400 and not panel.resume.disabled
    assert "Go on" in panel.error.value and "%tl_resume" in run.notes[-1]
    panel.resume.click()
    until(lambda: len(held.turn.training.history) > 1)
    assert held.stop().status == "stopped" and len(held.runs) == 1 and len(held.runs[0].epochs) > len(run.epochs)


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
    there = small.turn.start("the training", lambda: small.train(epochs=4))
    while there.running:
        small.strategy()  # counts FLOPs and draws random numbers meanwhile
    there.wait()
    assert [e.train_loss for e in here.epochs] == [e.train_loss for e in there.value.epochs]


def test_errors_in_the_thread_appear_in_the_panel(held: Session, monkeypatch):
    panel = panel_of(held, "train")
    panel.lr.value = "quick"
    panel.go.click()
    assert isinstance(ended(held).error, UsageError)
    assert "--lr quick is no learning rate" in panel.error.value and held.runs == []
    monkeypatch.setattr("tlnb.session.train", lambda *_, **__: 1 / 0)
    panel.lr.value = ""
    panel.go.click()
    with pytest.raises(ZeroDivisionError):
        held.wait()
    assert "ZeroDivisionError" in panel.error.value and isinstance(panel.failure, ZeroDivisionError)
    assert not panel.go.disabled


def test_on_colab_it_trains_in_the_foreground(small: Session, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "google.colab", object())
    panel = panel_of(small, "train")
    panel.epochs.value = "1"
    panel.go.click()
    assert small.turn.training.thread is None and len(small.runs) == 1 and "Proof" in panel.view.value


def test_nothing_to_stop_or_to_wait_for(session: Session):
    for call in (session.stop, session.wait):
        with pytest.raises(UsageError, match="no training was started from a panel"):
            call()


def test_updates_come_at_most_five_times_a_second(monkeypatch):
    turn, now, seen = background.Turn(), [100.0], []
    monkeypatch.setattr(background.time, "monotonic", lambda: now[0])
    turn.progressed.add(seen.append)
    report = turn._reporter(background.Training("the training"))
    from tlnb.core.train import Progress

    for epoch in range(1000):
        report(Progress("run", "training", epoch + 1, 1000, 0.5))
        now[0] += 0.01
    assert len(seen) <= 51


def test_the_time_left_goes_by_the_pace(monkeypatch):
    from tlnb.core.train import Progress

    training, now = background.Training("the training"), [0.0]
    monkeypatch.setattr(background.time, "monotonic", lambda: now[0])
    assert training.left is None
    for epoch in range(1, 6):
        now[0] = 2.0 * epoch
        training.note(Progress("run", "training", epoch, 10, 0.1, 0.5))
    assert training.left == pytest.approx(10.0)


def test_those_who_wait_get_their_turn_between_steps():
    order: list[str] = []
    inside = threading.Event()

    def train() -> None:
        with alone():
            inside.set()
            until(lambda: __import__("tlnb.core.alone").core.alone._waiting)
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


# ── compare ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_target_and_price_follow(small: Session):
    small.train(epochs=3)
    panel = panel_of(small, "compare")
    assert panel.target.disabled and panel.tuning.disabled and [v for _, v in panel.runs.options] == ["head"]
    panel.go.click()
    ended(small)
    panel.own.value = True
    panel.target.value = 0.5
    panel.price.value = "3usd/h"
    ended(small)
    assert lines(small)[-1] == "%tl_compare --target 0.5 --price 3usd/h"
    assert "50.0%" in panel.view.value and "3 usd an hour" in panel.view.value
    small.train(epochs=1)
    assert panel.runs.value == ("head", "head-2") and "new runs" in panel.stale.value
    panel.runs.value = ("head-2",)
    ended(small)
    assert lines(small)[-1] == "%tl_compare head-2 --target 0.5 --price 3usd/h"
    panel.price.value = "cheap"
    ended(small)
    assert "is no price" in panel.error.value
    small.data("digits", per_class=3)
    assert panel.runs.options == () and panel.go.disabled and "Side by side" not in panel.view.value


# ── the session as a cell, cards, letting go ──────────────────────────────────────────────────────────────────────


def test_the_session_as_a_cell(small: Session):
    panel = panel_of(small, "model")
    panel.hand_over.click()
    assert panel.script.value == "%load_ext tlnb\n%tl_data digits --per-class 2\n%tl_load glyphnet"
    small.strategy("full")
    assert panel.script.value.endswith("%tl_strategy full")
    panel.hand_over.click()
    assert panel.script.layout.display == "none"


@pytest.mark.parametrize("name", [None, *PANELS])
def test_the_card_says_the_same_without_widgets(compared: Session, name, monkeypatch):
    shown = open_panel(compared, name)
    bundle = shown._repr_mimebundle_()
    says = {"data": "Panel: data", "train": "Run scratch", "compare": "head", "layers": "layer4"}.get(name, "glyphnet")
    assert bundle[VIEW]["model_id"] and says in bundle["text/html"]
    monkeypatch.setenv("TLNB_TESTING", "1")
    still = open_panel(compared, name)._repr_mimebundle_()
    assert VIEW not in still and still["text/html"] == bundle["text/html"] and "\n" not in still["text/plain"]


def test_a_page_made_of_a_notebook_holds_the_card(compared: Session):
    from nbconvert import HTMLExporter

    output = nbformat.v4.new_output(
        "execute_result", open_panel(compared, "layers")._repr_mimebundle_(), execution_count=1
    )
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("%tl_panel layers", outputs=[output])])
    page, _ = HTMLExporter().from_notebook_node(book)
    assert "glyphnet, from input to output" in page and "widget-view" not in page


def test_without_ipywidgets_there_is_a_card(small: Session, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ipywidgets", None)
    shown = small.panel("layers")
    assert shown.box is None and "layer4" in shown.html and "no widgets here" in repr(shown)


def test_an_unknown_panel(session: Session):
    with pytest.raises(UsageError, match="did you mean train"):
        session.panel("trian")


def test_committed_lessons_hold_no_widgets():
    for path in (Path(__file__).parents[1] / "lessons").glob("*.ipynb"):
        book = nbformat.read(path, as_version=4)
        assert "widgets" not in book.metadata
        for cell in book.cells:
            assert all(VIEW not in output.get("data", {}) for output in cell.get("outputs", []))


def test_a_session_can_go_while_its_panels_are_shown():
    session = Session()
    box = session.panel("layers").box
    gone = weakref.ref(session)
    del session
    gc.collect()
    assert gone() is None
    box.tlnb_panel.refresh()
    box.tlnb_panel.close()


def test_whoever_is_gone_is_not_called(session: Session):
    class Seen:
        calls = 0

        def change(self) -> None:
            Seen.calls += 1

    seen = Seen()
    session.watch(seen.change)
    session.data("digits", per_class=1)
    assert Seen.calls == 1
    with pytest.raises(PlanError):
        session.load("glyphnet").name and session.unfreeze()
    assert Seen.calls == 2  # a call that failed changed nothing
    del seen
    session.reset()
    assert Seen.calls == 2


def test_the_magics(shell, capsys):
    shell.run_cell("%tl_data digits --per-class 1\n%tl_load glyphnet").raise_error()
    result = shell.run_cell("%tl_panel layers")
    assert result.result.name == "layers"
    capsys.readouterr()
    assert not shell.run_cell("%tl_panel lairs").success
    assert "did you mean layers" in capsys.readouterr().out
    for line in ("%tl_stop", "%tl_wait"):
        assert not shell.run_cell(line).success
        assert len(capsys.readouterr().out.strip().splitlines()) == 1
    tl = shell.user_ns["tl"]
    tl.turn.start("the training", lambda: tl.train(epochs=2))
    assert shell.run_cell("%tl_wait").result is tl.runs[0]


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
    train.epochs.value = "3"
    train.ask.click()
    assert "orecast" in train.live.value and lines(small)[-1] == "%tl_forecast --epochs 3"
    assert train.error.value == ""


def test_tuning_counts_in_or_out(small: Session):
    from tlnb.core.cost import Charge

    small.train(epochs=1)
    panel = panel_of(small, "compare")
    assert panel.tuning.disabled
    small.bill = small.bill.with_charge(Charge("training", 7200.0, 0.0, 0.0, 0.0, run="tuning", kind="tuning"))
    panel.refresh()
    assert not panel.tuning.disabled and "with tuning" in panel.bill.value and "2.0 h" in panel.bill.value
    panel.tuning.value = False
    assert "2.0 h" not in panel.bill.value
    panel.tuning.value = True
    panel.go.click()
    ended(small)
    assert lines(small)[-1] == "%tl_compare --tuning in"
