"""FLOPs: torch's own count, forward and per step."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode
from torchvision import models

from tests.networks import LeViT, without_numbers
from tlnb.core.models.anatomy import read_anatomy
from tlnb.core.models.flops import forward_flops, step_flops
from tlnb.core.models.tracing import countable
from tlnb.core.training.freezing import set_modes


def small_vit() -> nn.Module:
    return models.VisionTransformer(32, 8, 4, 2, 16, 32, num_classes=5)


@pytest.mark.parametrize(
    "make", [small_vit, lambda: models.squeezenet1_1(num_classes=5), lambda: LeViT()]
)
def test_flops_are_torchs(make):
    module = make().eval()
    images = torch.randn(2, 3, 32, 32)
    read = read_anatomy(module, 32)
    with torch.no_grad(), countable(), FlopCounterMode(display=False) as counter:
        module(images)
    assert read.flops == counter.get_total_flops() / 2 == forward_flops(module, images)
    with countable(), FlopCounterMode(display=False) as counter:
        module(images).sum().backward()
    assert step_flops(module, images) == counter.get_total_flops() / 2


def test_attention_is_counted_whole_and_belongs_to_a_layer():
    before = torch.backends.mha.get_fastpath_enabled()
    read = read_anatomy(without_numbers("vit_b_16"), 224)
    assert torch.backends.mha.get_fastpath_enabled() == before
    assert read.flops == pytest.approx(35.1e9, rel=0.01)
    tokens, width = 197, 768
    attention = next(x for x in read.layers if x.name.endswith("encoder_layer_0.self_attention"))
    assert attention.flops == 2 * tokens * width * 3 * width + 2 * 2 * tokens * tokens * width
    assert (attention.shape, attention.params) == ((tokens, width), 3 * width * (width + 1))
    output = next(
        x for x in read.layers if x.name.endswith("encoder_layer_0.self_attention.out_proj")
    )
    assert (output.flops, output.used) == (2 * tokens * width * width, True)


def test_a_convolution_in_groups_costs_its_own_gradient_and_no_more():
    module = nn.Sequential(
        nn.Conv2d(16, 16, 3, padding=1, groups=16),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 2),
    )
    images = torch.zeros(1, 16, 8, 8)
    forward = 2 * 8 * 8 * 16 * 9
    assert step_flops(module, images) == 2 * forward + 3 * 2 * 16 * 2  # the image wants no gradient
    assert module[0].weight.requires_grad and module[0].weight.grad is None
    set_modes(module, {"3"})
    assert step_flops(module, images) == forward + 2 * 2 * 16 * 2
    assert step_flops(module, images, everything=True) == 2 * forward + 3 * 2 * 16 * 2


class Checkpointed(nn.Module):
    def __init__(self, reentrant: bool | None) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3)
        self.reentrant = reentrant

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        if self.reentrant is None:
            return self.second(x).mean((2, 3))
        return checkpoint(self.second, x, use_reentrant=self.reentrant).mean((2, 3))


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("with_numbers", [0.0, float("inf")])
def test_activation_checkpoints_are_counted(
    reentrant: bool, with_numbers: float, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("tlnb.core.models.flops.CHEAP_WITH_NUMBERS", with_numbers)
    images, module = torch.randn(2, 3, 16, 16), Checkpointed(reentrant)
    plain = step_flops(Checkpointed(None), images)
    again = forward_flops(module.second, module.first(images).detach())
    assert step_flops(module, images) in (plain, plain + again)
    assert all(p.grad is None for p in module.parameters())
