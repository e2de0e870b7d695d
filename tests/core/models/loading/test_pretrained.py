"""Architectures, own modules, runs and preprocessing."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import nn
from torchvision import models

from tests.core.models.loading.networks import file_of, random_network, same
from tlnb.core.data.dataset import open_data
from tlnb.core.models import originals, pretrained
from tlnb.core.models.catalogue import torchvision_weights
from tlnb.core.models.weights import outline
from tlnb.core.runtime.errors import UsageError
from tlnb.display import model_cards

# ── architectures ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        ("vit_b_16", "IMAGENET1K_SWAG_E2E_V1"),
        ("vit_b_32", "IMAGENET1K_V1"),
        ("maxvit_t", "IMAGENET1K_V1"),
        ("regnet_y_400mf", "IMAGENET1K_V1"),
        ("swin_t", "IMAGENET1K_V1"),
        ("vgg11", "IMAGENET1K_V1"),
    ],
)
def test_the_network_is_the_one_that_torchvision_builds_for_these_weights(
    monkeypatch, name, weights
):
    member = torchvision_weights(name)[weights]
    built: list[nn.Module] = []
    monkeypatch.setattr(type(member), "get_state_dict", lambda *_, **__: {})
    monkeypatch.setattr(nn.Module, "load_state_dict", lambda self, *_, **__: built.append(self))
    outline(lambda: models.get_model(name, weights=member))
    ours = outline(lambda: originals.torchvision_original(name, member).make(1000)).state_dict()
    assert {k: v.shape for k, v in built[-1].state_dict().items()} == {
        k: v.shape for k, v in ours.items()
    }


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_auxiliary_heads_are_left_out_and_said(tmp_path, name):
    whole = random_network(name, aux_logits=True, init_weights=False)
    model = pretrained.load(name, file_of(tmp_path, whole.state_dict()))
    assert not [k for k in model.module.state_dict() if "aux" in k.lower()]
    assert any("auxiliary heads" in n for n in model.card.notes)
    assert model.module.transform_input  # as with torchvision's own weights
    model.module.train()
    assert isinstance(model.module(torch.zeros(2, 3, 80, 80)), torch.Tensor)
    assert model.card.parameters == sum(p.numel() for p in model.module.parameters())


def test_an_outline_is_made_of_parameters_alone_and_in_this_thread_alone():
    others: list[nn.Module] = []

    def make() -> nn.Module:
        thread = threading.Thread(target=lambda: others.append(nn.Linear(2, 2)))
        thread.start()
        thread.join()
        return nn.BatchNorm2d(3)

    made = outline(make)
    assert all(p.is_meta for p in made.parameters()) and not any(b.is_meta for b in made.buffers())
    assert not others[0].weight.is_meta and not nn.Linear(2, 2).weight.is_meta


# ── one's own modules, runs, data ─────────────────────────────────────────────────────────────────────────────────


def test_an_own_module_says_what_is_assumed(session):
    own = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 4))
    model = session.load(own, size=32, called="glyphnet")
    assert model.card.notes == (
        "preprocessing assumed to be ImageNet's: mean, std (mean=, std= change it)",
        "your variable glyphnet, not the model of that name in %tl_models",
    )
    assert session.load(own, mean=(0, 0, 0), std=(1, 1, 1), size=32, called="mine").card.notes == ()
    assert not same(session.load(own, "none", size=32).module, own)


def test_the_card_says_what_became_of_the_output_layer(session):
    model = session.load("glyphnet")
    assert (
        f"{len(model.classes):,} classes; will be replaced to fit the classes of the data"
        in model_cards.model_card(model)
    )
    count = len(model.classes)
    session.data("digits", per_class=1)
    assert (
        f"{count:,} classes; replaced by a new one for the 10 classes of the data"
        in model_cards.model_card(session.model)
    )
    assert session.model.module.head.out_features == count  # the model keeps its own
    assert session.load("glyphnet-few").target_classes == 10


def test_a_run_keeps_its_preprocessing_and_classes(small):
    small.data("digits", per_class=1, size=48)
    run = small.train(epochs=1)
    before = small.model.transform
    model = small.load(run)
    assert (model.transform.mean, model.transform.std) == (
        before.mean,
        before.std,
    ) and model.transform.size == 48
    assert model.classes == tuple("0123456789") and model.card.accuracy == run.accuracy
    assert not [n for n in model.card.notes if "assumed" in n]
    assert same(model.module, run.module())
    assert model.fresh().state_dict().keys() == run.module().state_dict().keys()
    assert small.load(run.name).name == run.name and small.script().endswith(f"%tl_load {run.name}")
    with pytest.raises(UsageError, match="has its own weights"):
        small.load(run, "none")


def test_help_shows_examples_with_weights(shell):
    assert "%tl_load resnet50 --weights IMAGENET1K_V1" in shell.find_line_magic("tl_load").__doc__


# ── preprocessing ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "name",
    [
        "resnet18",
        "resnet50",
        "efficientnet_b0",
        "vit_b_16",
        "swin_t",
        "convnext_tiny",
        "inception_v3",
        "vit_h_14",
    ],
)
def test_preprocessing_is_torchvisions(name):
    """On a real photo, cut to a square: within 2 of 255 (Pillow and torch round the same sums at other places)."""
    from PIL import Image
    from sklearn.datasets import load_sample_image

    photo = load_sample_image("china.jpg")[:400, :400].copy()
    weights = next(iter(torchvision_weights(name).values()))
    transform = originals.torchvision_original(name, weights).transform
    expected = weights.transforms()(Image.fromarray(photo))
    found = transform(torch.from_numpy(photo).permute(2, 0, 1)[None])[0]
    assert (
        found.shape == expected.shape
        and transform.interpolation == weights.transforms().interpolation.value
    )
    levels = (found - expected).abs() * torch.tensor(transform.std).view(3, 1, 1) * 255
    assert float(levels.max()) <= 2.01 and float(levels.mean()) < 0.05


def test_real_weights_know_real_photos(real_data):
    model = pretrained.load("squeezenet1_0", real_data / "squeezenet1_0_imagenet.safetensors")
    data = open_data(str(real_data / "ants_bees" / "val"), edge=model.transform.resize)
    images, labels = (
        torch.cat(list(part.values()))[::2] for part in (data.images, data.labels)
    )  # half is enough
    assert model.classes is not None
    wanted = torch.tensor(
        [model.classes.index({"ants": "ant", "bees": "bee"}[c]) for c in data.classes]
    )
    with torch.inference_mode():
        best = torch.cat(
            [model.module(model.transform(part)).topk(5).indices for part in images.split(16)]
        )
    right = (best == wanted[labels][:, None]).any(1).float().mean()
    assert float(right) >= 0.8
