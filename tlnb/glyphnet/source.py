"""The source data set, on which the embedded networks were pretrained."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from tlnb.glyphnet.distortions import augment
from tlnb.glyphnet.glyphs import audited, glyph_set
from tlnb.glyphnet.textures import texture_set

TEXTURE_SHARE = 0.25  # of every batch, if the source has textures
TEXTURES_PER_CLASS = 200
HELD_OUT_VIEWS = 4  # distorted views of each held-out picture, for the source accuracy


@dataclass(frozen=True, kw_only=True)
class Source:
    """Grey pictures with classes; those in `held_out` only measure the source accuracy."""

    classes: tuple[str, ...]
    images: Tensor  # (M, 48, 48) uint8, ink bright
    labels: Tensor  # (M,) int64
    held_out: Tensor  # (M,) bool
    textures: int  # how many of the classes, the last ones, are textures

    def __repr__(self) -> str:
        glyphs = len(self.classes) - self.textures
        return f"Source: {glyphs} glyphs, {self.textures} textures, {len(self.images)} pictures"

    def batches(
        self, size: int, steps: int, seed: int, start: int = 0, workers: int = 0
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield batches `start` to `steps`: uint8 `(size, 3, 32, 32)` and labels `(size,)`.

        Each batch depends only on `seed` and its number, so that a resumed pretraining sees the
        same batches as an uninterrupted one, and several processes may draw them in advance. A
        class is drawn first, then one of its pictures.

        Args:
            workers: number of processes that draw batches; 0: the current one.
        """
        yield from DataLoader(
            _Batches(self, size, seed),
            batch_size=None,
            sampler=range(start, steps),
            num_workers=workers,
            generator=torch.Generator(),  # else it draws from the global generator
        )

    def held_out_batches(self, size: int = 512) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the held-out pictures, each in the same `HELD_OUT_VIEWS` distortions."""
        index = self.held_out.nonzero().flatten().repeat(HELD_OUT_VIEWS)
        generator = torch.Generator().manual_seed(1_000_003)
        for part in index.split(size):
            yield self.view(part, generator), self.labels[part]

    def view(self, index: Tensor, generator: torch.Generator) -> Tensor:
        filled = self.labels[index] >= len(self.classes) - self.textures
        return augment(self.images[index], filled, generator)

    def by_class(self) -> tuple[list[np.ndarray], list[np.ndarray]]:
        trained = (~self.held_out).numpy()
        labels = self.labels.numpy()
        rows = [np.flatnonzero((labels == c) & trained) for c in range(len(self.classes))]
        border = len(self.classes) - self.textures
        return rows[:border], rows[border:]


class _Batches(Dataset[tuple[Tensor, Tensor]]):
    """A data set whose items are whole batches."""

    def __init__(self, source: Source, size: int, seed: int) -> None:
        self.source, self.size, self.seed = source, size, seed
        self.glyphs, self.textures = source.by_class()

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor]:
        rng = np.random.default_rng([self.seed, step])
        from_textures = round(self.size * TEXTURE_SHARE) if self.textures else 0
        glyphs = _draw(rng, self.glyphs, self.size - from_textures)
        textures = _draw(rng, self.textures, from_textures)
        index = torch.from_numpy(np.concatenate([glyphs, textures]))
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        return self.source.view(index, generator), self.source.labels[index]


def _draw(rng: np.random.Generator, rows: list[np.ndarray], count: int) -> np.ndarray:
    if not count:
        return np.empty(0, dtype=np.int64)
    drawn = rng.integers(len(rows), size=count)
    return np.array([rows[c][rng.integers(len(rows[c]))] for c in drawn])


def source(
    glyphs: int | None = None,
    textures: bool = True,
    faces: int | None = None,
    excluded: frozenset[str] | None = None,
) -> Source:
    """Build the source of glyphs and textures.

    Args:
        glyphs: number of glyph classes; None: all.
        textures: whether to include the textures.
        faces: training pictures of each glyph class; None: all.
        excluded: classes to leave out; None: the shipped audit list.
    """
    letters = glyph_set(excluded)
    keep = np.arange(len(letters.names))
    if glyphs is not None:
        keep = np.sort(np.random.default_rng(0).permutation(keep)[:glyphs])
    chosen = np.isin(letters.labels, keep)
    if faces is not None:
        chosen &= _first_of_each(letters.labels, letters.held_out, faces)
    names = tuple(letters.names[c] for c in keep)
    images = [letters.images[chosen]]
    labels = [np.searchsorted(keep, letters.labels[chosen])]
    held_out = [letters.held_out[chosen]]
    if textures:
        drawn = texture_set(TEXTURES_PER_CLASS)
        excluded_textures = audited() if excluded is None else excluded
        wanted = [c for c, name in enumerate(drawn[0]) if name not in excluded_textures]
        rows = np.isin(drawn[2], wanted)
        images.append(drawn[1][rows])
        labels.append(len(names) + np.searchsorted(wanted, drawn[2][rows]))
        held_out.append(np.arange(int(rows.sum())) % 10 == 0)
        names += tuple(drawn[0][c] for c in wanted)
    return Source(
        classes=names,
        images=torch.from_numpy(np.concatenate(images)),
        labels=torch.from_numpy(np.concatenate(labels).astype(np.int64)),
        held_out=torch.from_numpy(np.concatenate(held_out)),
        textures=len(names) - len(keep),
    )


def _first_of_each(labels: np.ndarray, held_out: np.ndarray, faces: int) -> np.ndarray:
    """Select the held-out picture of every class and its first `faces` others."""
    chosen = held_out.copy()
    for c in range(int(labels.max()) + 1):
        chosen[np.flatnonzero((labels == c) & ~held_out)[:faces]] = True
    return chosen
