"""Lessons: run without an error, well-formed, committed with outputs, and opened by the command line.

Beside this, nbval compares every lesson's outputs with the recorded ones (`pytest lessons`).
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

LESSONS = sorted((Path(__file__).parents[1] / "lessons").glob("*.ipynb"))
IDS = [p.stem for p in LESSONS]
# nbval runs every lesson in the same go as these tests; where it does not (Colab's stack), all are run here
RUN = LESSONS if os.environ.get("TLNB_NBCLIENT") == "1" else LESSONS[:1]


@pytest.mark.parametrize("path", RUN, ids=[p.stem for p in RUN])
def test_lesson_runs(path: Path, tmp_path: Path):
    book = nbformat.read(path, as_version=4)
    NotebookClient(book, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}).execute()
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
    for heading in ("**The question.**", "predict", "The same in plain PyTorch", "## Summary", "## Further reading"):
        assert any(heading in s for s in sources)
    plain = next(s for s in sources if "loss.backward()" in s)
    assert len([line for line in plain.splitlines() if line.strip()]) <= 25


def sections(path: Path) -> dict[int, str]:
    """The section in which each code cell stands, by the number in its brackets."""
    found, section = {}, ""
    for cell in json.loads(path.read_text("utf8"))["cells"]:
        if cell["cell_type"] == "code":
            found[len(found) + 1] = section
        else:
            section = ([line for line in "".join(cell["source"]).splitlines() if line.startswith("## ")] or [section])[
                -1
            ]
    return found


def test_every_statement_leads_to_a_cell_that_is_there():
    row = re.compile(r"^\| .+ \| (\d) \| (.+) \| \[(\d+)\] \|$", re.MULTILINE)
    table = row.findall((LESSONS[0].parent / "README.md").read_text("utf8"))
    assert {number for number, _, _ in table} == {str(n) for n in range(1, 10)}
    for number, section, cell in table:
        (path,) = LESSONS[0].parent.glob(f"0{number}-*.ipynb")
        assert sections(path)[int(cell)] == f"## {section}", (number, section, cell)


def test_lessons_command_never_overwrites(tmp_path: Path):
    def tlnb(*arguments: str) -> str:
        return subprocess.run(
            [sys.executable, "-m", "tlnb", *arguments], capture_output=True, text=True, check=True, cwd=tmp_path
        ).stdout

    assert "files copied" in tlnb("lessons", "mine", "--no-browser")
    copy = tmp_path / "mine" / LESSONS[0].name
    copy.write_text("my own notes")
    assert tlnb("lessons", "mine", "--no-browser").startswith("0 files copied")
    assert copy.read_text() == "my own notes"


def test_reset_says_what_it_would_do_and_keeps_what_it_replaces(tmp_path: Path):
    def tlnb(*arguments: str) -> str:
        return subprocess.run(
            [sys.executable, "-m", "tlnb", "lessons", *arguments],
            capture_output=True,
            text=True,
            check=True,
            cwd=tmp_path,
        ).stdout

    tlnb("mine", "--no-browser")
    assert "Nothing to reset" in tlnb("mine", "--reset")
    with pytest.raises(subprocess.CalledProcessError) as nowhere:
        tlnb("elsewhere", "--reset")
    assert "no lessons in" in nowhere.value.stderr and nowhere.value.stderr.count("\n") == 1
    copy = tmp_path / "mine" / LESSONS[0].name
    fresh = copy.read_bytes()
    copy.write_text("my own notes")
    said = tlnb("mine", "--reset")
    assert LESSONS[0].name in said and "Nothing was done" in said and copy.read_text() == "my own notes"
    tlnb("mine", "--reset", "--yes")
    assert copy.read_bytes() == fresh
    assert copy.with_suffix(".mine.ipynb").read_text() == "my own notes"


def test_demo_runs_lesson_one(tmp_path: Path):
    done = subprocess.run([sys.executable, "-m", "tlnb", "demo"], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "test accuracy" in done.stdout and "To go on" in done.stdout
    out = tmp_path / "demo-output"
    assert (out / LESSONS[0].name).is_file()
    page = (out / LESSONS[0].with_suffix(".html").name).read_text("utf8")
    assert "Side by side on digits" in page and "data:image/png" in page
