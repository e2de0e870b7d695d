"""Magics in a real IPython shell: values, one-line errors, help, completion, cards, script."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlnb.core.planning.magic_lines import tokens
from tlnb.core.runtime.errors import UsageError
from tlnb.display import cards, live


def run(shell, cell: str):
    return shell.run_cell(cell)


def test_the_seven_lines(shell, capsys):
    lines = [
        "%tl_data digits --per-class 2",
        "%tl_load glyphnet",
        "%tl_freeze",
        "%tl_train --epochs 5",
        "%tl_train --scratch --epochs 2",
    ]
    cell = "\n".join(lines)
    result = run(shell, cell)
    result.raise_error()
    printed = capsys.readouterr().out
    assert [line.split()[0] for line in printed.splitlines()[:4]] == [
        "DataSet",
        "PretrainedModel",
        "Plan",
        "Run",
    ]
    assert result.result is shell.user_ns["tl"].runs[-1]
    result = run(shell, "%tl_compare  # side by side")
    assert result.result.run == "head" and result.result.baseline == "scratch"
    assert "test accuracy" in capsys.readouterr().out  # the table, in a terminal


def test_values_are_the_sessions(shell):
    tl = shell.user_ns["tl"]
    assert run(shell, "%tl").result is tl
    assert run(shell, "data = %tl_data digits --per-class 1").success
    assert shell.user_ns["data"] is tl.dataset
    assert run(shell, "%tl_load glyphnet;").result is None  # silenced
    assert run(shell, "%tl_layers --all").result.detailed
    assert run(shell, "%tl_strategy").result.suggested == "head"
    assert run(shell, "%tl_strategy partial --last 2").result.trained[-1] == "head"
    assert run(shell, "%tl_reset").result is tl and tl.dataset is None


def test_which_source_is_advised_by_name_pattern_or_variable(shell):
    run(shell, "%tl_data digits --per-class 2;").raise_error()
    run(shell, "from torch import nn\nmine = nn.Sequential(nn.Flatten(), nn.Linear(3072, 5))")
    named = run(shell, "%tl_advise --models mine glyphnet --budget 5min")
    assert "for advice on a strategy" in str(named.error_in_exec)
    advice = run(shell, "%tl_advise --models mine glyphnet").result
    assert {source.name for source in advice.sources} == {"mine", "glyphnet"}
    every = run(shell, "%tl_advise --models").result
    assert {"glyphnet-few", "efficientnet_lite0"} <= {source.name for source in every.sources}


def test_python_names_are_expanded(shell):
    run(shell, "n = 3").raise_error()
    run(shell, "%tl_data digits --per-class {n}").raise_error()
    assert shell.user_ns["tl"].dataset.per_class == 3


def test_own_module_by_variable(shell):
    run(
        shell, "from torch import nn\nglyphnet = nn.Sequential(nn.Flatten(), nn.Linear(3072, 4))"
    ).raise_error()
    model = run(shell, "%tl_load glyphnet --size 32").result
    assert model.card.family == "own" and "your own module" in shell.user_ns["tl"].script()


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("%tl_train", "%tl_data digits"),
        ("%tl_freeze", "%tl_load glyphnet"),
        ("%tl_data digits --per-clas 2", "did you mean --per-class"),
        ("%tl_data digits --per-class two", "invalid int value"),
        ("%tl_data digits --per-class 400", "use --per-class"),
        ("%tl_train --refit --no-refit", "--refit and --no-refit exclude each other"),
        ("%tl_forecast --no-refit --refit", "--refit and --no-refit exclude each other"),
        ("%tl_save --job a.json --refit --no-refit", "--refit and --no-refit exclude each other"),
        ("%tl_data", "source"),
        ("%tl_data no_such_folder", "is neither a data set nor a folder"),
        ("%tl_load glyphnat", "did you mean glyphnet"),
        ("%tl_load glyphnet --weights missing.safetensors", "the weights file"),
        ("%tl_models zzz", "no model matches"),
        ("%tl_compare --price cheap", "%tl_data"),
        ('%tl_data "unclosed', "neither a data set"),
    ],
)
def test_errors_are_one_line_and_change_nothing(shell, capsys, line, words):
    before = repr(shell.user_ns["tl"])
    result = run(shell, line)
    assert not result.success
    shown = re.sub(r"\x1b\[[0-9;]*m", "", "".join(capsys.readouterr())).strip()
    assert words in shown and len(shown.splitlines()) == 1 and "Traceback" not in shown
    assert repr(shell.user_ns["tl"]) == before


def test_a_damaged_weights_file_is_one_line(shell, capsys, tmp_path: Path):
    file = tmp_path / "w.safetensors"
    file.write_bytes(b"\x10\0\0\0\0\0\0\0{garbage}")
    run(shell, "%tl_load glyphnet")
    before = shell.user_ns["tl"].model
    capsys.readouterr()
    assert not run(shell, f"%tl_load glyphnet --weights {file}").success
    assert "is damaged" in capsys.readouterr().out
    assert shell.user_ns["tl"].model is before


def test_the_script_does_it_again(shell):
    lines = [
        "%tl_data digits --per-class 2 --seed 3",
        "%tl_load glyphnet",
        "%tl_strategy partial --last 1",
        "%tl_freeze *.bn1",
        "%tl_train --epochs 1 --lr head=0.01",
    ]
    for line in lines:
        run(shell, line).raise_error()
    script = run(shell, "%tl_script").result
    assert script.splitlines() == ["%load_ext tlnb", *lines]
    plan = shell.user_ns["tl"].plan
    run(shell, "%tl_reset")
    run(shell, script).raise_error()
    assert shell.user_ns["tl"].plan == plan


def test_completion(shell):
    run(shell, "%tl_data digits --per-class 1\n%tl_load glyphnet")
    complete = lambda line: shell.complete(line.split(" ")[-1], line, len(line))[1]  # noqa: E731
    assert "--per-class" in complete("%tl_data digits --per")
    assert "digits" in complete("%tl_data dig")
    assert "glyphnet-few" in complete("%tl_load glyphnet-f")
    assert "layer4" in complete("%tl_unfreeze layer")
    assert "output-frozen" in complete("%tl_strategy out")
    assert "glyphnet-few" in complete("%tl_advise --models glyphnet glyphnet-f")


def test_help_shows_an_example(shell):
    for name in shell.find_line_magic("tl_train").__self__.magics["line"]:
        assert "Example: " in shell.find_line_magic(name).__doc__


def test_every_value_has_a_card(shell, compared):
    html = shell.display_formatter.formatters["text/html"]
    tl = compared
    made = [
        tl.dataset,
        tl.models("glyph"),
        tl.model,
        tl.layers(),
        tl.layers(True),
        tl.plan,
        tl.strategy(),
        tl.compare(),
    ]
    values = [tl, tl.runs[0], tl.bill, *made]
    for value in values:
        text = html(value)
        assert text.count("<table") == text.count("</table") >= 1
        assert "\n" not in repr(value)
    assert 'alt="' in html(tl.runs[0]) and "data:image/png;base64," in html(tl.runs[0])


def test_hostile_names_are_escaped(shell, folder: Path):
    evil = folder / "<script>alert(1)<"
    (folder / "dark").rename(evil)
    data = shell.user_ns["tl"].data(str(folder))
    text = shell.display_formatter.formatters["text/html"](data)
    assert "<script" not in text and "&lt;script&gt;" in text


def test_run_names_are_text_in_charts_and_lines(small, trained_once):
    for name in ("$\\frac{", "_hidden", "a b", "-x"):
        small.train(epochs=1, name=name)
    shown = cards.comparison_card(small.compare())
    assert "$\\frac{" in shown and "_hidden" in shown
    assert small.script().splitlines()[-4:-1] == [
        "%tl_train --epochs 1 --name _hidden",
        '%tl_train --epochs 1 --name "a b"',
        "tl.train(epochs=1, name='-x')",
    ]
    for name in ("a\nb", "x" * 101, " x"):
        with pytest.raises(UsageError, match="is not a valid name"):
            small.train(epochs=1, name=name)


@given(
    st.lists(
        st.text(
            st.characters(
                codec="utf-8", exclude_characters="\"'\n\r;#", exclude_categories=["Z", "C"]
            ),
            min_size=1,
        )
    )
)
def test_plain_words_come_through_unchanged(words):
    assert tokens(" ".join(words)) == (words, False)


@given(st.text(st.characters(codec="utf-8")))
def test_any_line_can_be_split(line):
    words, silent = tokens(line)
    assert isinstance(silent, bool) and all(words)


def test_token_rules():
    assert tokens(r"C:\photos\new --size 32") == ([r"C:\photos\new", "--size", "32"], False)
    assert tokens("digits  # all of them") == (["digits"], False)
    assert tokens("a#b;") == (["a#b"], True)
    assert tokens('"my photos" --val 0.2 ;') == (["my photos", "--val", "0.2"], True)


def test_only_one_value_means_testing(monkeypatch):
    for value, expected in (("1", True), ("0", False), ("true", False), ("", False)):
        monkeypatch.setenv("TLNB_TESTING", value)
        assert live.testing() is expected
