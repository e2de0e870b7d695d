"""Limits on an edited network's activations.

A short line can ask for more activations than any machine can hold. The forward pass that tests
edits runs on the meta device, where size costs nothing, and its activations are counted here. A
pass that needs real tensors checks every shape before the operation runs.
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

MOST_BYTES = 5 * 10**8  # all activations of one image; ResNet-50 makes 92 MB at 224 pixels
TIMES_UNEDITED = 4  # the limit, if higher, as a multiple of the unedited network's activations
MOST_OPERATIONS = 20_000  # in one pass; an LSTM takes ten per step


class TooManyActivations(PlanError):
    """Edits that make too many activations per image."""


@dataclass(frozen=True)
class ActivationLimit:
    """The most activations that edits may make of an image `size` pixels wide and high."""

    original: nn.Module
    size: int

    @cached_property
    def most(self) -> int:
        """The limit in bytes."""
        return max(MOST_BYTES, TIMES_UNEDITED * activations(self.original, self.size))

    def check(self, size: int, operations: int, shape: Sequence[int]) -> None:
        """Raise `TooManyActivations` if the bytes `size` or the operations exceed the limit."""
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
    """The limit for a network with these edits; None if they only remove modules."""
    return ActivationLimit(original, size) if any(edit.code for edit in edits) else None


def activations(module: nn.Module, size: int) -> int:
    """Bytes of activations of one blank image `(1, 3, size, size)` in eval mode.

    Counted on the meta device, up to the first operation that needs real tensors.
    """
    counter = ActivationCounter(None)
    with contextlib.suppress(Exception):  # where the pass fails, what came before counts
        one_image(blank(module), size, counter)
    return counter.bytes


def one_image(module: nn.Module, size: int, counter: ActivationCounter) -> Any:
    """The output for one blank image in eval mode; `Counter` lets constants be meta too."""
    parameter = next(module.parameters())
    with evaluating(module), torch.no_grad(), counter, Counter():
        return module(torch.zeros(1, 3, size, size, device=parameter.device))


class ActivationCounter(TorchDispatchMode):
    """Context that sums the bytes of the tensors that operations make; views count zero.

    An operation on real tensors is first tried on meta tensors, so that nothing too large is ever
    allocated.
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
        self._try_on_meta(func, *given)
        return func(*args, **(kwargs or {}))

    def _try_on_meta(self, func: Any, args: Any, kwargs: Any) -> None:
        kwargs = kwargs | ({"device": "meta"} if "device" in kwargs else {})
        twins = tree_map_only(Tensor, lambda t: t.to("meta"), (args, kwargs))
        try:
            out = func(*twins[0], **twins[1])
        except Exception:  # its shape depends on values, or it fails on real tensors as well
            return
        self._count(twins, out)

    def _count(self, given: Any, out: Any) -> None:
        known = {t.untyped_storage()._cdata for t in _tensors(given)}
        new = [t for t in _tensors(out) if t.untyped_storage()._cdata not in known]
        self.bytes += sum(t.numel() * t.element_size() for t in new)
        self.operations += 1
        if self.limit is not None:
            self.limit.check(self.bytes, self.operations, new[0].shape if new else ())


def _tensors(values: Any) -> list[Tensor]:
    return [value for value in tree_leaves(values) if isinstance(value, Tensor)]
