"""Anatomy, strategies, patterns, cuts: for the embedded network and for some of torchvision's."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torchvision
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tlnb.core.models import pretrained
from tlnb.core.models.anatomy import Anatomy, read_anatomy
from tlnb.core.planning.edit import build, new_output_layer
from tlnb.core.planning.options import TrainOptions
from tlnb.core.planning.plan import match, plan_freeze, plan_strategy, plan_unfreeze
from tlnb.core.planning.recipes import recipe
from tlnb.core.runtime.errors import ModelError, PlanError, TLError, UsageError
from tlnb.core.training.freezing import set_modes
from tlnb.core.training.model_split import Cuts
from tlnb.session import Session

NETWORKS = (
    "resnet18",
    "mobilenet_v3_small",
    "squeezenet1_1",
    "shufflenet_v2_x0_5",
    "densenet121",
    "vgg11_bn",
)


@pytest.fixture(scope="module")
def anatomy() -> Anatomy:
    return read_anatomy(pretrained.load("glyphnet").module, 32, "glyphnet")


def test_anatomy_of_glyphnet(anatomy: Anatomy):
    assert [s.name for s in anatomy.stages] == [
        "stem",
        "layer1",
        "layer2",
        "layer3",
        "layer4",
        "head",
    ]
    assert anatomy.head == "head"
    trunk = sum(s.params for s in anatomy.stages[:-1])
    assert trunk == 558_264
    forward = sum(s.flops for s in anatomy.stages[:-1])
    assert forward == pytest.approx(17.0e6, rel=0.01)


@pytest.mark.parametrize("name", NETWORKS)
def test_strategies_nest_for_any_network(name: str):
    module = torchvision.models.get_model(name, weights=None)
    model = pretrained.load(module, called=name)
    read = read_anatomy(module, 64, name)
    assert read.params == sum(p.numel() for p in module.parameters())
    edits = (new_output_layer(module, read.head, 7),)
    edited = build(model, edits, "pretrained", 0)
    assert edited(torch.zeros(2, 3, 64, 64)).shape == (2, 7)
    read = read_anatomy(edited, 64, name)
    head, partial, full = (
        set(plan_strategy(read, s, edits).trained) for s in ("head", "partial", "full")
    )
    assert {read.head} == head < partial < full == set(read.names)
    assert plan_strategy(read, "full").trainable_params == read.params


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("strategy", ["head", "partial"])
def test_a_cut_changes_nothing(name: str, strategy: str):
    torch.manual_seed(0)
    module = torchvision.models.get_model(name, weights=None, num_classes=5)
    plan = plan_strategy(read_anatomy(module, 64, name), strategy)
    set_modes(module, set(plan.trained))
    images = torch.randn(3, 3, 64, 64)
    cuts = Cuts()
    last = cuts.places(module, plan.trained, images)[-1]
    cut = cuts.at(module, last)
    assert not cut.prefix(images).requires_grad
    module.eval()
    assert torch.allclose(cut.suffix(cut.prefix(images)), module(images), atol=1e-5)


def test_no_cut_where_everything_trains(anatomy: Anatomy):
    module = pretrained.load("glyphnet").module
    set_modes(module, set(anatomy.names))
    assert Cuts().places(module, anatomy.names, torch.zeros(2, 3, 32, 32)) == []


def test_frozen_means_eval_mode_and_no_gradient(anatomy: Anatomy):
    module = build(pretrained.load("glyphnet"), (), "pretrained", 0)
    plan = plan_freeze(plan_strategy(anatomy, "full"), anatomy, ["stem..layer2"])
    set_modes(module, set(plan.trained))
    for name in plan.frozen:
        layer = module.get_submodule(name)
        assert not layer.training and not any(
            p.requires_grad for p in layer._parameters.values() if p is not None
        )
    assert module.layer3.bn1.training and module.layer3.conv1.weight.requires_grad


def test_dropout_goes_with_the_next_layer():
    net = nn.Sequential(
        nn.Flatten(), nn.Linear(12, 4), nn.Dropout(), nn.Linear(4, 4), nn.Dropout(), nn.Linear(4, 2)
    )
    set_modes(net, {"5"})
    assert [m.training for m in net] == [False, False, False, False, True, True]


def test_patterns(anatomy: Anatomy):
    assert match(anatomy, ["layer4"]) == {n for n in anatomy.names if n.startswith("layer4.")}
    assert match(anatomy, ["*.bn?"]) == {n for n in anatomy.names if ".bn" in n and n != "stem.bn"}
    assert match(anatomy, ["stem..layer1"]) == {
        n for n in anatomy.names if n.split(".")[0] in ("stem", "layer1")
    }
    with pytest.raises(PlanError, match="did you mean layer4"):
        match(anatomy, ["layr4"])
    with pytest.raises(PlanError, match="write layer1..layer3"):
        match(anatomy, ["layer3..layer1"])


@given(st.lists(st.sampled_from(["stem", "layer1", "layer2", "layer3", "layer4"]), min_size=1))
def test_unfreezing_undoes_freezing(anatomy: Anatomy, stages):
    full = plan_strategy(anatomy, "full")
    there = plan_freeze(full, anatomy, stages)
    assert (
        set(there.frozen) | set(there.trained) == set(anatomy.names) and there.strategy == "custom"
    )
    assert plan_unfreeze(there, anatomy, stages).frozen == full.frozen


def test_bad_plans_are_one_line(anatomy: Anatomy):
    with pytest.raises(PlanError, match="did you mean partial"):
        plan_strategy(anatomy, "partal")
    with pytest.raises(PlanError, match="--last must be between 1 and 6, .* got 9"):
        plan_strategy(anatomy, "partial", last=9)
    with pytest.raises(PlanError, match="everything in glyphnet is frozen"):
        plan_freeze(plan_strategy(anatomy, "head"), anatomy, ["head"])


@pytest.mark.parametrize(
    "bad",
    [
        {"epochs": 0},
        {"lr": -1},
        {"lr": float("nan")},
        {"augment": "wild"},
        {"batch_size": 0},
        {"weight_decay": -1},
    ],
)
def test_bad_options_are_one_line(bad):
    with pytest.raises(UsageError):
        TrainOptions(**bad)


def test_loading_says_what_is_wrong(tmp_path):
    from safetensors.torch import save_file

    state = pretrained.load("glyphnet").module.state_dict()
    whole = tmp_path / "whole.safetensors"
    save_file({k: v.contiguous() for k, v in state.items()}, whole)
    assert torch.equal(
        pretrained.load("glyphnet", str(whole)).module.head.weight, state["head.weight"]
    )
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(whole.read_bytes()[:10_000])
    other = tmp_path / "other.safetensors"
    save_file({**{k: v.contiguous() for k, v in state.items()}, "head.bias": torch.zeros(3)}, other)
    hashed = tmp_path / "net-0123456789ab.pth"
    torch.save(state, hashed)
    evil = tmp_path / "evil.pt"
    torch.save({"x": print}, evil)
    for file, words in (
        (damaged, "is damaged"),
        (other, "head.bias is .3,"),
        (hashed, "wrong hash"),
        (evil, "damaged, or no"),
        (tmp_path / "none.pt", "the weights file"),
    ):
        with pytest.raises(ModelError, match=words) as error:
            pretrained.load("glyphnet", str(file))
        assert "\n" not in str(error.value)


def test_embedded_weights_are_checked(monkeypatch):
    from tlnb import glyphnet

    facts = dict(glyphnet.card("glyphnet"), sha256="0" * 64)
    monkeypatch.setattr(glyphnet, "card", lambda name: facts)
    with pytest.raises(ModelError, match="are damaged"):
        pretrained.load("glyphnet")


def test_own_modules():
    with pytest.raises(ModelError, match="no parameters"):
        pretrained.load(nn.Flatten())
    with pytest.raises(ModelError, match="does not take an image"):
        read_anatomy(nn.Linear(3, 4), 32)
    with pytest.raises(TLError, match="scores"):
        read_anatomy(nn.Conv2d(3, 4, 3), 32)
    model = pretrained.load(
        nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 4)), size=32, mean="0,0,0", std=(1, 1, 1)
    )
    assert model.transform == replace(
        model.transform, size=32, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)
    )
    assert model.transform(torch.full((1, 3, 40, 40), 255, dtype=torch.uint8)).max() == 1


def test_catalogue_knows_torchvision_and_the_embedded():
    found = pretrained.catalogue()
    assert len(found) >= 84
    assert found.cards[0].family == "embedded" and found.cards[0].on_disk
    resnet = next(c for c in pretrained.catalogue("resnet18").cards if c.name == "resnet18")
    assert resnet.parameters == 11_689_512 and 0.69 < (resnet.accuracy or 0) < 0.70
    with pytest.raises(ModelError, match="did you mean"):
        pretrained.catalogue("rasnet18")


def test_where_nothing_normalises_rates_are_a_tenth_but_not_the_line_searchs(session: Session):
    data = session.data("digits", per_class=2)
    rates = {}
    for name in ("squeezenet1_1", "mobilenet_v3_small"):
        session.load(name, "none")
        session.strategy("full")
        full = recipe(session.plan, data).lr
        session.strategy("head")
        head = recipe(session.plan, data).lr
        frozen = [layer for layer in session.layers().names if layer not in session.plan.trained]
        session.strategy("full")
        custom = session.freeze(*frozen)  # by hand, the output layer alone: a custom plan
        assert custom.strategy == "custom"
        rates[name] = (full, head, recipe(custom, data, "lbfgs").lr)
    plain, normalised = rates.values()
    assert plain[0] == pytest.approx(normalised[0] / 10) and plain[1:] == normalised[1:]
