"""Lesson 9's central claims, over three seeds: noise teaches nothing, only the output layer moves, the work is foreseen."""

from __future__ import annotations

import pytest

from tlnb.core.data import torchvision_datasets
from tlnb.session import Session


def test_on_noise_accuracy_is_chance_and_the_work_is_known_beforehand(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setitem(
        torchvision_datasets.LIBRARY,
        "FakeData",
        {"": {"size": 300, "image_size": (3, 73, 73), "num_classes": 10}},
    )
    session = Session()
    session.load("efficientnet_lite0")
    accuracies = []
    for seed in (1, 2, 3):
        session.data("FakeData", limit=60, size=64, test=0.5, seed=seed)
        forecast = session.forecast(epochs=2, seed=seed)
        run = session.train(epochs=2, seed=seed)
        accuracies.append(run.accuracy)
        assert run.moved == ("head",) and run.plan.trainable_params < 0.01 * run.plan.total_params
        assert run.flops == pytest.approx(forecast.flops, rel=0.01)
    assert sum(accuracies) / 3 < 2 / len(
        run.classes
    )  # of 450 images together: one draw's 150 go up to 0.17


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_imagenets_photographs_are_of_use_for_materials(seed: int):
    session = Session()
    session.data("textures", per_class=20, size=96, seed=seed)
    session.load("efficientnet_lite0")
    assert session.train(epochs=5, augment="none", seed=seed).accuracy > 0.6
