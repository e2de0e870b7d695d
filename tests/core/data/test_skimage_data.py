"""`textures` and `faces`: what is trained on shares no pixel and no neighbourhood with what is tested on."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from tlnb.core.data.builtin import skimage_data
from tlnb.core.data.dataset import open_data
from tlnb.core.data.request import DataRequest
from tlnb.core.runtime.errors import DataError, UsageError


def opened(name: str, **amounts: object):
    return open_data(name, request=DataRequest(source=name, **amounts))


@pytest.mark.parametrize(
    ("name", "splits"),
    [
        ("textures", {"train": 60, "monitor": 192, "test": 384}),
        ("faces", {"train": 10, "monitor": 40, "test": 60}),
    ],
)
def test_amounts_and_a_seed_change_only_what_is_trained_on(name, splits):
    one, two, other = (
        opened(name, per_class=5),
        opened(name, per_class=5),
        opened(name, per_class=5, seed=1),
    )
    assert one.splits == splits and set(one.counts.values()) == {5}
    assert one.images["test"].dtype == torch.uint8 and one.images["test"].shape[1:] == (3, 32, 32)
    assert one.fingerprint == two.fingerprint != other.fingerprint
    assert torch.equal(one.images["test"], other.images["test"]) and not one.from_files


def test_textures_are_many():
    counts = opened("textures").counts
    assert len(counts) >= 8 and min(counts.values()) >= 100


@pytest.mark.parametrize("name", ["textures", "faces"])
def test_no_picture_is_in_two_splits(name):
    data = opened(name)
    seen = {s: {image.numpy().tobytes() for image in images} for s, images in data.images.items()}
    held_out = [seen[s] for s in ("val", "monitor", "test") if s in seen]
    assert len(held_out) >= 2 and not any(seen["train"] & part for part in held_out)
    assert not any(seen["test"] & part for part in held_out[:-1])


def test_strips_are_a_patch_apart():
    """Each pixel of this picture says its column: it shows where a patch was taken."""
    picture = torch.arange(640.0).expand(320, 640)[None, None]
    strips = skimage_data._strips(picture, 32)
    middle = {s: p[:, 0].mean((1, 2)) for s, p in strips.items()}
    half = 16
    assert middle["monitor"].min() - half >= middle["pool"].max() + half + 32
    assert middle["test"].min() - half >= middle["monitor"].max() + half + 32


def test_sliding_windows_overlap_within_an_end_and_not_across():
    for name, material in skimage_data.MATERIALS.items():
        one, other = skimage_data.sliding_windows(name)
        assert one.shape == other.shape == (64, 3, 32, 32) and one.dtype == torch.uint8
        width = skimage_data._grey(material).shape[-1]
        assert (
            2 * (material.patch + 7 * (material.patch // 4)) < width - material.patch
        )  # the ends lie apart


def test_windows_beside_each_other_share_three_quarters():
    one, _ = skimage_data.sliding_windows(
        "brick"
    )  # its patches are not scaled: a quarter on is eight pixels
    first, second = one[0, 0].double(), one[1, 0].double()
    assert np.corrcoef(first[:, 8:].flatten(), second[:, :-8].flatten())[0, 1] > 0.99


def test_patches_are_of_one_brightness():
    images = opened("textures").images["test"][:, 0].float()
    assert (images.mean((1, 2)) - skimage_data.TONE).abs().median() < 2


def test_no_training_picture_looks_like_a_tested_one():
    data = opened("faces")
    train, test = (data.images[s][:, 0].flatten(1).double().numpy() for s in ("train", "test"))
    train, test = train[train.std(1) > 1], test[test.std(1) > 1]
    assert (
        np.corrcoef(test, train)[: len(test), len(test) :].max() < 0.93
    )  # after scaling: a little above 0.9
    assert data.notes == (skimage_data.NO_NAMES,)


def test_refusals_are_one_line(monkeypatch):
    with pytest.raises(UsageError, match="textures has twelve classes: leave out --classes"):
        opened("textures", classes=3)
    monkeypatch.setitem(sys.modules, "skimage", None)
    with pytest.raises(DataError, match="%pip install scikit-image$"):
        opened("faces")
