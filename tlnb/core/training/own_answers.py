"""A run reports what its own network says: answers from cached activations are compared with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tlnb.core.models.anatomy import evaluating
from tlnb.core.models.undisturbed import undisturbed
from tlnb.core.training.agreement import OTHER_ROWS, allowed, apart
from tlnb.core.training.events import Event, event
from tlnb.core.training.features import FeatureSource
from tlnb.core.training.training_inputs import Inputs

FEWEST, MOST = 4, 64  # test images of the sample
AFFORDED = 5e9  # FLOPs for it, if more than the fewest: a tenth of a second


@dataclass(frozen=True)
class OwnAnswers:
    """The logits that a run reports."""

    logits: Tensor  # (N, C)
    event: Event | None = None  # where they are not those from cached activations


def own_answers(
    source: FeatureSource,
    inputs: Inputs,
    logits: Tensor,
    scores: Callable[[Inputs, Tensor], Tensor],
) -> OwnAnswers:
    """The network's own logits for the test images.

    A sample of them is computed from the images; where that differs from the cache's answers, all of them are.

    Args:
        logits: `(N, C)`, as `inputs` gave them.
        scores: some inputs, and rows of them → the logits in eval mode.
    """
    if inputs.cache is None:
        return OwnAnswers(logits)
    with source.tally.phase("evaluating", "look"):
        return _own_answers(source, inputs, logits, scores)


def _own_answers(
    source: FeatureSource,
    inputs: Inputs,
    logits: Tensor,
    scores: Callable[[Inputs, Tensor], Tensor],
) -> OwnAnswers:
    count = int(min(MOST, max(FEWEST, AFFORDED / max(inputs.cost.whole, 1.0))))
    sample = torch.linspace(0, len(logits) - 1, min(count, len(logits))).long()
    if _agree(source, inputs, sample):
        return OwnAnswers(logits)
    own = scores(source.raw("none"), source.images("test"))
    spent = len(own) * inputs.cost.whole / source.ranks.count
    source.tally.charge("evaluating", spent, "look")
    others = int((own.argmax(1) != logits.argmax(1)).sum())
    return OwnAnswers(own, event("own-answers", others=others, images=len(own)))


def _agree(source: FeatureSource, inputs: Inputs, rows: Tensor) -> bool:
    """Whether the network says the same of the images as of their activations, drawing the same random numbers."""
    images = source.transform(source.placed(source.images("test")[rows]))
    activations = inputs.look(inputs.seen("test")[rows].clone())
    with evaluating(source.module):
        own = _seeded(source, source.module, images)
        cached = _seeded(source, inputs.judges, activations)
    return source.ranks.every(apart(cached, own) <= allowed(OTHER_ROWS, source.machine.precision))


def _seeded(source: FeatureSource, module: nn.Module, rows: Tensor) -> Tensor:
    with undisturbed(source.module):
        torch.manual_seed(0)
        return source.pass_through(module, rows)
