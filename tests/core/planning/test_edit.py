"""Edits: layers added, removed, replaced; names stay; what does not fit is refused; undo; what the user changes directly."""

from __future__ import annotations

import copy

import pytest
import torch
import torchvision
from torch import nn

from tlnb.core.planning.edit import build, is_literal
from tlnb.core.planning.plan import Plan
from tlnb.core.runtime.errors import ModelError, PlanError
from tlnb.session import Session

QUICK = {"epochs": 1, "batch_size": 8, "augment": "none"}


class Twice(nn.Module):
    """A module of the user's own."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(self.inner(x))


@pytest.fixture
def resnet(session: Session) -> Session:
    """A torchvision network with random weights, on digits."""
    session.data("digits", per_class=2)
    session.load("resnet18", "none", size=32)
    return session


def names(session: Session) -> set[str]:
    return {layer.name for layer in session.layers(True).layers}


def test_what_is_added_trains_and_no_name_changes(small: Session):
    before = names(small)
    plan = small.add("after:layer4", "nn.Conv2d(in_features, in_features, 1)")
    assert names(small) == before | {"layer4.after1"}
    assert set(plan.trained) == {"head", "layer4.after1"} and plan.strategy == "head"
    assert plan.edits[-1].in_features == 160
    run = small.train(**QUICK)
    assert run.status == "finished" and set(run.moved) == {"head", "layer4.after1"}
    assert run.module().layer4.after1.weight.shape == (160, 160, 1, 1)


def test_added_layers_compute_in_their_order(small: Session):
    small.add("before:head", "nn.Dropout(0.5)")
    small.add("before:head", "nn.Linear(in_features, 16)")
    plan = small.add("after:layer3", "nn.Identity()")
    assert [e.part for e in plan.edits if not e.automatic] == ["before1", "before2", "after1"]
    assert (
        next(e for e in plan.edits if e.automatic).code == "nn.Linear(16, 10)"
    )  # the output layer follows the width
    network = build(small.model, plan.edits, "pretrained", 0).eval()
    images = torch.rand(2, 3, 32, 32)
    features = network.flatten(
        network.pool(
            network.layer4(network.layer3(network.layer2(network.layer1(network.stem(images)))))
        )
    )
    expected = nn.functional.linear(
        network.head.before2(features), network.head.weight, network.head.bias
    )
    assert torch.allclose(network(images), expected, atol=1e-6)
    twin = copy.deepcopy(network)
    nn.init.zeros_(twin.head.before2.weight)
    assert torch.allclose(network(images), expected, atol=1e-6)  # a copy has parts of its own


@pytest.mark.parametrize("strategy", ["head", "partial"])
def test_caching_with_edits_changes_nothing(small: Session, strategy: str):
    small.add("after:layer3", "nn.Identity()")
    small.add("before:head", "nn.Dropout(0.3)")
    small.strategy(strategy)
    runs = [
        small.train(epochs=3, batch_size=8, augment="none", precision="fp32", cache=c)
        for c in (True, False)
    ]
    losses = [[e.train_loss for e in run.epochs] for run in runs]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


def test_removing_the_last_stage_brings_an_output_layer_of_the_right_width(resnet: Session):
    plan = resnet.remove("layer4")
    assert not [n for n in names(resnet) if n.startswith("layer4")]
    assert next(e for e in plan.edits if e.automatic).code == "nn.Linear(256, 10)"
    run = resnet.train(**QUICK)
    assert run.module().fc.in_features == 256 and isinstance(run.module().layer4, nn.Identity)


def test_removing_without_data_keeps_the_models_own_classes(session: Session):
    session.load("resnet18", "none", size=32)
    plan = session.remove("layer4")
    assert plan.edits[0].code == "nn.Linear(256, 1000)"
    session.data("digits", per_class=1)
    assert session.plan.edits[0].code == "nn.Linear(256, 10)"
    assert isinstance(build(session.model, session.plan.edits, "pretrained", 0).layer4, nn.Identity)


def test_a_replaced_layer_trains_until_frozen_by_name(resnet: Session):
    resnet.strategy("head")
    plan = resnet.replace("layer1.0.conv1", "nn.Conv2d(in_features, 64, 5, padding=2, bias=False)")
    assert set(plan.trained) == {"fc", "layer1.0.conv1"}
    assert resnet.strategy("head").trained == plan.trained  # edits stay, new layers train
    assert resnet.freeze("layer1.0.conv1").trained == ("fc",)


def test_a_head_of_ones_own(small: Session):
    plan = small.replace(
        "head", "nn.Sequential(nn.Linear(in_features, 32), nn.ReLU(), nn.Linear(32, classes))"
    )
    assert set(plan.trained) == {"head.0", "head.2"} and small.layers().head == "head.2"
    small.data("symbols", classes=5, per_class=2)  # new data: the same edit, for other classes
    assert small.plan.edits[-1].classes == 5 and small.layers(True).layers[-1].shape == (5,)
    assert small.train(**QUICK).module()(torch.zeros(1, 3, 32, 32)).shape == (1, 5)


def test_code_may_use_the_users_names(small: Session):
    scope = {"Twice": Twice, "width": 160}
    plan = small.add("before:head", "Twice(width)", scope)
    scope["width"] = 3  # what the plan was checked with counts
    assert "head.before1.inner" in plan.trained
    assert small.train(**QUICK).module().head.before1.inner.in_features == 160


def test_a_module_may_be_given(small: Session):
    mine = Twice(160)
    before = mine.inner.weight.detach().clone()
    small.add("before:head", mine)
    run = small.train(**QUICK)
    assert torch.equal(mine.inner.weight, before) and not torch.equal(
        run.module().head.before1.inner.weight, before
    )


def test_undo_goes_back_step_by_step(small: Session):
    first = small.plan
    second = small.strategy("partial")
    small.remove("layer4")
    small.freeze("stem")
    small.undo()
    assert isinstance(build(small.model, small.plan.edits, "pretrained", 0).layer4, nn.Identity)
    assert small.undo() == second
    assert small.undo() == first
    with pytest.raises(PlanError, match="nothing to undo"):
        small.undo()


def test_plans_with_edits_survive_json(small: Session):
    small.add("after:layer4", "nn.Dropout(0.1)")
    assert Plan.from_json(small.plan.to_json()) == small.plan


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda s: s.add("behind:layer4", "nn.ReLU()"), "write before:head or after:stem"),
        (lambda s: s.add("after:layr4", "nn.ReLU()"), "did you mean layer4"),
        (lambda s: s.add("after:layer4", "nn.Relu()"), "cannot be built"),
        (lambda s: s.add("after:layer4", "nn.Conv2d(3, 8, 1)"), "does not fit"),
        (lambda s: s.add("after:layer4", "nn.ReLU("), "is not a Python expression"),
        (lambda s: s.add("after:layer4", "3 + 4"), "gives type int"),
        (lambda s: s.add("after:layer4", 7), "int is not a layer"),
        (lambda s: s.replace("head", "nn.Linear(in_features, 7)"), "not .1, 10."),
        (lambda s: s.replace("layer3", "nn.Identity()"), "layer4.conv1 .Conv2d. cannot take"),
        (lambda s: s.remove("head"), "is the output layer"),
        (lambda s: s.remove("layer9"), "no module matches"),
        (lambda s: s.remove("layer3"), "cannot take"),
        (lambda s: s.undo(), "nothing to undo"),
    ],
)
def test_an_edit_that_does_not_fit_changes_nothing(small: Session, call, words):
    before = (small.plan, small.script(), small.layers(True))
    with pytest.raises(PlanError, match=words) as error:
        call(small)
    assert "\n" not in str(error.value)
    assert (small.plan, small.script(), small.layers(True)) == before


def test_squeezenets_output_layer_cannot_die(session: Session):
    session.data("digits", per_class=2)
    session.load("squeezenet1_1", "none", size=64)
    network = build(session.model, session.plan.edits, "pretrained", 0).eval()
    assert session.layers().head == "classifier.1" and isinstance(
        network.classifier[2], nn.Identity
    )
    images = torch.rand(2, 3, 64, 64)
    maps = network.features(images)
    head = network.classifier[1]
    assert torch.allclose(network(images), head(maps).mean((2, 3)), atol=1e-5)
    assert set(session.train(**QUICK).moved) == {"classifier.1"}


def test_direct_changes_become_part_of_the_plan(resnet: Session):
    module = resnet.model.module
    module.requires_grad_(False)
    module.fc = nn.Linear(512, 10)
    plan = resnet.layers() and resnet.plan
    assert plan.strategy == "custom" and plan.trained == ("fc",) and plan.edits == ()
    run = resnet.train(**QUICK)
    assert run.moved == ("fc",)
    module.layer4.requires_grad_(True)
    assert {n.split(".")[0] for n in resnet.layers() and resnet.plan.trained} == {"layer4", "fc"}
    assert "changed in Python: fc" in resnet.script()
    resnet.data("symbols", classes=4, per_class=2)
    assert [e.code for e in resnet.plan.edits] == ["nn.Linear(512, 4)"]


def test_only_plain_constructors_are_literal():
    for code in (
        "nn.Linear(3, 4)",
        "nn.Sequential(nn.ReLU(), nn.Conv2d(in_features, 2 * classes, (3, 3), bias=False))",
    ):
        assert is_literal(code)
    for code in (
        "Linear(3, 4)",
        "nn.Linear(n, 4)",
        "nn.init.zeros_(x)",
        "nn.Linear(*[3, 4])",
        "__import__('os')",
        "nn.Linear(3, (lambda: 4)())",
        "nn.modules",
        "nn.Linear(3, 4); 1",
    ):
        assert not is_literal(code)


@pytest.mark.parametrize(
    ("name", "size", "pattern", "gone"),
    [
        ("mobilenet_v3_small", 64, "features.11", "features.11"),
        ("densenet121", 64, "features.denseblock4..features.norm5", "features.denseblock4"),
        ("vit_b_32", 224, "encoder.layers.encoder_layer_11", "encoder.layers.encoder_layer_11"),
    ],
)
def test_removing_from_torchvisions_networks(
    session: Session, name: str, size: int, pattern: str, gone: str
):
    session.data("digits", per_class=1)
    session.load(torchvision.models.get_model(name, weights=None), size=size, called=name)
    assert any(n.startswith(gone + ".") for n in names(session))
    session.remove(pattern)
    assert not any(n.startswith(gone + ".") for n in names(session))


def test_a_dropout_with_something_added_still_drops():
    from tlnb.core.planning.edit import _attach
    from tlnb.core.training.freezing import set_modes

    network = torch.nn.Sequential(
        torch.nn.Linear(4, 4), torch.nn.Dropout(0.5), torch.nn.Linear(4, 2)
    )
    _attach(network[1], "after", "after1", torch.nn.Identity())
    set_modes(network, {"2"})
    assert (
        network[1].training and not network[0].training
    )  # it goes with the next layer, as without the addition
    set_modes(network, {"0"})
    assert not network[1].training


@pytest.mark.parametrize("how", ["replace", "add", "by hand"])
def test_a_new_part_that_is_compiled_is_refused_for_that_reason(small: Session, how: str):
    plan, part = small.plan, torch.jit.script(nn.Conv2d(24, 24, 3, padding=1))
    with pytest.raises(ModelError, match=r"GlyphNet\.layer.* is compiled by torch\.jit"):
        if how == "replace":
            small.replace("layer1", part)
        elif how == "add":
            small.add("before:layer2", part)
        else:
            small.model.module.layer1 = part
            small.train(epochs=1)
    assert small.state.plan == plan and not small.runs
