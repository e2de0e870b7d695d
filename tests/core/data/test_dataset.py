"""Data: what is used, what is held out, what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.conftest import picture
from tlnb.core.data.builtin import digits_pixels
from tlnb.core.data.dataset import open_data, size_verdict
from tlnb.core.data.decoding import decode
from tlnb.core.data.request import DataRequest
from tlnb.core.runtime.errors import DataError, UsageError


def digits(**amounts: object):
    return open_data("digits", request=DataRequest(source="digits", **amounts))


def test_per_class_counts_every_label():
    data = digits(per_class=2)
    assert data.splits == {"train": 20, "monitor": 200, "test": 700}
    assert set(data.counts.values()) == {2}
    assert data.size_verdict == "little"


def test_a_fifth_is_val_from_twenty_labels_on():
    assert "val" not in digits(per_class=19).splits
    data = digits(per_class=20)
    assert data.splits["val"] == 40 and data.splits["train"] == 160
    assert set(data.counts.values()) == {20}


def test_digits_test_is_the_last_700_and_shared_with_nothing():
    from sklearn.datasets import load_digits

    found = load_digits()
    data = digits(per_class=5, seed=3)
    assert data.labels["test"].tolist() == found.target[-700:].tolist()
    pixels = digits_pixels(data.images["test"]) * 16
    assert np.allclose(pixels.numpy(), found.images[-700:].reshape(700, -1), atol=0.05)
    rows = {s: {r.numpy().tobytes() for r in data.images[s]} for s in ("train", "monitor")}
    assert not rows["train"] & rows["monitor"]


def test_more_labels_contain_fewer():
    few, more = digits(per_class=1, seed=4), digits(per_class=5, seed=4)
    kept = {r.numpy().tobytes() for r in more.images["train"]}
    assert all(r.numpy().tobytes() in kept for r in few.images["train"])


@settings(max_examples=25)
@given(
    st.lists(st.integers(1, 40), min_size=2, max_size=6),
    st.integers(0, 9),
    st.sampled_from([None, 0.1, 0.3]),
)
def test_splits_of_arrays_are_disjoint_and_complete(sizes, seed, share):
    labels = np.repeat(np.arange(len(sizes)), sizes)
    images = np.zeros((len(labels), 8, 8), dtype=np.uint8)
    images[:, 0, 0], images[:, 0, 1] = np.arange(len(labels)) % 250, np.arange(len(labels)) // 250
    try:
        data = open_data(images, labels, DataRequest(source="arrays", test=share, seed=seed))
    except DataError:
        assert max(sizes) == 1  # nothing to hold out
        return
    assert sum(data.splits.values()) == len(labels)
    seen = torch.cat([x[:, 0, 0, :2] for x in data.images.values()])
    assert len({tuple(r.tolist()) for r in seen}) == len(labels)
    assert min(data.counts.values()) >= 1


def test_limit_is_stratified():
    data = digits(limit=25)
    assert sum(data.counts.values()) == 25
    assert set(data.counts.values()) <= {2, 3}


def test_symbols_are_seeded_and_as_many_as_asked_for():
    ask = DataRequest(source="symbols", classes=25, per_class=4)
    one, two = open_data("symbols", request=ask), open_data("symbols", request=ask)
    other = open_data(
        "symbols", request=DataRequest(source="symbols", classes=25, per_class=4, seed=1)
    )
    assert one.fingerprint == two.fingerprint != other.fingerprint
    assert len(one.classes) == 25 and one.splits == {"train": 100, "monitor": 375, "test": 1250}
    assert torch.equal(one.images["test"], other.images["test"])  # only what is trained on changes


def test_folder_is_decoded_and_dirt_is_listed(folder: Path):
    data = open_data(folder)
    assert data.classes == ("bright", "dark")
    assert data.splits == {"train": 16, "test": 4}
    assert {s.split(":")[0] for s in data.skipped} == {
        str(Path("dark") / n) for n in (".DS_Store", "broken.jpg", "notes.txt")
    }
    bright = data.images["train"][data.labels["train"] == 0].float().mean()
    assert bright > 150


def test_folder_with_train_and_val_reports_on_val(tmp_path: Path):
    for split, count in (("train", 4), ("val", 3)):
        for i in range(count):
            picture(tmp_path / split / "a" / f"{i}.png", 50 + i)
            picture(tmp_path / split / "b" / f"{i}.png", 200 + i)
    assert open_data(tmp_path).splits == {"train": 8, "test": 6}


@pytest.mark.parametrize(
    ("source", "request_", "words"),
    [
        ("digit", {}, "did you mean digits?"),
        ("no/such/folder", {}, "is neither a data set nor a folder"),
        ("digits", {"per_class": 5000}, "fewer than --per-class 5000"),
        ("digits", {"per_class": 0}, "--per-class 0 is too small"),
        ("digits", {"limit": 3}, "less than one image for each"),
        ("digits", {"per_class": 2, "limit": 30}, "exclude each other"),
        ("digits", {"val": 1.5}, "--val must be a share from 0 to below 1, got 1.5"),
        ("digits", {"classes": 4}, "has ten classes"),
    ],
)
def test_bad_requests_are_one_line(source, request_, words):
    with pytest.raises((DataError, UsageError), match=words) as error:
        open_data(source, request=DataRequest(source=source, **request_))
    assert "\n" not in str(error.value)


def test_bad_folders_are_one_line(tmp_path: Path, folder: Path):
    with pytest.raises(DataError, match="no class folder"):
        open_data(tmp_path / "photos" / ".ipynb_checkpoints")
    picture(tmp_path / "one" / "only" / "1.png", 9)
    with pytest.raises(DataError, match="has one class"):
        open_data(tmp_path / "one")
    with pytest.raises(DataError, match="is a file"):
        open_data(folder / "dark" / "notes.txt")


def test_every_kind_of_file_is_upright_rgb_and_the_middle_square(tmp_path: Path):
    """Left half red, right half blue, as the viewer sees it; the outer quarters are cut off."""
    seen = np.zeros((20, 40, 3), dtype=np.uint8)
    seen[:, :20, 0] = seen[:, 20:, 2] = 250
    upright, turned, orientation = (
        Image.fromarray(seen),
        Image.fromarray(np.rot90(seen).copy()),
        Image.Exif(),
    )
    orientation[0x0112] = 6  # a camera held upright: to be shown turned a quarter clockwise
    turned.save(tmp_path / "turned.jpg", exif=orientation, subsampling=0)
    upright.save(tmp_path / "plain.jpg", subsampling=0)
    upright.convert("CMYK").save(tmp_path / "cmyk.jpg", subsampling=0)
    upright.quantize(4).save(tmp_path / "palette.png")
    upright.convert("RGBA").save(tmp_path / "alpha.png")
    upright.resize((1600, 800), Image.Resampling.NEAREST).save(
        tmp_path / "large.jpg", subsampling=0
    )
    for path in sorted(tmp_path.iterdir()):
        found = decode(path, 16)
        assert (
            isinstance(found, torch.Tensor) and found.shape == (3, 16, 16) and found.is_contiguous()
        ), found
        left, right = found[:, :, :6].float().mean((1, 2)), found[:, :, 10:].float().mean((1, 2))
        assert (left - torch.tensor([250.0, 0, 0])).abs().max() < 12, path.name
        assert (right - torch.tensor([0.0, 0, 250])).abs().max() < 12, path.name


def test_photos_are_resized_as_the_presets_do(tmp_path: Path):
    from torchvision.transforms._presets import ImageClassification

    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 256, (30, 47, 3), dtype=np.uint8)).resize(
        (470, 301), Image.Resampling.BICUBIC
    )
    noise.save(tmp_path / "1.jpg")
    with Image.open(tmp_path / "1.jpg") as photo:
        preset = ImageClassification(crop_size=224, mean=(0.0,) * 3, std=(1.0,) * 3)(photo)
    found = decode(tmp_path / "1.jpg", 256)
    assert isinstance(found, torch.Tensor)
    assert (found[:, 16:240, 16:240] / 255 - preset).abs().max() < 1.5 / 255  # one level at most


def test_sizes_that_are_refused_or_would_explode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    Image.new("L", (30_000, 2)).save(tmp_path / "line.png")
    found = decode(tmp_path / "line.png", 64)
    assert isinstance(found, torch.Tensor) and found.shape == (3, 64, 64)
    monkeypatch.setattr("tlnb.core.data.decoding.MAX_PIXELS", 50_000)
    assert decode(tmp_path / "line.png", 64) == "30000x2 pixels are more than 50,000"
    picture(tmp_path / "cut.jpg", 90)
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "cut.jpg").read_bytes()[:-40])
    assert "cannot be read" in decode(tmp_path / "cut.jpg", 64)


def test_thousands_of_files(tmp_path: Path):
    """More than wait to be taken at a time: every one arrives, in its place."""
    for c in range(2):
        (tmp_path / str(c)).mkdir()
        for i in range(1500):
            Image.new("L", (4, 4), i % 256).save(tmp_path / str(c) / f"{i:04}.png")
    steps: list[tuple[int, int]] = []
    data = open_data(tmp_path, edge=4, progress=lambda *step: steps.append(step))
    assert data.splits == {"train": 1920, "val": 480, "test": 600}
    assert steps == [(i + 1, 3000) for i in range(3000)]
    tones = torch.cat([images[:, 0, 0, 0] for images in data.images.values()])
    assert torch.equal(
        tones.bincount(), torch.tensor([i % 256 for i in range(1500)] * 2).bincount()
    )


def test_size_verdict_is_the_convention():
    assert [size_verdict(n) for n in (1, 19, 20, 999, 1000)] == [
        "little",
        "little",
        "decent",
        "decent",
        "a lot",
    ]


def test_the_smallest_class_decides_how_much_data_there_is():
    labels = np.repeat([0, 1, 2], [500, 38, 10])
    images = np.random.default_rng(0).integers(0, 255, (len(labels), 4, 4), dtype=np.uint8)
    data = open_data(images, labels)
    assert data.per_class == 8 and data.mean_count > 100 and data.size_verdict == "little"


def test_real_photos(real_data: Path):
    data = open_data(real_data / "ants_bees", edge=64)
    assert data.classes == ("ants", "bees")
    assert (
        data.splits["test"] == 153 and sum(data.counts.values()) == 245
    )  # a GIF that says "image not found" among them
    assert not any("imageNotFound" in s for s in data.skipped)
