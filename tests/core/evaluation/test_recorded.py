"""Runs recorded elsewhere: read back whole, side by side, said to be recorded; damaged files are refused in one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tlnb.cli import lessons_folder
from tlnb.core.evaluation.recorded import SCHEMA, read_recorded
from tlnb.core.runtime.errors import UsageError
from tlnb.session import Session

RECORDS = [
    lessons_folder() / "records" / "ants-bees.json"
]  # symbols.json holds means over seeds, read by lesson 5


@pytest.fixture(scope="module")
def trained() -> Session:
    session = Session()
    session.data("digits", per_class=2)
    session.load("glyphnet")
    session.train(epochs=2)
    session.train(epochs=2, scratch=True)
    return session


@pytest.fixture
def file(trained: Session, tmp_path: Path) -> Path:
    data = trained.dataset
    values = {
        "schema": SCHEMA,
        "recorded": "2026-01-31",
        "typed": ["%tl_train"],
        "notes": ["drawn, not photographed"],
        "data": {"name": data.name, "counts": data.counts, "splits": data.splits, "skipped": []},
        "model": "glyphnet",
        "runs": [json.loads(run.to_json()) for run in trained.runs],
    }
    (tmp_path / "record.json").write_text(json.dumps(values))
    return tmp_path / "record.json"


def test_a_record_is_compared_like_ones_own_runs_and_says_that_it_is_one(
    file: Path, trained: Session
):
    found, own = read_recorded(file).compare(), trained.compare()
    assert [
        (row.name, row.accuracy, row.flops) for row in found.rows if row.kind in ("run", "baseline")
    ] == [
        (row.name, row.accuracy, row.flops) for row in own.rows if row.kind in ("run", "baseline")
    ]
    assert found.data == "digits" and "recorded on 2026-01-31, not measured here" in found.notes[0]
    assert "drawn, not photographed" in found.notes
    assert "2026-01-31" in repr(read_recorded(file))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"schema": 99}, "another schema"),
        ({"runs": []}, "does not hold recorded runs"),
        ({"runs": [{}]}, "this is not a run record"),
        ({"data": None}, "does not hold recorded runs"),
        ({"notes": 3}, "does not hold recorded runs"),
        ({"notes": "ab"}, "notes is str"),
        ({"more": 1}, "a field 'more'"),
        ({"model": 3}, "model is int"),
        ({"runs": [3]}, "runs is int"),
        ({"data": {"name": "x", "counts": {}, "splits": {}}}, "no classes"),
        ({"data": {"name": "x", "counts": {"a": "3"}, "splits": {}}}, "counts of a is str"),
    ],
)
def test_what_is_no_record_is_refused(file: Path, change: dict[str, object], words: str):
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(UsageError, match=words):
        read_recorded(file)
    with pytest.raises(UsageError, match="cannot be read"):
        read_recorded(file.with_name("nowhere.json"))
    file.write_text("<html>")
    with pytest.raises(UsageError, match="does not hold recorded runs"):
        read_recorded(file)


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 100_000,
        b'{"schema": ' * 100_000,
        b"\xff\xfe",
        b"",
        b"3",
        b'"schema"',
        b"1" * 5000,
        b"{}",
    ],
)
def test_whatever_a_file_holds_is_refused_in_one_line(tmp_path: Path, content: bytes):
    (tmp_path / "odd.json").write_bytes(content)
    with pytest.raises(UsageError, match="odd.json does not hold recorded runs") as error:
        read_recorded(tmp_path / "odd.json")
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("path", ["~nobody9/x", "a\0b", "x" * 300])
def test_what_can_be_no_path_is_refused_in_one_line(path: str):
    with pytest.raises(
        UsageError, match="cannot be (used as a path|read)"
    ) as error:  # Windows guesses at homes
        read_recorded(path)
    assert len(str(error.value).splitlines()) == 1


def test_a_folder_is_no_file_of_runs(tmp_path: Path):
    with pytest.raises(UsageError, match="cannot be read"):
        read_recorded(tmp_path)


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_the_lessons_records_say_what_a_reader_must_know(path: Path):
    found = read_recorded(path)
    assert all(run.status == "finished" and run.hardware and run.versions for run in found.runs)
    assert any(run.plan.start == "pretrained" for run in found.runs) and any(
        run.baseline_of for run in found.runs
    )
    assert any("ImageNet" in note for note in found.notes) and found.typed and len(found.when) == 10
    assert sum(found.data.counts.values()) == found.data.splits["train"] + found.data.splits["val"]
    assert all(run.test_images == found.data.splits["test"] for run in found.runs)
    assert path.stat().st_size < 200_000
