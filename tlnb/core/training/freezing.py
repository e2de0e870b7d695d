"""Freezing: no gradient and eval mode, and a bit-exact proof afterwards."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tlnb.core.models.anatomy import ROOT, owned
from tlnb.core.planning.edit import has_own_parts
from tlnb.core.planning.options import TrainOptions
from tlnb.core.planning.plan import Plan
from tlnb.core.runtime.errors import OneLine


def layer_of(module: nn.Module, name: str) -> nn.Module:
    """The module that a layer's name refers to."""
    return module if name == ROOT else module.get_submodule(name)


def set_modes(module: nn.Module, trained: set[str], keeping: Collection[str] = ()) -> None:
    """Freeze all but the trained layers: no gradient *and* eval mode.

    A module without parameters goes with the module around it if that is frozen, or trained, as a
    whole; else with the next layer after it.

    Args:
        keeping: trained layers that keep their statistics: in eval mode, with gradients.
    """
    owners = {part: name for name, part in owned(module)}
    inside = _trains_inside(owners.values(), trained)
    waiting: list[nn.Module] = []
    for name, part in module.named_modules():
        if part in owners:
            trains = owners[part] in trained
            for parameter in part._parameters.values():
                if parameter is not None:
                    parameter.requires_grad_(trains)
            for affected in waiting:
                affected.training = trains
            part.training = trains and owners[part] not in keeping
            waiting.clear()
        elif has_own_parts(part):
            part.training = True in inside.get(name, ())
        elif len(around := _nearest(inside, name)) == 1:
            part.training = True in around
        else:
            waiting.append(part)
    for last in waiting:
        last.training = True


def keeping_statistics(module: nn.Module, plan: Plan, options: TrainOptions) -> frozenset[str]:
    """The trained BatchNorm layers whose statistics stay: those that have any, if so chosen.

    A layer that is new or was never trained has mean 0 and variance 1 throughout.

    Args:
        module: at the start of its training.
    """
    if options.batch_statistics is not False or plan.start == "random":
        return frozenset()
    layers = ((name, layer_of(module, name)) for name in plan.trained)
    return frozenset(name for name, layer in layers if _has_statistics(layer))


def _has_statistics(layer: nn.Module) -> bool:
    if not isinstance(layer, nn.modules.batchnorm._BatchNorm) or layer.running_mean is None:
        return False
    assert layer.running_var is not None
    return bool(layer.running_mean.count_nonzero()) or not bool(torch.all(layer.running_var == 1))


def _trains_inside(layers: Iterable[str], trained: Collection[str]) -> dict[str, set[bool]]:
    """For every module that is or holds layers: whether they train, both if they differ."""
    inside: dict[str, set[bool]] = {}
    for layer in layers:
        for name in _and_above("" if layer == ROOT else layer):
            inside.setdefault(name, set()).add(layer in trained)
    return inside


def _nearest(inside: Mapping[str, set[bool]], name: str) -> set[bool]:
    """The same for a module without layers: of the first module around it that holds some."""
    return next((inside[above] for above in _and_above(name) if above in inside), set())


def _and_above(name: str) -> Iterator[str]:
    """A module's name, and those of the modules around it, up to the whole network's."""
    yield name
    while name:
        name = name.rpartition(".")[0]
        yield name


class Learning:
    """The modules in training mode, kept to spare evaluation a walk over the module tree."""

    def __init__(self, module: nn.Module) -> None:
        self._parts = [part for part in module.modules() if part.training]

    @contextmanager
    def resting(self) -> Iterator[None]:
        """Put the whole network in eval mode within the context."""
        for part in self._parts:
            part.training = False
        try:
            yield
        finally:
            for part in self._parts:
                part.training = True


def state_of(module: nn.Module, layers: tuple[str, ...]) -> dict[str, Tensor]:
    """A copy of the tensors that these layers own, by full name."""
    return {
        key: tensor.detach().clone() for name in layers for key, tensor in _tensors(module, name)
    }


def _tensors(module: nn.Module, name: str) -> Iterator[tuple[str, Tensor]]:
    prefix = "" if name == ROOT else name + "."
    return ((prefix + key, tensor) for key, tensor in own_tensors(layer_of(module, name)))


def own_tensors(layer: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """A layer's own parameters and buffers, by name."""
    for held in (layer._parameters, layer._buffers):
        yield from ((key, tensor) for key, tensor in held.items() if tensor is not None)


def bits_of(tensor: Tensor) -> Tensor:
    """The bytes of a tensor, in order, on the CPU: `(bytes,)` uint8."""
    return tensor.detach().cpu().contiguous().view(-1).view(torch.uint8)


# ── the proof ─────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, kw_only=True)
class Change(OneLine):
    """How far a layer moved in a run. None if the layer has no tensors of that kind."""

    name: str
    stage: str
    params: int
    frozen: bool  # as planned
    moved: bool  # whether any bit differs from the start
    weights: float | None  # ‖Δw‖ / ‖w‖ over all its parameters, with w at the start
    statistics: float | None  # the same for its running statistics

    def __repr__(self) -> str:
        if not self.moved:
            return f"Change {self.name}: none, to the bit"
        parts = [
            f"{what} by {share:.2%}"
            for what, share in (("weights", self.weights), ("statistics", self.statistics))
            if share
        ]
        return f"Change {self.name}: {', '.join(parts) or 'a counter'}"


def hashes(module: nn.Module) -> dict[str, str]:
    """A bit-exact hash of every layer's own parameters and buffers."""
    digests = {}
    for name, part in owned(module):
        digest = hashlib.sha256()  # CPUs have instructions for it
        for _, tensor in own_tensors(part):
            digest.update(bits_of(tensor).numpy().tobytes())
        digests[name] = digest.hexdigest()[:32]
    return digests


def relative_change(
    module: nn.Module, name: str, start: Mapping[str, Tensor]
) -> tuple[float | None, float | None]:
    """Relative change of a layer's parameters, and of its running statistics.

    ‖now − start‖ / ‖start‖, with Frobenius norms.
    """
    parameters = {id(p) for p in layer_of(module, name)._parameters.values()}
    pairs: dict[bool, list[tuple[Tensor, Tensor]]] = {True: [], False: []}
    for key, tensor in _tensors(module, name):
        if tensor.is_floating_point() and key in start:
            pairs[id(tensor) in parameters].append(
                (tensor.detach().cpu().double(), start[key].cpu().double())
            )
    return _share(pairs[True]), _share(pairs[False])


def _share(pairs: list[tuple[Tensor, Tensor]]) -> float | None:
    if not pairs:
        return None
    moved = sum(float((now - before).square().sum()) for now, before in pairs)
    size = sum(float(before.square().sum()) for _, before in pairs)
    return float((moved / size) ** 0.5) if size else float(moved > 0)
