"""Panels as a person uses them: the whole line by mouse in JupyterLab and Notebook 7, Stop, magics, keys, both themes."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest

from benchmarks.front_end import FRONT_ENDS, Page, browser, dress, missing, server, write
from tests.panels.test_panels_use import photo, photos
from tlnb.panels.card import VIEW

pytestmark = pytest.mark.slow
GIVEN = {
    "text/plain": "Panel all",
    "text/html": "<p>the session as a card</p>",
    VIEW: {"version_major": 2, "version_minor": 0, "model_id": "long gone"},
}
KEYS = (
    "last action",
    "Session as a cell",
    "source",
    "use",
    "how many",
    "seed",
    "Load these images",
)
NAME = """(e => (e.labels?.length ? e.labels[0] : e).innerText.trim())(document.activeElement)"""


@pytest.fixture(scope="module", params=list(FRONT_ENDS))
def place(request, tmp_path_factory) -> Iterator[tuple[str, Path, Path, str]]:
    """Address, notebooks' folder, folder of the front end's own files, the front end's name."""
    if reason := missing(request.param):
        pytest.skip(reason)
    top = tmp_path_factory.mktemp(request.param)
    folder = top / "work"
    folder.mkdir()
    write(folder / "panels.ipynb", ["%load_ext tlnb\n%tl_panel", "%tl_strategy full", "%tl_stop"])
    write(folder / "keys.ipynb", ["%load_ext tlnb\n%tl_panel"])
    write(
        folder / "dark.ipynb",
        [
            "%load_ext tlnb\n%tl_data digits --per-class 2 ;\n%tl_load glyphnet ;\n%tl_train --epochs 3 ;",
            "%tl_panel layers",
            "%tl_panel train",
            "tl.panel('data')",
        ],
    )
    given = nbformat.v4.new_output("execute_result", GIVEN, execution_count=1)
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("%tl_panel", outputs=[given])])
    book.metadata["kernelspec"] = {
        "name": "python3",
        "display_name": "Python 3",
        "language": "python",
    }
    nbformat.write(book, folder / "given.ipynb")
    with server(folder, top, request.param) as address:
        yield address, folder, top, request.param


@pytest.fixture
def shots(place, tmp_path: Path) -> Path:
    found = Path(os.environ.get("TLNB_SCREENSHOTS", tmp_path)) / place[3]
    found.mkdir(parents=True, exist_ok=True)
    return found


def test_the_whole_line_by_mouse(place, shots: Path):
    from playwright.sync_api import expect

    with browser() as chromium:
        seen = Page(chromium.new_page(), f"{place[0]}/panels.ipynb", shots)
        seen.run()
        seen.click("Load these images")
        seen.sees("size verdict")
        seen.shoot("1-data")
        seen.tab("2 Model")
        seen.click("Load")
        seen.sees("Loaded: glyphnet")
        seen.shoot("2-model")
        seen.tab("4 Train")
        seen.click("Train")
        seen.sees("every layer compared with its start")
        assert seen.clicks <= 8  # from the opened notebook to a finished run
        seen.shoot("4-train")
        seen.tab("3 Layers")
        seen.click("layer4: frozen")
        seen.sees("layer4: trains")
        seen.shoot("3-layers")
        assert seen.field("last action").input_value() == "%tl_unfreeze layer4"

        seen.run(1)  # a magic in a cell, and the open panel follows
        seen.sees("everything, from the pretrained weights")
        assert seen.button("stem: trains").is_visible()
        seen.click("head")
        seen.sees("a new output layer on a frozen network")

        seen.tab("4 Train")
        seen.click("Train the baseline")
        seen.sees("Run scratch on digits", 120_000)
        seen.tab("5 Compare")
        seen.click("Compare")
        seen.sees("Side by side on digits", 120_000)
        seen.shoot("5-compare")
        seen.click("Session as a cell")
        written = seen.page.locator("textarea:visible").last
        expect(written).to_have_value(
            re.compile("^%load_ext tlnb"), timeout=30_000
        )  # it comes with a later message
        cell = written.input_value()
        assert cell.splitlines()[:3] == [
            "%load_ext tlnb",
            "%tl_data digits --per-class 2",
            "%tl_load glyphnet",
        ]

        seen.tab("4 Train")
        seen.field("epochs").fill("100000")
        seen.click("Train")
        seen.page.locator("svg[aria-label^='training loss']:visible").wait_for()
        seen.shoot("4-training")
        seen.tab("3 Layers")
        seen.click("full")  # while it trains
        seen.sees("is still at work")
        seen.tab("4 Train")
        seen.click("Stop")
        seen.sees("press Resume to continue")
        seen.shoot("4-stopped")
        assert seen.red() == [] and seen.problems == []


def test_from_ones_own_zip_to_a_new_photos_name_by_mouse(place, shots: Path):
    """At 800 pixels, where nothing may need a horizontal scrollbar."""
    address, folder, _, _ = place
    photos(folder / "mine.zip")
    (folder / "new.png").write_bytes(photo(200))
    write(folder / "own.ipynb", ["%load_ext tlnb\n%tl_panel"])
    with browser(800, 1500) as chromium:
        seen = Page(chromium.new_page(), f"{address}/own.ipynb", shots)
        seen.run()
        seen.button("Load these images").wait_for()
        seen.field("source").select_option(label="your own photos …")
        seen.clicks += 2
        _choose_file(seen, "Upload photos or a zip", folder / "mine.zip")
        seen.sees("uploaded to uploads/mine.zip")
        scrolled = [_scrollbars(seen)]
        seen.click("Load these images")
        seen.sees("size verdict")
        seen.shoot("own-1-data")
        scrolled += [_scrollbars(seen)]
        seen.tab("2 Model")
        seen.click("Load")
        seen.sees("Loaded: glyphnet")
        scrolled += [_scrollbars(seen)]
        seen.tab("4 Train")
        seen.click("Train")
        seen.sees("every layer compared with its start")
        scrolled += [_scrollbars(seen)]
        seen.tab("6 Use it")
        _choose_file(seen, "Predict photos", folder / "new.png")
        seen.sees("bright")
        assert seen.clicks <= 12
        seen.shoot("own-2-use")
        scrolled += [_scrollbars(seen)]
        assert seen.field("last action").input_value().startswith("%tl_predict uploads/new/new.png")
        seen.tab("3 Layers")
        scrolled += [_scrollbars(seen)]
        assert scrolled == [[]] * len(scrolled)
        assert seen.red() == [] and seen.problems == []


def _choose_file(seen: Page, words: str, file: Path) -> None:
    with seen.page.expect_file_chooser() as chooser:
        seen.click(words)
    chooser.value.set_files(file)


def _scrollbars(seen: Page) -> list[str]:
    """The panels' boxes that are wider inside than outside."""
    found: list[str] = seen.page.evaluate(
        "[...document.querySelectorAll('.jupyter-widgets, .lm-TabPanel-stackedPanel')].filter(e => e.offsetParent"
        " && ['auto', 'scroll'].includes(getComputedStyle(e).overflowX) && e.scrollWidth > e.clientWidth + 1)"
        ".map(e => e.className)"
    )
    return found


def test_keys_reach_every_control_in_the_order_of_the_work(place):
    with browser() as chromium:
        seen = Page(chromium.new_page(), f"{place[0]}/keys.ipynb")
        seen.run()
        seen.button("Load these images").wait_for()
        seen.field("last action").focus()
        reached = []
        for _ in KEYS:
            reached.append(seen.page.evaluate(NAME))
            seen.page.keyboard.press("Tab")
        assert tuple(reached) == KEYS
        seen.button("Load these images").focus()
        seen.page.keyboard.press("Enter")
        seen.sees("size verdict")
        assert seen.red() == [] and seen.problems == []


def test_a_notebook_from_someone_else_shows_the_card(place):
    with browser() as chromium:
        seen = Page(chromium.new_page(), f"{place[0]}/given.ipynb")
        seen.sees("the session as a card")
        assert seen.red() == []


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_in_both_themes_and_in_a_narrow_page(place, shots: Path, theme: str):
    address, _, top, _ = place
    dress(top, theme)
    try:
        with browser(560, 3200) as chromium:  # as at 200% zoom
            seen = Page(chromium.new_page(), f"{address}/dark.ipynb", shots)
            for cell in range(4):
                seen.run(cell)
            seen.button("layer4: frozen").wait_for(timeout=60_000)
            seen.sees("every layer compared with its start")
            seen.sees("size verdict")
            seen.shoot(f"narrow-{theme}")
            assert seen.red() == [] and seen.problems == []
            wide = seen.page.evaluate(
                "[...document.querySelectorAll('.jupyter-button,.widget-text,.widget-dropdown')].filter("
                "e => e.offsetParent && e.getBoundingClientRect().right > innerWidth).length"
            )
            assert wide == 0  # nothing is cut off
    finally:
        dress(top, "light")
