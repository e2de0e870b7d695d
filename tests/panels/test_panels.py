"""Panels without a browser: controls are set and clicked, the session answers."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path

import nbformat
import pytest
from torch import nn

from tests.panels.held import ended, lines
from tlnb.core.runtime.errors import PlanError, UsageError
from tlnb.panels import open_panel, panel_of
from tlnb.panels.card import VIEW
from tlnb.session import PANELS, Session

# ── the whole line ────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_whole_line_with_the_mouse(session: Session):
    data, model, layers, train, compare, use = (panel_of(session, name) for name in PANELS)
    data.take.click()
    assert session.dataset.name == "digits" and session.dataset.per_class == 2
    assert "little" in data.view.value and "data:image/png;base64," in data.view.value
    assert model.list.value == "name:glyphnet"
    model.go.click()
    assert session.model.name == "glyphnet"
    layers.strategies["partial"].click()
    assert session.plan.strategy == "partial" and layers.strategies["partial"].icon == "check"
    layers.strategies["head"].click()
    train.controls["epochs"].value = "5"
    train.go.click()
    assert ended(session).value is session.runs[0]
    assert "Proof" in train.view.value and train.stop.disabled and not train.go.disabled
    train.controls["epochs"].value = "2"
    train.scratch.click()
    ended(session)
    assert [r.baseline_of for r in session.runs] == [None, "head"]
    compare.go.click()
    ended(session)
    assert "Side by side on digits" in compare.view.value
    assert all(panel.error.value == "" for panel in (data, model, layers, train, compare, use))
    typed = [
        "%tl_data digits --per-class 2",
        "%tl_load glyphnet",
        "%tl_strategy partial",
        "%tl_strategy head",
        "%tl_train --epochs 5",
        "%tl_train --epochs 2 --scratch",
        "%tl_compare",
    ]
    assert lines(session) == typed
    assert {panel.did.value for panel in (data, model, layers, train, compare)} == {"%tl_compare"}


def test_all_panels_are_tabs_in_the_order_of_the_work(session: Session):
    tabs = panel_of(session, "all").box
    assert [tabs.get_title(i) for i in range(6)] == [
        "1 Data",
        "2 Model",
        "3 Layers",
        "4 Train",
        "5 Compare",
        "6 Use it",
    ]
    assert tabs.children == tuple(panel_of(session, name).box for name in PANELS)


def test_a_panel_reopened_is_the_session_as_it_is(session: Session):
    assert panel_of(session, "data") is panel_of(session, "data")
    session.data("digits", limit=40, seed=3)
    panel = panel_of(session, "data")
    assert (panel.source.value, panel.amount.value, panel.number.value, panel.seed.value) == (
        "digits",
        "limit",
        40,
        3,
    )


def test_a_call_from_elsewhere_updates_open_panels(session: Session):
    layers, train = panel_of(session, "layers"), panel_of(session, "train")
    assert layers.freeze.disabled and train.go.disabled
    session.data("digits", per_class=1)
    session.load("glyphnet")
    assert (
        not layers.freeze.disabled
        and not train.go.disabled
        and train.controls["epochs"].placeholder == "100"
    )
    session.unfreeze("layer4")
    assert [b.description for b in layers.buttons][-2:] == ["layer4: trains", "head: trains"]
    assert train.plan.value.count("custom") == 1 and layers.did.value == "%tl_unfreeze layer4"
    session.reset()
    assert layers.buttons == [] and layers.did.value == "" and train.go.disabled


# ── model ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_finding_and_sorting_networks(session: Session):
    panel = panel_of(session, "model")
    panel.find.value = "resnet*"
    assert (
        panel.list.value == "name:resnet18"
        and "IMAGENET1K_V1" in str(panel.weights.options) + panel.view.value
    )
    assert panel.did.value == "%tl_models resnet* --sort small" and lines(session) == []
    panel.sort.value = "accurate"
    assert next(v for _, v in panel.list.options) == "name:resnet152"
    panel.find.value = "no such network"
    assert panel.go.disabled and "no model matches" in panel.error.value
    panel.find.value = ""
    assert not panel.go.disabled and panel.error.value == ""


def test_own_networks_and_runs_can_be_loaded(small: Session, monkeypatch):
    own = nn.Sequential(nn.Flatten(), nn.Linear(3072, 10))
    monkeypatch.setattr("tlnb.panels.model_panel.user_names", lambda: {"mine": own, "_hidden": own})
    small.train(epochs=1)
    panel = panel_of(small, "model")
    values = [value for _, value in panel.list.options]
    assert "own:mine" in values and "run:head" in values and "own:_hidden" not in values
    panel.list.value = "run:head"
    assert panel.weights.disabled
    panel.go.click()
    assert small.model.name == "head" and panel.error.value == ""


# ── compare ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_target_and_price_follow(small: Session):
    small.train(epochs=3)
    panel = panel_of(small, "compare")
    assert (
        panel.target.disabled
        and panel.tuning.disabled
        and [v for _, v in panel.runs.options] == ["head"]
    )
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
    assert "is not a price" in panel.error.value
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
    says = {
        "data": "Panel: data",
        "train": "Run scratch",
        "compare": "head",
        "layers": "layer4",
    }.get(name, "glyphnet")
    assert bundle[VIEW]["model_id"] and says in bundle["text/html"]
    monkeypatch.setenv("TLNB_TESTING", "1")
    still = open_panel(compared, name)._repr_mimebundle_()
    assert (
        VIEW not in still
        and still["text/html"] == bundle["text/html"]
        and "\n" not in still["text/plain"]
    )


def test_a_page_made_of_a_notebook_holds_the_card(compared: Session):
    from nbconvert import HTMLExporter

    output = nbformat.v4.new_output(
        "execute_result", open_panel(compared, "layers")._repr_mimebundle_(), execution_count=1
    )
    book = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell("%tl_panel layers", outputs=[output])]
    )
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
    for path in (Path(__file__).parents[2] / "lessons").glob("*.ipynb"):
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
    tl.background.start("the training", lambda: tl.train(epochs=2))
    assert shell.run_cell("%tl_wait").result is tl.runs[0]
