"""Whatever is typed into a panel, nothing is raised."""

from __future__ import annotations

import functools
import inspect
from pathlib import Path

import pytest
import torch

from tests.conftest import picture
from tests.panels.held import GATE, ended
from tlnb.panels import panel_of
from tlnb.panels.train_panel import OPTIONS_WITH_LABELS, TrainPanel
from tlnb.session import PANELS, Session

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


TYPED = [
    each.name
    for each in OPTIONS_WITH_LABELS
    if not (each.choices or each.is_switch or each.either or each.name.startswith("seed"))
]


@pytest.mark.parametrize("control", TYPED)
@pytest.mark.parametrize("text", ["x", "-1", "nan", "1e999", "a=b=c", "\x00<script>", "9" * 30])
def test_nothing_typed_for_training_raises(held: Session, control: str, text: str):
    panel: TrainPanel = panel_of(held, "train")
    GATE.open.set()
    panel.controls["epochs"].value = "1"
    panel.controls[control].value = text
    if (control, text) == ("epochs", "9" * 30):
        return  # a number of epochs like any other
    panel.go.click()
    if held.background.training is not None:
        ended(held)
    assert panel.failure is None and "<script" not in panel.error.value
    assert panel.error.value or held.runs


HOSTILE = [
    "a\nprint(1)",
    "it's",
    'say "x"',
    "both ' and \"",
    "{1 + 1}",
    "$HOME",
    "${x}",
    "a;b",
    "a;",
    "a?",
    "# a",
    "-x",
    "--trust",
    "a\\",
    "\x1b[2J",
    "a b",
    "`ls`",
]


def heard(shell, monkeypatch, call: str, typed: str) -> list[object]:
    """The first words with which a cell of one line calls the session."""
    words: list[object] = []
    own = getattr(Session, call)
    with monkeypatch.context() as patch:

        def listening(*given: object, **options: object) -> None:
            _, first, *_ = inspect.signature(own).bind(*given, **options).arguments.values()
            words.append(first)

        patch.setattr(Session, call, functools.wraps(own)(listening))
        shell.run_cell(typed).raise_error()
    return words


@pytest.mark.parametrize("name", HOSTILE)
def test_a_panels_line_says_what_was_typed_whatever_it_is(shell, monkeypatch, name: str):
    panel = panel_of(shell.user_ns["tl"], "model")
    panel.find.value = name
    assert heard(shell, monkeypatch, "models", panel.did.value) == [name]


@pytest.mark.parametrize("name", [n for n in HOSTILE if n.isprintable()])
def test_a_panels_line_names_the_folder_that_was_taken(
    shell, tmp_path: Path, monkeypatch, name: str
):
    monkeypatch.chdir(tmp_path)
    for kind in "ab":
        for i in range(3):
            picture(tmp_path / name / kind / f"{i}.png", 60 + 10 * i)
    panel = panel_of(shell.user_ns["tl"], "data")
    panel.source.value, panel.folder.value, panel.amount.value = "another folder", name, "all"
    panel.take.click()
    assert panel.error.value == "" and heard(shell, monkeypatch, "data", panel.did.value) == [name]


def test_hostile_and_foreign_names_are_shown_as_they_are(
    session: Session, tmp_path: Path, monkeypatch
):
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
    images, labels = (
        torch.randint(0, 255, (4000, 3, 8, 8), dtype=torch.uint8).numpy(),
        list(range(1000)) * 4,
    )
    data, layers = panel_of(session, "data"), panel_of(session, "layers")
    session.data(images, labels)
    session.load("glyphnet")
    assert (
        data.error.value == layers.error.value == "" and "and 700 more classes" in data.view.value
    )
    assert len(data.view.value) < 1_000_000
    assert data.source.value == "arrays" and data.take.disabled  # they come from a cell
    data.source.value = "digits"
    assert not data.take.disabled


def test_an_error_is_no_longer_there_after_the_next_action(session: Session):
    panel = panel_of(session, "data")
    panel.source.value, panel.folder.value = "another folder", "no such folder"
    panel.take.click()
    assert "is neither a data set nor a folder" in panel.error.value and session.dataset is None
    panel.source.value = "digits"
    panel.take.click()
    assert panel.error.value == ""
