"""The network and its weights once a module; torch's download folder for each test."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from tests.core.models.loading.networks import NAME, random_network, saved


@pytest.fixture(scope="module")
def network() -> nn.Module:
    return random_network(NAME)


@pytest.fixture(scope="module")
def content(network: nn.Module) -> bytes:
    return saved(network.state_dict())


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """torch's folder for this test."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    return tmp_path / "torch" / "hub" / "checkpoints"
