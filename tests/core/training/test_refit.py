"""A refit: all labels in use teach, and the record says which pass is which."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from tests.conftest import picture
from tests.resuming import begun, own_home, same  # noqa: F401 - a fixture of every test here
from tlnb.core.evaluation.compare import to_target
from tlnb.core.runtime.errors import UsageError
from tlnb.core.storage.memory_map import is_mapped
from tlnb.core.training.refit import epochs_for_all, with_all_labels
from tlnb.core.training.run import EpochRecord, Run
from tlnb.core.training.train import train
from tlnb.session import Session
from tlnb.session.transcript import read_back

QUICK = {"epochs": 3, "augment": "none"}


def stop_in_refit(session: Session, epoch: int) -> None:
    def report(progress):
        if progress.phase == "refit" and progress.epoch == epoch:
            raise KeyboardInterrupt

    session.report = report


def test_the_network_is_the_one_that_all_labels_teach():
    session = begun(20, "head")
    run = session.train(**QUICK)
    assert session.dataset is not None and session.plan is not None
    assert run.refit is not None and run.refit.images == sum(session.dataset.counts.values()) == 200
    alone = train(
        session.state.sized(),
        session.layers(),
        with_all_labels(session.dataset),
        session.plan,
        replace(run.options, refit=False),
        name="all",
    )
    for a, b in zip(
        run.module().state_dict().values(), alone.module().state_dict().values(), strict=True
    ):
        assert torch.allclose(a, b, atol=1e-6)
    assert run.accuracy == alone.accuracy
    assert "once more on all 200 labels" in str(run.event("refit"))


@pytest.mark.parametrize("strategy", ["partial", "full"])
def test_deeper_strategies_refit_where_it_is_asked_for(strategy: str):
    session = begun(20, strategy)
    assert session.train(epochs=1).refit is None
    run = session.train(epochs=1, refit=True)
    assert run.refit is not None and set(run.moved) == set(session.strategy(strategy).trained)


@pytest.mark.parametrize("strategy", ["head", "full"])
def test_images_in_a_file_are_refitted_as_those_in_memory(strategy: str, tmp_path, monkeypatch):
    monkeypatch.setenv("TLNB_CACHE", str(tmp_path / "cache"))
    for split, count in (("train", 8), ("val", 4), ("test", 5)):
        for i in range(count):
            picture(tmp_path / "photos" / split / "bright" / f"{i}.png", 190 + i)
            picture(tmp_path / "photos" / split / "dark" / f"{i}.png", 40 + i)
    runs = []
    for memory, top in itertools.product(("1GB", "1kB"), ("photos", "photos/train")):
        monkeypatch.setenv("TLNB_MEMORY", memory)  # the folder brings its val, or it is held out
        session = Session()
        session.data(str(tmp_path / top), size=32, val=None if top == "photos" else 0.25)
        session.load("glyphnet")
        session.strategy(strategy)
        asked = None if strategy == "head" else True
        runs.append(session.train(epochs=2, batch_size=4, refit=asked))
        together = with_all_labels(session.dataset).images["train"]
        assert is_mapped(together) == (memory == "1kB")
    for held, mapped in zip(runs[:2], runs[2:], strict=True):
        assert held.refit.images == mapped.refit.images > held.options.batch_size
        assert held.refit.flops == mapped.refit.flops
        same(held, mapped)


def test_curves_and_the_best_epoch_are_those_of_the_first_pass_and_costs_those_of_both():
    once, twice = begun(20, "head").train(**QUICK, refit=False), begun(20, "head").train(**QUICK)
    assert once.refit is None and twice.refit is not None
    assert [(e.train_loss, e.val_accuracy, e.monitor_accuracy) for e in once.epochs] == [
        (e.train_loss, e.val_accuracy, e.monitor_accuracy) for e in twice.epochs
    ]
    assert once.best_epoch == twice.best_epoch
    assert twice.work.steps == once.work.steps + 3 * 4 and twice.work.images == 3 * (160 + 200)
    assert twice.flops_by_phase["training"] - once.flops_by_phase["training"] == pytest.approx(
        twice.refit.flops["training"]
    )
    apart = twice.training_seconds - twice.curve[-1].seconds
    both = sum(twice.refit.seconds[p] for p in ("caching", "warmup", "training"))
    assert both == pytest.approx(apart, rel=0.01) and both > 0
    target = once.curve[-1].accuracy
    assert to_target(twice, target).flops == pytest.approx(to_target(once, target).flops)


@pytest.mark.parametrize("strategy", ["head", "full"])
def test_an_interrupt_in_the_refit_keeps_the_first_pass_and_can_be_resumed(strategy: str):
    options = {"epochs": 3, "refit": True}
    whole, first = (begun(20, strategy).train(**options | more) for more in ({}, {"refit": False}))
    session = begun(20, strategy)
    stop_in_refit(session, 2)
    stopped = session.train(**options)
    assert stopped.status == "stopped" and stopped.refit is None and len(stopped.epochs) == 3
    assert "%tl_resume" in stopped.notes[-1]
    same(stopped, first)
    session.report = None
    resumed = session.resume()
    assert resumed.status == "finished" and resumed.refit is not None
    same(resumed, whole)
    assert resumed.work == whole.work
    for phase in ("warmup", "training"):
        assert resumed.flops_by_phase.get(phase) == pytest.approx(whole.flops_by_phase.get(phase))
        assert resumed.refit.flops.get(phase) == pytest.approx(whole.refit.flops.get(phase))


def test_a_later_kernel_goes_on_in_the_refit_without_training_again():
    whole = begun(20, "head").train(epochs=3)
    first = begun(20, "head")
    stop_in_refit(first, 2)
    first.train(epochs=3)
    first.store.close()
    later, told = Session(), []
    later.report = lambda progress: told.append((progress.phase, progress.epoch))
    same(later.resume(), whole)
    assert [each for each in told if each[0] in ("training", "refit")] == [("refit", 3)]


def test_a_checkpoint_of_a_refit_is_refused_by_a_training_without_one():
    session = begun(20, "head")
    stop_in_refit(session, 2)
    run = session.train(epochs=3)
    session.report, state = None, session.state
    job = state.jobs[run.name]
    other = replace(job, options=replace(job.options, refit=False))
    session.commit(replace(state, jobs={**state.jobs, run.name: other}))
    with pytest.raises(UsageError, match="is of a refit, which its training has not"):
        session.resume()


def test_the_baseline_gets_the_same_treatment():
    session = begun(20, "head")
    session.train(**QUICK)
    assert session.train(scratch=True, epochs=1).refit is not None
    assert session.train(scratch=True, epochs=1, refit=False).refit is None
    session.train(**QUICK, refit=False)
    steps = session.train(scratch=True)
    assert steps.refit is None
    session.train(**QUICK)
    both = session.train(scratch=True)
    assert both.refit is not None and both.work.steps <= 2 * session.runs[-2].work.steps


@pytest.mark.parametrize("strategy", ["head", "partial"])
def test_steps_and_flops_are_forecast(strategy: str):
    session = begun(20, strategy)
    found = session.forecast(epochs=2, refit=True)
    run = session.train(epochs=2, refit=True)
    assert found.steps == run.work.steps
    assert found.flops_by_phase == pytest.approx(run.flops_by_phase)


def test_what_a_refit_cannot_do_is_said_in_one_line_and_nothing_happens():
    session = begun(2, "head")
    for wrong, words in (
        ({"refit": True}, "no labels are held out, all 20 teach already"),
        ({"refit": "yes"}, "refit='yes' is not a yes or no"),
    ):
        with pytest.raises(UsageError, match=words) as caught:
            session.train(**wrong)
        assert "\n" not in str(caught.value) and not session.runs
    assert session.train(**QUICK).options.refit is False
    nothing = "no labels are held out, all 20 teach already"
    for strategy in ("head", "partial", "full", "output-frozen"):
        session.strategy(strategy)
        for call in (session.train, session.forecast, partial(session.train, scratch=True)):
            with pytest.raises(UsageError, match=nothing):
                call(refit=True)
    with pytest.raises(UsageError, match=nothing):
        session.save(job="job.json", refit=True)
    assert len(session.runs) == 1 and not Path("job.json").exists()
    held = begun(20, "head")
    held.train(**QUICK)
    with pytest.raises(UsageError, match="leave out --from or --refit"):
        held.train(**QUICK, from_="head", refit=True)
    again = held.train(**QUICK, from_="head")
    assert again.refit is None and again.event("val-seen") is not None


def test_records_say_it_and_older_ones_read_as_none():
    run = begun(20, "head").train(**QUICK)
    assert Run.from_json(run.to_json()).refit == run.refit
    older = json.loads(run.to_json())
    del older["refit"], older["options"]["refit"]
    read = Run.from_json(json.dumps(older))
    assert read.refit is None and read.options.refit is False


def test_a_loss_that_is_no_number_in_the_refit_leaves_the_first_pass(monkeypatch):
    from tlnb.core.training import trainer

    session = begun(20, "full")
    first = session.train(epochs=2, refit=False)
    known = trainer.Trainer._for_all

    def broken(self, resume):
        second = known(self, resume)
        weights = second.context.labels["train"].new_full((10,), float("nan"), dtype=torch.float32)
        second.context = replace(second.context, class_weights=weights)
        return second

    monkeypatch.setattr(trainer.Trainer, "_for_all", broken)
    run = session.train(epochs=2, refit=True)
    assert run.status == "failed" and run.refit is None and run.event("not-a-number") is not None
    same(run, first)


@pytest.mark.parametrize(
    ("values", "held_out", "epochs"),
    [
        ([0.5, 0.9, 0.9], 40, 3),
        ([0.5, 0.9, 0.875], 40, 3),  # one label apart: luck
        ([0.5, 0.9, 0.6], 40, 2),  # clearly worse
        ([1.0, 0.9], 10, 2),  # that all ten are right is no certainty
        ([0.9, 0.8, 0.8], 4000, 1),
    ],
)
def test_it_ends_where_more_was_clearly_worse(values: list[float], held_out: int, epochs: int):
    records = [
        EpochRecord(train_loss=1.0, val_accuracy=value, monitor_accuracy=None, seconds=0.1)
        for value in values
    ]
    assert epochs_for_all(records, held_out) == epochs


def test_every_door_knows_both_ways():
    session = begun(20, "head")
    session.train(epochs=1, refit=False)
    session.train(epochs=1, refit=True, name="again")
    lines = [line for line in session.script().splitlines() if "tl_train" in line]
    assert lines == ["%tl_train --epochs 1 --no-refit", "%tl_train --epochs 1 --name again --refit"]
    [both] = read_back(["%tl_train --refit --no-refit"], Session)
    assert both.startswith("# ")  # a journal's line that no magic would take


def test_rare_classes_count_among_all_labels():
    session = begun(20, "head")
    run = session.train(**QUICK, class_weights=True)
    assert run.refit is not None and run.status == "finished"
