"""Run a network without side effects: random state, buffers and attributes are restored."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tlnb.core.runtime.torch_lock import alone

PLAIN = (bool, int, float, complex, str, bytes, type(None))
CONTAINERS = (list, dict, set)
COUNTERS = (*PLAIN, *CONTAINERS, torch.Generator)
TORCH_DICTS = ("_parameters", "_buffers", "_modules")
OF_EVERY_MODULE = nn.Module().__dict__.keys() - {"training"}  # hooks, mostly; none counts passes


@dataclass(frozen=True, kw_only=True)
class RandomState:
    """The state of the random generators of torch, Python and NumPy."""

    torch_cpu: Tensor
    torch_gpu: Tensor | None
    python: Any
    numpy: Any

    @classmethod
    def now(cls) -> RandomState:
        gpu = torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None
        return cls(
            torch_cpu=torch.get_rng_state(),
            torch_gpu=gpu,
            python=random.getstate(),
            numpy=np.random.get_state(),
        )

    def restore(self) -> None:
        torch.set_rng_state(self.torch_cpu)
        if self.torch_gpu is not None:
            torch.cuda.set_rng_state(self.torch_gpu)
        random.setstate(self.python)
        np.random.set_state(self.numpy)

    def same(self, other: RandomState) -> bool:
        """Whether both states agree, so that nothing, or equally much, was drawn."""
        gpu = self.torch_gpu is None or (
            other.torch_gpu is not None and torch.equal(self.torch_gpu, other.torch_gpu)
        )
        numpy = all(np.array_equal(a, b) for a, b in zip(self.numpy, other.numpy, strict=True))
        cpu = torch.equal(self.torch_cpu, other.torch_cpu)
        return cpu and gpu and numpy and self.python == other.python


@contextmanager
def undisturbed(module: nn.Module) -> Iterator[None]:
    """Restore random generators, buffers, gradients and module attributes afterwards.

    Modes are left to the caller. Parameters are not copied: no forward pass changes them.
    """
    with alone():
        draws, held = RandomState.now(), [_Held(part) for part in module.modules()]
        grads = [(p, p.grad) for p in module.parameters()]
        try:
            yield
        finally:
            draws.restore()
            for part in held:
                part.restore()
            for parameter, grad in grads:
                parameter.grad = grad


class _Held:
    """The state of one module besides parameters and submodules."""

    def __init__(self, part: nn.Module) -> None:
        self._part = part
        self._buffers = {
            name: (buffer, None if buffer is None else buffer.detach().clone())
            for name, buffer in part._buffers.items()
        }
        own = {k: v for k, v in part.__dict__.items() if k not in (*TORCH_DICTS, "training")}
        self._own = {name: (value, _copied(value)) for name, value in own.items()}

    def restore(self) -> None:
        for name, (buffer, before) in self._buffers.items():
            self._part._buffers[name] = buffer
            if buffer is not None and before is not None and _differ(buffer, before):
                buffer.detach().copy_(before)
        new = self._part.__dict__.keys() - self._own.keys() - {*TORCH_DICTS, "training"}
        for name in new:
            del self._part.__dict__[name]
        for name, (value, before) in self._own.items():
            self._part.__dict__[name] = value
            _put_back(value, before)


def _differ(one: Tensor, other: Tensor) -> bool:
    """Whether numbers differ; without numbers they do not."""
    return not one.is_meta and not torch.equal(one, other)


def _copied(value: Any) -> Any:
    """A copy of an attribute's value, as far as a forward pass may change it in place."""
    if isinstance(value, CONTAINERS):
        return copy.copy(value) if value else ()
    return value.get_state() if isinstance(value, torch.Generator) else None


def _put_back(value: Any, before: Any) -> None:
    if before is None or (isinstance(before, tuple) and not value):
        return
    if isinstance(value, torch.Generator):
        value.set_state(before)
    elif isinstance(value, list):
        value[:] = before
    else:
        value.clear()
        value.update(before)


def counters(module: nn.Module) -> list[object]:
    """Values that a pass may change in place.

    These are numbers and strings in attributes, and generators.
    """
    return [
        (name, key, _plain(value))
        for name, part in module.named_modules()
        for key, value in sorted(part.__dict__.items())
        if key not in OF_EVERY_MODULE and isinstance(value, COUNTERS)
    ]


def _plain(value: Any) -> object:
    if isinstance(value, torch.Generator):
        return value.get_state().numpy().tobytes()
    if isinstance(value, dict):
        return [(k, v) for k, v in value.items() if isinstance(v, PLAIN)]
    if isinstance(value, list | set):
        return [v for v in value if isinstance(v, PLAIN)]
    return value
