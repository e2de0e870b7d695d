"""Lessons: run without an error, well-formed, committed with outputs, and opened by the command line.

Beside this, nbval compares every lesson's outputs with the recorded ones (`pytest lessons`).
"""

from __future__ import annotations

import ast
import json
import os
import re
import signal
import subprocess
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import pytest
from IPython.core.inputtransformer2 import TransformerManager
from nbclient import NotebookClient

from tlnb.cli import main
from tlnb.core.planning.magic_lines import tokens
from tlnb.magic_options import parse

LESSONS = sorted((Path(__file__).parents[2] / "lessons").glob("*.ipynb"))
IDS = [p.stem for p in LESSONS]


@pytest.mark.slow  # nbval runs it in any case, and compares its outputs; Colab's stack has others
@pytest.mark.colab
def test_lesson_one_runs(tmp_path: Path):
    book = nbformat.read(LESSONS[0], as_version=4)
    NotebookClient(
        book, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    outputs = [o for cell in book.cells if cell.cell_type == "code" for o in cell.outputs]
    assert not [o for o in outputs if o.get("name") == "stderr"]


@pytest.mark.parametrize("path", LESSONS, ids=IDS)
def test_lesson_is_well_formed(path: Path):
    text = path.read_text("utf8")
    book = json.loads(text)
    nbformat.validate(book)
    assert book["metadata"]["kernelspec"]["name"] == "python3"
    assert "widgets" not in book["metadata"] and "application/vnd.jupyter.widget-view" not in text
    assert not re.search(r"/(home|root|Users|tmp)/", text)
    code = [c for c in book["cells"] if c["cell_type"] == "code"]
    assert all(c.get("id") for c in book["cells"])
    assert [c["execution_count"] for c in code] == list(range(1, len(code) + 1))
    sources = ["".join(c["source"]) for c in book["cells"]]
    for heading in (
        "**The question.**",
        "predict",
        "The same in plain PyTorch",
        "## Summary",
        "## Further reading",
    ):
        assert any(heading in s for s in sources)
    plain = next(s for s in sources if "loss.backward()" in s)
    assert len([line for line in plain.splitlines() if line.strip()]) <= 25


def called(path: Path, kind: type[ast.AST] | types.UnionType) -> list[Any]:
    """The nodes of a kind in all cells, magics translated to calls."""
    cells = [c for c in json.loads(path.read_text("utf8"))["cells"] if c["cell_type"] == "code"]
    python = [TransformerManager().transform_cell("".join(c["source"])) for c in cells]
    return [node for cell in python for node in ast.walk(ast.parse(cell)) if isinstance(node, kind)]


@pytest.mark.parametrize("path", LESSONS, ids=IDS)
def test_what_a_lesson_imports_and_calls_is_there(shell, path: Path):
    for node in called(path, ast.Import | ast.ImportFrom):
        exec(ast.unparse(node), {})
    calls = [
        c for c in called(path, ast.Call) if ast.unparse(c.func) == "get_ipython().run_line_magic"
    ]
    magics = [[ast.literal_eval(a) for a in call.args] for call in calls]
    assert ["load_ext", "tlnb"] in magics
    for name, line in magics:
        method = shell.find_line_magic(name)
        assert method is not None, f"%{name}"
        if hasattr(method, "parser") and "{" not in line:
            parse(method, tokens(line)[0])


def sections(path: Path) -> dict[int, str]:
    """The section in which each code cell stands, by the number in its brackets."""
    found, section = {}, ""
    for cell in json.loads(path.read_text("utf8"))["cells"]:
        if cell["cell_type"] == "code":
            found[len(found) + 1] = section
        else:
            section = (
                [line for line in "".join(cell["source"]).splitlines() if line.startswith("## ")]
                or [section]
            )[-1]
    return found


def test_every_statement_leads_to_a_cell_that_is_there():
    row = re.compile(r"^\| .+ \| (\d) \| (.+) \| \[(\d+)\] \|$", re.MULTILINE)
    table = row.findall((LESSONS[0].parent / "README.md").read_text("utf8"))
    assert {number for number, _, _ in table} == {str(n) for n in range(1, 10)}
    for number, section, cell in table:
        (path,) = LESSONS[0].parent.glob(f"0{number}-*.ipynb")
        assert sections(path)[int(cell)] == f"## {section}", (number, section, cell)


@pytest.fixture
def tlnb(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> Callable[..., tuple[int, str, str]]:
    """`tlnb lessons …` in this folder: status, output, errors. In this process: to start another takes longer."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str, str]:
        return main(["lessons", *arguments]), *capsys.readouterr()

    return run


def test_lessons_command_never_overwrites(tlnb, tmp_path: Path):
    status, said, _ = tlnb("mine", "--no-browser")
    assert status == 0 and "files copied" in said
    copy = tmp_path / "mine" / LESSONS[0].name
    copy.write_text("my own notes")
    assert tlnb("mine", "--no-browser")[1].startswith("0 files copied")
    assert copy.read_text() == "my own notes"


def test_reset_says_what_it_would_do_and_keeps_what_it_replaces(tlnb, tmp_path: Path):
    tlnb("mine", "--no-browser")
    assert "Nothing to reset" in tlnb("mine", "--reset")[1]
    status, _, wrong = tlnb("elsewhere", "--reset")
    assert status == 1 and "no lessons in" in wrong and wrong.count("\n") == 1
    copy = tmp_path / "mine" / LESSONS[0].name
    fresh = copy.read_bytes()
    copy.write_text("my own notes")
    _, said, _ = tlnb("mine", "--reset")
    assert (
        LESSONS[0].name in said
        and "Nothing was changed" in said
        and copy.read_text() == "my own notes"
    )
    assert tlnb("mine", "--reset", "--yes")[0] == 0
    assert copy.read_bytes() == fresh
    assert copy.with_suffix(".mine.ipynb").read_text() == "my own notes"


def sources(path: Path) -> str:
    return "\n".join(
        "".join(cell["source"]) for cell in json.loads(path.read_text("utf8"))["cells"]
    )


@pytest.mark.parametrize(
    ("flags", "outputs", "solutions"),
    [
        ((), False, True),
        (("--with-outputs",), True, True),
        (("--student",), False, False),
        (("--student", "--with-outputs"), True, False),
    ],
)
def test_copies_come_without_outputs_and_for_students_without_solutions(
    tlnb, tmp_path: Path, flags, outputs: bool, solutions: bool
):
    assert tlnb("mine", "--no-browser", *flags)[0] == 0
    for lesson in LESSONS:
        copy = tmp_path / "mine" / lesson.name
        book = json.loads(copy.read_text("utf8"))
        nbformat.validate(book)
        code = [c for c in book["cells"] if c["cell_type"] == "code"]
        kept = [c for c in code if c["outputs"] or c["execution_count"]]
        assert bool(kept) == outputs
        if outputs:
            given = json.loads(lesson.read_text("utf8"))["cells"]
            assert [c["outputs"] for c in given if c["cell_type"] == "code"] == [
                c["outputs"] for c in code
            ]
        assert ("<summary>Solution" in sources(copy)) == solutions
        assert sources(copy).count("%tl_check") == sources(lesson).count("%tl_check")
    assert (tmp_path / "mine" / "TEACHING.md").exists() == solutions
    assert "Nothing to reset" in tlnb("mine", "--reset", *flags)[1]


def test_what_a_learner_copied_before_is_not_edited(tlnb, tmp_path: Path):
    tlnb("mine", "--no-browser", "--with-outputs")
    assert "Nothing to reset" in tlnb("mine", "--reset")[1]


@pytest.mark.slow
def test_jupyterlab_opens_lesson_one_and_ends_quietly(tmp_path: Path):
    opened, browser = tmp_path / "opened", tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\ncat "${{1#file://}}" >{opened}\n')
    browser.chmod(0o755)
    command = [sys.executable, "-m", "tlnb", "lessons", str(tmp_path / "mine")]
    environment = {**os.environ, "BROWSER": f"{browser} %s"}
    lab = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    for _ in range(600):
        if opened.exists() and opened.read_text():
            break
        time.sleep(0.1)
    lab.send_signal(signal.SIGINT)
    said = lab.communicate(timeout=60)[1]
    assert f"lab/tree/{LESSONS[0].name}" in opened.read_text()
    assert lab.returncode == 0 and "Traceback" not in said and "resumes" not in said


@pytest.mark.slow
def test_demo_runs_lesson_one(tmp_path: Path):
    done = subprocess.run(
        [sys.executable, "-m", "tlnb", "demo"], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "test accuracy" in done.stdout and "Next: open the lessons" in done.stdout
    out = tmp_path / "demo-output"
    assert (out / LESSONS[0].name).is_file()
    page = (out / LESSONS[0].with_suffix(".html").name).read_text("utf8")
    assert "Side by side on digits" in page and "data:image/png" in page
