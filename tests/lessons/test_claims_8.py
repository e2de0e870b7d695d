"""Lesson 8's central claim, over three seeds: a random split of photos that come in series flatters, by points."""

from __future__ import annotations

from pathlib import Path

from tlnb import glyphnet
from tlnb.core.data.builtin.leaves import leaf_photos
from tlnb.session import Session

SERIES = r"(\w+/leaf\d+)"


def accuracy(session: Session, folder: Path, seed: int, series: str | None) -> float:
    """Of a new output layer, on another third of the photos for each seed."""
    data = session.data(folder, test=0.33, seed=seed, group=series)
    twins = sum(leak.split == "test" for leak in data.leaks)
    assert twins < 0.15 * data.splits["test"] if series else twins > 0.8 * data.splits["test"]
    return session.train(seed=seed).accuracy


def test_a_random_split_flatters(tmp_path: Path):
    """Other leaves and another split for each seed: one alone has 63 test photos of 21 leaves."""
    session = Session()
    session.load(
        glyphnet.load("glyphnet"), size=glyphnet.SIZE, mean=glyphnet.MEAN, std=glyphnet.STD
    )
    gaps = []
    for seed in (3, 4, 5):
        folder = leaf_photos(tmp_path / f"photos{seed}", seed=seed)
        gaps.append(accuracy(session, folder, seed, None) - accuracy(session, folder, seed, SERIES))
    assert min(gaps) > 0 and sum(gaps) / len(gaps) > 0.04, gaps
