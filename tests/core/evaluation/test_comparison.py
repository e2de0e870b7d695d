"""Runs side by side."""

from __future__ import annotations

from tlnb.session import Session


def test_what_is_compared_with_what_does_not_depend_on_names(small: Session):
    first = small.train(epochs=1, name="scratch, equal steps")
    baseline = small.train(scratch=True, epochs=1, name="also with equal steps")
    assert (first.kind, baseline.kind) == ("plain", "baseline")
    found = small.compare()
    assert (found.run, found.baseline) == (first.name, baseline.name)
