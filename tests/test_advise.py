"""Advice: what it reads, how it weighs, what it says."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tlnb.core import advise as advising
from tlnb.core import probes
from tlnb.core.advise import Advice, Case, _together
from tlnb.core.errors import UsageError
from tlnb.core.probes import labels_in_use, stage_features
from tlnb.display.cards import HTML
from tlnb.session import Session


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short trainings: what is weighed, not how well it learns."""
    from dataclasses import replace

    short = advising.recipe
    monkeypatch.setattr(advising, "recipe", lambda *given: replace(short(*given), epochs=2))


def test_only_labels_in_use_are_read(session: Session):
    data = session.data("digits", per_class=20)
    used = labels_in_use(data)
    assert len(used.labels["train"]) == data.splits["train"] + data.splits["val"] and len(used.labels["test"]) == 0
    known = {tuple(row) for s in ("train", "val") for row in data.images[s].flatten(1).tolist()}
    assert {tuple(row) for row in used.images["train"].flatten(1).tolist()} == known


def test_of_much_data_some_are_read_classes_in_equal_parts(session: Session, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(probes, "AT_MOST", 50)
    used = labels_in_use(session.data("digits", per_class=20))
    assert torch.bincount(used.labels["train"]).tolist() == [5] * 10


def test_every_stage_but_the_output_layer_is_looked_at(small: Session):
    images = small.dataset.images["train"][:3]
    found = stage_features(small.model.module, small.layers(), small.model.transform, images)
    assert list(found) == ["stem", "layer1", "layer2", "layer3", "layer4"]
    assert all(len(features) == 3 and np.isfinite(features).all() for features in found.values())


@pytest.mark.usefixtures("quick")
def test_advice_is_measured_charged_and_changes_nothing(small: Session):
    plan = small.plan
    found = small.advise()
    assert found.strategy in ("head", "partial", "full") and found.rule == "head"
    assert [t.strategy for t in found.evidence] == ["head", "partial", "full"]
    assert all(t.accuracy is not None and t.forecast.seconds > 0 for t in found.evidence)
    assert found.probes[0].stage == "stem"
    assert small.plan is plan and small.runs == []
    charge = small.bill.charges[-1]
    assert charge.kind == "advising" and charge.flops > 0 and charge.seconds > 0
    card = HTML[Advice](found)
    for words in ("how sure", "What each frozen stage knows", "test images are not read", "rule of thumb"):
        assert words in card


def test_one_label_a_class_measures_nothing_and_says_so(session: Session):
    session.data("digits", per_class=1)
    session.load("glyphnet")
    found = session.advise()
    assert found.strategy == "head" and found.probes == () and "Nothing can be held out" in found.reason
    assert "none can be held out" in HTML[Advice](found)


@pytest.mark.usefixtures("quick")
def test_what_exceeds_the_budget_is_not_advised(small: Session):
    found = small.advise(budget="0.0001s")
    assert found.strategy == "head" and "would exceed 0.0001s" in found.reason
    with pytest.raises(UsageError, match="is no budget"):
        small.advise(budget="plenty")


def test_without_data_or_model_it_says_what_is_missing(session: Session):
    with pytest.raises(UsageError, match="no data yet"):
        session.advise()


def test_expectation_and_measurement_count_by_their_precision():
    assert _together(0.05, 0.02, None, None) == (0.05, 0.02)
    mean, sd = _together(0.05, 0.02, -0.05, 0.02)
    assert mean == pytest.approx(0) and sd == pytest.approx(0.02 / math.sqrt(2))
    assert _together(0.05, 0.02, -0.05, 0.0001)[0] == pytest.approx(-0.05, abs=1e-4)


def test_few_changes_are_preferred_unless_more_are_clearly_better():
    from dataclasses import replace

    base = advising.Tried("head", None, None, None, 0.0, 0.0, None, True)  # type: ignore[arg-type]

    def chosen(*others: tuple[float, float]) -> str:
        more = [replace(base, strategy=s, expected=e, sd=d)
                for s, (e, d) in zip(("partial", "full"), others, strict=False)]  # fmt: skip
        return advising.verdict([base, *more]).strategy

    assert chosen((0.03, 0.01), (0.03, 0.01)) == "partial"
    assert chosen((0.009, 0.001), (0.0095, 0.001)) == "head"  # within a point
    assert chosen((0.03, 0.10), (0.03, 0.10)) == "head"  # who knows
    assert chosen((0.03, 0.01), (0.07, 0.02)) == "full"
    assert chosen((0.03, 0.01), (0.07, 0.20)) == "partial"


def test_features_that_twice_the_labels_help_little_promise_little():
    assert advising._relevance(()) == 1 and advising._relevance(((0.5, 0.8), (1.0, 0.9))) == 1
    assert advising._relevance(((0.5, 0.60), (1.0, 0.62))) == pytest.approx(0.2)
    assert 0.2 < advising._relevance(((0.5, 0.60), (1.0, 0.66))) < 1


def weighed(session: Session, head: float, partial: float, full: float, count: int = 400) -> dict[str, float]:
    """What is expected of each strategy when trials reach these accuracies on so many images."""
    forecasts = dict.fromkeys(advising.STRATEGIES)
    right = {name: (np.arange(count) < share * count).astype(float)
             for name, share in zip(advising.STRATEGIES, (head, partial, full), strict=True)}  # fmt: skip
    case = Case(session.model, session.layers(), session.dataset)
    tried = advising._weighed(case, (), (), right, {}, forecasts, None)  # type: ignore[arg-type]
    return {t.strategy: t.expected for t in tried}


def test_trials_on_many_images_overrule_the_rule(small: Session):
    assert weighed(small, 0.80, 0.70, 0.70)["partial"] < -0.02
    assert weighed(small, 0.80, 0.95, 0.95)["partial"] > 0.05
    gained = weighed(small, 0.60, 0.60, 0.80)
    assert gained["full"] - gained["partial"] > 0.01
    assert weighed(small, 0.999, 0.999, 0.999)["partial"] < 0.01  # nothing left to gain: the fewest changes
