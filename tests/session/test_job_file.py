"""Trainings as files."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from tlnb.core.runtime.errors import UsageError
from tlnb.core.training.run import Run
from tlnb.session import Session
from tlnb.session.job_runner import carry_out


def test_a_job_done_elsewhere_is_the_run_that_it_would_have_been_here(
    small: Session, tmp_path: Path
):
    small.strategy("partial")
    small.add("before:head", "nn.Dropout(0.2)")
    saved = small.save(job=tmp_path / "job.json", epochs=3, lr=0.002, seed=4)
    assert small.runs == [] and "python -m tlnb train" in saved.use
    command = [
        sys.executable,
        "-m",
        "tlnb",
        "train",
        str(tmp_path / "job.json"),
        "--out",
        str(tmp_path / "out"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    there = Run.from_json((tmp_path / "out" / "run.json").read_text())
    here = small.train(epochs=3, lr=0.002, seed=4)
    assert (there.plan, there.options, there.seed) == (here.plan, here.options, 4)
    if there.threads == here.threads:  # other sums differ in their last digits
        assert [e.train_loss for e in there.epochs] == pytest.approx(
            [e.train_loss for e in here.epochs], abs=1e-5
        )
    later = Session()
    later.data("digits", per_class=2)
    assert later.load(tmp_path / "out" / "run.safetensors").card.family == "run"
    card = (tmp_path / "out" / "card.html").read_text("utf8")
    assert (
        card.startswith("<!DOCTYPE html>")
        and "<title>Run partial</title>" in card
        and f"{there.accuracy:.1%}" in card
    )
    back = Session()
    back.resume(tmp_path / "out")
    assert [r.epochs for r in back.runs] == [there.epochs] and back.runs[0].processes == 1
    assert back.errors("partial").accuracy == there.accuracy
    assert back.train(epochs=1, from_="partial").started_from == "partial"


def test_options_go_with_a_job_and_files_with_a_run(small: Session, tmp_path: Path):
    small.train(epochs=2)
    with pytest.raises(UsageError, match="need --job FILE"):
        small.save(tmp_path / "x.safetensors", epochs=3)
    with pytest.raises(UsageError, match="already names the file"):
        small.save(tmp_path / "x.safetensors", job=tmp_path / "job.json")


def test_what_a_file_cannot_name_gets_one_line(session: Session, tmp_path: Path):
    session.data(torch.zeros(8, 3, 8, 8, dtype=torch.uint8), ["a", "b"] * 4)
    session.load("glyphnet")
    with pytest.raises(UsageError, match="cannot hold data from Python"):
        session.save(job=tmp_path / "job.json")
    session.data("digits", per_class=2)
    session.load(nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 10)), size=32, called="mine")
    with pytest.raises(UsageError, match="cannot hold your own module 'mine'"):
        session.save(job=tmp_path / "job.json")
    assert list(tmp_path.glob("*.json")) == []


@pytest.mark.parametrize("text", ["", "{}", '{"schema": 9}', "[1]", '{"schema": 1, "run": 3}'])
def test_what_is_no_job_gets_one_line(tmp_path: Path, text: str):
    file = tmp_path / "job.json"
    file.write_text(text)
    with pytest.raises(UsageError, match="job"):
        carry_out(Session(), file, tmp_path / "out")


def test_code_of_ones_own_is_run_only_when_trusted(small: Session, tmp_path: Path):
    small.replace("head", "nn.Sequential(nn.Linear(in_features, max(8, 4)), nn.Linear(8, classes))")
    small.save(job=tmp_path / "job.json", epochs=1)
    with pytest.raises(UsageError, match="add --trust if you trust it"):
        carry_out(Session(), tmp_path / "job.json", tmp_path / "out")
    run = carry_out(Session(), tmp_path / "job.json", tmp_path / "out", trust=True)
    assert (
        run.status == "finished"
        and json.loads((tmp_path / "out" / "run.json").read_text())["name"] == run.name
    )


def test_other_images_than_the_job_was_written_for_are_refused(small: Session, tmp_path: Path):
    small.save(job=tmp_path / "job.json", epochs=1)
    values = json.loads((tmp_path / "job.json").read_text())
    (tmp_path / "job.json").write_text(json.dumps({**values, "fingerprint": "0" * 16}))
    with pytest.raises(UsageError, match="have changed since the job"):
        carry_out(Session(), tmp_path / "job.json", tmp_path / "out")


def test_a_refit_of_nothing_that_was_held_out_is_refused(small: Session, tmp_path: Path):
    small.save(job=tmp_path / "job.json", epochs=1)
    values = json.loads((tmp_path / "job.json").read_text())
    changed = {**values, "options": {**values["options"], "refit": True}}
    (tmp_path / "job.json").write_text(json.dumps(changed))
    with pytest.raises(UsageError, match="--refit has nothing to add: no labels are held out"):
        carry_out(Session(), tmp_path / "job.json", tmp_path / "out")
    assert not (tmp_path / "out" / "run.json").exists()
