"""Saved pages in a real Chromium: started, fed and read as a person would."""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tlnb.core.export.page import CDN, FILES, PACKAGE

TYPES = {"code": "text/javascript", "wasm": "application/wasm"}


def runtime_folder(temporary: Path) -> Path:
    """ONNX Runtime Web: the folder $TLNB_ORT_WEB, or what npm gives."""
    if given := os.environ.get("TLNB_ORT_WEB"):
        return Path(given)
    if shutil.which("npm") is None:
        pytest.skip("no ONNX Runtime Web: set TLNB_ORT_WEB to its folder, or install npm")
    pack = ["npm", "pack", "--silent", "--prefer-offline", "--fetch-retries=0", PACKAGE]
    try:
        subprocess.run(pack, cwd=temporary, check=True, capture_output=True, timeout=120)
    except (subprocess.SubprocessError, OSError):
        pytest.skip(f"no ONNX Runtime Web: {' '.join(pack)} failed; or set TLNB_ORT_WEB")
    with tarfile.open(next(temporary.glob("*.tgz"))) as packed:
        for name, _ in FILES.values():
            packed.extract(f"package/dist/{name}", temporary, filter="data")
    return temporary


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of a static host on this machine."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    host = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=host.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{host.server_port}"
    host.shutdown()
    host.server_close()


def from_npm(context: Any, folder: Path, spoiled: bool = False) -> None:
    """Answer for the CDN with the files of the npm package."""
    names = {CDN + name: (part, name) for part, (name, _) in FILES.items()}
    places = {name: next(folder.rglob(name)) for name, _ in FILES.values()}

    def answer(route: Any) -> None:
        part, name = names[route.request.url]
        body = places[name].read_bytes() + (b" " if spoiled else b"")
        headers = {"access-control-allow-origin": "*", "content-type": TYPES[part]}
        route.fulfill(body=body, headers=headers)

    context.route(f"{CDN}**", answer)


class SavedPage:
    """A page that is open in a browser."""

    def __init__(self, context: Any, address: str, before: str = "") -> None:
        self.page = context.new_page()
        self.page.add_init_script(before)
        self.console: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda said: self.console.append(said.text))
        self.page.on("pageerror", lambda error: self.console.append(str(error)))
        self.page.on("request", lambda sent: self.requests.append(sent.url))
        self.cdp = context.new_cdp_session(self.page)
        self.page.goto(address)

    def started(self) -> SavedPage:
        self.page.get_by_text("Ready.").wait_for(timeout=60_000)
        return self

    def script(self, code: str) -> Any:
        """The value of JavaScript; the page's own rules forbid Playwright's `evaluate`."""
        asked = {"expression": code, "returnByValue": True, "awaitPromise": True}
        return self.cdp.send("Runtime.evaluate", asked)["result"].get("value")

    def give(self, *files: Path, seconds: float = 60) -> list[dict[str, float]]:
        """Choose files; their answers as probabilities by class, in the files' order."""
        before = self.page.locator("#answers > article").count()
        self.page.set_input_files("#files", [str(file) for file in files])
        last = self.page.locator("#answers > article").nth(before + len(files) - 1)
        last.wait_for(timeout=seconds * 1000)
        return [self.answer(place) for place in reversed(range(len(files)))]

    def answer(self, place: int) -> dict[str, float]:
        """The probabilities on the card at a place, the newest being 0."""
        rows = (
            f"[...document.querySelectorAll('#answers > article')[{place}].querySelectorAll('li')]"
        )
        found = self.script(
            f"{rows}.map(row => [...row.children].slice(0, 2).map(x => x.textContent))"
        )
        return {name: float(share.strip("over %")) / 100 for name, share in found}

    def headlines(self) -> list[str]:
        return self.page.locator("#answers h3").all_inner_texts()

    def errors(self) -> list[str]:
        return self.console
