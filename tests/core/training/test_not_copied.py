"""A network that trained but can no longer be copied: saved, predicted with and taken away all the same."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tlnb.core.models.module_copy import copied
from tlnb.core.runtime.errors import ModelError
from tlnb.session import Session


class Leaves(nn.Module):
    """Leaves something in itself when it is called in training mode."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.pool, self.hidden, self.head = nn.AvgPool2d(4), nn.Linear(48, 8), nn.Linear(8, 2)
        self.kind, self.left = kind, None

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if self.training and self.left is None:
            self.left = KINDS[self.kind]()
        return self.head(self.hidden(self.pool(images).flatten(1)).relu())


def generator() -> Iterator[int]:
    yield from range(9)


def opened() -> Any:
    return Path(__file__).open("rb")  # never closed, as a forward pass may forget to


class Refuses:
    def __deepcopy__(self, memo: dict[int, Any]) -> Refuses:
        raise ValueError("one is enough")


KINDS = {
    "file": opened,
    "generator": generator,
    "several": lambda: {"files": [opened()], "steps": generator()},
    "thread": threading.current_thread,
    "own": Refuses,
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_network_that_cannot_be_copied_is_not_lost(kind: str, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    session = Session()
    images = np.random.default_rng(0).integers(0, 255, (24, 16, 16), dtype=np.uint8)
    session.data(images, ["a", "b"] * 12)
    session.load(Leaves(kind), size=16, called="net")
    session.strategy("full")
    run = session.train(epochs=1, batch_size=8)
    assert run.status == "finished"
    with pytest.raises((ModelError, ValueError)):
        copied(run.network())
    network, own = run.module(), run.network()
    assert network is not own and not network.training
    with torch.no_grad():
        network.head.weight.zero_()
    assert own.head.weight.any()
    saved = session.save(tmp_path / "net.safetensors")
    later = Session()
    model = later.load(Leaves(kind), weights=saved.path, size=16, called="net")
    assert torch.equal(model.module.head.weight, own.head.weight)
    assert session.predict(images[0]).run == run.name
