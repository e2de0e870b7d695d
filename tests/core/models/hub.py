"""A hub on this machine: answers as the real one does, in the way that a repository's owner names."""

from __future__ import annotations

import hashlib
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REFUSED = {
    "gated": (403, "GatedRepo"),
    "missing": (404, "RepoNotFound"),
    "broken": (500, ""),
    "private": (401, "RepoNotFound"),
}


class Hub(ThreadingHTTPServer):
    """Files by `ORG/NAME/FILE`; what was asked for, in order."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.files: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.ended = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def add(self, repository: str, module: torch.nn.Module | None, **config: object) -> None:
        """A repository as timm writes it."""
        if module is not None:
            state = {k: v.contiguous() for k, v in module.state_dict().items()}
            self.files[f"{repository}/model.safetensors"] = save(state)
        self.files[f"{repository}/config.json"] = json.dumps(config).encode()

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that gave up is no news."""


class _Answer(BaseHTTPRequestHandler):
    server: Hub

    def do_HEAD(self) -> None:
        self._answer(send=False)

    def do_GET(self) -> None:
        self._answer(send=True)

    def _answer(self, send: bool) -> None:
        repository, _, rest = self.path.lstrip("/").partition("/resolve/")
        revision, _, file = rest.partition("/")
        way = repository.partition("/")[0]
        self.server.asked.append(f"{self.command} {repository}/{file}")
        if way == "slow":
            self.server.ended.wait(5)
        if way in REFUSED:
            self._refuse(*REFUSED[way])
        elif revision != "main":
            self._refuse(404, "RevisionNotFound")
        elif (body := self.server.files.get(f"{repository}/{file}")) is None:
            self._refuse(404, "EntryNotFound")
        else:
            self._send(body, send, way if file != "config.json" else "good")

    def _refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _send(self, body: bytes, send: bool, way: str) -> None:
        start = int((self.headers.get("Range") or "bytes=0-").partition("=")[2].partition("-")[0])
        short = send and way == "short"
        body_here = body[start : len(body) // 2] if short else body[start:]
        self.send_response(206 if start else 200)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
        self.send_header("Content-Length", str(len(body_here)))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        self.end_headers()
        if send:
            broken = way == "interrupted" and not start
            self.wfile.write(body_here[: len(body_here) // 2] if broken else body_here)
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub, and an empty cache that its library uses for this test."""
    with Hub() as hub:
        point_to(hub.url, folder, monkeypatch)
        thread = threading.Thread(target=hub.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield hub
        hub.ended.set()
        hub.shutdown()


def point_to(url: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the hub's library ask there, and keep files in this folder."""
    from huggingface_hub import constants

    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(constants, "ENDPOINT", url)
    template = url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    monkeypatch.setenv("HF_HUB_CACHE", str(folder))  # of processes that a test starts


def closed_port() -> int:
    """A port at which nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
