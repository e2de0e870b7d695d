"""Labels held out in folds: groups stay whole, and every class is left to learn from."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.model_selection import StratifiedKFold

from tlnb.core.data.splits import Labelled

SEEDS = st.integers(0, 20)
FOLDS = st.integers(2, 5)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9)), min_size=1), FOLDS, SEEDS)
def test_no_group_is_on_both_sides_of_a_fold(rows: list[tuple[int, int]], most: int, seed: int):
    labels, groups = np.array(rows).T
    folds = Labelled(labels, groups).folds(most, seed)
    assert len(folds) != 1 and len(folds) <= most
    for learned, held in folds:
        assert not set(groups[learned]) & set(groups[held])
        assert set(labels[learned]) == set(labels) and len(held)
    if folds:
        assert sorted(np.concatenate([held for _, held in folds])) == list(range(len(rows)))


@given(st.lists(st.integers(0, 3), min_size=1), FOLDS, SEEDS)
def test_without_groups_folds_are_those_of_scikit_learn(rows: list[int], most: int, seed: int):
    labels = np.array(rows)
    least = min(most, int(np.unique(labels, return_counts=True)[1].min()))
    folds = Labelled(labels).folds(most, seed)
    assert len(folds) == (least if least > 1 else 0)
    if folds:
        expected = StratifiedKFold(least, shuffle=True, random_state=seed).split(labels, labels)
        for found, other in zip(folds, expected, strict=True):
            assert all(map(np.array_equal, found, other))


def test_classes_of_two_groups_each_can_be_divided():
    assert Labelled(np.repeat([0, 1, 2], 4), np.repeat(np.arange(6), 2)).folds(5)


@pytest.mark.parametrize(
    ("labels", "groups", "fewest", "words"),
    [
        ([0, 1, 1], None, 1, "a class has a single label"),
        ([0, 1, 1], [0, 1, 2], 1, "a class has a single label"),
        ([0, 0, 1, 1], [0, 1, 2, 2], 1, "the groups cannot be divided"),
        ([0, 1, 0, 1], [0, 0, 0, 0], 1, "the groups cannot be divided"),
    ],
)
def test_where_nothing_can_be_held_out_it_says_why(labels, groups, fewest: int, words: str):
    few = Labelled(np.array(labels), None if groups is None else np.array(groups))
    assert few.folds(3) == [] and few.repeated(3, 3) == []
    assert few.fewest == fewest and words in few.none_held
