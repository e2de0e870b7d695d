"""The claims of lesson 6 for any seed: what a bill holds, in FLOPs, which no clock disturbs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tlnb.core.costs.pretraining import pretraining_of
from tlnb.core.evaluation.comparison import Comparison
from tlnb.session import Session

pytest.importorskip("optuna")
SEEDS = (0, 1, 2)


@pytest.fixture(scope="module", params=SEEDS)
def paid(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Session]:
    """Forecast, tuned and trained on both sides, compared; with fewer trials and epochs than in the lesson."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TLNB_HOME", str(tmp_path_factory.mktemp("home")))
        tl, seed = Session(), request.param
        tl.data("digits", per_class=2, seed=seed)
        tl.load("glyphnet")
        tl.forecast(seed=seed)
        tl.train(seed=seed)
        tl.tune(trials=2, epochs=10, seed=seed)
        tl.train(seed=seed, epochs=40, name="tuned")
        tl.tune(scratch=True, trials=2, epochs=10, seed=seed)
        tl.train(scratch=True, epochs=40)
        yield tl


def flops_to_train(found: Comparison) -> dict[str, float]:
    return {row.name: row.flops or 0.0 for row in found.rows if row.kind in ("run", "baseline")}


def test_flops_are_known_before_the_first_step(paid: Session):
    forecast = paid.runs[0].forecast
    assert forecast is not None and forecast.flops_error is not None and forecast.flops_error < 0.01


def test_tuning_what_starts_pretrained_is_less_work_and_so_is_training_it(paid: Session):
    _, run, baseline = paid.runs
    charged = paid.bill.of("tuning", {run.plan.tuned, baseline.plan.tuned})
    assert charged[run.plan.tuned].flops < charged[baseline.plan.tuned].flops
    assert run.training_flops < baseline.training_flops
    assert run.accuracy > baseline.accuracy


def test_everything_is_charged_once_and_tuning_counts_where_it_is_asked_to(paid: Session):
    apart, within = paid.compare("tuned", "scratch"), paid.compare("tuned", "scratch", tuning="in")
    kinds = paid.bill.kinds
    equal = {"equal budget"} if any(row.kind == "equal budget" for row in apart.rows) else set()
    assert (
        set(kinds) == {"run", "baseline", "tuning", "forecasting"} | equal
    )  # none where both took as many steps
    assert sum(kind.flops for kind in kinds.values()) == pytest.approx(paid.bill.total.flops)
    saved = [sides["scratch"] - sides["tuned"] for sides in map(flops_to_train, (apart, within))]
    assert 0 < saved[0] < saved[1]
    assert 1 < within.pays_off_after < apart.pays_off_after  # so that it pays off sooner


def test_pretraining_was_more_work_than_all_of_it(paid: Session):
    assert paid.model is not None
    unpaid = pretraining_of(paid.model.card)
    assert unpaid is not None and unpaid.flops > 10 * paid.bill.total.flops


def test_money_is_an_assumption_and_seconds_and_flops_are_not(paid: Session):
    bases = paid.bill.total.bases
    assert {figure: bases[figure][0] for figure in ("seconds", "flops", "money")} == {
        "seconds": "measured",
        "flops": "measured",
        "money": "assumed",
    }
