"""Lesson 1 as a person sees it: JupyterLab in Chromium, all cells by the menu, nothing red."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest

from benchmarks.front_end import Page, browser, missing, server

LESSON = Path(__file__).parents[2] / "lessons" / "01-twenty-images.ipynb"

pytestmark = pytest.mark.slow


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[str]:
    """The address of a JupyterLab of its own, with the lesson in its folder."""
    if reason := missing("lab"):
        pytest.skip(reason)
    folder = tmp_path / "lessons"
    folder.mkdir()
    book = nbformat.read(LESSON, as_version=4)
    for cell in book.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    nbformat.write(book, folder / LESSON.name)
    with server(folder, tmp_path) as address:
        yield address


def test_lesson_one_in_jupyterlab(lab: str):
    with browser(1100, 6000) as chromium:
        seen = Page(chromium.new_page(), f"{lab}/{LESSON.name}?reset")
        page = seen.page
        page.locator(".jp-Notebook .jp-Cell").first.click()
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
        page.locator(".jp-OutputArea-output", has_text="plain PyTorch:").wait_for(timeout=120_000)
        assert seen.red() == []
        assert page.get_by_text("Side by side on digits").count() >= 1
        charts = page.locator(".jp-OutputArea-output img[alt^='accuracy against work']")
        assert charts.first.evaluate("image => image.complete && image.naturalWidth > 300")
        overflow = charts.first.evaluate(
            "image => image.getBoundingClientRect().right - window.innerWidth"
        )
        assert overflow <= 0
    assert seen.problems == []
