"""Runs side by side."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tlnb.core.evaluation.compare import compare
from tlnb.core.training.run import Run
from tlnb.display.cards import HTML
from tlnb.display.tables import less_work, verdict
from tlnb.display.text import comparison_text
from tlnb.session import Session


def test_what_is_compared_with_what_does_not_depend_on_names(small: Session):
    first = small.train(epochs=1, name="scratch, equal steps")
    baseline = small.train(scratch=True, epochs=1, name="also with equal steps")
    assert (first.kind, baseline.kind) == ("plain", "baseline")
    found = small.compare()
    assert (found.run, found.baseline) == (first.name, baseline.name)


def slower(run: Run, times: float) -> Run:
    """The same run on a machine that was so many times as busy."""
    epochs = tuple(replace(e, seconds=times * e.seconds) for e in run.epochs)
    return replace(run, seconds={p: times * s for p, s in run.seconds.items()}, epochs=epochs)


@pytest.mark.parametrize("busy", [0.01, 1.0, 1000.0])
def test_work_leads_and_is_the_same_on_any_clock(compared: Session, busy: float):
    run, baseline = compared.runs
    found, there = compared.compare(), compare([slower(run, busy), baseline], compared.dataset)
    assert found.less_work == there.less_work and found.less_work > 1
    assert less_work(there) == less_work(found) and verdict(there).startswith(less_work(found))
    assert there.speedup == pytest.approx(found.speedup / busy)
    assert ("later" in verdict(there)) == (there.speedup < 1)
    assert f"<b>{less_work(found)}</b>" in HTML[type(there)](there)


def test_uses_until_pretraining_pays_are_counted_in_work_first(compared: Session):
    found = compared.compare()
    assert found.break_even.unit == "FLOPs" and found.break_even_paid.unit == "seconds"
    assert found.pays_off_after == found.break_even.uses
    assert "counted in FLOPs, it has paid for itself after" in comparison_text(found)


def test_what_an_earlier_run_computed_counts_as_work_in_comparisons_and_not_on_the_bill(
    small: Session,
):
    first = small.train(epochs=2, augment="none")
    again = small.train(epochs=2, augment="none")
    assert first.found_flops == {} and again.found_flops["caching"] > 0
    assert again.training_flops < first.training_flops
    assert again.work_alone == pytest.approx(first.work_alone) == first.training_flops
    found = small.compare()
    rows = found.rows[0], found.rows[1]
    assert rows[0].flops == pytest.approx(rows[1].flops)
    assert rows[0].to_target.flops == pytest.approx(rows[1].to_target.flops)
    assert any(again.name in note and "as if each had run alone" in note for note in found.notes)
    assert "alone" in HTML[Run](again) and "; alone" not in HTML[Run](first)
    charged = [c.flops for c in small.bill.charges if c.run == again.name]
    assert sum(charged) == pytest.approx(again.flops)
    assert Run.from_json(again.to_json()).found_flops == again.found_flops


def test_what_full_fine_tuning_finds_before_its_output_layer_counts_too(small: Session):
    small.strategy("full")
    first, again = small.train(epochs=1), small.train(epochs=1)
    assert again.cache is None and again.found_flops["caching"] > 0
    assert again.work_alone == pytest.approx(first.work_alone)


def test_a_run_that_trains_the_same_layers_twice_finds_nothing_of_its_own(small: Session):
    run = small.train(epochs=3, augment="light")
    assert run.found_flops == {} and run.work_alone == pytest.approx(run.training_flops)
