"""Weights by name and from files."""

from __future__ import annotations

import hashlib

import pytest
import torch
from torch import nn

from tests.core.models.loading.networks import NAME, file_of, random_network, same, saved
from tlnb.core.models import pretrained
from tlnb.core.models.catalogue import torchvision_card, torchvision_weights
from tlnb.core.runtime.errors import ModelError
from tlnb.display import model_cards

# ── names of weights ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "way", ["IMAGENET1K_V1", "imagenet1k_v1", "MobileNet_V2_Weights.IMAGENET1K_V1", "member"]
)
def test_weights_by_torchvisions_name(cache, monkeypatch, way):
    state = saved(random_network("mobilenet_v2").state_dict())
    member = torchvision_weights("mobilenet_v2")["IMAGENET1K_V1"]
    file = cache / f"mobilenet_v2-{hashlib.sha256(state).hexdigest()[:8]}.pth"
    cache.mkdir(parents=True)
    file.write_bytes(state)
    monkeypatch.setattr(
        member.value, "url", f"http://127.0.0.1:9/{file.name}"
    )  # already here: no server is asked
    model = pretrained.load("mobilenet_v2", member if way == "member" else way)
    assert model.weights == model.card.weights == "IMAGENET1K_V1" and model.transform.resize == 256
    assert [other.weights for other in model.card.others] == ["IMAGENET1K_V2"]
    assert "IMAGENET1K_V2" in model_cards.model_card(model)
    assert torchvision_card("mobilenet_v2").weights == "IMAGENET1K_V2"  # the default


def test_unknown_weights_are_listed(session):
    with pytest.raises(
        ModelError, match=r"IMAGENET1K_V2, IMAGENET1K_V1 or a file; did you mean IMAGENET1K_V2 or"
    ):
        session.load("resnet50", "IMAGENET1K_V3")
    with pytest.raises(
        ModelError, match="glyphnet has no weights 'best': use default, none or a file"
    ):
        session.load("glyphnet", "best")
    with pytest.raises(ModelError, match="the weights file 'best.pth' does not exist"):
        session.load("glyphnet", "best.pth")


def test_names_of_weights_are_completed(shell):
    complete = lambda line: shell.complete(line.split(" ")[-1], line, len(line))[1]  # noqa: E731
    assert complete("%tl_load resnet50 --weights IMA") == ["IMAGENET1K_V1", "IMAGENET1K_V2"]
    assert {"default", "none"} <= set(complete("%tl_load glyphnet --weights "))
    assert complete("%tl_models --sort f") == ["fast"]


# ── files ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_file_says_what_is_known_of_it(tmp_path, network):
    model = pretrained.load(NAME, file_of(tmp_path, network.state_dict()))
    assert same(model.module, network) and model.weights.endswith("mine.pth")
    assert (
        model.card.source == "unknown data (weights from mine.pth)" and model.card.accuracy is None
    )
    assert (
        "assumed to be those of ImageNet-1K" in model.card.notes[-1] and model.classes is not None
    )
    assert all(p.requires_grad and not p.is_meta for p in model.module.parameters())


@pytest.mark.parametrize("wrapper", ["state_dict", "model", "model_state_dict"])
def test_wrappers_and_prefixes_are_opened_and_said(tmp_path, network, wrapper):
    state = {wrapper: nn.DataParallel(network).state_dict(), "epoch": 3}
    model = pretrained.load(NAME, file_of(tmp_path, state))
    assert same(model.module, network)
    assert model.card.notes[:2] == (
        f"mine.pth: taken from its {wrapper!r}",
        "mine.pth: 'module.' dropped from the front of every name",
    )
    assert "module." in model_cards.model_card(model)


def test_a_file_with_other_classes_brings_its_output_layer(tmp_path):
    ten = random_network(NAME, num_classes=10)
    model = pretrained.load(NAME, file_of(tmp_path, ten.state_dict()))
    assert same(model.module, ten) and model.classes is None and model.card.source_classes == 10
    assert "10 classes of unknown names, the original has 1,000" in model.card.notes[-1]
    assert model.fresh()(torch.zeros(1, 3, 64, 64)).shape == (1, 10)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda s: s.pop("features.0.weight"),
            "does not fit squeezenet1_1: features.0.weight is missing",
        ),
        (
            lambda s: s.update({"features.99.w": torch.zeros(1)}),
            "features.99.w is not part of squeezenet1_1",
        ),
        (
            lambda s: s.update({"features.0.bias": torch.zeros(3)}),
            r"features.0.bias is \(3,\), squeezenet1_1 has \(64,\)",
        ),
        (lambda s: s.clear(), "does not hold a state_dict"),
        (lambda s: s.update({"evil": print}), "damaged, or not a state_dict"),
    ],
)
def test_a_file_that_does_not_fit_names_the_layers(session, tmp_path, network, change, words):
    state = dict(network.state_dict())
    change(state)
    with pytest.raises(ModelError, match=words):
        session.load(NAME, file_of(tmp_path, state))
    assert session.model is None


def test_values_that_are_no_numbers_are_said(tmp_path, network):
    state = {**network.state_dict(), "classifier.1.bias": torch.full((1000,), float("nan"))}
    model = pretrained.load(NAME, file_of(tmp_path, state))
    assert "NaN or infinite values in classifier.1.bias" in model.card.notes[0]


def test_half_precision_files_become_single(tmp_path, network):
    state = {k: v.half() for k, v in network.state_dict().items()}
    model = pretrained.load(NAME, file_of(tmp_path, state))
    assert {p.dtype for p in model.module.parameters()} == {torch.float32}


def test_older_names_and_files_without_counters(tmp_path):
    from safetensors.torch import save_file

    dense = random_network("densenet121")
    old = {
        k.replace(".norm1.", ".norm.1.").replace(".conv2.", ".conv.2."): v
        for k, v in dense.state_dict().items()
        if not k.endswith("num_batches_tracked")
    }
    assert any(".norm.1." in k for k in old)
    assert same(pretrained.load("densenet121", file_of(tmp_path, old)).module, dense)
    tiny = random_network(
        "mnasnet0_5"
    )  # its own loader insists on a version, which safetensors does not keep
    save_file(tiny.state_dict(), tmp_path / "mnasnet.safetensors")
    assert same(pretrained.load("mnasnet0_5", tmp_path / "mnasnet.safetensors").module, tiny)


def test_random_start_is_the_same_each_time_and_promises_nothing():
    state = torch.random.get_rng_state()
    one, two = pretrained.load("glyphnet", "none"), pretrained.load("glyphnet", "none")
    assert torch.equal(torch.random.get_rng_state(), state)
    assert same(one.module, two.module) and not same(one.module, pretrained.load("glyphnet").module)
    assert one.classes is None and one.card.accuracy is None and one.card.training == {}
    assert "trained on nothing" in repr(one)
