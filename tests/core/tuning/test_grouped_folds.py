"""Series of the same thing, at every door that holds labels out: a group is never on both sides."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from tlnb.core.evaluation.probes import _part, labels_in_use
from tlnb.core.runtime.errors import UsageError
from tlnb.core.tuning.advise import Advice
from tlnb.core.tuning.tune import to_choose_by
from tlnb.display.cards import HTML
from tlnb.session import Session

CLASSES, GROUPS, EACH = 4, 5, 4  # groups of a class, images of a group


def series() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images, labels and groups: a group's images are nearly the same, its class means nothing."""
    random = np.random.default_rng(0)
    scenes = random.integers(0, 256, (CLASSES * GROUPS, 8, 8, 3)).repeat(4, 1).repeat(4, 2)
    images = scenes.repeat(EACH, 0) + random.integers(-5, 6, (len(scenes) * EACH, 32, 32, 3))
    groups = np.arange(len(scenes)).repeat(EACH)
    return images.clip(0, 255).astype(np.uint8), groups % CLASSES, groups


def by_stages(session: Session) -> float:
    return max(p.accuracy for depth in session.look("stages").depths for p in depth.probes)


def by_probes(session: Session) -> float:
    return max(p.accuracy for p in session.advise().probes)


def by_trials(session: Session) -> float:
    return max(t.accuracy or 0.0 for t in session.advise().evidence)


def by_source(session: Session) -> float:
    return session.advise(models=["glyphnet"]).sources[0].accuracy


def by_tuning(session: Session) -> float:
    return session.tune(trials=1).best.accuracy


DOORS = [by_stages, by_probes, by_trials, by_source, by_tuning]


def opened(grouped: bool) -> Session:
    session, (images, labels, groups) = Session(), series()
    session.data(images, labels, group=groups if grouped else None)
    session.load("glyphnet")
    return session


@pytest.mark.parametrize("door", DOORS)
def test_series_look_no_better_than_they_are(door: Callable[[Session], float]):
    apart, together = door(opened(grouped=False)), door(opened(grouped=True))
    # guessing: 0.25; without groups a copy of each image held out was learned from
    assert apart >= 0.65 > 0.55 >= together


def test_labels_in_use_keep_their_groups():
    images, labels, groups = series()
    session = Session()
    data = session.data(images, labels, group=groups, val=0.2)
    used = labels_in_use(data)
    known = {image.tobytes(): group for image, group in zip(images, groups, strict=True)}
    found = [known[i.permute(1, 2, 0).numpy().tobytes()] for i in used.images["train"]]
    numbers = used.labelled.groups
    assert used.splits["train"] == data.splits["train"] + data.splits["val"] == len(numbers)
    assert len(set(zip(found, numbers, strict=True))) == len(set(found)) == len(set(numbers))


def test_half_of_the_labels_are_half_of_the_groups():
    """With half of each group, the others would stand for those left out."""
    labelled = labels_in_use(opened(grouped=True).dataset).labelled
    labels, groups = labelled.labels, labelled.groups
    for rows, _ in labelled.folds(3):
        part = _part(labelled, rows, 0.5)
        chosen = set(groups[part])
        assert len(chosen) == round(len(set(groups[rows])) / 2)
        assert sorted(part) == sorted(rows[np.isin(groups[rows], list(chosen))])  # whole
        assert set(labels[part]) == set(labels)


def test_trials_of_tuning_say_what_they_hold_out():
    session = opened(grouped=True)
    parts, judged_by = to_choose_by(session.dataset)
    assert "whole groups" in judged_by and "whole groups" in session.look("stages").method
    for part in parts:
        sides = [set(part.group_of[split].tolist()) for split in ("train", "test")]
        assert not sides[0] & sides[1] and all(sides)


def test_a_study_of_grouped_folds_is_not_continued_by_one_without():
    """An earlier one, with copies on both sides, would have the best trials for ever."""
    images, labels, _ = series()
    found = []
    for groups in (None, np.arange(len(labels)), np.arange(len(labels)) // 2):
        session = Session()
        session.data(images, labels, group=groups)
        session.load("glyphnet")
        session.dataset.__dict__["fingerprint"] = "the same images in the same splits"
        found.append(session.tune(trials=1).name)
    assert len(set(found)) == 3


@pytest.fixture
def single() -> Session:
    """A class whose images in use are all of one group."""
    images, _, groups = series()
    images, groups = images[:20], groups[:20]
    session = Session()
    session.data(images, [*"aaaaaaaaaaaabbbbbbbb"], group=groups)
    session.load("glyphnet")
    return session


@pytest.mark.parametrize("door", [by_stages, by_tuning])
def test_too_few_groups_are_refused_in_a_line(single: Session, door: Callable[[Session], float]):
    with pytest.raises(UsageError, match="groups cannot be divided .* --group") as told:
        door(single)
    assert "\n" not in str(told.value)


def test_too_few_groups_leave_advice_unmeasured(single: Session):
    found = single.advise()
    assert found.probes == () and "No labels can be held out" in found.reason
    assert "groups cannot be divided" in HTML[Advice](found)
    sources = single.advise(models=["glyphnet"])
    assert sources.sources[0].accuracy is None and "groups cannot be divided" in sources.reason
