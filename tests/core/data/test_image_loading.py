"""Folders as users have them: dirty, nested, linked, locked; nothing is skipped silently."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.conftest import picture
from tests.photos import locked, opened, png_header, reasons, two_classes
from tlnb.core.runtime.errors import DataError


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
        "a/moving.jp2": "not an image type (.jp2)",
        "a/.ipynb_checkpoints": "hidden folder (1 files)",
        "empty": "a class folder without images",
    }
    assert sum(data.splits.values()) + len(found) - 1 == len(files)  # the empty folder holds none
    assert {n for names in data.files.values() for n in names} == {
        "a/photo",
        *(f"{c}/{i}.png" for c in "ab" for i in range(6)),
    }
    assert "a/photo: read, since the content is an image, whatever the name says" in data.notes


def test_names_that_are_no_text_are_listed(tmp_path: Path):
    top = two_classes(tmp_path / "photos")
    for name in (b"a\nb", b"\xff\xfe", b"\x1b[31mred"):
        try:
            Path(os.fsdecode(os.fsencode(top) + b"/" + name)).mkdir()
        except OSError:
            pytest.skip("no such names here")
        (Path(os.fsdecode(os.fsencode(top) + b"/" + name)) / "0.png").write_bytes(
            (top / "a" / "0.png").read_bytes()
        )
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


def test_links_inside_are_followed_once_and_others_listed(tmp_path: Path):
    top = two_classes(tmp_path / "photos")
    two_classes(tmp_path / "elsewhere", 3)
    try:
        (top / "a" / "more").symlink_to(tmp_path / "elsewhere" / "a", target_is_directory=True)
    except OSError:
        pytest.skip("no links here")
    (top / "a" / "round").symlink_to(top / "a", target_is_directory=True)
    (top / "b" / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    data = opened(top)
    assert sum(data.splits.values()) == 12
    assert reasons(data) == {
        "a/more": "a link out of the folder, which is not followed: copy what it leads to",
        "a/round": "a link to a folder that is read already",
        "b/gone.jpg": "a link to nothing, or a folder that may not be entered",
    }


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
    assert (
        found["a/0.png"] == "cannot be read (no permission)"
        and "cannot be opened" in found["a/locked"]
    )


@locked
@pytest.mark.parametrize("name", ["test", "train"])
def test_a_split_that_cannot_be_opened_is_not_made_from_others(tmp_path: Path, name: str):
    for split in ("train", "test"):
        two_classes(tmp_path / split)
    (tmp_path / name).chmod(0)
    try:
        with pytest.raises(
            DataError, match=f"{name}' cannot be opened .*make it readable to you"
        ) as error:
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
            with pytest.raises(
                DataError, match=rf"{words}.*(cannot|may not) be (opened|entered)"
            ) as error:
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
    for name in (
        ".DS_Store",
        ".secret.png",
        ".hidden/x.png",
        "__MACOSX/photos/._0.png",
        "photos/.nomedia",
    ):
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
        DataError,
        match=r"one class \(photos\) \(skipped: README.txt: not in a class folder and 1 more",
    ):
        opened(tmp_path)


def test_odd_names_reach_the_card_as_text(tmp_path: Path):
    from tlnb.display.data_cards import data_card

    names = ("-rf", "<b>bold<b>", "$\\alpha$_", "ünï😀", "x" * 200)
    for i, name in enumerate(names):
        for k in range(3):
            picture(
                tmp_path / name / f"-{k}<img src=x onerror=alert(1)>{'y' * 150}.png", 40 * i + k
            )
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
