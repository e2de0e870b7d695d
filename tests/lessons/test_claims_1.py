"""Lesson 1's claims over three draws of twenty images, each trained from its own seed: better, sooner, with less work."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tlnb import glyphnet
from tlnb.core.costs.pretraining import pretraining_of
from tlnb.core.evaluation.compare import compare
from tlnb.core.evaluation.savings import to_target
from tlnb.core.training.run import Run
from tlnb.session import Session

SEEDS = (0, 1, 2)


@pytest.fixture(scope="module", params=SEEDS)
def trained(request: pytest.FixtureRequest) -> Session:
    """A new output layer on a frozen network, then the same network from scratch with all that its recipe gives it."""
    session = Session()
    session.data("digits", per_class=2, seed=request.param)
    session.load("glyphnet")
    session.freeze()
    session.train(seed=request.param)
    session.train(scratch=True)
    return session


def steps_to(target: float, run: Run) -> float:
    _, look = run.reached(target)
    assert look is not None
    return run.work.steps * look.epochs / len(run.epochs)


def test_only_the_output_layer_moves_and_the_opponent_gets_twice_the_steps(trained: Session):
    run, baseline = trained.runs
    assert run.moved == ("head",)
    assert run.source_accuracy[0] == run.source_accuracy[1]
    assert (
        baseline.seed == run.seed and baseline.plan.total_params == baseline.plan.trainable_params
    )
    assert baseline.work.steps == 2 * run.work.steps


def test_twenty_images_are_read_better_than_by_guessing_from_scratch_or_from_pixels(
    trained: Session,
):
    run, baseline = trained.runs
    pixels = next(
        row for row in compare(trained.runs, trained.dataset).rows if row.name == "pixels"
    )
    assert run.accuracy > 0.7  # guessing: 0.1
    assert run.accuracy > baseline.accuracy
    assert run.accuracy > pixels.accuracy + 0.03


def test_it_is_there_sooner_and_with_less_work(trained: Session):
    run, baseline = trained.runs
    target = compare(trained.runs, trained.dataset).target
    assert steps_to(target, run) < steps_to(
        target, baseline
    )  # when the baseline gets there varies threefold
    assert 2 * to_target(run, target).flops < to_target(baseline, target).flops
    assert 10 * run.training_flops < baseline.training_flops


def test_someone_paid_far_more_for_the_pretraining(trained: Session):
    paid = pretraining_of(trained.model.card)
    assert paid.flops > 100 * sum(run.training_flops for run in trained.runs)


def test_it_has_no_word_for_a_digit():
    """No class of its own takes as much as 5% of any digit."""
    audit = glyphnet.card("glyphnet")["audit"]
    assert len(audit) == 10 and max(max(shares.values()) for shares in audit.values()) < 0.05


@pytest.mark.parametrize("seed", SEEDS)
def test_plain_pytorch_does_the_same(session: Session, seed: int):
    data, prepare = (
        session.data("digits", per_class=2, seed=seed),
        session.load("glyphnet").transform,
    )
    torch.manual_seed(seed)
    trunk = glyphnet.load("glyphnet").requires_grad_(False).eval()
    head, trunk.head = nn.Linear(trunk.head.in_features, 10), nn.Identity()
    features, optimizer = (
        trunk(prepare(data.images["train"])),
        torch.optim.AdamW(head.parameters(), lr=0.01),
    )
    for _ in range(100):
        optimizer.zero_grad()
        nn.functional.cross_entropy(head(features), data.labels["train"]).backward()
        optimizer.step()
    right = head(trunk(prepare(data.images["test"]))).argmax(1) == data.labels["test"]
    assert right.float().mean() > 0.7
