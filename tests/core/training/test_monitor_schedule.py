"""When a run looks at `monitor`, and that everything which reads the looks copes with epochs between them."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlnb.core.evaluation.compare import compare
from tlnb.core.evaluation.savings import to_target
from tlnb.core.training.monitor_schedule import MIN_LOOKS, MONITOR_SHARE, looks
from tlnb.core.training.progress import Progress
from tlnb.core.training.run import EpochRecord, Run
from tlnb.display import charts, drawings, live
from tlnb.display.cards import HTML
from tlnb.display.words import span
from tlnb.session import Session

COST = st.floats(0, 1e15, allow_nan=False)


@given(st.integers(1, 3000), COST, COST)
def test_looks_are_few_enough_dense_at_first_and_never_closer_again(
    epochs: int, training: float, look: float
):
    found = looks(epochs, training, look)
    assert sorted(set(found)) == list(found) and {0, epochs - 1} <= set(found) <= set(range(epochs))
    steps = [b - a for a, b in pairwise(found)]
    assert steps == sorted(steps)
    assert len(found) * look <= MONITOR_SHARE * training or len(found) == min(MIN_LOOKS, epochs)
    if epochs <= MIN_LOOKS or epochs * look <= MONITOR_SHARE * training:
        assert len(found) == epochs
    else:
        assert (
            len(found) == epochs or (len(found) + 1) * look > MONITOR_SHARE * training
        )  # as many as are paid for


@given(st.integers(1, 300), st.integers(0, 300), COST)
def test_more_epochs_are_never_looked_at_less_often(epochs: int, more: int, look: float):
    assert len(looks(epochs, epochs, look)) <= len(looks(epochs + more, epochs + more, look))


@pytest.fixture(scope="module")
def trained() -> Session:
    """A run and its baseline, both long enough that some epochs lie between two looks."""
    session = Session()
    session.data("digits", per_class=2)
    session.load("glyphnet")
    session.train(epochs=30)
    session.train(epochs=20, scratch=True)
    return session


def test_a_run_looks_where_flops_say(trained: Session):
    for run in trained.runs:
        seen = [i for i, epoch in enumerate(run.epochs) if epoch.monitor_accuracy is not None]
        assert len(seen) == MIN_LOOKS and seen[0] == 0 and seen[-1] == len(run.epochs) - 1
        assert [point.epochs for point in run.curve] == [i + 1 for i in seen]
        assert run.watched == max(run.epochs[i].monitor_accuracy for i in seen)


def test_val_decides_and_is_looked_at_after_every_epoch(session: Session):
    session.data("digits", per_class=20)
    session.load("glyphnet")
    run = session.train(epochs=20)
    assert all(epoch.val_accuracy is not None for epoch in run.epochs)
    assert (
        {len(run.curve)} == {sum(e.monitor_accuracy is not None for e in run.epochs)} == {MIN_LOOKS}
    )
    values = [epoch.val_accuracy for epoch in run.epochs]
    assert run.best_epoch == max(range(20), key=lambda epoch: (values[epoch], epoch))


def test_flops_of_evaluating_are_those_of_the_looks(trained: Session):
    run = next(
        run for run in trained.runs if run.baseline_of
    )  # nothing is cached: every look is a whole pass
    looked = MIN_LOOKS * trained.dataset.splits["monitor"] + trained.dataset.splits["test"]
    assert run.flops_by_phase["evaluating"] == pytest.approx(looked * run.inference_flops)


def test_a_resumed_run_looks_where_it_would_have(trained: Session):
    session = Session()
    session.data("digits", per_class=2)
    session.load("glyphnet")

    def stop(progress: Progress) -> None:
        if progress.phase == "training" and progress.epoch == 17:
            raise KeyboardInterrupt

    session.report = stop
    assert session.train(epochs=30).status == "stopped"
    session.report = None
    whole, resumed = trained.runs[0], session.resume()
    assert [e.monitor_accuracy for e in resumed.epochs] == [
        e.monitor_accuracy for e in whole.epochs
    ]
    assert resumed.training_flops == pytest.approx(whole.training_flops)


# ── what reads the looks ──────────────────────────────────────────────────────────────────────────────────────────


def run_with(run: Run, monitor: list[float | None]) -> Run:
    """The run with a second for each epoch, and these looks."""
    epochs = tuple(
        EpochRecord(train_loss=1.0, val_accuracy=0.99, monitor_accuracy=seen, seconds=1.0)
        for seen in monitor
    )
    seconds = {
        "preparing": 1.0,
        "caching": 0.0,
        "warmup": 0.0,
        "training": float(len(epochs)),
        "evaluating": 5.0,
    }
    return replace(
        run, epochs=epochs, seconds=seconds, flops_by_phase={"training": 10.0 * len(epochs)}
    )


def test_a_target_between_two_looks_says_so(trained: Session):
    run = run_with(trained.runs[0], [0.1, 0.2, None, None, 0.6, None, 0.7])
    assert (
        run.watched == 0.7 and run.seconds_to(0.5) == 6.0 and run.seconds_to(0.8) is None
    )  # val is not mixed in
    between, at_once, first = (to_target(run, target) for target in (0.5, 0.15, 0.05))
    assert (between.since, between.seconds, between.flops) == (3.0, 6.0, 50.0)
    assert (at_once.since, at_once.seconds) == (None, 3.0) and (first.since, first.seconds) == (
        None,
        2.0,
    )


def test_a_comparison_shows_both_looks_and_explains_them(trained: Session):
    run = run_with(trained.runs[0], [0.1, None, None, 0.6])
    baseline = run_with(trained.runs[1], [0.1, 0.2, 0.3, 0.6])
    found = compare([run, baseline], trained.dataset, target=0.5)
    assert [row.to_target.since for row in found.rows[:2]] == [2.0, None]
    card = HTML[type(found)](found)
    assert "2.0 s–5.0 s" in card and "Monitor is evaluated after some epochs only" in card
    every = compare([baseline], trained.dataset, target=0.5)
    assert "is evaluated after some epochs only" not in HTML[type(every)](every)


def test_seeds_together_lie_between_the_means_of_their_looks(trained: Session):
    first = replace(run_with(trained.runs[0], [0.1, None, 0.6]), group="head")
    second = replace(run_with(trained.runs[0], [0.1, 0.6, 0.7]), name="head-seed1", group="head")
    row = compare([first, second], trained.dataset, target=0.5).rows[0]
    assert (
        row.seeds == 2
        and row.to_target.since == (2.0 + 3.0) / 2
        and row.seconds_to_target == (4.0 + 3.0) / 2
    )


def test_records_with_every_epoch_looked_at_are_read_as_before(trained: Session):
    values = json.loads(trained.runs[0].to_json())
    for number, epoch in enumerate(values["epochs"]):
        epoch["monitor_accuracy"] = number / 100
    run = Run.from_json(json.dumps(values))
    assert run.watched == 0.29 and len(run.curve) == 30 and to_target(run, 0.1).since is None
    assert Run.from_json(trained.runs[0].to_json()).curve == trained.runs[0].curve


def test_charts_and_live_curves_draw_a_line_between_looks(trained: Session):
    assert charts.learning(trained.runs[0]).startswith(b"\x89PNG")
    history = [
        Progress(
            run="head",
            phase="training",
            epoch=n,
            epochs=9,
            loss=1.0,
            accuracy={1: 0.2, 5: 0.4, 9: 0.8}.get(n),
        )
        for n in range(1, 10)
    ]
    assert str(drawings.curves(history)).count("accuracy: 80.0%") == 1
    shown = live.Notebook()
    shown._curve = [(1, 0.0), (2, 0.5), (5, 1.0)]
    assert (
        f'points="0.0,{live.HEIGHT}.0 45.0,18.0 180.0,0.0"' in shown._svg()
    )  # by epoch, not by number
    assert "accuracy 100.0%" in shown._html(history[2])  # the last look's, in an epoch without one
    last = Progress(run="head", phase="evaluating", epoch=9, epochs=9)
    assert "accuracy" not in shown._html(last).split("<svg")[0]


@pytest.mark.parametrize(
    ("low", "high", "text"),
    [(None, 0.35, "0.35 s"), (0.21, 0.35, "0.21 s–0.35 s"), (0.081, 0.084, "0.08 s")],
)
def test_a_moment_between_two_looks_is_two_times_where_they_read_differently(
    low: float | None, high: float, text: str
):
    assert span(low, high) == text
