"""What an edited network may make of one image: a short line can ask for more activations than any machine has.

The pass that tries edits runs without numbers, where size costs nothing. What it makes is counted here, and a pass that needs
numbers is asked for every shape before the operation is carried out.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from tlnb.core.models.anatomy import evaluating
from tlnb.core.models.tracing import Counter, blank
from tlnb.core.planning.plan import Edit
from tlnb.core.runtime.errors import PlanError

MOST_BYTES = 5 * 10**8  # of one image's activations in all: ResNet-50 makes 92 MB at 224 pixels
TIMES = 4  # what the network makes without edits, where that is more
MOST_OPERATIONS = 20_000  # of a pass: an LSTM takes ten for every step


class TooManyActivations(PlanError):
    """Edits that make too much of one image."""


@dataclass(frozen=True)
class ActivationLimit:
    """How much edits may make of an image of this size, by what the network makes without them."""

    original: nn.Module
    size: int

    @cached_property
    def most(self) -> int:
        """Bytes."""
        return max(MOST_BYTES, TIMES * activations(self.original, self.size))

    def check(self, size: int, operations: int, shape: Sequence[int]) -> None:
        """Raises `TooManyActivations` where so many bytes, or operations, are too many."""
        if operations > MOST_OPERATIONS:
            raise TooManyActivations(
                f"the edits take more than {MOST_OPERATIONS:,} operations per image: "
                "use fewer layers, or shorter sequences"
            )
        if size > MOST_BYTES and size > self.most:
            what = "×".join(map(str, shape))
            raise TooManyActivations(
                f"the edits make more than {self.most / 1e6:,.0f} MB of activations per image "
                f"({what} in one place): "
                "use smaller sizes, e.g. nn.Upsample(scale_factor=2)"
            )


def limit_of(original: nn.Module, edits: Sequence[Edit], size: int) -> ActivationLimit | None:
    """The limit for a network with these edits; None where they only take away."""
    return ActivationLimit(original, size) if any(edit.code for edit in edits) else None


def activations(module: nn.Module, size: int) -> int:
    """Bytes that a pass of one blank image `(1, 3, size, size)` makes, in eval mode; as far as it comes without numbers."""
    seen = ActivationCounter(None)
    with contextlib.suppress(Exception):  # a network that needs numbers: what came before counts
        one_image(blank(module), size, seen)
    return seen.bytes


def one_image(module: nn.Module, size: int, counter: ActivationCounter) -> Any:
    """The output for one blank image in eval mode; `Counter` lets constants meet what has no numbers."""
    parameter = next(module.parameters())
    with evaluating(module), torch.no_grad(), counter, Counter():
        return module(torch.zeros(1, 3, size, size, device=parameter.device))


class ActivationCounter(TorchDispatchMode):
    """Sums, inside, the bytes of what operations make; views take none.

    An operation with numbers is first tried without: what is too large is never allocated.
    """

    def __init__(self, limit: ActivationLimit | None) -> None:
        super().__init__()
        self.limit, self.bytes, self.operations = limit, 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = (args, kwargs or {})
        if self.limit is None or all(t.is_meta for t in _tensors(given)):
            out = func(*args, **(kwargs or {}))
            self._count(given, out)
            return out
        self._try_without_numbers(func, *given)
        return func(*args, **(kwargs or {}))

    def _try_without_numbers(self, func: Any, args: Any, kwargs: Any) -> None:
        kwargs = kwargs | ({"device": "meta"} if "device" in kwargs else {})
        twins = tree_map_only(Tensor, lambda t: t.to("meta"), (args, kwargs))
        try:
            out = func(*twins[0], **twins[1])
        except Exception:  # its shape depends on numbers, or it fails: so it does with numbers
            return
        self._count(twins, out)

    def _count(self, given: Any, out: Any) -> None:
        known = {t.untyped_storage()._cdata for t in _tensors(given)}
        made = [t for t in _tensors(out) if t.untyped_storage()._cdata not in known]
        self.bytes += sum(t.numel() * t.element_size() for t in made)
        self.operations += 1
        if self.limit is not None:
            self.limit.check(self.bytes, self.operations, made[0].shape if made else ())


def _tensors(values: Any) -> list[Tensor]:
    return [value for value in tree_leaves(values) if isinstance(value, Tensor)]
