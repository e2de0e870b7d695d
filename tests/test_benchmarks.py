"""The benchmarks' tables and generated photos. The peers themselves: `python -m benchmarks --quick`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks import accuracy
from benchmarks.accuracy_peers import accuracies
from benchmarks.laps import Laps, Outcome
from benchmarks.measure import Result
from benchmarks.recipes import draw
from benchmarks.scaling import Network, comm_seconds, efficiency, on_paper
from benchmarks.table import overhead_table, runs_table, spread, steps_table
from benchmarks.work import PHOTO_SIZE, Job, draw_photos
from tlnb.session import Session

JOB = Job(
    "tutorial", "tutorial", "head", "resnet18", "", "none", 2, 16, "recipe", None, "cpu", 1, 0
)
PEER = Outcome(1.0, (10.0, 12.0), {"training": 4.0}, 100, 0.9)
OURS = Outcome(5.0, (0.1,) * 5, {"training": 2.0}, 100, 0.925, again=0.5)


def result(name: str, outcome: Outcome | None, **job: object) -> Result:
    return Result(
        replace(JOB, peer=name, label=name, **job),
        outcome,
        "" if outcome else "not installed (keras)",
        flops=1e9,
    )


def cells(table: str, row: str) -> list[str]:
    return next(
        [c.strip() for c in line.split("|")[2:-1]]
        for line in table.splitlines()
        if line.startswith(f"| {row} |")
    )


def test_whole_runs_are_extrapolated_unless_measured():
    found = [result("tutorial", PEER), result("keras", None), result("tlnb", OURS, epochs=5)]
    table = runs_table(found, [5], {})
    assert cells(table, "tutorial") == ["56", "×1", "90.0% after 2", "extrapolated from 2 epochs"]
    assert cells(table, "keras")[0] == "not installed (keras)"
    assert cells(table, "tlnb") == ["5.5", "×10.2", "92.5% after 5", "in full"]
    assert cells(table, "tlnb again") == ["0.5", "×112", "the same", "in full"]


def test_steps_say_what_share_of_the_peak_they_reach():
    found = [result("tutorial", PEER), result("raw", PEER), result("tlnb", OURS)]
    table = steps_table(found, [5], {"fp32": 100.0})
    assert cells(table, "tutorial")[:4] == ["40", "×1", "25.0", "25%"]
    assert cells(table, "tlnb")[:4] == ["20", "×2", "50.0", "50%"]
    assert overhead_table(found, [5], {}).endswith("tlnb takes -50.0% of the raw loop's time.")


def test_gpus_get_a_table_of_their_own():
    table = runs_table([result("raw", PEER, device="cuda")], [2], {})
    assert cells(table.partition("\n\n")[2], "raw") == ["25", "training 4.00", "0.00"]


@pytest.mark.parametrize(
    "values, text", [([], "–"), ([2.0], "2"), ([3.0, 1.0, 2.5], "2.5 (1–3)"), ([123.4], "123")]
)
def test_spread(values: list[float], text: str):
    assert spread(values) == text


def test_laps_sum_to_the_whole():
    laps = Laps("cpu", 1)
    laps.start()
    laps.lap("loading")
    laps.epoch_starts()
    laps.lap("training", images=3)
    laps.epoch_ends()
    outcome = laps.outcome(1.0)
    assert (
        set(outcome.parts) == {"loading", "training"}
        and outcome.images == 3
        and len(outcome.epochs) == 1
    )
    assert outcome.seconds(1) >= sum(outcome.parts.values())


def test_on_a_gpu_the_last_epoch_is_taken_apart_and_does_not_count(monkeypatch: pytest.MonkeyPatch):
    for name in ("synchronize", "reset_peak_memory_stats"):
        monkeypatch.setattr(f"torch.cuda.{name}", lambda: None)
    laps = Laps("cuda", 3)
    laps.start()
    for _ in range(3):
        laps.epoch_starts()
        laps.lap("training", images=4)
        laps.epoch_ends()
    outcome = laps.outcome(1.0)
    assert len(outcome.epochs) == 2 and outcome.images == 4


def test_peers_are_compared_by_accuracy_and_by_both_clocks():
    found = [result("fastai", replace(PEER, accuracy=a, processor=9.0)) for a in (0.8, 0.9)]
    table = accuracies([*found, result("keras", None)])
    assert cells(table, "fastai") == ["85.0 ± 7.1", "23 (23–23)", "9 (9–9)"]
    assert cells(table, "keras")[0] == "not installed (keras)"


@pytest.mark.parametrize(("labels", "held"), [(5, 0), (20, 4)])
def test_recipes_are_judged_on_labels_that_no_run_was_given(labels: int, held: int):
    images = np.arange(120, dtype=np.uint8)[:, None, None].repeat(32, 1).repeat(32, 2)
    data = Session().data(images, [row % 2 for row in range(120)], val=0)
    first, again, other = (draw(data, labels, 8, seed) for seed in (0, 0, 1))
    sizes = {"train": 2 * (labels - held), "val": 2 * held, "test": 16}
    assert first.splits == {split: size for split, size in sizes.items() if size}
    rows = [int(image[0, 0, 0]) for part in first.images.values() for image in part]
    assert len(rows) == len(set(rows)) and not set(rows) & set(
        data.images["test"][:, 0, 0, 0].tolist()
    )
    assert first.fingerprint == again.fingerprint != other.fingerprint


def test_generated_photos_are_photos_and_the_same_each_time(tmp_path: Path):
    first, second = (draw_photos(tmp_path / name, 2) for name in ("a", "b"))
    files = sorted(p.relative_to(first) for p in first.rglob("*.jpg"))
    assert [str(p.parent) for p in files].count(str(Path("train", "fine"))) == 2 and len(files) == 6
    assert all((first / p).read_bytes() == (second / p).read_bytes() for p in files)
    with Image.open(first / files[0]) as photo:
        assert photo.size == PHOTO_SIZE


def test_predicted_efficiency_falls_with_devices_and_messages_and_hidden_ones_cost_nothing():
    network = Network("some", 1e9, 0.0)
    assert comm_seconds(1e9, 2, network) == pytest.approx(1.0)  # half to the other, half back
    assert efficiency(1.0, 1e9, 2, network, overlap=0.0) == pytest.approx(0.5)
    assert efficiency(1.0, 1e9, 2, network, overlap=1.0) == 1.0
    found = [efficiency(1.0, 1e9, n, Network("slow", 1e9, 1e-3), normalised=20) for n in (2, 8, 64)]
    assert found == sorted(found, reverse=True) and 0 < found[-1] < found[0] < 1
    assert all(row.count("|") == 8 for row in on_paper())


def test_accuracies_are_recorded_with_what_they_took(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    file = tmp_path / "digits.json"
    typed = "digits --per-class 1 --strategies head --seeds 2 --epochs 1 --threads 1"
    monkeypatch.setattr("sys.argv", ["accuracy", *typed.split(), "--record", str(file)])
    accuracy.main()
    found = json.loads(file.read_text("utf8"))
    assert (
        found["command"] == [f"python -m benchmarks.accuracy {typed}"] and found["data"] == "digits"
    )
    (cell,) = found["cells"]
    assert (cell["strategy"], cell["per_class"], cell["epochs"], cell["seeds"], cell["steps"]) == (
        "head",
        1,
        1,
        2,
        1,
    )
    assert (
        1.6e8 < cell["flops"] < 1.8e9
    )  # ten images through the network at least once, ten times at most
    mean, sd = 100 * cell["accuracy"], 100 * cell["sd"]
    assert f"| head | {mean:.1f} ± {sd:.1f} |" in capsys.readouterr().out


def test_photos_that_are_not_there_are_a_line(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("TLNB_REAL_DATA", raising=False)
    monkeypatch.setattr("sys.argv", ["accuracy", "ants_bees", "--per-class", "all"])
    with pytest.raises(SystemExit, match="TLNB_REAL_DATA"):
        accuracy.main()
