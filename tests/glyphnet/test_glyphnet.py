"""The embedded models: what they may not have seen, what their cards promise, and that pretraining goes on where it stopped."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tlnb import glyphnet, pretrain
from tlnb.glyphnet import glyphs, source

NAMES = ("glyphnet", "glyphnet-glyphs", "glyphnet-early", "glyphnet-few")


def test_the_four_siblings_ship():
    assert set(glyphnet.names()) == set(NAMES) and glyphnet.names()[0] == "glyphnet"


@pytest.mark.parametrize("name", NAMES)
def test_cards_tell_the_truth(name: str):
    card, network = glyphnet.card(name), glyphnet.load(name)
    assert card["bytes"] <= 1_300_000
    assert card["parameters"] == sum(p.numel() for p in network.parameters())
    assert len(card["classes"]) == card["source_classes"] == network.head.out_features
    assert card["training"]["seconds"] > 0 and card["training"]["flops"] > 0
    trunk = sum(p.numel() for n, p in network.named_parameters() if not n.startswith("head"))
    assert trunk == 558_264


def test_no_source_class_is_a_number():
    for name in NAMES:
        assert not [
            c for c in glyphnet.card(name)["classes"] if len(c) == 1 and glyphs.is_number(c)
        ]
    assert (
        glyphs.is_number("²")
        and glyphs.is_number("①")
        and glyphs.is_number("½")
        and not glyphs.is_number("Ж")
    )


def test_no_audited_class_is_in_the_source():
    gone = glyphs.audited()
    assert len(gone) > 100
    for name in NAMES:
        assert not gone & set(glyphnet.card(name)["classes"])


@pytest.mark.parametrize("name", ["glyphnet", "glyphnet-glyphs"])
def test_no_class_takes_a_twentieth_of_any_digit(name: str):
    found = pretrain.audit(glyphnet.load(name), tuple(glyphnet.card(name)["classes"]))
    assert not pretrain.confused_classes(found)
    recorded = glyphnet.card(name)["audit"]
    for digit, shares in found.items():
        assert shares == pytest.approx(recorded[digit], abs=1e-3)


def test_batches_depend_on_their_number_alone():
    small = source.source(glyphs=12, textures=True, faces=2)
    whole = list(small.batches(16, 4, seed=1))
    resumed = list(small.batches(16, 4, seed=1, start=2))
    for (x, y), (u, v) in zip(whole[2:], resumed, strict=True):
        assert torch.equal(x, u) and torch.equal(y, v)
    assert whole[0][0].shape == (16, 3, 32, 32) and whole[0][0].dtype == torch.uint8
    assert int((whole[0][1] >= 12).sum()) == 4  # a quarter are textures


def test_pretraining_resumes_and_equals_the_uninterrupted(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(pretrain, "CHECKPOINT_STEPS", 2)
    recipe = pretrain.Recipe(
        name="tiny", describes="a test", textures=False, glyphs=5, faces=2, steps=4, batch_size=8
    )
    whole, _ = pretrain.pretrain(recipe, tmp_path / "a")
    real = pretrain.train_epoch
    calls = []

    def twice(*arguments, **options):
        if len(calls) == 1:
            raise KeyboardInterrupt
        calls.append(1)
        return real(*arguments, **options)

    monkeypatch.setattr(pretrain, "train_epoch", twice)
    with pytest.raises(KeyboardInterrupt):
        pretrain.pretrain(recipe, tmp_path / "b")
    monkeypatch.setattr(pretrain, "train_epoch", real)
    resumed, took = pretrain.pretrain(recipe, tmp_path / "b")
    assert all(torch.equal(whole[k], resumed[k]) for k in whole) and took["steps"] == 4
    card = pretrain.publish(recipe, resumed, took, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "cards" / "tiny.json").read_text("utf8")) == card
