"""Lesson 8's central claim, over three seeds: a random split of photos that come in series flatters, by points."""

from __future__ import annotations

import statistics
from pathlib import Path

import pytest

from tlnb.samples import leaf_photos
from tlnb.session import Session


@pytest.mark.parametrize("seed", [3, 4, 5])
def test_a_random_split_flatters(seed: int, tmp_path: Path):
    """Other leaves for each seed, and three splits of each kind: one alone has 63 test photos of 21 leaves."""
    folder, session = leaf_photos(tmp_path / "photos", seed=seed), Session()
    session.load("glyphnet")
    accuracies: dict[bool, list[float]] = {False: [], True: []}
    for split in (0, 1, 2):
        for grouped in (False, True):
            data = session.data(folder, test=0.33, seed=split, group=r"(\w+/leaf\d+)" if grouped else None)
            twins = sum(leak.split == "test" for leak in data.leaks)
            assert twins < 0.15 * data.splits["test"] if grouped else twins > 0.8 * data.splits["test"]
            accuracies[grouped].append(session.train(solver="lbfgs", augment="none").accuracy)
    assert statistics.mean(accuracies[False]) - statistics.mean(accuracies[True]) > 0.04, accuracies
