"""A network cut between modules that it calls one after the other: for those that torch.fx cannot trace.

What lies left of the cut is replaced by modules that pass on what they get; the cached value goes in where the image
did. Whether that computes the same is not assumed: it is tried, to the bit.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tlnb.core.models.anatomy import ROOT, evaluating, owned
from tlnb.core.models.flops import forward_flops
from tlnb.core.runtime.errors import OneLine


@dataclass(frozen=True)
class Place:
    """Where a network can be cut, and what that would mean for one image."""

    at: str  # name of the operation, or of the module, after which the network is cut
    shape: tuple[int, ...]  # of the value there, without the batch
    flops: float  # forward, from the image to here
    traced: bool = True  # found by torch.fx; else a module in a chain

    @property
    def numbers(self) -> int:
        """How many numbers are to be kept for one image."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Cut(OneLine):
    """A network in two parts: `suffix(prefix(x)) == network(x)`."""

    at: str
    prefix: nn.Module
    suffix: nn.Module

    def __repr__(self) -> str:
        return f"Cut after {self.at}"


class _Reached(Exception):
    """The value at the cut is known; the rest of the pass is not needed."""

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.value = value


class _UpTo(nn.Module):
    """A network's pass up to the output of one of its modules."""

    def __init__(self, network: nn.Module, at: str) -> None:
        super().__init__()
        self.network, self.at = network, at

    def forward(self, images: Tensor) -> Tensor:
        handle = self.network.get_submodule(self.at).register_forward_hook(_stop)
        try:
            self.network(images)
        except _Reached as reached:
            return reached.value
        finally:
            handle.remove()
        raise RuntimeError(f"{self.at} is never called")


def _stop(_: nn.Module, __: Any, output: Tensor) -> None:
    raise _Reached(output)


class _From(nn.Module):
    """The network with everything up to a module passed over. All else is shared with it, its mode included."""

    def __init__(self, network: nn.Module, passed: Sequence[str]) -> None:
        super().__init__()
        self._origin = (network,)  # in a tuple: no part of this module
        self.short = copy.copy(network)
        self.short._modules = dict(network._modules)
        for name in passed:
            self.short._modules[name] = nn.Identity()

    def forward(self, cached: Tensor) -> Any:
        self.short.training = self._origin[0].training
        return self.short(cached)


def chain_places(module: nn.Module, trained: Sequence[str], example: Tensor) -> list[Place]:
    """The children of a network after which it can be cut, from the input on: all before are frozen and in eval mode.

    Args:
        example: inputs `(N, …)`, with numbers: every cut is tried on them, and kept only where both halves together give
            the network's own result, to the bit.
    """
    called = _called(module, example)
    frozen: list[str] = []
    found: list[Place] = []
    for name in called:
        child = module.get_submodule(name)
        layers = {f"{name}.{n}" if n != ROOT else name for n, _ in owned(child)}
        if layers & set(trained) or any(p.training for p in child.modules()):
            break
        frozen.append(name)
        value = _same(module, name, example)
        if value is not None:
            found.append(
                Place(
                    name,
                    tuple(value.shape[1:]),
                    forward_flops(chain_cut(module, name).prefix, example),
                    traced=False,
                )
            )
    return found


def chain_cut(module: nn.Module, at: str) -> Cut:
    """The network cut after one of its children, which it calls in the order in which it holds them."""
    names = [name for name, _ in module.named_children()]
    return Cut(at, _UpTo(module, at), _From(module, names[: names.index(at) + 1]))


def _called(module: nn.Module, example: Tensor) -> list[str]:
    """The children that the network calls once each, in the order in which it holds them: up to where that ends."""
    order: list[str] = []
    handles = [
        child.register_forward_pre_hook(lambda _, __, name=name: order.append(name))
        for name, child in module.named_children()
    ]
    try:
        with evaluating(module), torch.no_grad():
            module(example[:1])
    finally:
        for handle in handles:
            handle.remove()
    held = [name for name, _ in module.named_children()]
    same = next(
        (i for i, (a, b) in enumerate(zip(order, held, strict=False)) if a != b),
        min(len(order), len(held)),
    )
    return [name for name in order[:same] if order.count(name) == 1]


def _same(module: nn.Module, at: str, example: Tensor) -> Tensor | None:
    """The value at a cut, where the network in two halves gives the same as in one."""
    cut = chain_cut(module, at)
    with evaluating(module), torch.no_grad():
        try:
            value = cut.prefix(example)
            rows = (
                isinstance(value, Tensor)
                and value.is_floating_point()
                and len(value) == len(example)
            )
            return value if rows and torch.equal(cut.suffix(value), module(example)) else None
        except (
            Exception
        ):  # a forward that does not take the value in the image's place raises anything
            return None
