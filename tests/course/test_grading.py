"""Hand-ins: honest ones pass, altered ones are found, malformed ones are a line, and none runs code of its own."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from tlnb.cli import main
from tlnb.core.runtime.errors import UsageError
from tlnb.course.checks import EXERCISES
from tlnb.course.grading import grade_all, missing_most, report, write_csv
from tlnb.course.hand_in import HandIn, checksum, read_hand_in
from tlnb.course.retraining import retrain
from tlnb.session import Session


@pytest.fixture
def handed(small: Session, tmp_path: Path) -> Path:
    """What a learner hands in who has trained twice and tried two exercises."""
    small.train(epochs=1)
    small.train(epochs=1, seed=3)
    small.check("1.1")
    small.check("1.2")
    file = tmp_path / "class" / "ada.json"
    file.parent.mkdir()
    small.check(export=file, learner="Ada Lovelace <ada@example.org>")
    return file


def rewritten(file: Path, change: Callable[[dict[str, Any]], None], sealed: bool) -> None:
    """Change a hand-in's values; if sealed, give it the checksum that fits."""
    values = json.loads(file.read_text("utf8"))
    change(values)
    if sealed:
        values["checksum"] = checksum(values)
    file.write_text(json.dumps(values), "utf8")


def with_runs(file: Path, /, **changes: Callable[[dict[str, Any]], None]) -> None:
    """Give a hand-in a copy of its first run for each change, and a checksum that fits."""

    def change(values: dict[str, Any]) -> None:
        first = json.dumps(values["runs"][0])
        values["runs"] = [json.loads(first) | {"name": name} for name in changes]
        for run, alter in zip(values["runs"], changes.values(), strict=True):
            alter(run)

    rewritten(file, change, sealed=True)


def test_an_honest_hand_in_is_trained_again_with_the_same_result(handed: Path):
    (graded,) = grade_all(handed.parent, "100%")
    assert graded.problems == () and graded.unverified == () and graded.verified == 2
    assert graded.learner == "Ada Lovelace" and graded.fulfils([])
    assert "2 runs trained again: the same result" in report([graded])


def test_figures_that_were_changed_with_their_checksum_are_found(handed: Path):
    def elsewhere(run: dict[str, Any]) -> None:
        run["stack"]["hardware"] = "another machine"

    def flatter(run: dict[str, Any]) -> None:
        elsewhere(run)
        run["accuracy"] = 0.99

    with_runs(
        handed,
        honest=lambda run: None,
        elsewhere=elsewhere,
        accuracy=lambda run: run.update(accuracy=run["accuracy"] + 1 / 700),
        flattered=flatter,
        weights=lambda run: run.update(weights="0" * 32),
        strategy=lambda run: run.update(strategy="full"),
        seed=lambda run: run.update(seed=5),
        moved=lambda run: run.update(moved=0),
        job=lambda run: run["job"]["options"].update(seed=7),
    )
    (graded,) = grade_all(handed, "100%")
    found = {problem.split("'")[1] for problem in graded.problems}
    assert found == {"accuracy", "flattered", "weights", "strategy", "seed", "moved", "job"}
    assert graded.verified == 2 and graded.passed == frozenset()
    assert "run 'flattered': its accuracy is" in report([graded])


@pytest.mark.parametrize(
    "change",
    [
        lambda values: values.update(learner="Grace Hopper"),
        lambda values: values["runs"][0].update(accuracy=0.999),
        lambda values: values["runs"].pop(),
        lambda values: values["exercises"][0].update(passed=True, asked="", missing=""),
        lambda values: values.update(checksum=""),
    ],
)
def test_a_hand_in_that_was_edited_is_not_counted(handed: Path, change):
    rewritten(handed, change, sealed=False)
    (graded,) = grade_all(handed.parent)
    assert "its checksum does not fit" in graded.problems[0] and not graded.fulfils([])


def test_a_passed_exercise_that_lacks_a_step_is_a_contradiction(handed: Path):
    rewritten(handed, lambda values: values["exercises"][0].update(passed=True), sealed=True)
    (graded,) = grade_all(handed)
    assert "'1.1' is marked as passed although a step is missing" in graded.problems[0]


def test_results_that_need_a_run_and_come_without_one_are_named(handed: Path):
    def forged(values: dict[str, Any]) -> None:
        for each in values["exercises"]:
            if each["name"] in ("1.1", "1.2", "1.3"):
                each.update(passed=True, attempts=1, asked="", missing="")

    rewritten(handed, forged, sealed=True)
    (graded,) = grade_all(handed)
    assert graded.passed == {"1.1", "1.2", "1.3"} and graded.without_a_run == []
    rewritten(handed, lambda values: values.update(runs=[]), sealed=True)
    (graded,) = grade_all(handed)
    assert graded.without_a_run == ["1.1", "1.2"]
    assert "no run handed in for 1.1" in report([graded])


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"{}",
        b"\xff\xfe",
        b"nonsense",
        b"[" * 100_000,
        b'{"schema": 2}',
        b" " * 5_000_001,
    ],
)
def test_a_file_that_is_not_a_hand_in_is_a_line_and_the_others_count(handed: Path, content: bytes):
    (handed.parent / "broken.json").write_bytes(content)
    graded = grade_all(handed.parent)
    assert [bool(each.problems) for each in graded] == [False, True]
    (problem,) = graded[1].problems
    assert problem.startswith("broken.json is not a hand-in (") and "\n" not in problem
    assert problem in report(graded)


@pytest.mark.parametrize(
    ("field", "value"),
    [("learner", 5), ("exercises", None), ("runs", [1]), ("schema", 9), ("more", 1)],
)
def test_a_value_of_another_type_is_refused_in_a_line(handed: Path, field: str, value: Any):
    rewritten(handed, lambda values: values.update({field: value}), sealed=True)
    with pytest.raises(UsageError, match=r"ada\.json is not a hand-in \("):
        read_hand_in(handed)


def test_a_strangers_job_runs_nothing_of_its_own(handed: Path, tmp_path: Path):
    proof = tmp_path / "it-ran"
    code = f"__import__('pathlib').Path({str(proof)!r}).touch() or nn.Identity()"

    def with_code(run: dict[str, Any]) -> None:
        run["job"]["plan"]["edits"][0]["code"] = code

    with_runs(
        handed,
        code=with_code,
        folder=lambda run: run["job"]["facts"]["request"].update(source=str(tmp_path)),
        download=lambda run: run["job"]["asked"].update(source="resnet18"),
        file=lambda run: run["job"]["asked"].update(weights=str(tmp_path / "x.safetensors")),
        nonsense=lambda run: run.update(job={"plan": 1}),
        nothing=lambda run: run.update(job=None),
    )
    again = retrain(handed)
    assert set(again) == {"code", "folder", "download", "file", "nonsense"}
    assert all(each.problem for each in again.values()) and not proof.exists()
    assert "come with tlnb" in again["folder"].problem + again["download"].problem
    (graded,) = grade_all(handed, "100%")
    assert graded.problems == () and len(graded.unverified) == 6 and graded.verified == 0


def test_training_again_has_a_time_limit(handed: Path):
    assert retrain(handed, limit=0.05) == {}


def test_links_are_not_followed(handed: Path, tmp_path: Path):
    (tmp_path / "secret.json").write_text("{}")
    (handed.parent / "link.json").symlink_to(tmp_path / "secret.json")
    assert [each.file for each in grade_all(handed.parent)] == ["ada.json"]


def test_what_most_learners_lack(handed: Path):
    for name in ("b", "c"):
        (handed.parent / f"{name}.json").write_bytes(handed.read_bytes())
    lacks = missing_most(grade_all(handed.parent))
    assert {name: n for name, (_, n) in lacks.items()} == {"1.1": 3, "1.2": 3}
    assert "1.1: it was trained on one image of each digit (3 learners)" in report(
        grade_all(handed.parent)
    )


def test_the_table_has_canvas_and_moodles_columns_and_no_formula(handed: Path, tmp_path: Path):
    evil = handed.with_name("evil.json")
    evil.write_bytes(handed.read_bytes())
    rewritten(evil, lambda values: values.update(learner='=HYPERLINK("x")'), sealed=True)
    write_csv(tmp_path / "grades.csv", grade_all(handed.parent))
    head, points, ada, other = csv.reader((tmp_path / "grades.csv").open(encoding="utf8"))
    assert head[:6] == ["Student", "ID", "SIS User ID", "SIS Login ID", "Section", "Email address"]
    assert (
        points[0].strip() == "Points Possible"
        and points[-1] == str(len(EXERCISES))
        and len(head) == len(ada)
    )
    assert ada[0] == "Ada Lovelace" and ada[3] == ada[5] == "ada@example.org" and ada[-1] == "0"
    assert other[0].startswith("'=")


def test_hand_ins_of_the_version_before_are_read(handed: Path):
    def older(values: dict[str, Any]) -> None:
        values["schema"] = 1
        del values["checksum"]
        for run in values["runs"]:
            for name in ("job", "weights", "stack"):
                del run[name]

    rewritten(handed, older, sealed=False)
    (graded,) = grade_all(handed, "100%")
    assert graded.problems == () and len(graded.unverified) == 2


def test_the_command_ends_with_a_status(handed: Path, tmp_path: Path, capsys):
    table = tmp_path / "table.csv"
    assert main(["grade", str(handed.parent), "--csv", str(table)]) == 0 and table.exists()
    assert "Ada Lovelace" in capsys.readouterr().out
    assert main(["grade", str(handed), "--require", "1.1"]) == 1
    rewritten(handed, _passed, sealed=True)
    assert main(["grade", str(handed), "--require", "1.1"]) == 0
    handed.write_text("{}")
    assert main(["grade", str(handed)]) == 1


def _passed(values: dict[str, Any]) -> None:
    values["exercises"][0].update(passed=True, asked="", missing="")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere"], "nowhere is not there: give a folder of hand-ins"),
        (["."], "has no hand-ins (.json): learners write one with %tl_check --export"),
        ([".", "--verify", "some"], "--verify some is not a share: write --verify 10%"),
        ([".", "--verify", "200%"], "--verify 200% is not a share"),
    ],
)
def test_a_command_that_cannot_work_says_so(arguments, words: str, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    if "--verify" in arguments:
        (tmp_path / "x.json").write_text("{}")
    assert main(["grade", *arguments]) == 1
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1


def test_a_hand_in_comes_back_as_it_was_written(handed: Path):
    read = read_hand_in(handed)
    assert read.is_unchanged and read.to_json() == handed.read_text("utf8")
    assert not replace(read, learner="x").is_unchanged and isinstance(read, HandIn)
    assert set(asdict(read)) == set(json.loads(handed.read_text("utf8")))
