"""Lesson 4: a different problem."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from tlnb import glyphnet
from tlnb.core.data.dataset import DataFacts, DataSet
from tlnb.core.evaluation.probes import FOLDS, Probe, labels_in_use, probe, stage_features
from tlnb.core.training.run import Run
from tlnb.course.checks import Step, Steps, a_run, exercise, some_data
from tlnb.course.exercises.causes import fitting
from tlnb.session import Session

MIN_DRAWS = 3
GUESSING_ACCURACY = 0.17  # test accuracy that is hardly better than guessing among twelve classes
# on the test patches; a linear layer after layer2 or layer3 of glyphnet gets 0.55 to 0.65
MIN_ACCURACY = 0.5


def _twenty_per_class(data: DataSet) -> Step:
    return Step(
        "twenty patches of each material",
        data.request.per_class == 20,
        f"the data have {data.mean_count:g} of each",
        "%tl_data textures --per-class 20",
    )


@exercise("4.1", "The best depth of a source that stopped early")
def best_depth(tl: Session, names: Mapping[str, Any]) -> Steps:
    data = yield from some_data(tl, "textures", line="%tl_data textures --per-class 20")
    yield _twenty_per_class(data)
    loaded = tl.model.name if tl.model else "nothing"
    yield Step(
        "glyphnet-early is loaded, with no edits",
        tl.model is not None and loaded == "glyphnet-early" and not _own_edits(tl),
        f"{loaded} is loaded{', with edits' if tl.plan and _own_edits(tl) else ''}",
        f"%tl_load glyphnet-early{', which undoes edits' if loaded == 'glyphnet-early' else ''}",
    )
    answer = names.get("best")
    stages = [stage.name for stage in tl.layers().stages][:-1]
    yield Step(
        "best names a stage before the output layer",
        answer in stages,
        "there is no variable best"
        if answer is None
        else f"it is {answer!r}; the stages are {', '.join(stages)}",
        "%tl_look stages measures every stage: best is the name of one of them",
        "best = 'stem', or another",
    )
    probes = _probes(tl, data)
    top, chosen = max(probes.values(), key=lambda p: p.accuracy), probes[str(answer)]
    deeper = stages.index(chosen.stage) > stages.index(top.stage)
    yield Step(
        "no stage is better than that by more than the standard errors of both",
        top.accuracy - chosen.accuracy <= top.error + chosen.error,
        f"another is, by {100 * (top.accuracy - chosen.accuracy):.1f} points; look {'earlier' if deeper else 'later'}",
        f"a stage {'before' if deeper else 'after'} {chosen.stage}: the pretrained network's best in the card of %tl_look stages",
        "best = tl.look('stages').depths[0].best.stage",
    )
    last = probes[stages[-1]]
    return (
        f"{chosen.stage}: {chosen.accuracy:.1%} ± {100 * chosen.error:.1f}; the last stage: {last.accuracy:.1%} "
        f"± {100 * last.error:.1f}. "
        "A source that stopped early has learned its first stages and little else."
    )


def _probes(tl: Session, data: DataSet) -> dict[str, Probe]:
    """The probes of %tl_look stages for the loaded network, by stage."""
    used = labels_in_use(data)
    assert tl.model is not None
    seen = stage_features(tl.model.module, tl.layers(), tl.model.transform, used.images["train"])
    return {
        p.stage: p for p in probe(seen, used.labels["train"].numpy(), min(FOLDS, used.per_class))
    }


def _own_edits(tl: Session) -> bool:
    return tl.plan is not None and any(not edit.automatic for edit in tl.plan.edits)


@exercise("4.2", "Cut, and compare on three draws")
def cut_and_compare(tl: Session) -> Steps:
    def five(run: Run, data: DataFacts) -> bool:
        return data.request.source == "textures" and data.request.per_class == 5

    yield from a_run(
        tl,
        where=five,
        like="it was trained on five patches of each material",
        line="%tl_data textures --per-class 5, %tl_load glyphnet-glyphs, %tl_train --optimizer lbfgs",
    )
    ended = [
        r
        for r in tl.runs
        if r.status == "finished" and r.baseline_of is None and five(r, tl.data_of(r))
    ]
    far = [r for r in ended if r.plan.model == "glyphnet-glyphs"]
    yield Step(
        "its source is glyphnet-glyphs",
        far,
        f"so far there are runs of {', '.join(dict.fromkeys(r.plan.model for r in ended))}",
        "%tl_load glyphnet-glyphs",
    )
    heads = [
        r
        for r in far
        if not any(e.kind != "remove" and not e.automatic for e in r.plan.edits) and _head_alone(r)
    ]
    yield Step(
        "only a new output layer trained",
        heads,
        f"in run {far[-1].name!r} {len(far[-1].moved)} layers moved",
        "%tl_freeze, without a name, freezes all but the output layer",
    )
    whole = {r.fingerprint: r for r in heads if not _removed(r)}
    cut = [r for r in heads if _removed(r)]
    yield Step(
        "there are runs of the whole network",
        whole,
        "all runs have stages removed",
        "%tl_load glyphnet-glyphs undoes edits; then %tl_train",
    )
    yield Step(
        "and of one that was cut",
        cut,
        "no run has a stage removed",
        "%tl_remove layer4, then %tl_train",
    )
    largest = next(iter(whole.values())).plan.total_params
    small = [r for r in cut if r.plan.total_params < largest / 2]
    yield Step(
        "the cut network has less than half the parameters",
        small,
        f"run {cut[-1].name!r} has {cut[-1].plan.total_params:,}, the whole {largest:,}",
        "the last stage has most of the parameters, as %tl_layers shows",
        "%tl_remove layer4, then %tl_train",
    )
    pairs = {r.fingerprint: (r, whole[r.fingerprint]) for r in small if r.fingerprint in whole}
    yield Step(
        "both were trained on the same patches, for three draws",
        len(pairs) >= MIN_DRAWS,
        f"{len(pairs)} draws have both; the seed of %tl_data makes a draw, that of %tl_train does not",
        "%tl_data textures --per-class 5 --seed 1 makes another draw; then the whole and the cut network again",
        "for seed in (0, 1, 2): tl.data('textures', per_class=5, seed=seed), and both on it",
    )
    gains = [cut_run.accuracy - whole_run.accuracy for cut_run, whole_run in pairs.values()]
    ahead = sum(gain > 0 for gain in gains)
    deep = max(len(_removed(cut_run)) for cut_run, _ in pairs.values())
    yield Step(
        "the cut network is ahead on average",
        sum(gains) > 0,
        f"it is {-100 * sum(gains) / len(gains):.1f} points behind",
        "too much was cut; after which stage does a linear layer do best? %tl_look stages shows it"
        if deep > 1
        else "both have to be trained to convergence: %tl_train --optimizer lbfgs",
        "on each draw: %tl_load glyphnet-glyphs, %tl_train --optimizer lbfgs, %tl_remove layer4, %tl_train --optimizer lbfgs",
    )
    params = next(iter(pairs.values()))[0].plan.total_params
    return (
        f"{params:,} parameters instead of {largest:,}, and {100 * sum(gains) / len(gains):+.1f} points on average over "
        f"{len(gains)} draws; ahead in {ahead} of them."
    )


def _removed(run: Run) -> tuple[str, ...]:
    return tuple(e.name for e in run.plan.edits if e.kind == "remove" and not e.automatic)


def _head_alone(run: Run) -> bool:
    return run.moved == ("head",)


@exercise("4.3", "In PyTorch: a truncated network")
def truncated_network(tl: Session, names: Mapping[str, Any]) -> Steps:
    data = yield from some_data(tl, "textures", line="%tl_data textures --per-class 20")
    yield _twenty_per_class(data)
    network = names.get("truncated")
    yield Step(
        "your network is in the variable truncated",
        isinstance(network, nn.Module),
        "there is none of that name" if network is None else f"it is a {type(network).__name__}",
        "truncated = nn.Sequential(…)",
    )
    assert isinstance(network, nn.Module)
    state, whole = network.state_dict(), glyphnet.load("glyphnet").state_dict()
    yield Step(
        "layer4 is not in it",
        not _has_shape(state, whole["layer4.conv2.weight"].shape),
        "a convolution of 160 channels is",
        "end before it: nn.Sequential(whole.stem, whole.layer1, whole.layer2, whole.layer3)",
    )
    early = {name: value for name, value in whole.items() if name.startswith(("stem.", "layer1."))}
    changed = [
        name
        for name, value in early.items()
        if not any(_equal(value, tensor) for tensor in state.values())
    ]
    stem = glyphnet.load("glyphnet-glyphs").state_dict()["stem.conv.weight"]
    far = any(_equal(stem, tensor) for tensor in state.values())
    yield Step(
        "stem and layer1 of glyphnet are in it, as they were loaded",
        not changed,
        "its stages are those of glyphnet-glyphs, the far source"
        if far
        else f"{len(changed)} of {len(early)} tensors are not, {changed[0] if changed else ''} first{_statistics_only(changed)}",
        _keep_hint(far, changed),
        "whole = glyphnet.load('glyphnet').requires_grad_(False).eval()",
    )
    scores = _scores(network, data.images["test"])
    yield Step(
        "it gives twelve scores for each image",
        isinstance(scores, Tensor) and tuple(scores.shape) == (len(data.labels["test"]), 12),
        f"it gives {tuple(scores.shape)}" if isinstance(scores, Tensor) else scores,
        "nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(96, 12)",
    )
    assert isinstance(scores, Tensor)
    share = float((scores.argmax(1) == data.labels["test"]).float().mean())
    guessed = share < GUESSING_ACCURACY
    yield Step(
        "it gets at least half of the test patches right",
        share >= MIN_ACCURACY,
        f"it gets {share:.1%}"
        + (": no better than guessing; the output layer has learned nothing" if guessed else ""),
        *fitting(
            guessed,
            "more steps, or a learning rate of about 0.01 with AdamW",
            "tl.load('glyphnet').transform prepares the images; use it for training too",
        ),
    )
    count = sum(p.numel() for p in network.parameters())
    whole_count = _parameter_count(whole)
    return (
        f"{share:.1%} with {count:,} parameters; glyphnet with an output layer for twelve classes "
        f"has {whole_count:,}."
    )


def _has_shape(state: Mapping[str, Tensor], shape: torch.Size) -> bool:
    return any(value.shape == shape for value in state.values())


def _equal(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and one.equal(other.to(one.device))


def _statistics_only(changed: list[str]) -> str:
    """Explain a change of running statistics alone; empty if weights changed too."""
    still = all("running_" in name or "num_batches" in name for name in changed)
    return ": running statistics, which move in train mode" if changed and still else ""


def _keep_hint(far: bool, changed: list[str]) -> str:
    """How to keep the first stages of glyphnet as they were loaded."""
    if far:
        return "whole = glyphnet.load('glyphnet')"
    if _statistics_only(changed):
        return "call eval() before the first image, and no train() after it"
    return "requires_grad_(False) on the stages before any step"


def _scores(network: nn.Module, images: Tensor) -> Tensor | str:
    """The network's output in eval mode, or why it fails; its modes are restored."""
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (glyphnet.MEAN, glyphnet.STD))
    modes = {part: part.training for part in network.modules()}
    try:
        with torch.no_grad():
            scores = network.eval()((images.float() / 255 - mean) / std)
    except Exception as error:  # whatever the learner's module raises
        return f"it fails: {' '.join(str(error).split())[:100]}"
    finally:
        for part, mode in modes.items():
            part.training = mode
    return scores if isinstance(scores, Tensor) else f"it gives a {type(scores).__name__}"


def _parameter_count(whole: Mapping[str, Tensor]) -> int:
    """The number of parameters of the whole network with twelve scores."""
    trunk = sum(
        v.numel()
        for n, v in whole.items()
        if "running_" not in n and "num_batches" not in n and "head" not in n
    )
    return trunk + 12 * (whole["head.weight"].shape[1] + 1)
