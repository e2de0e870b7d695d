"""A split is proven before it is used: on images of the data at hand, cut in two, the network gives what it gives whole.

What is compared: outputs, gradients of all that trains, buffers, counters and draws of random numbers, in two steps in a row, the
second with fewer rows in another order; then outputs in eval mode, and rows that pass the prefix alone. Where results differ no
reason is sought in the network's code: that place is not used.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, fx, nn

from tlnb.core.models.anatomy import evaluating
from tlnb.core.models.transform import Transform
from tlnb.core.models.undisturbed import RandomState, counters, undisturbed
from tlnb.core.runtime.device import Machine, out_of_memory
from tlnb.core.training.agreement import OTHER_ROWS, SAME_ROWS, allowed, apart
from tlnb.core.training.split_point import Cut

GRADIENTS = 10.0  # times as far apart as outputs may be: sums over many places
FEW, MOST = 2, 6  # images of a proof
LOOKED_AT = 256  # images among which the darkest and the brightest are sought
PASSES = 3.5  # through the whole network that a proof takes for each of its images
SHARE = 0.1  # of what caching computes, that a proof may
CHEAP = 5e9  # FLOPs that it may in any case: a tenth of a second

RANDOM = "the frozen part draws random numbers"
COMPANY = "what the frozen part makes of an image depends on the images beside it"
MODES = "the frozen part computes something else in training than in eval mode"
PREFIX = (RANDOM, COMPANY, MODES)  # faults of what is left of the cut: an earlier place may do


def rows_for(flops: float, cached: float) -> int:
    """How many images to prove with.

    Args:
        flops: of the whole network, for one image.
        cached: images that the cache is to hold, all views counted.
    """
    affordable = max(SHARE * cached / PASSES, CHEAP / (PASSES * max(flops, 1.0)))
    return int(min(MOST, max(FEW, affordable)))


def proof_images(images: Tensor, transform: Transform, count: int, device: str) -> Tensor:
    """The darkest, the brightest, the first and the last of some images, a black and a white one: as the network takes them.

    Args:
        images: uint8 `(N, 3, H, W)`.
        count: at most so many, in this order.
    """
    step = max(1, len(images) // LOOKED_AT)
    light = torch.cat([part.float().mean((1, 2, 3)) for part in images[::step].split(64)])
    places = [int(light.argmin()) * step, int(light.argmax()) * step, 0, len(images) - 1]
    chosen = images[torch.tensor(places, device=images.device)].to(device)
    black = torch.zeros_like(chosen[:1])
    rows = torch.cat([chosen, black, black + 255])[:count]
    return transform.normalise(transform.fit(rows))


@dataclass(frozen=True, kw_only=True)
class Observed:
    """What one step did."""

    output: Tensor
    grads: tuple[Tensor | None, ...]
    buffers: tuple[Tensor, ...]
    counters: list[object]
    draws: RandomState


@dataclass(frozen=True, kw_only=True)
class Proof:
    """A network in the modes in which it is to be trained, and images to try it with."""

    module: nn.Module
    images: Tensor
    machine: Machine
    whole: dict[str, list[Observed]]  # what the whole network does, once it was asked

    def fault(self, cut: Cut, in_eval: Callable[[], Cut]) -> str:
        """Why this cut may not be used; empty where it may.

        Args:
            in_eval: the cut in eval mode, asked in eval mode.
        """
        with undisturbed(self.module):
            try:
                return self._fault(cut, in_eval)
            except Exception as error:  # a foreign forward raises anything when it is cut
                if not out_of_memory(error) or len(self.images) <= FEW:
                    return _raised(error)
        return replace(self, images=self.images[:FEW], whole={}).fault(cut, in_eval)

    def _fault(self, cut: Cut, in_eval: Callable[[], Cut]) -> str:
        before = RandomState.now()
        value = self._passed(cut.prefix, self.images)
        if not before.same(RandomState.now()):
            return RANDOM
        if len(value) != len(self.images):
            return COMPANY
        return (
            self._prefix_fault(in_eval, value)
            or self._steps_fault(cut.suffix, value)
            or self._eval_fault(in_eval, value)
        )

    def _prefix_fault(self, in_eval: Callable[[], Cut], value: Tensor) -> str:
        """Rows one by one in eval mode, beside rows together in training mode."""
        tolerance = allowed(OTHER_ROWS, self.machine.precision)
        with evaluating(self.module):
            prefix = in_eval().prefix
            alone = [self._passed(prefix, row[None]) for row in self.images[:FEW]]
            if apart(torch.cat(alone), value[:FEW]) <= tolerance:
                return ""
            together = self._passed(prefix, self.images)
        return MODES if apart(together, value) > tolerance else COMPANY

    def _steps_fault(self, suffix: nn.Module, value: Tensor) -> str:
        if "steps" not in self.whole:
            self.whole["steps"] = self._steps(self.module, self.images)
        first, second = zip(self.whole["steps"], self._steps(suffix, value), strict=True)
        if fault := self._difference(*first, SAME_ROWS):
            return fault
        return COMPANY if self._difference(*second, OTHER_ROWS) else ""

    def _eval_fault(self, in_eval: Callable[[], Cut], value: Tensor) -> str:
        with evaluating(self.module):
            whole, rest = (
                self._look(module, rows)
                for module, rows in ((self.module, self.images), (in_eval().suffix, value))
            )
        fault = self._difference(whole, rest, SAME_ROWS)
        return f"{fault} in eval mode" if fault else ""

    def _passed(self, module: nn.Module, rows: Tensor) -> Tensor:
        with torch.no_grad(), self.machine.autocast():
            output: Tensor = module(rows.clone(memory_format=torch.preserve_format))
        return output

    # ── steps ──

    def _steps(self, module: nn.Module, rows: Tensor) -> list[Observed]:
        """Two steps in a row from the same random state: all rows, then some of them in another order."""
        with undisturbed(self.module):
            torch.manual_seed(0)
            fewer = max(FEW, len(rows) // 2)
            return [self._step(module, some) for some in (rows, rows.flip(0)[:fewer])]

    def _step(self, module: nn.Module, rows: Tensor) -> Observed:
        parameters = list(self.module.parameters())
        for parameter in parameters:
            parameter.grad = None
        with torch.enable_grad():
            with self.machine.autocast():
                output: Tensor = module(rows.clone(memory_format=torch.preserve_format))
            if output.requires_grad:
                (output.float() * _weights(output)).sum().backward()
        return self._observed(output.detach(), tuple(parameter.grad for parameter in parameters))

    def _look(self, module: nn.Module, rows: Tensor) -> Observed:
        with undisturbed(self.module):
            torch.manual_seed(0)
            return self._observed(self._passed(module, rows))

    def _observed(self, output: Tensor, grads: tuple[Tensor | None, ...] = ()) -> Observed:
        return Observed(
            output=output,
            grads=grads,
            buffers=tuple(buffer.detach().clone() for buffer in self.module.buffers()),
            counters=counters(self.module),
            draws=RandomState.now(),
        )

    def _difference(self, whole: Observed, split: Observed, tolerance: float) -> str:
        most = allowed(tolerance, self.machine.precision)
        if not whole.draws.same(split.draws):
            return "cut in two, the network draws other random numbers"
        if whole.counters != split.counters:
            return "the network counts its passes"
        if apart(split.output, whole.output) > most:
            return "cut in two, the network gives other outputs"
        if not _alike(split.buffers, whole.buffers, most):
            return "cut in two, the network changes its buffers otherwise"
        if not _alike(split.grads, whole.grads, GRADIENTS * most):
            return "cut in two, the network has other gradients"
        return ""


def _raised(error: Exception) -> str:
    reason = " ".join(str(error).split())[:60]
    return f"cut in two, the network raises {type(error).__name__} ({reason})"


def _weights(output: Tensor) -> Tensor:
    """Numbers of both signs by which outputs are summed up, so that each matters to the gradients."""
    numbers = torch.arange(output.numel(), device=output.device, dtype=torch.float32)
    return torch.cos(numbers).reshape(output.shape)


def _alike(
    some: Sequence[Tensor | None], others: Sequence[Tensor | None], tolerance: float
) -> bool:
    if len(some) != len(others):
        return False
    pairs = list(zip(some, others, strict=True))
    if any((one is None) != (other is None) for one, other in pairs):
        return False
    return all(apart(a, b) <= tolerance for a, b in pairs if a is not None and b is not None)


# ── how far a traced prefix is sound ──────────────────────────────────────────────────────────────────────────────


class _Digests(fx.Interpreter):
    """Runs a graph and notes a few numbers for each row at some of its operations, until something is drawn at random."""

    def __init__(self, prefix: fx.GraphModule, names: Sequence[str]) -> None:
        super().__init__(prefix)
        self._names, self._draws = set(names), RandomState.now()
        self.found: dict[str, Tensor] = {}

    def run_node(self, n: fx.Node) -> object:
        value = super().run_node(n)
        if (
            n.name in self._names
            and isinstance(value, Tensor)
            and self._draws.same(RandomState.now())
        ):
            rows = value.detach().flatten(1).double()
            ramp = torch.linspace(0.5, 1.5, rows.shape[1], device=rows.device, dtype=rows.dtype)
            self.found[n.name] = torch.stack(
                (rows.abs().amax(1), rows @ ramp, rows.abs() @ ramp), 1
            )
        return value


def _digests(prefix: fx.GraphModule, names: Sequence[str], rows: Tensor) -> dict[str, Tensor]:
    interpreter = _Digests(prefix, names)
    with torch.no_grad():
        interpreter.run(rows.clone())
    return interpreter.found


def sound_places(
    prefix: nn.Module, in_eval: nn.Module, names: Sequence[str], images: Tensor
) -> set[str]:
    """The operations of a traced prefix up to which no row depends on others, on the mode, or on chance.

    Args:
        in_eval: the same prefix as traced in eval mode.
        names: of operations, in order.
    """
    if not isinstance(prefix, fx.GraphModule) or not isinstance(in_eval, fx.GraphModule):
        return set()
    together, alone = (
        _digests(graph, names, rows) for graph, rows in ((prefix, images), (in_eval, images[:1]))
    )
    sound: set[str] = set()
    for name in names:
        pair = together.get(name), alone.get(name)
        if pair[0] is None or pair[1] is None or _digests_apart(pair[0][:1], pair[1]):
            break
        sound.add(name)
    return sound


def _digests_apart(one: Tensor, other: Tensor) -> bool:
    size = other[:, [0, 2, 2]].clamp_min(torch.finfo(torch.float32).tiny)
    return bool(((one - other).abs() > OTHER_ROWS * size).any())
