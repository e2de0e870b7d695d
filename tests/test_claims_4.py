"""Lesson 4's claims over three draws: depth, cutting, negative transfer, a test on the same photo."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tlnb.core.pictures import MATERIALS, sliding_windows
from tlnb.core.probes import FOLDS, labels_in_use, probe, stage_features
from tlnb.session import Session

SEEDS = (0, 1, 2)


def on_textures(model: str, seed: int, per_class: int = 20) -> Session:
    session = Session()
    session.data("textures", per_class=per_class, seed=seed)
    session.load(model)
    return session


def by_stage(model: str, seed: int) -> dict[str, float]:
    session = on_textures(model, seed)
    used = labels_in_use(session.dataset)
    seen = stage_features(session.model.module, session.layers(), session.model.transform, used.images["train"])
    kept = {stage: seen[stage] for stage in ("layer2", "layer4")}
    return {p.stage: p.accuracy for p in probe(kept, used.labels["train"].numpy(), FOLDS)}


@pytest.mark.parametrize("seed", SEEDS)
def test_of_a_far_source_an_earlier_stage_says_more_than_the_last(seed: int):
    far = by_stage("glyphnet-glyphs", seed)
    assert far["layer2"] > far["layer4"] + 0.03
    assert by_stage("glyphnet", seed)["layer4"] > far["layer4"] + 0.1  # a near source's last stage is of use


@pytest.fixture(scope="module")
def whole() -> list[float]:
    """The far source frozen whole, by draw."""
    return [on_textures("glyphnet-glyphs", seed).train(solver="lbfgs").accuracy for seed in SEEDS]


def test_without_its_last_stage_a_far_source_is_better_in_every_draw(whole: list[float]):
    cut = []
    for seed in SEEDS:
        session = on_textures("glyphnet-glyphs", seed)
        session.remove("layer4")
        cut.append(session.train(solver="lbfgs").accuracy)
    assert all(c > w for c, w in zip(cut, whole, strict=True)), (cut, whole)


def test_frozen_whole_it_loses_to_random_numbers_even_with_a_third_of_their_steps(whole: list[float]):
    scratch = []
    for seed in SEEDS:
        session = on_textures("glyphnet-glyphs", seed)
        session.strategy("scratch")
        scratch.append(session.train(epochs=12).accuracy)  # the recipe takes 40
    assert np.mean(scratch) > np.mean(whole), (scratch, whole)


@pytest.mark.parametrize("seed", SEEDS)
def test_windows_of_one_place_split_at_random_flatter(seed: int):
    one, other = (torch.cat(windows) for windows in zip(*map(sliding_windows, MATERIALS), strict=True))
    names = np.repeat(list(MATERIALS), 64)
    session = Session()
    session.data(one.numpy(), names, test=0.5, seed=seed)
    session.load("glyphnet")
    run = session.train(solver="lbfgs", augment="none")
    with torch.no_grad():
        said = run.module()(session.model.transform(other)).argmax(1)
    assert run.accuracy > float(np.mean(np.array(session.dataset.classes)[said] == names)) + 0.15
