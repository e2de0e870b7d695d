"""Lesson 3: little data."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from tlnb import glyphnet
from tlnb.core.training.run import Run
from tlnb.course.checks import Step, Steps, a_run, exercise, some_data
from tlnb.course.exercises.causes import fitting
from tlnb.course.exercises.shared import eval_mode, prepared, trained_on
from tlnb.session import Session

ACTIVATIONS = (nn.ReLU, nn.GELU, nn.Tanh, nn.Sigmoid, nn.LeakyReLU, nn.SiLU)
TWO_LINES = "%tl_train --augment none, then the same line with --no-cache"
MIN_ACCURACY = 0.85  # of the test images, exercise 3.3
# exercise 3.1: largest difference between the losses with and without cache, in 32 and 16 bits
MAX_LOSS_DIFFERENCE, MAX_LOSS_DIFFERENCE_16_BIT = 1e-5, 1e-3


TWENTY = trained_on("digits", 2)


@exercise("3.1", "Show that caching changes nothing")
def nothing_is_lost(tl: Session) -> Steps:
    line = "%tl_data digits --per-class 2, %tl_load glyphnet, %tl_train"
    like = "it was trained on two images of each digit"
    yield from a_run(tl, "head", TWENTY, like=like, line=line)
    on_twenty = [r for r in tl.runs if r.baseline_of is None and TWENTY(r, tl.data_of(r))]
    runs = [r for r in on_twenty if r.strategy == "head"]
    cached, uncached = ([r for r in runs if r.options.cache is kind] for kind in (True, False))
    yield Step(
        "one run caches the frozen part",
        cached,
        "all of them compute it in every epoch",
        "%tl_train caches it unless --no-cache is given",
        TWO_LINES,
    )
    yield Step(
        "one run computes it in every epoch",
        uncached,
        "all of them cache it",
        "--no-cache is the option that computes it in every epoch",
        TWO_LINES,
    )
    one, other = cached[-1], uncached[-1]
    plain = [r.name for r in (one, other) if r.options.augment != "none"]
    yield Step(
        "both show the same images in every epoch",
        not plain,
        f"{' and '.join(plain)} augment at random: each epoch shows variants, which differ between runs",
        "--augment none for both runs: images without augmentation",
        TWO_LINES,
    )
    apart, hint = _apart(one, other)
    yield Step("they differ in nothing else", not apart, apart, hint, TWO_LINES)
    gap = max(
        abs(a.train_loss - b.train_loss) for a, b in zip(one.epochs, other.epochs, strict=False)
    )
    yield Step(
        "the losses agree in every epoch",
        gap < (MAX_LOSS_DIFFERENCE if one.precision == "fp32" else MAX_LOSS_DIFFERENCE_16_BIT),
        f"the largest difference is {gap:.2g}",
        "16-bit numbers are rounded too much to agree: compare at 32 bits",
        "%tl_train --augment none --precision fp32, then the same line with --no-cache",
    )
    saved = other.work_alone / one.work_alone  # also where one found the other's cache
    return f"The largest difference of the loss in {len(one.epochs)} epochs is {gap:.1g}, for {saved:.0f} times fewer FLOPs."


def _apart(one: Run, other: Run) -> tuple[str, str]:
    """What two runs differ in besides the cache, and how to avoid it; empty for nothing."""
    rest = replace(one.options, cache=False)
    options = [k for k, v in vars(rest).items() if v != getattr(other.options, k)]
    if options:
        same = f"give both the same --{options[0].replace('_', '-')}"
        return f"{', '.join(options)} differ too", same
    if one.fingerprint != other.fingerprint:
        return "they were trained on different draws", "no %tl_data between the two lines"
    if (one.plan.model, one.plan.edits) != (other.plan.model, other.plan.edits):
        return "they trained different networks", "no %tl_load and no edit between the two lines"
    return "", ""


@exercise("3.2", "Train the convolutions of the last stage, but keep every BatchNorm frozen")
def by_name(tl: Session) -> Steps:
    run = yield from a_run(tl, line="%tl_data digits --per-class 5, %tl_load glyphnet, %tl_train")
    yield Step(
        "it trained glyphnet, from the pretrained weights",
        run.plan.model == "glyphnet" and run.plan.start == "pretrained",
        f"run {run.name!r} trained {run.plan.model}, start {run.plan.start}",
        "%tl_load glyphnet"
        if run.plan.model != "glyphnet"
        else "any strategy but scratch: %tl_strategy head",
    )
    parts = dict(run.network().named_modules())
    norms = [name for name in run.moved if isinstance(parts[name], nn.BatchNorm2d)]
    stage = {name: part for name, part in parts.items() if name.startswith("layer4")}
    last = {name for name, part in stage.items() if isinstance(part, nn.Conv2d)}
    still = sorted(last - set(run.moved))
    yield Step(
        "the convolutions of layer4 moved",
        not still,
        f"{', '.join(still)} did not",
        *fitting(
            len(still) > 1,
            "%tl_unfreeze layer4 makes the whole stage train; then freeze what should not",
            "layer4.downsample.0 is a convolution too",
        ),
    )
    yield Step(
        "no BatchNorm moved, not even its statistics",
        not norms,
        f"{', '.join(norms[:3])}{' …' if len(norms) > 3 else ''} moved",
        _freeze_hint(norms),
        "%tl_freeze, %tl_unfreeze layer4, %tl_freeze layer4.bn* layer4.downsample.1",
    )
    more = sorted(set(run.moved) - last - {"head"})
    yield Step(
        "nothing before the last stage moved",
        not more,
        f"{', '.join(more[:3])} did",
        "%tl_freeze first: all but the head",
    )
    yield Step(
        "the output layer moved", "head" in run.moved, "it stayed frozen", "%tl_unfreeze head"
    )
    source = ""
    if run.source_accuracy is not None:
        before, after = run.source_accuracy
        source = f" On its own source: {before:.0%} before, {after:.0%} after."
    return f"{run.plan.trainable_params:,} of {run.plan.total_params:,} parameters trained, {run.accuracy:.1%} right.{source}"


def _freeze_hint(norms: list[str]) -> str:
    if any(not name.startswith("layer4") for name in norms):
        return "%tl_freeze first, then %tl_unfreeze layer4 alone"
    if len(norms) == 1:
        return "one BatchNorm has a different kind of name: layer4.downsample.1"
    return "after %tl_unfreeze layer4, freeze its BatchNorm layers again: %tl_freeze layer4.bn*"


@exercise("3.3", "In PyTorch: two layers on features that are computed once")
def two_layers(tl: Session, names: Mapping[str, Any]) -> Steps:
    data = yield from some_data(tl, "digits", line="%tl_data digits --per-class 5")
    yield Step(
        "five images of each digit",
        set(data.counts.values()) == {5},
        f"{max(data.counts.values())} of each are in use",
        "%tl_data digits --per-class 5",
    )
    network = yield from _two_layers(names)
    right = _right(network, data.images["test"], data.labels["test"])
    yield Step(
        f"it reads at least {MIN_ACCURACY:.0%} of the test images",
        right >= MIN_ACCURACY,
        f"it reads {right:.1%}"
        + (": little better than guessing, so it was hardly trained" if right < 0.3 else ""),
        "AdamW with lr=0.01 and 60 passes over the features are enough",
        "features come from the trunk in eval mode, of prepared images: trunk(prepare(images))",
    )
    return f"{right:.1%} of the test images, {sum(p.numel() for p in network.parameters()):,} parameters trained."


def _two_layers(names: Mapping[str, Any]) -> Generator[Step, None, nn.Module]:
    """Require two layers from 160 features to ten scores in the variable network."""
    network = names.get("network")
    yield Step(
        "your layers are in the variable network",
        isinstance(network, nn.Module),
        "there is none of that name" if network is None else f"it is a {type(network).__name__}",
        "network = nn.Sequential(nn.Linear(160, 64), nn.ReLU(), nn.Linear(64, 10))",
    )
    assert isinstance(network, nn.Module)
    linear = [m for m in network.modules() if isinstance(m, nn.Linear)]
    yield Step(
        "there are two linear layers",
        len(linear) == 2,
        f"{len(linear)} found",
        "one from the 160 features to a width of your choice, and one from there to the ten scores",
        "network = nn.Sequential(nn.Linear(160, 64), nn.ReLU(), nn.Linear(64, 10))",
    )
    yield Step(
        "with something between them that is not linear",
        any(isinstance(m, ACTIVATIONS) for m in network.modules()),
        "two linear layers in a row are one linear layer",
        "nn.ReLU() between the two",
    )
    shape = (linear[0].in_features, linear[-1].out_features)
    yield Step(
        "it takes 160 features and gives ten scores",
        shape == (160, 10),
        f"it takes {shape[0]} and gives {shape[1]}",
        "one score for each of the ten digits: nn.Linear(64, 10)"
        if shape[0] == 160
        else "it gets features, not pixels: 160 is trunk.head.in_features",
    )
    return network


def _right(layers: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    """Accuracy of `layers` on glyphnet's features of uint8 images (N, 3, 32, 32)."""
    trunk = glyphnet.load("glyphnet").eval()
    trunk.head = nn.Identity()  # type: ignore[assignment]
    with eval_mode(layers):
        guesses = layers(trunk(prepared(images))).argmax(1)
    return float((guesses == labels).float().mean())
