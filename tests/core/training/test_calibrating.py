"""Runs are calibrated on labels that their network has not seen, at a cost that is counted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.foreign import foreign_images
from tests.resuming import begun, same, stop_after
from tlnb.core.models.calibration import KnownImages, fitted_temperature, unit_rows
from tlnb.core.training.run import Run
from tlnb.session import Session


@pytest.fixture(scope="module")
def held_out() -> Session:
    """Twenty digits a class: forty labels are held out to choose with, too few to calibrate by."""
    return _forecast_and_trained(20)


@pytest.fixture(scope="module")
def folded() -> Session:
    """Five digits a class: nothing is held out."""
    return _forecast_and_trained(5)


def _forecast_and_trained(per_class: int) -> Session:
    session = Session()
    session.data("digits", per_class=per_class)
    session.load("glyphnet")
    session.forecast(epochs=3)
    session.train(epochs=3)
    return session


def test_few_held_out_labels_are_not_all_that_calibrate(held_out: Session):
    run = held_out.runs[0]
    fitted = run.calibration
    assert (fitted.method, fitted.labels, fitted.layer) == ("cross-validation", 200, "head")
    known = run.known_images()
    assert len(known.labels) == 200  # all labels taught the refit
    data = held_out.dataset
    labels = torch.cat([data.labels["train"], data.labels["val"]])
    assert torch.equal(labels[known.rows], known.labels)


@pytest.mark.parametrize(("strategy", "options"), [("partial", {}), ("head", {"cache": False})])
def test_the_labels_held_out_calibrate_where_folds_cannot(
    session: Session, strategy: str, options: dict[str, bool]
):
    session.data("digits", per_class=20)
    session.load("glyphnet")
    session.strategy(strategy)
    session.forecast(epochs=1, **options)
    run = session.train(epochs=1, **options)
    assert (run.calibration.method, run.calibration.labels) == ("val", 40)
    assert run.forecast.flops_error == pytest.approx(0, abs=1e-9)


def test_many_held_out_labels_calibrate_without_folds(session: Session):
    session.data("digits", per_class=40, val=0.5)
    session.load("glyphnet")
    fitted = session.train(epochs=1).calibration
    assert (fitted.method, fitted.labels) == ("val", 200)


@pytest.mark.parametrize("per_class", [4, 5])
def test_no_class_is_missing_from_a_fold(session: Session, per_class: int):
    session.data("digits", per_class=per_class)
    session.load("glyphnet")
    session.forecast(epochs=2)
    run = session.train(epochs=2)
    assert run.calibration.labels == 10 * per_class
    assert run.forecast.flops_error == pytest.approx(0, abs=1e-9)


def test_folds_learn_for_as_long_as_the_refit(session: Session, monkeypatch: pytest.MonkeyPatch):
    """Logits grow with epochs: folds that learned for longer would give another temperature."""
    from tlnb.core.training import trainer

    monkeypatch.setattr(trainer, "epochs_for_all", lambda *_: 4)
    session.data("digits", per_class=20)
    session.load("glyphnet")
    run = session.train(epochs=60)
    assert run.refit.epochs == 4
    assert float(run.answers().sure.mean()) == pytest.approx(run.accuracy, abs=0.06)


@pytest.mark.parametrize("series", [3, 4, 24])
def test_few_groups_still_calibrate(session: Session, series: int):
    images = np.random.default_rng(0).integers(0, 256, (240, 16, 16, 3), dtype=np.uint8)
    labels, groups = np.arange(240) % 2, np.arange(240) * series // 240
    session.data(images, labels, group=groups, val=0.34, test=0.25)
    session.load("glyphnet")
    run = session.train(epochs=1)
    assert run.calibration is not None, run.uncalibrated


def test_few_labels_are_cross_validated(folded: Session):
    fitted = folded.runs[0].calibration
    assert (fitted.method, fitted.labels) == ("cross-validation", 50)
    assert fitted.threshold > 0 and not folded.runs[0].uncalibrated


@pytest.mark.parametrize("name", ["held_out", "folded"])
def test_the_forecast_counts_what_calibrating_costs(name: str, request: pytest.FixtureRequest):
    run = request.getfixturevalue(name).runs[0]
    assert run.forecast.flops_error == pytest.approx(0, abs=1e-9)
    assert "calibration" in run.to_json()


def test_calibrating_leaves_the_weights_alone(folded: Session, monkeypatch: pytest.MonkeyPatch):
    from tlnb.core.training import trainer

    monkeypatch.setattr(trainer.Trainer, "_calibrate", lambda self, warm: "finished")
    plain = Session()
    plain.data("digits", per_class=5)
    plain.load("glyphnet")
    run, own = plain.train(epochs=3), folded.runs[0]
    assert run.calibration is None and run.hashes() == own.hashes()
    assert run.accuracy == own.accuracy and run.training_flops == own.training_flops


@pytest.mark.parametrize(
    ("per_class", "strategy", "options", "why"),
    [
        (2, "head", {}, "20 labels, 2 in the smallest class"),
        (5, "partial", {}, "no labels are held out"),
        (5, "head", {"cache": False}, "cached features"),
    ],
)
def test_what_cannot_be_calibrated_says_why(
    session: Session, per_class: int, strategy: str, options: dict[str, bool], why: str
):
    session.data("digits", per_class=per_class)
    session.load("glyphnet")
    session.strategy(strategy)
    run = session.train(epochs=1, **options)
    assert run.calibration is None and why in run.uncalibrated
    found = session.predict(*foreign_images()[:1])
    assert found.why_not == run.uncalibrated and None not in found.labels


@pytest.mark.parametrize(
    ("per_class", "why"),
    [(20, "has learned the held-out labels"), (5, "cross-validation would hold out")],
)
def test_labels_that_the_start_has_learned_do_not_calibrate(
    session: Session, per_class: int, why: str
):
    session.data("digits", per_class=per_class)
    session.load("glyphnet")
    session.train(epochs=1)
    session.forecast(epochs=2, from_="head")
    once = session.train(epochs=2, from_="head", name="once")
    twice = session.train(epochs=1, from_="once")
    assert once.calibration is None and why in once.uncalibrated and why in twice.uncalibrated
    assert once.forecast.flops_error == pytest.approx(0, abs=1e-9)


def test_neither_test_nor_monitor_labels_matter(held_out: Session, session: Session):
    data = held_out.dataset
    wrong = {s: y.flip(0) if s in ("test", "monitor") else y for s, y in data.labels.items()}
    session.data("digits", per_class=20)
    session.commit(replace(session.state, dataset=replace(data, labels=wrong)))
    session.load("glyphnet")
    assert session.train(epochs=3).calibration == held_out.runs[0].calibration


def test_records_of_older_versions_have_none(held_out: Session):
    import json

    values = json.loads(held_out.runs[0].to_json())
    del values["calibration"], values["uncalibrated"]
    back = Run.from_json(json.dumps(values))
    assert back.calibration is None and not back.uncalibrated
    again = Run.from_json(held_out.runs[0].to_json())
    assert again.calibration == held_out.runs[0].calibration


def test_a_session_that_comes_back_refuses_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("TLNB_HOME", str(tmp_path))
    before = Session()
    before.data("digits", per_class=20)
    before.load("glyphnet")
    run = before.train(epochs=2)
    images = [before.dataset.images["test"][0].numpy(), *foreign_images()]
    said = before.predict(*images)
    before.reset()
    after = Session()
    after.resume(tmp_path)
    assert after.runs[0].calibration == run.calibration
    assert torch.equal(after.runs[0].answers().likeness, run.answers().likeness)
    assert after.predict(*images).labels == said.labels


@pytest.mark.parametrize("strategy", ["head", "full"])
def test_a_refit_that_is_resumed_is_calibrated_once(
    strategy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("TLNB_HOME", str(tmp_path))
    whole = begun(20, strategy).train(epochs=2, refit=True)
    first = begun(20, strategy)
    stop_after(first, 1, phase="refit")
    first.train(epochs=2, refit=True)
    first.store.close()
    resumed = Session().resume()
    same(resumed, whole)
    assert resumed.calibration == whole.calibration
    assert torch.equal(resumed.known_images().features, whole.known_images().features)
    # what was cached is lost with the kernel: that is caching again
    assert resumed.flops_by_phase["evaluating"] == whole.flops_by_phase["evaluating"]


def test_an_interrupt_while_calibrating_loses_no_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from tlnb.core.training import trainer

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setenv("TLNB_HOME", str(tmp_path))
    whole, session = begun(20, "full").train(epochs=2), begun(20, "full")
    with monkeypatch.context() as patch:
        patch.setattr(trainer, "on_val", interrupted)
        stopped = session.train(epochs=2)
    assert stopped.status == "stopped" and stopped.calibration is None
    told = []
    session.report = lambda progress: told.append(progress.phase)
    resumed = session.resume()
    assert "training" not in told
    same(resumed, whole)
    assert resumed.calibration == whole.calibration


def test_groups_are_never_on_both_sides():
    draw = np.random.default_rng(0)
    images = draw.integers(0, 256, (60, 16, 16, 3), dtype=np.uint8)
    copies = np.repeat(images, 3, 0)  # each photographed three times
    session = Session()
    series, labels = np.repeat(np.arange(60), 3), np.repeat(np.arange(60) % 2, 3)
    session.data(copies, labels, group=series, val=0)
    session.load("glyphnet")
    run = session.train(epochs=3)
    likeness = run.known_images().own_likeness()
    assert run.calibration.threshold < likeness.min()  # a copy is no measure of likeness


# ── the formulas ──


def test_the_temperature_finds_what_logits_were_multiplied_by():
    draw = torch.Generator().manual_seed(0)
    logits = torch.randn((4000, 5), generator=draw) * 2
    labels = torch.multinomial(logits.softmax(1), 1, generator=draw)[:, 0]
    for factor in (0.5, 1.0, 3.0):
        assert fitted_temperature(factor * logits, labels) == pytest.approx(factor, rel=0.1)


def test_a_few_right_answers_do_not_make_it_certain():
    labels = torch.arange(40) % 2
    logits = torch.nn.functional.one_hot(labels, 2) * 50.0
    sure = (logits / fitted_temperature(logits, labels)).softmax(1).max(1).values
    assert 0.9 < float(sure.min()) < 0.995


def test_known_images_survive_their_text():
    features = unit_rows(torch.randn((6, 4, 3, 3)), torch.nn.Conv2d(4, 2, 1))
    assert features.shape == (6, 4)
    known = KnownImages(features=features, labels=torch.arange(6), rows=torch.arange(6))
    back = KnownImages.from_text(known.to_text())
    assert torch.equal(back.features, features) and torch.equal(back.labels, known.labels)
    with pytest.raises(ValueError, match="fit together"):
        KnownImages.from_text({**known.to_text(), "rows": [1]})
