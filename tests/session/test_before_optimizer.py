"""What was written when `--optimizer adamw` was still called `--solver sgd`: read as before."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from torch import nn

from tlnb.core.export.save import read_header
from tlnb.core.runtime.errors import UsageError
from tlnb.core.training.run import Run
from tlnb.session import Session
from tlnb.session.job_runner import carry_out

BEFORE = Path(__file__).parents[1] / "data" / "before-optimizer"


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy: going on with a session or a job writes into its folder."""
    monkeypatch.setenv("TLNB_HOME", str(tmp_path / "home"))
    return Path(shutil.copytree(BEFORE, tmp_path / "before"))


def record(name: str) -> Run:
    return Run.from_json((BEFORE / f"run-{name}.json").read_text("utf8"))


def test_records_are_read():
    assert record("lbfgs").options.optimizer == "lbfgs"
    assert record("budget").options.optimizer == record("baseline").options.optimizer == "adamw"


def test_what_was_said_in_words_is_a_fact():
    kinds = {name: record(name).kind for name in ("lbfgs", "budget", "baseline", "equal-steps")}
    assert kinds == {
        "lbfgs": "plain",
        "budget": "plain",
        "baseline": "baseline",
        "equal-steps": "equal-budget",
    }
    run = record("budget")
    budget, views = run.event("budget"), run.event("cached-views")
    assert budget is not None and views is not None and run.cache is not None
    assert budget.facts == {"epochs": 11, "wanted": 40000, "budget": "1s"}
    assert views.facts == {"views": run.cache.views}
    file = json.loads((BEFORE / "run-budget.json").read_text("utf8"))
    assert list(run.notes) == file["notes"]


@pytest.mark.parametrize("name", ["lbfgs", "budget", "baseline", "equal-steps"])
def test_records_are_written_anew_with_what_they_said(name: str):
    run = record(name)
    assert Run.from_json(run.to_json()) == run
    old, new = (
        json.loads((BEFORE / f"run-{name}.json").read_text("utf8")),
        json.loads(run.to_json()),
    )
    assert new["notes"] == old["notes"] and new["events"] is not None


def test_a_session_is_read_and_goes_on(written: Path):
    session = Session()
    run = session.resume(written / "session")
    assert isinstance(run, Run) and run.name == "adamw" and run.status == "finished"
    assert len(run.epochs) == 25 and run.options.optimizer == "adamw"
    assert [r.options.optimizer for r in session.runs] == ["lbfgs", "adamw"]
    budget = run.event("budget")
    assert budget is not None and budget.facts == {"epochs": 25, "wanted": 40000, "budget": "2s"}


def test_a_job_is_read(written: Path, tmp_path: Path):
    run = carry_out(Session(), written / "job.json", tmp_path / "out")
    assert run.options.optimizer == "lbfgs" and len(run.epochs) == 3


def test_a_job_that_was_cut_off_goes_on(written: Path):
    run = carry_out(Session(), written / "job-adamw.json", written / "out")
    assert run.options.optimizer == "adamw" and len(run.epochs) == 4
    assert any("cut off after epoch 2" in note for note in run.notes)


def test_a_saved_network_is_read():
    file = BEFORE / "saved.safetensors"
    header = read_header(file)
    assert header is not None and header.run.options.optimizer == "lbfgs"
    own = nn.Sequential(
        nn.AvgPool2d(8), nn.Flatten(), nn.Linear(48, 16), nn.ReLU(), nn.Linear(16, 10)
    )
    model = Session().load(own, file, called="own", size=32)
    assert len(model.classes or ()) == 10


def test_lines_of_a_session_are_written_anew_by_todays_names(written: Path):
    session = Session()
    session.resume(written / "session")
    lines = str(session.script()).splitlines()
    assert "%tl_train --epochs 3 --augment none --name lbfgs --optimizer lbfgs" in lines
    assert not any("solver" in line for line in lines)


@pytest.mark.parametrize(("old", "new"), [("sgd", "adamw"), ("lbfgs", "lbfgs"), ("adamw", "adamw")])
def test_the_old_option_works_and_says_the_new_one_in_a_line(shell, capsys, old: str, new: str):
    tl = shell.user_ns["tl"]
    shell.run_cell("%tl_data digits --per-class 1\n%tl_load glyphnet").raise_error()
    for line in (f"--epochs 1 --solver {old} --augment none", f"--epochs 1 --solver={old};"):
        capsys.readouterr()
        shell.run_cell(f"%tl_train {line}").raise_error()
        printed = capsys.readouterr().out.splitlines()
        assert printed[0] == f"--solver {old} is now called --optimizer {new}"
        assert tl.runs[-1].options.optimizer == new
    for call in (tl.forecast, tl.train):
        with pytest.warns(FutureWarning, match=f"'{old}' is now called optimizer='{new}'") as said:
            call(epochs=1, solver=old)
        assert said[0].filename == __file__  # of the line to be changed
    assert not any("solver" in line for line in str(tl.script()).splitlines())


def test_old_and_new_name_together_are_refused_in_a_line(small: Session):
    with pytest.raises(UsageError, match="give optimizer alone"):
        small.train(solver="sgd", optimizer="lbfgs")
    with pytest.raises(UsageError, match="--optimizer sgd is not known: use one of adamw, lbfgs"):
        small.train(optimizer="sgd")
    assert small.runs == []
