"""What was written when `--optimizer adamw` was still called `--solver sgd`: read as before."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from torch import nn

from tlnb.core.export.save import read_header
from tlnb.core.training.run import Run
from tlnb.session import Session
from tlnb.session.job_file import carry_out

BEFORE = Path(__file__).parents[1] / "data" / "before-optimizer"


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy: going on with a session or a job writes into its folder."""
    monkeypatch.setenv("TLNB_HOME", str(tmp_path / "home"))
    return Path(shutil.copytree(BEFORE, tmp_path / "before"))


def record(name: str) -> Run:
    return Run.from_json((BEFORE / f"run-{name}.json").read_text("utf8"))


def test_records_are_read():
    assert record("lbfgs").options.solver == "lbfgs"
    assert record("budget").options.solver == record("baseline").options.solver == "sgd"


def test_a_session_is_read_and_goes_on(written: Path):
    session = Session()
    run = session.resume(written / "session")
    assert isinstance(run, Run) and run.name == "adamw" and run.status == "finished"
    assert len(run.epochs) == 25 and run.options.solver == "sgd"
    assert [r.options.solver for r in session.runs] == ["lbfgs", "sgd"]
    assert any("25 of 40000 epochs" in note for note in run.notes)


def test_a_job_is_read(written: Path, tmp_path: Path):
    run = carry_out(Session(), written / "job.json", tmp_path / "out")
    assert run.options.solver == "lbfgs" and len(run.epochs) == 3


def test_a_job_that_was_cut_off_goes_on(written: Path):
    run = carry_out(Session(), written / "job-adamw.json", written / "out")
    assert run.options.solver == "sgd" and len(run.epochs) == 4
    assert any("cut off after epoch 2" in note for note in run.notes)


def test_a_saved_network_is_read():
    file = BEFORE / "saved.safetensors"
    header = read_header(file)
    assert header is not None and header.run.options.solver == "lbfgs"
    own = nn.Sequential(
        nn.AvgPool2d(8), nn.Flatten(), nn.Linear(48, 16), nn.ReLU(), nn.Linear(16, 10)
    )
    model = Session().load(own, file, called="own", size=32)
    assert len(model.classes or ()) == 10
