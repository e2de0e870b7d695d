"""Lesson 9: ImageNet on a GPU, and beyond."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from tlnb.checking import Step, Steps, a_run, exercise
from tlnb.core.catalogue import TORCHVISION, Card, catalogue
from tlnb.core.record import Forecast
from tlnb.session import Session

PARAMETERS, FLOPS = 6e6, 1e9  # of one image's forward pass, a multiply-add counted as two


def _allowed() -> list[Card]:
    """torchvision's networks within the limits, the most accurate first."""
    cards = [c for c in catalogue(sort="accurate").cards if c.family == TORCHVISION and c.accuracy]
    return [c for c in cards if (c.parameters or 0) <= PARAMETERS and (c.flops or 0) <= FLOPS]


@exercise("9.1", "The best network within a limit")
def within_a_limit(tl: Session) -> Steps:
    model = tl.model
    yield Step("a model is loaded", model is not None, "none is", "%tl_load NAME --weights none needs no download")
    assert model is not None
    known = {c.name: c for c in catalogue().cards if c.family == TORCHVISION}
    yield Step(
        "it is one of torchvision's",
        model.name in known,
        f"it is {model.name!r}, of which no accuracy on ImageNet is known",
        "%tl_models --sort accurate lists them",
    )
    card, allowed = known[model.name], _allowed()
    yield Step(
        f"it has at most {PARAMETERS / 1e6:g} million parameters",
        (card.parameters or 0) <= PARAMETERS,
        f"{card.name} has {(card.parameters or 0) / 1e6:.1f} million",
        "%tl_models --sort small: the column parameters",
    )
    yield Step(
        f"an image takes at most {FLOPS / 1e9:g} GFLOP",
        (card.flops or 0) <= FLOPS,
        f"{card.name} takes {(card.flops or 0) / 1e9:.1f} GFLOP",
        "%tl_models --sort fast: the column one image",
    )
    better = [c for c in allowed if (c.accuracy or 0) > (card.accuracy or 0)]
    yield Step(
        "no other within both limits is more accurate",
        not better,
        f"{len(better)} others are better than {card.name}, {card.accuracy:.1%} on ImageNet",
        "%tl_models --sort accurate, and go down until both limits are kept",
    )
    return (
        f"{card.name}: {card.accuracy:.1%} on ImageNet with {(card.parameters or 0) / 1e6:.1f} million parameters and "
        f"{(card.flops or 0) / 1e9:.2f} GFLOP an image; {len(allowed)} networks keep both limits. ImageNet's ranking is a good "
        "first guess for your data, no more."
    )


@exercise("9.2", "Say what it will take, for two strategies, then let it be measured")
def forecast_first(tl: Session) -> Steps:
    run = yield from a_run(tl)
    made = [
        r for r in tl.runs if r.forecast is not None and r.status == "finished" and r.fingerprint == run.fingerprint
    ]
    forecasts = [c for c in tl.bill.charges if c.kind == "forecasting"]
    late = "the forecasts were made for other data, plans or options, or afterwards"
    yield Step(
        "a forecast was made for the very same training, before it",
        made,
        f"run {run.name!r} has none: {late if forecasts else 'no forecast was made'}",
        "%tl_forecast takes the options of %tl_train: give both the same",
        "change nothing between %tl_forecast and %tl_train",
    )
    by_strategy = {r.strategy: r.forecast for r in made if r.forecast is not None and r.forecast.measured}
    yield Step(
        "so it was done for two strategies on the same data",
        len(by_strategy) > 1,
        f"so far for {', '.join(by_strategy)}",
        "%tl_strategy full, then %tl_forecast and %tl_train with the same options",
    )
    cheap, dear = sorted(by_strategy, key=lambda name: by_strategy[name].seconds)[:: len(by_strategy) - 1]
    said, took = (
        by_strategy[dear].seconds / by_strategy[cheap].seconds,
        _measured(by_strategy[dear], by_strategy[cheap]),
    )
    errors = ", ".join(f"{name} {found.error:.0%}" for name, found in by_strategy.items())
    return (
        f"{dear} was forecast to take {said:.1f} times the seconds of {cheap}, and took {took:.1f} times. Off by: "
        f"{errors}. Which of the two is dearer was known before the first step."
    )


def _measured(one: Forecast, other: Forecast) -> float:
    return (one.measured or 0.0) / (other.measured or 1.0)


@exercise("9.3", "In PyTorch: a network of your own, and its output layer found")
def of_your_own(tl: Session, names: Mapping[str, Any]) -> Steps:
    model = tl.model
    yield Step("a model is loaded", model is not None, "none is", "%tl_load mine, where mine is your nn.Module")
    assert model is not None
    yield Step(
        "it is a module of your own",
        model.card.family == "own",
        f"it is {model.name}, of {model.card.family}",
        "class Mine(nn.Module): …, mine = Mine(), %tl_load mine --size 32",
    )
    mine = names.get(model.name)
    kinds = [type(m) for m in (mine if isinstance(mine, nn.Module) else model.module).modules()]
    found = sum(issubclass(k, nn.Conv2d) for k in kinds), sum(issubclass(k, nn.BatchNorm2d) for k in kinds)
    yield Step(
        "it has two convolutions or more, and BatchNorm",
        found[0] >= 2 and found[1] >= 1,
        f"it has {found[0]} convolutions and {found[1]} BatchNorm layers",
        "nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), and a second one",
    )
    run = yield from a_run(
        tl,
        "head",
        lambda r, _: r.plan.model == model.name,
        like=f"it trained {model.name}",
        line="%tl_freeze, %tl_train",
    )
    heads = tl.layers().heads
    yield Step(
        "only its output layer moved",
        run.moved and set(run.moved) <= set(heads),
        f"{', '.join(run.moved[:3]) or 'nothing'} moved, the output layer is {', '.join(heads)}",
        "%tl_freeze without a name freezes all but the output layer",
    )
    return (
        f"tlnb found {', '.join(heads)} as the output layer of your {run.plan.total_params:,} parameters and trained "
        f"{run.plan.trainable_params:,}; BatchNorm kept its statistics. A network from timm goes the same way."
    )
