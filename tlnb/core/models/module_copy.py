"""Copies of networks that Python alone would not copy: what they keep of a forward pass is detached, locks are made anew."""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from torch import Tensor, nn

from tlnb.core.runtime.errors import ModelError

Module = TypeVar("Module", bound=nn.Module)
LOCKS = {
    type(make()): make
    for make in (threading.Lock, threading.RLock, threading.Event, threading.Condition)
}
MAX_DEPTH = 3  # of lists and dictionaries in an attribute


def copied(module: Module, memo: Mapping[int, Any] | None = None) -> Module:
    """A deep copy of a network.

    Activations that a forward pass left in attributes, and weights that the old `weight_norm` computes, hang on a graph and
    cannot be copied: their numbers are.

    Args:
        memo: what stands in the copy for which object, by `id`, as for `copy.deepcopy`.

    Raises:
        ModelError: an attribute that cannot be copied, such as an open file.
    """
    known = {
        id(value): fresh for part in module.modules() for value, fresh in _replacements(part)
    } | dict(memo or {})
    try:
        return copy.deepcopy(module, known)
    except (TypeError, RuntimeError, NotImplementedError) as error:
        where, kind = _culprit(module, known)
        if not where:
            raise
        raise ModelError(
            f"{type(module).__name__} cannot be copied, since its attribute {where} is a {kind} "
            f"({' '.join(str(error).split())[:60]}): set that to None, and load it again"
        ) from None


def _replacements(part: nn.Module) -> Iterator[tuple[Any, Any]]:
    """What a module holds that cannot be copied, and what takes its place."""
    for value in _held(list(part.__dict__.values()), MAX_DEPTH):
        if isinstance(value, Tensor) and not value.is_leaf:
            yield value, value.detach().clone()
        elif type(value) in LOCKS:
            yield value, LOCKS[type(value)]()


def _held(values: list[Any], depth: int) -> Iterator[Any]:
    for value in values:
        if isinstance(value, dict | list | tuple | set) and depth:
            yield from _held(list(value.values() if isinstance(value, dict) else value), depth - 1)
        elif not isinstance(value, nn.Module):
            yield value


def _culprit(module: nn.Module, known: Mapping[int, Any]) -> tuple[str, str]:
    """The attribute that cannot be copied, and its type; empty where there is none."""
    for name, part in module.named_modules():
        for key, value in part.__dict__.items():
            if key not in ("_modules", "_parameters", "_buffers"):
                try:
                    copy.deepcopy(value, dict(known))
                except Exception:  # whatever a type raises that is not made for it
                    return f"{name}.{key}".lstrip("."), type(value).__name__
    return "", ""
