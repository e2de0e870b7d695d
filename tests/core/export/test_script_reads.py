"""A script reads every kind of image that a run may read as the run did: formats, modes, shapes, transparency, 16 bits."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, features

from tlnb.session import Session

Pixels = np.ndarray
SEEN = ("train", "val", "test")


def pattern(number: int, shape: tuple[int, int] = (40, 56)) -> Pixels:
    """A grey picture of its own for each number, in 0..255."""
    rows, columns = np.indices(shape)
    return ((rows * (3 + number) + columns * 5 + 17 * number) % 256).astype(np.uint8)


def colours(number: int) -> Pixels:
    return np.stack([pattern(number), pattern(number + 9), pattern(number + 4)], 2)


def converted(mode: str) -> Callable[[int], Image.Image]:
    return lambda number: Image.fromarray(colours(number)).convert(mode)


def see_through(mode: str) -> Callable[[int], Image.Image]:
    def made(number: int) -> Image.Image:
        image = Image.fromarray(colours(number)).convert("RGBA")
        image.putalpha(Image.fromarray(pattern(number + 2)))
        return image.convert(mode)

    return made


def palette(number: int) -> Image.Image:
    """A palette of which one colour counts as transparent."""
    image = Image.fromarray(pattern(number)).quantize(8)
    image.info["transparency"] = 3
    return image


def deep(factor: int, kind: Any = np.uint16) -> Callable[[int], Image.Image]:
    return lambda number: Image.fromarray(
        (pattern(number).astype(np.float64) * factor).astype(kind)
    )


def fractions(number: int) -> Image.Image:
    return Image.fromarray((pattern(number) / 255).astype(np.float32))


def turned(number: int) -> Image.Image:
    image = Image.fromarray(colours(number))
    image.getexif()[274] = 6
    return image


def long(number: int) -> Image.Image:
    return Image.fromarray(pattern(number, (24, 400))).convert("RGB")


def one_of_many(number: int) -> Image.Image:
    """Transparent beyond the images that are looked into."""
    return see_through("RGBA")(number) if number >= 70 and number % 2 else converted("RGBA")(number)


# name → a picture by number, and the ending of its file
KINDS: dict[str, tuple[Callable[[int], Image.Image], str]] = {
    "rgb jpeg": (converted("RGB"), "jpg"),
    "grey jpeg": (converted("L"), "jpg"),
    "cmyk jpeg": (converted("CMYK"), "jpg"),
    "rgb webp": (converted("RGB"), "webp"),
    "rgb bmp": (converted("RGB"), "bmp"),
    "rgb tiff": (converted("RGB"), "tif"),
    "cmyk tiff": (converted("CMYK"), "tif"),
    "lab tiff": (converted("LAB"), "tif"),
    "grey ppm": (converted("L"), "pgm"),
    "one bit png": (converted("1"), "png"),
    "palette png": (converted("P"), "png"),
    "palette gif": (converted("P"), "gif"),
    "opaque rgba png": (converted("RGBA"), "png"),
    "rgba png": (see_through("RGBA"), "png"),
    "la png": (see_through("LA"), "png"),
    "rgba webp": (see_through("RGBA"), "webp"),
    "transparent palette png": (palette, "png"),
    "transparent palette gif": (palette, "gif"),
    "16 bits png": (deep(257), "png"),
    "12 bits png": (deep(16), "png"),
    "16 bits tiff": (deep(257), "tif"),
    "16 bits pgm": (deep(257), "pgm"),
    "32 bits tiff": (deep(70_000, np.int32), "tif"),
    "fractions tiff": (fractions, "tif"),
    "turned jpeg": (turned, "jpg"),
    "long png": (long, "png"),
}


def read_by_script(session: Session, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """What the script's own reader makes of the data, where it says that they should be."""
    text = str(session.code())
    monkeypatch.chdir(folder)
    if saved := re.search(r'tl\.dataset\.save\("([^"]+)"\)', text):
        session.dataset.save(saved[1])
    names: dict[str, Any] = {"__name__": "script"}
    exec(compile(text, "script.py", "exec"), names)
    return names["load_data"]()


def check(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = Session()
    session.data(str(folder / "photos"), size=32)
    session.load("glyphnet")
    found = read_by_script(session, folder, monkeypatch)
    for split in set(SEEN) & session.dataset.splits.keys():
        images, labels = found[split]
        own = session.dataset.images[split]
        assert torch.equal(labels, session.dataset.labels[split]) and images.shape == own.shape
        off = (images.int() - own.int()).abs()
        assert off.max() == 0, (
            f"{split}: {int((off > 0).sum())} pixels differ, by up to {off.max()}"
        )


def write(folder: Path, number: int, image: Image.Image, ending: str) -> None:
    path = folder / "photos" / "ab"[number % 2] / f"{number:03}.{ending}"
    path.parent.mkdir(parents=True, exist_ok=True)
    exact = {"lossless": True} if ending == "webp" else {}
    exif = image.getexif()
    image.save(path, **exact, **({"exif": exif} if len(exif) else {}))


@pytest.mark.parametrize("kind", KINDS)
def test_a_script_reads_as_the_run_did(kind: str, tmp_path: Path, monkeypatch):
    made, ending = KINDS[kind]
    if ending == "webp" and not features.check("webp"):
        pytest.skip("this Pillow has no WebP")
    for number in range(12):
        write(tmp_path, number, made(number), ending)
    check(tmp_path, monkeypatch)


def test_a_script_reads_a_folder_of_everything(tmp_path: Path, monkeypatch):
    """Whole numbers beside fractions have no common scale: each is read by its own."""
    for number, (made, ending) in enumerate(KINDS.values()):
        write(tmp_path, 2 * number, made(2 * number), ending)
        write(tmp_path, 2 * number + 1, made(2 * number + 1), ending)
    check(tmp_path, monkeypatch)


def test_a_script_reads_transparency_that_few_images_have(tmp_path: Path, monkeypatch):
    for number in range(80):
        write(tmp_path, number, one_of_many(number), "png")
    check(tmp_path, monkeypatch)
