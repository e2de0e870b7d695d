"""Decoding: formats and modes as seen, what passes, whole files told from cut ones."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.conftest import picture
from tests.photos import opened, reasons, two_classes
from tlnb.core.data import decoding
from tlnb.core.data.dataset import open_data
from tlnb.core.data.decoding import decode, look_over
from tlnb.core.data.request import DataRequest

# ── folders ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "CMYK", "1", "I;16", "F"])
@pytest.mark.parametrize("ending", ["png", "jpg", "bmp", "tif", "webp", "gif"])
def test_formats_and_modes_are_read_as_seen(tmp_path: Path, mode: str, ending: str):
    seen = np.zeros((40, 40), dtype=np.uint8)
    seen[:, 20:] = 250
    if mode == "I;16":
        image = Image.fromarray(seen.astype(np.uint16) * 257)
    elif mode == "F":
        image = Image.fromarray(seen.astype(np.float32) / 250)
        if ending != "tif":
            pytest.skip("other kinds hold no fractions")
    else:
        image = Image.fromarray(seen).convert(mode)
    try:
        image.save(tmp_path / f"x.{ending}")
    except (OSError, KeyError, ValueError):
        pytest.skip(f"no {mode} in {ending}")
    found = decode(tmp_path / f"x.{ending}", 20)
    assert isinstance(found, torch.Tensor), found
    assert found[:, :, :8].float().mean() < 12 and found[:, :, 12:].float().mean() > 235


def test_of_a_moving_gif_the_first_picture_counts(tmp_path: Path):
    frames = [Image.new("L", (30, 30), tone) for tone in (200, 10, 90)]
    frames[0].save(tmp_path / "x.gif", save_all=True, append_images=frames[1:])
    assert decode(tmp_path / "x.gif", 8).float().mean() > 190
    assert not look_over([tmp_path / "x.gif"])


def test_no_program_is_run_for_a_picture(tmp_path: Path):
    """Pillow would open PostScript under any name, and call Ghostscript for it."""
    (tmp_path / "x.jpg").write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 20 20\n%%EndComments\nshowpage\n"
    )
    assert decode(tmp_path / "x.jpg", 8) == "cannot be read (it does not hold an image)"
    assert look_over([tmp_path / "x.jpg"]) == {0: "cannot be read (it does not hold an image)"}


def test_only_what_is_used_is_decoded(tmp_path: Path, monkeypatch):
    top = two_classes(tmp_path, 10)
    (top / "a" / "0.png").write_bytes(b"nothing")
    (top / "a" / "1.png").write_bytes((top / "a" / "1.png").read_bytes()[:-200])
    steps: list[tuple[int, int]] = []
    data = open_data(
        top,
        request=DataRequest(source=str(top), limit=4),
        edge=16,
        progress=lambda *s: steps.append(s),
    )
    assert steps[-1] == (4 + data.splits["test"], 4 + data.splits["test"])
    assert set(reasons(data)) == {"a/0.png", "a/1.png"}
    for name in ("0.png", "1.png"):
        (top / "a" / name).unlink()
    assert (
        open_data(top, request=DataRequest(source=str(top), limit=4), edge=16).fingerprint
        == data.fingerprint
    )


@pytest.mark.parametrize("memory", ["1GB", "1kB"])
def test_a_file_that_breaks_only_when_decoded_changes_nothing_else(
    tmp_path: Path, monkeypatch, memory: str
):
    """Its first and last bytes are right; the splits are those of the folder without it."""
    monkeypatch.setenv("TLNB_MEMORY", memory)
    monkeypatch.setenv("TLNB_CACHE", str(tmp_path / "cache"))
    top = two_classes(tmp_path / "photos", 12)
    sound = (top / "a" / "3.png").read_bytes()
    (top / "a" / "3.png").write_bytes(sound[:100] + b"\xff" * (len(sound) - 200) + sound[-100:])
    assert not look_over([top / "a" / "3.png"])
    data = opened(top, per_class=4)
    whole = opened(top)
    (top / "a" / "3.png").unlink()
    assert whole.fingerprint == opened(top).fingerprint and set(reasons(whole)) == {"a/3.png"}
    assert (
        data.fingerprint == opened(top, per_class=4).fingerprint or not data.skipped
    )  # where it was not chosen


def saved(path: Path, values: np.ndarray) -> torch.Tensor | str:
    Image.fromarray(values).save(path)
    return decode(path, 20)


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_sixteen_bits_are_scaled_by_the_bits_in_use(tmp_path: Path, ending: str):
    """Half of each picture is black, half as bright as it gets."""
    pixels = np.zeros((20, 20), dtype=np.uint16)
    bright = {}
    for most in (100, 250, 255, 260, 1023, 2100, 4095, 16383, 40000, 65535):
        pixels[:, 10:] = most
        found = saved(tmp_path / f"x.{ending}", pixels)
        assert isinstance(found, torch.Tensor) and not found[:, :, :8].any()
        bright[most] = int(found[0, 10, 15])
    assert [bright[most] for most in (100, 250, 255)] == [
        100,
        250,
        255,
    ]  # eight bits in a file of sixteen
    assert all(bright[most] == 255 for most in (1023, 4095, 16383, 65535))
    assert all(value >= 127 for most, value in bright.items() if most > 255)


def test_fractions_that_are_no_numbers_are_black_and_the_rest_as_it_is(tmp_path: Path):
    pixels = np.tile(np.linspace(0, 1, 20, dtype=np.float32), (20, 1))
    whole = saved(tmp_path / "x.tif", pixels)
    assert isinstance(whole, torch.Tensor) and whole.max() == 255
    for value, seen in ((np.nan, 0), (np.inf, 255), (-np.inf, 0)):
        pixels[4, 5] = value
        found = saved(tmp_path / "x.tif", pixels)
        assert isinstance(found, torch.Tensor) and int(found[0, 4, 5]) == seen
        found[:, 4, 5] = whole[:, 4, 5]
        assert torch.equal(found, whole)
    pixels[4, 5], pixels[0, 0] = 0.5, 1.001  # resizing may overshoot white
    found = saved(tmp_path / "x.tif", pixels)
    assert isinstance(found, torch.Tensor) and found.float().mean() > 100
    top = two_classes(tmp_path / "photos")
    Image.fromarray(np.full((20, 20), np.nan, dtype=np.float32)).save(top / "a" / "none.tif")
    assert reasons(opened(top)) == {"a/none.tif": "cannot be read (none of its pixels is a number)"}


# ── what passes ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def in_files(tmp_path: Path, monkeypatch) -> None:
    """Decoded images go to files, which later calls find."""
    monkeypatch.setenv("TLNB_MEMORY", "1kB")
    monkeypatch.setenv("TLNB_CACHE", str(tmp_path / "cache"))


SHORT_OF_MEMORY = """
import resource, sys
from pathlib import Path
from tlnb.session import Session
small, large = sys.argv[1:]
session = Session()
session.data(small)  # what is imported late is in memory then
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 150_000_000, resource.getrlimit(resource.RLIMIT_AS)[1]))
try:
    session.data(large)
except Exception as error:
    print(f"{type(error).__name__}: {error}")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits of memory are Linux's")
def test_a_picture_that_memory_was_too_short_for_is_no_damaged_file(tmp_path: Path, in_files):
    small, large = two_classes(tmp_path / "small"), two_classes(tmp_path / "large")
    Image.new("RGB", (8000, 8000), (200, 30, 90)).save(large / "a" / "big.png", compress_level=1)
    short = subprocess.run(
        [sys.executable, "-c", SHORT_OF_MEMORY, small, large], capture_output=True, text=True
    )
    assert short.stdout.startswith("MemoryLimit: memory ran out in tl.data: use a smaller"), short
    data = open_data(large)  # the same cache, and enough memory
    assert not data.skipped and sum(data.splits.values()) == 13


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EIO, errno.EACCES])
def test_a_disk_that_does_not_answer_once_is_asked_again(
    tmp_path: Path, in_files, monkeypatch, number: int
):
    top = two_classes(tmp_path / "photos")
    (top / "b" / "5.png").write_bytes(b"nothing")
    fails, real = [], Image.open

    def unsteady(path: Path, **options: object) -> Image.Image:
        if path.name == "3.png" and path.parent.name == "a" and fails:
            raise OSError(number, os.strerror(number), str(path))
        return real(path, **options)

    monkeypatch.setattr(Image, "open", unsteady)
    monkeypatch.setattr(decoding, "_look_over", lambda path: "")  # it fails when it is decoded
    fails.append(1)
    for _ in range(2):
        found = reasons(opened(top))
        assert set(found) == {"a/3.png", "b/5.png"} and str(top) not in found["a/3.png"]
    fails.clear()
    data = opened(top)
    assert set(reasons(data)) == {"b/5.png"} and sum(data.splits.values()) == 11
    monkeypatch.setenv("TLNB_MEMORY", "1GB")
    assert opened(top).fingerprint == data.fingerprint


# ── looking over ──────────────────────────────────────────────────────────────────────────────────────────────────

PRESSED = [("tif", {"compression": kind}) for kind in ("tiff_lzw", "jpeg", "tiff_adobe_deflate")]


@pytest.mark.parametrize(
    ("ending", "options"),
    [*((e, {}) for e in ("webp", "bmp", "tif", "jpg", "png", "gif")), *PRESSED],
)
def test_whole_files_are_looked_over_without_decoding_and_cut_ones_found(
    tmp_path: Path, monkeypatch, ending: str, options
):
    decoded: list[Path] = []
    real = decoding.decode
    monkeypatch.setattr(
        decoding, "decode", lambda path, edge: decoded.append(path) or real(path, edge)
    )
    picture(tmp_path / "0.png", 60)
    paths = [tmp_path / f"{i}.{ending}" for i in range(4)]
    with Image.open(tmp_path / "0.png") as image:
        for path in paths:
            image.save(path, **options)
    assert not look_over(paths) and not decoded
    for path in paths[:2]:
        path.write_bytes(path.read_bytes()[:-300])
    assert set(look_over(paths)) == {0, 1}


def test_looking_over_many_files_tells_how_far_it_is(tmp_path: Path):
    steps: list[tuple[int, int]] = []
    top = two_classes(tmp_path, 10)
    data = open_data(
        top,
        request=DataRequest(source=str(top), limit=4),
        edge=16,
        progress=lambda *s: steps.append(s),
    )
    used = sum(data.splits.values())
    assert steps == [(i + 1, 20) for i in range(20)] + [(i + 1, used) for i in range(used)]
