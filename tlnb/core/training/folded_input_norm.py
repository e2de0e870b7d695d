"""The output layer sees features of zero mean and like spread while it trains; afterwards that is part of its weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn

EPSILON = 4.0  # of the features' overall spread, added before dividing by each feature's own: few examples say little


class FoldedInputNorm:
    """A forward hook on the output layer that standardises its input, until `fold` moves it into the weights."""

    def __init__(self, head: nn.Module, mean: Tensor, spread: Tensor) -> None:
        self.head, self.mean, self.spread = head, mean, spread
        self._handle = head.register_forward_pre_hook(self._hook)

    @classmethod
    def of(cls, head: nn.Module, features: Tensor) -> FoldedInputNorm:
        """By the mean and spread of these features `(N, …)`, as they reach the output layer."""
        axes = feature_axes(head, features.ndim)
        overall = features.std()
        # An untrained network's features may be 1e-10 apart: divided by that alone, weights would
        # be 1e10 after folding, and what is left of small differences would be rounding.
        spread = features.std(axes, keepdim=True, unbiased=False) + EPSILON * overall + 1e-6
        if not overall > 0:  # nothing to go by: a network may begin with zeros
            spread = torch.ones_like(spread)
        return cls(head, features.mean(axes, keepdim=True), spread)

    def _hook(self, _: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        return (((inputs[0].float() - self.mean) / self.spread),)

    def unfold(self) -> None:
        """The same function with the hook as before without it."""
        self._shift(1)
        weight: Tensor = self.head.weight  # type: ignore[assignment]
        with torch.no_grad():
            weight.mul_(self.spread.reshape(_along_inputs(weight)))

    def fold(self) -> None:
        """W ← W / spread, b ← b - W·mean: the same function without the hook."""
        self._handle.remove()
        weight: Tensor = self.head.weight  # type: ignore[assignment]
        with torch.no_grad():
            weight.div_(self.spread.reshape(_along_inputs(weight)))
        self._shift(-1)

    def _shift(self, sign: int) -> None:
        weight: Tensor = self.head.weight  # type: ignore[assignment]
        bias: Tensor = self.head.bias  # type: ignore[assignment]
        with torch.no_grad():
            bias.add_(sign * (weight * self.mean.reshape(_along_inputs(weight))).flatten(1).sum(1))


def can_fold(head: nn.Module) -> bool:
    """Linear layers, and convolutions without padding, whose borders would see zeros instead of the mean."""
    if getattr(head, "bias", None) is None:
        return False
    return isinstance(head, nn.Linear) or (
        isinstance(head, nn.Conv2d) and head.padding == (0, 0) and head.groups == 1
    )


def feature_axes(head: nn.Module, ndim: int) -> tuple[int, ...]:
    """The axes of the output layer's input `(N, …)` that mean and spread are taken over: all but the features'."""
    features = 1 if isinstance(head, nn.Conv2d) else ndim - 1
    return tuple(i for i in range(ndim) if i != features)


def _along_inputs(weight: Tensor) -> list[int]:
    return [1, -1] + [1] * (weight.ndim - 2)
