"""Arrays, labels and lists of images as people have them in Python."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Subset, TensorDataset

from tlnb.core.data.dataset import DataSet
from tlnb.core.runtime.errors import DataError, TLError, UsageError
from tlnb.session import Session

Y = np.arange(24) % 3
X = (
    np.random.default_rng(0).integers(0, 80, (24, 32, 32, 3)) + 80 * Y[:, None, None, None]
).astype(np.uint8)


def opened(images: object, labels: object) -> DataSet:
    return Session().data(images, labels)


@pytest.mark.parametrize(
    "labels",
    [
        Y.astype(float),
        Y[:, None],
        np.eye(3)[Y],
        np.eye(3, dtype=bool)[Y],
        torch.nn.functional.one_hot(torch.tensor(Y)),
        torch.tensor(Y, dtype=torch.float32),
        Y.astype(str).astype("S"),
    ],
    ids=["floats", "column", "one-hot", "one-hot bool", "one-hot torch", "float32", "bytes"],
)
def test_labels_in_other_forms_mean_the_same_classes(labels: object):
    data, plain = opened(X, labels), opened(X, Y)
    assert data.classes == ("0", "1", "2")
    assert data.labels["train"].equal(plain.labels["train"])


def test_fractions_that_are_classes_stay():
    assert opened(X, Y / 2).classes == ("0.0", "0.5", "1.0")


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ([None, *Y[1:].tolist()], "label 0 is None"),
        (np.where(Y == 1, np.nan, Y), "label 1 is nan, and 8 of 24 are"),
        (np.eye(3)[Y] + np.eye(3)[(Y + 1) % 3], "image 0 has 2 labels"),
        (np.zeros((24, 3), int), "image 0 has 0 labels"),
        (np.full((24, 3), 1 / 3), r"labels.argmax\(1\)"),
        (Y[:5], "24 images but 5 labels"),
    ],
)
def test_labels_that_are_missing_or_several_are_refused(labels: object, words: str):
    with pytest.raises(DataError, match=words) as error:
        opened(X, labels)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("mode", ["P", "L", "1", "RGBA", "LA", "CMYK"])
def test_lists_of_pillow_images_of_any_mode(mode: str):
    """A palette's numbers are no grey levels, and CMYK is not RGB with an opacity."""
    images = [Image.fromarray(x) for x in X]
    made = [image.quantize(64) if mode == "P" else image.convert(mode) for image in images]
    data = opened(made, Y)
    assert data.classes == ("0", "1", "2") and data.edge == 32
    right = torch.stack(
        [data.images["train"][data.labels["train"] == c].float().mean() for c in range(3)]
    )
    assert right.tolist() == pytest.approx((40, 120, 200), abs=40) and (right.diff() > 20).all()


def test_lists_of_pillow_images_of_several_sizes_and_modes():
    images = [Image.fromarray(x).resize((30 + i, 44)) for i, x in enumerate(X)]
    images[0] = images[0].convert("L")
    data = opened(images, Y)
    assert data.edge == 30 and "resized to 30 × 30 pixels" in data.notes[0]


def test_a_pillow_image_is_turned_upright():
    turned = Image.fromarray(X[0])
    turned.getexif()[0x0112] = 3
    data = opened([turned, *map(Image.fromarray, X[1:])], Y)
    whole = torch.cat(list(data.images.values()))
    expected = torch.from_numpy(X[0][::-1, ::-1].copy()).permute(2, 0, 1)
    assert any(image.equal(expected) for image in whole)


def test_an_array_of_arrays_is_stacked():
    held = np.empty(24, object)
    held[:] = list(X)
    assert opened(held, Y).images["train"].equal(opened(X, Y).images["train"])


@pytest.mark.parametrize(
    ("images", "words"),
    [
        ((X > 100).astype(np.uint8), r"lie in 0..1: all but black, give images \* 255"),
        (X / 255 * 16, "divide by their largest value, 14.9"),
        (X.astype(float), "divide by 255, or give uint8"),
        (X[..., 0].reshape(24, -1), r"images.reshape\(-1, 32, 32\)"),
    ],
)
def test_images_of_another_scale_or_shape_name_the_remedy(images: object, words: str):
    with pytest.raises(DataError, match=words):
        opened(images, Y)


TENSORS = TensorDataset(torch.tensor(X), torch.tensor(Y))
TABLE = SimpleNamespace(to_csv=print, columns=["path", "label"])
HUGGING_FACE = SimpleNamespace(features={"image": None}, column_names=["image", "label"])


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (TENSORS, r"tl.data\(\*dataset.tensors\)"),
        (DataLoader(TENSORS), r"tl.data\(\*loader.dataset.tensors\)"),
        (Subset(TENSORS, [0, 1]), "a folder of class folders, or arrays"),
        (DataLoader(Subset(TENSORS, [0, 1])), "a folder of class folders, or arrays"),
        (TABLE, r"to_csv\('labels.csv', index=False\), and use tl.data\('labels.csv'\)"),
        (HUGGING_FACE, r"tl.data\(list\(d\['image'\]\), d\['label'\]\)"),
        (["a.png", "b.png"], "give a CSV file with the columns path and label"),
    ],
    ids=["tensors", "loader", "subset", "loader of a subset", "table", "hugging face", "files"],
)
def test_sources_of_other_libraries_get_the_line_that_works(source: object, words: str):
    with pytest.raises(UsageError, match=words):
        Session().data(source)


def test_those_lines_work():
    assert opened(*TENSORS.tensors).classes == ("0", "1", "2")
    assert opened([Image.fromarray(x) for x in X], Y.tolist()).classes == ("0", "1", "2")
    assert issubclass(UsageError, TLError)
