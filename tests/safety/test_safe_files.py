"""Photos, tables, folders and paths from elsewhere: bounded in time and memory, and nothing outside the folder is read."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.safety.cases import refused
from tlnb.core.data import decode_limits, decoding
from tlnb.core.data.decode_limits import LARGE, in_threads, one_at_a_time, why_costly
from tlnb.core.data.decoding import decode, decode_each, look_over
from tlnb.core.data.groups import _by_pattern
from tlnb.core.data.image_listing import list_folder
from tlnb.core.data.request import MOST_CLASSES
from tlnb.core.data.table import list_table
from tlnb.core.runtime import bounded_regex
from tlnb.core.runtime.bounded_regex import first_groups, may_take_long
from tlnb.core.runtime.paths import name_beside, read_text, user_path
from tlnb.core.training.session_folder import SessionFolder, in_use
from tlnb.session import Session
from tlnb.session.job_file import write_whole

POSIX = pytest.mark.skipif(os.sep != "/", reason="links and pipes as POSIX has them")


def photo(path: Path, size: tuple[int, int] = (24, 20), kind: str = "PNG", **how: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, kind, **how)
    return path


# ── photos ────────────────────────────────────────────────────────────────────────────────────────────────────────


def with_scans(path: Path, count: int) -> Path:
    """A progressive JPEG whose last scan comes again and again: each goes over the whole image."""
    content = photo(path, kind="JPEG", progressive=True).read_bytes()
    at = content.rindex(b"\xff\xda")
    path.write_bytes(content[:-2] + content[at:-2] * count + content[-2:])
    return path


def test_a_jpeg_of_many_scans_is_not_decoded(tmp_path: Path):
    many, few = (
        with_scans(tmp_path / "many.jpg", 1000),
        photo(tmp_path / "few.jpg", kind="JPEG", progressive=True),
    )
    assert "scans takes too long to decode" in str(decode(many, 16))
    assert "scans takes too long" in look_over([few, many])[1] and 0 not in look_over([few, many])
    assert isinstance(decode(few, 16), torch.Tensor)


def test_scans_count_by_the_pixels_that_each_goes_over(tmp_path: Path):
    ten = with_scans(tmp_path / "ten.jpg", 20)
    with Image.open(ten) as image:
        assert why_costly(ten, image) == ""
        image._size = (10_000, 10_000)
        assert "100,000,000 pixels" in why_costly(ten, image)


def test_a_deep_image_is_decoded_only_where_memory_allows_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    file = tmp_path / "deep.png"
    Image.fromarray(np.zeros((20, 24), np.uint16)).save(file)
    monkeypatch.setattr(decode_limits, "LARGE", 100)
    assert isinstance(decode(file, 16), torch.Tensor)
    needed = 20 * 24 * decode_limits.PIXEL
    monkeypatch.setattr(decode_limits, "available_memory", lambda: needed - 1)
    with pytest.raises(MemoryError, match="480 pixels take"):
        decode(file, 16)
    monkeypatch.setattr(decode_limits, "available_memory", lambda: needed)
    assert isinstance(decode(file, 16), torch.Tensor)


DECODED = """
import json, os, sys
from pathlib import Path
from tests.safety.cases import peak_memory
from tlnb.core.data.decoding import decode
decode(Path(sys.argv[1]), 224)  # what libraries take once
memory, time = peak_memory(), os.times()
found = decode(Path(sys.argv[2]), 224)
now = os.times()
seconds = now.user + now.system - time.user - time.system
print(json.dumps([found if isinstance(found, str) else "", peak_memory() - memory, seconds]))
"""
WIDE = 10_000  # pixels, either way: as many as an image may have


def _blank(path: Path, mode: str, **how: Any) -> int:
    """A large image that takes next to nothing on disk; its bytes there."""
    black = np.zeros((WIDE, WIDE), np.uint16) if mode == "I;16" else None
    made = Image.new(mode, (WIDE, WIDE)) if black is None else Image.fromarray(black)
    made.save(path, **how)
    return path.stat().st_size


def _decoded(path: Path) -> tuple[str, int, float]:
    """Why a file is not decoded in a process of its own, or nothing; bytes beyond those of the libraries, seconds of a core."""
    small = photo(path.with_name("small.png"))
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", DECODED, str(small), str(path)],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        check=True,
    )
    why, memory, seconds = json.loads(done.stdout)
    return why, memory, seconds


def test_a_jpeg_of_half_a_megabyte_that_takes_minutes_is_refused_by_its_scans(tmp_path: Path):
    file = tmp_path / "x.jpg"
    Image.new("L", (8000, 8000), 128).save(file, progressive=True)
    content = file.read_bytes()
    last = content[content.rindex(b"\xff\xda") : -2]
    file.write_bytes(content[:-2] + last * ((523_000 - len(content)) // len(last)) + content[-2:])
    assert 500_000 < file.stat().st_size < 524_000
    why, memory, seconds = _decoded(file)
    assert "scans takes too long to decode" in why and memory < 10**8 and seconds < 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "mode", "how"),
    [
        ("deep.png", "I;16", {}),
        ("fractions.tif", "F", {"compression": "tiff_adobe_deflate"}),
        ("ink.tif", "CMYK", {"compression": "tiff_adobe_deflate"}),
        ("clear.png", "RGBA", {}),
        ("palette.png", "P", {"transparency": 0}),
        (
            "turned.png",
            "RGB",
            {"exif": b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"},
        ),
    ],
)
def test_an_image_as_large_as_may_be_takes_a_bounded_time_and_memory(
    tmp_path: Path, name: str, mode: str, how: dict[str, Any]
):
    """The first is the one of 194 kB that took 2.6 GB."""
    assert _blank(tmp_path / name, mode, **how) < 10**6
    why, memory, seconds = _decoded(tmp_path / name)
    assert why == "" and memory < WIDE * WIDE * decode_limits.PIXEL and seconds < 5
    assert memory < 10**9 or name == "turned.png"


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "P", "RGBA", "LA", "CMYK", "I;16", "I", "F"])
def test_rows_are_decoded_as_the_whole_would_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
):
    rng, file = np.random.default_rng(0), tmp_path / "x.tif"
    pixels = rng.integers(0, 255, (60, 50, 4), dtype=np.uint8)
    numbers = {"I;16": np.uint16, "I": np.int32, "F": np.float32}
    Image.fromarray(
        (pixels[..., 0] * 3).astype(numbers[mode]) if mode in numbers else pixels
    ).convert(mode).save(file)
    whole = decode(file, 16)
    monkeypatch.setattr(decoding, "BAND", 7 * 50)
    assert isinstance(whole, torch.Tensor) and torch.equal(whole, decode(file, 16))


STOPPED = """
import os, signal, sys, threading
from pathlib import Path
from tlnb.core.data import decoding
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in what runs in the background
begun, decode = threading.Event(), decoding.decode
def told(*given):
    begun.set()
    return decode(*given)
decoding.decode = told
threading.Thread(target=lambda: (begun.wait(), os.kill(os.getpid(), signal.SIGINT))).start()
found = "nothing"
try:
    for found in decoding.decode_each([Path(sys.argv[1])] * 2, 224):
        pass
except KeyboardInterrupt:
    print("stopped after", found, flush=True)
os._exit(0)
"""


@pytest.mark.slow
def test_an_interrupt_is_heard_before_a_large_image_is_there(tmp_path: Path):
    _blank(tmp_path / "deep.png", "I;16")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", STOPPED, str(tmp_path / "deep.png")],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert done.stdout.strip() == "stopped after nothing", done.stderr


def test_large_images_are_decoded_one_at_a_time():
    class Header:
        def __init__(self, pixels: int) -> None:
            self.width, self.height = pixels, 1

    inside, most, lock = [0], [0], threading.Lock()

    def hold(_: int) -> None:
        with one_at_a_time(Header(LARGE + 1)):  # type: ignore[arg-type]
            with lock:
                inside[0] += 1
                most[0] = max(most[0], inside[0])
            threading.Event().wait(0.001)
            with lock:
                inside[0] -= 1

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(hold, range(8)))
    assert most == [1] and one_at_a_time(Header(LARGE)) is not one_at_a_time(Header(LARGE + 1))  # type: ignore[arg-type]


def test_an_interrupt_waits_for_no_thread():
    """What a thread is at work on ends by itself; the rest never begins."""
    begun, go_on = list[int](), threading.Event()

    def slow(item: int) -> int:
        begun.append(item)
        if item:
            go_on.wait(30)
        return item

    found = in_threads(slow, range(1000))
    assert next(found) == 0
    with pytest.raises(KeyboardInterrupt):
        found.throw(KeyboardInterrupt)  # returns although threads are still waiting
    assert not go_on.is_set() and len(begun) <= 1 + torch.get_num_threads()
    go_on.set()


def test_threads_give_everything_in_order_and_hand_errors_on(tmp_path: Path):
    assert list(in_threads(lambda x: x * 2, range(50))) == list(range(0, 100, 2))
    files = [photo(tmp_path / f"{i}.png") for i in range(20)]
    seen: list[tuple[int, int]] = []
    assert len(list(decode_each(files, 8, lambda *done: seen.append(done)))) == 20 and seen[-1] == (
        20,
        20,
    )

    def late(item: int) -> int:
        raise TimeoutError(item)

    with pytest.raises(TimeoutError):
        list(in_threads(late, [1]))


# ── folders and paths ─────────────────────────────────────────────────────────────────────────────────────────────


@POSIX
def test_links_out_of_the_folder_are_not_followed(tmp_path: Path):
    top, secret = tmp_path / "photos", photo(tmp_path / "secret" / "a" / "x.png").parent
    for name in ("cat", "dog"):
        photo(top / name / "0.png")
    (top / "cat" / "1.png").symlink_to(secret / "x.png")
    (top / "cat" / "more").symlink_to(secret, target_is_directory=True)
    (top / "bird").symlink_to(secret, target_is_directory=True)
    (top / "cat" / "2.png").symlink_to(top / "dog" / "0.png")
    found = list_folder(top)
    assert {p.name for p in found.paths} == {"0.png", "2.png"} and found.classes == ("cat", "dog")
    assert sum("a link out of the folder" in why for why in found.skipped) == 3


@POSIX
@pytest.mark.parametrize(
    "path", ["/proc", "/proc/self/mem", "/dev/zero", "/sys", "/dev/../proc/kmsg"]
)
def test_the_systems_own_files_are_no_data(path: str):
    assert "in a system folder" in (refused(lambda: user_path(path)) or "")
    assert refused(lambda: Session().data(path)) and refused(
        lambda: Session().load("glyphnet", path)
    )


@POSIX
def test_a_pipe_is_not_waited_for(tmp_path: Path):
    for name in ("x.csv", "x.zip", "x.safetensors", "session.json"):
        os.mkfifo(tmp_path / name)
    assert "not a regular file" in (refused(lambda: list_table(tmp_path / "x.csv")) or "")
    assert refused(lambda: Session().data(tmp_path / "x.csv")) and refused(
        lambda: Session().data(tmp_path / "x.zip")
    )
    assert refused(lambda: Session().load(str(tmp_path / "x.safetensors")))
    assert refused(lambda: Session().resume(tmp_path))


def test_a_text_file_is_read_up_to_a_size(tmp_path: Path):
    (tmp_path / "x").write_text("é" * 10)
    assert read_text(tmp_path / "x", 20) == "é" * 10
    with pytest.raises(OSError, match="larger than"):
        read_text(tmp_path / "x", 19)


def test_a_table_of_too_many_classes_is_refused_with_the_number(tmp_path: Path):
    photo(tmp_path / "x.png")
    rows = "\n".join(f"x.png,{i}" for i in range(MOST_CLASSES + 1))
    (tmp_path / "t.csv").write_text(f"path,label\n{rows}")
    assert "32,769 classes" in (refused(lambda: list_table(tmp_path / "t.csv")) or "")


# ── expressions ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_expression_that_never_ends_is_ended(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(bounded_regex, "SECONDS", 0.5)
    for pattern in ("(a+a+)+$", "(a|a)*b{2}", "a*a*a*a*a*a*a*a*b"):
        assert may_take_long(pattern)
        assert "takes more than" in (
            refused(lambda p=pattern: _by_pattern(p, ["a" * 200 + "c"])) or ""
        )
    assert "more than 1,000" in (refused(lambda: first_groups("a" * 2000 + "*+", ["a"])) or "")


@pytest.mark.parametrize(
    "pattern", ["([^/]+)_", "(x)|y", r"(\w+?)_(\d+)", r"^.*/(\d{2,4})[a-z]*", "(?P<p>a+)(b*)"]
)
def test_expressions_give_the_same_in_a_process_of_their_own(pattern: str):

    names = ["a_1.png", "b/12x.png", "aab", "é\ud800_2.png", "", "y"]
    found = [
        m[1 if re.compile(pattern).groups and m[1] is not None else 0]
        if (m := re.search(pattern, n))
        else None
        for n in names
    ]
    assert _by_pattern(pattern, names) == found == first_groups(pattern, names)


# ── what is written ───────────────────────────────────────────────────────────────────────────────────────────────


@POSIX
def test_a_lock_that_is_a_link_changes_nothing(tmp_path: Path):
    folder, victim = tmp_path / "session", tmp_path / "victim"
    folder.mkdir()
    victim.write_text("precious")
    (folder / "lock").symlink_to(victim)
    assert in_use(folder)
    with pytest.raises(OSError, match="link"):
        SessionFolder(folder)
    assert victim.read_text() == "precious" and not (folder / "runs").exists()


@POSIX
@pytest.mark.parametrize("what", ["session.json", "job.json"])
def test_a_half_written_file_that_is_a_link_is_not_written_through(
    what: str, tmp_path: Path, monkeypatch
):
    victim, folder = tmp_path / "victim", SessionFolder(tmp_path / "session")
    victim.write_text("precious")
    target = folder.path / what
    assert name_beside(target) != name_beside(target)  # nobody can know it beforehand …
    monkeypatch.setattr(os, "urandom", bytes)
    name_beside(target).symlink_to(victim)  # … and it would not help
    folder.write_session({}) if what == "session.json" else write_whole(target, "{}")
    folder.close()
    assert victim.read_text() == "precious" and target.is_file() and not target.is_symlink()


def test_filelock_refuses_links():
    """The floor in pyproject.toml is the first release that does."""
    import tomllib

    floors = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text("utf8"))[
        "project"
    ]["dependencies"]
    assert "filelock>=3.20.3" in floors and "torch>=2.10" in floors and "pillow>=10.3" in floors


def test_bytes_that_only_look_like_scans_are_few(tmp_path: Path):
    """Previews and colour profiles may hold the two bytes of a scan's marker."""
    out = io.BytesIO()
    Image.new("RGB", (20, 20)).save(out, "JPEG", exif=b"Exif\0\0" + b"\xff\xda" * 50)
    (tmp_path / "x.jpg").write_bytes(out.getvalue())
    with Image.open(tmp_path / "x.jpg") as image:
        assert why_costly(tmp_path / "x.jpg", image) == ""


def test_every_line_of_the_security_page_names_a_test():
    top = Path(__file__).parents[2]
    table = [
        line
        for line in (top / "SECURITY.md").read_text("utf8").splitlines()
        if line.startswith("|")
    ][2:]
    written = "".join(file.read_text("utf8") for file in (top / "tests").rglob("*.py"))
    for line in table:
        named = re.findall(r"`(test_\w+)`", line)
        assert named and all(f"def {name}(" in written for name in named), line
