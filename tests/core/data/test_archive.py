"""Zip files: the folder in them, nothing outside it, bombs refused."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

import pytest

from tests.photos import opened, reasons, two_classes
from tlnb.core.runtime.errors import DataError


def zipped(folder: Path, file: Path) -> Path:
    return Path(shutil.make_archive(str(file.with_suffix("")), "zip", folder.parent, folder.name))


def test_a_zip_is_the_folder_in_it(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("TLNB_CACHE", str(tmp_path / "cache"))
    top = two_classes(tmp_path / "photos")
    file = zipped(top, tmp_path / "p.zip")
    data = opened(file)
    assert (
        data.name == "p" and data.fingerprint == opened(top).fingerprint == opened(file).fingerprint
    )
    assert len(list((tmp_path / "cache" / "archives").iterdir())) == 1


def test_what_a_mac_adds_to_a_zip_is_listed(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("TLNB_CACHE", str(tmp_path / "cache"))
    file = zipped(two_classes(tmp_path / "photos"), tmp_path / "p.zip")
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr("__MACOSX/photos/a/._0.png", b"x")
        archive.writestr("README.txt", b"x")
    assert reasons(opened(file)) == {
        "README.txt": "not in a class folder",
        "__MACOSX": "hidden folder (1 files)",
    }


def test_a_zip_of_what_is_not_taken_says_so(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("TLNB_CACHE", str(tmp_path / "cache"))
    with zipfile.ZipFile(tmp_path / "p.zip", "w") as archive:
        archive.writestr("../a/0.png", b"x")
    with pytest.raises(
        DataError,
        match=r"p.zip has no class folder with images \(skipped: .*leads out of the archive",
    ):
        opened(tmp_path / "p.zip")


def test_a_zip_writes_nothing_outside_its_folder(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("TLNB_CACHE", str(tmp_path / "cache"))
    file = zipped(two_classes(tmp_path / "photos"), tmp_path / "p.zip")
    with zipfile.ZipFile(file, "a") as archive:
        for name in (
            "../../evil.png",
            "/evil.png",
            "photos/../../../evil.png",
            "C:/evil.png",
            "..\\evil.png",
        ):
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


def test_what_unpacks_to_a_hundred_times_its_size_is_no_archive_of_photos(
    tmp_path: Path, monkeypatch
):
    monkeypatch.setenv("TLNB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TLNB_DISK", "100GB")
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/0.png", bytes(110_000_000))
    with pytest.raises(DataError, match="times its size, which an archive of photos never does"):
        opened(tmp_path / "bomb.zip")
    assert not list((tmp_path / "cache").rglob("*"))


def test_a_photo_damaged_after_unpacking_is_unpacked_again(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("TLNB_CACHE", str(tmp_path / "cache"))
    file = zipped(two_classes(tmp_path / "photos"), tmp_path / "p.zip")
    before = opened(file).fingerprint
    photo = next((tmp_path / "cache").rglob("3.png"))
    photo.write_bytes((photo.parent / "4.png").read_bytes())
    assert opened(file).fingerprint == before
