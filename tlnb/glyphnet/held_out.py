"""Held-out source pictures, to measure an embedded network's accuracy on its own source.

Rendering the source again would take ten seconds. So the pictures are stored in `held_out.npz`,
grey and undistorted, in 16 tones: the held-out face of every letter and some held-out pictures of
every texture, for the classes of all networks. They are distorted here, the same way on every call.
`held_out.json` records how many of them each shipped network gets right. `python -m tlnb.pretrain
--held-out` writes both files; it must be run whenever classes change.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib import resources
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tlnb.glyphnet.distortions import augment
from tlnb.glyphnet.source import Source

FILE, MEASURED = "held_out.npz", "held_out.json"
PICTURES = 1000  # distorted pictures that measure one network, approximately
MAX_PICTURES_PER_CLASS = 10  # pictures per class in the file, at most
# 256 tones in steps of 17 leave 16: a third of the bytes, and no accuracy changes by half a point
TONE_STEP = 17


def packed(sources: Mapping[str, Source]) -> bytes:
    """Build the file's content from the sources by network name.

    Each class is stored once, because all sources hold out the same pictures of it.
    """
    names: list[str] = []
    images, labels, filled, totals = [], [], [], []
    for source in sources.values():
        for c, name in enumerate(source.classes):
            if name in names:
                continue
            rows = (source.held_out & (source.labels == c)).nonzero().flatten()
            chosen = source.images[rows[:MAX_PICTURES_PER_CLASS]].numpy()
            images.append(np.rint(chosen / TONE_STEP).astype(np.uint8))
            labels += [len(names)] * len(chosen)
            filled.append(c >= len(source.classes) - source.textures)
            totals.append(len(rows))
            names.append(name)
    out = io.BytesIO()
    np.savez_compressed(
        out,
        names=np.array(names),
        images=np.concatenate(images),
        labels=np.array(labels, dtype=np.int32),
        filled=np.array(filled),
        totals=np.array(totals, dtype=np.int32),
    )
    return out.getvalue()


@lru_cache(maxsize=1)
def _read() -> dict[str, NDArray[Any]]:
    path = resources.files(__package__).joinpath(FILE)
    with np.load(io.BytesIO(path.read_bytes())) as file:
        return {name: file[name] for name in file.files}


@lru_cache(maxsize=1)
def measured() -> dict[str, tuple[int, int]]:
    """Right answers and number of pictures of each shipped network, by name."""
    text = resources.files(__package__).joinpath(MEASURED).read_text("utf8")
    return {name: (right, of) for name, (right, of) in json.loads(text).items()}


@lru_cache(maxsize=4)
def pictures(classes: tuple[str, ...]) -> tuple[Tensor, Tensor]:
    """Distorted held-out pictures `(N, 3, 32, 32)` uint8 of these classes, and labels `(N,)`.

    N is about `PICTURES`. Letters and textures have the same proportion as in the whole held-out
    source, so that this accuracy and the one on the network's card refer to the same mixture. With
    few classes, each picture appears in many distortions.

    Raises:
        KeyError: the file has no picture of a class.
    """
    file = _read()
    index_of = {name: i for i, name in enumerate(file["names"].tolist())}
    wanted = [index_of[name] for name in classes]
    rows = _rows(file, wanted)
    index = np.tile(rows, max(1, PICTURES // len(rows)))
    label_of = {class_: label for label, class_ in enumerate(wanted)}
    classes_of = file["labels"][index]
    grey = torch.from_numpy(file["images"][index] * np.uint8(TONE_STEP))
    generator = torch.Generator().manual_seed(1_000_003)
    images = augment(grey, torch.from_numpy(file["filled"][classes_of]), generator)
    return images, torch.tensor([label_of[c] for c in classes_of.tolist()])


def _rows(file: Mapping[str, NDArray[Any]], wanted: Sequence[int]) -> NDArray[np.int64]:
    """Choose at most `PICTURES` pictures, evenly over the classes.

    Letters and textures keep the source's proportion.
    """
    is_wanted = np.isin(file["labels"], wanted)
    filled = file["filled"][file["labels"]].astype(bool)
    of_kind = {kind: [c for c in wanted if file["filled"][c] == kind] for kind in (False, True)}
    totals = {kind: int(file["totals"][classes].sum()) for kind, classes in of_kind.items()}
    chosen = []
    for kind, total in totals.items():
        rows = np.flatnonzero(is_wanted & (filled == kind))
        count = min(len(rows), round(PICTURES * total / max(1, sum(totals.values()))))
        chosen.append(rows[np.linspace(0, len(rows) - 1, count).round().astype(np.int64)])
    return np.concatenate(chosen)
