"""Learners' copies of the lessons: without outputs, and for a class without the solutions."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count, product
from pathlib import Path
from typing import Any

from tlnb.core.runtime.errors import UsageError

FIRST = "01-twenty-images.ipynb"
SHIPPED = ("*.ipynb", "*.md", "records/*.json")
FOR_TEACHERS = "TEACHING.md"
SOLUTION = re.compile(r"<details><summary>Solution.*?</details>\n*", re.DOTALL)


@dataclass(frozen=True)
class Edition:
    """What a copy of the course holds."""

    outputs: bool = False
    student: bool = False  # no solutions, and nothing for teachers

    def content(self, file: Path) -> bytes:
        """A file of the course as this edition has it."""
        if file.suffix != ".ipynb" or (self.outputs and not self.student):
            return file.read_bytes()
        book = json.loads(file.read_text("utf8"))
        book["cells"] = list(self._cells(book["cells"]))
        return (json.dumps(book, indent=1, ensure_ascii=False) + "\n").encode()

    def _cells(self, cells: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        for cell in cells:
            text = "".join(cell["source"])
            if cell["cell_type"] == "code" and not self.outputs:
                cell |= {"outputs": [], "execution_count": None, "metadata": {}}
            elif self.student and SOLUTION.search(text):
                text = SOLUTION.sub("", text)
                cell["source"] = text.splitlines(keepends=True)
            if text.strip():
                yield cell


def lessons_folder() -> Path:
    """The folder of the lessons: inside the installed package, or beside it in a clone."""
    package = Path(__file__).parents[1]
    for folder in (package / "lessons", package.parent / "lessons"):
        if (folder / FIRST).is_file():
            return folder
    raise UsageError("this installation has no lessons: install tlnb again")


def copy_lessons(folder: Path, edition: Edition) -> int:
    """Copy the lessons that the folder does not have yet; return how many files were copied."""
    missing = [file for file in _shipped(edition) if not (folder / file).exists()]
    for file in missing:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_bytes(edition.content(lessons_folder() / file))
    return len(missing)


def reset_lessons(folder: Path, edition: Edition, sure: bool) -> list[str]:
    """Restore the copies that differ from the course, if `sure`; an edited copy is renamed.

    Returns:
        What was done, or would be, a line for each.

    Raises:
        UsageError: the folder has no copy of the course.
    """
    copies = [file for file in _shipped(edition) if (folder / file).exists()]
    if not copies:
        raise UsageError(
            f"no lessons in {folder.resolve()}: tlnb lessons {folder} copies them there"
        )
    lines = []
    for file in copies:
        if (folder / file).read_bytes() in _unedited(lessons_folder() / file):
            continue
        kept = _free(folder / file)
        action = "renamed" if sure else "would be renamed"
        lines.append(f"{folder / file}: {action} to {kept.name} and replaced by a fresh copy")
        if sure:
            (folder / file).rename(kept)
            (folder / file).write_bytes(edition.content(lessons_folder() / file))
    return lines


def _unedited(file: Path) -> list[bytes]:
    return [Edition(*each).content(file) for each in product((False, True), repeat=2)]


def _shipped(edition: Edition) -> list[Path]:
    """The course's files as relative paths, without files that running the lessons created."""
    top = lessons_folder()
    files = [p.relative_to(top) for pattern in SHIPPED for p in sorted(top.glob(pattern))]
    return [f for f in files if not (edition.student and f.name == FOR_TEACHERS)]


def _free(file: Path) -> Path:
    """An unused name for a copy of a file: `01-twenty-images.mine.ipynb`, `….mine-2.ipynb`."""
    names = (file.with_suffix(f".mine{f'-{k}' if k > 1 else ''}{file.suffix}") for k in count(1))
    return next(name for name in names if not name.exists())
