"""Held-out source pictures that ship: what an embedded network's accuracy on its own source is measured with.

Drawing the source again would take ten seconds. So the pictures lie in `held_out.npz`, grey and undistorted, in 16 tones:
the held-out face of every letter and some held-out pictures of every texture, of all networks' classes. They are distorted
here, the same way on every call. `held_out.json` says how many of them each network gets right as it ships: that need not be
measured again. `python -m tlnb.pretrain --held-out` writes both files anew; whenever classes change, it must.
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
PICTURES = 1000  # about so many distorted pictures measure one network
KEPT = 10  # pictures of a class that the file keeps, where the source holds out more
TONES = 17  # 256 tones in steps of 17 are 16: a third of the bytes, and no accuracy moves by half a point


def packed(sources: Mapping[str, Source]) -> bytes:
    """The file's content for these sources by network name: each class once, since all hold out the same pictures."""
    names: list[str] = []
    images, labels, filled, totals = [], [], [], []
    for source in sources.values():
        for c, name in enumerate(source.classes):
            if name in names:
                continue
            rows = (source.held_out & (source.labels == c)).nonzero().flatten()
            chosen = source.images[rows[:KEPT]].numpy()
            images.append(np.rint(chosen / TONES).astype(np.uint8))
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
    """How many of how many pictures each network gets right as it ships, by name."""
    text = resources.files(__package__).joinpath(MEASURED).read_text("utf8")
    return {name: (right, of) for name, (right, of) in json.loads(text).items()}


@lru_cache(maxsize=4)
def pictures(classes: tuple[str, ...]) -> tuple[Tensor, Tensor]:
    """About `PICTURES` distorted held-out pictures `(N, 3, 32, 32)` uint8 of these classes, and their labels `(N,)`.

    Letters and textures stand in the proportion that they have in the whole held-out source, so that the accuracy here
    and the one on the network's card are of the same mixture. A few classes are shown in many distortions each.

    Raises:
        KeyError: a class of which the file has no picture.
    """
    found = _read()
    names: list[str] = found["names"].tolist()
    where = {name: i for i, name in enumerate(names)}
    ours = [where[name] for name in classes]
    rows = _rows(found, ours)
    views = max(1, PICTURES // len(rows))
    index = np.tile(rows, views)
    label_of = {theirs: mine for mine, theirs in enumerate(ours)}
    classes_of = found["labels"][index]
    grey = torch.from_numpy(found["images"][index] * np.uint8(TONES))
    generator = torch.Generator().manual_seed(1_000_003)
    images = augment(grey, torch.from_numpy(found["filled"][classes_of]), generator)
    return images, torch.tensor([label_of[c] for c in classes_of.tolist()])


def _rows(found: Mapping[str, NDArray[Any]], ours: Sequence[int]) -> NDArray[np.int64]:
    """Which pictures: at most `PICTURES`, evenly spread over the classes, letters and textures in the source's proportion."""
    mine = np.isin(found["labels"], ours)
    filled = found["filled"][found["labels"]].astype(bool)
    totals = {
        kind: int(found["totals"][[c for c in ours if bool(found["filled"][c]) is kind]].sum())
        for kind in (False, True)
    }
    chosen = []
    for kind, total in totals.items():
        rows = np.flatnonzero(mine & (filled == kind))
        count = min(len(rows), round(PICTURES * total / max(1, sum(totals.values()))))
        chosen.append(rows[np.linspace(0, len(rows) - 1, count).round().astype(np.int64)])
    return np.concatenate(chosen)
