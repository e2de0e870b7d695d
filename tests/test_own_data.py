"""Data as users have them: dirty folders, tables, archives, groups, leaks, hints; nothing is skipped silently."""

from __future__ import annotations

import errno
import os
import shutil
import struct
import subprocess
import sys
import zipfile
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.conftest import picture
from tlnb.core import decoding, leaks
from tlnb.core.data import DataSet, open_data
from tlnb.core.decoding import decode, look_over
from tlnb.core.errors import DataError, UsageError
from tlnb.core.request import DataRequest


def opened(source: Path, edge: int = 32, **amounts: object) -> DataSet:
    return open_data(source, request=DataRequest(str(source), **amounts), edge=edge)


def reasons(data: DataSet) -> dict[str, str]:
    return {Path(name).as_posix(): why for name, _, why in (s.partition(": ") for s in data.skipped)}


def two_classes(top: Path, count: int = 6) -> Path:
    for i in range(count):
        picture(top / "a" / f"{i}.png", 40 + i)
        picture(top / "b" / f"{i}.png", 180 + i)
    return top


def scene(path: Path, seed: int, quality: int = 95, size: tuple[int, int] = (200, 150), lighter: int = 0) -> None:
    """A photo-like picture: the same seed is the same scene."""
    rng = np.random.default_rng(seed)
    patches = Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8)).resize(
        (200, 150), Image.Resampling.BICUBIC
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    patches.resize(size).point(lambda v: min(255, v + lighter)).save(path, quality=quality)


locked = pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads everything")


def png_header(width: int, height: int) -> bytes:
    """A PNG that says how large it is, and holds nothing."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")


# ── folders ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_every_file_is_used_or_listed_with_the_reason(tmp_path: Path):
    top = two_classes(tmp_path / "photos")
    a = top / "a"
    (top / "readme.jpg").write_bytes((a / "0.png").read_bytes())
    (a / "zero.jpg").touch()
    (a / "page.jpg").write_text("<!DOCTYPE html><html><script>alert(1)</script></html>")
    (a / "bomb.png").write_bytes(png_header(60_000, 60_000))
    (a / "cut.png").write_bytes((a / "0.png").read_bytes()[:-300])
    (a / "photo").write_bytes((a / "0.png").read_bytes())
    (a / "moving.jp2").write_bytes(b"GIF89a")
    (a / ".ipynb_checkpoints").mkdir()
    (a / ".ipynb_checkpoints" / "0.png").write_bytes((a / "0.png").read_bytes())
    (top / "empty").mkdir()
    files = [p for p in top.rglob("*") if p.is_file()]
    data = opened(top)
    found = reasons(data)
    assert found == {
        "readme.jpg": "not in a class folder",
        "a/zero.jpg": "cannot be read (an empty file)",
        "a/page.jpg": "cannot be read (a web page or drawing, not a photo)",
        "a/bomb.png": "3,600,000,000 pixels are more than 100,000,000",
        "a/cut.png": found["a/cut.png"],
        "a/photo": "not an image type (no extension): it is a PNG, rename it to .png to use it",
        "a/moving.jp2": "not an image type (.jp2): it is a GIF, rename it to .gif to use it",
        "a/.ipynb_checkpoints": "hidden folder (1 files)",
        "empty": "a class folder without images",
    }
    assert sum(data.splits.values()) + len(found) - 1 == len(files)  # the empty folder holds none
    assert {n for names in data.files.values() for n in names} == {f"{c}/{i}.png" for c in "ab" for i in range(6)}


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
    (tmp_path / "x.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 20 20\n%%EndComments\nshowpage\n")
    assert decode(tmp_path / "x.jpg", 8) == "cannot be read (it holds no image)"
    assert look_over([tmp_path / "x.jpg"]) == {0: "cannot be read (it holds no image)"}


def test_names_that_are_no_text_are_listed(tmp_path: Path):
    top = two_classes(tmp_path / "photos")
    for name in (b"a\nb", b"\xff\xfe", b"\x1b[31mred"):
        try:
            Path(os.fsdecode(os.fsencode(top) + b"/" + name)).mkdir()
        except OSError:
            pytest.skip("no such names here")
        (Path(os.fsdecode(os.fsencode(top) + b"/" + name)) / "0.png").write_bytes((top / "a" / "0.png").read_bytes())
    data = opened(top)
    assert data.classes == ("a", "b") and len(data.skipped) == 3
    assert all("rename the folder" in words and words.isprintable() for words in data.skipped)


@pytest.mark.parametrize("names", [("train", "val", "test"), ("Training", "valid", "testing")])
def test_nested_splits_in_a_folder_of_a_folder(tmp_path: Path, names):
    top = tmp_path / "download" / "photos"
    for split, count in zip(names, (6, 3, 2), strict=True):
        two_classes(top / split, count)
    picture(top / names[2] / "only-here" / "0.png", 9)
    (top / "docs").mkdir()
    data = opened(tmp_path / "download")
    assert data.name == "photos" and data.splits == {"train": 12, "val": 6, "test": 4}
    assert reasons(data) == {
        f"{names[2]}/only-here": "1 images of a class that is not in train",
        "docs": f"a folder beside {', '.join(sorted(names))}",
    }


def test_classes_may_be_called_train(tmp_path: Path):
    for name in ("bus", "train", "test"):
        for i in range(4):
            picture(tmp_path / name / f"{i}.png", 50 + i)
    assert opened(tmp_path).classes == ("bus", "test", "train")


def test_links_are_followed_once_and_broken_ones_listed(tmp_path: Path):
    top = two_classes(tmp_path / "photos")
    two_classes(tmp_path / "elsewhere", 3)
    try:
        (top / "a" / "more").symlink_to(tmp_path / "elsewhere" / "a", target_is_directory=True)
    except OSError:
        pytest.skip("no links here")
    (top / "a" / "round").symlink_to(top / "a", target_is_directory=True)
    (top / "b" / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    data = opened(top)
    assert sum(data.splits.values()) == 15
    assert reasons(data) == {
        "a/round": "a link to a folder that is read already",
        "b/gone.jpg": "a link to nothing, or a folder that may not be entered",
    }  # fmt: skip


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_pipe_is_not_waited_for(tmp_path: Path):
    os.mkfifo(two_classes(tmp_path) / "a" / "pipe.jpg")
    assert reasons(opened(tmp_path)) == {"a/pipe.jpg": "not a regular file"}


@locked
def test_unreadable_files_and_folders_are_listed(tmp_path: Path):
    top = two_classes(tmp_path)
    (top / "a" / "0.png").chmod(0)
    (top / "a" / "locked").mkdir(mode=0)
    found = reasons(opened(top))
    assert found["a/0.png"] == "cannot be read (no permission)" and "cannot be opened" in found["a/locked"]


@locked
@pytest.mark.parametrize("name", ["test", "train"])
def test_a_split_that_cannot_be_opened_is_not_made_from_others(tmp_path: Path, name: str):
    for split in ("train", "test"):
        two_classes(tmp_path / split)
    (tmp_path / name).chmod(0)
    try:
        with pytest.raises(DataError, match=f"{name}' cannot be opened .*make it readable to you") as error:
            opened(tmp_path)
    finally:
        (tmp_path / name).chmod(0o700)
    assert "\n" not in str(error.value)


@locked
@pytest.mark.parametrize("mode", [0, 0o400])  # the latter: its names can be read, and nothing in it
def test_a_folder_that_cannot_be_opened_is_the_reason_given(tmp_path: Path, mode: int):
    two_classes(tmp_path)
    for folder, words in ((tmp_path / "a", "has one class .b. .skipped: a"), (tmp_path, "")):
        folder.chmod(mode)
        try:
            with pytest.raises(DataError, match=rf"{words}.*(cannot|may not) be (opened|entered)") as error:
                opened(tmp_path)
        finally:
            folder.chmod(0o700)
        assert "without images" not in str(error.value) and "\n" not in str(error.value)


@locked
def test_a_hidden_folder_that_cannot_be_opened_is_listed(tmp_path: Path):
    (two_classes(tmp_path) / ".thumbs").mkdir(mode=0)
    assert reasons(opened(tmp_path)) == {".thumbs": "hidden folder (1 folders cannot be opened)"}


def test_what_lies_beside_a_folder_that_is_descended_into_is_listed(tmp_path: Path):
    top = tmp_path / "top"
    two_classes(top / "photos")
    for name in (".DS_Store", ".secret.png", ".hidden/x.png", "__MACOSX/photos/._0.png", "photos/.nomedia"):
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_bytes(b"x")
    data = opened(top)
    assert data.classes == ("a", "b")
    assert reasons(data) == {
        ".DS_Store": "hidden file",
        ".hidden": "hidden folder (1 files)",
        ".secret.png": "hidden file",
        "__MACOSX": "hidden folder (1 files)",
        ".nomedia": "hidden file",
    }


def test_a_note_beside_the_folder_of_classes_is_no_class(tmp_path: Path):
    two_classes(tmp_path / "photos")
    (tmp_path / "README.txt").write_text("x")
    data = opened(tmp_path)
    assert data.classes == ("a", "b") and reasons(data) == {"README.txt": "not in a class folder"}
    picture(tmp_path / "cover.png", 9)  # an image beside it: who knows what the folders are
    with pytest.raises(
        DataError, match=r"one class \(photos\) \(skipped: README.txt: not in a class folder and 1 more"
    ):
        opened(tmp_path)


def test_odd_names_reach_the_card_as_text(tmp_path: Path):
    from tlnb.display.cards import data_card

    names = ("-rf", "<b>bold<b>", "$\\alpha$_", "ünï😀", "x" * 200)
    for i, name in enumerate(names):
        for k in range(3):
            picture(tmp_path / name / f"-{k}<img src=x onerror=alert(1)>{'y' * 150}.png", 40 * i + k)
        (tmp_path / name / "<script>alert(2)<script>.txt").write_text("x")
    data = opened(tmp_path)
    assert data.classes == tuple(sorted(names)) and sum(data.splits.values()) == 15
    shown = str(data_card(data))
    assert "<script>" not in shown and "<img src=x" not in shown and "<b>bold" not in shown
    assert "&lt;script&gt;" in shown


def test_one_image_a_class_and_extreme_imbalance(tmp_path: Path):
    for i in range(30):
        picture(tmp_path / "many" / f"{i}.png", 100 + i)
    picture(tmp_path / "one" / "0.png", 10)
    data = opened(tmp_path)
    assert data.counts == {"many": 24, "one": 1} and data.imbalance == 24
    with pytest.raises(DataError, match="no test images"):
        for name in ("c", "d"):
            picture(tmp_path / "few" / name / "0.png", 10)
        opened(tmp_path / "few")


def test_only_what_is_used_is_decoded(tmp_path: Path, monkeypatch):
    top = two_classes(tmp_path, 10)
    (top / "a" / "0.png").write_bytes(b"nothing")
    (top / "a" / "1.png").write_bytes((top / "a" / "1.png").read_bytes()[:-200])
    steps: list[tuple[int, int]] = []
    data = open_data(top, request=DataRequest(str(top), limit=4), edge=16, progress=lambda *s: steps.append(s))
    assert steps[-1] == (4 + data.splits["test"], 4 + data.splits["test"])
    assert set(reasons(data)) == {"a/0.png", "a/1.png"}
    for name in ("0.png", "1.png"):
        (top / "a" / name).unlink()
    assert open_data(top, request=DataRequest(str(top), limit=4), edge=16).fingerprint == data.fingerprint


@pytest.mark.parametrize("memory", ["1GB", "1kB"])
def test_a_file_that_breaks_only_when_decoded_changes_nothing_else(tmp_path: Path, monkeypatch, memory: str):
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
    assert data.fingerprint == opened(top, per_class=4).fingerprint or not data.skipped  # where it was not chosen


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
    assert [bright[most] for most in (100, 250, 255)] == [100, 250, 255]  # eight bits in a file of sixteen
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
    short = subprocess.run([sys.executable, "-c", SHORT_OF_MEMORY, small, large], capture_output=True, text=True)
    assert short.stdout.startswith("MemoryLimit: memory ran out in tl.data: give a smaller"), short
    data = open_data(large)  # the same cache, and enough memory
    assert not data.skipped and sum(data.splits.values()) == 13


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EIO, errno.EACCES])
def test_a_disk_that_does_not_answer_once_is_asked_again(tmp_path: Path, in_files, monkeypatch, number: int):
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
    ("ending", "options"), [*((e, {}) for e in ("webp", "bmp", "tif", "jpg", "png", "gif")), *PRESSED]
)
def test_whole_files_are_looked_over_without_decoding_and_cut_ones_found(
    tmp_path: Path, monkeypatch, ending: str, options
):
    decoded: list[Path] = []
    real = decoding.decode
    monkeypatch.setattr(decoding, "decode", lambda path, edge: decoded.append(path) or real(path, edge))
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
    data = open_data(top, request=DataRequest(str(top), limit=4), edge=16, progress=lambda *s: steps.append(s))
    used = sum(data.splits.values())
    assert steps == [(i + 1, 20) for i in range(20)] + [(i + 1, used) for i in range(used)]


# ── tables and archives ───────────────────────────────────────────────────────────────────────────────────────────


def test_a_table_names_files_labels_splits_and_groups(tmp_path: Path):
    two_classes(tmp_path / "img", 5)
    lines = ["file;class;split;plant"]
    lines += [f"img/{c}/{i}.png;{c};{'test' if i > 3 else 'train'};p{i}" for c in "ab" for i in range(5)]
    (tmp_path / "t.csv").write_text(
        "\n".join([*lines, "img/a/9.png;a;train;p9", "img/a/0.png;a", "img/a/0.png;c;test;p0"])
    )
    data = opened(tmp_path / "t.csv")
    assert data.name == "t" and data.splits == {"train": 8, "test": 2} and data.classes == ("a", "b")
    assert list(reasons(data).values()) == [
        "no such file",
        "2 fields instead of 4",
        "1 images of a class that is not in train",
    ]
    assert opened(tmp_path / "t.csv", group="plant").groups == 5


def test_lines_of_a_table_are_counted_as_editors_do(tmp_path: Path):
    two_classes(tmp_path / "img", 3)
    rows = [f"img/{c}/{i}.png,{c}" for c in "ab" for i in range(3)]
    (tmp_path / "t.csv").write_text(
        "\n".join(["", "path,label", rows[0], "", "   ", "img/a/gone.png,a", *rows[1:], "", "img/b/0.png"])
    )
    assert opened(tmp_path / "t.csv").skipped == (
        "line 6, img/a/gone.png: no such file",
        "line 13: 1 fields instead of 2",
    )
    (tmp_path / "t.csv").write_text("path,label,split\n\n\nimg/a/0.png,a,later")
    with pytest.raises(DataError, match="line 4: split 'later'"):
        opened(tmp_path / "t.csv")


def test_a_table_of_missing_files_says_so(tmp_path: Path):
    (tmp_path / "t.csv").write_text("path,label\n" + "\n".join(f"img/{i}.png,{'ab'[i % 2]}" for i in range(40)))
    with pytest.raises(DataError, match=r"skipped: line 2, img/0.png: no such file and 39 more\)") as error:
        opened(tmp_path / "t.csv")
    assert "folder" not in str(error.value) and "\n" not in str(error.value)


def test_images_that_cannot_be_read_are_why_a_class_is_too_small(tmp_path: Path):
    top = two_classes(tmp_path)
    for i in range(5):
        (top / "a" / f"{i}.png").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"class 'a' has 1 images.*not read: a.0.png: cannot be read .* and 4 more"):
        opened(top, per_class=2)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a,b\n1,2", "no columns path and label .it has a, b; looked for path: path, .*file.*label: label"),
        ("path,label\nx.png,a", "at least two classes"), ("", "it has nothing"),
        ("path,label,split\nimg/a/0.png,a,later", "split 'later' is none of train, val and test"),
    ],
)  # fmt: skip
def test_bad_tables_are_one_line(tmp_path: Path, text: str, words: str):
    two_classes(tmp_path / "img", 2)
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(DataError, match=words) as error:
        opened(tmp_path / "t.csv")
    assert "\n" not in str(error.value)


def zipped(folder: Path, file: Path) -> Path:
    return Path(shutil.make_archive(str(file.with_suffix("")), "zip", folder.parent, folder.name))


def test_a_zip_is_the_folder_in_it(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("TLNB_CACHE", str(tmp_path / "cache"))
    top = two_classes(tmp_path / "photos")
    file = zipped(top, tmp_path / "p.zip")
    data = opened(file)
    assert data.name == "p" and data.fingerprint == opened(top).fingerprint == opened(file).fingerprint
    assert len(list((tmp_path / "cache" / "archives").iterdir())) == 1


def test_what_a_mac_adds_to_a_zip_is_listed(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("TLNB_CACHE", str(tmp_path / "cache"))
    file = zipped(two_classes(tmp_path / "photos"), tmp_path / "p.zip")
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr("__MACOSX/photos/a/._0.png", b"x")
        archive.writestr("README.txt", b"x")
    assert reasons(opened(file)) == {"README.txt": "not in a class folder", "__MACOSX": "hidden folder (1 files)"}


def test_a_zip_of_what_is_not_taken_says_so(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("TLNB_CACHE", str(tmp_path / "cache"))
    with zipfile.ZipFile(tmp_path / "p.zip", "w") as archive:
        archive.writestr("../a/0.png", b"x")
    with pytest.raises(DataError, match=r"p.zip has no class folder with images \(skipped: .*leads out of the archive"):
        opened(tmp_path / "p.zip")


def test_a_zip_writes_nothing_outside_its_folder(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("TLNB_CACHE", str(tmp_path / "cache"))
    file = zipped(two_classes(tmp_path / "photos"), tmp_path / "p.zip")
    with zipfile.ZipFile(file, "a") as archive:
        for name in ("../../evil.png", "/evil.png", "photos/../../../evil.png", "C:/evil.png", "..\\evil.png"):
            archive.writestr(name, b"x")
        link = zipfile.ZipInfo("photos/a/link.png")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    data = opened(file)
    assert sum(data.splits.values()) == 12
    assert sorted(reasons(data).values()) == ["a link", *["leads out of the archive"] * 5]
    assert not list(tmp_path.rglob("*evil*")) and not Path("/evil.png").exists()


def test_zip_bombs_and_damaged_zips_are_one_line(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("TLNB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TLNB_DISK", "1MB")
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/0.png", bytes(3_000_000))
    with pytest.raises(DataError, match="unpacks to 0.00 GB.*TLNB_DISK=1GB"):
        opened(tmp_path / "bomb.zip")
    (tmp_path / "cut.zip").write_bytes((tmp_path / "bomb.zip").read_bytes()[:-30])
    with pytest.raises(DataError, match="cannot be unpacked"):
        opened(tmp_path / "cut.zip")
    assert not list((tmp_path / "cache").rglob("*.part"))


def test_what_unpacks_to_a_hundred_times_its_size_is_no_archive_of_photos(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("TLNB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TLNB_DISK", "100GB")
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/0.png", bytes(110_000_000))
    with pytest.raises(DataError, match="times its size: that is no archive of photos"):
        opened(tmp_path / "bomb.zip")
    assert not list((tmp_path / "cache").rglob("*"))


def test_a_photo_damaged_after_unpacking_is_unpacked_again(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("TLNB_CACHE", str(tmp_path / "cache"))
    file = zipped(two_classes(tmp_path / "photos"), tmp_path / "p.zip")
    before = opened(file).fingerprint
    photo = next((tmp_path / "cache").rglob("3.png"))
    photo.write_bytes((photo.parent / "4.png").read_bytes())
    assert opened(file).fingerprint == before


# ── groups ────────────────────────────────────────────────────────────────────────────────────────────────────────


def plants(top: Path, each: int = 4) -> Path:
    for plant in range(10):
        for i in range(each):
            scene(top / ("sick" if plant % 2 else "well") / f"plant{plant}_{i}.jpg", plant, quality=95 - i)
    return top


def plants_of(data: DataSet, split: str) -> set[str]:
    return {Path(name).name.split("_")[0] for name in data.files[split]}


@pytest.mark.parametrize("how", ["pattern", "table"])
@pytest.mark.parametrize("amounts", [{}, {"val": 0.25}, {"per_class": 5, "seed": 3}])
def test_a_group_is_on_one_side_of_every_split(tmp_path: Path, how: str, amounts):
    top = plants(tmp_path / "photos")
    table = tmp_path / "groups.csv"
    table.write_text("\n".join(f"{p.relative_to(top).as_posix()},{p.name.split('_')[0]}" for p in top.rglob("*.jpg")))
    data = opened(top, edge=64, group=r"(plant\d+)_" if how == "pattern" else str(table), **amounts)
    seen = [plants_of(data, split) for split in data.splits]
    assert sum(map(len, seen)) == len(set().union(*seen)) and data.groups == 10
    assert all(set(data.labels[split].tolist()) == {0, 1} for split in ("train", "test"))
    assert not data.leaks


def test_series_that_a_random_split_cuts_are_flagged(tmp_path: Path):
    data = opened(plants(tmp_path), edge=64)
    assert any("--group" in words and "series" in words for words in data.notes)
    assert data.leaks and not any(leak.same for leak in data.leaks)
    grouped = opened(tmp_path, edge=64, group=r"(plant\d+)_")
    assert not any("series" in words for words in grouped.notes)


@pytest.mark.parametrize("way", ["table", "folders"])
def test_series_between_splits_that_the_data_bring_are_not_ours(tmp_path: Path, way: str):
    """Nothing was drawn here, so that `--group` would change nothing."""
    top = plants(tmp_path / "photos")
    lines = ["path,label,split"]
    for path in sorted(top.rglob("*.jpg")):
        split = "test" if path.stem.endswith("3") else "train"
        lines.append(f"photos/{path.relative_to(top).as_posix()},{path.parent.name},{split}")
        if way == "folders":
            (tmp_path / "x" / split / path.parent.name).mkdir(parents=True, exist_ok=True)
            shutil.copy(path, tmp_path / "x" / split / path.parent.name)
    (tmp_path / "t.csv").write_text("\n".join(lines))
    data = opened(tmp_path / ("t.csv" if way == "table" else "x"), edge=64)
    assert len(data.leaks) == 10
    said = " ".join(data.notes)
    assert "random split" not in said and "--group" not in said
    assert "10 of 10 test images have a twin" in said and "the data bring their test split so" in said


def test_series_are_told_with_what_keeps_them_together(tmp_path: Path):
    """Arrays take groups of their own, and torchvision's sets none."""
    top = plants(tmp_path / "eurosat" / "2750")
    pixels = [np.asarray(Image.open(path).resize((64, 64))) for path in sorted(top.rglob("*.jpg"))]
    arrays = open_data(np.stack(pixels), [i // 20 for i in range(40)])
    assert "group=GROUPS" in " ".join(arrays.notes) and "--group" not in " ".join(arrays.notes)
    drawn = open_data("EuroSAT", request=DataRequest("EuroSAT", root=str(tmp_path)), edge=64)
    assert "give the folder of its files by its path, and --group" in " ".join(drawn.notes)
    for split, number in (("train", 0), ("val", 3)):
        for name, wnid in (("well", "n01440764"), ("sick", "n02102040")):
            folder = tmp_path / "imagenette2" / split / wnid
            folder.mkdir(parents=True)
            for photo in (top / name).glob(f"*_{number}.jpg"):
                shutil.copy(photo, folder / f"{photo.stem}.JPEG")
    own = open_data("Imagenette", request=DataRequest("Imagenette", root=str(tmp_path)), edge=64)
    said = " ".join(own.notes)
    assert "the splits are the data set's own" in said and "the data bring their test split so" in said
    assert "random split" not in said and "--group" not in said


def test_groups_between_splits_that_the_folder_brings_are_told(tmp_path: Path):
    two_classes(tmp_path / "train")
    two_classes(tmp_path / "test", 2)
    assert "2 groups lie in more than one" in " ".join(opened(tmp_path, group=r"(\d+)\.png").notes)


def test_too_few_groups_for_val_leave_it_out_unless_asked_for(tmp_path: Path):
    for name in "ab":
        for group in range(2):
            for i in range(25):
                picture(tmp_path / name / f"{name}{group}_{i}.png", 40 + 60 * group + i, (8, 8))
    data = opened(tmp_path, edge=8, group="([^/]+)_")
    assert data.splits == {"train": 50, "test": 50}
    with pytest.raises(DataError, match="2 groups cannot be divided"):
        opened(tmp_path, edge=8, group="([^/]+)_", val=0.2)


def test_braces_reach_the_pattern_where_they_are_doubled(tmp_path: Path, shell):
    for name in "ab":
        for i in range(12):
            picture(tmp_path / name / f"{i // 3:02}{i:02}.png", 10 * i, (8, 8))
    data = shell.run_line_magic("tl_data", f"{tmp_path} --group /(..)")
    assert data.groups == 4
    shell.run_cell(f"%tl_data {tmp_path} --group ([0-9]{{{{2}}}})[0-9]+").raise_error()
    assert shell.user_ns["tl"].dataset.groups == 4


def test_arrays_take_groups(session):
    images = np.random.default_rng(0).integers(0, 255, (40, 8, 8), dtype=np.uint8)
    data = session.data(images, [0, 1] * 20, group=np.repeat(np.arange(10), 4))
    inside = {s: {i.numpy().tobytes() for i in part[:, 0]} for s, part in data.images.items()}
    for group in images.reshape(10, 4, 8, 8):
        assert sum(any(image.tobytes() in part for image in group) for part in inside.values()) == 1
    with pytest.raises(DataError, match="40 images but 3 groups"):
        session.data(images, [0, 1] * 20, group=[1, 2, 3])


@pytest.mark.parametrize(
    ("group", "error", "words"),
    [
        ("([", UsageError, "no regular expression"), ("zzz", UsageError, "matches none of the 12 files"),
        ("none.csv", DataError, "no file is called 'none.csv'"), (r"\.png", DataError, "all images into one group"),
        (r"^(.)/", DataError, "cannot be divided so that every class"),
    ],
)  # fmt: skip
def test_bad_groups_are_one_line(tmp_path: Path, group, error, words):
    with pytest.raises(error, match=words) as raised:
        opened(two_classes(tmp_path), group=group)
    assert "\n" not in str(raised.value)


def test_only_files_take_group_and_root():
    for option in ("group", "root"):
        with pytest.raises(UsageError, match=f"leave out --{option}"):
            open_data("digits", request=DataRequest("digits", **{option: "x"}))


# ── leaks and hints ───────────────────────────────────────────────────────────────────────────────────────────────


def test_twins_between_splits_are_leaks(tmp_path: Path):
    for split, start in (("train", 0), ("test", 100)):
        for i in range(8):
            scene(tmp_path / split / "ab"[i % 2] / f"{i}.jpg", start + i)
    test = tmp_path / "test"
    shutil.copy(tmp_path / "train" / "a" / "0.jpg", test / "a" / "copy.jpg")
    scene(test / "b" / "pressed.jpg", 1, quality=35)
    scene(test / "a" / "scaled.jpg", 2, size=(120, 90))
    scene(test / "b" / "lighter.jpg", 3, lighter=25)
    found = {leak.image: leak for leak in opened(tmp_path, edge=96).leaks}
    twins = {f"test/{n}": f"train/{o}" for n, o in {
        "a/copy.jpg": "a/0.jpg", "b/pressed.jpg": "b/1.jpg", "a/scaled.jpg": "a/2.jpg", "b/lighter.jpg": "b/3.jpg",
    }.items()}  # fmt: skip
    assert {n: leak.other for n, leak in found.items()} == twins
    assert [n for n, leak in found.items() if leak.same] == ["test/a/copy.jpg"]
    assert all((leak.split, leak.other_split) == ("test", "train") for leak in found.values())


def test_real_photos_have_no_twins_but_those_that_are_made(real_data: Path, tmp_path: Path):
    shutil.copytree(real_data / "ants_bees", tmp_path / "photos")
    assert not opened(tmp_path / "photos", edge=96).leaks
    photos = sorted((tmp_path / "photos" / "train" / "bees").glob("*.jpg"))[:20]
    for photo in photos:
        with Image.open(photo) as image:
            smaller = image.convert("RGB").resize((image.width * 2 // 3, image.height * 2 // 3))
        smaller.save(tmp_path / "photos" / "val" / "bees" / f"again-{photo.name}", quality=60)
    found = opened(tmp_path / "photos", edge=96).leaks
    assert len(found) >= 19 and all(leak.image.endswith(Path(leak.other).name) for leak in found)


def test_equal_small_images_are_leaks_and_alike_ones_are_not():
    images = np.random.default_rng(0).integers(0, 255, (6, 3, 16, 16), dtype=np.uint8)
    images[5] = images[0]
    images[4] = images[1] // 2 + 60
    parts = {"train": torch.tensor(images[:4]), "test": torch.tensor(images[4:])}
    found = leaks.find_leaks(parts, {"train": [*"abcd"], "test": [*"ef"]})
    assert [str(leak) for leak in found] == ["f (test) is the same as a (train)"]


def test_empty_pictures_are_not_twins():
    flat = torch.full((5, 3, 80, 80), 200, dtype=torch.uint8)
    flat[torch.arange(5), :, 0, torch.arange(5)] = 201
    assert not leaks.find_leaks({"train": flat[:3], "test": flat[3:]}, {"train": [*"abc"], "test": [*"de"]})


@pytest.mark.parametrize(
    ("classes", "file", "words"),
    [
        (("n01440764", "n02102040"), "1.png", "class folders are named as ImageNet's"),
        (("tench", "springer"), "n01440764_10026.png", "files are named as ImageNet's"),
        (("ants", "bees"), "1.png", "a well-known tutorial"),
        (("oak", "elm"), "n1234_1.png", ""),
    ],
)  # fmt: skip
def test_images_that_may_be_imagenets_are_hinted_at(tmp_path: Path, classes, file, words):
    for name in classes:
        for i in range(3):
            picture(tmp_path / name / file.replace(".", f"{i}."), 40 + i)
    data = opened(tmp_path)
    assert words in data.source_hint and bool(data.source_hint) == bool(words)
    assert any("learned from these very images" in words_ for words_ in data.notes) == bool(words)


def test_a_run_says_that_its_network_may_have_seen_the_images(session, tmp_path: Path):
    for name in ("n01440764", "n02102040"):
        for i in range(4):
            picture(tmp_path / name / f"{i}.png", 40 + i)
    session.data(str(tmp_path))
    session.load("squeezenet1_1", weights="none", size=64)
    assert not any("very images" in words for words in session.train(epochs=1).notes)
    card = replace(session.model.card, source="ImageNet-1K")
    session.model = replace(session.model, card=card)
    assert any("very images" in words for words in session.train(epochs=1).notes)
    assert not any("very images" in words for words in session.train(epochs=1, scratch=True).notes)


def test_the_card_shows_what_was_noticed(tmp_path: Path, shell):
    top = plants(tmp_path / "photos")
    shutil.copy(top / "sick" / "plant1_0.jpg", top / "sick" / "zz.jpg")
    (top / "sick" / "note.txt").write_text("x")
    for i in range(70):
        scene(top / "well" / f"more_{i}.jpg", 500 + i)
    from tlnb.display.cards import data_card

    data = shell.run_line_magic("tl_data", f"{top} --size 64 --seed 1")
    shown = str(data_card(data))
    assert "images are in two splits" in shown and "imbalance" in shown and "note.txt" in shown and "--group" in shown
    data = shell.run_line_magic("tl_data", f"{top} --size 64 --group (plant[0-9]+)_")
    assert "groups" in str(data_card(data)) and shell.user_ns["tl"].script().count("--group (plant[0-9]+)_") == 1
