"""Nothing that was read becomes code: `%tl_code` and `%tl_script` differ in constants alone, whatever a file's texts are."""

from __future__ import annotations

import ast
import json
from dataclasses import asdict
from functools import cache
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from IPython.core.inputtransformer2 import TransformerManager
from torch import nn

from tests.safety.cases import drawn, few, put, refused
from tlnb.core.export import run_files
from tlnb.core.export.pytorch_script.network_section import path
from tlnb.core.export.pytorch_script.script_facts import Script
from tlnb.core.export.pytorch_script.template import assigned, noted, quoted
from tlnb.core.planning.plan import Plan
from tlnb.core.runtime.errors import one_line
from tlnb.core.training.run import Run
from tlnb.session import Session
from tlnb.session.exports import script_of
from tlnb.session.transcript import read_back

NASTY = (
    "a\n__import__('os').system('x')",
    "a\n!touch x",
    '"""\nimport os\n"""',
    "'''",
    '"',
    "'",
    "\\",
    "\\\n",
    '");__import__("os")#',
    "\r\nimport os",
    "x\x0cimport os",
    "a\u2028b",
    "\ud800",
    "\0",
    "{__import__('os')}",
    "$HOME",
    "${x}",
    "#",
    "x # y",
    "%%bash",
    "!ls",
    "?",
    "x?",
    "x;",
    "-x",
    "--trust",
    "`ls`",
    "$x",
    "#? val",
    "\t",
    " ",
    "",
    "a b",
    "../x",
    "~/x",
    "https://x/y",
    "import os",
    "class",
    "١",
    "\x1b[2J",
    "f{x!r}",
    "coding: utf-7",
)
text = st.one_of(
    st.sampled_from(NASTY), st.text(max_size=8), st.text("a'\"\\{}$%#\n;!?`() ,=", max_size=20)
)


def skeleton(code: str) -> str:
    """A script's syntax with all constants blank; a negative number is a constant."""

    class Blank(ast.NodeTransformer):
        def visit_Constant(self, node: ast.Constant) -> ast.AST:
            return ast.Constant("")

        def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.AST:
            return (
                ast.Constant("")
                if isinstance(node.operand, ast.Constant)
                else self.generic_visit(node)
            )

    return ast.dump(Blank().visit(ast.parse(code)))


# ── scripts in PyTorch ────────────────────────────────────────────────────────────────────────────────────────────


def records(session: Session, way: str) -> dict[str, Any]:
    """What a session's files say of a run: facts, plan, record, each as JSON's values."""
    facts = run_files.facts_to(session.dataset.facts)
    facts |= {
        "classes": ["a", "b"],
        "splits": {"train": 20, "val": 4, "test": 10},
        "folders": [["train", "train"], ["test", "test"]] if way == "split folders" else [],
    }
    facts["request"] = {
        **facts["request"],
        "source": "data.csv" if way == "table" else "./data",
        "per_class": None,
    }
    run = json.loads(session.runs[0].to_json())
    run |= {
        "started_from": "first" if way == "goes on" else None,
        "events": [
            {"kind": "note", "facts": {"text": "a note"}},
            {"kind": "cached-views", "facts": {"views": 3}},
        ],
        "group": "g",
    }
    return json.loads(
        json.dumps({"facts": facts, "plan": asdict(session.runs[0].plan), "run": run})
    )


def texts(values: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The places of all texts."""
    pairs = (
        values.items()
        if isinstance(values, dict)
        else enumerate(values)
        if isinstance(values, list)
        else ()
    )
    found = [place for key, inner in pairs for place in texts(inner, (*at, key))]
    return [*found, at] if isinstance(values, str) else found


def written(session: Session, values: dict[str, Any]) -> Script | None:
    """The script of what files say; None where it is refused."""
    made: list[Script] = []

    def write() -> None:
        values["run"]["plan"] = values["plan"]
        try:
            facts, run = (
                run_files.facts_from(values["facts"]),
                Run.from_json(json.dumps(values["run"])),
            )
        except ValueError:  # a value of another type, as the session's reader says in a line
            return
        plan = Plan.from_json(values["plan"])
        run_files.scopes_of(plan, False, {})
        made.append(
            script_of(
                session.state,
                (session.model, session.state.anatomy),
                facts,
                plan,
                run.options,
                run.precision,
                run,
            )
        )

    return made[0] if refused(write) is None and made else None


TOLD = {
    ("run", key)
    for key in ("name", "started_from", "data", "device", "status", "notes", "versions")
}
WAYS = ("folder", "split folders", "table", "goes on")


@cache
def usual(session: Session, way: str) -> str:
    return skeleton(written(session, records(session, way)) or "")


def same_but_for_constants(session: Session, way: str, place: tuple[Any, ...], new: str) -> None:
    """A text that says how to read data, or what is trained, may choose another script: then it is one that plain texts give."""
    found = with_text(session, way, place, new)
    if found is None or skeleton(found) == usual(session, way):
        return
    plain = [with_text(session, way, place, text) for text in ("plain", "x" * 300, "é", "é" * 300)]
    assert skeleton(found) in {skeleton(p) for p in plain if p is not None}
    found.encode()


def with_text(session: Session, way: str, place: tuple[Any, ...], new: str) -> Script | None:
    values = records(session, way)
    put(values, place, new)
    return written(session, values)


@pytest.mark.parametrize("way", WAYS)
def test_every_text_of_a_run_in_a_script(trained: Session, way: str):
    for place in texts(records(trained, way)):
        if place[0] == "facts" or place[:2] in TOLD:
            same_but_for_constants(trained, way, place, "a\n__import__('os').system('x')")


@drawn(data=st.data())
def test_any_text_of_a_run_in_a_script(trained: Session, data: st.DataObject):
    way = data.draw(st.sampled_from(WAYS))
    same_but_for_constants(
        trained, way, data.draw(st.sampled_from(texts(records(trained, way)))), data.draw(text)
    )


@few
@given(name=text)
def test_any_text_in_a_comment_a_path_and_a_text(name: str):
    assert skeleton("\n".join(noted("x = 1", name))) == skeleton("x = 1")
    assert skeleton("\n".join(assigned("x", {name: 1.0}, name))) == skeleton("x = {'': 1}")
    assert ast.literal_eval(quoted(name)) == name
    kinds = {type(node) for node in ast.walk(ast.parse(path(name)))}
    assert not kinds & {ast.Call, ast.Import, ast.BinOp} and len(ast.parse(path(name)).body) == 1


def test_a_folder_called_by_a_line_of_code_is_a_text(trained: Session):
    values = records(trained, "split folders")
    values["facts"]["folders"][0][1] = "train\nprint('it ran')"
    script = written(trained, values)
    assert script is not None and "print('it ran')" in script
    assert not any(
        isinstance(node, ast.Call)
        and getattr(node.func, "id", "") == "print"
        and "it ran" in ast.dump(node)
        for node in ast.walk(ast.parse(script))
    )


def test_views_of_an_event_are_bounded(trained: Session):
    for views in (9999999999, int("9" * 4000), 0, -1):
        values = records(trained, "folder")
        values["run"]["events"] = [{"kind": "cached-views", "facts": {"views": views}}]
        script = written(trained, values)
        assert script is not None and f"VIEWS = {views} " not in script


def test_views_of_an_old_records_note_are_bounded(trained: Session):
    for views in ("9999999999", "9" * 5000, "0"):
        values = records(trained, "folder")
        del values["run"]["events"]
        values["run"]["notes"] = [f"trained on {views} cached views of each image"]
        assert written(trained, values) is not None


# ── sessions as cells ─────────────────────────────────────────────────────────────────────────────────────────────

HARMFUL = [
    "tl.__class__.__init__.__globals__['os'].system('x')",
    "%tl_freeze {__import__('os').system('x')}",
    "%tl_freeze $x",
    "tl.data(open('x'))",
    "%tl_replace head (__import__('os'), nn.ReLU())[1]",
    "tl.replace('head', \"(__import__('os'), nn.ReLU())[1]\")",
    "%tl_load x.safetensors --trust",
    "tl.load('x.safetensors', trust=True)",
    "%tl_resume x --trust",
    "tl.data('a'); print()",
    "%tl_data a\t--root b --trust",
    "%tl_save /etc/x.safetensors",
    "%tl_save ../x.safetensors",
    "%tl_save --job ~/.bashrc",
    "%tl_save .x.safetensors",
    "%tl_save --job C:\\x.json",
    "%tl_tune --storage postgresql://x/y",
    "%tl_tune --storage /x",
    "%tl_check --export x --learner y",
    "%tl_x",
    "%tl_panel",
    "%tl_data --nothing 3",
    "%tl_train -e 3",
    "tl.report",
    "tl.names",
    "tl.data(*x)",
    "tl.data(**x)",
    "tl.data(f'{x}')",
    "tl.data('a' 'b', size=[1])",
    "tl._clear()",
    "%tl_add before:head nn.ReLU() if x else y",
    "%tl",
    "%tl_add before:{x} nn.ReLU()",
    "%tl_load net  # {x}",
    "tl.watch(print)",
    "%tl_train --epochs",
    "tl.data(...)",
    "tl.data(lambda: 1)",
    "%tl_data a b c",
    "%tl_cost --price {x}",
    "tl.data",
    "tl.data('a').b()",
    "(tl).data('a') + 1",
    "%tl_replace head nn.Sequential(*[x])",
]
HARMLESS = [
    "%tl_data digits --per-class 2",
    "%tl_load glyphnet",
    "%tl_strategy partial --last 2",
    "%tl_freeze",
    "%tl_freeze stem..layer2 layer4",
    "%tl_undo",
    '%tl_data "my photos" --group ([^/]+)_',
    "tl.data('a{b', per_class=2)",
    "%tl_add before:head nn.Dropout(0.2)",
    "%tl_train --epochs 3 --lr layer4=0.001,head=0.01",
    "%tl_train --scratch --no-cache --from head",
    "%tl_compare head scratch --target 0.9",
    "%tl_save x.safetensors --run head",
    "%tl_save --job a/job.json --epochs 2",
    "tl.replace('head', 'nn.Linear(in_features,\\n classes)')",
    "# tl.model.module was changed in Python: fc",
    "%tl_load net  # your own module, by its variable's name",
    "tl.data(...)  # arrays: from Python",
    "%tl_tune --trials 3 --storage study.log",
    "%tl_predict a.jpg 'b c.jpg' --top 5",
    "%tl_look features",
    "%tl_resume",
    "%tl_check 1.1",
    "%tl_advise --budget 5min",
    "tl.train(name='a$b', cache=False, epochs=3)",
    "%tl_errors --run head",
    "%tl_cost --price 0.5usd/h",
    "%tl_unfreeze layer*",
    "%tl_forecast --epochs 3",
    "%tl_remove layer4",
    "tl.train(from_='{x}')",
    "%tl_load x --mean 0.5,0.5,0.5 --size 64",
]


@pytest.mark.parametrize("line", HARMFUL)
def test_a_line_that_is_no_call_with_plain_values_is_left_out(line: str):
    (said,) = read_back([line], Session)
    assert said.startswith("# left out of what was read") and said.endswith("1 lines")


@pytest.mark.parametrize("line", HARMLESS)
def test_a_line_that_a_session_wrote_comes_back_as_it_was(line: str):
    found = read_back([line], Session)
    assert found == [line] or [f.replace('"', "'") for f in found] == [line.replace('"', "'")]
    only_plain_calls(found)


def test_trusted_code_comes_back():
    line = "%tl_replace head make(3)"
    assert read_back([line], Session, trust=True) == [line] != read_back([line], Session)


def only_plain_calls(lines: list[str]) -> None:
    """IPython makes nothing of these lines but calls of magics and of the session, with constants."""
    for line in lines:
        assert one_line(line) == line
        if line.startswith("%") and not line.startswith(
            ("%tl_add ", "%tl_replace ")
        ):  # those expand nothing
            assert not set(line) & set("{}$")
    for made in ast.parse(
        TransformerManager().transform_cell("\n".join(["%load_ext tlnb", *lines]))
    ).body:
        assert isinstance(made, ast.Expr) and isinstance(made.value, ast.Call)
        call = made.value
        assert ast.unparse(call.func).startswith(("get_ipython().run_line_magic", "tl."))
        assert ast.unparse(call.func).count(".") == 1 and all(
            isinstance(v, ast.Constant | ast.UnaryOp)
            for v in (*call.args, *(k.value for k in call.keywords))
        )


pieces = st.one_of(
    text,
    st.sampled_from(
        [
            "%tl_data",
            "%tl_freeze",
            "%tl_replace head",
            "tl.",
            "tl.data(",
            ")",
            "'",
            "#",
            "nn.ReLU()",
            "--trust",
            "--seed",
            "3",
            " ",
        ]
    ),
)
made_lines = st.one_of(
    st.sampled_from(HARMFUL + HARMLESS),
    st.lists(pieces, max_size=6).map(" ".join),
    st.lists(pieces, max_size=6).map("".join),
    st.builds(
        lambda line, at, new: line[: at % len(line)] + new + line[at % len(line) :],
        st.sampled_from(HARMLESS),
        st.integers(0),
        text,
    ),
)


@drawn(lines=st.lists(made_lines, max_size=4))
def test_any_lines_of_a_session_in_a_cell(lines: list[str]):
    only_plain_calls(read_back([one_line(line) for line in lines], Session))


def test_lines_that_mean_more_to_ipython_than_to_python():
    lines = [
        "#{x}",
        "%tl_data a?",
        "%tl_data a\\",
        "tl.data('a')?",
        "%%bash",
        "tl.data('a')  # x\\",
    ]
    only_plain_calls(read_back(lines, Session))


def test_names_of_ones_own_modules_that_are_none_are_looked_up():
    module = nn.Sequential()
    for name in ("a b", "class", "007", "x", "2"):
        module.add_module(name, nn.Identity())
        assert eval(path(name), {"model": module}) is module.get_submodule(name) or name == "2"  # noqa: S307
