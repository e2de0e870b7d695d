"""Calibrate a run on held-out labels: by cross-validation where that is cheap, else on `val`.

A few dozen labels of `val` tell a temperature poorly. Where only the head trains, on cached
features, folds hold out every label in use, and with five of them a fold's head has learned from
almost as many labels as the run's. Elsewhere `val` tells it: the network of a refit has learned
from `val` as well, so its temperature is that of the choosing pass. Neither `test` nor `monitor` is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tlnb.core.data.dataset import DataSet
from tlnb.core.data.splits import Fold
from tlnb.core.models.calibration import (
    LEAST_LABELS,
    MOST_KNOWN,
    Calibration,
    KnownImages,
    fitted_temperature,
    noting_inputs,
    spread_rows,
    threshold_of,
)
from tlnb.core.models.undisturbed import undisturbed
from tlnb.core.planning.options import TrainOptions
from tlnb.core.planning.plan import Plan
from tlnb.core.training.context import TrainingContext
from tlnb.core.training.freezing import layer_of
from tlnb.core.training.training_inputs import Inputs

FOLDS, LEAST_FOLDS = 5, 3
ENOUGH_HELD = 200  # labels of `val` that tell a temperature without folds
TAUGHT = "the run that it goes on from has learned"


@dataclass(frozen=True, kw_only=True)
class Calibrated:
    """What a run knows of how sure it may be."""

    calibration: Calibration | None = None
    why_not: str = ""
    known: KnownImages | None = None


@dataclass(frozen=True)
class Method:
    """How a training can be calibrated: `val`, `cross-validation`, or not at all."""

    name: str
    why_not: str = ""


def method_of(context: TrainingContext, options: TrainOptions) -> Method:
    """How a training would be calibrated, as far as data, plan and start tell."""
    held = context.data.splits.get("val", 0)
    if held >= LEAST_LABELS and "val" in context.taught:
        return Method("", f"{TAUGHT} the held-out labels")
    why_not = "" if held >= ENOUGH_HELD else _why_no_folds(context, options, held)
    if held >= ENOUGH_HELD or (why_not and held >= LEAST_LABELS):
        return Method("val")
    return Method("" if why_not else "cross-validation", why_not)


def _why_no_folds(context: TrainingContext, options: TrainOptions, held: int) -> str:
    """Why cross-validation cannot calibrate a training; empty if it can."""
    data, labels = context.data, context.data.labels_in_use
    least = int(labels.bincount(minlength=len(data.classes)).min())
    if len(labels) < LEAST_LABELS or least < LEAST_FOLDS:
        few = f"{len(labels)} labels, {least} in the smallest class"
        return f"too few to calibrate: {few}; it takes {LEAST_LABELS} and {LEAST_FOLDS}"
    if not only_heads(context.plan, context.anatomy.heads):
        held_out = f"{held} labels are held out" if held else "no labels are held out"
        return f"{held_out}; it takes {LEAST_LABELS} where more than the head trains"
    if not options.cache or options.optimizer == "lbfgs":
        return "cross-validation needs cached features, and --optimizer adamw"
    if context.taught:
        return f"{TAUGHT} the labels that cross-validation would hold out"
    return "" if held_out_folds(data, options.seed) else "too few groups to hold some out"


def held_out_folds(data: DataSet, seed: int) -> list[Fold]:
    """The folds that labels in use are held out in: at most `FOLDS`; empty if under `LEAST_FOLDS`."""
    found = data.labelled.folds(FOLDS, seed)
    return found if len(found) >= LEAST_FOLDS else []


def only_heads(plan: Plan, heads: tuple[str, ...]) -> bool:
    """Whether nothing before the output layers trains."""
    return set(plan.trained) <= set(heads)


def images_looked_at(method: str, splits: Mapping[str, int], frozen: bool, refit: bool) -> int:
    """Images that calibrating sends through what trains, apart from the folds."""
    if not method:
        return 0
    train, held = splits["train"], splits.get("val", 0)
    final = min(MOST_KNOWN, train + (held if refit else 0))
    choosing = min(MOST_KNOWN, train) if not frozen and refit else 0
    return final + choosing + (held if method == "val" else 0)


# ── passes ──


def scores_of(context: TrainingContext, inputs: Inputs, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Logits `(N, C)` float32, and what reaches the output layer, as `unit_rows` `(N, D)`.

    The network is in eval mode afterwards.
    """
    context.module.eval()
    source, wide = context.source, 0
    layer = layer_of(context.module, context.anatomy.head)

    def look(part: slice) -> Tensor:
        nonlocal wide
        seen: list[Tensor] = []
        with noting_inputs(layer, seen):
            logits = source.pass_through(inputs.judges, inputs.look(rows[part].clone()))
        wide = logits.shape[1]
        # memory may have run out: what the passes after that saw comes last
        features = torch.cat(seen)[-len(logits) :] if seen else logits[:, :1].float().cpu() * 0
        return torch.cat([logits.float(), features.to(logits.device).float()], 1)

    with undisturbed(context.module):
        both = torch.cat(list(context.ranks.shared(len(rows), inputs.chunk, look)))
    return both[:, :wide], both[:, wide:].half().cpu()


def known_images(context: TrainingContext, inputs: Inputs) -> KnownImages:
    """Some of the images that the network learned from, as it sees them now."""
    labels = context.labels["train"].cpu()
    rows = spread_rows(labels)
    with context.costs.phase("evaluating", "look"):
        _, features = scores_of(context, inputs, inputs.train(0)[rows])
    charge(context, inputs, len(rows))
    return KnownImages(features=features, labels=labels[rows], rows=rows)


def charge(context: TrainingContext, inputs: Inputs, images: int) -> None:
    """Charge a look at so many images."""
    flops = images * inputs.cost.look / context.ranks.count
    context.costs.charge("evaluating", flops, "look")


# ── the two steps ──


def on_val(context: TrainingContext, inputs: Inputs) -> Calibrated:
    """The temperature by `val`, and where features were trained the threshold, too."""
    rows, labels = inputs.seen("val"), context.labels["val"].cpu()
    with context.costs.phase("evaluating", "look"):
        logits, features = scores_of(context, inputs, rows)
        temperature = fitted_temperature(logits, labels)
    charge(context, inputs, len(rows))
    known, threshold = None, -1.0
    if not only_heads(context.plan, context.anatomy.heads):
        known = known_images(context, inputs)
        threshold = threshold_of(known.likeness(features))
    fitted = Calibration(
        temperature=temperature,
        threshold=threshold,
        labels=len(labels),
        method="val",
        layer=context.anatomy.head,
    )
    return Calibrated(calibration=fitted, known=known)


def completed(
    fitted: Calibrated,
    context: TrainingContext,
    inputs: Inputs,
    refitted: bool,
    groups: Tensor | None,
) -> Calibrated:
    """With the images that the run's network knows.

    Where only output layers trained, features are what they were: each known image, seen by the
    others, is as good as held out, and the threshold is theirs.
    """
    if fitted.calibration is None:
        return fitted
    known = fitted.known
    if known is None or refitted:
        known = known_images(context, inputs)
    calibration = fitted.calibration
    if only_heads(context.plan, context.anatomy.heads):
        likeness = known.own_likeness(None if groups is None else groups[known.rows])
        calibration = replace(calibration, threshold=threshold_of(likeness))
    return Calibrated(calibration=calibration, known=known)
