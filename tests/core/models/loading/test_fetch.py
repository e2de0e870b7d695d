"""Downloads: reported, checked, used again, and nothing left behind by those that fail."""

from __future__ import annotations

import hashlib
import os
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

from tests.core.models.loading.networks import NAME, same, serve_from
from tlnb.core.models import pretrained
from tlnb.core.runtime.errors import ModelError
from tlnb.core.storage import download
from tlnb.core.training.progress import Progress
from tlnb.display import live


class Server(ThreadingHTTPServer):
    """Sends `content` in the way that the first part of the path says."""

    daemon_threads = True
    content = b""
    answered = 0

    def url(self, way: str) -> str:
        digest = hashlib.sha256(self.content).hexdigest()
        return f"http://127.0.0.1:{self.server_port}/{way}/{NAME}-{digest[:8]}.pth"

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that gave up is no news."""


class Answer(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.answered += 1
        way, body = self.path.split("/")[1], self.server.content
        if way == "missing":
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if way == "slow":
            self.wfile.write(body[:1000])
            self.wfile.flush()
            time.sleep(2)
        elif way == "short":
            self.wfile.write(body[: len(body) // 2])
        else:
            self.wfile.write(body if way == "good" else bytes(reversed(body)))

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(content: bytes, cache: Path) -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Answer) as server:
        server.content = content
        threading.Thread(
            target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
        ).start()
        yield server
        server.shutdown()


def test_a_download_is_reported_cached_and_used_again(
    session, server, cache, network, monkeypatch, capfd
):
    serve_from(monkeypatch, server.url("good"))
    seen: list[Progress] = []
    session.report = seen.append
    assert (
        not next(c for c in session.models(NAME).cards if c.name == NAME).on_disk
        and not cache.exists()
    )
    model = session.load(NAME)
    assert same(model.module, network) and model.card.on_disk
    assert (
        model.classes is not None
        and model.classes[:2] == ("tench", "goldfish")
        and len(model.classes) == 1000
    )
    downloads = [p for p in seen if p.phase == "downloading"]
    assert {p.run for p in downloads} == {NAME} and (downloads[0].epoch, downloads[-1].epoch) == (
        0,
        5,
    )
    assert {p.epochs for p in downloads} == {5}  # megabytes
    assert [f.name for f in cache.iterdir()] == [server.url("good").rpartition("/")[2]]
    assert "".join(capfd.readouterr()) == ""
    session.load(NAME)
    assert server.answered == 1 and session.models(NAME).cards[0].on_disk
    assert socket.getdefaulttimeout() is None and torch.hub.tqdm.__module__.startswith("tqdm")


@pytest.mark.parametrize(
    ("way", "words"),
    [
        ("missing", "127.0.0.1 answered 404 Not Found"),
        ("short", "it was cut short after 2.5 MB of 5.0 MB"),
        ("wrong", "has the wrong hash"),
        ("slow", "127.0.0.1 sent nothing for 0.3 s"),
    ],
)
def test_a_failed_download_is_one_line_and_leaves_nothing(
    small, server, cache, monkeypatch, way, words
):
    serve_from(monkeypatch, server.url(way))
    monkeypatch.setattr(download, "TIMEOUT", 0.3)
    before = dict(vars(small))
    with pytest.raises(ModelError) as error:
        small.load(NAME)
    assert words in str(error.value) and f"%tl_load {NAME} --weights FILE" in str(error.value)
    assert len(error.value._render_traceback_()) == 1 and "\n" not in str(error.value)
    assert list(cache.iterdir()) == [] and vars(small) == before
    assert socket.getdefaulttimeout() is None


def test_without_a_network(session, cache, monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    serve_from(monkeypatch, f"http://127.0.0.1:{port}/{NAME}-00000000.pth")
    with pytest.raises(
        ModelError, match=r"no connection to 127.0.0.1 \(.*glyphnet, which needs no network"
    ):
        session.load(NAME)
    assert session.model is None and list(cache.iterdir()) == []


def test_a_cache_that_cannot_be_written(session, server, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way: not even root makes a folder inside a file")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "file"))
    serve_from(monkeypatch, server.url("good"))
    with pytest.raises(
        ModelError, match=r"checkpoints cannot be written \(.*%env TORCH_HOME=FOLDER"
    ):
        session.load(NAME)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "elsewhere"))  # what the line says
    assert session.load(NAME).card.on_disk


def test_a_full_disk(session, server, cache, monkeypatch):
    resource = pytest.importorskip("resource", reason="no limits on this system")
    serve_from(monkeypatch, server.url("good"))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, before[1]))
    try:
        with pytest.raises(
            ModelError, match=r"no room in .*checkpoints \(5.0 MB needed, .* free\); .*TORCH_HOME"
        ):
            session.load(NAME)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(cache.iterdir()) == [] and session.model is None


def test_an_interrupted_download_leaves_nothing(session, server, cache, monkeypatch):
    serve_from(monkeypatch, server.url("good"))

    def stop(progress: Progress) -> None:
        if progress.epoch:
            raise KeyboardInterrupt

    session.report = stop
    with pytest.raises(KeyboardInterrupt):
        session.load(NAME)
    assert list(cache.iterdir()) == [] and session.model is None


def test_leftovers_of_killed_kernels_go_and_living_downloads_stay(server, cache, monkeypatch):
    serve_from(monkeypatch, server.url("good"))
    cache.mkdir(parents=True)
    file = download.cached_file(server.url("good"))
    dead, living, other = (
        file.with_name(n)
        for n in (f"{file.name}.1.partial", f"{file.name}.2.partial", "b.pth.3.partial")
    )
    for left in (dead, living, other):
        left.write_bytes(b"half")
    for left in (dead, other):
        os.utime(left, (0, 0))
    pretrained.load(NAME)
    assert set(cache.iterdir()) == {file, living, other}


def test_a_damaged_copy_is_fetched_again(server, cache, content, monkeypatch):
    serve_from(monkeypatch, server.url("missing"))
    cache.mkdir(parents=True)
    file = download.cached_file(server.url("good"))
    file.write_bytes(content[:1000])
    with pytest.raises(ModelError, match="the copy in .* is damaged"):
        pretrained.load(NAME)
    serve_from(monkeypatch, server.url("good"))
    pretrained.load(NAME)
    assert file.read_bytes() == content


def test_progress_of_a_download_reads_as_megabytes():
    assert "squeezenet: downloading 2 of 5 MB" in live.Notebook()._html(
        Progress(run="squeezenet", phase="downloading", epoch=2, epochs=5)
    )
    assert "photos: decoding 2 of 5 files" in live.Notebook()._html(
        Progress(run="photos", phase="decoding", epoch=2, epochs=5)
    )
