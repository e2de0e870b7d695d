"""What tests of resuming share: a session that has begun, an interrupt after an epoch, two runs that are the same."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tlnb.core.training.run import Run
from tlnb.session import Session


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("TLNB_HOME", str(tmp_path / "home"))


def begun(per_class: int = 2, strategy: str = "full") -> Session:
    session = Session()
    session.data("digits", per_class=per_class)
    session.load("glyphnet")
    session.strategy(strategy)
    return session


def stop_after(session: Session, epoch: int, phase: str = "training") -> None:
    def report(progress):
        if progress.phase == phase and progress.epoch == epoch:
            raise KeyboardInterrupt

    session.report = report


def same(one: Run, other: Run) -> None:
    assert [e.train_loss for e in one.epochs] == [e.train_loss for e in other.epochs]
    assert (
        one.accuracy == other.accuracy
        and one.best_epoch == other.best_epoch
        and one.moved == other.moved
    )
    pairs = zip(
        one.module().state_dict().values(), other.module().state_dict().values(), strict=True
    )
    assert all(torch.equal(a, b) for a, b in pairs)
