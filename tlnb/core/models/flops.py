"""FLOPs of a forward pass and of a training step, counted by torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from tlnb.core.models.tracing import Counter, countable
from tlnb.core.models.undisturbed import undisturbed

# Parameters × input values below which counting on a real step is faster.
CHEAP_WITH_NUMBERS = 2e10

Call = Callable[[Tensor], Any]  # a module's forward with copies of its parameters


def forward_flops(module: nn.Module, example: Tensor) -> float:
    """Counted forward FLOPs for one item of `example` `(N, …)`, in the module's modes."""

    def forward(call: Call, inputs: Tensor) -> None:
        with torch.no_grad():
            call(inputs)

    return _counted(module, example, forward)


def step_flops(module: nn.Module, example: Tensor, everything: bool = False) -> float:
    """Counted forward and backward FLOPs for one item of `example`.

    Frozen layers need no gradient.

    Args:
        everything: count as if nothing were frozen.
    """

    return _counted(_Step(module), example, lambda step, inputs: step(inputs), everything)


class _Step(nn.Module):
    """Forward and backward in one call: activation checkpoints run the forward again within the backward."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, inputs: Tensor) -> None:
        self.network(inputs).sum().backward()


class Counts:
    """FLOP counts, cached by module and modes, shape of the example, and trained parameters."""

    def __init__(self) -> None:
        self._known: dict[tuple[object, ...], float] = {}

    def forward(self, module: nn.Module, example: Tensor) -> float:
        """As `forward_flops`."""
        return self._once(lambda: forward_flops(module, example), module, example, None)

    def step(self, module: nn.Module, example: Tensor, everything: bool = False) -> float:
        """As `step_flops`."""
        trains = tuple(everything or p.requires_grad for p in module.parameters())
        return self._once(lambda: step_flops(module, example, everything), module, example, trains)

    def forget(self) -> None:
        """Release the modules."""
        self._known.clear()

    def _once(
        self, count: Callable[[], float], module: nn.Module, example: Tensor, trains: object
    ) -> float:
        key = (module, tuple(m.training for m in module.modules()), tuple(example.shape), trains)
        if key not in self._known:
            self._known[key] = count()
        return self._known[key]


def _counted(
    module: nn.Module,
    example: Tensor,
    work: Callable[[Call, Tensor], None],
    everything: bool = False,
) -> float:
    """FLOPs of `work` for one item, on copies of the module's parameters.

    The copies have no data, unless real data are cheap.
    """
    # cached inputs may be bf16, but without autocast the weights are fp32
    example = example.float()
    tries = [("meta", example.to("meta")), ("", example)]
    if sum(p.numel() for p in module.parameters()) * example.numel() < CHEAP_WITH_NUMBERS:
        tries.reverse()
    for device, inputs in tries:
        twins = {name: _twin(tensor, device, everything) for name, tensor in _held(module)}
        try:
            with undisturbed(module), countable(), Counter() as counter:
                # a layer may change its input in place
                work(lambda x, twins=twins: functional_call(module, twins, (x,)), inputs.clone())  # type: ignore[misc]
            break
        except Exception:  # without data, any error may occur; with data, it is real
            if device == tries[-1][0]:
                raise
    return float(counter.total) / len(example)


def _held(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters(remove_duplicate=True)
    yield from module.named_buffers(remove_duplicate=True)


def _twin(tensor: Tensor, device: str, everything: bool) -> Tensor:
    """A copy of the same shape and requires_grad, on the meta device or with the same data."""
    is_parameter = isinstance(tensor, nn.Parameter)
    own = tensor.detach() if is_parameter else tensor.detach().clone()  # buffers change in place
    twin = torch.empty_like(tensor, device=device) if device else own
    return twin.requires_grad_(
        is_parameter and tensor.is_floating_point() and (everything or tensor.requires_grad)
    )
