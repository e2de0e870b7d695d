"""Weights as people have them: wrappers, prefixes, what stands beside them, other output layers."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tlnb.core.models import pretrained
from tlnb.core.models.weights import State, named_as, read_state
from tlnb.core.runtime.errors import ModelError

State_ = dict[str, Tensor]


class Net(nn.Module):
    def __init__(self, scores: int = 5, deep: int = 1):
        super().__init__()
        self.body = nn.Sequential(
            *[nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)) for _ in range(deep)]
        )
        self.fc = nn.Linear(3, scores)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.body(x).mean((2, 3)))


def random_net(seed: int = 1, **how: int) -> Net:
    torch.manual_seed(seed)
    return Net(**how)


def loaded(
    tmp_path: Path, content: object, into: nn.Module | None = None
) -> pretrained.PretrainedModel:
    torch.save(content, tmp_path / "w.pth")
    return pretrained.load(into or random_net(2), tmp_path / "w.pth")


def prefixed(prefix: str) -> Callable[[State_], object]:
    return lambda state: {prefix + key: value for key, value in state.items()}


@pytest.mark.parametrize(
    "prefix",
    [
        "module.",
        "model.",
        "net.",
        "_orig_mod.",
        "backbone.",
        "module.model.",
        "_orig_mod.module.",
        "module._orig_mod.",
        "model.module.net.",
        "module.backbone.",
    ],
)
def test_prefixes_go_in_any_order(tmp_path: Path, prefix: str):
    """pytorch/pytorch #3805, abeardear/pytorch-YOLO-v1 #4, HumaticsLAB/SEAM-Match-RCNN #3."""
    state = random_net().state_dict()
    model = loaded(tmp_path, prefixed(prefix)(state))
    assert all(torch.equal(value, state[key]) for key, value in model.module.state_dict().items())
    assert any(repr(prefix) in note and "dropped" in note for note in model.card.notes)


def test_a_prefix_of_the_network_itself_stays(tmp_path: Path):
    own = nn.Sequential()
    own.add_module("model", random_net(2))
    state = random_net().state_dict()
    for content in (prefixed("model.")(state), state, prefixed("module.model.")(state)):
        model = loaded(tmp_path, content, own)
        assert all(
            torch.equal(value, model.module.model.state_dict()[key]) for key, value in state.items()
        )


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: {"net": s, "acc": 91.2, "epoch": 3},
        lambda s: {"model_state_dict": s, "optimizer": {"lr": 0.1}},
        lambda s: {**s, "epoch": 3, "best": 0.5},
        lambda s: {"ema": s},
        lambda s: {"state_dict": {"model": s}},
        lambda s: {
            "model": prefixed("module.")(s),
            "optimizer_state_dict": {"state": {0: {"exp_avg": torch.zeros(3)}}},
        },
    ],
)
def test_weights_are_found_among_what_scripts_save(tmp_path: Path, wrap):
    """kuangliu's `net`, PyTorch Lightning's `state_dict`, plain mappings with a number beside the tensors."""
    state = random_net().state_dict()
    model = loaded(tmp_path, wrap(state))
    assert all(torch.equal(value, state[key]) for key, value in model.module.state_dict().items())


@pytest.mark.parametrize(
    "beside",
    ["criterion.weight", "loss_fn.pos_weight", "metric.total", "total_ops", "body.0.total_params"],
)
def test_losses_and_counters_beside_the_network_are_left_out_and_said(tmp_path: Path, beside: str):
    state = {**random_net().state_dict(), beside: torch.ones(1)}
    notes = loaded(tmp_path, state).card.notes
    assert any("left out, not part of" in note and beside in note for note in notes)


def test_a_deeper_network_is_no_shallower_one(tmp_path: Path):
    with pytest.raises(ModelError, match=r"does not fit Net: body.1.0.weight is not part of Net"):
        loaded(tmp_path, random_net(deep=2).state_dict())
    with pytest.raises(ModelError, match=r"does not fit Net: body.1.0.weight is missing"):
        loaded(tmp_path, random_net(deep=1).state_dict(), random_net(2, deep=2))


@pytest.mark.parametrize(
    "change",
    [
        lambda s: {k: v for k, v in s.items() if not k.startswith("fc.")},
        lambda s: {
            **{k: v for k, v in s.items() if not k.startswith("fc.")},
            "head.weight": torch.zeros(9, 3),
        },
        lambda s: {**s, "fc.weight": torch.zeros(9, 3), "fc.bias": torch.zeros(9)},
    ],
)
def test_another_output_layer_or_none_loads_all_else(tmp_path: Path, change):
    """moskomule/senet.pytorch #73, Helias/Car-Model-Recognition #2, neuralmagic/sparseml #1455, pytorch/vision #1891."""
    state = random_net().state_dict()
    model = loaded(tmp_path, change(state))
    found = model.module.state_dict()
    assert all(
        torch.equal(found[key], value) for key, value in state.items() if not key.startswith("fc.")
    )
    assert any("that layer starts anew" in note for note in model.card.notes)
    assert torch.isfinite(found["fc.weight"]).all() and found["fc.weight"].shape == (5, 3)


def test_a_catalogue_network_without_its_output_layer(tmp_path: Path):
    from torchvision.models import shufflenet_v2_x0_5

    state = shufflenet_v2_x0_5().state_dict()
    torch.save({k: v for k, v in state.items() if not k.startswith("fc.")}, tmp_path / "w.pth")
    model = pretrained.load("shufflenet_v2_x0_5", tmp_path / "w.pth")
    assert torch.equal(model.module.state_dict()["conv5.0.weight"], state["conv5.0.weight"])
    assert not any(p.is_meta for p in model.module.parameters()) and model.classes is None
    assert model.card.notes[-1] == "what its scores meant is not known"


class Config:
    """Of somebody's script."""


@pytest.mark.parametrize("extra", [argparse.Namespace(lr=0.1), Config()])
def test_a_file_with_more_than_weights_is_not_called_damaged(tmp_path: Path, extra: object):
    """jtabox/safetensors-converter #2, mlcommons/mlperf-automations #465, Comfy-Org/ComfyUI #7425."""
    with pytest.raises(
        ModelError,
        match=rf"holds a \S*{type(extra).__name__} beside its weights.*save the weights alone",
    ) as error:
        loaded(tmp_path, {"state_dict": random_net().state_dict(), "args": extra})
    assert "damaged" not in str(error.value) and "\n" not in str(error.value)


def test_a_damaged_file_is_and_another_kind_names_what_it_holds(tmp_path: Path):
    torch.save(random_net().state_dict(), tmp_path / "w.pth")
    (tmp_path / "w.pth").write_bytes((tmp_path / "w.pth").read_bytes()[:300])
    with pytest.raises(ModelError, match="is damaged, or not a state_dict"):
        read_state(tmp_path / "w.pth")
    with pytest.raises(
        ModelError,
        match="does not hold a state_dict of tensors .its keys are a, b.: save model.state_dict",
    ):
        loaded(tmp_path, {"a": 1, "b": [2]})
    with pytest.raises(ModelError, match="does not hold a state_dict of tensors .a list."):
        loaded(tmp_path, [1, 2])


def test_nothing_is_renamed_that_fits(tmp_path: Path):
    state = State(random_net().state_dict(), "w.pth")
    assert named_as(state, random_net(2)) is state
