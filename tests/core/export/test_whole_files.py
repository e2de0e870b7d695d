"""What is written appears whole or not at all, whoever else writes or reads the same file meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from tlnb.core.export import save as saving
from tlnb.core.runtime.errors import ModelError
from tlnb.session import Session
from tlnb.session.job_file import write_whole

QUICK = {"epochs": 1, "batch_size": 8, "augment": "none"}


def first(real: Callable[..., Any], meanwhile: Callable[[], Any]) -> Callable[..., Any]:
    """The same function, in whose first call something else happens first."""
    calls: list[int] = []

    def called(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == 1:
            meanwhile()
        return real(*args, **kwargs)

    return called


def two_runs(small: Session) -> None:
    small.train(**QUICK, name="one")
    small.train(**QUICK, name="two", seed=1)


def test_data_are_saved_whole_by_two_at_once(small: Session, tmp_path: Path, monkeypatch):
    file, other = tmp_path / "data.npz", Session()
    mine, theirs = small.dataset, other.data("digits", per_class=3)
    meanwhile = first(np.savez_compressed, lambda: theirs.save(file))
    monkeypatch.setattr(np, "savez_compressed", meanwhile)
    mine.save(file)
    assert len(np.load(file)["train_images"]) == mine.splits["train"]
    assert list(tmp_path.iterdir()) == [file]


def test_runs_are_saved_whole_by_two_at_once(small: Session, tmp_path: Path, monkeypatch):
    two_runs(small)
    file = tmp_path / "run.safetensors"
    meanwhile = first(safetensors.torch.save_file, lambda: small.save(file, run="two"))
    monkeypatch.setattr(safetensors.torch, "save_file", meanwhile)
    small.save(file, run="one")
    found = Session().load(str(file)).module.state_dict()
    own = small.runs[0].module().state_dict()
    assert all(torch.equal(found[key], own[key]) for key in own)
    assert list(tmp_path.iterdir()) == [file]


def test_a_run_that_is_replaced_while_it_is_read_is_refused(
    small: Session, tmp_path: Path, monkeypatch
):
    """Else one run's header would stand before another's weights."""
    two_runs(small)
    file = tmp_path / "run.safetensors"
    small.save(file, run="one")
    meanwhile = first(saving.read_state, lambda: small.save(file, run="two"))
    monkeypatch.setattr(saving, "read_state", meanwhile)
    with pytest.raises(ModelError, match="was written anew while it was read"):
        Session().load(str(file))
    assert Session().load(str(file)).classes == small.runs[1].classes


def test_a_job_file_is_written_whole_by_two_at_once(tmp_path: Path, monkeypatch):
    file = tmp_path / "job.json"
    meanwhile = first(Path.write_text, lambda: write_whole(file, "theirs"))
    monkeypatch.setattr(Path, "write_text", meanwhile)
    write_whole(file, "mine")
    assert file.read_text() == "mine" and list(tmp_path.iterdir()) == [file]
