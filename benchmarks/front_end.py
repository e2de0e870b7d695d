"""JupyterLab and Notebook 7 as users have them: a server and a page in Chromium."""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nbformat

FRONT_ENDS = {"lab": ("jupyterlab", "doc/tree"), "notebook": ("notebook", "notebooks")}
RED_OUTPUTS = '[data-mime-type="application/vnd.jupyter.error"], [data-mime-type="application/vnd.jupyter.stderr"]'
HARMLESS_MESSAGES = (
    "favicon",
    "Failed to load resource",
    "net::ERR",
)  # of the front end itself: what lies outside of this machine


def missing(front_end: str) -> str:
    """What is missing for showing a notebook in this front end; empty if nothing is."""
    if shutil.which("chromium") is None:
        return "no Chromium on this machine"
    packages = ("playwright", FRONT_ENDS[front_end][0])
    return next(
        (
            f"{package} is not installed"
            for package in packages
            if importlib.util.find_spec(package) is None
        ),
        "",
    )


def write(path: Path, cells: Sequence[str]) -> None:
    """Write a notebook that opens without a dialog."""
    book = nbformat.v4.new_notebook()
    book.metadata["kernelspec"] = {
        "name": "python3",
        "display_name": "Python 3",
        "language": "python",
    }
    book.cells = [nbformat.v4.new_code_cell(cell) for cell in cells]
    nbformat.write(book, path)


def dress(top: Path, theme: str) -> None:
    """Set the theme of pages opened from now on."""
    settings = top / "settings" / "@jupyterlab" / "apputils-extension"
    settings.mkdir(parents=True, exist_ok=True)
    (settings / "notification.jupyterlab-settings").write_text('{"fetchNews": "false"}')
    (settings / "themes.jupyterlab-settings").write_text(
        f'{{"theme": "JupyterLab {theme.title()}"}}'
    )


@contextmanager
def server(folder: Path, top: Path, front_end: str = "lab") -> Iterator[str]:
    """Run a server and yield the address of the folder's notebooks; its files go to `top`."""
    dress(top, "light")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = dict(
        os.environ,
        JUPYTER_CONFIG_DIR=str(top / "config"),
        JUPYTERLAB_SETTINGS_DIR=str(top / "settings"),
        JUPYTERLAB_WORKSPACES_DIR=str(top / "workspaces"),
        JUPYTER_RUNTIME_DIR=str(top / "runtime"),
    )
    env.pop("TLNB_TESTING", None)  # with live progress and widgets, as for users
    module, path = FRONT_ENDS[front_end]
    command = [
        sys.executable,
        "-m",
        module,
        "--no-browser",
        "--allow-root",
        f"--ServerApp.port={port}",
        "--ServerApp.ip=127.0.0.1",
        "--IdentityProvider.token=",
        f"--ServerApp.root_dir={folder}",
    ]
    with (top / f"{front_end}.log").open("w") as log:
        process = subprocess.Popen(command, env=env, stdout=log, stderr=log)
    try:
        for _ in range(120):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/api", timeout=1)
                break
            except OSError:
                time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/{path}"
    finally:
        process.terminate()
        process.wait(20)


class Page:
    """A notebook in a browser, with the problems in its console."""

    def __init__(self, page: Any, address: str, shots: Path | None = None) -> None:
        self.page, self.shots = page, shots
        self.problems: list[str] = []
        self.clicks = 0
        page.on("pageerror", lambda error: self.problems.append(str(error)))
        page.on("console", self._heard)
        page.goto(address)
        page.locator(".jp-Notebook .jp-Cell").first.wait_for(timeout=120_000)
        kernel = page.locator(
            ".jp-Toolbar-kernelName, .jp-KernelName"
        ).first  # a narrow page hides it
        kernel.wait_for(state="attached", timeout=60_000)
        page.wait_for_timeout(2500)  # until the kernel is ready
        for button in page.locator(".jp-Dialog button.jp-mod-accept").all():
            button.click()
        self.problems.clear()  # messages of the front end itself while it opened

    def _heard(self, message: Any) -> None:
        if message.type == "error" and not any(
            words in message.text for words in HARMLESS_MESSAGES
        ):
            self.problems.append(message.text)

    def run(self, cell: int = 0) -> None:
        """Run a cell with the toolbar's button, after selecting it if it is not the first."""
        if cell:
            self.page.locator(".jp-Notebook .jp-CodeCell .jp-InputArea-editor").nth(cell).click()
        self.page.locator(
            '[data-jp-item-name="run"] button, [data-jp-item-name="run"] jp-button'
        ).first.click()
        self.clicks += 1

    def button(self, words: str) -> Any:
        """The visible button with these words."""
        return self.page.locator("button.jupyter-button:visible", has_text=words).first

    def click(self, words: str) -> None:
        """Click a button as soon as it is enabled."""
        self.button(words).click(timeout=30_000)
        self.clicks += 1

    def tab(self, words: str) -> None:
        """Select a tab of the panels."""
        self.page.locator(
            ".widget-tab .lm-TabBar-tab, .jupyter-widget-tab .lm-TabBar-tab", has_text=words
        ).first.click()
        self.clicks += 1

    def sees(self, words: str, timeout: int = 60_000) -> None:
        """Wait until these words are visible."""
        self.page.get_by_text(words).locator("visible=true").first.wait_for(timeout=timeout)

    def field(self, label: str) -> Any:
        """The visible control with this label."""
        return self.page.get_by_label(label, exact=True).locator("visible=true").first

    def shoot(self, name: str) -> None:
        """Save a screenshot of the page."""
        if self.shots is not None:
            self.page.screenshot(path=self.shots / f"{name}.png")

    def red(self) -> list[str]:
        """The outputs shown in red, and the widgets that could not be shown."""
        broken = self.page.get_by_text("Error displaying widget").all_inner_texts()
        return [*self.page.locator(RED_OUTPUTS).all_inner_texts(), *broken]


@contextmanager
def browser(width: int = 1100, height: int = 1500, *flags: str) -> Iterator[Any]:
    """Start Chromium; `new_page` of the result opens pages."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        chromium = play.chromium.launch(
            executable_path=shutil.which("chromium"),
            args=["--no-sandbox", "--disable-gpu", *flags],
        )
        context = chromium.new_context(viewport={"width": width, "height": height})
        yield context
        chromium.close()
