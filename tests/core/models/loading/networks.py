"""A small network of torchvision's, its weights as a file, and where they come from."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch
from torch import nn
from torchvision import models

from tlnb.core.models.catalogue import torchvision_weights

NAME = "squeezenet1_1"  # 5 MB, the smallest there is


def saved(content: object) -> bytes:
    out = io.BytesIO()
    torch.save(content, out)
    return out.getvalue()


def random_network(name: str, **settings: object) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return models.get_model(name, weights=None, **settings)


def serve_from(monkeypatch: pytest.MonkeyPatch, url: str, name: str = NAME) -> None:
    monkeypatch.setattr(next(iter(torchvision_weights(name).values())).value, "url", url)


def same(module: nn.Module, other: nn.Module) -> bool:
    a, b = module.state_dict(), other.state_dict()
    return list(a) == list(b) and all(torch.equal(a[k], b[k]) for k in a)


def file_of(folder: Path, content: object, name: str = "mine.pth") -> str:
    (folder / name).write_bytes(saved(content))
    return str(folder / name)
