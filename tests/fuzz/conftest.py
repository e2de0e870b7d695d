"""A session with one run, and a folder."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tlnb.session import Session


@pytest.fixture(scope="module")
def trained() -> Session:
    session = Session()
    session.data("digits", per_class=2)
    session.load("glyphnet")
    session.train(epochs=1)
    return session


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="tlnb-fuzz-") as folder:
        yield Path(folder)
