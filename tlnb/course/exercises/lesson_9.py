"""Lesson 9: ImageNet on a GPU, and beyond."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import Any

from torch import nn

from tlnb.core.models.catalogue import TORCHVISION, Card, catalogue
from tlnb.core.models.pretrained import PretrainedModel
from tlnb.core.training.run import Forecast, Run
from tlnb.course.checks import Step, Steps, a_run, exercise
from tlnb.session import Session

# FLOPs of one forward pass, a multiply-add counted as two
MAX_PARAMETERS, MAX_FLOPS = 6e6, 1e9


def _allowed_networks() -> list[Card]:
    """torchvision's networks within the limits, the most accurate first."""
    cards = [c for c in catalogue(sort="accurate").cards if c.family == TORCHVISION and c.accuracy]
    small = [c for c in cards if (c.parameters or 0) <= MAX_PARAMETERS]
    return [c for c in small if (c.flops or 0) <= MAX_FLOPS]


def _a_model(tl: Session, hint: str) -> Generator[Step, None, PretrainedModel]:
    """Require a loaded model."""
    model = tl.model
    yield Step("a model is loaded", model is not None, "no model is loaded", hint)
    assert model is not None
    return model


@exercise("9.1", "The best network within a limit")
def within_a_limit(tl: Session) -> Steps:
    model = yield from _a_model(tl, "%tl_load NAME --weights none needs no download")
    known = {c.name: c for c in catalogue().cards if c.family == TORCHVISION}
    yield Step(
        "it is one of torchvision's",
        model.name in known,
        f"it is {model.name!r}, whose ImageNet accuracy is not known",
        "%tl_models --sort accurate lists them",
    )
    card, allowed = known[model.name], _allowed_networks()
    yield Step(
        f"it has at most {MAX_PARAMETERS / 1e6:g} million parameters",
        (card.parameters or 0) <= MAX_PARAMETERS,
        f"{card.name} has {(card.parameters or 0) / 1e6:.1f} million",
        "%tl_models --sort small: the column parameters",
    )
    yield Step(
        f"an image takes at most {MAX_FLOPS / 1e9:g} GFLOP",
        (card.flops or 0) <= MAX_FLOPS,
        f"{card.name} takes {(card.flops or 0) / 1e9:.1f} GFLOP",
        "%tl_models --sort fast: the column one image",
    )
    better = [c for c in allowed if (c.accuracy or 0) > (card.accuracy or 0)]
    yield Step(
        "no other within both limits is more accurate",
        not better,
        f"{len(better)} others are better than {card.name}, {card.accuracy:.1%} on ImageNet",
        "%tl_models --sort accurate, and go down the list until a network meets both limits",
        "the first c of tl.models(sort='accurate').cards with c.family == 'torchvision', c.parameters <= 6e6, c.flops <= 1e9",
    )
    return (
        f"{card.name}: {card.accuracy:.1%} on ImageNet with {(card.parameters or 0) / 1e6:.1f} million parameters and "
        f"{(card.flops or 0) / 1e9:.2f} GFLOP an image; {len(allowed)} networks meet both limits. ImageNet's ranking is a good "
        "first guess for your data, but no more."
    )


@exercise("9.2", "Forecast the cost of two strategies, then measure it")
def forecast_first(tl: Session) -> Steps:
    first = "%tl_forecast, then %tl_train with the same options"
    run = yield from a_run(
        tl, line="%tl_train, with the options of the forecast" if tl.state.forecasts else first
    )
    made = [r for r in tl.runs if r.status == "finished" and r.fingerprint == run.fingerprint]
    made = [r for r in made if r.forecast is not None]
    why, hint = _no_forecast(tl, run)
    yield Step(
        "a forecast was made for exactly this training, before it",
        made,
        f"run {run.name!r} has none: {why}",
        hint,
        "tl.forecast(epochs=5), then tl.train(epochs=5), with nothing between them",
    )
    forecasts = [(r.strategy, r.forecast) for r in made]
    by_strategy = {name: said for name, said in forecasts if said is not None and said.measured}
    yield Step(
        "this was done for two strategies on the same data",
        len(by_strategy) > 1,
        f"so far for {', '.join(by_strategy)}",
        _second_strategy_hint(tl, made),
        "for strategy in ('head', 'full'): tl.strategy(strategy), tl.forecast(epochs=5), tl.train(epochs=5)",
    )
    cheap, dear = sorted(by_strategy.values(), key=lambda f: f.flops)[:: len(by_strategy) - 1]
    said, took = dear.flops / cheap.flops, (dear.measured_flops or 0) / (cheap.measured_flops or 1)
    errors = ", ".join(f"{name} {forecast.error:.0%}" for name, forecast in by_strategy.items())
    return (
        f"{dear.name} was forecast to take {said:.1f} times the FLOPs of {cheap.name}, and took "
        f"{took:.1f} times. In seconds {dear.seconds / cheap.seconds:.1f} times were forecast, and "
        f"it took {_measured(dear, cheap):.1f} times. Off by, in seconds: {errors}. Which of the "
        "two is more work was known before the first step."
    )


def _no_forecast(tl: Session, run: Run) -> tuple[str, str]:
    """Why a run has no forecast, and how to get one."""
    forecasts = tl.state.forecasts
    if not forecasts:
        return "no forecast was made", "%tl_forecast first, then %tl_train with the same options"
    if any(not _difference(said, run)[0] for said in forecasts):
        hint = "too late for this run, but in time for the next: repeat the same %tl_train"
        return "its forecast was made after it", hint
    return _difference(forecasts[-1], run)


def _difference(said: Forecast, run: Run) -> tuple[str, str]:
    """What a forecast and a run differ in, and how to avoid it; both empty for nothing."""
    order = "comes first, then %tl_forecast and %tl_train"
    if said.fingerprint != run.fingerprint:
        return "the forecast was made for different data", f"%tl_data {order}"
    if said.plan.strategy != run.strategy:
        why = f"the forecast was made for the strategy {said.plan.strategy}"
        return why, f"%tl_strategy {order}"
    if said.plan != run.plan:
        why = "the forecast was made for another network or other trained layers"
        return why, f"loading, editing and freezing {order}"
    for name, given in vars(said.options).items():
        if given != (used := getattr(run.options, name)):
            words = (
                f"the forecast was made with {name.replace('_', ' ')} {given}, the run with {used}"
            )
            return words, f"the same --{name.replace('_', '-')} for %tl_forecast and %tl_train"
    return "", ""


def _second_strategy_hint(tl: Session, made: list[Run]) -> str:
    """The next step towards a forecast of a second strategy on the data of these runs."""
    on_data = [r for r in tl.runs if r.fingerprint == made[-1].fingerprint]
    tried = [r for r in on_data if r.baseline_of is None and r.forecast is None]
    others = [r for r in tried if r.strategy not in {m.strategy for m in made}]
    if others:
        return f"run {others[-1].name!r} does not count: {_no_forecast(tl, others[-1])[0]}"
    return "%tl_strategy full, then %tl_forecast and %tl_train with the same options"


def _measured(one: Forecast, other: Forecast) -> float:
    return (one.measured or 0.0) / (other.measured or 1.0)


@exercise("9.3", "In PyTorch: a network of your own, and its output layer found")
def of_your_own(tl: Session, names: Mapping[str, Any]) -> Steps:
    model = yield from _a_model(tl, "%tl_load mine, where mine is your nn.Module")
    yield Step(
        "it is a module of your own",
        model.card.family == "own",
        f"it is {model.name}, of {model.card.family}",
        "write a subclass of nn.Module and load an instance of it, not a network that tlnb provides",
        "class Mine(nn.Module): …, mine = Mine(), %tl_load mine --size 32",
    )
    module = names.get(model.name)
    parts = list((module if isinstance(module, nn.Module) else model.module).modules())
    kinds = (nn.Conv2d, nn.BatchNorm2d)
    counts = [sum(isinstance(part, kind) for part in parts) for kind in kinds]
    yield Step(
        "it has at least two convolutions, and BatchNorm",
        counts[0] >= 2 and counts[1] >= 1,
        f"it has {counts[0]} convolutions and {counts[1]} BatchNorm layers",
        "put nn.BatchNorm2d after a convolution"
        if counts[0] >= 2
        else "put one nn.Conv2d after another",
        "nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), and a second one",
    )
    run = yield from a_run(
        tl,
        "head",
        lambda r, _: r.plan.model == model.name,
        like=f"it trained {model.name}",
        line=f"now that {model.name} is loaded: %tl_freeze, %tl_train",
    )
    heads = tl.layers().heads
    yield Step(
        "only its output layer moved",
        run.moved and set(run.moved) <= set(heads),
        f"{', '.join(run.moved[:3]) or 'nothing'} moved, the output layer is {', '.join(heads)}",
        "freeze the other layers, but not the output layer",
        "%tl_freeze, without a name, then %tl_train",
    )
    return (
        f"tlnb found {', '.join(heads)} as the output layer of your {run.plan.total_params:,} parameters and trained "
        f"{run.plan.trainable_params:,}; BatchNorm kept its statistics. A network from timm works the same way."
    )
