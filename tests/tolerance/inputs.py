"""Small inputs as people have them, for the tests called `test_tolerant_…`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from tlnb.core.data.dataset import DataSet, open_data
from tlnb.core.data.request import DataRequest

Draw = Callable[[int, int], Image.Image]  # the image of a class's number and an image's number


def opened(source: Path, edge: int = 32, **amounts: object) -> DataSet:
    return open_data(source, request=DataRequest(source=str(source), **amounts), edge=edge)


def noise(label: int, number: int) -> Image.Image:
    """No two alike; each class brighter than the one before."""
    pixels = np.random.default_rng([label, number]).integers(0, 80, (40, 40, 3)) + 80 * label
    return Image.fromarray(pixels.astype(np.uint8))


def class_folders(
    top: Path,
    names: Iterable[str] = ("cats", "dogs"),
    count: int = 6,
    ending: str = "png",
    start: int = 0,
    draw: Draw = noise,
    **how: object,
) -> Path:
    """A folder of class folders, `count` images in each, numbered from `start`."""
    for label, name in enumerate(names):
        folder = top / name
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(start, start + count):
            draw(label, number).save(folder / f"{number}.{ending}", **how)
    return top


def split_folders(top: Path, **counts: int) -> Path:
    """Class folders in a folder for each split: its name, and the number of images in each class."""
    for start, (name, count) in enumerate(counts.items()):
        class_folders(top / name, count=count, start=100 * start)
    return top


def table(
    top: Path,
    head: str,
    row: Callable[[str, str, int], str],
    folder: str = "",
    name: str = "labels.csv",
) -> Path:
    """A CSV file of twelve images; `row(name without ending, label, number)` is a line of it."""
    (top / folder).mkdir(parents=True, exist_ok=True)
    for i in range(12):
        noise(i % 2, i).save(top / folder / f"p{i}.png")
    (top / name).write_text(
        "\n".join([head, *(row(f"p{i}", ("cat", "dog")[i % 2], i) for i in range(12))])
    )
    return top / name
