"""Cards: one thing first, the rest folded; charts for light and dark pages."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conftest import picture
from tlnb.core.training.events import event
from tlnb.core.training.run import EpochRecord, Run
from tlnb.display import charts
from tlnb.display.cards import HTML
from tlnb.session import Session


def card(value: object) -> str:
    return HTML[type(value)](value)


def shown(html: str) -> str:
    """What is seen of a card before anything is clicked."""
    return re.sub(r"(?s)<details.*?</details>", "", html)


def columns(html: str) -> list[str]:
    """The heads of a card's first table with a head."""
    found = re.search(r"(?s)<thead>(.*?)</thead>", html)
    assert found is not None
    return re.findall(r"<th[^>]*>(.*?)</th>", found[1])


def test_a_runs_card_shows_its_accuracy_large_what_changed_and_few_facts(compared: Session):
    run = compared.runs[0]
    first = shown(card(run))
    assert re.search(rf"font-size:1\.9em[^>]*><b>{run.accuracy:.1%}</b>", first)
    assert "only the output layer ✓ (1,610 of 559,874 parameters train)" in first
    assert first.count("<tr>") <= 6 and first.count("<img") == 1
    folded = card(run).replace(first, "")
    for words in ("what really moved", "energy", "weight decay", "on its own source"):
        assert words not in first and words in folded


def test_a_runs_title_names_nothing_twice(small: Session):
    named, plain = small.train(epochs=1, name="mine"), small.train(epochs=1)
    assert "<b>Run mine (head) on digits</b>" in card(named)
    assert "<b>Run head on digits</b>" in card(plain)
    assert "<b>Run head on digits: stopped</b>" in card(replace(plain, status="stopped"))


@pytest.mark.parametrize(
    ("strategy", "words"),
    [
        ("full", "every layer ✓"),
        ("partial", "layers, no frozen one ✓"),
        ("head", "only the output"),
    ],
)
def test_what_changed_is_said_in_words(small: Session, strategy: str, words: str):
    small.strategy(strategy)
    assert words in shown(card(small.train(epochs=1)))


def test_a_frozen_layer_that_moved_is_said_first(compared: Session):
    run = compared.runs[0]
    moved = replace(run.changes[0], frozen=True, moved=True)
    broken = replace(run, changes=(moved, *run.changes[1:]), status="failed")
    assert f"✗ frozen layers too: {moved.name}" in shown(card(broken))


def test_a_comparison_leads_with_work_in_five_columns(compared: Session):
    found = compared.compare()
    first = shown(card(found))
    until = f"{found.target:.1%}"
    assert columns(first) == [
        "",
        "test accuracy",
        f"work to {until}",
        f"time to {until}",
        "money, usd",
        "parameters trained",
    ]
    assert first.index("less work") < first.index("<img") < first.index("<table")
    assert first.count("<img") == 1 and "paid for itself after" in first
    folded = card(found).replace(first, "")
    assert "energy, Wh" in folded and "by phase" in folded and "FLOPs saved" in folded


def test_where_classes_differ_in_size_balanced_accuracy_is_among_the_columns(compared: Session):
    found = compared.compare()
    heads = columns(card(replace(found, skewed=True)))
    assert len(heads) == 6 and heads[2] == "balanced"


@pytest.mark.parametrize("kind", ["run", "bill", "comparison", "model"])
def test_whose_price_it_is_stands_on_the_bill_once(compared: Session, kind: str):
    made = {
        "run": compared.runs[0],
        "bill": replace(compared.bill, unpaid=None),
        "comparison": compared.compare(),
        "model": compared.model,
    }
    html = card(made[kind])
    assert html.count("list price of") == (kind == "bill")
    assert "as above" not in html and "each of 1" not in html


def test_every_layer_says_at_once_whether_it_trains(small: Session):
    for every in (False, True):
        html = card(small.layers(every=every))
        assert columns(html)[1] == "in training"
        rows = re.findall(r"<tr><td[^>]*>.*?</td><td[^>]*>(.*?)</td>", html)
        assert set(rows) == {"frozen", "trains"}


# ── where splits come from ────────────────────────────────────────────────────────────────────────


def photos(top: Path, *splits: str) -> Path:
    """Two classes of photos in each of these folders."""
    for split in splits:
        for tone in range(6):
            picture(top / split / "bright" / f"{tone}.png", 190 + tone)
            picture(top / split / "dark" / f"{tone}.png", 40 + tone)
    return top


@pytest.mark.parametrize(
    ("splits", "words"),
    [
        (("train", "val"), ("train teaches (your train/)", "your val/ is kept as the test")),
        (("train", "val", "test"), ("best epoch (your val/)", "only reported (your test/)")),
        (("",), ("teaches (the labels in use)", "only reported (20% of all images, drawn here)")),
    ],
)
def test_the_data_card_says_what_each_split_is_and_where_it_is_from(
    session: Session, tmp_path: Path, splits: tuple[str, ...], words: tuple[str, ...]
):
    html = card(session.data(photos(tmp_path / "photos", *splits)))
    for each in words:
        assert each in html


def test_val_is_said_to_be_drawn_from_the_labels_in_use(session: Session):
    html = card(session.data("digits", per_class=20, val=0.25))
    assert "val chooses, as the best epoch (25% of the labels in use, drawn here)" in html
    assert "test is only reported (it came with the data)" in html


# ── charts ────────────────────────────────────────────────────────────────────────────────────────


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGBA"))


def charts_of(tl: Session) -> dict[str, bytes]:
    found = tl.compare()
    return {
        "learning": charts.learning(tl.runs[0]),
        "comparison": charts.comparison(found),
        "break_even": charts.break_even(found.break_even),
        "samples": charts.samples(tl.dataset),
    }


@pytest.mark.parametrize("name", ["learning", "comparison", "break_even", "samples"])
def test_a_charts_ground_is_the_pages_and_its_text_reads_on_light_and_dark(
    compared: Session, name: str
):
    found = pixels(charts_of(compared)[name])
    assert (found[0, :, 3] == 0).all() and (found[:, 0, 3] == 0).all()
    if name == "samples":
        return
    grey = found[..., :3].astype(int)
    solid = (found[..., 3] > 200) & (np.ptp(grey, axis=-1) < 12)
    assert not (solid & (grey.max(-1) < 60)).any()  # nothing black, which a dark page hides


def learned(run: Run, *epochs: tuple[float, float | None]) -> Run:
    """The run with these losses and training accuracies, and nothing held out."""
    none = {"val_accuracy": None, "monitor_accuracy": None, "seconds": 0.1}
    made = [EpochRecord(train_loss=loss, train_accuracy=a, **none) for loss, a in epochs]
    return replace(run, epochs=tuple(made))


def test_a_run_that_held_nothing_out_draws_its_training_accuracy_and_says_so(session: Session):
    images = np.random.default_rng(0).integers(0, 255, (40, 8, 8), dtype=np.uint8)
    session.data(images, np.arange(40) % 2)
    session.load("glyphnet")
    run = session.train(epochs=3)
    assert run.curve == () and all(0 <= e.train_accuracy <= 1 for e in run.epochs)
    assert "training accuracy, counted before each step" in shown(card(run))
    drawn = Image.open(io.BytesIO(charts.learning(run)))
    old = learned(run, *((e.train_loss, None) for e in run.epochs))  # an older version's record
    assert drawn.width > Image.open(io.BytesIO(charts.learning(old))).width
    assert "training accuracy" not in shown(card(old))


@pytest.mark.parametrize(
    ("epochs", "words"),
    [
        ([(2.3, 0.1), (float("nan"), 0.1)], "the training diverged: its loss is not a number"),
        ([(1.9, 0.4), (4.5, 0.3)], "the training diverged: its loss rose from 1.90 to 4.50"),
        ([(2.3, 0.1), (2.3, 0.1)], "nothing was learned: 10.0% of the training images right"),
        ([(2.3, 0.1), (1.2, 0.8)], "little was learned: the training loss is still 1.20"),
    ],
)
def test_what_is_wrong_with_a_run_is_said_first(compared: Session, epochs, words: str):
    run = replace(compared.runs[0], accuracy=0.85)
    first = shown(card(learned(run, *epochs)))
    assert first.index(f"✗ {words}") < first.index("font-size:1.9em") and "✓" not in first
    assert "✗" not in shown(card(learned(run, (1.0, 0.8), (0.2, 1.0), (0.25, 0.99))))


def test_a_run_that_is_short_or_was_stopped_or_accurate_is_not_called_wrong(compared: Session):
    run = replace(compared.runs[0], accuracy=0.85)
    first, later = (2.3, 0.1), (1.9, 0.6)  # counted before each step
    assert "✗" not in shown(card(learned(run, first)))
    assert "✗ little was learned" in shown(card(learned(run, first, later)))
    for other in (replace(run, status="stopped"), replace(run, accuracy=0.95)):
        assert "✗" not in shown(card(learned(other, first, later)))


def test_only_a_loss_that_is_not_a_number_is_called_so(compared: Session):
    run = replace(compared.runs[0], status="failed")
    assert "diverged" not in shown(card(run))
    lost = replace(run, events=(event("not-a-number", epoch=1, kept="", advice=""),))
    assert "✗ the training diverged: its loss is not a number" in shown(card(lost))


def test_an_accuracy_that_guessing_may_reach_is_said_first(compared: Session):
    lucky = replace(compared.runs[0], accuracy=0.15, interval=(0.09, 0.22))
    assert "✗ not told apart from guessing, which gets 10.0% right" in shown(card(lucky))


def test_accuracies_in_the_catalogue_stand_beside_their_number_of_classes(session: Session):
    found = card(session.models("glyphnet*"))
    assert "81.4% of 1,408<" in found and "96.9% of 40<" in found


def test_a_run_without_any_accuracy_has_no_empty_half(compared: Session):
    run = compared.runs[0]
    none = dict.fromkeys(("monitor_accuracy", "val_accuracy", "train_accuracy"))
    unseen = tuple(replace(e, **none) for e in run.epochs)
    whole, half = (pixels(charts.learning(r)) for r in (run, replace(run, epochs=unseen)))
    assert half.shape[1] < 0.6 * whole.shape[1]
    right = half[:, half.shape[1] // 2 :, 3]
    assert (right > 100).any(0).mean() > 0.5  # the curve goes on to the right edge


def test_a_card_of_an_earlier_record_still_shows(compared: Session):
    old = replace(Run.from_json(compared.runs[0].to_json()), found_flops={}, changes=())
    assert "Proof" not in card(old) and f"{old.accuracy:.1%}" in card(old)
