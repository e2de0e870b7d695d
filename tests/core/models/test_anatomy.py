"""Anatomy of any network: torchvision's families, and modules of one's own that do what networks may do."""

from __future__ import annotations

from collections import namedtuple

import pytest
import torch
from torch import Tensor, nn
from torchvision import models

from tests.networks import LeViT, without_numbers
from tlnb.core.models.anatomy import ROOT, UNUSED, Anatomy, read_anatomy
from tlnb.core.models.flops import step_flops
from tlnb.core.models.tracing import blank, watch
from tlnb.core.planning.edit import apply_edit, output_edits
from tlnb.core.planning.plan import match, plan_strategy
from tlnb.core.runtime.errors import ModelError, PlanError
from tlnb.core.training.freezing import set_modes
from tlnb.core.training.model_split import Cuts
from tlnb.display.cards import HTML
from tlnb.session import Session

FAMILIES = {
    "convnext_tiny": "features.0 features.1 features.2-3 features.4-5 features.6-7 classifier",
    "densenet121": "stem denseblock1 transition1-denseblock2 transition2-denseblock3 transition3-denseblock4 classifier",
    "efficientnet_b0": "features.0 features.1 features.2 features.3 features.4 features.5 features.6 features.7-8 "
    "classifier",
    "googlenet": "stem inception3a-b inception4a-e inception5a-b fc",
    "inception_v3": "stem Mixed_5b-d Mixed_6a-e Mixed_7a-c fc",
    "maxvit_t": "stem blocks.0 blocks.1 blocks.2 blocks.3 classifier",
    "mnasnet0_5": "stem layers.8 layers.9 layers.10 layers.11 layers.12 layers.13-14 classifier",
    "mobilenet_v2": "features.0 features.1 features.2-3 features.4-6 features.7-13 features.14-18 classifier",
    "regnet_y_400mf": "stem block1 block2 block3 block4 fc",
    "resnet18": "stem layer1 layer2 layer3 layer4 fc",
    "shufflenet_v2_x0_5": "conv1 stage2 stage3 stage4-conv5 fc",
    "squeezenet1_0": "features.0 features.3-5 features.7-10 features.12 classifier",
    "swin_t": "features.0 features.1 features.2-3 features.4-5 features.6-7 head",
    "vgg16_bn": "features.0-3 features.7-10 features.14-20 features.24-30 features.34-40 classifier",
    "vit_b_32": "stem encoder_layer_0-2 encoder_layer_3-5 encoder_layer_6-8 encoder_layer_9-11 heads",
}

PARTIAL = {
    "resnet18": "layer4 fc",
    "vgg16_bn": "features.34-40 classifier",
    "vit_b_32": "encoder_layer_9-11 heads",
    "efficientnet_b0": "features.7-8 classifier",
    "densenet121": "transition3-denseblock4 classifier",
}


@pytest.mark.parametrize("name", FAMILIES)
def test_torchvisions_families(name: str):
    module = without_numbers(name)
    weights = models.get_model_weights(name).DEFAULT
    size = weights.transforms().crop_size[0]
    read = read_anatomy(module, size, name)
    assert " ".join(s.name for s in read.stages) == FAMILIES[name]
    assert read.params == sum(p.numel() for p in module.parameters())
    assert read.flops == pytest.approx(2e9 * weights.meta["_ops"], rel=0.02)
    assert all(x.used and x.shape for x in read.layers)
    head, partial, full = (plan_strategy(read, s) for s in ("head", "partial", "full"))
    assert (
        {read.head}
        == set(head.trained)
        < set(partial.trained)
        < set(full.trained)
        == set(read.names)
    )
    assert full.trainable_params == read.params
    assert " ".join(read.stages_of(partial.trained)) == PARTIAL.get(
        name, " ".join(read.stages_of(partial.trained))
    )
    stages = [s.name for s in read.stages]
    assert match(read, [f"{stages[0]}..{stages[2]}"]) == {
        x.name for x in read.layers if x.stage in stages[:3]
    }
    images = torch.zeros(2, 3, size, size, device="meta")
    set_modes(module, set(partial.trained))
    assert Cuts().places(module, partial.trained, images)
    for edit in output_edits(module, read.heads, 10, {}):
        apply_edit(module, edit, {})
    assert blank(module).eval()(images).shape == (2, 10)


# ── what networks may do ──────────────────────────────────────────────────────────────────────────────────────────


def test_averaged_heads_count_as_one(session: Session):
    read = read_anatomy(LeViT(), 32)
    assert (read.head, read.heads) == ("head", ("head", "head_dist"))
    assert not read.softmax_after_head  # the one in attention is none
    assert [s.name for s in read.stages] == [
        "embed",
        "blocks.0",
        "blocks.1",
        "blocks.2",
        "blocks.3",
        "head",
    ]
    assert (
        set(plan_strategy(read, "head").trained)
        == set(plan_strategy(read, "output-frozen").frozen)
        == set(read.heads)
    )
    session.data("digits", per_class=2)
    session.load(LeViT(), size=32, called="levit")
    assert [e.name for e in session.plan.edits] == ["head", "head_dist"]
    assert session.train(epochs=2).moved == ("head", "head_dist")
    assert "head and head_dist, which count as one" in HTML[Anatomy](session.layers())


class Aux(nn.Module):
    """An auxiliary output in training mode, a layer that is never called, one that is called and leads nowhere."""

    Outputs = namedtuple("Outputs", "logits aux")

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3)
        self.conv2 = nn.Conv2d(4, 4, 3)
        self.fc = nn.Linear(4, 5)
        self.aux = nn.Linear(4, 5)
        self.never, self.nowhere = nn.Linear(7, 7), nn.Linear(4, 4)

    def forward(self, images: Tensor):
        features = self.conv2(self.conv1(images)).mean((2, 3))
        self.nowhere(features)
        if self.training:
            return self.Outputs(self.fc(features), self.aux(features))
        return self.fc(features)


def test_unused_layers_come_last():
    module = Aux().train()
    read = read_anatomy(module, 16)
    assert module.training and not list(module.fc._forward_hooks)
    assert [x.name for x in read.layers] == ["conv1", "conv2", "fc", "aux", "never", "nowhere"]
    assert [x.name for x in read.layers if not x.used] == ["aux", "never", "nowhere"]
    assert next(x for x in read.layers if x.name == "never").shape is None
    assert (read.head, read.stages[-1].name, read.params) == (
        "fc",
        UNUSED,
        sum(p.numel() for p in module.parameters()),
    )
    assert plan_strategy(read, "partial", last=1).trained == ("fc",)
    with pytest.raises(PlanError, match="must be between 1 and 3"):
        plan_strategy(read, "partial", last=4)
    head, partial, full = (set(plan_strategy(read, s).trained) for s in ("head", "partial", "full"))
    assert head < partial < full == set(read.names)
    assert "do not affect any score" in HTML[Anatomy](read)


class Shared(nn.Module):
    """A layer called three times, two layers with the same weights, and a parameter and a buffer of the model itself."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3, 1, 1))
        self.register_buffer("shift", torch.zeros(3, 1, 1))
        self.second = nn.Conv2d(3, 3, 1, bias=False)
        self.first = nn.Conv2d(3, 3, 1, bias=False)
        self.second.weight = self.first.weight
        self.again = nn.Conv2d(3, 3, 1)
        self.fc = nn.Linear(3, 5)

    def forward(self, images: Tensor) -> Tensor:
        x = self.second(self.first(images * self.scale + self.shift))
        for _ in range(3):
            x = self.again(x).relu_()
        return self.fc(x.mean((2, 3)))


def test_what_is_shared_counts_once():
    module = Shared()
    read = read_anatomy(module, 8)
    assert read.names == (ROOT, "first", "second", "again", "fc")
    params = {x.name: x.params for x in read.layers}
    assert params == {ROOT: 3, "first": 9, "second": 0, "again": 12, "fc": 20}
    assert read.params == sum(p.numel() for p in module.parameters())
    once = 2 * 8 * 8 * 9
    assert [x.flops for x in read.layers] == [0, once, once, 3 * once, 2 * 15]
    assert all(x.used for x in read.layers) and read.layers[0].shape == (3, 8, 8)


class Ends(nn.Module):
    """The same scores, put through something."""

    def __init__(self, last) -> None:
        super().__init__()
        self.classifier = nn.Sequential(
            nn.Dropout(), nn.Conv2d(4, 5, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1)
        )
        self.decoy = nn.Linear(5, 5)
        self.body = nn.Conv2d(3, 4, 3)
        self.last = last

    def forward(self, images: Tensor) -> Tensor:
        x = images + self.decoy(images.mean((2, 3)).repeat(1, 2)[:, :5]).mean()
        return self.last(self.classifier(self.body(x)).flatten(1))


@pytest.mark.parametrize(
    ("last", "remedy"),
    [
        (nn.Softmax(1), "%tl_remove last"),
        (lambda x: x.softmax(1), "forward"),
        (nn.Identity(), None),
        (nn.LogSoftmax(1), None),
        (lambda x: x.softmax(1).log(), None),
    ],
)
def test_the_output_layer_is_found_by_data_flow(last, remedy: str | None):
    read = read_anatomy(Ends(last), 16)
    assert (read.head, read.softmax_after_head, read.names[0]) == (
        "classifier.1",
        remedy is not None,
        "decoy",
    )
    notes = plan_strategy(read, "head").notes
    assert len(notes) == (remedy is not None) and all(note.endswith(remedy) for note in notes)
    assert ("a softmax comes after the output layer classifier.1" in HTML[Anatomy](read)) == bool(
        notes
    )


class NeedsNumbers(nn.Sequential):
    """Its way depends on what it sees."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images if float(images.sum()) < 1 else -images)


class MakesConstants(nn.Sequential):
    """Tensors made on the way, and one that is no buffer."""

    def __init__(self, *parts: nn.Module) -> None:
        super().__init__(*parts)
        self.plain = torch.ones(1)

    def forward(self, images: Tensor) -> Tensor:
        flipped = images[..., torch.arange(images.shape[-1] - 1, -1, -1)]
        return super().forward(flipped * self.plain + torch.zeros(1))


@pytest.mark.parametrize("kind", [nn.Sequential, NeedsNumbers, MakesConstants])
def test_own_modules_of_any_kind(kind):
    module = kind(
        nn.Conv2d(3, 4, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 8, 3),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(8 * 25, 16),
        nn.ReLU(),
        nn.Linear(16, 5),
    )
    read = read_anatomy(module, 16)
    assert [s.name for s in read.stages] == ["0", "3", "7", "9"] and read.head == "9"
    assert [x.running_stats for x in read.layers] == [False, False, True, False, False]
    assert int(module[4].num_batches_tracked) == 0 and module.training
    assert plan_strategy(read, "partial").trained == ("7", "9")
    assert step_flops(module, torch.zeros(2, 3, 16, 16)) > 2 * read.flops


def test_a_deep_chain_has_few_stages():
    layers = [part for _ in range(30) for part in (nn.Linear(16, 16), nn.ReLU())]
    read = read_anatomy(
        nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 16), *layers, nn.Linear(16, 5)), 8
    )
    assert [s.name for s in read.stages] == ["1-14", "16-30", "32-44", "46-60", "62"]


def test_networks_too_small_for_stages():
    one = read_anatomy(nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 5)), 8)
    assert (
        plan_strategy(one, "head").trained
        == plan_strategy(one, "partial").trained
        == one.names
        == ("1",)
    )
    two = read_anatomy(nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 7), nn.Linear(7, 5)), 8)
    assert plan_strategy(two, "partial").trained == ("2",)


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (
            nn.Sequential(
                nn.Conv2d(3, 5, 3),
                nn.AdaptiveAvgPool2d(1),
                nn.Flatten(),
                nn.PReLU(),
                nn.Bilinear(5, 5, 5),
            ),
            "take",
        ),
        (
            nn.Sequential(nn.Conv2d(3, 10, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.GLU()),
            "the last layer, 0, is a",
        ),
        (nn.Sequential(nn.Conv2d(3, 5, 3)), "it must give scores"),
        (Aux.__new__(nn.Flatten), "must be nn.Linear"),
    ],
)
def test_networks_that_cannot_be_used_are_one_line(module: nn.Module, words: str):
    if type(module) is nn.Flatten:
        module.__init__()
    with pytest.raises(ModelError, match=words) as error:
        read_anatomy(module, 16)
    assert "\n" not in str(error.value)


def test_the_largest_needs_no_memory():
    seen = watch(without_numbers("vit_h_14"), 224)
    assert seen.scores == 1000 and sum(step.flops for step in seen.steps) > 3e11


# ── cards ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_layers_show_what_is_frozen(small: Session):
    small.strategy("partial")
    read = small.layers()
    assert {s.name: s.frozen_params for s in read.stages if s.frozen} == {
        s.name: s.params for s in read.stages if s.name not in ("layer4", "head")
    }
    html = HTML[Anatomy](small.layers(every=True))
    assert all(name in html for name in read.names) and "running statistics" in html
    assert html.count("frozen</td>") == 18 + 4  # layers and their stages


def test_strategies_say_what_each_trains_and_costs(small: Session):
    found = small.strategy()
    assert found.stages == (
        ("head",),
        ("layer4", "head"),
        tuple(s.name for s in small.layers().stages),
    )
    assert [f / 1e6 for f in found.step_flops] == pytest.approx([17.0, 21.9, 50.6], abs=0.1)
    html = HTML[type(found)](found)
    assert "<b>head</b> ← suggested" in html and "(layer4, head)" in html and "measured" in html


def test_names_are_escaped():
    module = nn.Sequential()
    module.add_module("<b>", nn.Flatten())
    module.add_module("<i>", nn.Linear(3 * 64, 5))
    html = HTML[Anatomy](read_anatomy(module, 8, "<script>"))
    assert "<i>" not in html and "<script>" not in html and "&lt;i&gt;" in html
