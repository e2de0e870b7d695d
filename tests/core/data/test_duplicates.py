"""Leaks between splits, and hints that a network may have seen the images."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.conftest import picture
from tests.photos import opened, plants, scene
from tlnb.core.data import duplicates


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
    twins = {
        f"test/{n}": f"train/{o}"
        for n, o in {
            "a/copy.jpg": "a/0.jpg",
            "b/pressed.jpg": "b/1.jpg",
            "a/scaled.jpg": "a/2.jpg",
            "b/lighter.jpg": "b/3.jpg",
        }.items()
    }
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
    found = duplicates.find_leaks(parts, {"train": [*"abcd"], "test": [*"ef"]})
    assert [str(leak) for leak in found] == ["f (test) is the same as a (train)"]


def test_empty_pictures_are_not_twins():
    flat = torch.full((5, 3, 80, 80), 200, dtype=torch.uint8)
    flat[torch.arange(5), :, 0, torch.arange(5)] = 201
    assert not duplicates.find_leaks(
        {"train": flat[:3], "test": flat[3:]}, {"train": [*"abc"], "test": [*"de"]}
    )


@pytest.mark.parametrize(
    ("classes", "file", "words"),
    [
        (("n01440764", "n02102040"), "1.png", "class folders are named as ImageNet's"),
        (("tench", "springer"), "n01440764_10026.png", "files are named as ImageNet's"),
        (("ants", "bees"), "1.png", "a well-known tutorial"),
        (("oak", "elm"), "n1234_1.png", ""),
    ],
)
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
    from tlnb.display.data_cards import data_card

    data = shell.run_line_magic("tl_data", f"{top} --size 64 --seed 1")
    shown = str(data_card(data))
    assert (
        "images are in two splits" in shown
        and "imbalance" in shown
        and "note.txt" in shown
        and "--group" in shown
    )
    data = shell.run_line_magic("tl_data", f"{top} --size 64 --group (plant[0-9]+)_")
    assert (
        "groups" in str(data_card(data))
        and shell.user_ns["tl"].script().count("--group (plant[0-9]+)_") == 1
    )
