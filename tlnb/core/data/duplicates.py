"""Duplicates across splits: the same image, or nearly the same.

Near-duplicates are scaled, recompressed or lighter copies, or the next photo of a series.

Each image becomes a 64-bit hash, the signs of the 8×8 lowest frequencies of its cosine transform
(pHash), and a grey 16×16 thumbnail. Two images are alike if few bits differ and the thumbnails
correlate. Both are computed from the decoded images, so no file is read twice, and for all images
at once: libraries that hash one image at a time take longer than decoding does. Hashes alone would
match two empty skies, thumbnails alone two portraits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch
from torch import Tensor

FINE, COARSE, FREQUENCIES = 32, 16, 8
NEAR_FROM = 64  # edge in pixels; smaller images are compared for equality only
BITS = 10  # hash bits, of 64, that may differ
CORRELATION = 0.93  # minimum correlation of the thumbnails
FLAT = 2.0  # grey levels: a thumbnail that varies less has no features to compare
CHUNK = 512
SPLITS = ("train", "val", "test")
# Share of test images with a near-duplicate above which a random split is called into question.
SERIES = 0.02


@dataclass(frozen=True, kw_only=True)
class Leak:
    """An image of a later split, and the image that it repeats."""

    split: str
    image: str
    other_split: str
    other: str
    same: bool  # pixel for pixel

    def __str__(self) -> str:
        how = "the same as" if self.same else "nearly the same as"
        return f"{self.image} ({self.split}) is {how} {self.other} ({self.other_split})"


@dataclass(frozen=True, kw_only=True)
class _Looks:
    """Hashes `(N, 64)` of ±1, standardised thumbnails `(N, 256)`, and which are not flat."""

    bits: Tensor
    thumbnails: Tensor
    varied: Tensor
    keys: list[bytes]


def find_leaks(
    images: Mapping[str, Tensor], files: Mapping[str, Sequence[str]]
) -> tuple[Leak, ...]:
    """Find the closest duplicate in the earlier splits for each image of `val` and `test`.

    Images without an equal or nearly equal counterpart are left out.

    Args:
        images: split → `(N, 3, E, E)` uint8.
        files: split → the images' names.
    """
    splits = [s for s in SPLITS if s in images]
    looks = {s: _looks(images[s]) for s in splits}
    near = next(iter(images.values())).shape[-1] >= NEAR_FROM
    found: dict[tuple[str, int], Leak] = {}
    for before, after in combinations(splits, 2):
        one, two = looks[before], looks[after]
        alike = dict(_alike(one, two)) if near else {}
        same = dict(_same(images[before], images[after], one, two))
        for i, j in (alike | same).items():
            image, other = files[after][i], files[before][j]
            leak = Leak(split=after, image=image, other_split=before, other=other, same=i in same)
            found.setdefault((after, i), leak)
    return tuple(found[key] for key in sorted(found))


def find_two_labels(
    images: Mapping[str, Tensor], labels: Mapping[str, Tensor], files: Mapping[str, Sequence[str]]
) -> tuple[tuple[str, str], ...]:
    """Find pairs of pixel-identical images with different labels: one of the two is wrong.

    Images of one colour are left out: whatever told them apart may have been lost in decoding.

    Args:
        images, files: as in `find_leaks`.
        labels: split → `(N,)` class numbers.
    """
    seen: dict[bytes, list[tuple[str, int]]] = {}
    found = []
    for split, row, key in _samples({s: images[s] for s in SPLITS if s in images}):
        image = images[split][row]
        if _plain(image, key):
            continue
        alike = seen.setdefault(key.tobytes(), [])
        other = next(((s, i) for s, i in alike[:CHUNK] if torch.equal(images[s][i], image)), None)
        if other is None:
            alike.append((split, row))
            continue
        first, place = other
        if labels[first][place] != labels[split][row]:
            found.append((files[first][place], files[split][row]))
    return tuple(found)


def _samples(images: Mapping[str, Tensor]) -> Iterator[tuple[str, int, np.ndarray]]:
    """Yield the split and the row of each image, and a grid of its green pixels."""
    for split, held in images.items():
        step = max(1, held.shape[-1] // FREQUENCIES)
        for start in range(0, len(held), CHUNK):
            grids = held[start : start + CHUNK, 1, ::step, ::step].contiguous().numpy()
            yield from ((split, row, grid) for row, grid in enumerate(grids, start))


def _plain(image: Tensor, sample: np.ndarray) -> bool:
    """Whether an image is of one colour; checks a sample of its pixels first."""
    return bool(sample.min() == sample.max()) and all(int(c.min()) == int(c.max()) for c in image)


def two_labels_note(pairs: Sequence[tuple[str, str]]) -> str:
    """What to do about images with two labels; empty without pairs."""
    if not pairs:
        return ""
    shown = "; ".join(f"{one} and {other}" for one, other in pairs[:3]) + " …" * (len(pairs) > 3)
    many = "One image lies" if len(pairs) == 1 else f"{len(pairs)} images lie"
    return (
        f"{many} in two classes ({shown}): at least one of the labels is wrong. "
        "Delete the wrong file."
    )


def series_note(leaks: Sequence[Leak], tested: int, brought: bool, cure: str) -> str:
    """A warning if many test images have a near-duplicate in earlier splits; else empty.

    Args:
        tested: number of test images.
        brought: whether the test split came with the data; else it was drawn here and cut through
            series of photos.
        cure: how to keep each series within one split if splits are drawn here.
    """
    near = sum(leak.split == "test" for leak in leaks)
    if near < max(2, SERIES * tested):
        return ""
    found = f"{near} of {tested} test images have a twin among the labels in use: "
    if brought:
        return (
            f"{found}the test split came with the data, and accuracy on it is overstated. Remove "
            "the twins from one of the splits, or read the figure with that in mind"
        )
    return (
        f"{found}the photos come in series, and a random split cuts "
        f"through them, so that accuracy is overstated. Keep each series on one side: {cure}"
    )


def _looks(images: Tensor) -> _Looks:
    thumbnails, signs = [], []
    basis = _cosines()
    for part in images.split(CHUNK):
        fine = _fine(part)
        spectrum = (basis @ fine @ basis.T).flatten(1)[:, 1:]  # without the mean
        signs.append(torch.where(spectrum > spectrum.median(1, keepdim=True).values, 1.0, -1.0))
        thumbnails.append(torch.nn.functional.avg_pool2d(fine[:, None], FINE // COARSE).flatten(1))
    coarse = torch.cat(thumbnails)
    deviation, norm = coarse.std(1, keepdim=True), (coarse.shape[1] - 1) ** 0.5
    standard = (coarse - coarse.mean(1, keepdim=True)) / deviation.clamp(min=1e-6) / norm
    keys = [row.tobytes() for row in coarse.mul(16).round().short().numpy()]
    return _Looks(
        bits=torch.cat(signs), thumbnails=standard, varied=deviation[:, 0] > FLAT, keys=keys
    )


def _fine(images: Tensor) -> Tensor:
    """Grey images `(n, 32, 32)`; large ones, smooth at this scale, lend some green pixels."""
    step = max(1, images.shape[-1] // (2 * FINE))
    green = images[:, 1:2, ::step, ::step].float()
    size = green.shape[-1]
    pooled = torch.nn.functional.avg_pool2d(green, size // FINE) if size >= FINE else green
    if pooled.shape[-1] != FINE:
        pooled = torch.nn.functional.interpolate(pooled, FINE, mode="bilinear")
    return pooled[:, 0]


def _cosines() -> Tensor:
    """Cosine basis of the lowest frequencies, `(8, 32)`."""
    at = (torch.arange(FINE) + 0.5) * torch.pi / FINE
    return torch.cos(torch.arange(FREQUENCIES)[:, None] * at)


def _same(before: Tensor, after: Tensor, one: _Looks, two: _Looks) -> Iterator[tuple[int, int]]:
    """Yield (row in `after`, row in `before`) of pixel-identical images."""
    where: dict[bytes, list[int]] = {}
    for j, key in enumerate(one.keys):
        where.setdefault(key, []).append(j)
    for i, key in enumerate(two.keys):
        equal = (j for j in where.get(key, ())[:CHUNK] if torch.equal(before[j], after[i]))
        first = next(equal, None)
        if first is not None:
            yield i, first


def _alike(one: _Looks, two: _Looks) -> Iterator[tuple[int, int]]:
    """Yield (row in `two`, its closest row in `one`) of nearly identical images."""
    # dot product of two rows of signs: 63 − 2 × differing bits
    least = two.bits.shape[1] - 2 * BITS
    for start in range(0, len(two.bits), CHUNK):
        rows = slice(start, start + CHUNK)
        close = two.bits[rows] @ one.bits.T >= least
        close &= two.varied[rows, None] & one.varied
        hits = close.nonzero()
        alike = (two.thumbnails[rows][hits[:, 0]] * one.thumbnails[hits[:, 1]]).sum(1)
        best: dict[int, tuple[float, int]] = {}
        for (i, j), value in zip(hits.tolist(), alike.tolist(), strict=True):
            if value >= CORRELATION and value > best.get(i, (0.0, 0))[0]:
                best[i] = (value, j)
        yield from ((start + i, j) for i, (_, j) in best.items())


def shared_groups(rows: Mapping[str, np.ndarray], groups: np.ndarray) -> int:
    """Number of groups that lie in more than one of the splits."""
    inside = [set(groups[part].tolist()) for part in rows.values()]
    return len(set().union(*(a & b for a, b in combinations(inside, 2)))) if len(inside) > 1 else 0
