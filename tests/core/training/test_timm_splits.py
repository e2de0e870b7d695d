"""Networks of timm are split at their pooled features, and transformers at every block."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from tlnb.core.models.anatomy import read_anatomy
from tlnb.core.planning.plan import plan_strategy
from tlnb.core.training.freezing import set_modes
from tlnb.core.training.model_split import Cuts
from tlnb.core.training.split_point import Place
from tlnb.session import Session

timm = pytest.importorskip("timm", reason="timm is not installed")
EDGE = 64
NETWORKS = {  # each was cut late or nowhere when networks were traced
    "padding from shapes": (partial(timm.create_model, "tf_efficientnet_lite0"), 1280),
    "functional batch norm of weights": (
        lambda num_classes: timm.models.resnetv2.ResNetV2(
            (1, 1), channels=(128, 128), num_classes=num_classes, stem_chs=32
        ),
        128,
    ),
    "tables kept in eval mode": (partial(timm.create_model, "levit_128s", img_size=EDGE), 384),
    "two output layers": (
        partial(timm.create_model, "efficientformer_l1", depths=(1, 1, 1, 1)),
        448,
    ),
    "vision transformer": (partial(timm.create_model, "test_vit", img_size=EDGE), 64),
    "rotary positions": (
        partial(timm.create_model, "eva02_tiny_patch14_224", img_size=56, depth=3),
        192,
    ),
}


def network(name: str) -> nn.Module:
    torch.manual_seed(0)
    return NETWORKS[name][0](num_classes=5)


def edge(module: nn.Module) -> int:
    return {"Eva": 56, "EfficientFormer": 224}.get(type(module).__name__, EDGE)


def places(module: nn.Module, strategy: str) -> list[Place]:
    plan = plan_strategy(read_anatomy(module, edge(module)), strategy)
    set_modes(module, set(plan.trained))
    return Cuts().places(module, plan.trained, torch.zeros(2, 3, edge(module), edge(module)))


@pytest.mark.parametrize("name", NETWORKS)
def test_the_head_is_cached_at_the_pooled_features(name: str):
    assert places(network(name), "head")[-1].numbers == NETWORKS[name][1]


@pytest.mark.parametrize("name", ["vision transformer", "rotary positions"])
@pytest.mark.parametrize("strategy", ["head", "partial"])
def test_a_transformer_is_split_at_every_frozen_block(name: str, strategy: str):
    module = network(name)
    found = {place.module for place in places(module, strategy) if place.side == "output"}
    frozen = {
        f"blocks.{i}"
        for i, block in enumerate(module.blocks)
        if not any(p.requires_grad for p in block.parameters())
    }
    assert frozen and frozen <= found


@pytest.mark.parametrize("name", NETWORKS)
def test_cached_and_uncached_runs_agree(name: str):
    module, session = network(name), Session()
    rng, size = np.random.default_rng(0), edge(module)
    images = rng.integers(0, 255, (16, size, size, 3), dtype=np.uint8)
    session.data(images, [i % 4 for i in range(16)])
    session.load(module, size=size, called="net")
    quick = {"epochs": 2, "batch_size": 8, "augment": "none", "precision": "fp32"}
    cached, uncached = (session.train(**quick, cache=cache) for cache in (True, False))
    losses = [[e.train_loss for e in run.epochs] for run in (cached, uncached)]
    assert cached.cache is not None and np.allclose(*losses, atol=1e-5)
    assert cached.accuracy == uncached.accuracy


def test_25_epochs_of_a_head_cost_one_pass_of_every_image():
    session = Session()
    images = np.random.default_rng(0).integers(0, 255, (40, EDGE, EDGE, 3), dtype=np.uint8)
    session.data(images, [i % 4 for i in range(40)])
    session.load(network("padding from shapes"), size=EDGE, called="net")
    run = session.train(epochs=25, augment="none", precision="fp32")
    one = read_anatomy(session.model.module, EDGE).flops
    passes = sum(run.flops_by_phase.values()) / one
    assert 40 <= passes <= 1.2 * 40
