"""What lesson 3 claims, for several draws and seeds."""

from __future__ import annotations

import pytest

from tlnb.session import Session

SEEDS = (0, 1, 2)


@pytest.mark.parametrize("seed", SEEDS)
def test_caching_changes_nothing_and_saves_what_freezing_does_not(session: Session, seed: int):
    session.data("digits", per_class=2, seed=seed)
    session.load("glyphnet")
    once = session.train(augment="none", epochs=8, seed=seed)
    every = session.train(augment="none", epochs=8, seed=seed, cache=False)
    least = 1e-5 if once.precision == "fp32" else 1e-3  # to which cached and uncached runs agree
    assert (
        max(
            abs(a.train_loss - b.train_loss) for a, b in zip(once.epochs, every.epochs, strict=True)
        )
        < least
    )
    assert 0.30 < once.work.uncached_flops / once.work.unfrozen_flops < 0.37
    assert once.training_flops < 0.2 * every.training_flops


@pytest.mark.parametrize("seed", SEEDS)
def test_the_sentence_at_its_word_works_costs_more_and_forgets(session: Session, seed: int):
    session.data("digits", per_class=1, seed=seed)
    session.load("glyphnet")
    head = session.train()
    session.strategy("output-frozen")
    literal = session.train(epochs=15)
    assert head.moved == ("head",) and "head" not in literal.moved
    assert literal.accuracy > 0.5
    assert literal.training_flops > 3 * head.training_flops
    assert head.source_accuracy[0] == head.source_accuracy[1] > literal.source_accuracy[1]
