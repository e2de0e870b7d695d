"""The drawn folder of photos, and what is noticed in it: skipped files, twins, two labels for one image, turned photos."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from tlnb.core.data.builtin.leaves import LEAVES, SERIES, leaf_photo, leaf_photos
from tlnb.core.data.duplicates import find_two_labels, two_labels_note
from tlnb.core.runtime.errors import UsageError
from tlnb.session import Session


@pytest.fixture(scope="module")
def leaves(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return leaf_photos(tmp_path_factory.mktemp("leaves") / "photos")


@pytest.fixture
def with_glyphnet() -> Session:
    session = Session()
    session.load("glyphnet")
    return session


def test_every_piece_of_dirt_is_listed_with_its_reason(leaves: Path, with_glyphnet: Session):
    data = with_glyphnet.data(leaves)
    found = {
        Path(name).as_posix(): why for name, _, why in (s.partition(": ") for s in data.skipped)
    }
    assert found == {
        ".DS_Store": "hidden file",
        "unsorted": "a class folder without images",
        "beech/Thumbs.db": "not an image type (.db)",
        "beech/leaf90_1.jpg": "cannot be read (an empty file)",
        "birch/leaf90_1.jpg": "cannot be read (a web page or drawing, not a photo)",
        "oak/leaf90_1.jpg": found["oak/leaf90_1.jpg"],
        "oak/IMG_0417.MOV": "not an image type (.MOV)",
    }
    assert found["oak/leaf90_1.jpg"].startswith("cannot be read")
    assert sum(data.splits.values()) == SERIES * sum(LEAVES.values()) + 2  # and the two copies


def test_a_copy_in_a_second_class_is_named(leaves: Path, with_glyphnet: Session):
    data = with_glyphnet.data(leaves)
    assert [set(pair) for pair in data.two_labels] == [{"birch/from-oak.jpg", "oak/leaf05_1.jpg"}]
    assert sum("lies in two classes" in words for words in data.notes) == 1
    with_glyphnet.data("digits", per_class=2)
    assert not with_glyphnet.dataset.two_labels


def test_copies_of_one_class_have_one_label():
    import torch

    image = torch.arange(3 * 16 * 16, dtype=torch.uint8).view(1, 3, 16, 16)
    images = {"train": torch.cat([image, image, image + 1]), "test": image}
    files = {"train": ("a/0", "a/1", "b/0"), "test": ("c/0",)}
    labels = {"train": torch.tensor([0, 0, 1]), "test": torch.tensor([2])}
    assert find_two_labels(images, labels, files) == (("a/0", "c/0"),)
    assert not two_labels_note(())
    images["train"][0, 0, 3, 3] += 1  # one pixel: another image
    assert find_two_labels(images, labels, files) == (("a/1", "c/0"),)


def test_twins_are_noticed_whatever_the_network_needs_and_groups_part_none(
    leaves: Path, with_glyphnet: Session
):
    at_random = with_glyphnet.data(leaves, test=0.33)
    near = [leak for leak in at_random.leaks if leak.split == "test" and not leak.same]
    assert len(near) > 0.8 * at_random.splits["test"]
    assert any("come in series" in words for words in at_random.notes)
    grouped = with_glyphnet.data(leaves, test=0.33, group=r"(\w+/leaf\d+)")
    assert grouped.groups == sum(LEAVES.values()) + 1
    assert (
        len([leak for leak in grouped.leaks if not leak.same]) <= 4
    )  # other leaves that look alike


def test_photos_that_the_camera_turned_are_upright(leaves: Path, with_glyphnet: Session):
    data = with_glyphnet.data(leaves)
    turned = [
        f for f in sorted(leaves.rglob("leaf[0-6]?_?.jpg")) if Image.open(f).getexif().get(274) == 6
    ]
    assert turned and len(turned) < 0.5 * SERIES * sum(LEAVES.values())
    name = turned[0].relative_to(leaves).as_posix()
    split, row = next((s, names.index(name)) for s, names in data.files.items() if name in names)
    upright = ImageOps.exif_transpose(Image.open(turned[0])).convert("RGB")
    middle = upright.crop((0, 16, 96, 112)).resize((64, 64), Image.Resampling.BILINEAR)
    seen = data.images[split][row].permute(1, 2, 0).numpy().astype(float)
    assert (
        np.abs(seen - np.asarray(middle, float)).mean()
        < 8
        < np.abs(np.rot90(seen) - np.asarray(middle, float)).mean()
    )


def test_a_folder_that_is_there_stays(leaves: Path, tmp_path: Path):
    before = sorted(p.stat().st_mtime_ns for p in leaves.rglob("*"))
    assert leaf_photos(leaves) == leaves
    assert sorted(p.stat().st_mtime_ns for p in leaves.rglob("*")) == before
    (tmp_path / "mine").mkdir()
    with pytest.raises(UsageError, match="is not a folder of leaves"):
        leaf_photos(tmp_path / "mine")


def test_a_new_photo_is_of_another_leaf(leaves: Path, tmp_path: Path):
    file = leaf_photo(tmp_path / "new.jpg", "oak")
    new = np.asarray(Image.open(file), float)
    assert new.shape == (128, 96, 3)
    others = (ImageOps.exif_transpose(Image.open(f)) for f in leaves.glob("oak/leaf[0-6]?_?.jpg"))
    assert all(np.abs(new - np.asarray(other, float)).mean() > 5 for other in others)
    with pytest.raises(UsageError, match="did you mean birch"):
        leaf_photo(tmp_path / "new.jpg", "birsh")
