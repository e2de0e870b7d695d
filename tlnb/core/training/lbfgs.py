"""Epochs by L-BFGS on the output layer: logistic regression on all cached features at once."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from tlnb.core.planning.options import TrainOptions
from tlnb.core.runtime.errors import UsageError
from tlnb.core.training.batches import weight_share
from tlnb.core.training.context import TrainingContext
from tlnb.core.training.epoch import EpochResult
from tlnb.core.training.freezing import layer_of
from tlnb.core.training.training_inputs import Inputs

LBFGS_ITERATIONS = 5  # that count as one epoch


class LbfgsEpochs:
    """Epochs of a few iterations, each evaluation by all cached views of all images. Leaves the network in eval mode."""

    def __init__(self, context: TrainingContext, inputs: Inputs, options: TrainOptions) -> None:
        """For an output layer whose inputs are cached.

        Raises:
            UsageError: they are not.
        """
        if not inputs.views:
            raise UsageError(
                "--optimizer lbfgs needs cached features, and this network cannot be cut: leave it out"
            )
        self._context, self._inputs, self._options = context, inputs, options
        views = [inputs.train(view) for view in range(inputs.views)]
        features = context.source.placed(torch.cat(views))
        labels = context.labels["train"].repeat(inputs.views)
        self._head = layer_of(context.module, context.anatomy.head)
        self._optimizer = torch.optim.LBFGS(
            self._head.parameters(), max_iter=LBFGS_ITERATIONS, line_search_fn="strong_wolfe"
        )
        shard = context.ranks.shard(len(labels))
        own = context.ranks.busy(shard)
        self._features, self._labels, self._images = features[own], labels[own], len(labels)
        self._share = weight_share(labels[shard], labels, context.class_weights)
        self._losses: list[float] = []  # of this epoch's evaluations
        self._right = 0.0  # images, at the last of them
        context.module.eval()

    def __call__(self, epoch: int) -> EpochResult:
        """Go on for some iterations; loss and accuracy are those of the last evaluation."""
        self._losses.clear()
        self._optimizer.step(self._evaluate)
        evaluations = len(self._losses)
        images = evaluations * self._images
        return EpochResult(self._losses[-1], evaluations, images, self._right / self._images)

    def _evaluate(self) -> Tensor:
        """The loss, its gradients in place: of all processes together."""
        context, ranks = self._context, self._context.ranks
        self._optimizer.zero_grad(set_to_none=True)
        # in eval mode: a line search needs the same loss for the same weights, which dropout would not give
        logits = self._inputs.judges(self._features)
        loss = F.cross_entropy(logits, self._labels, context.class_weights) * self._share
        weight: Tensor = self._head.weight  # type: ignore[assignment]
        penalty = 0.5 * (self._options.weight_decay or 0.0) * weight.square().sum() / ranks.count
        (loss + penalty).backward()
        for parameter in self._head.parameters():
            if parameter.grad is not None:
                ranks.sum(parameter.grad)
        loss = ranks.sum(loss.detach())
        self._losses.append(float(loss))
        hits = (logits.detach().argmax(1) == self._labels).sum() * (self._share > 0)
        self._right = float(ranks.sum(hits))
        return loss
