"""Advice: what it reads, how it weighs, what it says."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tlnb.core.evaluation import probes
from tlnb.core.evaluation.probes import labels_in_use, stage_features
from tlnb.core.planning.size_rule import size_rule
from tlnb.core.runtime.errors import UsageError
from tlnb.core.tuning import advise as advising
from tlnb.core.tuning import trials
from tlnb.core.tuning.advise import Advice, Tried, _combined
from tlnb.core.tuning.trials import Scheme, Trials, choose_scheme
from tlnb.display.cards import HTML
from tlnb.session import Session

BASE = Tried(
    strategy="head",
    accuracy=None,
    gain=None,
    error=None,
    expected=0.0,
    sd=0.0,
    forecast=None,  # type: ignore[arg-type]
    affordable=True,
)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short trainings: what is weighed, not how well it learns."""
    short = trials.recipe
    monkeypatch.setattr(trials, "recipe", lambda *given: replace(short(*given), epochs=2))


def test_only_labels_in_use_are_read(session: Session):
    data = session.data("digits", per_class=20)
    used = labels_in_use(data)
    assert (
        len(used.labels["train"]) == data.splits["train"] + data.splits["val"]
        and len(used.labels["test"]) == 0
    )
    known = {tuple(row) for s in ("train", "val") for row in data.images[s].flatten(1).tolist()}
    assert {tuple(row) for row in used.images["train"].flatten(1).tolist()} == known


def test_of_much_data_some_are_read_classes_in_equal_parts(
    session: Session, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(probes, "MAX_IMAGES", 50)
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
    assert found.trials.startswith("20 labels held out in 2 folds")
    assert [t.strategy for t in found.evidence] == ["head", "partial", "full"]
    assert all(t.accuracy is not None and t.forecast.seconds > 0 for t in found.evidence)
    assert found.probes[0].stage == "stem"
    assert small.plan is plan and small.runs == []
    charge = small.bill.charges[-1]
    assert charge.kind == "advising" and charge.flops > 0 and charge.seconds > 0
    card = HTML[Advice](found)
    for words in (
        "How sure",
        "What each frozen stage already knows",
        "test images are not read",
        "rule of thumb",
    ):
        assert words in card


def test_one_label_a_class_measures_nothing_and_says_so(session: Session):
    session.data("digits", per_class=1)
    session.load("glyphnet")
    found = session.advise()
    assert found.strategy == "head" and found.probes == ()
    assert "No labels can be held out" in found.reason
    card = HTML[Advice](found)
    assert found.sure == "not measured: only the rule of thumb" and found.sure in card
    assert "none can be held out" in card
    assert "+0.0" not in card and "100%" not in card  # nothing looks sure


@pytest.mark.usefixtures("quick")
def test_without_time_for_trials_the_rule_of_thumb_decides_and_says_so(
    small: Session, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(advising, "ADVICE_SECONDS", 0.0)
    for per_class, strategy in ((19, "head"), (20, "partial"), (1000, "full")):
        monkeypatch.setattr(type(small.dataset), "per_class", per_class)
        found = small.advise()
        assert found.strategy == found.rule == strategy
        assert "No trial fits into the time" in found.reason and "not measured" in found.sure
        assert "not tried: trying it would take about" in HTML[Advice](found)


def test_what_the_budget_cannot_pay_is_not_advised_without_trials_either():
    dear = [replace(BASE, strategy="partial"), replace(BASE, strategy="full", affordable=False)]
    assert advising._chosen([BASE, *dear], "full").strategy == "partial"
    assert advising._chosen([BASE, *dear], "head").strategy == "head"


@pytest.mark.usefixtures("quick")
def test_what_exceeds_the_budget_is_not_advised(small: Session):
    found = small.advise(budget="0.0001s")
    assert found.strategy == "head" and "would exceed 0.0001s" in found.reason
    with pytest.raises(UsageError, match="is not a budget"):
        small.advise(budget="plenty")


def test_without_data_or_model_it_says_what_is_missing(session: Session):
    with pytest.raises(UsageError, match="no data yet"):
        session.advise()


def test_expectation_and_measurement_count_by_their_precision():
    assert _combined(0.05, 0.02, None, None) == (0.05, 0.02)
    mean, sd = _combined(0.05, 0.02, -0.05, 0.02)
    assert mean == pytest.approx(0) and sd == pytest.approx(0.02 / math.sqrt(2))
    assert _combined(0.05, 0.02, -0.05, 0.0001)[0] == pytest.approx(-0.05, abs=1e-4)


def test_few_changes_are_preferred_unless_more_gain_a_point():
    def chosen(partial: float, full: float) -> str:
        more = [
            replace(BASE, strategy=s, expected=e) for s, e in (("partial", partial), ("full", full))
        ]
        return advising.verdict([BASE, *more]).strategy

    assert chosen(0.03, 0.03) == "partial"
    assert chosen(0.009, 0.0095) == "head"  # within a point
    assert chosen(0.03, 0.07) == "full"
    assert chosen(-0.02, 0.005) == "head"
    assert (
        chosen(0.005, 0.012) == "partial"
    )  # head is more than a point behind the best, partial is not


@given(st.floats(1, 5), st.integers(0, 2**16))
def test_how_sure_a_network_is_of_everything_does_not_count(times: float, seed: int):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, 60)
    # far from separable: its best temperature is not the least of those tried
    logits = rng.normal(size=(60, 4)) + np.eye(4)[labels]
    loss, other = (
        advising.calibrated_loss(scale * logits, labels).mean() for scale in (1.0, times)
    )
    assert loss == pytest.approx(other, rel=0.05) and loss < math.log(4)


def test_a_loss_is_lower_where_more_is_known():
    labels = np.arange(40) % 4
    clear, vague = (
        np.eye(4)[labels] * much + np.random.default_rng(0).normal(size=(40, 4))
        for much in (3.0, 1.0)
    )
    assert (
        advising.calibrated_loss(clear, labels).mean()
        < advising.calibrated_loss(vague, labels).mean()
    )
    assert advising.calibrated_loss(np.zeros((40, 4)), labels) == pytest.approx(
        np.full(40, math.log(4))
    )
    assert np.isfinite(advising.calibrated_loss(np.eye(4)[labels] * 1e6, labels)).all()


def weighed(head: float, partial: float, full: float, count: int = 400) -> dict[str, float]:
    """What is expected of each strategy when trials reach these accuracies on so many images."""
    labels = np.arange(count) % 10

    def said(accuracy: float) -> np.ndarray:
        wrong = np.random.default_rng(1).permutation(count) >= accuracy * count
        return 3.0 * np.eye(10)[(labels + wrong) % 10]

    accuracies = zip(advising.STRATEGIES, (head, partial, full), strict=True)
    done = Trials(labels=labels, logits={name: said(share) for name, share in accuracies})
    tried = advising._weighed(done, (), dict.fromkeys(advising.STRATEGIES), None)  # type: ignore[arg-type]
    assert tried[0].accuracy == pytest.approx(head, abs=1 / count)
    return {t.strategy: t.expected for t in tried}


def test_trials_on_many_images_move_the_rule():
    assert weighed(0.80, 0.60, 0.60)["partial"] < 0 < weighed(0.80, 0.80, 0.80)["partial"]
    assert weighed(0.80, 0.95, 0.95)["partial"] > 0.05
    gained = weighed(0.60, 0.60, 0.80)
    assert gained["full"] - gained["partial"] > 0.05
    assert (
        weighed(0.999, 0.999, 0.999)["partial"] < 0.01
    )  # nothing left to gain: the fewest changes


def test_what_was_not_tried_is_expected_by_the_rule_alone():
    labels = np.arange(100) % 10
    half = 3.0 * np.eye(10)[np.where(np.arange(100) < 50, labels, (labels + 1) % 10)]
    none = dict.fromkeys(advising.STRATEGIES)
    done = Trials(labels=labels, logits={"head": half})
    tried = advising._weighed(done, (), none, None)  # type: ignore[arg-type]
    assert [t.gain for t in tried] == [None] * 3
    assert tried[1].expected == pytest.approx(0.5 * advising.PARTIAL_GAIN[0])
    assert tried[2].expected == pytest.approx(
        0.5 * (advising.PARTIAL_GAIN[0] + advising.FULL_GAIN[0])
    )


def tried(strategy: str, gain: float | None, error: float | None, expected: float):
    """A strategy that a trial showed to gain so much over the one before."""
    accuracy = None if gain is None else 0.8
    shown = {"accuracy": accuracy, "gain": gain, "error": error}
    return replace(BASE, strategy=strategy, expected=expected, sd=0.02, **shown)


def test_ties_go_to_fewer_changes_whatever_the_rule_expects():
    head = replace(BASE, accuracy=0.8)
    full = tried("full", 0.0, 0.01, 0.03)
    tie = [head, tried("partial", 0.008, 0.036, 0.03), full]
    assert advising.verdict(tie).strategy == "head"
    assert "no clear difference" in advising._reason(head, tie, size_rule(2), "")
    assert "leads to partial; what was measured" in advising._reason(head, tie, size_rule(20), "")
    clear = [head, tried("partial", 0.05, 0.01, 0.04), replace(full, expected=0.06)]
    assert advising.verdict(clear).strategy == "partial"  # full is a tie with partial
    untried = [head, tried("partial", None, None, 0.03), tried("full", None, None, 0.03)]
    assert advising.verdict(untried).strategy == "partial"
    assert "partial and full not measured" in advising._certainty(untried[1], untried)


def forecast_of(training: float):
    phases = {"preparing": 0.0, "caching": 1.0, "warmup": 0.0, "training": training}
    return type("Known", (), {"phases": phases})()


@pytest.mark.parametrize(
    ("seconds", "scheme"),
    [
        (1000, Scheme(strategies=("head", "partial", "full"), folds=3)),
        (200, Scheme(strategies=("head", "partial", "full"), folds=1)),
        (60, Scheme(strategies=("head", "partial", "full"), folds=1, epochs=0.25)),
        (25, Scheme(strategies=("head", "partial"), folds=1)),
        (8, Scheme(strategies=("head", "partial"), folds=1, epochs=0.25)),
        (1, None),
    ],
)
def test_fewer_and_shorter_trials_are_preferred_to_none(seconds: float, scheme: Scheme | None):
    known = {"head": forecast_of(2), "partial": forecast_of(18), "full": forecast_of(146)}
    assert choose_scheme(known, 1.0, 3, seconds) == scheme  # type: ignore[arg-type]


def test_of_many_classes_some_are_left_out_rather_than_images_of_each(
    session: Session, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(probes, "MAX_IMAGES", 50)
    data = session.data("digits", per_class=20)
    used = labels_in_use(data, 10)
    counts = torch.bincount(used.labels["train"], minlength=10)
    assert counts[counts > 0].tolist() == [10] * 5
    session.load("glyphnet")
    monkeypatch.setattr(advising, "LEAST_PER_CLASS", 10)
    assert "of 5 classes" in session.advise().trials
