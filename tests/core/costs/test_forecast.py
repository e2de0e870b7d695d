"""Forecasts: what they promise, what they leave alone, and what became of them. Seconds are for benchmarks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from tlnb.core.costs import extrapolation, rehearsal
from tlnb.core.models import flops
from tlnb.core.planning.plan import STRATEGIES
from tlnb.core.runtime.errors import UsageError
from tlnb.core.runtime.limits import cache_folder
from tlnb.core.storage import activation_cache
from tlnb.core.training import epoch as adamw_epoch
from tlnb.core.training.freezing import hashes
from tlnb.core.training.run import Run
from tlnb.display.cards import HTML
from tlnb.session import Session


@pytest.mark.parametrize("strategy", [*STRATEGIES])
def test_flops_are_forecast_to_the_last_image(small: Session, strategy: str):
    small.strategy(strategy)
    found = small.forecast(epochs=7, batch_size=8)
    run = small.train(epochs=7, batch_size=8)
    assert run.forecast is not None and run.forecast.flops_error == pytest.approx(0, abs=1e-9)
    assert found.flops_by_phase == pytest.approx(run.flops_by_phase)
    assert found.measured is None and run.forecast.measured == sum(run.seconds.values())
    assert run.forecast.error == abs(found.seconds - run.forecast.measured) / run.forecast.measured


def test_looks_are_forecast_where_some_epochs_go_without_one(small: Session):
    found = small.forecast(epochs=40)
    run = small.train(epochs=40)
    assert (
        len(run.curve) < 40
        and run.forecast is not None
        and run.forecast.flops_error == pytest.approx(0, abs=1e-9)
    )
    assert found.per_look > 0 and found.look_share > 0 and found.seconds_of(40) == found.seconds
    steps = [found.seconds_of(n + 1) - found.seconds_of(n) for n in (5, 35)]
    assert steps[0] == pytest.approx(found.per_epoch + found.per_look) and steps[
        1
    ] == pytest.approx(found.per_epoch)
    assert [found.epochs_within(found.seconds_of(n) * (1 + 1e-9)) for n in (1, 7, 20, 40)] == [
        1,
        7,
        20,
        40,
    ]
    assert found.epochs_within(0.0) == 0 and found.epochs_within(1e9) == 40


def test_what_is_cached_already_is_not_forecast_again(session: Session):
    session.data("digits", per_class=20)
    session.load("glyphnet")
    session.strategy("partial")
    first = session.forecast(epochs=3, augment="none")
    session.train(epochs=3, augment="none")
    again = session.forecast(epochs=3, augment="none", seed=1)
    run = session.train(epochs=3, augment="none", seed=1)
    assert again.flops_by_phase["caching"] < first.flops_by_phase["caching"]
    assert run.forecast is not None and run.forecast.flops_error == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("augment", ["none", "light"])
def test_a_refit_of_a_network_without_a_key_computes_its_features_again(
    session: Session, augment: str
):
    """The hook of the old `weight_norm` has no key, so what it cached is not found again."""
    session.data("digits", per_class=20)
    body = nn.Sequential(nn.utils.weight_norm(nn.Conv2d(3, 8, 3, 2)), nn.AdaptiveAvgPool2d(4))
    session.load(nn.Sequential(body, nn.Flatten(), nn.Linear(128, 10)), size=32)
    found = session.forecast(epochs=2, augment=augment)
    run = session.train(epochs=2, augment=augment)
    assert run.cache is not None and run.options.refit
    assert found.flops_by_phase == pytest.approx(run.flops_by_phase)


def test_a_sample_is_neither_taken_from_cached_files_nor_kept_in_them(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("TLNB_CACHE", str(tmp_path))
    monkeypatch.setattr(activation_cache, "WORTH_A_FILE", 0.0)  # everything goes to a file
    monkeypatch.setattr(rehearsal, "FIRST_FLOPS", 1.0)  # and the sample is small
    session.data("digits", per_class=5)
    session.load("glyphnet")
    session.strategy("partial")
    session.forecast(epochs=3)
    assert list(cache_folder().glob("activations/*.npy")) == []
    session.train(epochs=3)
    assert list(cache_folder().glob("activations/*.npy"))
    session.forecast(epochs=3, seed=1)
    run = session.train(epochs=3, seed=1)
    assert run.forecast is not None and run.forecast.flops_error == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(("overhead", "each"), [(0.3, 0.1), (0.0, 0.1), (0.5, 0.05)])
def test_what_a_few_images_took_is_told_as_in_whole_batches(overhead: float, each: float):
    took = [(n, overhead + n * each) for n in (2, 8)]
    own = max(
        8 * each, extrapolation.LEAST_IMAGE_SHARE * took[1][1]
    )  # a pass is never all overhead
    assert extrapolation.in_larger_passes(*took, 32) == pytest.approx(
        own + (took[1][1] - own) * 8 / 32
    )
    assert extrapolation.in_larger_passes(*took, 8) == took[1][1]  # it was a whole one


def test_flops_are_counted_once_for_what_trains(monkeypatch: pytest.MonkeyPatch):
    counted: list[int] = []
    count = flops.step_flops
    monkeypatch.setattr(flops, "step_flops", lambda *given: counted.append(1) or count(*given))
    network, counts = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2)), flops.Counts()
    example = torch.zeros(2, 4)
    whole = counts.step(network, example)
    assert counts.step(network, example, everything=True) == whole == count(network, example)
    network[0].requires_grad_(False)
    assert counts.step(network, example) == count(network, example) < whole
    assert counts.step(network, example, everything=True) == whole
    assert len(counted) == 2


def test_a_rehearsal_that_ends_in_no_number_after_an_epoch_is_forecast_all_the_same(
    small: Session, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(adamw_epoch, "train_epoch", lambda *_, **__: (float("nan"), 0.0))
    small.strategy("full")
    assert small.forecast(epochs=3).seconds > 0


def test_a_forecast_leaves_everything_as_it_was_but_the_bill(small: Session):
    before = hashes(small.model.module)
    plan, random = small.plan, torch.random.get_rng_state()
    found = small.forecast()
    assert hashes(small.model.module) == before and small.plan is plan and small.runs == []
    assert torch.equal(torch.random.get_rng_state(), random)
    charge = small.bill.charges[-1]
    assert (
        (charge.kind, charge.run) == ("forecasting", "head")
        and charge.seconds > 0
        and charge.flops > 0
    )
    assert (
        found.seconds == pytest.approx(sum(found.phases.values()))
        and found.money > 0
        and found.peak_bytes > 0
    )


def test_a_run_carries_only_a_forecast_of_itself(small: Session):
    small.forecast(epochs=2)
    assert small.train(epochs=3).forecast is None
    run = small.train(epochs=2)
    assert run.forecast is not None and Run.from_json(run.to_json()).forecast == run.forecast
    assert "off in time" in HTML[Run](run)


def test_the_baseline_is_forecast_too(small: Session):
    small.train(epochs=2)
    found = small.forecast(scratch=True, epochs=3)
    run = small.train(scratch=True, epochs=3)
    assert found.name == "scratch" and run.forecast is not None
    assert run.forecast.flops_error == pytest.approx(0, abs=1e-9)


def test_a_budget_means_fewer_epochs_and_the_run_says_so(small: Session):
    small.strategy("full")
    whole = small.forecast(epochs=400)
    run = small.train(
        epochs=400, budget=f"{whole.seconds / 4:.3f}s"
    )  # far from one epoch and from all of them
    assert 1 <= len(run.epochs) < 400 and run.options.epochs == len(run.epochs)
    assert "epochs: more were forecast to exceed" in run.notes[0]
    assert run.forecast is not None and run.forecast.flops_error == pytest.approx(0, abs=1e-9)
    with pytest.raises(UsageError, match="one epoch is forecast to take"):
        small.train(budget="0.0001s")
    assert len(small.runs) == 1
    plenty = small.train(epochs=2, budget="1h")
    assert len(plenty.epochs) == 2 and "forecast to fit into 1h" in plenty.notes[0]


def test_a_forecast_that_is_interrupted_leaves_no_trace(
    small: Session, monkeypatch: pytest.MonkeyPatch
):
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(rehearsal.RehearsalSource, "kept", stop)
    with pytest.raises(KeyboardInterrupt):
        small.forecast()
    assert small.bill.charges == () and small.state.forecasts == ()


def test_the_card_shows_phases_and_says_what_was_assumed(small: Session):
    found = small.forecast()
    card = HTML[type(found)](found)
    for words in (
        "caching",
        "training",
        "memory at most",
        "training images timed",
        "which is on the bill",
    ):
        assert words in card


def normed() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 5),
    )


def with_images(count: int, network: nn.Module) -> Session:
    """So many images to train on, and four to test."""
    rng = np.random.default_rng(0)
    labels = np.arange(count + 4) % 2
    tl = Session()
    tl.data(rng.integers(0, 256, (len(labels), 32, 32, 3), np.uint8), labels, test=4 / len(labels))
    tl.load(network, size=32)
    assert tl.dataset is not None and tl.dataset.splits["train"] == count
    return tl


@pytest.mark.parametrize("count", [7, 8, 13])
@pytest.mark.parametrize("batch", [2, 3])
def test_steps_are_forecast_where_a_last_image_would_stand_alone(count: int, batch: int):
    """Batches of two of an odd number of images become batches of three where BatchNorm trains."""
    tl = with_images(count, normed())
    for strategy in ("full", "head"):
        tl.strategy(strategy)
        found = tl.forecast(epochs=3, batch_size=batch, augment="none")
        run = tl.train(epochs=3, batch_size=batch, augment="none")
        assert found.steps == run.work.steps
        assert run.forecast is not None and run.forecast.flops_error == pytest.approx(0, abs=1e-9)
        joined = strategy == "full" and batch == 2 and count % 2
        assert any("leave one image alone" in note for note in run.notes) == bool(joined)


def test_a_forecast_of_batches_of_one_is_refused_as_the_run_is():
    tl = with_images(7, normed())
    tl.strategy("full")
    for call in (tl.forecast, tl.train):
        with pytest.raises(UsageError, match="--batch-size 1 leaves BatchNorm one image"):
            call(epochs=1, batch_size=1)


def test_a_baseline_has_the_steps_that_it_may_have_where_batches_are_joined():
    tl = with_images(9, normed())
    tl.strategy("full")
    run = tl.train(epochs=10, batch_size=2, augment="none")
    tl.train(scratch=True, batch_size=2, epochs=50)
    row = next(row for row in tl.compare().rows if "equal steps" in row.name)
    assert row.steps is not None and 0 <= run.work.steps - row.steps < 3  # whole epochs of three
