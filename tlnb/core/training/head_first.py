"""The output layers before the first epoch: their inputs standardised, new ones trained alone for a while.

The latter is LP-FT (linear probing, then fine-tuning; Kumar et al., "Fine-Tuning can Distort Pretrained Features and
Underperform Out-of-Distribution", ICLR 2022): so a new layer's first gradients do not spoil what is pretrained.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn

from tlnb.core.models.anatomy import evaluating
from tlnb.core.models.flops import forward_flops
from tlnb.core.planning.recipes import WARMUP
from tlnb.core.training.cached_inputs import HeadInputs
from tlnb.core.training.checkpoint_state import TrainingState
from tlnb.core.training.context import TrainingContext
from tlnb.core.training.epoch import AdamWEpochs
from tlnb.core.training.folded_input_norm import FoldedInputNorm, can_fold
from tlnb.core.training.head_features import head_inputs_of
from tlnb.core.training.training_inputs import Cost, Inputs

STATISTICS_ROWS = 256  # cached features in one look at what reaches the output layer


def begin_with_heads(
    context: TrainingContext, inputs: Inputs, state: TrainingState, warm: bool
) -> None:
    """Standardise what reaches the output layers, and train new ones alone, where either helps.

    Args:
        warm: whether the rest of the network is pretrained.
    """
    heads, plan = context.trained_heads, context.plan
    foldable = [head for head in context.layers(heads) if can_fold(head)]
    scaled = bool(foldable) and plan.start != "random"
    new = warm and any(edit.covers(head) for edit in plan.edits for head in heads)
    alone_first = new and bool(set(plan.trained) - set(context.anatomy.heads))
    if not (scaled or alone_first):
        return
    head_inputs = head_inputs_of(context.source, heads, inputs)
    if scaled:
        _standardise(context, state, foldable, head_inputs, keep=not new)
    if alone_first:
        _train_heads(context, inputs, state, heads, head_inputs)


# ── what reaches the output layers ────────────────────────────────────────────────────────────────────────────────


def _standardise(
    context: TrainingContext,
    state: TrainingState,
    heads: list[nn.Module],
    head_inputs: HeadInputs | None,
    keep: bool,
) -> None:
    """Let output layers see features of zero mean and like spread; folded into their weights at the end.

    Activations may have any scale, and one learning rate must fit all models. With `keep` the layers go on computing
    what they computed before.
    """
    rest = context.module if head_inputs is None else head_inputs.teaches
    with _recorded(heads) as seen:
        _pass_all(context, rest, head_inputs)
    source = context.source
    example = source.example() if head_inputs is None else source.placed(head_inputs.features[:2])
    flops = context.train_images * forward_flops(rest, example)
    context.costs.charge("caching", flops, "statistics")
    norms = [FoldedInputNorm.of(head, torch.cat(features)) for head, features in seen.items()]
    state.input_norms = norms
    context.ranks.broadcast(tensor for norm in norms for tensor in (norm.mean, norm.spread))
    for norm in norms if keep else ():
        norm.unfold()


@contextmanager
def _recorded(heads: list[nn.Module]) -> Iterator[dict[nn.Module, list[Tensor]]]:
    """What reaches each of these layers inside, batch by batch, `(n, …)` float32."""
    seen: dict[nn.Module, list[Tensor]] = {head: [] for head in heads}
    handles = [
        head.register_forward_pre_hook(lambda h, x: seen[h].append(x[0].detach().float()))
        for head in heads
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _pass_all(context: TrainingContext, rest: nn.Module, head_inputs: HeadInputs | None) -> None:
    """Every training image through the network; or through the rest of it, where what reaches that is at hand."""
    source = context.source
    with (
        evaluating(context.module),
        context.costs.phase("caching", "statistics"),
        torch.no_grad(),
        context.machine.autocast(),
    ):
        if head_inputs is None:
            for images in source.images("train").split(source.chunk()):
                rest(context.model.transform(source.placed(images)))
        else:
            for features in head_inputs.features.split(STATISTICS_ROWS):
                rest(source.placed(features).clone())


# ── the output layers alone ───────────────────────────────────────────────────────────────────────────────────────


def _train_heads(
    context: TrainingContext,
    inputs: Inputs,
    state: TrainingState,
    heads: tuple[str, ...],
    head_inputs: HeadInputs | None,
) -> None:
    """New output layers alone, on what reaches them."""
    options = replace(WARMUP, seed=context.options.seed)
    context.set_modes(heads)
    inputs = _inputs_of_heads(context, inputs, head_inputs)
    train = AdamWEpochs(context, inputs, heads, options, state.micro_batches, state.events)
    epochs = options.epochs or 0
    for epoch in range(epochs):
        context.seed(epoch)
        with context.costs.phase("warmup", "steps"):
            result = train(epoch)
        state.add_work(inputs.cost, result.steps, result.images)
        flops = result.images * inputs.cost.done / context.ranks.count
        context.costs.charge("warmup", flops, "steps")
        context.tell("warmup", epoch + 1, epochs, loss=result.loss)


def _inputs_of_heads(
    context: TrainingContext, inputs: Inputs, head_inputs: HeadInputs | None
) -> Inputs:
    """Cached features where the network can be cut before its output layers, else raw images."""
    source = context.source
    if head_inputs is None:
        return source.raw("none")
    cost = _cost_of_heads(context, inputs, head_inputs)
    return head_inputs.inputs(inputs, context.machine, cost)


def _cost_of_heads(context: TrainingContext, inputs: Inputs, head_inputs: HeadInputs) -> Cost:
    """FLOPs for one image; what the modes are now is what a step without a cache would have cost."""
    source = context.source
    example, counts = source.placed(head_inputs.features[:2]), source.counts
    planned = counts.step(context.module, source.example())
    return Cost(
        done=counts.step(head_inputs.teaches, example),
        planned=planned,
        full=inputs.cost.full,
        look=0.0,
        whole=0.0,
    )
