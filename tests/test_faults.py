"""Faults, injected for real: what is lost, what is said, that nothing damaged is read as good."""

from __future__ import annotations

import gzip
import http.server
import os
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.classroom import class_of
from tests.core.data.test_torchvision_datasets import idx, md5
from tests.session.test_resume import begun, same
from tlnb.core.data.archive import unpacked
from tlnb.core.runtime.errors import DeviceLost
from tlnb.core.runtime.limits import cache_folder
from tlnb.core.storage import checked_arrays
from tlnb.core.training import checkpoint
from tlnb.session import Session

ROOT = Path(__file__).parents[1]


def python(code: str, *arguments: object, **settings: str) -> subprocess.Popen[str]:
    """A process of its own, with one thread."""
    own = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **settings}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(
        command, env=own, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
    )


@pytest.mark.slow
def test_no_fault_is_read_as_good_and_none_ends_in_a_traceback():
    """One of each kind; `python -m benchmarks.faults` injects two hundred."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.faults", "--times", "19"],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    rows = [
        [cell.strip() for cell in row.strip("|").split("|")]
        for row in done.stdout.splitlines()
        if row.startswith("| ")
    ]
    assert rows[-1][:2] == ["all", "19"] and len(rows) == 21
    assert all(row[2] == row[4] == "0" and int(row[3]) <= 0 for row in rows[1:]), done.stdout


# ── a full disk ───────────────────────────────────────────────────────────────────────────────────────────────────

FULL = """
import resource, sys
from pathlib import Path
from tlnb import tl
from tlnb.core.runtime.errors import TLError
from tlnb.core.storage.activation_cache import Store
import torch
top = Path(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
def tried(call):
    try:
        return call()
    except TLError as error:
        print("TLError", error)
tl.data("digits", per_class=2)
tl.load("glyphnet")
tl.strategy("full")
run = tl.train(epochs=2)
print(run.status, len(run.epochs), "|".join(run.notes))
tried(lambda: tl.save(top / "net.safetensors"))
tried(lambda: tl.save(top / "net.pt2"))
tried(lambda: tl.dataset.save(top / "data.npz"))
try:
    Store().keep("k", 100, [torch.zeros(100, 5000)], "disk")
except OSError as error:
    print("OSError", error.strerror)
left = [p for p in top.rglob("*") if p.is_file()]
print([p.name for p in left if p.name.endswith(".part") or p.stat().st_size > 190_000])
"""


@pytest.mark.skipif(sys.platform == "win32", reason="a limit of the system's")
def test_a_file_that_may_not_grow_is_a_line_or_a_note_and_leaves_nothing(tmp_path: Path):
    """The limit of a file's size is where a full disk is, for whoever writes."""
    process = python(
        FULL,
        tmp_path,
        TLNB_AT_RISK="0",
        TLNB_HOME=str(tmp_path / "home"),
        TLNB_CACHE=str(tmp_path / "cache"),
    )
    said, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors[-2000:]
    lines = said.splitlines()
    assert lines[0].startswith("finished 2 ") and "no checkpoint from epoch 1 on" in lines[0]
    assert "not kept on disk" in lines[0]
    assert [words.split()[0] for words in lines[1:5]] == ["TLError"] * 3 + ["OSError"], said
    assert lines[-1] == "[]", said


def test_a_disk_that_fills_up_while_activations_are_written(tmp_path: Path):
    """A real one, of two megabytes, where it may be mounted. Through a mapping it would end the process."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("no disk can be mounted here")
    try:
        code = """
import torch
from tlnb.core.storage.activation_cache import Store
try:
    Store().keep("k", 100, [torch.zeros(50, 20_000)] * 2, "disk")
except OSError as error:
    print(error.strerror)
"""
        process = python(code, TLNB_CACHE=str(disk), TLNB_DISK="1GB")
        said, errors = process.communicate(timeout=120)
        assert process.returncode == 0 and said == "No space left on device\n", errors
        assert not [p for p in disk.rglob("*") if p.is_file()]
        run = python(
            "from tlnb import tl; tl.data('digits', per_class=2); tl.load('glyphnet'); r = tl.train(epochs=3, augment='none');"
            "print(r.status, r.cache, r.notes[0])",
            TLNB_CACHE=str(disk),
            TLNB_MEMORY="1kB",
            TLNB_DISK="1GB",
            TLNB_HOME=str(_filled(disk) / "home"),
        )
        said, errors = run.communicate(timeout=120)
        assert run.returncode == 0 and said.startswith(
            "finished None trained without a cache: it could not be written"
        ), errors
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def _filled(disk: Path) -> Path:
    """The disk with next to no room left."""
    with (
        (disk / "other").open("wb", buffering=0) as file,
        pytest.raises(OSError, match="No space left"),
    ):
        while file.write(bytes(4096)):
            pass
    return disk


# ── memory ────────────────────────────────────────────────────────────────────────────────────────────────────────

SHORT = """
import re, resource
from pathlib import Path
from tlnb import tl
from tlnb.core.runtime.errors import MemoryLimit
tl.data("digits", per_class=2)
tl.load("glyphnet")
before = tl.train(epochs=1)
now = int(re.search(r"VmSize:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024
resource.setrlimit(resource.RLIMIT_AS, (now + 100_000_000,) * 2)
data = tl.dataset
for call in (lambda: tl.data("symbols", classes=1000, per_class=500), lambda: tl.load("vgg16", "none")):
    try:
        print("took it", call())
    except MemoryLimit as error:
        print("MemoryLimit", error)
print(tl.dataset is data, tl.model.name, tl.train(epochs=2).status)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="a limit of the system's")
def test_memory_that_runs_out_is_one_line_and_the_session_goes_on(tmp_path: Path):
    process = python(SHORT, TLNB_HOME=str(tmp_path), TLNB_MEMORY="100GB")
    said, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors[-2000:]
    lines = said.splitlines()
    assert [words.split()[0] for words in lines[:2]] == [
        "MemoryLimit"
    ] * 2 and "memory ran out in tl.data" in lines[0]
    assert lines[2] == "True glyphnet finished"


# ── a GPU that falls away ─────────────────────────────────────────────────────────────────────────────────────────


def test_a_gpu_that_is_gone_is_one_line_and_a_later_kernel_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("TLNB_HOME", str(tmp_path / "home"))
    whole = begun(strategy="partial").train(epochs=5)
    first, epochs = begun(strategy="partial"), []
    first.report = lambda p: epochs.append(p.epoch) if p.phase == "training" else None
    real = torch.nn.functional.cross_entropy

    def gone(*values: object, **options: object) -> object:
        if epochs and epochs[-1] == 3:
            raise RuntimeError(
                "CUDA error: unspecified launch failure\nCUDA kernel errors might be asynchronously reported"
            )
        return real(*values, **options)

    with monkeypatch.context() as patch:
        patch.setattr(torch.nn.functional, "cross_entropy", gone)
        with pytest.raises(
            DeviceLost, match="unspecified launch failure.: restart the kernel, then %tl_resume"
        ) as error:
            first.train(epochs=5)
    assert "\n" not in str(error.value) and first.runs == []
    assert len(checkpoint.read(first.store.folder.run_file("partial"))[1].epochs) == 3
    first.store.close()
    later = Session()
    same(later.resume(), whole)


# ── downloads ─────────────────────────────────────────────────────────────────────────────────────────────────────

FETCH = """
import sys
from tlnb.core.storage.download import fetch
print(fetch(sys.argv[1], "it", lambda done, total: print("done", done, flush=True)).stat().st_size)
"""


@contextmanager
def halting(files: Mapping[str, bytes], at: str, killed: threading.Event) -> Iterator[str]:
    """The URL of a server which sends half of one file, and the rest when the event is set."""

    class Slow(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(files[self.path[1:]])))
            self.end_headers()

        def do_GET(self) -> None:
            self.do_HEAD()
            content = files[self.path[1:]]
            half = len(content) // 2 if self.path[1:] == at else 0
            self.wfile.write(content[:half])
            self.wfile.flush()
            if half:
                killed.wait(120)
            self.wfile.write(content[half:])

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Slow) as server:
        server.handle_error = lambda *_: None  # type: ignore[method-assign, assignment]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            killed.set()
            server.shutdown()


def killed_after(process: subprocess.Popen[str], bytes_: int) -> None:
    """Kill a process once it has said that so many bytes came."""
    assert process.stdout is not None
    while words := process.stdout.readline().split():
        if int(words[1]) >= bytes_:
            break
    process.kill()
    _, errors = process.communicate()
    assert words, errors


def test_a_download_that_is_killed_is_done_again(tmp_path: Path):
    content, killed = os.urandom(3_000_000), threading.Event()
    settings = {"TORCH_HOME": str(tmp_path), "no_proxy": "127.0.0.1"}
    with halting({"net.pth": content}, "net.pth", killed) as url:
        killed_after(python(FETCH, f"{url}net.pth", **settings), 1_200_000)
        assert not list(tmp_path.rglob("net.pth"))
        (left,) = tmp_path.rglob("net.pth.*.partial")
        os.utime(left, (0, 0))
        killed.set()
        said, errors = python(FETCH, f"{url}net.pth", **settings).communicate(timeout=120)
        assert said.splitlines()[-1] == "3000000", errors
    assert next(tmp_path.rglob("net.pth")).read_bytes() == content and not left.exists()


OPEN = """
import sys
from pathlib import Path
from torchvision import datasets
from tlnb.core.data.dataset import open_data
from tlnb.core.data.request import DataRequest
root, url, *resources = sys.argv[1:]
datasets.FashionMNIST.mirrors = [url]
datasets.FashionMNIST.resources = [tuple(each.split()) for each in resources]
def telling(*_):
    for part in Path(root).rglob("*.part"):
        print("done", part.stat().st_size, file=sys.__stdout__, flush=True)  # the other is kept quiet meanwhile
data = open_data("FashionMNIST", request=DataRequest(source="FashionMNIST", root=root), telling=telling)
print(data.splits)
"""


def test_a_data_set_whose_download_is_killed_is_downloaded_again(tmp_path: Path):
    rng, killed, files = np.random.default_rng(0), threading.Event(), {}
    for name, count in (("train", 1500), ("t10k", 20)):
        images = rng.integers(0, 255, (count, 28, 28), dtype=np.uint8)
        files[f"{name}-images-idx3-ubyte.gz"] = gzip.compress(idx(images))
        files[f"{name}-labels-idx1-ubyte.gz"] = gzip.compress(
            idx((np.arange(count) % 10).astype(np.uint8))
        )
    resources = [f"{name} {md5(content)}" for name, content in files.items()]
    slow, settings = (
        "train-images-idx3-ubyte.gz",
        {"no_proxy": "127.0.0.1", "TLNB_CACHE": str(tmp_path / "cache")},
    )
    with halting(files, slow, killed) as url:
        case = (tmp_path / "sets", url, *resources)
        killed_after(python(OPEN, *case, **settings), 200_000)
        assert not list(tmp_path.rglob(slow))
        (left,) = tmp_path.rglob("*.part")
        os.utime(left, (0, 0))
        killed.set()
        said, errors = python(OPEN, *case, **settings).communicate(timeout=120)
        assert said.splitlines()[-1] == "{'train': 1200, 'val': 300, 'test': 20}", errors
    assert next(tmp_path.rglob(slow)).read_bytes() == files[slow] and not list(
        tmp_path.rglob("*.part")
    )


def test_what_killed_kernels_left_half_unpacked_is_swept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("TLNB_CACHE", str(tmp_path / "cache"))
    old, busy = (tmp_path / "cache" / "archives" / f"{name}.xyz.part" for name in ("abc", "def"))
    for folder in (old, busy):
        (folder / "a").mkdir(parents=True)
        (folder / "a" / "1.png").write_bytes(b"half")
    for path in (old / "a" / "1.png", old / "a", old, busy / "a", busy):
        os.utime(path, (0, 0))
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as file:
        file.writestr("a/2.png", b"whole")
    found, refused = unpacked(tmp_path / "x.zip")
    assert (found / "a" / "2.png").read_bytes() == b"whole" and refused == []
    assert (
        not old.exists() and (busy / "a" / "1.png").exists()
    )  # something was written there a moment ago


# ── a shared cache ────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_class_shares_its_cache(tmp_path: Path):
    """Three kernels; `python -m benchmarks.classroom` takes thirty."""
    found = class_of(tmp_path, 3, epochs=2)
    assert found.failed == [] and len({seat.runs for seat in found.seats}) == 1, found
    assert [status for _, status, _ in found.seats[0].runs] == ["finished"] * 2
    assert found.files > 0 and found.damaged == found.leftovers == 0
    assert all(seat.cached for seat in found.seats)


def test_processes_that_write_the_same_file_leave_a_whole_one(tmp_path: Path):
    code = """
import torch
from tlnb.core.storage.activation_cache import Store
rows = torch.arange(200_000.0).view(1000, 200)
for i in range(15):
    kept = Store().keep(f"k{i % 3}", 1000, rows.split(100), "disk")
    assert torch.equal(kept, rows)
    found = Store().get(f"k{(i + 1) % 3}")
    assert found is None or torch.equal(found, rows)
"""
    running = [
        python(code, TLNB_CACHE=str(tmp_path), TLNB_DISK="1.7MB") for _ in range(3)
    ]  # two files fit
    for process in running:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors[-2000:]
    assert cache_folder() != tmp_path and not list(tmp_path.rglob("*.part"))
    assert all(checked_arrays.read(file) is not None for file in tmp_path.rglob("*.npy"))
