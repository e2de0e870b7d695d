"""Modes of modules without parameters: those of the module around them, else of the next layer."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn
from torchvision import models

from tlnb.core.models.anatomy import owned, read_anatomy
from tlnb.core.models.pretrained import load
from tlnb.core.planning.plan import plan_strategy
from tlnb.core.training.freezing import set_modes
from tlnb.core.training.model_split import Cuts


class Block(nn.Module):
    """A residual branch that drops out at its end."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.mix, self.drop = nn.LayerNorm(4), nn.Linear(4, 4), nn.Dropout()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.drop(self.mix(self.norm(x)))


def network() -> nn.Module:
    """Two blocks with dropout, and a head with dropout before and after it."""
    head = nn.Sequential(nn.Dropout(), nn.Linear(4, 2), nn.Dropout())
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 4), Block(), Block(), nn.Dropout(), head)


DROPOUTS = ("2.drop", "3.drop", "4", "5.0", "5.2")


@pytest.mark.parametrize(
    ("trained", "active"),
    [
        ({"5.1"}, {"4", "5.0", "5.2"}),
        ({"3.norm", "3.mix", "5.1"}, {"3.drop", "4", "5.0", "5.2"}),
        (
            {"3.mix", "5.1"},
            {"3.drop", "4", "5.0", "5.2"},
        ),  # the block is mixed: what is next counts
        ({"2.norm", "2.mix"}, {"2.drop"}),  # what comes next is frozen, but the block is not
        ({"1"}, set()),
        ({name for name, _ in owned(network())}, set(DROPOUTS)),
    ],
)
def test_dropout_is_active_where_its_block_trains(trained: set[str], active: set[str]):
    module = network()
    set_modes(module, trained)
    assert {name for name in DROPOUTS if module.get_submodule(name).training} == active


def test_containers_without_layers_of_their_own_go_with_their_block():
    block = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.ReLU(), nn.Sequential(nn.Dropout())))
    module = nn.Sequential(block, nn.Linear(4, 2))
    set_modes(module, {"1"})
    assert not any(part.training for part in block.modules())
    set_modes(module, {"0.0"})
    assert block[1][1][0].training


TRANSFORMERS = {
    "vit_b_16": partial(models.VisionTransformer, 32, 8, 4, 2, 16, 32, dropout=0.1),
    "swin_t": partial(
        models.SwinTransformer, [4, 4], 8, [2, 2], [1, 2], [4, 4], stochastic_depth_prob=0.5
    ),
}


def assert_frozen_blocks_rest(module: nn.Module, edge: int) -> None:
    """Train the last stage: in a block that is frozen nothing acts, and the network can be split after it."""
    plan = plan_strategy(read_anatomy(module, edge), "partial")
    set_modes(module, set(plan.trained))
    places = Cuts().places(module, plan.trained, torch.zeros(2, 3, edge, edge))
    frozen = {
        name: block
        for name, block in module.named_modules()
        if any(isinstance(getattr(block, a, None), nn.Module) for a in ("attn", "self_attention"))
        and not any(parameter.requires_grad for parameter in block.parameters())
    }
    assert frozen.keys() <= {place.module for place in places if place.side == "output"}
    assert frozen and not any(p.training for block in frozen.values() for p in block.modules())


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_nothing_drops_out_in_the_frozen_blocks_of_torchvisions_transformers(name: str):
    assert_frozen_blocks_rest(TRANSFORMERS[name](num_classes=5), 32)


TIMM = {
    "vit": lambda timm: partial(
        timm.create_model, "test_vit", depth=3, proj_drop_rate=0.1, drop_path_rate=0.5
    ),
    "swin": lambda timm: partial(
        timm.create_model,
        "swin_tiny_patch4_window7_224",
        embed_dim=12,
        depths=(1, 1, 2, 1),
        num_heads=(1, 1, 2, 2),
    ),
    "nest": lambda timm: partial(
        timm.models.nest.Nest,
        embed_dims=(8, 8, 16),
        num_heads=(1, 1, 2),
        depths=(1, 1, 2),
        drop_path_rate=0.5,
    ),
}


@pytest.mark.parametrize("name", TIMM)
def test_nothing_drops_out_in_the_frozen_blocks_of_timms_transformers(name: str):
    timm = pytest.importorskip("timm", reason="timm is not installed")
    assert_frozen_blocks_rest(TIMM[name](timm)(img_size=64, num_classes=5), 64)


@pytest.mark.parametrize("name", ["squeezenet1_0", "efficientnet_b0", "glyphnet"])
@pytest.mark.parametrize("strategy", ["head", "full"])
def test_the_classifiers_dropout_stays_active(name: str, strategy: str):
    module = load("glyphnet").module if name == "glyphnet" else models.get_model(name, weights=None)
    set_modes(module, set(plan_strategy(read_anatomy(module, 64), strategy).trained))
    dropouts = [p for p in module.modules() if isinstance(p, nn.modules.dropout._DropoutNd)]
    assert all(dropout.training for dropout in dropouts) and (dropouts or name == "glyphnet")
