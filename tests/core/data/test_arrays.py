"""Images and labels from Python: any of the usual kinds, and one line for everything else."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tlnb.core.data.arrays import as_images
from tlnb.core.runtime.errors import TLError
from tlnb.session import Session

GREY = np.random.default_rng(0).integers(0, 256, (24, 16, 16), dtype=np.uint8)
LABELS = ["a", "b"] * 12


@pytest.mark.parametrize(
    "images",
    [
        GREY,
        torch.from_numpy(GREY),
        list(torch.from_numpy(GREY)),
        GREY.tolist(),
        GREY.astype(">i4"),
        GREY.astype(np.uint16),
        np.asfortranarray(GREY),
        GREY[:, ::-1][:, ::-1],
        GREY / 255,
        torch.from_numpy(GREY / 255).requires_grad_(),
        GREY[:, None].repeat(3, 1),
        GREY[..., None].repeat(3, -1),
    ],
)
def test_the_same_images_in_any_of_the_usual_kinds(images: object):
    assert torch.equal(as_images(images), torch.from_numpy(GREY)[:, None].expand(-1, 3, -1, -1))


def test_black_and_white_and_half_precision():
    assert as_images(GREY > 128).unique().tolist() == [0, 255]
    halves = torch.from_numpy(GREY / 255).bfloat16()
    assert (as_images(halves).float()[:, 0] - torch.from_numpy(GREY).float()).abs().max() <= 1


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (GREY.astype(np.uint16) * 257, "must lie in 0..255, these lie in 0..65535"),
        (GREY.astype(np.int64) - 1, "these lie in -1.."),
        (GREY.astype(np.int8), "these lie in -128..127"),
        (GREY.astype(float), "must lie in 0..1"),
        (np.where(GREY > 3, GREY / 255, np.nan), "must lie in 0..1, these lie in nan"),
        (GREY.astype(complex), "of type complex128"),
        (["a.jpg"] * 24, "give a CSV file"),
        ([[1, 2], [3]], "cannot be read as an array"),
        (None, "have shape ()"),
        ({}, "have shape ()"),
        (np.array([[["x"]]]), "of type <U1"),
        (np.empty((0, 16, 16)), "no pixels"),
        (np.empty((24, 0, 16)), "no pixels"),
        (np.zeros((24, 16, 16, 7)), "7 channels"),
    ],
)
def test_what_is_no_image_gets_one_line(session: Session, images: object, words: str):
    with pytest.raises(TLError) as refused:
        session.data(images, LABELS)
    assert (
        words in str(refused.value) and "\n" not in str(refused.value) and session.dataset is None
    )


def test_labels_and_groups_of_any_kind(session: Session):
    wanted = torch.arange(24, dtype=torch.float32, requires_grad=True) // 12
    assert session.data(GREY, wanted).classes == ("0", "1")
    assert session.data(GREY, LABELS, group=[None, 1, 2, "x"] * 6).groups == 4
    for labels, group in (
        ([[1], [2, 3]] * 12, None),
        (LABELS, [[1], [2, 3]] * 12),
        (LABELS, [1, 2]),
    ):
        with pytest.raises(TLError) as refused:
            session.data(GREY, labels, group=group)
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize("option", [{"group": "plant"}, {"root": "there"}, {"classes": 3}])
def test_options_of_files_are_refused(session: Session, option: dict[str, object]):
    with pytest.raises(TLError, match="arrays"):
        session.data(GREY, LABELS, **option)
