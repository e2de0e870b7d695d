"""Texts: magic lines, patterns, code of edits, amounts, and what becomes of names in scripts."""

from __future__ import annotations

import ast
import copy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.fuzz.cases import fuzz, number, one_line_or, text
from tlnb.core.costs.prices import Price, parse_budget, parse_price
from tlnb.core.data.dataset import DataFacts
from tlnb.core.data.groups import _by_pattern
from tlnb.core.data.request import DataRequest
from tlnb.core.export.pytorch_script.script_facts import Script
from tlnb.core.planning.edit import is_literal, modules_matching, names_in
from tlnb.core.planning.magic_lines import line, tokens
from tlnb.core.planning.options import parse_rates
from tlnb.core.planning.plan import match
from tlnb.core.runtime.errors import UsageError, one_line
from tlnb.magics import TLMagics
from tlnb.session import Session
from tlnb.session.exports import script_of

# ── lines ─────────────────────────────────────────────────────────────────────────────────────────────────────────

OPTIONS = sorted(
    {
        o
        for n in dir(TLMagics)
        if n.startswith("tl") and hasattr(getattr(TLMagics, n), "parser")
        for a in getattr(TLMagics, n).parser._actions
        for o in a.option_strings
        if o.startswith("--")
    }
)

MAGICS = sorted(n for n in dir(TLMagics) if n.startswith("tl"))

HEAVY = {"tl_models"}  # right, and slow: a case in twenty

words = st.one_of(
    st.sampled_from(OPTIONS),
    text,
    number.map(str),
    st.sampled_from(
        [
            "digits",
            "symbols",
            "glyphnet",
            "head",
            "partial",
            "layer2",
            "before:head",
            "after:layer1",
            "nn.Dropout(0.2)",
            "nn.Identity()",
            "none",
            "light",
            "2",
            "3",
            "0.1",
            "layer4=0.01",
            "fp32",
            "sgd",
            "small",
        ]
    ),
)


@fuzz
@given(magic=st.sampled_from(MAGICS), typed=st.lists(words, max_size=6), more=st.integers(0, 19))
@example(magic="tl_data", typed=["digits", "--seed", "-1"], more=0)
@example(magic="tl_save", typed=["--job", "\0"], more=0)
@example(magic="tl_train", typed=["--budget", "9" * 400 + "h"], more=0)
def test_magic_lines(trained: Session, place: Path, magic: str, typed: list[str], more: int):
    if (magic in HEAVY and more) or any("/" in word and not word.strip("/.~") for word in typed):
        return  # not the whole disk
    session, shell = Session(), Shell()
    if more > 3:
        session.commit(trained.state)
    method = getattr(TLMagics(shell, session), magic)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        for heavy in (
            "tlnb.session.trainings.train",
            "tlnb.core.costs.forecast.forecast",
            "tlnb.core.tuning.tune.tune",
            "tlnb.core.tuning.advise.advise",
            "tlnb.core.evaluation.embeddings.features",
            "torch.hub.download_url_to_file",
        ):
            patch.setattr(heavy, _far_enough)
        one_line_or(lambda: method(" ".join(typed)))
    session.store.close()


def _far_enough(*_: Any, **__: Any) -> None:
    raise UsageError("far enough: what follows takes time")


class Shell:
    """As much of IPython as magics ask for."""

    user_ns: dict[str, Any] = {"n": 3}  # noqa: RUF012
    kernel = None
    parent = None


@fuzz
@given(said=st.lists(text, min_size=1, max_size=3), option=text)
@example(said=["a\n!touch pwned"], option="x")
@example(said=["x; import os"], option='"')
def test_what_is_written_for_a_cell_says_what_was_called(said: list[str], option: str):
    written = line("tl_data", *said, group=option, seed=3)
    assert len(written.splitlines()) == 1 and one_line(written) == written
    if written.startswith("%"):
        found, silent = tokens(written.removeprefix("%tl_data "))
        assert found == [*said, "--group", option, "--seed", "3"] and not silent
        assert not set(written) & set("{}$") and written[-1] not in "?\\;"
    else:
        call = ast.parse(written, mode="eval").body
        assert isinstance(call, ast.Call) and ast.unparse(call.func) == "tl.data"
        assert [ast.literal_eval(a) for a in call.args] == said
        assert {k.arg: ast.literal_eval(k.value) for k in call.keywords} == {
            "group": option,
            "seed": 3,
        }


@fuzz
@given(pattern=text)
@example(pattern="layer?" + "*" * 200 + "x")
def test_layer_patterns(trained: Session, pattern: str):
    found = one_line_or(lambda: match(trained.state.anatomy, [pattern]))
    assert found is None or found <= set(trained.state.anatomy.names)
    one_line_or(lambda: modules_matching(trained.model.module, pattern, found or set()))


@fuzz
@given(
    code=st.one_of(
        text,
        st.text("n.Lieardopu(),=1 2*+-[]'in_features_classes\"#\n", max_size=30),
        st.sampled_from(
            [
                "(" * 5000,
                "-" * 20_000 + "1",
                "nn.Linear(9**9**9, 1)",
                "nn.Linear(1, 1, [0]*10**12)",
                "nn.Linear(10**6*1, 10**6)",
                "nn." * 5000 + "x",
                "[" * 150 + "]" * 150,
            ]
        ),
    )
)
def test_code_of_edits(trained: Session, code: str):
    harmless = is_literal(code)
    one_line_or(lambda: names_in(code))
    if harmless:
        session = Session()
        session.load("glyphnet")
        one_line_or(lambda: session.add("before:head", code))
        session.store.close()


@fuzz
@given(
    pattern=text, rates=text, price=st.one_of(text, st.text("0123456789.usdeh/ min€", max_size=12))
)
def test_short_texts(pattern: str, rates: str, price: str):
    one_line_or(lambda: _by_pattern(pattern, ["a/b_1.png"]))
    one_line_or(lambda: parse_rates(rates))
    found = one_line_or(lambda: parse_price(price))
    assert found is None or 0 <= found.per_hour < float("inf")
    seconds = one_line_or(lambda: parse_budget(price, Price(per_hour=0.5)))
    assert seconds is None or 0 < seconds < float("inf")


# ── what is written ───────────────────────────────────────────────────────────────────────────────────────────────


def skeleton(code: str) -> str:
    """A script's syntax with all texts and all lists of texts blank."""

    class Blank(ast.NodeTransformer):
        def visit_Constant(self, node: ast.Constant) -> ast.AST:
            return ast.Constant("") if isinstance(node.value, str) else node

    return ast.dump(Blank().visit(ast.parse(code)))


@fuzz
@given(
    name=text,
    source=text,
    first=text,
    second=text,
    run=text,
    way=st.sampled_from(["folder", "table"]),
)
@example(name="x", source="x", first="9" * 300, second="b", run="x", way="folder")
@example(
    name='x"; import os; os.system("ls"); "',
    source="'''",
    first='"""',
    second="\\",
    run="\\x\n",
    way="table",
)
def test_no_name_becomes_code(
    trained: Session, name: str, source: str, first: str, second: str, run: str, way: str
):
    def script(name: str, source: str, classes: tuple[str, str], run: str) -> Script:
        request = DataRequest(source=f"{source}.csv" if way == "table" else f"./{source}/")
        splits = {"train": 20, "test": 10}
        facts = DataFacts(name=name, classes=classes, splits=splits, edge=32, request=request)
        made = copy.copy(trained.runs[0])
        for key, new in (("name", run), ("started_from", run), ("data", name)):
            object.__setattr__(made, key, new)
        network = (trained.model, trained.state.anatomy)
        return script_of(trained.state, network, facts, made.plan, made.options, "fp32", made)

    written = one_line_or(lambda: script(name, source, (first, second), run))
    # long names are read from the folder instead, and names with accents are compared in one form
    plain = [
        script("plain", "folder", (first, "b"), "first")
        for first in ("a", "a" * 300, "é", "é" * 300)
    ]
    assert skeleton(written) in map(skeleton, plain)
