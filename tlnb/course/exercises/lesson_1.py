"""Lesson 1: twenty images."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import Any

from torch import nn

from tlnb import glyphnet
from tlnb.core.training.run import Run
from tlnb.course.checks import Step, Steps, a_run, exercise
from tlnb.course.exercises.causes import fitting
from tlnb.course.exercises.shared import (
    a_network,
    finished,
    intervals_overlap,
    is_statistic,
    on_same_images,
    trained_on,
    unless_missing,
)
from tlnb.session import Session

ONE_EACH, TWENTY = trained_on("digits", 1), trained_on("digits", 2)


@exercise("1.1", "One image of each digit, with three different draws")
def one_of_each(tl: Session) -> Steps:
    yield from a_run(
        tl,
        "head",
        ONE_EACH,
        like="it was trained on one image of each digit",
        line="%tl_data digits --per-class 1, %tl_load glyphnet, then %tl_train",
    )
    runs = [run for run in tl.runs if ONE_EACH(run, tl.data_of(run))]
    draws = {tl.data_of(run).request.seed: run for run in finished(tl, ONE_EACH, "head")}
    same = (
        ", all with the same ten images: the seed of %tl_train changes the training, not the images"
    )
    yield Step(
        "three draws of ten images were tried",
        len(draws) >= 3,
        f"{len(draws)} so far{same if len(draws) == 1 < len(runs) else ''}",
        "%tl_data digits --per-class 1 --seed 1 draws different images",
        "then %tl_train, and the same with --seed 2",
    )
    without = [str(seed) for seed, run in sorted(draws.items()) if not _baselines(tl, run)]
    yield Step(
        "each has its baseline from scratch",
        not without,
        f"no baseline for the data of seed {', '.join(without)}",
        "%tl_train --scratch belongs to the last run on the current data",
        "train it before you change the data",
    )
    kept = [run.accuracy for run in draws.values()]
    lost = [_baselines(tl, run)[-1].accuracy for run in draws.values()]
    return (
        f"With one image of each, the frozen network got {min(kept):.0%} to {max(kept):.0%} right, "
        f"training from scratch {min(lost):.0%} to {max(lost):.0%}. Quote it like this: a range, and the number of draws."
    )


def _baselines(tl: Session, run: Run) -> list[Run]:
    return [r for r in tl.runs if r.baseline_of is not None and r.fingerprint == run.fingerprint]


@exercise("1.2", "Train the whole network on the twenty images, and compare")
def the_whole(tl: Session) -> Steps:
    whole = yield from a_run(
        tl,
        "full",
        TWENTY,
        like="it was trained on two images of each digit",
        line="%tl_data digits --per-class 2, %tl_load glyphnet, %tl_strategy full, %tl_train",
    )
    share = f"{whole.plan.trainable_params:,} of {whole.plan.total_params:,} parameters trained"
    yield Step(
        "everything trained, from the pretrained weights",
        whole.plan.start == "pretrained" and not whole.plan.frozen,
        share,
        "%tl_strategy full takes back every freeze",
    )
    heads = on_same_images(tl, whole, "head")
    yield Step(
        "there is a run of the new output layer on the same images",
        heads,
        "none on these twenty images",
        "for a comparison, train the output layer alone on the same twenty images",
        "%tl_strategy head, then %tl_train, with no %tl_data between them and the run of full",
    )
    yield Step(
        "the two were compared",
        any(line.startswith(("%tl_compare", "tl.compare")) for line in tl.transcript),
        "both runs are there, and nobody has looked at them side by side",
        "one line shows runs side by side, with their intervals",
        "%tl_compare",
    )
    head = heads[-1]
    gap = 100 * (whole.accuracy - head.accuracy)
    overlap = intervals_overlap(whole, head)
    return (
        f"full {whole.accuracy:.1%}, head {head.accuracy:.1%}: {gap:+.1f} points, and the two 95% intervals "
        f"{'overlap: from these twenty images you cannot tell which is better' if overlap else 'do not overlap'}. "
        f"It took {whole.work_alone / head.work_alone:.0f} times the FLOPs."
    )


@exercise("1.3", "In PyTorch: a frozen layer that changes anyway")
def what_drifts(tl: Session, names: Mapping[str, Any]) -> Steps:
    network = yield from a_network(names, "drifted", "drifted = glyphnet.load('glyphnet')")
    after, drift = network.state_dict(), (yield from _drift(network))
    layer_names, answer = {n.rpartition(".")[0] for n in drift}, names.get("answer")
    yield Step(
        "the variable answer names one of the layers that changed",
        answer in layer_names,
        unless_missing("answer", answer, _about_answer(answer, after, layer_names)),
        "%tl_layers --all shows which layers hold running statistics",
        "compare drifted.state_dict() with glyphnet.load('glyphnet').state_dict(), name by name",
    )
    return (
        f"{len(layer_names)} BatchNorm layers changed without a single weight changing: in train mode they average "
        "what they see. tlnb keeps frozen layers in eval mode, and compares them bit for bit. Lesson 7 shows what this does to "
        "the source."
    )


def _drift(network: nn.Module) -> Generator[Step, None, list[str]]:
    """Require glyphnet's weights unchanged and statistics that are not; those that changed."""
    before = glyphnet.load("glyphnet").state_dict()
    after = network.state_dict()
    trunk = [name for name in before if not name.startswith("head.")]
    whole = all(n in after and after[n].shape == before[n].shape for n in trunk)
    scores = len(after["head.bias"]) if "head.bias" in after else 0
    yield Step(
        "it is glyphnet, with a new output layer for ten classes",
        whole and scores == 10,
        f"its output layer gives {scores or 'other'} scores"
        if whole
        else "its layers are different",
        *fitting(
            whole,
            "drifted.head = nn.Linear(drifted.head.in_features, 10)",
            "drifted = glyphnet.load('glyphnet'), then replace only its output layer",
        ),
    )
    statistics = [n for n in trunk if "running_" in n]
    weights = [n for n in trunk if not is_statistic(n)]
    changed = [n for n in weights if not after[n].equal(before[n])]
    yield Step(
        "no weight of the frozen layers changed",
        not changed,
        f"{len(changed)} did, {changed[0] if changed else ''} first",
        "drifted.requires_grad_(False) before the new output layer is made",
        "give the optimiser only drifted.head.parameters()",
    )
    drift = [n for n in statistics if not after[n].equal(before[n])]
    yield Step(
        "and yet something in them did",
        drift,
        "everything in them is unchanged: the network stayed in eval mode",
        "in eval mode BatchNorm updates no averages: remove drifted.eval()",
        "call drifted.train() before each step of the loop",
    )
    return drift


def _about_answer(answer: Any, tensors: Mapping[str, Any], drifted: set[str]) -> str:
    """What is wrong with the name of a layer that changed."""
    inside = [name for name in sorted(drifted) if name.startswith(f"{answer}.")]
    if inside:
        return f"{answer!r} is a stage, in which {len(inside)} layers changed: name one of those"
    if answer in tensors:
        return f"{answer!r} is a tensor of a layer: leave out its last part"
    if "norm" in str(answer).lower():
        return f"{answer!r} is the kind of the layers that changed: name one of them"
    if any(name.rpartition(".")[0] == answer for name in tensors):
        return f"the layer {answer!r} is as it was: it has no running statistics"
    return f"it is {answer!r}, and no layer has this name"
