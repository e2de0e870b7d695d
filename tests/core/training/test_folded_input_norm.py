"""The standardisation that is folded into the output layer."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tlnb.core.training.folded_input_norm import FoldedInputNorm


def folded(features: torch.Tensor) -> tuple[torch.Tensor, float]:
    """What the output layer sees, and how much larger its weights are after folding."""
    head, seen = nn.Linear(features.shape[1], 3), list[torch.Tensor]()
    before = head.weight.detach().clone()
    norm = FoldedInputNorm.of(head, features)
    head.register_forward_pre_hook(lambda _, x: seen.append(x[0]))
    head(features)
    norm.fold()
    return seen[0], float((head.weight / before).abs().max())


@pytest.mark.parametrize("scale", [1e-3, 1e3, 1e6, 1e12])
def test_features_of_any_scale_are_standardised_alike(scale: float):
    features = torch.randn(30, 8, generator=torch.Generator().manual_seed(0)) + 2
    assert torch.allclose(folded(features * scale)[0], folded(features)[0], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("scale", [0.0, 1e-38, 1e-10])
def test_features_that_are_almost_alike_leave_weights_that_can_be_computed_with(scale: float):
    features = torch.randn(30, 8, generator=torch.Generator().manual_seed(0)) * scale
    seen, growth = folded(features)
    assert seen.isfinite().all() and growth <= 1.01e6
