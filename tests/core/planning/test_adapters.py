"""Adapters: what gets one, what trains, and that merging them is exact."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import nn
from torch.nn.utils import parametrize

from tlnb.core.models.module_copy import copied
from tlnb.core.planning.adapters import add_adapters, default_rank, merge_adapters
from tlnb.core.planning.plan import Edit, Plan
from tlnb.core.runtime.errors import PlanError, UsageError
from tlnb.session import Session

SMALL = {"epochs": 1, "batch_size": 16, "augment": "none"}
NETWORKS = {"resnet18": "fc", "vit_b_16": "heads.head", "squeezenet1_1": "classifier.1"}


def _disturbed(module: nn.Module) -> nn.Module:
    """The network as if its adapters had been trained."""
    torch.manual_seed(1)
    for name, parameter in module.named_parameters():
        if name.endswith(".up"):
            nn.init.normal_(parameter, std=0.02)
    return module.eval()


@pytest.mark.parametrize(("name", "head"), NETWORKS.items())
def test_a_merged_network_computes_the_same_with_its_own_names(name: str, head: str):
    size = {"image_size": 32} if name.startswith("vit") else {}
    plain = torchvision.models.get_model(name, weights=None, num_classes=3, **size).eval()
    nn.init.normal_(plain.get_submodule(head).weight)  # a ViT's is zero
    adapted = copied(plain)
    add_adapters(adapted, (head,), 2)
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(adapted.eval()(images), plain(images))  # they start at zero
        scores = _disturbed(adapted)(images)
        merged = merge_adapters(copied(adapted))
        assert torch.allclose(merged(images), scores, atol=1e-5)
        assert not torch.allclose(scores, plain(images), atol=1e-3)
        assert torch.equal(adapted(images), scores)  # the copy's merging left it alone
    assert merged.state_dict().keys() == plain.state_dict().keys()
    assert type(merged.get_submodule(head)) is type(plain.get_submodule(head))


def test_output_layers_depthwise_and_computed_weights_get_none():
    module = nn.Sequential(
        nn.Conv2d(4, 4, 3, groups=4),
        parametrize.register_parametrization(nn.Linear(4, 4), "weight", nn.Identity()),
        nn.Linear(4, 4),
        nn.Linear(4, 2),
    )
    add_adapters(module, ("3",), 1)
    ranks = [name for name, _ in module.named_parameters() if name.endswith(".down")]
    assert ranks == ["2.parametrizations.weight.0.down"]


def test_the_default_rank_adds_a_twentieth_at_most():
    module = torchvision.models.resnet18(weights=None)
    rank, before = default_rank(module, ("fc",)), sum(p.numel() for p in module.parameters())
    add_adapters(module, ("fc",), rank)
    added = sum(p.numel() for p in module.parameters()) - before
    assert rank > 1 and added <= 0.05 * before


def test_only_adapters_and_the_output_layer_move(small: Session):
    plan = small.strategy("adapter")
    assert plan.trainable_params < 0.05 * plan.total_params
    run = small.train(**SMALL)
    assert set(run.moved) <= set(plan.trained) and "head" in run.moved
    assert any(".parametrizations." in name for name in run.moved)
    assert not any("parametrizations" in key for key in run.module().state_dict())


def test_what_is_saved_or_loaded_again_is_the_merged_network(small: Session, tmp_path):
    small.strategy("adapter", rank=2)
    run = small.train(**SMALL)
    images = small.model.transform(small.dataset.images["test"][:8])
    with torch.no_grad():
        expected = run.module()(images)
        for source in (small.save(str(tmp_path / "run.safetensors")).path, run):
            small.load(source)
            assert torch.allclose(small.model.module.eval()(images), expected, atol=1e-6)
            assert small.plan.adapters is None


def test_an_adapter_run_goes_on_and_has_a_plain_baseline(small: Session):
    small.strategy("adapter", rank=2)
    run = small.train(**SMALL)
    later = small.train(from_=run.name, **SMALL)
    assert later.plan == run.plan and later.started_from == run.name
    scratch = small.train(scratch=True, epochs=1)
    assert scratch.plan.adapters is None and scratch.plan.trainable_params < run.plan.total_params


def test_another_strategy_takes_the_adapters_away_and_undo_brings_them_back(small: Session):
    before = small.plan
    adapted = small.strategy("adapter")
    assert small.strategy("adapter", rank=1).adapters == Edit(kind="adapt", name="head", rank=1)
    assert small.undo() == adapted
    assert small.strategy("head") == before
    assert small.undo() == adapted
    assert len(small.strategy().plans) == 3 and small.plan == adapted


def test_new_data_keeps_the_adapters(small: Session):
    rank = small.strategy("adapter", rank=3).adapters.rank
    small.data("symbols", per_class=2, classes=3)
    assert small.plan.strategy == "adapter" and small.plan.adapters.rank == rank
    assert small.train(**SMALL).status == "finished"


class _Shifted(nn.Module):
    """Something is computed from the images before the first layer, with no operation that counts."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = nn.Identity()
        self.conv = nn.Conv2d(3, 4, 3)
        self.head = nn.Linear(4, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.conv(self.shift(x * 2)).mean((2, 3)))


@pytest.mark.parametrize("own", [False, True])
def test_no_cache_is_missed_where_the_first_layer_has_an_adapter(small: Session, own: bool):
    if own:
        small.load(_Shifted(), size=32)
    small.strategy("adapter", rank=1)
    run = small.train(**SMALL)
    assert run.cache is None and not run.uncached


EDITS = {
    "remove": lambda tl: tl.remove("layer3"),
    "add": lambda tl: tl.add("after:layer3", "nn.Conv2d(in_features, 7, 1)"),
    "replace": lambda tl: tl.replace("layer3", "nn.Conv2d(in_features, 7, 1)"),
}


@pytest.mark.parametrize("edit", EDITS)
def test_an_edit_that_does_not_fit_names_the_same_layer_with_and_without_adapters(
    small: Session, edit: str
):
    messages = []
    for strategy in ("head", "adapter"):
        before = small.strategy(strategy)
        with pytest.raises(PlanError, match=r"layer4\.conv1 \(Conv2d\) cannot take") as error:
            EDITS[edit](small)
        messages.append(str(error.value))
        assert small.plan == before
    assert messages[0] == messages[1]


def test_a_range_means_the_same_stages_with_and_without_adapters(small: Session):
    for strategy in ("head", "adapter"):
        small.strategy(strategy)
        before = small.plan
        removed = [e.name for e in small.remove("layer3..layer4").edits if not e.automatic]
        assert removed[-2:] == ["layer3", "layer4"]
        assert small.undo() == before
        with pytest.raises(PlanError, match="remove layer2 does not fit: layer3.conv1"):
            small.remove("layer1..layer2")
    trained = set(small.freeze("layer1..layer2").trained)
    inside = {n for n in small.layers().names if n.startswith(("layer1", "layer2"))}
    assert trained and not trained & inside and "head" in trained


def test_an_edit_before_a_layer_with_a_computed_weight_names_that_layer(small: Session):
    norm = nn.utils.parametrizations.weight_norm
    body = nn.Sequential(nn.Conv2d(3, 8, 3), norm(nn.Conv2d(8, 4, 3)), nn.AdaptiveAvgPool2d(1))
    small.load(nn.Sequential(body, nn.Flatten(), nn.Linear(4, 10)), size=32)
    with pytest.raises(PlanError, match=r"0\.1 \(Conv2d\) cannot take \(1, 3, 32, 32\)"):
        small.remove("0.0")


@pytest.mark.parametrize("rank", [0, -1, 257])
def test_a_rank_out_of_range_is_one_line(small: Session, rank: int):
    before = small.plan
    with pytest.raises(PlanError, match=f"between 1 and 256, got {rank}"):
        small.strategy("adapter", rank=rank)
    assert small.plan == before


def test_a_rank_is_for_adapters_alone(small: Session):
    with pytest.raises(UsageError, match="--rank needs strategy adapter"):
        small.strategy("partial", rank=2)


def test_a_plan_with_adapters_survives_json(small: Session):
    plan = small.strategy("adapter", rank=2)
    assert Plan.from_json(plan.to_json()) == plan
