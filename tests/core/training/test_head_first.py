"""The output layers before the first epoch: an interrupt there leaves a network without helpers."""

from __future__ import annotations

import pytest

from tlnb.core.training import head_first
from tlnb.session import Session


def test_an_interrupt_while_features_are_measured_leaves_no_hook(
    small: Session, monkeypatch: pytest.MonkeyPatch
):
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(head_first, "_pass_all", interrupted)
    run = small.train(epochs=2)
    assert run.status == "stopped" and run.epochs == ()
    assert not any(part._forward_pre_hooks for part in run.network().modules())
