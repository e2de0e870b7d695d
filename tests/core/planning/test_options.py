"""The options of a training: one list. Nothing is named here by hand, so that a new option is held to the same."""

from __future__ import annotations

import ast
import inspect
import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlnb.completion import completions
from tlnb.core.planning.magic_lines import tokens, train_line
from tlnb.core.planning.options import (
    OPTIONS,
    Asked,
    AskedOfTrain,
    CallOptions,
    Option,
    TrainOptions,
    option_named,
    options_asked,
    options_from,
)
from tlnb.core.planning.other_tools import meant_option
from tlnb.core.runtime.errors import UsageError
from tlnb.magic_options import options_of, parse, training
from tlnb.magics import TLMagics
from tlnb.panels import panel_of
from tlnb.session import Session
from tlnb.session.transcript import read_back

ROOT = Path(__file__).parents[3]
TRAINING_MAGICS = ("tl_train", "tl_forecast", "tl_save")

# ── every option at every door ────────────────────────────────────────────────────────────────────────────────────


def test_each_field_is_an_option_or_part_of_one():
    for kind in (TrainOptions, CallOptions):
        for each in fields(kind):
            known = option_named(each.metadata.get("part_of", each.name))
            assert known is not None and known in OPTIONS, each.name


@pytest.mark.parametrize("option", OPTIONS, ids=lambda each: each.name)
def test_each_option_is_at_every_door(option: Option, small: Session):
    for magic in TRAINING_MAGICS if not option.of_train else TRAINING_MAGICS[:1]:
        action = {o: a for a in getattr(TLMagics, magic).parser._actions for o in a.option_strings}
        assert action[f"--{option.flag}"].help == option.help
        page = (ROOT / "docs" / "magics" / f"{magic}.md").read_text("utf8")
        assert f"| `--{option.flag}{' ' if option.metavar else ''}{option.metavar}` |" in page
    parameter = inspect.signature(Session.train).parameters[option.name]
    assert parameter.default == option.default
    assert option.name in (AskedOfTrain if option.of_train else Asked).__annotations__
    panel = panel_of(small, "train")
    assert option.name in panel.controls or option.name == "scratch"  # which is a button
    assert (option.name in asdict(TrainOptions())) == option.in_job


def test_the_call_takes_nothing_that_is_not_in_the_list():
    assert set(inspect.signature(Session.train).parameters) - {"self"} == {o.name for o in OPTIONS}


@pytest.mark.parametrize("option", [o for o in OPTIONS if o.choices], ids=lambda each: each.name)
def test_choices_are_offered_and_nothing_else_is_taken(option: Option, small: Session):
    offered = completions(small, {}, f"%tl_train --{option.flag} ")
    assert offered == sorted(option.choices)
    assert tuple(panel_of(small, "train").controls[option.name].options)[-1] in (
        option.choices[-1],
        (option.choices[-1], option.choices[-1]),
    )
    with pytest.raises(UsageError, match=f"--{option.flag} nothing-like-it is not known"):
        small.train(**{option.name: "nothing-like-it"})


def test_what_other_tools_call_an_option_is_answered_with_ours():
    known = options_of(TLMagics.tl_train)
    for option in OPTIONS:
        for word in option.also:
            assert meant_option(f"--{word}", known) == f"--{option.flag}"


@pytest.mark.parametrize("option", [o for o in OPTIONS if o.bounds], ids=lambda each: each.name)
def test_bounds_are_kept(option: Option, small: Session):
    assert option.bounds is not None
    with pytest.raises(UsageError, match=f"--{option.flag} {option.bounds[0] - 1}"):
        small.train(**{option.name: option.bounds[0] - 1})


# ── there and back ────────────────────────────────────────────────────────────────────────────────────────────────

rates = st.floats(1e-6, 99, allow_nan=False)
words = st.text(st.characters(codec="utf8", exclude_categories=("C", "Z")), min_size=1, max_size=9)
by_stage = st.dictionaries(st.sampled_from(["stem", "layer1", "head"]), rates, min_size=1)


def values(option: Option) -> st.SearchStrategy[Any]:
    """What may be asked of an option."""
    if option.choices:
        return st.sampled_from(option.choices)
    if option.is_switch or option.either:
        return st.booleans()
    if option.name == "lr":
        return rates | by_stage
    least, most = option.bounds or (0, 1)
    if option.number is float:
        return st.floats(least, most, allow_nan=False)
    return st.integers(int(least), int(most)) if option.number is int else words


asked = st.fixed_dictionaries({}, optional={each.name: values(each) for each in OPTIONS})


def _read(line: str, magic: str = "tl_train") -> dict[str, Any]:
    return training(parse(getattr(TLMagics, magic), tokens(line.partition(" ")[2])[0]))


@given(asked)
def test_a_line_says_what_was_asked(asked: dict[str, Any]):
    """Magic line → options → job's JSON → options, and the line is written as it was read."""
    line = train_line(asked)
    again = _read(line) if line.startswith("%") else _called(line)
    assert train_line(again) == line
    options = options_asked(again)
    assert _alike(options, options_asked(asked))
    assert options_from(json.loads(json.dumps(asdict(options)))) == options
    for each in OPTIONS:
        if not each.in_job:
            assert each.typed(again.get(each.name, each.default)) == each.typed(
                asked.get(each.name, each.default)
            )


@given(asked)
def test_a_line_is_read_back_into_the_transcript(asked: dict[str, Any]):
    line = train_line(asked)
    assert read_back([line], Session) == [line]


def _called(line: str) -> dict[str, Any]:
    """The keywords of `tl.train(…)`, which stands where no magic can hold a value."""
    call = ast.parse(line, mode="eval").body
    assert isinstance(call, ast.Call) and ast.unparse(call.func) == "tl.train" and not call.args
    return {str(each.arg): ast.literal_eval(each.value) for each in call.keywords}


def _alike(one: TrainOptions, other: TrainOptions) -> bool:
    """Rates by stage are written with six digits."""
    pairs = zip(one.stage_lr, other.stage_lr, strict=True)
    close = all(a == b and x == pytest.approx(y, rel=1e-5) for (a, x), (b, y) in pairs)
    first, second = asdict(one), asdict(other)
    del first["stage_lr"], second["stage_lr"]
    return close and first == second
