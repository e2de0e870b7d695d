"""Images as people have them: transparent parts, more than eight bits, negative numbers, other formats, other shapes."""

from __future__ import annotations

import struct
import sys
import types
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, features

from tests.tolerance.inputs import class_folders, noise, opened
from tlnb.core.data import decoding, image_cache
from tlnb.core.data.dataset import open_data
from tlnb.core.data.decoding import decode
from tlnb.core.evaluation.new_images import read_image
from tlnb.core.export.pytorch_script.data_section import READ_FOLDER, READ_PHOTO
from tlnb.core.export.pytorch_script.template import fill
from tlnb.core.export.run_files import facts_from, facts_to
from tlnb.core.runtime.errors import DataError


def shape(label: int, number: int) -> np.ndarray:
    """What is to be seen: a bar, wider in one class; no two alike."""
    seen = np.zeros((40, 40), bool)
    seen[4 + number : 20 + number, 6 : 16 + 12 * label] = True
    return seen


def stretched(image: torch.Tensor) -> bool:
    return int(image.max()) - int(image.min()) > 200


# ── transparency ──────────────────────────────────────────────────────────────────────────────────────────────────


def clear_rgba(label: int, number: int) -> Image.Image:
    return Image.fromarray(
        np.dstack([np.zeros((40, 40, 3), np.uint8), np.uint8(255) * shape(label, number)])
    )


def clear_la(label: int, number: int) -> Image.Image:
    return clear_rgba(label, number).convert("LA")


def clear_palette(label: int, number: int) -> Image.Image:
    """layumi/University1652-Baseline #17: a palette with transparency."""
    image = Image.fromarray(shape(label, number).astype(np.uint8))
    image.putpalette([0] * 768)
    image.info["transparency"] = 0
    return image


def clear_colour(label: int, number: int) -> Image.Image:
    """RGB, one colour of which counts as transparent."""
    image = Image.fromarray(
        np.where(shape(label, number)[..., None], 0, 9).repeat(3, 2).astype(np.uint8)
    )
    image.info["transparency"] = (9, 9, 9)
    return image


@pytest.mark.parametrize("draw", [clear_rgba, clear_la, clear_palette, clear_colour])
def test_a_black_shape_on_transparent_ground_is_seen(tmp_path: Path, draw):
    """NVIDIA/DIGITS #85, kohya-ss/sd-scripts #1269, google/deepdream #25: below transparent parts lies black, mostly."""
    class_folders(tmp_path, draw=draw)
    data = opened(tmp_path)
    assert all(stretched(image) for image in data.images["train"])
    assert "12 images have an alpha channel: transparent parts become white" in data.notes
    assert not data.two_labels and data.facts.transparent


def test_half_transparent_is_half_white(tmp_path: Path):
    Image.new("RGBA", (20, 20), (0, 0, 0, 127)).save(tmp_path / "x.png")
    found = decode(tmp_path / "x.png", 8)
    assert isinstance(found, torch.Tensor) and found.unique().tolist() == [128]


def test_opaque_images_with_an_alpha_channel_need_no_words(tmp_path: Path):
    class_folders(tmp_path, draw=lambda y, i: noise(y, i).convert("RGBA"))
    data = opened(tmp_path)
    assert not data.notes and not data.facts.transparent


def test_what_white_ground_swallows_is_said_and_accuses_no_label(tmp_path: Path):
    class_folders(
        tmp_path,
        draw=lambda y, i: Image.merge(
            "RGBA",
            [*[Image.new("L", (40, 40), 255)] * 3, Image.fromarray(np.uint8(255) * shape(y, i))],
        ),
    )
    data = opened(tmp_path)
    assert "12 of those checked become all white: save them on a dark background" in data.notes
    assert not data.two_labels and not any("two classes" in words for words in data.notes)


def test_the_same_image_in_two_classes_is_still_said(tmp_path: Path):
    class_folders(tmp_path)
    noise(0, 0).save(tmp_path / "dogs" / "same.png")
    assert opened(tmp_path).two_labels


def test_new_images_are_shown_on_white_too(tmp_path: Path):
    image = clear_rgba(1, 3)
    image.save(tmp_path / "x.png")
    assert torch.equal(read_image(tmp_path / "x.png", 20), read_image(image, 20))
    assert torch.equal(read_image(np.asarray(image), 20), read_image(image, 20))
    assert stretched(read_image(image, 20))


def script_reads(
    tmp_path: Path, accents: bool, transparent: bool, classes: tuple[str, ...]
) -> torch.Tensor:
    """What the code of a written script makes of a folder."""
    flags = {"transparent": transparent, "accents": accents}
    values = {"max_pixels": 10**8, "finer": 2, "longest": 3, "formats": ("PNG",), "others": '".x"'}
    code = "\n".join(fill(part, flags, values) for part in (READ_PHOTO, READ_FOLDER))
    head = (
        "import unicodedata\nfrom pathlib import Path\nimport numpy as np\nimport torch\nfrom torch import Tensor\n"
        "import torchvision.transforms.v2.functional as TF\nfrom PIL import Image, ImageOps\n"
        "from torchvision.datasets.folder import IMG_EXTENSIONS\n"
    )
    names: dict[str, object] = {"EDGE": 32, "CLASSES": classes}
    before = Image.MAX_IMAGE_PIXELS
    try:
        exec(head + code, names)
        return names["read_photos"](tmp_path)[0]  # type: ignore[operator]
    finally:
        Image.MAX_IMAGE_PIXELS = before


def test_a_written_script_sees_what_was_trained_on(tmp_path: Path):
    classes = ("Cafe\u0301", "tea")  # as a Mac stores it
    class_folders(tmp_path, classes, draw=clear_rgba)
    data = opened(tmp_path)
    seen = script_reads(tmp_path, True, True, data.classes)
    known = {image.numpy().tobytes() for split in data.images.values() for image in split}
    assert {image.numpy().tobytes() for image in seen} == known


# ── more than eight bits ──────────────────────────────────────────────────────────────────────────────────────────


def wide(label: int, number: int, high: tuple[float, float], kind: type = np.uint16) -> Image.Image:
    pixels = np.random.default_rng([label, number]).random((40, 40)) * high[label]
    return Image.fromarray(pixels.astype(kind))


def means(data) -> list[float]:
    return [float(data.images["train"][data.labels["train"] == y].float().mean()) for y in (0, 1)]


@pytest.mark.parametrize(
    ("high", "kind", "ending"),
    [
        ((1000, 32000), np.uint16, "png"),
        ((1000, 32000), np.uint16, "tif"),
        ((500, 4000), np.int32, "tif"),
        ((0.1, 0.9), np.float32, "tif"),
        ((30.0, 240.0), np.float32, "tif"),
    ],
)
def test_brightness_can_be_a_class(tmp_path: Path, high, kind, ending: str):
    """python-pillow/Pillow #3011, #2574: each image by its own range, or all above 255 white."""
    class_folders(tmp_path, ending=ending, draw=lambda y, i: wide(y, i, high, kind))
    data = opened(tmp_path)
    dark, bright = means(data)
    assert bright > 4 * dark and bright > 90 and data.values is not None and data.values[0] == 0


def test_new_images_are_scaled_as_those_that_taught(tmp_path: Path):
    class_folders(tmp_path, draw=lambda y, i: wide(y, i, (1000, 32000)))
    data = opened(tmp_path, edge=20)
    dark = read_image(tmp_path / "cats" / "0.png", 20, data.values)
    assert int(dark.max()) < 10 and int(read_image(tmp_path / "cats" / "0.png", 20).max()) > 100


def test_images_in_a_file_are_scaled_alike(tmp_path: Path, monkeypatch):
    class_folders(tmp_path / "d", draw=lambda y, i: wide(y, i, (1000, 32000)))
    held = opened(tmp_path / "d")
    monkeypatch.setenv("TLNB_MEMORY", "1KB")
    monkeypatch.setenv("TLNB_CACHE", str(tmp_path / "cache"))
    mapped = opened(tmp_path / "d")
    assert all(torch.equal(held.images[split], mapped.images[split]) for split in held.splits)
    paths = sorted((tmp_path / "d").rglob("*.png"))
    assert (
        image_cache.image_cache(paths, 32, (0, 1)).key
        != image_cache.image_cache(paths, 32, (0, 2)).key
    )


def test_a_big_endian_image_is_read(tmp_path: Path):
    """python-pillow/Pillow #5991, #1108: I;16B."""
    pixels = np.linspace(0, 60000, 1600).reshape(40, 40)
    Image.frombytes("I;16B", (40, 40), pixels.astype(">u2").tobytes()).save(tmp_path / "x.tif")
    found = decode(tmp_path / "x.tif", 20, (0, 65535))
    assert (
        isinstance(found, torch.Tensor)
        and int(found[:, 0].float().mean()) < 15
        and int(found[:, -1].min()) > 215
    )


@pytest.mark.parametrize("ranges", [((-0.8, -0.5), (0.5, 0.8)), ((-1000.0, 0.0), (-500.0, 400.0))])
def test_negative_values_keep_what_is_on_them(tmp_path: Path, ranges):
    def draw(label: int, number: int) -> Image.Image:
        low, high = ranges[label]
        pixels = np.random.default_rng([label, number]).random((40, 40)) * (high - low) + low
        return Image.fromarray(pixels.astype(np.float32))

    data = opened(class_folders(tmp_path, ending="tif", draw=draw))
    assert all(int(image.max()) > int(image.min()) for image in data.images["train"])
    dark, bright = means(data)
    assert bright > dark + 40
    assert (
        "12 images hold values of" in data.notes[0]
        and "negative ones too: black is -" in data.notes[0]
    )


def test_whole_numbers_beside_fractions_are_said(tmp_path: Path):
    class_folders(tmp_path, ("a",), ending="tif", draw=lambda y, i: wide(1, i, (0, 30000)))
    class_folders(tmp_path, ("b",), ending="tif", draw=lambda y, i: wide(1, i, (0, 1), np.float32))
    data = opened(tmp_path)
    assert data.values is None and "each scaled by their own range" in data.notes[0]


def test_what_is_known_of_the_data_survives_a_restart_and_older_files(tmp_path: Path):
    data = opened(class_folders(tmp_path, draw=lambda y, i: wide(y, i, (1000, 32000))))
    kept = facts_to(data.facts)
    assert facts_from(kept) == data.facts and not data.facts.plain_folder
    older = {key: value for key, value in kept.items() if key not in ("values", "transparent")}
    assert facts_from(older).values is None


# ── formats ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow writes no AVIF")
@pytest.mark.parametrize("ending", ["avif", "jpg", "png"])
def test_avif_is_read_under_any_image_name(tmp_path: Path, ending: str):
    data = opened(class_folders(tmp_path, ending=ending, format="AVIF"))
    assert data.classes == ("cats", "dogs") and not data.skipped


@pytest.mark.parametrize("ending", ["jpg", "HEIC", "png"])
def test_heic_without_its_package_says_what_to_install(tmp_path: Path, ending: str):
    """python-pillow/Pillow #2806, #4163: photos of iPhones, some called .jpg or .png."""
    class_folders(tmp_path)
    (tmp_path / "cats" / f"x.{ending}").write_bytes(
        b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100)
    )
    assert opened(tmp_path).skipped[0].endswith("%pip install pillow-heif, then restart)")


def test_heic_is_read_where_its_package_is_installed(monkeypatch):
    registered = []
    monkeypatch.setitem(sys.modules, "pillow_heif", package := types.ModuleType("pillow_heif"))
    package.register_heif_opener = lambda: registered.append(
        Image.register_open("HEIF", lambda *_: None)
    )  # type: ignore
    monkeypatch.setattr(decoding, "find_spec", lambda name: package)
    monkeypatch.setattr(Image, "OPEN", dict(Image.OPEN))
    decoding.formats.cache_clear()
    try:
        assert "HEIF" in decoding.formats() and registered
    finally:
        decoding.formats.cache_clear()


def test_jpegs_under_their_other_names(tmp_path: Path):
    class_folders(tmp_path, ("cats",), ending="jfif", format="JPEG")
    class_folders(tmp_path, ("dogs",), ending="jpe", format="JPEG")
    assert sum(opened(tmp_path).splits.values()) == 12


# ── arrays ────────────────────────────────────────────────────────────────────────────────────────────────────────


def arrays(height: int, width: int, channels: int = 3) -> tuple[np.ndarray, np.ndarray]:
    labels = np.arange(12) % 2
    pixels = (
        np.random.default_rng(0).integers(0, 100, (12, height, width, channels))
        + 100 * labels[:, None, None, None]
    )
    return pixels.astype(np.uint8), labels


@pytest.mark.parametrize("shape", [(20, 32), (32, 20), (21, 8)])
def test_arrays_that_are_not_square_are_cut_as_photos_are(shape):
    images, labels = arrays(*shape)
    data = open_data(images, labels)
    edge, (top, left) = min(shape), ((n - min(shape)) // 2 for n in shape)
    assert (
        data.edge == edge
        and f"of {shape[0]} × {shape[1]} pixels are cropped to their centre" in data.notes[0]
    )
    middle = {
        image[top : top + edge, left : left + edge].transpose(2, 0, 1).tobytes() for image in images
    }
    assert {image.numpy().tobytes() for image in data.images["train"]} <= middle


def test_arrays_with_an_alpha_channel_are_shown_on_white():
    images, labels = arrays(16, 16, 4)
    images[..., 3] = 0
    images[:, :8, :, 3] = 255
    for given in (images, images.transpose(0, 3, 1, 2)):
        data = open_data(given, labels)
        assert (
            int(data.images["train"][:, :, 8:].min()) == 255
            and int(data.images["train"][:, :, :8].max()) < 200
        )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda x: x / 127.5 - 1, r"-1..1, give \(images \+ 1\) / 2"),
        (lambda x: (x - x.mean()) / x.std(), "look standardised"),
        (lambda x: x * 1.0, "divide by 255"),
    ],
)
def test_floats_of_another_range_are_told_the_way(change, words: str):
    images, labels = arrays(16, 16)
    with pytest.raises(DataError, match=words):
        open_data(change(images), labels)


@pytest.mark.parametrize("shape", [(0, 0, 3), (0, 10), (10, 0, 3)])
def test_an_image_without_pixels_is_one_line(shape):
    with pytest.raises(DataError, match="holds no pixels"):
        read_image(np.zeros(shape, np.uint8), 16)


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def deep_png(path: Path, pixels: np.ndarray) -> None:
    """A PNG of 16 bits a colour, which Pillow reads but does not write."""
    height, width, _ = pixels.shape
    head = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)


def test_colours_of_more_than_eight_bits_are_said(tmp_path: Path):
    """Of 12 bits in files of 16 nearly nothing is left in the upper 8."""
    top = class_folders(tmp_path / "d")
    assert not opened(top).notes
    for label, name in enumerate(("cats", "dogs")):
        pixels = np.asarray(noise(label, 50)).astype(np.uint16) * 16
        deep_png(top / name / "50.png", pixels)
    assert "2 images have colours of more than 8 bits, of which the upper 8" in opened(top).notes[0]
