"""Cuts: two halves make the whole, and nothing random or mixed between images is cached."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision import models

from tlnb.core.models.anatomy import read_anatomy
from tlnb.core.planning.plan import plan_strategy
from tlnb.core.runtime.device import machine
from tlnb.core.training.freezing import set_modes
from tlnb.core.training.model_split import Cuts
from tlnb.core.training.split_proof import Proof

SMALL = (
    "densenet121",
    "efficientnet_b0",
    "googlenet",
    "inception_v3",
    "mnasnet0_5",
    "regnet_y_400mf",
    "resnet18",
    "shufflenet_v2_x0_5",
    "squeezenet1_0",
)  # quick with numbers


@pytest.mark.parametrize("name", SMALL)
def test_two_halves_make_the_whole(name: str):
    torch.manual_seed(0)
    options = (
        {"init_weights": False, "transform_input": True, "aux_logits": False}
        if name in ("googlenet", "inception_v3")
        else {}
    )
    module = models.get_model(name, weights=None, num_classes=5, **options)
    size = 96 if name == "inception_v3" else 64
    halves(module, size)


def test_two_halves_of_transformers():
    torch.manual_seed(0)
    halves(models.VisionTransformer(32, 8, 4, 2, 16, 32, dropout=0.1, num_classes=5), 32)
    halves(models.SwinTransformer([4, 4], 8, [1, 1, 2, 1], [1, 1, 2, 2], [4, 4], num_classes=5), 64)
    halves(models.MaxVit((64, 64), 8, 2, [8, 8, 8, 8], [1, 1, 1, 1], 4, 0.5, num_classes=5), 64)
    halves(
        models.ConvNeXt(
            [models.convnext.CNBlockConfig(8, 16, 2), models.convnext.CNBlockConfig(16, None, 2)],
            stochastic_depth_prob=0.5,
            num_classes=5,
        ),
        32,
    )


def halves(module: nn.Module, size: int) -> None:
    images = torch.randn(3, 3, size, size)
    plan = plan_strategy(read_anatomy(module, size), "partial")
    set_modes(module, set(plan.trained))
    cuts = Cuts()
    cut = cuts.at(module, cuts.places(module, plan.trained, images)[-1])
    module.eval()
    with torch.no_grad():
        assert torch.allclose(cut.suffix(cut.prefix(images)), module(images), atol=1e-5)


class Random(nn.Module):
    def __init__(self, draw) -> None:
        super().__init__()
        self.body, self.fc, self.draw = nn.Conv2d(3, 4, 3), nn.Linear(4, 5), draw

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(self.draw(self.body(images)).mean((2, 3)))


@pytest.mark.parametrize(
    ("draw", "at"),
    [
        (lambda x: F.dropout(x, 0.5, False), "the input of fc"),
        (lambda x: F.dropout(x, 0.5), "body"),
        (lambda x: F.dropout(x, 0.0), "the input of fc"),
        (lambda x: x + torch.rand_like(x), "body"),
        (lambda x: x * x.new_ones(1).bernoulli_(0.5), "body"),
        (lambda x: torch.cat(x.chunk(2, 1), 1), "the input of fc"),
    ],
)
def test_nothing_random_is_cached(draw, at: str):
    module = Random(draw)
    set_modes(module, {"fc"})
    assert Cuts().places(module, ("fc",), torch.zeros(2, 3, 8, 8))[-1].at == at


class Windows(nn.Module):
    """Between the two layers a row is a quarter of an image."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.inner, self.fc = nn.Conv2d(3, 4, 1), nn.Linear(4, 4), nn.Linear(4, 5)

    def forward(self, images: Tensor) -> Tensor:
        x = self.body(images).flatten(2).transpose(1, 2)
        windows = x.reshape(-1, x.shape[1] // 4, 4)
        return self.fc(self.inner(windows).reshape(x.shape[0], -1, 4).mean(1))


def test_a_cut_has_a_row_for_each_image():
    module = Windows()
    set_modes(module, {"inner", "fc"})
    images = torch.randn(3, 3, 8, 8)
    cuts = Cuts()
    for place in cuts.places(module, ("inner", "fc"), images):
        assert len(cuts.at(module, place).prefix(images)) == 3


class TwoHeads(nn.Module):
    """Both output layers read the pooled features; a residual reads them too."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.one, self.two = nn.Conv2d(3, 4, 3), nn.Linear(4, 5), nn.Linear(4, 5)

    def forward(self, images: Tensor) -> Tensor:
        pooled = self.body(images).relu().mean((2, 3))
        return self.one(pooled) + self.two(pooled) + pooled.sum(1, keepdim=True)


@pytest.mark.parametrize("is_tail", [False, True])
def test_hooks_that_come_after_the_split_see_what_was_cached(is_tail: bool):
    module, images, cuts = Random(lambda x: x.relu()), torch.randn(3, 3, 8, 8), Cuts()
    set_modes(module, {"fc"})
    last = [p for p in cuts.places(module, ("fc",), images) if p.is_tail == is_tail][-1]
    cut = cuts.at(module, last)
    assert last.at == "the input of fc"
    module.fc.register_forward_pre_hook(lambda _, given: (given[0] * 2 + 1,))
    assert torch.allclose(cut.suffix(cut.prefix(images)), module(images), atol=1e-5)


def test_what_several_layers_read_is_cached_once():
    module, images, cuts = TwoHeads(), torch.randn(3, 3, 8, 8), Cuts()
    set_modes(module, {"one", "two"})
    cut = cuts.at(module, cuts.places(module, ("one", "two"), images)[-1])
    assert cut.prefix(images).shape == (3, 4)
    assert torch.allclose(cut.suffix(cut.prefix(images)), module(images), atol=1e-5)


class Table(nn.Module):
    """Fills a buffer in its first pass."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4, 5)
        self.register_buffer("table", torch.zeros(1))

    def forward(self, images: Tensor) -> Tensor:
        x = self.body(images)
        if self.table.shape != x.shape[2:]:
            self.table = torch.ones(x.shape[2:])
        return self.fc((x * self.table).mean((2, 3)))


def test_a_table_that_the_first_pass_fills_is_no_fault():
    module, images, cuts = Table(), torch.randn(3, 3, 8, 8), Cuts()
    set_modes(module, {"fc"})
    last = cuts.places(module, ("fc",), images)[-1]
    proof = Proof(module=module, images=images, machine=machine("cpu", "fp32"))
    assert last.numbers == 4 and not proof.fault(last, cuts.at(module, last))
    assert module.table.shape == (1,)
