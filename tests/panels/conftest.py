"""Panels as a user has them, and a training that stands still."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from tests.panels.held import GATE, Held
from tlnb.session import Session


@pytest.fixture(autouse=True)
def as_a_user_has_it(monkeypatch, tmp_path: Path):
    monkeypatch.delenv("TLNB_TESTING")
    monkeypatch.setenv("TLNB_HOME", str(tmp_path / "home"))


@pytest.fixture
def held(session: Session):
    """A session whose training stands still until GATE opens."""
    GATE.open, GATE.armed, GATE.steps = threading.Event(), False, 0
    session.data("digits", per_class=2)
    session.load(Held(), size=32, called="net")
    session.strategy("full")
    GATE.armed = True
    yield session
    GATE.open.set()
    if session.background.training is not None:
        session.background.training.wait(60)
    GATE.armed = False
