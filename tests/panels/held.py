"""A network that waits at every step, and words that panels' tests share."""

from __future__ import annotations

import threading
import time

from torch import nn

from tlnb.session import Session, background


def lines(session: Session) -> list[str]:
    return str(session.script()).splitlines()[1:]


def ended(session: Session) -> background.BackgroundCall:
    """The last training, once it and what it led to have ended."""
    while True:
        training = session.background.training
        assert training is not None and training.wait(60)
        if training is session.background.training:
            return training


class Held(nn.Module):
    """A network whose every step waits until it may go on."""

    def __init__(self) -> None:
        super().__init__()
        self.flat, self.head = nn.Flatten(), nn.Linear(3072, 10)
        self.drop = nn.Dropout(0.5)

    def forward(self, x):
        if GATE.armed and self.training:
            GATE.steps += 1
            GATE.open.wait(20)
        return self.head(self.drop(self.flat(x)))


class Gate:
    def __init__(self) -> None:
        self.open, self.armed, self.steps = threading.Event(), False, 0


GATE = Gate()


def until(true, seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.005)
