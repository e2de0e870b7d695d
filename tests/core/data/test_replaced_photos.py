"""Photos and archives that are replaced under the same name, of the same size and time, are read anew."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tlnb.core.data import image_cache
from tlnb.session import Session


def photos(folder: Path, light: int) -> list[Path]:
    """Twelve photos of one grey; as BMP, so that their sizes are the same whatever they show."""
    paths = [folder / "ab"[number % 2] / f"{number:02}.bmp" for number in range(12)]
    for number, path in enumerate(paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((16, 16, 3), light + number, np.uint8)).save(path)
    return paths


def set_back(path: Path, before: os.stat_result) -> None:
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    now = path.stat()
    assert (now.st_size, now.st_mtime_ns) == (before.st_size, before.st_mtime_ns)


@pytest.mark.skipif(os.name == "nt", reason="Windows keeps no time of the last change")
def test_replaced_photos_have_another_key(tmp_path: Path):
    paths = photos(tmp_path, 10)
    key, before = image_cache.image_cache(paths, 16).key, [path.stat() for path in paths]
    assert image_cache.image_cache(paths, 16).key == key
    photos(tmp_path, 200)
    for path, state in zip(paths, before, strict=True):
        set_back(path, state)
    assert image_cache.image_cache(paths, 16).key != key


@pytest.mark.skipif(os.name == "nt", reason="Windows keeps no time of the last change")
def test_a_replaced_archive_is_unpacked_anew(tmp_path: Path):
    file, means = tmp_path / "photos.zip", []
    for light in (10, 200):
        before = file.stat() if file.exists() else None
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            for path in photos(tmp_path / "photos", light):
                archive.write(path, path.relative_to(tmp_path / "photos"))
        if before is not None:
            set_back(file, before)
        means.append(float(Session().data(str(file)).images["train"].float().mean()))
    assert means[0] < 50 < means[1]
