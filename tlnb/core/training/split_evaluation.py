"""Evaluate splits: accuracies while the network trains, and its answers on the test split once at the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from tlnb.core.data.dataset import DataSet
from tlnb.core.planning.options import TrainOptions
from tlnb.core.training.answers import Answers
from tlnb.core.training.calibrating import Calibrated, scores_of
from tlnb.core.training.context import TrainingContext
from tlnb.core.training.events import Event
from tlnb.core.training.freezing import Learning
from tlnb.core.training.monitor_schedule import looks
from tlnb.core.training.own_answers import own_answers
from tlnb.core.training.training_inputs import Cost, Inputs


def looks_at_monitor(data: DataSet, options: TrainOptions, cost: Cost) -> tuple[int, ...]:
    """The epochs, from 0, after which a run with filled-in options looks at `monitor`; none without such a split."""
    if "monitor" not in data.splits:
        return ()
    epochs = options.epochs or 0
    return looks(
        epochs, epochs * data.splits["train"] * cost.done, data.splits["monitor"] * cost.look
    )


def evaluate_splits(
    context: TrainingContext, inputs: Inputs, learning: Learning, splits: Sequence[str]
) -> Mapping[str, float]:
    """Accuracy on those of the splits that the data have."""
    rows = {split: inputs.seen(split) for split in splits if split in context.data.splits}
    if not rows:
        return {}
    with context.costs.phase("evaluating", "look"), learning.resting():
        predicted = {s: _logits(context, inputs, x).argmax(1) for s, x in rows.items()}
        images = sum(map(len, rows.values())) / context.ranks.count
        context.costs.charge("evaluating", images * inputs.cost.look, "look")
        return {s: float((p == context.labels[s]).float().mean()) for s, p in predicted.items()}


def answers_on_test(
    context: TrainingContext,
    inputs: Inputs,
    events: list[Event],
    with_logits: bool = False,
    calibrated: Calibrated | None = None,
) -> Answers:
    """What the network says about the test split. Leaves it in eval mode.

    Args:
        events: where it is noted that cached activations gave other answers.
        calibrated: by which probabilities are those of the temperature.
    """
    rows, targets = inputs.seen("test"), context.labels["test"]
    context.module.eval()
    with context.costs.phase("evaluating", "look"):
        logits, likeness = _logits_and_likeness(context, inputs, rows, calibrated)
    own = own_answers(context.source, inputs, logits, partial(_logits, context))
    if own.event:
        likeness = calibrated = None
    logits, events[:] = own.logits, [*events, *filter(None, [own.event])]
    fitted = calibrated.calibration if calibrated else None
    with context.costs.phase("evaluating", "look"):
        predicted = logits.argmax(1)
        probabilities = (logits.float() / (fitted.temperature if fitted else 1.0)).softmax(1)
        answers = Answers(
            truths=targets.cpu(),
            guesses=predicted.cpu(),
            sure=probabilities.gather(1, predicted[:, None])[:, 0].cpu(),
            sure_of_truth=probabilities.gather(1, targets[:, None])[:, 0].cpu(),
            logits=logits.float().cpu() if with_logits else None,
            likeness=likeness,
        )
    flops = len(rows) * inputs.cost.look / context.ranks.count
    context.costs.charge("evaluating", flops, "look")
    return answers


def _logits_and_likeness(
    context: TrainingContext, inputs: Inputs, rows: Tensor, calibrated: Calibrated | None
) -> tuple[Tensor, Tensor | None]:
    if calibrated is None or calibrated.known is None:
        return _logits(context, inputs, rows), None
    logits, features = scores_of(context, inputs, rows)
    return logits, calibrated.known.likeness(features)


def _logits(context: TrainingContext, inputs: Inputs, rows: Tensor) -> Tensor:
    """Logits `(N, C)` by the network in eval mode; processes share the rows."""

    def look(part: slice) -> Tensor:
        ready = inputs.look(rows[part].clone())
        return context.source.pass_through(inputs.judges, ready)

    return torch.cat(list(context.ranks.shared(len(rows), inputs.chunk, look)))


def scores(answers: Answers) -> tuple[int, float]:
    """How many are right, and the mean of the accuracies by class."""
    right = (answers.guesses == answers.truths).float()
    by_class = [float(right[answers.truths == c].mean()) for c in answers.truths.unique()]
    return int(right.sum()), sum(by_class) / len(by_class)
