"""Deep copies of networks that `copy.deepcopy` rejects.

Leftovers of a forward pass are detached, and locks are recreated.
"""

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
MAX_DEPTH = 3  # nesting of lists and dictionaries in an attribute


def copied(module: Module, memo: Mapping[int, Any] | None = None) -> Module:
    """A deep copy of a network.

    Activations that a forward pass left in attributes, and weights computed by the old
    `weight_norm`, belong to a graph and cannot be copied: they are detached.

    Args:
        memo: replacements by `id` of the original, as for `copy.deepcopy`.

    Raises:
        ModelError: an attribute cannot be copied, such as an open file.
    """
    known = _known(module) | dict(memo or {})
    try:
        return copy.deepcopy(module, dict(known))  # it notes there what it began to copy
    except (TypeError, RuntimeError, NotImplementedError) as error:
        where, kind = _culprit(module, known)
        if not where:
            raise
        raise ModelError(
            f"{type(module).__name__} cannot be copied, since its attribute {where} is a {kind} "
            f"({' '.join(str(error).split())[:60]}): set that to None, and load it again"
        ) from None


def copied_or_shared(module: Module) -> Module:
    """A copy of a trained network; attributes that cannot be copied are shared with the original.

    What a forward pass left in a network, such as an open file or a generator, must not cost its
    training. A network that cannot be copied even so is returned itself.
    """
    try:
        return copied(module)
    except Exception:  # types that cannot be copied may raise anything
        shared = {id(value): value for _, value in _not_copied(module, _known(module))}
    try:
        return copied(module, shared)
    except Exception:
        for tensor in (*module.parameters(), *module.buffers()):
            tensor.data = tensor.data.clone()  # other runs may share its memory
        return module


def _known(module: nn.Module) -> dict[int, Any]:
    """Replacements in a copy, by `id` of the original."""
    return {id(value): fresh for part in module.modules() for value, fresh in _replacements(part)}


def _replacements(part: nn.Module) -> Iterator[tuple[Any, Any]]:
    """Yield attributes of a module that cannot be copied, with their replacements."""
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
    """The attribute that cannot be copied, and its type; empty if there is none."""
    where, value = next(_not_copied(module, known), ("", None))
    return where, type(value).__name__ if where else ""


def _not_copied(module: nn.Module, known: Mapping[int, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the attributes that cannot be copied, with their names."""
    for name, part in module.named_modules():
        for key, value in part.__dict__.items():
            if key not in ("_modules", "_parameters", "_buffers"):
                try:
                    copy.deepcopy(value, dict(known))
                except Exception:  # types that cannot be copied may raise anything
                    yield f"{name}.{key}".lstrip("."), value
