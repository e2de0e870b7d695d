"""Trainings that tests share: the same one is done once, any other is done."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import tlnb.session.trainings
from tests.trained_once import TrainedOnce
from tlnb.session import Session


@pytest.fixture
def once(monkeypatch: pytest.MonkeyPatch) -> TrainedOnce:
    """One of its own, in which nothing was trained yet."""
    found = TrainedOnce(tlnb.session.trainings.train)
    monkeypatch.setattr(tlnb.session.trainings, "train", found)
    return found


def begun(**amounts: int) -> Session:
    session = Session()
    session.data("digits", **{"per_class": 1, **amounts})
    session.load("glyphnet")
    return session


def test_the_same_training_is_done_once_and_its_record_is_the_same(once: TrainedOnce):
    first, again = begun().train(epochs=1), begun().train(epochs=1, name="mine")
    assert once.served == 1 and again.name == "mine"
    assert (
        first.epochs == again.epochs
        and first.accuracy == again.accuracy
        and first.hashes() == again.hashes()
    )


def test_what_is_done_to_a_run_reaches_no_other(once: TrainedOnce):
    run = begun().train(epochs=1)
    nn.init.zeros_(run.network().head.weight)
    again = begun().train(epochs=1)
    assert once.served == 1 and again.network().head.weight.abs().sum() > 0


@pytest.mark.parametrize(
    "options",
    [{"seed": 1}, {"epochs": 2}, {"lr": 0.5}, {"augment": "none"}, {"cache": False}],
    ids=str,
)
def test_other_options_are_another_training(once: TrainedOnce, options: dict[str, object]):
    begun().train(epochs=1)
    begun().train(**{"epochs": 1, **options})
    assert not once.served and len(once.runs) == 2


def test_other_data_plans_and_weights_are_another_training(once: TrainedOnce):
    begun().train(epochs=1)
    begun(seed=1).train(epochs=1)
    planned, changed = begun(), begun()
    planned.unfreeze("layer4.bn2")
    planned.train(epochs=1)
    with torch.no_grad():
        changed.model.module.stem.conv.weight.mul_(1.01)
    changed.train(epochs=1)
    assert not once.served and len(once.runs) == 4


def test_a_run_that_goes_on_from_another_depends_on_it(once: TrainedOnce):
    for seed in (0, 1):
        session = begun()
        session.train(epochs=1, seed=seed, name="first")
        session.train(epochs=1, from_="first")
    assert not once.served


def test_networks_of_the_users_own_are_always_trained(once: TrainedOnce):
    class Own(nn.Sequential):
        """Its code may do anything."""

    for _ in range(2):
        session = Session()
        session.data("digits", per_class=1)
        session.load(Own(nn.Flatten(), nn.Linear(3072, 10)), size=32, called="own")
        session.strategy("full")
        session.train(epochs=1)
    assert not once.served and not once.runs
