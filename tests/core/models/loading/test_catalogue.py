"""The catalogue: what it lists, its figures and its card."""

from __future__ import annotations

import pytest
from torchvision import models

from tests.core.models.loading.networks import NAME
from tlnb.core.models.catalogue import catalogue, torchvision_card
from tlnb.core.runtime.errors import UsageError
from tlnb.display import model_cards


def test_the_catalogue_has_all_classifiers_in_three_orders():
    small, accurate, fast = (catalogue(sort=order).cards for order in ("small", "accurate", "fast"))
    every = set(models.list_models(module=models))
    assert len(every) == 80 and every < {c.name for c in small} == {c.name for c in accurate} == {
        c.name for c in fast
    }
    embedded = [c.family == "embedded" for c in small]
    assert embedded == sorted(embedded, reverse=True)
    outside = [[c for c in order if c.family != "embedded"] for order in (small, accurate, fast)]
    for cards_, figure, sign in zip(
        outside, ("parameters", "accuracy", "flops"), (1, -1, 1), strict=True
    ):
        values = [sign * getattr(c, figure) for c in cards_]
        assert values == sorted(values)
    assert accurate[0].name == "vit_h_14" and accurate[-1].family == "embedded"
    with pytest.raises(UsageError, match="did you mean fast"):
        catalogue(sort="fats")


def test_card_figures_are_torchvisions():
    card = torchvision_card("resnet50")
    meta = models.ResNet50_Weights.DEFAULT.meta
    assert card.parameters == meta["num_params"] and card.flops == pytest.approx(2e9 * meta["_ops"])
    assert card.accuracy == pytest.approx(meta["_metrics"]["ImageNet-1K"]["acc@1"] / 100)
    assert card.top5 == pytest.approx(meta["_metrics"]["ImageNet-1K"]["acc@5"] / 100)
    assert (card.source_images, card.source_classes, card.recipe) == (
        1_281_167,
        1000,
        meta["recipe"],
    )
    assert (
        abs(card.bytes - 102_540_417) < 10_000
    )  # the file on the server; torchvision counts in MiB
    assert (
        "SWAG" in torchvision_card("vit_h_14").licence
        and torchvision_card("vit_h_14").min_size == 518
    )
    features = next(
        c for c in torchvision_card("vgg16").others if c.weights == "IMAGENET1K_FEATURES"
    )
    assert (
        features.accuracy is None and features.source_classes is None and "`" not in features.about
    )


def test_the_catalogues_card_shows_and_escapes(shell):
    text = model_cards.catalogue_card(shell.run_cell("%tl_models resn --sort accurate").result)
    assert (
        text.index("resnext101_64x4d") < text.index(">resnet18<")
        and "80.9%" in text
        and "max-height" not in text
    )
    assert "position:sticky" in model_cards.catalogue_card(catalogue())
    assert not shell.run_cell("%tl_models --sort cheap").success


def test_a_size_below_the_networks_least_is_refused(session):
    with pytest.raises(
        UsageError, match="--size 16 is too small for squeezenet1_1: use 17 pixels or more"
    ):
        session.load(NAME, "none", size=16)
