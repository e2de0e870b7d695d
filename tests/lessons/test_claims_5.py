"""The claims of lesson 5 for any seed, on fewer letters; and that what it shows as recorded is what BENCHMARKS.md says."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tlnb.core.training.run import Run
from tlnb.session import Session

FOLDER = Path(__file__).parents[2]
SEEDS = (0, 1, 2)
LETTERS = 10
RECORD = json.loads((FOLDER / "lessons" / "records" / "symbols.json").read_text("utf8"))


@pytest.fixture(scope="module")
def runs() -> dict[str, list[Run]]:
    """20 images of each of ten letters: the strategies by seed, everything with fewer epochs than in the lesson."""
    found: dict[str, list[Run]] = {}
    for seed in SEEDS:
        tl = Session()
        tl.data("symbols", classes=LETTERS, per_class=20, seed=seed)
        tl.load("glyphnet")
        for strategy, epochs in (("head", 20), ("partial", 8), ("full", 10), ("scratch", 6)):
            tl.strategy(strategy)
            found.setdefault(strategy, []).append(tl.train(epochs=epochs, seed=seed))
    return found


def mean(runs: list[Run]) -> float:
    return sum(run.accuracy for run in runs) / len(runs)


def test_deeper_is_better_than_a_new_output_layer_alone_with_twenty_images(
    runs: dict[str, list[Run]],
):
    assert mean(runs["partial"]) > mean(runs["head"])
    assert mean(runs["full"]) > mean(runs["head"])


def test_partial_is_about_as_good_as_full_for_fewer_flops(runs: dict[str, list[Run]]):
    assert abs(mean(runs["partial"]) - mean(runs["full"])) < 0.04
    for partial, full in zip(runs["partial"], runs["full"], strict=True):
        done = [run.training_flops / len(run.epochs) for run in (partial, full)]
        assert done[0] < done[1]


def test_from_scratch_is_far_behind_with_twenty_images(runs: dict[str, list[Run]]):
    for scratch, head in zip(runs["scratch"], runs["head"], strict=True):
        assert scratch.interval[1] < head.interval[0]


def test_training_everything_on_one_image_of_each_of_twenty_letters_does_no_harm():
    """On average: a draw moves either by three points. With five letters one of four draws lost 14 by it."""
    found: dict[str, list[Run]] = {}
    for seed in SEEDS:
        tl = Session()
        tl.data("symbols", per_class=1, seed=seed)
        tl.load("glyphnet")
        found.setdefault("head", []).append(tl.train(seed=seed))
        tl.strategy("full")
        found.setdefault("full", []).append(tl.train(epochs=20, seed=seed))
    assert mean(found["full"]) > mean(found["head"]) - 0.05


def test_the_record_is_what_the_benchmarks_say():
    table = (
        (FOLDER / "BENCHMARKS.md")
        .read_text("utf8")
        .partition("## Symbols")[2]
        .partition("\n## ")[0]
    )
    amounts = [
        int(n.replace(",", "")) for n in re.search(r"per class \|(.*)\|", table)[1].split("|")
    ]
    told = {}
    for strategy, row in re.findall(
        r"^\| (head|partial|full|scratch) \|(.*)\|$", table, re.MULTILINE
    ):
        told |= {
            (strategy, n): cell.strip() for n, cell in zip(amounts, row.split("|"), strict=True)
        }
    cells = {(c["strategy"], c["per_class"]): c for c in RECORD["cells"] if c["epochs"] is None}
    assert {
        at: f"{100 * c['accuracy']:.1f} ± {100 * c['sd']:.1f}" for at, c in cells.items()
    } == told
    for command in RECORD["command"][:1]:
        assert f"`{command}`" in table


def test_the_records_flops_are_those_of_a_run():
    tl = Session()
    tl.data("symbols", classes=RECORD["classes"], per_class=1)
    tl.load(RECORD["model"])
    cell = next(c for c in RECORD["cells"] if (c["strategy"], c["per_class"]) == ("head", 1))
    run = tl.train()
    assert (run.training_flops, run.work.steps) == (
        pytest.approx(cell["flops"], rel=0.01),
        cell["steps"],
    )
