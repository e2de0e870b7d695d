"""Tuning: what it chooses by, what it costs, what it leaves."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tlnb.core.runtime.errors import UsageError
from tlnb.core.tuning.tune import Trial, Tuning, to_choose_by
from tlnb.display.cards import HTML
from tlnb.session import Session

pytest.importorskip("optuna")


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TLNB_HOME", str(tmp_path / "home"))


def test_trials_never_see_the_test_images_nor_those_of_the_curves(session: Session):
    for per_class in (2, 20):
        data = session.data("digits", per_class=per_class)
        parts, judged_by = to_choose_by(data)
        assert ("cross-validation" in judged_by) == (per_class == 2)
        used = (
            torch.cat([data.images[s] for s in ("train", "val") if s in data.splits])
            .flatten(1)
            .tolist()
        )
        known = {tuple(row) for row in used}
        for part in parts:
            assert all(
                tuple(row) in known
                for images in part.images.values()
                for row in images.flatten(1).tolist()
            )
            held = {tuple(row) for row in part.images["test"].flatten(1).tolist()}
            assert not any(tuple(row) in held for row in part.images["train"].flatten(1).tolist())


def test_the_best_values_go_into_the_plan_and_undo_takes_them_back(small: Session):
    before = small.plan
    found = small.tune(trials=3, epochs=3)
    assert len(found.trials) == 3 and found.best is not None
    first = found.trials[0]
    assert (
        first.values["lr"] == pytest.approx(0.01) and found.best.accuracy >= first.accuracy
    )  # the recipe comes first
    assert (
        small.plan.options.lr == pytest.approx(found.best.values["lr"])
        and small.plan.tuned == found.name
    )
    run = small.train(epochs=2)
    assert run.options.lr == pytest.approx(found.best.values["lr"]) and small.runs == [
        run
    ]  # trials are no runs
    stages = small.layers().stages_of(small.plan.trained)
    assert len(stages) == found.best.values["last"]
    assert small.undo() == before


def test_tuning_is_charged_and_compared_apart_or_in(small: Session):
    found = small.tune(trials=2, epochs=2)
    charge = small.bill.charges[-1]
    assert (charge.kind, charge.run) == ("tuning", found.name)
    assert charge.seconds == pytest.approx(found.seconds) and charge.flops == pytest.approx(
        sum(t.flops for t in found.trials)
    )
    run = small.train(epochs=2)
    apart, within = small.compare(), small.compare(tuning="in")
    row = next(r for r in apart.rows if r.kind == "tuning")
    assert row.seconds == pytest.approx(charge.seconds)
    assert within.rows[0].seconds == pytest.approx(run.training_seconds + charge.seconds)
    assert not any(r.kind == "tuning" for r in within.rows)
    with pytest.raises(UsageError, match="--tuning never"):
        small.compare(tuning="never")


def test_tuning_counted_in_moves_the_speed_up_and_the_break_even(small: Session):
    mine = small.tune(trials=1, epochs=1)
    small.train(epochs=2)
    theirs = small.tune(scratch=True, trials=1, epochs=1)
    small.train(scratch=True, epochs=4)
    charged = small.bill.of("tuning", {mine.name, theirs.name})
    apart, within = small.compare(tuning="apart"), small.compare(tuning="in")
    assert apart.break_even and within.break_even
    for found, figure in (("break_even", "flops"), ("break_even_paid", "seconds")):
        one, both = getattr(apart, found), getattr(within, found)
        mines, others = (getattr(charged[name], figure) for name in (mine.name, theirs.name))
        assert both.run == pytest.approx(one.run + mines)
        assert both.baseline == pytest.approx(one.baseline + others)
    by = {row.name: row for row in within.rows}
    rows = by["scratch"], by["head"]
    seconds = [row.seconds_to_target or row.seconds for row in rows]
    work = [row.to_target.flops or row.flops for row in rows]
    assert within.speedup == pytest.approx(seconds[0] / seconds[1])
    assert within.less_work == pytest.approx(work[0] / work[1])
    assert any("cost of tuning is included" in note for note in within.notes)
    dear = small.compare(price="36eur/h")
    paid = [row.money for row in dear.rows if row.kind == "tuning"]
    assert paid == pytest.approx([0.01 * charge.seconds for charge in charged.values()])


def test_the_card_says_where_trials_are_kept_and_no_more_than_others_may_read(small: Session):
    found = small.tune(trials=1, epochs=1)
    text = HTML[Tuning](found)
    assert (
        f"…/studies/{Path(found.storage).name}" in text
        and str(Path(found.storage).parent) not in text
    )
    shared = HTML[Tuning](replace(found, storage="postgresql://ada:secret@host/db"))
    assert "postgresql://…@host/db" in shared and "secret" not in shared


def test_trials_pay_for_no_more_than_what_they_are_judged_by(small: Session):
    """A training of all layers for one epoch, twice: what it shows the network, and nothing of the network's own source."""
    small.strategy("full")
    found = small.tune(trials=1, epochs=1)
    shown = 2 * 10 * small.train(epochs=1).work.full_step
    assert (
        found.flops < 3 * shown
    )  # the source's held-out pictures alone would be five times as much
    assert small.runs[-1].source_accuracy is not None


def test_a_study_goes_on_and_several_processes_share_it(small: Session, tmp_path: Path):
    place = f"sqlite:///{tmp_path / 'tuning.db'}"
    small.tune(trials=2, epochs=2, storage=place)
    code = f"""
from tlnb import tl
tl.data("digits", per_class=2); tl.load("glyphnet")
print(len(tl.tune(trials=2, epochs=2, storage={place!r}).trials))
"""
    env = {**os.environ, "TLNB_HOME": str(tmp_path / "other")}
    other = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=300
    )
    assert other.stdout.strip() == "4", other.stderr[-2000:]
    journal = str(tmp_path / "journal.log")
    assert len(small.tune(trials=1, epochs=2, storage=journal).trials) == 1
    assert len(small.tune(trials=1, epochs=2, storage=journal).trials) == 2


def test_the_baselines_recipe_is_searched_and_used(small: Session):
    with pytest.raises(UsageError, match="a baseline needs a run"):
        small.tune(scratch=True)
    small.train(epochs=2)
    frozen = small.plan.frozen
    found = small.tune(trials=2, epochs=2, scratch=True)
    assert found.strategy == "scratch" and small.plan.frozen == frozen
    assert (
        found.best is not None
        and small.plan.baseline_options.batch_size == found.best.values["batch_size"]
    )
    run = small.train(scratch=True, epochs=2)
    assert run.options.lr == pytest.approx(found.best.values["lr"]) and run.plan.tuned == found.name


def test_an_interrupt_keeps_what_was_tried(small: Session):
    count = 0

    def stop(progress: object) -> None:
        nonlocal count
        count += 1
        if count == 3:
            raise KeyboardInterrupt

    small.report = stop  # called before each trial
    found = small.tune(trials=5, epochs=2)
    assert (found.status, len(found.trials)) == ("stopped", 2) and small.plan.tuned == found.name
    assert small.bill.charges[-1].flops == pytest.approx(sum(t.flops for t in found.trials))
    small.report = None
    assert len(small.tune(trials=1, epochs=2).trials) == 3


def test_an_interrupt_within_a_trial_ends_it(small: Session, monkeypatch: pytest.MonkeyPatch):
    from tlnb.core.training import epoch as adamw_epoch

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    small.tune(trials=1, epochs=2)
    plan = small.plan
    monkeypatch.setattr(adamw_epoch, "train_epoch", stop)
    found = small.tune(trials=2, epochs=2)
    assert found.status == "stopped" and [t.status for t in found.trials] == ["finished", "stopped"]
    assert small.plan == plan


def test_a_budget_begins_no_trial_that_would_exceed_it(small: Session):
    found = small.tune(trials=50, epochs=2, budget="0.2s")
    assert 1 <= len(found.trials) < 50


def test_one_label_a_class_leaves_nothing_to_choose_by(session: Session):
    session.data("digits", per_class=1)
    session.load("glyphnet")
    with pytest.raises(UsageError, match="none can be held out"):
        session.tune(trials=1)
    assert session.bill.charges == () and session.plan.tuned == ""


@pytest.mark.parametrize(
    "storage", ["sqlite:////nowhere/at/all.db", "postgresql://nobody@localhost/x"]
)
def test_storage_that_cannot_be_used_gets_one_line(small: Session, storage: str):
    with pytest.raises(UsageError, match=r"--storage .* cannot be used"):
        small.tune(trials=1, storage=storage)


def tuned(*trials: tuple[float | None, str]) -> Tuning:
    found = tuple(
        Trial(number=i, values={"lr": 0.1}, accuracy=a, status=s, seconds=2.0, flops=1.0, wh=0.0)
        for i, (a, s) in enumerate(trials)
    )
    return Tuning(
        name="t",
        strategy="head",
        data="digits",
        judged_by="val",
        trials=found,
        plan=None,
        seconds=1.0,
        flops=1.0,
        wh=0.0,
        storage="",
    )  # type: ignore[arg-type]


def test_how_soon_it_came_close_counts_every_trial_before():
    found = tuned((0.5, "finished"), (0.3, "pruned"), (0.895, "finished"), (0.9, "finished"))
    assert found.until_close() == (3, 6.0) and found.until_close(0.001) == (4, 8.0)
    assert tuned((0.3, "pruned")).until_close() is None and tuned((None, "stopped")).best is None


def test_the_card_names_the_best_and_every_trial(small: Session):
    found = small.tune(trials=2, epochs=2)
    card = HTML[Tuning](found)
    for words in (
        "within a point of it",
        "stages that train",
        "test images are not used to choose",
        "<img",
    ):
        assert words in card
