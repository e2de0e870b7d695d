"""Lesson 2's claims over three draws: a source is good that is accurate, large and relevant."""

from __future__ import annotations

import pytest

from tlnb import glyphnet
from tlnb.session import Session

SEEDS = (0, 1, 2)


def transferred(model: str, data: str, per_class: int, size: int | None = None) -> list[float]:
    """Test accuracy of a new output layer, by draw."""
    session, found = Session(), []
    for seed in SEEDS:
        session.data(data, per_class=per_class, size=size, seed=seed)
        session.load(
            "glyphnet" if model == "random" else model, "none" if model == "random" else "default"
        )
        found.append(session.train(optimizer="lbfgs", augment="none").accuracy)
    return found


@pytest.fixture(scope="module")
def digits() -> dict[str, list[float]]:
    models = ("glyphnet", "glyphnet-few", "glyphnet-early", "random")
    return {model: transferred(model, "digits", 2) for model in models}


@pytest.mark.parametrize(
    ("worse", "least"), [("glyphnet-early", 0.05), ("glyphnet-few", 0), ("random", 0.1)]
)
def test_accurate_large_and_learned_sources_are_ahead_in_every_draw(
    digits, worse: str, least: float
):
    assert all(a - b >= least for a, b in zip(digits["glyphnet"], digits[worse], strict=True)), (
        digits
    )


def test_accuracy_on_its_own_source_does_not_say_it():
    assert glyphnet.card("glyphnet-few")["accuracy"] > glyphnet.card("glyphnet")["accuracy"]


def test_textures_in_the_source_decide_on_textures():
    near, far = (transferred(model, "textures", 5) for model in ("glyphnet", "glyphnet-glyphs"))
    assert all(a - b >= 0.05 for a, b in zip(near, far, strict=True)), (near, far)


@pytest.mark.parametrize(
    ("data", "per_class", "better"),
    [("textures", 5, "efficientnet_lite0"), ("digits", 2, "glyphnet")],
)
def test_photographs_are_the_source_for_photographs_and_letters_for_digits(
    data: str, per_class: int, better: str
):
    found = {
        "glyphnet": transferred("glyphnet", data, per_class),
        "efficientnet_lite0": transferred("efficientnet_lite0", data, per_class, size=64),
    }
    ahead, behind = found.pop(better), *found.values()
    assert all(a > b for a, b in zip(ahead, behind, strict=True)), (ahead, behind)


@pytest.mark.parametrize("seed", SEEDS)
def test_classes_gather_before_any_training(seed: int, monkeypatch: pytest.MonkeyPatch):
    from tlnb.core.evaluation import embeddings

    monkeypatch.setattr(
        embeddings, "_two_dimensions", lambda seen: ()
    )  # the map is not what is claimed
    session = Session()
    session.data("digits", per_class=2, seed=seed)
    session.load("glyphnet")
    found = session.look("features")
    pretrained, random = found.views
    assert pretrained.share > found.pixels and pretrained.share > random.share + 0.03


def test_an_edit_that_does_not_fit_is_refused_and_removing_the_last_stage_is_not(small: Session):
    before = small.plan
    with pytest.raises(
        Exception,
        match=r"remove layer2 does not fit: layer3\.conv1 .* cannot take \(1, 24, 16, 16\)",
    ):
        small.remove("layer2")
    assert small.plan == before
    assert small.remove("layer4").total_params < before.total_params / 2
