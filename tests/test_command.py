"""`tests/run` itself, with a Python that only writes down what it is asked for."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPTS = ("tests/run", ".ci/run", ".ci/colab")
PYTHON = """#!/bin/sh
case "$*" in
  --version) echo Python 3.13.1; exit ;;
  "-m pip --version") exit ;;
  "-m venv "*) mkdir -p .venv/bin; cp "$0" .venv/bin/python ;;
  "-m pip install"*) [ ! -e offline ] || exit 1 ;;
esac
for word in "$@"; do printf '%s|' "$word"; done >>"$PWD/asked"
echo >>"$PWD/asked"
"""
ALL = "-m|pytest|-n|logical|--maxprocesses|4|--dist|loadscope|--no-loadscope-reorder|"
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="a shell script")


class Clone:
    """The command in a folder of its own."""

    def __init__(self, top: Path) -> None:
        self.top, self.bin = top, top.parent / "bin"
        for folder in (self.bin, top / "tests"):
            folder.mkdir(parents=True)
        (self.bin / "python3").write_text(PYTHON)
        (self.bin / "python3").chmod(0o755)
        shutil.copy(ROOT / "tests" / "run", top / "tests" / "run")
        (top / "tests" / "test_plan.py").touch()
        (top / "pyproject.toml").write_text("[project]")

    def run(self, *arguments: str, at: str = ".") -> tuple[int, str, list[str]]:
        """Status, errors, and what Python was asked for."""
        (self.top / "asked").unlink(missing_ok=True)
        done = subprocess.run(
            [self.top / "tests" / "run", *arguments],
            cwd=self.top / at,
            capture_output=True,
            text=True,
            env={**os.environ, "PATH": f"{self.bin}{os.pathsep}{os.environ['PATH']}"},
        )
        asked = self.top / "asked"
        return (
            done.returncode,
            done.stderr,
            asked.read_text().splitlines() if asked.exists() else [],
        )


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    return Clone(tmp_path / "a clone")


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_can_be_read_by_bash(name: str):
    done = subprocess.run(["bash", "-n", ROOT / name], capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr, done.stderr
    assert os.access(ROOT / name, os.X_OK)


def test_the_environment_is_made_once(clone: Clone):
    _, _, first = clone.run()
    assert [line.split("|")[1] for line in first] == ["venv", "pip", "pytest"] and first[-1] == ALL
    assert clone.run()[2] == [ALL]


@pytest.mark.parametrize("changed", ["pyproject.toml", ".venv/installed"])
def test_what_an_installation_depends_on_is_installed_again(clone: Clone, changed: str):
    clone.run()
    (clone.top / changed).write_text("another")
    assert [line.split("|")[1] for line in clone.run()[2]] == ["pip", "pytest"]


def test_an_installation_that_failed_is_one_line_and_is_tried_again(clone: Clone):
    (clone.top / "offline").touch()
    status, said, asked = clone.run()
    assert status == 2 and said.splitlines() == [
        "tests/run: the installation failed, see above; nothing was tested"
    ]
    assert not any("pytest" in line for line in asked)
    (clone.top / "offline").unlink()
    assert [line.split("|")[1] for line in clone.run()[2]] == ["pip", "pytest"]


@pytest.mark.parametrize("at", [".", "tests"])
def test_pytests_own_arguments_run_just_those(clone: Clone, at: str):
    clone.run()
    name = "tests/test_plan.py" if at == "." else "test_plan.py"
    *_, asked = clone.run(f"{name}::test_freeze", "-k", "tests or freeze", at=at)
    before, _, after = asked[-1].partition("test_plan.py::")
    assert (
        after == "test_freeze|-k|tests or freeze|"
        and before.startswith("-m|pytest|")
        and "-n" not in before
    )


def test_all_adds_the_slow_and_the_exhaustive(clone: Clone):
    clone.run()
    assert clone.run("--all", "-x")[2] == [f"{ALL}-m||-x|"]


def test_a_file_that_is_not_there_is_one_line_and_nothing_is_installed(clone: Clone):
    status, said, asked = clone.run("tests/test_plam.py")
    assert (
        status == 2
        and len(said.splitlines()) == 1
        and "no file tests/test_plam.py" in said
        and not asked
    )
