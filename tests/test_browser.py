"""Lesson 1 as a person sees it: JupyterLab in Chromium, all cells by the menu, nothing red."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest

LESSON = Path(__file__).parents[1] / "lessons" / "01-twenty-images.ipynb"


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[str]:
    """The address of a JupyterLab of its own, with the lesson in its folder."""
    if shutil.which("chromium") is None:
        pytest.skip("no Chromium on this machine")
    pytest.importorskip("playwright", reason="playwright is not installed")
    folder = tmp_path / "lessons"
    folder.mkdir()
    book = nbformat.read(LESSON, as_version=4)
    for cell in book.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    nbformat.write(book, folder / LESSON.name)
    settings = tmp_path / "settings" / "@jupyterlab" / "apputils-extension"
    settings.mkdir(parents=True)
    (settings / "notification.jupyterlab-settings").write_text('{"fetchNews": "false"}')
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = dict(os.environ, JUPYTER_CONFIG_DIR=str(tmp_path / "config"), JUPYTERLAB_SETTINGS_DIR=str(tmp_path / "settings"),
               JUPYTERLAB_WORKSPACES_DIR=str(tmp_path / "workspaces"))  # fmt: skip
    del env["TLNB_TESTING"]  # as a user has it: with live progress
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--ServerApp.port={port}",
               "--ServerApp.ip=127.0.0.1", "--IdentityProvider.token=", f"--ServerApp.root_dir={folder}"]  # fmt: skip
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen(command, env=env, stdout=log, stderr=log)
    try:
        for _ in range(120):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/api", timeout=1)
                break
            except OSError:
                time.sleep(0.5)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(20)


def test_lesson_one_in_jupyterlab(lab: str):
    from playwright.sync_api import sync_playwright

    problems: list[str] = []
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 1100, "height": 6000})
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto(f"{lab}/doc/tree/{LESSON.name}?reset")
        page.locator(".jp-Notebook .jp-Cell").first.wait_for(timeout=60_000)
        page.wait_for_timeout(3000)  # until the kernel is there
        for button in page.locator(".jp-Dialog button.jp-mod-accept").all():
            button.click()
        page.locator(".jp-Notebook .jp-Cell").first.click()
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
        page.locator(".jp-OutputArea-output", has_text="plain PyTorch:").wait_for(timeout=120_000)
        red = page.locator(
            '[data-mime-type="application/vnd.jupyter.error"], [data-mime-type="application/vnd.jupyter.stderr"]'
        )
        assert red.all_inner_texts() == []
        assert page.get_by_text("Side by side on digits").count() >= 1
        charts = page.locator(".jp-OutputArea-output img[alt^='accuracy against seconds']")
        assert charts.first.evaluate("image => image.complete && image.naturalWidth > 300")
        overflow = charts.first.evaluate("image => image.getBoundingClientRect().right - window.innerWidth")
        assert overflow <= 0
        browser.close()
    assert problems == []
