"""Lesson 2: what you get, and what makes a source good."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from tlnb import glyphnet
from tlnb.core.data.dataset import DataSet
from tlnb.core.planning.plan import Edit
from tlnb.core.training.run import Run
from tlnb.course.checks import Step, Steps, a_run, exercise, some_data
from tlnb.course.exercises.causes import fitting
from tlnb.course.exercises.shared import (
    finished,
    intervals_overlap,
    on_same_images,
    prepared,
    trained_on,
    unless_missing,
)
from tlnb.session import Session

MIN_DRAWS = 3
FIVE_EACH, ONE_EACH = trained_on("digits", 5), trained_on("digits", 1)


@exercise("2.1", "Two layers with dropout instead of the output layer")
def two_layers(tl: Session) -> Steps:
    yield from a_run(
        tl,
        where=FIVE_EACH,
        like="it was trained on five images of each digit",
        line="%tl_data digits --per-class 5, %tl_load glyphnet, %tl_train",
    )
    ended = [run for run in finished(tl, FIVE_EACH) if run.baseline_of is None]
    own = [run for run in ended if any(_is_own_layer(edit) for edit in run.plan.edits)]
    yield Step(
        "in one run the output layer is one of your own",
        own,
        "no run so far replaced a layer",
        "%tl_replace head nn.Sequential(...), then %tl_train",
        "in the expression, in_features is the input width and classes the number of classes",
    )
    run = own[-1]
    linear = yield from _two_linear(run)
    others = [name for name in run.moved if name.partition(".")[0] != "head"]
    yield Step(
        "nothing else moved",
        not others,
        f"{len(others)} other layers did, {others[0] if others else ''} first",
        "%tl_freeze, without a name, freezes all but the output layer",
    )
    yield Step(
        "both of its layers moved",
        len(run.moved) == linear,
        f"only {', '.join(run.moved)} did" if run.moved else "none did",
        "%tl_unfreeze head",
    )
    usual = ("head", ("head",), run.fingerprint, run.plan.model)
    plain = [r for r in ended if (r.strategy, r.moved, r.fingerprint, r.plan.model) == usual]
    yield Step(
        "there is a run of the usual output layer on the same images",
        plain,
        "none on these images",
        "%tl_undo takes the replacement back; then %tl_train",
    )
    one = plain[-1]
    return (
        f"One layer of {one.plan.trainable_params:,} parameters: {one.accuracy:.1%}. Two of {run.plan.trainable_params:,}: "
        f"{run.accuracy:.1%}. {_verdict(run, one)}"
    )


def _two_linear(run: Run) -> Generator[Step, None, int]:
    """Require two linear layers, with a ReLU and dropout between; how many there are."""
    parts = list(run.network().get_submodule("head").modules())
    linear = [part for part in parts if isinstance(part, nn.Linear)]
    yield Step(
        "it has two linear layers",
        len(linear) == 2,
        f"run {run.name!r} has {len(linear)} there",
        "nn.Sequential(nn.Linear(in_features, 64), …, nn.Linear(64, classes))",
    )
    relu = _between(parts, nn.ReLU)
    yield Step(
        "with a ReLU and dropout between them",
        relu and _between(parts, nn.modules.dropout._DropoutNd),
        f"between them is {_kinds_between(parts) or 'nothing'}",
        "the dropout belongs between them too"
        if relu
        else "without a ReLU two linear layers can do no more than one",
        "nn.ReLU(), nn.Dropout(0.2)",
    )
    return len(linear)


def _is_own_layer(edit: Edit) -> bool:
    return edit.kind == "replace" and not edit.automatic


def _between(parts: list[nn.Module], kind: type[nn.Module]) -> bool:
    """Whether a layer of this kind is between the first and the last linear layer."""
    ends = [i for i, part in enumerate(parts) if isinstance(part, nn.Linear)]
    return any(isinstance(part, kind) for part in parts[ends[0] : ends[-1]])


def _kinds_between(parts: list[nn.Module]) -> str:
    ends = [i for i, part in enumerate(parts) if isinstance(part, nn.Linear)]
    return ", ".join(type(part).__name__ for part in parts[ends[0] + 1 : ends[-1]])


def _verdict(run: Run, one: Run) -> str:
    if not intervals_overlap(run, one):
        return "The two 95% intervals do not overlap."
    return "The two 95% intervals overlap: 700 test images show no benefit of the additional parameters."


@exercise("2.2", "Which source, for one image each?")
def which_source(tl: Session, names: Mapping[str, Any]) -> Steps:
    yield from a_run(
        tl,
        "head",
        ONE_EACH,
        like="it was trained on one image of each digit",
        line="%tl_data digits --per-class 1, %tl_load glyphnet, %tl_train --optimizer lbfgs",
    )
    runs = finished(tl, ONE_EACH, "head")
    near = {run.fingerprint: run for run in runs if run.plan.model == "glyphnet"}
    few = {run.fingerprint: run for run in runs if run.plan.model == "glyphnet-few"}
    lacking = [name for name, by_draw in (("glyphnet", near), ("glyphnet-few", few)) if not by_draw]
    yield Step(
        "both sources were tried",
        not lacking,
        f"no run of {' and none of '.join(lacking)} on one image of each digit",
        "%tl_load glyphnet-few, then %tl_train on the same data",
    )
    both = [draw for draw in near if draw in few]
    yield Step(
        "on the same images, three draws of them",
        len(both) >= MIN_DRAWS,
        f"{len(both)} draws have both; runs of glyphnet saw {len(near)}, of glyphnet-few {len(few)}. "
        "The seed of %tl_data makes a draw, that of %tl_train does not",
        "some draws were used with one source only: train the other one too before you change the data"
        if near.keys() != few.keys()
        else "%tl_data digits --per-class 1 --seed 1 makes another draw; then both sources again",
        "for seed in (0, 1, 2): tl.data('digits', per_class=1, seed=seed), and both sources on it",
    )
    gaps = [near[draw].accuracy - few[draw].accuracy for draw in both]
    ahead = sum(gap > 0 for gap in gaps)
    answer = names.get("ahead_in")
    yield Step(
        "ahead_in says in how many draws glyphnet is ahead",
        answer == ahead,
        unless_missing("ahead_in", answer, f"it is {answer!r}; your runs show another number"),
        "it is a count: in how many draws is run.accuracy of glyphnet the larger of the two?",
        "in the loop over the draws, ahead_in += of_glyphnet.accuracy > of_few.accuracy; before it, ahead_in = 0",
    )
    return (
        f"glyphnet was ahead in {ahead} of {len(gaps)} draws, by {100 * sum(gaps) / len(gaps):+.1f} points on average, between "
        f"{100 * min(gaps):+.1f} and {100 * max(gaps):+.1f}. The source matters most where the labels are fewest."
    )


@exercise("2.3", "In PyTorch: features by a forward hook, and the nearest neighbour")
def by_a_hook(tl: Session, names: Mapping[str, Any]) -> Steps:
    data = yield from some_data(tl, "digits", line="%tl_data digits --per-class 5")
    yield Step(
        "five images of each digit",
        data.request.per_class == 5,
        f"the data have {data.mean_count:g} of each",
        "%tl_data digits --per-class 5",
    )
    features = yield from _features(names, data)
    answer = names.get("nearest")
    said = _nearest(features["train"], features["test"], data.labels["train"])
    share = float((said == data.labels["test"]).float().mean())
    euclidean = torch.cdist(features["test"], features["train"]).argmin(1)
    other = float((data.labels["train"][euclidean] == data.labels["test"]).float().mean())
    value = _share(answer)
    shown = repr(answer) if value is None else value
    yield Step(
        "nearest is the share of test images whose nearest training image has the same class",
        value is not None and min(abs(value - share), abs(value - other)) < 0.01,
        unless_missing("nearest", answer, f"it is {shown}: {_not_nearest(value, share)}"),
        "divide it by 100"
        if value is not None and abs(value - 100 * share) < 1
        else "likeness = normalize(test_features) @ normalize(train_features).T: each test image with each training image",
        "said = data.labels['train'][likeness.argmax(1)], one row of likeness for each test image",
        "nearest = (said == data.labels['test']).float().mean()",
    )
    assert value is not None
    return (
        f"{value:.1%} of 700 digits, with fifty labels and not a single step of training. A trained output layer does better, "
        "but most of the work was done before you started."
    )


def _features(names: Mapping[str, Any], data: DataSet) -> Generator[Step, None, dict[str, Tensor]]:
    """Require glyphnet's features of both splits `(N, 160)`, and return them."""
    features: dict[str, Tensor] = {}
    for split in ("train", "test"):
        name, count = f"{split}_features", len(data.labels[split])
        value = names.get(name)
        yield Step(
            f"{name} is a tensor of {count} rows of 160 features",
            isinstance(value, Tensor) and tuple(value.shape) == (count, 160),
            _not_features(name, value),
            *_hook_hints(value, count),
        )
        assert isinstance(value, Tensor)
        features[split] = value.detach().float()
    for split, given in features.items():
        truth, cause = _seen(prepared(data.images[split])), _cause(given, data.images[split])
        yield Step(
            f"{split}_features are what reaches glyphnet's output layer",
            torch.allclose(given, truth, atol=1e-3),
            f"they differ from it, by {float((given - truth).abs().max()):.2g} at most{cause}",
            *fitting(
                "train mode" in cause,
                "glyphnet.load('glyphnet') is in eval mode: leave it there",
                "tl.load('glyphnet').transform prepares uint8 images as the network expects them",
            ),
        )
    return features


def _seen(inputs: Tensor, training: bool = False) -> Tensor:
    """The features `(N, 160)` before glyphnet's output layer, for inputs `(N, 3, 32, 32)`."""
    network = glyphnet.load("glyphnet").train(training)
    network.head = nn.Identity()  # type: ignore[assignment]
    with torch.no_grad():
        features: Tensor = network(inputs)
    return features


def _not_features(name: str, value: object) -> str:
    if isinstance(value, Tensor):
        return f"its shape is {tuple(value.shape)}"
    return unless_missing(name, value, f"it is a {type(value).__name__}")


def _hook_hints(value: object, count: int) -> tuple[str, ...]:
    """Hints for features that are missing, from another layer, or of only some images."""
    line = "network.flatten.register_forward_hook(lambda module, inputs, output: …)"
    parts = "the hook is called once for each forward pass: pass all images of a split at once, or torch.cat what it caught"
    if not isinstance(value, Tensor):
        return line, parts
    return fitting(value.shape[:1] == (count,), f"it comes from another layer: {line}", parts)


def _cause(given: Tensor, images: Tensor) -> str:
    """The mistake that would give exactly these features; empty if none does."""
    likely = {
        ": the images were given in 0..255, not prepared": _seen(images.float()),
        ": the images were scaled to 0..1, but not normalised": _seen(images.float() / 255),
        ": the network was in train mode, so BatchNorm used the batch's own statistics": _seen(
            prepared(images), True
        ),
    }
    causes = (why for why, x in likely.items() if torch.allclose(given, x, rtol=1e-2, atol=1e-2))
    return next(causes, "")


def _nearest(train: Tensor, test: Tensor, labels: Tensor) -> Tensor:
    unit = nn.functional.normalize
    return labels[(unit(test) @ unit(train).T).argmax(1)]


def _share(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def _not_nearest(value: float | None, share: float) -> str:
    if value is None:
        return "not a number"
    if abs(value - 100 * share) < 1:
        return "a share lies between 0 and 1"
    if value == 1:
        return "it looks as if test images were compared with themselves"
    return "not what your features give, by cosine or by distance"


@exercise("2.4", "Adapters: small parts that train inside every layer")
def adapters(tl: Session, names: Mapping[str, Any]) -> Steps:
    run = yield from a_run(
        tl,
        "adapter",
        FIVE_EACH,
        like="it was trained on five images of each digit",
        line="%tl_data digits --per-class 5, %tl_load glyphnet, %tl_strategy adapter, %tl_train",
    )
    plain = on_same_images(tl, run, "head")
    yield Step(
        "there is a run of the output layer alone on the same images",
        plain,
        "none on these images",
        "%tl_strategy head takes the adapters away; then %tl_train",
    )
    answer, extra = names.get("share"), names.get("extra")
    truth, share = run.plan.trainable_params / run.plan.total_params, _share(answer)
    yield Step(
        "share is the share of the parameters that trained",
        share is not None and abs(share - truth) <= 0.02 * truth,
        unless_missing(
            "share", answer, f"it is {answer!r}: {_not_the_share(share, truth, plain[-1])}"
        ),
        "run.plan.trainable_params / run.plan.total_params",
    )
    more = len(run.network().state_dict()) - len(tl.model.module.state_dict()) if tl.model else 0
    merged = ": those are the adapters before they are merged" * (extra == more)
    yield Step(
        "extra says how many tensors the network that you take away has more than the pretrained one",
        isinstance(extra, int) and extra == 0,
        unless_missing("extra", extra, f"it is {extra!r}{merged}"),
        "run.module() is the network that you take away: its adapters are merged into the weights",
        "len(run.module().state_dict()) - len(tl.model.module.state_dict())",
    )
    one = plain[-1]
    return (
        f"{truth:.1%} of the parameters trained, and the result has the architecture that you "
        f"downloaded: {run.accuracy:.1%}, the output layer alone {one.accuracy:.1%}. "
        f"{_verdict(run, one)}"
    )


def _not_the_share(value: float | None, truth: float, head: Run) -> str:
    """The likely mistake in a share of the parameters."""
    if value is None:
        return "not a number"
    if abs(value - 100 * truth) <= 2 * truth:
        return "a share lies between 0 and 1"
    of_head = head.plan.trainable_params / head.plan.total_params
    if abs(value - of_head) <= 0.02 * of_head:
        return "that is the share of the output layer alone"
    return "not what the plan of that run says"
