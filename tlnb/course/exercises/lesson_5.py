"""Lesson 5: from decent to a lot."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import Any

import torch
from torch import nn

from tlnb import glyphnet
from tlnb.core.data.dataset import DataFacts
from tlnb.core.training.run import Run
from tlnb.course.checks import Step, Steps, a_run, exercise, some_data
from tlnb.course.exercises.causes import fitting, learned_little
from tlnb.course.exercises.shared import eval_mode, finished, is_statistic
from tlnb.session import Session

FROZEN, TRAINED = ("stem", "layer1", "layer2"), ("layer3", "layer4", "head")
MIN_ACCURACY = 0.8  # test accuracy
MAX_GAP = 0.03  # exercise 5.2: largest distance to full
# rounding on another processor may shift two trainings by five of 500 test images
ROUNDING_GAP = 0.01


def _has_ten_letters(run: Run, data: DataFacts) -> bool:
    return data.request.source == "symbols" and len(data.classes) == 10


def _other_runs(tl: Session, run: Run) -> list[Run]:
    """Other finished runs on the same images, without baselines."""
    same = [r for r in tl.runs if r.fingerprint == run.fingerprint and r.status == "finished"]
    return [r for r in same if r.baseline_of is None and r is not run]


def _figures(run: Run) -> str:
    return f"{run.strategy} {run.accuracy:.1%} [{run.interval[0]:.1%}, {run.interval[1]:.1%}]"


def _case(tl: Session, run: Run) -> str:
    """The amount of data and the source."""
    return f"{tl.data_of(run).request.per_class or 20} of each class and {run.plan.model}"


@exercise("5.1", "full beats head by more than chance")
def by_more_than_chance(tl: Session) -> Steps:
    line = "%tl_data symbols --classes 10 --per-class N, %tl_load glyphnet, %tl_strategy full, %tl_train"
    yield from a_run(tl, "full", _has_ten_letters, like="it was trained on ten letters", line=line)
    wholes = finished(tl, _has_ten_letters, "full")
    others = [(other, whole) for whole in wholes for other in _other_runs(tl, whole)]
    pairs = [(head, whole) for head, whole in others if head.strategy == "head"]
    yield Step(
        "there is a run of head on the same images",
        pairs,
        "none on the images of any run of full",
        "%tl_strategy head, then %tl_train, before you change the data",
    )
    clear = [(head, whole) for head, whole in pairs if whole.interval[0] > head.interval[1]]
    head, whole = pairs[-1]
    overlap = "they overlap" if whole.interval[1] >= head.interval[0] else "head is better"
    little = learned_little(whole, rate=0.001, epochs=20)
    yield Step(
        "the interval of full lies above that of head",
        clear,
        f"{_figures(head)}, {_figures(whole)}: {overlap}",
        f"{little} for full: %tl_train without options takes its recipe's"
        if little
        else "the intervals' width depends on the 500 test images, so look for a larger difference: "
        "more images per class, or a source that leaves more to learn",
        "%tl_load glyphnet-early learned for a short while only: its frozen features are of less use, and full may change them",
    )
    head, whole = clear[-1]
    still = sorted({_case(tl, w) for h, w in pairs if w.interval[0] <= h.interval[1]})
    before = f" With {', '.join(still)} they overlapped." if still else ""
    return (
        f"With {_case(tl, whole)}: {_figures(head)}, {_figures(whole)}, which took "
        f"{whole.work_alone / head.work_alone:.0f} times the FLOPs.{before}"
    )


@exercise("5.2", "Within three points of full, for a fifth of its FLOPs")
def for_a_fifth(tl: Session) -> Steps:
    def twenty(run: Run, data: DataFacts) -> bool:
        return _has_ten_letters(run, data) and data.request.per_class == 20

    line = "%tl_data symbols --classes 10 --per-class 20, %tl_load glyphnet, %tl_strategy full, %tl_train"
    like = "it was trained on 20 images of each of ten letters"
    yield from a_run(tl, "full", twenty, like=like, line=line)
    whole = max(finished(tl, twenty, "full"), key=lambda r: len(r.epochs))
    yield Step(
        "full had the epochs of its recipe",
        len(whole.epochs) >= 20,
        f"it had {len(whole.epochs)}, its recipe is 20",
        "%tl_train without --epochs",
    )
    started = [r for r in _other_runs(tl, whole) if r.plan.start == "pretrained"]
    cheaper = [r for r in started if r.strategy != "full"]
    yield Step(
        "there is a run on the same images that trains less than the whole network",
        cheaper,
        "none so far",
        "%tl_strategy partial, then %tl_train",
    )
    few = [r for r in cheaper if r.work_alone <= whole.work_alone / 5]
    least = min(cheaper, key=lambda r: r.work_alone)
    yield Step(
        "it took at most a fifth of the FLOPs",
        few,
        f"the cheapest so far, {least.name!r}, took {least.work_alone / whole.work_alone:.0%}",
        "the frozen part is computed once for every augmented view: %tl_train? shows which option changes that",
        "--augment none leaves one view of each image",
    )
    best = max(few, key=lambda r: r.accuracy)
    little = learned_little(best, rate=0.002, epochs=10)
    yield Step(
        "it is within three points of full",
        whole.accuracy - best.accuracy <= MAX_GAP + ROUNDING_GAP + 1e-9,
        f"{best.name!r} is {100 * (whole.accuracy - best.accuracy):.1f} points behind",
        "a new output layer alone is not enough: more has to train"
        if best.strategy == "head"
        else little or "the epochs and the rate of the recipe are enough",
        "%tl_strategy partial, then %tl_train --augment none",
    )
    return (
        f"{best.name} {best.accuracy:.1%}, full {whole.accuracy:.1%}: {100 * (best.accuracy - whole.accuracy):+.1f} points, for "
        f"{best.work_alone / whole.work_alone:.0%} of the FLOPs. One test image is 0.2 points."
    )


@exercise("5.3", "In PyTorch: the first stages frozen, the others at two learning rates")
def two_rates(tl: Session, names: Mapping[str, Any]) -> Steps:
    data = yield from some_data(tl, "symbols", line="%tl_data symbols --classes 10 --per-class 20")
    network, optimizer = names.get("network"), names.get("optimizer")
    yield Step(
        "your network is in the variable network, your optimiser in optimizer",
        isinstance(network, nn.Module) and isinstance(optimizer, torch.optim.Optimizer),
        f"network is a {type(network).__name__}, optimizer a {type(optimizer).__name__}",
        *fitting(
            isinstance(network, nn.Module),
            "optimizer = torch.optim.AdamW([{'params': …, 'lr': …}, {'params': …, 'lr': …}])",
            "network = glyphnet.load('glyphnet')",
        ),
    )
    assert isinstance(network, nn.Module) and isinstance(optimizer, torch.optim.Optimizer)
    moved = yield from _moved_in_glyphnet(network, len(data.classes))
    yield from _trained_from_layer3(network, moved)
    inner, heads = yield from _rates(network, optimizer)
    share = _share_right(tl, network)
    yield Step(
        f"it gets {MIN_ACCURACY:.0%} of the test images right",
        share >= MIN_ACCURACY,
        f"it gets {share:.1%}",
        "more passes over the training images",
        "tl.model.transform prepares images as glyphnet expects them; compare the learning rates with the lesson's",
    )
    tested = len(data.labels["test"])
    return f"{share:.1%} of {tested} test images, the output layer at {min(heads):g}, the stages at {max(inner):g}."


def _moved_in_glyphnet(network: nn.Module, classes: int) -> Generator[Step, None, dict[str, bool]]:
    """Require glyphnet's layers; by name, which of its tensors changed."""
    before, after = glyphnet.load("glyphnet").state_dict(), network.state_dict()
    own = [n for n in before if not n.startswith("head.")]
    whole = all(n in after and after[n].shape == before[n].shape for n in own)
    scores = len(after["head.bias"]) if whole and "head.bias" in after else 0
    yield Step(
        "it is glyphnet, with a new output layer for your classes",
        scores == classes,
        f"its output layer gives {scores} scores for {classes} classes"
        if scores
        else "its layers are different",
        _output_hint(scores),
    )
    return {n: not after[n].equal(before[n]) for n in own}


def _trained_from_layer3(
    network: nn.Module, changed: Mapping[str, bool]
) -> Generator[Step, None, None]:
    moved = [name for name, is_so in changed.items() if is_so]
    first = [n for n in moved if n.startswith(FROZEN)]
    statistics = bool(first) and all(map(is_statistic, first))
    yield Step(
        "nothing in stem, layer1 and layer2 changed",
        not first,
        f"{'running statistics' if statistics else 'weights'} did, {first[0] if first else ''} first",
        *fitting(
            statistics,
            "network.train() puts frozen BatchNorm into train mode too: call it on the stages that train",
            "call network.requires_grad_(False) first, then unfreeze what trains",
        ),
    )
    weights = [n for n in moved if "weight" in n]
    still = [stage for stage in TRAINED[:2] if not any(n.startswith(stage) for n in weights)]
    free = all(p.requires_grad for stage in still for p in getattr(network, stage).parameters())
    yield Step(
        "layer3 and layer4 were trained",
        not still,
        f"no weight of {' and '.join(still)} moved",
        *fitting(
            free,
            "give their parameters to the optimiser, and call its step()",
            "requires_grad_(True) on both stages",
        ),
    )


def _rates(
    network: nn.Module, optimizer: torch.optim.Optimizer
) -> Generator[Step, None, tuple[list[float], list[float]]]:
    """Require a larger learning rate of the output layer; those of the stages, and its own."""
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    by_stage = {s: {rates.get(id(p)) for p in getattr(network, s).parameters()} for s in TRAINED}
    inner = [rate for stage in TRAINED[:2] for rate in by_stage[stage] if rate is not None]
    heads = [rate for rate in by_stage["head"] if rate is not None]
    yield Step(
        "the optimiser has the parameters of all three",
        inner and heads,
        f"it has none of {'the stages' if heads else 'the output layer'}",
        f"{'the stages belong' if heads else 'network.head.parameters() belongs'} into a group of the optimiser too",
        "torch.optim.AdamW takes a list of dictionaries, each with params and lr",
    )
    yield Step(
        "the output layer has the larger learning rate",
        min(heads) > max(inner),
        f"it has {min(heads):g}, the stages {max(inner):g}",
        "{'params': network.head.parameters(), 'lr': 0.01} in a group of its own",
    )
    return inner, heads


def _output_hint(scores: int) -> str:
    """How to get an output layer for the data's classes; 0 scores: the layers are different."""
    if scores == 10:
        return "%tl_data symbols --classes 10 --per-class 20: ten letters"
    if scores:
        return "network.head = nn.Linear(network.head.in_features, 10)"
    return "network = glyphnet.load('glyphnet'), then replace only its output layer"


def _share_right(tl: Session, network: nn.Module) -> float:
    """Test accuracy in eval mode; the network's modes are restored."""
    assert tl.dataset is not None and tl.model is not None
    transform, parts = tl.model.transform, tl.dataset.images["test"].split(100)
    with eval_mode(network):
        guesses = [network(transform(part)).argmax(1) for part in parts]
    return float((torch.cat(guesses) == tl.dataset.labels["test"]).float().mean())
