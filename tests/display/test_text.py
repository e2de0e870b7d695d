"""Cards as text in a terminal."""

from __future__ import annotations

import os

import pytest

from tlnb.display.text import TEXT, grid, terminal_text
from tlnb.session import Session

LINES = (
    "%tl_layers",
    "%tl_layers --all",
    "%tl_strategy",
    "%tl_models",
    "%tl_errors",
    "%tl_compare",
    "%tl_advise --models glyphnet*",
)


@pytest.fixture
def prompt(shell, compared: Session, monkeypatch: pytest.MonkeyPatch):
    """The seven lines were typed in a terminal of this many columns."""
    tl = shell.user_ns["tl"]
    tl.commit(compared.state)

    def typed(line: str, columns: int, capsys) -> str:
        monkeypatch.setattr("shutil.get_terminal_size", lambda *_: os.terminal_size((columns, 24)))
        capsys.readouterr()
        shell.run_cell(line).raise_error()
        return capsys.readouterr().out

    return typed


@pytest.mark.parametrize("line", LINES)
@pytest.mark.parametrize("columns", [40, 80, 120])
def test_tables_are_shown_and_nothing_is_wider_than_the_terminal(prompt, capsys, line, columns):
    printed = prompt(line, columns, capsys)
    lines = printed.splitlines()
    assert max(map(len, lines)) <= max(80, columns)
    assert any(set(each) == {"-", " "} for each in lines)  # under a table's head


def test_the_tables_hold_what_the_lines_are_typed_for(prompt, capsys):
    says = {
        "%tl_layers": ("layer4  frozen", "head    trains"),
        "%tl_strategy": ("partial", "a new output layer on a frozen network"),
        "%tl_models glyphnet*": ("glyphnet-few", "trained on"),
        "%tl_errors": (" of 70", "true class"),
        "%tl_compare": ("less work to", "test accuracy", "scratch", "work to"),
    }
    for line, words in says.items():
        printed = prompt(line, 80, capsys)
        for each in words:
            assert each in printed, (line, each, printed)


def test_columns_are_left_out_from_the_right_and_long_names_are_cut():
    rows = [["a very long name of a run, longer than most", "1", "2" * 30], ["b", "3", "4" * 30]]
    wide, narrow = (
        grid(["name", "x", "y"], rows, width=120),
        grid(["name", "x", "y"], rows, width=40),
    )
    assert rows[0][0] in wide and "2" * 30 in wide
    assert "a very long name o…" in narrow and "2" * 30 not in narrow and " 3" in narrow
    assert max(map(len, narrow.splitlines())) <= 40


def test_every_text_card_has_an_html_card():
    from tlnb.display.cards import HTML

    assert set(TEXT) <= set(HTML)


def test_a_notebook_keeps_one_line_beside_the_html(compared: Session):
    assert "\n" not in repr(compared.layers()) and "\n" in terminal_text(compared.layers(), 80)
