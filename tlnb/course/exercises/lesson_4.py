"""Lesson 4: a different problem."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import Any

from torch import Tensor, nn

from tlnb import glyphnet
from tlnb.core.data.dataset import DataSet
from tlnb.core.evaluation.probes import Probe, labels_in_use, probe, stage_features
from tlnb.core.planning.plan import Plan
from tlnb.core.training.run import Run
from tlnb.course.checks import Step, Steps, a_run, exercise, some_data
from tlnb.course.exercises.causes import fitting
from tlnb.course.exercises.shared import (
    a_network,
    eval_mode,
    finished,
    is_statistic,
    prepared,
    trained_on,
    unless_missing,
)
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
    loaded, edited = tl.model.name if tl.model else "nothing", _own_edits(tl.plan)
    yield Step(
        "glyphnet-early is loaded, with no edits",
        tl.model is not None and loaded == "glyphnet-early" and not edited,
        f"{loaded} is loaded{', with edits' if edited else ''}",
        f"%tl_load glyphnet-early{', which undoes edits' if loaded == 'glyphnet-early' else ''}",
    )
    answer = names.get("best")
    stages = [stage.name for stage in tl.layers().stages][:-1]
    yield Step(
        "best names a stage before the output layer",
        answer in stages,
        unless_missing("best", answer, f"it is {answer!r}; the stages are {', '.join(stages)}"),
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
    return {p.stage: p for p in probe(seen, used.labelled)}


def _own_edits(plan: Plan | None) -> set[str]:
    return {edit.kind for edit in plan.edits if not edit.automatic} if plan else set()


@exercise("4.2", "Cut, and compare on three draws")
def cut_and_compare(tl: Session) -> Steps:
    five = trained_on("textures", 5)
    yield from a_run(
        tl,
        where=five,
        like="it was trained on five patches of each material",
        line="%tl_data textures --per-class 5, %tl_load glyphnet-glyphs, %tl_train --optimizer lbfgs",
    )
    heads = yield from _heads_of_far_source(
        [r for r in finished(tl, five) if r.baseline_of is None]
    )
    whole = {r.fingerprint: r for r in heads if not _removed(r)}
    largest, small = yield from _cut_by_half(heads, list(whole.values()))
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


def _heads_of_far_source(ended: list[Run]) -> Generator[Step, None, list[Run]]:
    """Require glyphnet-glyphs with a new output layer alone; those runs."""
    far = [r for r in ended if r.plan.model == "glyphnet-glyphs"]
    yield Step(
        "its source is glyphnet-glyphs",
        far,
        f"so far there are runs of {', '.join(dict.fromkeys(r.plan.model for r in ended))}",
        "%tl_load glyphnet-glyphs",
    )
    heads = [r for r in far if r.moved == ("head",) and _own_edits(r.plan) <= {"remove"}]
    yield Step(
        "only a new output layer trained",
        heads,
        f"in run {far[-1].name!r} {len(far[-1].moved)} layers moved",
        "%tl_freeze, without a name, freezes all but the output layer",
    )
    return heads


def _cut_by_half(
    heads: list[Run], whole: list[Run]
) -> Generator[Step, None, tuple[int, list[Run]]]:
    """Require cut networks of half the size; the parameters of the whole, and their runs."""
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
    largest = whole[0].plan.total_params
    small = [r for r in cut if r.plan.total_params < largest / 2]
    yield Step(
        "the cut network has less than half the parameters",
        small,
        f"run {cut[-1].name!r} has {cut[-1].plan.total_params:,}, the whole {largest:,}",
        "the last stage has most of the parameters, as %tl_layers shows",
        "%tl_remove layer4, then %tl_train",
    )
    return largest, small


def _removed(run: Run) -> tuple[str, ...]:
    return tuple(e.name for e in run.plan.edits if e.kind == "remove" and not e.automatic)


@exercise("4.3", "In PyTorch: a truncated network")
def truncated_network(tl: Session, names: Mapping[str, Any]) -> Steps:
    data = yield from some_data(tl, "textures", line="%tl_data textures --per-class 20")
    yield _twenty_per_class(data)
    network = yield from a_network(names, "truncated", "truncated = nn.Sequential(…)")
    state, whole = network.state_dict(), glyphnet.load("glyphnet").state_dict()
    last = whole["layer4.conv2.weight"].shape
    yield Step(
        "layer4 is not in it",
        all(tensor.shape != last for tensor in state.values()),
        "a convolution of 160 channels is",
        "end before it: nn.Sequential(whole.stem, whole.layer1, whole.layer2, whole.layer3)",
    )
    early = {name: value for name, value in whole.items() if name.startswith(("stem.", "layer1."))}
    changed = [name for name, value in early.items() if not _holds(state, value)]
    far = _holds(state, glyphnet.load("glyphnet-glyphs").state_dict()["stem.conv.weight"])
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
    return (
        f"{share:.1%} with {count:,} parameters; glyphnet with an output layer for twelve classes "
        f"has {_parameter_count(whole):,}."
    )


def _holds(state: Mapping[str, Tensor], value: Tensor) -> bool:
    """Whether one of the tensors is the same as another."""
    return any(t.shape == value.shape and value.equal(t.to(value.device)) for t in state.values())


def _statistics_only(changed: list[str]) -> str:
    """Explain a change of running statistics alone; empty if weights changed too."""
    alone = changed and all(map(is_statistic, changed))
    return ": running statistics, which move in train mode" if alone else ""


def _keep_hint(far: bool, changed: list[str]) -> str:
    """How to keep the first stages of glyphnet as they were loaded."""
    if far:
        return "whole = glyphnet.load('glyphnet')"
    if _statistics_only(changed):
        return "call eval() before the first image, and no train() after it"
    return "requires_grad_(False) on the stages before any step"


def _scores(network: nn.Module, images: Tensor) -> Tensor | str:
    """The network's output in eval mode, or why it fails; its modes are restored."""
    try:
        with eval_mode(network):
            scores = network(prepared(images))
    except Exception as error:  # whatever the learner's module raises
        return f"it fails: {' '.join(str(error).split())[:100]}"
    return scores if isinstance(scores, Tensor) else f"it gives a {type(scores).__name__}"


def _parameter_count(whole: Mapping[str, Tensor]) -> int:
    own = [v for n, v in whole.items() if not is_statistic(n) and "head" not in n]
    return sum(v.numel() for v in own) + 12 * (whole["head.weight"].shape[1] + 1)
