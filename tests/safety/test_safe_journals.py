"""Studies on a full disk, and journals that are cut off, damaged or from elsewhere."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st

from tests.safety.cases import drawn, refused
from tlnb.core.tuning import tune as tuning
from tlnb.core.tuning.optuna_study import open_study
from tlnb.core.tuning.study_journal import sound_journal
from tlnb.session import Session
from tlnb.session.job_planner import plan_job

optuna = pytest.importorskip("optuna")


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A search's task, and the journal of its first trial."""
    file = tmp_path_factory.mktemp("studies") / "study.log"
    session = Session()
    session.data("digits", per_class=2)
    session.load("glyphnet")
    found = session.tune(trials=1, epochs=1, storage=str(file))
    assert found.notes == () and len(found.trials) == 1
    job = plan_job(session.state, {"epochs": 1, "seed": 0})
    return session, job.tuning_task({}), file, file.read_text(), found.name


def opened(searched: Any, text: str, place: Path) -> tuple[list[Any], tuple[str, ...]]:
    """The sound trials of a journal with this text, and what became of it."""
    place.write_bytes(text.encode(errors="surrogatepass"))
    study, notes = open_study(searched[4], str(place), 0, 1)
    return [
        t for t in study.trials if t.state.is_finished() and tuning._is_sound(searched[1], t)
    ], notes


def test_a_journal_is_read_up_to_its_last_whole_line(searched: Any, tmp_path: Path):
    whole = searched[3]
    trials, notes = opened(searched, whole + '{"op_code": 4, "wor', tmp_path / "s.log")
    assert (
        len(trials) == 1
        and "was cut off" in notes[0]
        and (tmp_path / "s.log").read_text().startswith(whole)
    )
    trials, notes = opened(searched, whole[:40], tmp_path / "s.log")
    assert trials == [] and "cut off" in notes[0]


def test_a_damaged_journal_is_set_aside(searched: Any, tmp_path: Path):
    lines = searched[3].splitlines()
    for count, bad in enumerate(
        (
            "nonsense",
            '{"op_code": 99, "worker_id": "x"}',
            '{"op_code": 4, "worker_id": "x", "trial_id": 77}',
        ),
        1,
    ):
        trials, notes = opened(
            searched, "\n".join([lines[0], bad, *lines[1:]]) + "\n", tmp_path / "s.log"
        )
        assert (
            trials == []
            and f"kept as s.log.damaged-{count}" in notes[-1]
            and "a new one starts" in notes[-1]
        )
    assert len(list(tmp_path.glob("*.damaged-*"))) == 3


def test_a_file_that_is_no_journal_stays_as_it_is(searched: Any, tmp_path: Path):
    (tmp_path / "mine.txt").write_text("my notes\n")
    said = refused(lambda: searched[0].tune(trials=1, epochs=1, storage=str(tmp_path / "mine.txt")))
    assert (
        said is not None
        and "not an Optuna journal" in said
        and (tmp_path / "mine.txt").read_text() == "my notes\n"
    )


@pytest.mark.skipif(os.sep != "/", reason="links as POSIX has them")
def test_a_journal_that_is_a_link_is_not_written_through(searched: Any, tmp_path: Path):
    victim, link = tmp_path / "victim", tmp_path / "s.log"
    victim.write_text("precious")
    link.symlink_to(victim)
    assert (
        "it is a link" in sound_journal(link)
        and victim.read_text() == "precious"
        and not link.exists()
    )


def test_a_full_disk_ends_a_search_with_what_it_has(
    searched: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    session, file = searched[0], tmp_path / "full.log"
    real, told = optuna.study.Study.tell, []

    def full(self: Any, *given: Any, **named: Any) -> Any:
        if told:
            raise OSError(28, "No space left on device")
        told.append(given)
        return real(self, *given, **named)

    monkeypatch.setattr(optuna.study.Study, "tell", full)
    found = session.tune(trials=3, epochs=1, storage=str(file))
    assert (
        found.status == "stopped"
        and len(found.trials) == 1
        and "No space left on device" in found.notes[-1]
    )
    monkeypatch.setattr(optuna.study.Study, "ask", lambda *_, **__: full(None))
    assert "cannot be written (No space left on device)" in (
        refused(lambda: session.tune(trials=1, storage=str(file))) or ""
    )
    monkeypatch.undo()
    with file.open("a") as half:
        half.write('{"op_code":')
    again = session.tune(trials=1, epochs=1, storage=str(file))
    assert again.status == "finished" and "was cut off" in again.notes[0] and len(again.trials) == 2


@pytest.mark.parametrize("scores", [[], [0.5, 0.5]])
def test_a_journal_whose_trials_have_no_score_or_several_is_set_aside(
    searched: Any, tmp_path: Path, scores: list[float]
):
    entries = [json.loads(line) for line in searched[3].splitlines()]
    for entry in entries:
        if "values" in entry:
            entry["values"] = scores
    trials, notes = opened(
        searched, "".join(json.dumps(entry) + "\n" for entry in entries), tmp_path / "s.log"
    )
    assert trials == [] and len(notes) == 1 and len(list(tmp_path.glob("*.damaged-*"))) == 1


def test_trials_that_are_none_of_the_search_are_left_out(searched: Any, tmp_path: Path):
    def with_seconds(new: Any) -> str:
        entries = [json.loads(line) for line in searched[3].splitlines()]
        for entry in entries:
            if "seconds" in entry.get("user_attr", {}):
                entry["user_attr"]["seconds"] = new
        return "".join(json.dumps(entry) + "\n" for entry in entries)

    assert len(opened(searched, with_seconds(1.0), tmp_path / "s.log")[0]) == 1
    for new in ("x", None, -1, float("nan"), float("inf"), [1], True):
        assert opened(searched, with_seconds(new), tmp_path / "s.log")[0] == []


# ── any change ────────────────────────────────────────────────────────────────────────────────────────────────────

STRANGE = (
    None,
    True,
    -1,
    0,
    1,
    99,
    1e300,
    float("nan"),
    "",
    "x",
    "\x1b",
    [],
    {},
    [1],
    {"x": 1},
    10**30,
)


@st.composite
def changed(draw: Any, whole: str) -> str:
    lines = whole.splitlines()
    for _ in range(draw(st.integers(1, 2))):
        at = draw(st.integers(0, len(lines) - 1))
        match draw(st.sampled_from(["value", "value", "drop", "cut", "double", "text"])):
            case "value":
                try:
                    entry = json.loads(lines[at])
                except ValueError:
                    continue
                entry[draw(st.sampled_from(sorted(entry)))] = draw(st.sampled_from(STRANGE))
                lines[at] = json.dumps(entry)
            case "drop" if len(lines) > 1:
                del lines[at]
            case "cut":
                return "\n".join(lines)[: draw(st.integers(0, len(whole)))]
            case "double":
                lines.insert(at, lines[at])
            case _:
                lines[at] = draw(st.text(max_size=8)).replace("\n", "")
    return "\n".join(lines) + "\n"


@drawn(data=st.data())
def test_any_journal_opens_or_is_refused_in_a_line(
    searched: Any, tmp_path_factory: Any, data: st.DataObject
):
    place = tmp_path_factory.getbasetemp()
    task, text = searched[1], data.draw(changed(searched[3]))
    trials: list[Any] = []
    refused(lambda: trials.extend(opened(searched, text, place / "any.log")[0]))
    for trial in trials:
        made = tuning._trial(trial)
        assert made.seconds >= 0 and task.planned(made.values)
    for left in place.glob("any.log*"):
        left.unlink()
