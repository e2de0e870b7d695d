"""What the tests of safety share."""

from __future__ import annotations

import pytest

from tlnb.session import Session


@pytest.fixture(scope="session")
def trained() -> Session:
    """The embedded network after one epoch on twenty digits; nothing changes it."""
    session = Session()
    session.data("digits", per_class=2)
    session.load("glyphnet")
    session.train(epochs=1)
    return session
