"""A split is proven before it is used: on images of the data at hand, both parts together give what the network gives.

Compared are outputs, gradients of all that trains, buffers, counters and random draws in two steps in a row, the second with
fewer rows in another order; then, in eval mode, rows that pass alone. Where results differ the place is not used, whatever
the reason.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from tlnb.core.models.anatomy import evaluating
from tlnb.core.models.transform import Transform
from tlnb.core.models.undisturbed import RandomState, counters, undisturbed
from tlnb.core.runtime.device import Machine, out_of_memory
from tlnb.core.training.agreement import OTHER_ROWS, SAME_ROWS, allowed, apart
from tlnb.core.training.split_point import Cut, Place
from tlnb.core.training.split_replay import tapping

NOISE = 1e-2  # of the largest number of all tensors: what is smaller may be rounding errors alone
GRADIENTS = 10.0  # times as far apart as outputs may be: sums over many places
FEW, MOST = 2, 6  # images of a proof
LOOKED_AT = 256  # images among which the darkest and the brightest are sought
ALWAYS = 5  # rows that pass whole besides: a second step, rows alone
SHARE = 0.1  # of what caching computes, that a proof may
CHEAP = 5e9  # FLOPs that it may in any case: a tenth of a second

RANDOM = "the frozen part draws random numbers"
COMPANY = "what the frozen part makes of an image depends on the images beside it"
MODES = "the frozen part computes something else in training than in eval mode"
COUNTS = "the network counts its passes"
BUFFERS = "cut in two, the network changes its buffers otherwise"
PREFIX = (RANDOM, COMPANY, MODES)  # faults of what is left of the cut: an earlier place may do


def rows_for(flops: float, cached: float) -> int:
    """How many images to prove with.

    Args:
        flops: of the whole network, for one image.
        cached: images that the cache is to hold, all views counted.
    """
    affordable = max(SHARE * cached, CHEAP / max(flops, 1.0)) - ALWAYS
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


@dataclass
class Tap:
    """The value at a place in one pass of the whole network."""

    value: Tensor | None = None
    draws: RandomState | None = None  # when the pass reached the place

    def note(self, _: Place, value: Tensor) -> None:
        """Keep the first one."""
        if self.value is None:
            self.value, self.draws = value.detach().clone(), RandomState.now()


@dataclass(frozen=True, kw_only=True)
class Proof:
    """A network in the modes in which it is to be trained, and images to try it with."""

    module: nn.Module
    images: Tensor
    machine: Machine

    def fault(self, place: Place, cut: Cut) -> str:
        """Why the network may not be split there; empty where it may."""
        with undisturbed(self.module):
            try:
                return self._fault_or_table(place, cut)
            except Exception as error:  # a foreign forward raises anything when it is split
                if not out_of_memory(error) or len(self.images) <= FEW:
                    return _raised(error)
        return replace(self, images=self.images[:FEW]).fault(place, cut)

    def _fault_or_table(self, place: Place, cut: Cut) -> str:
        """The fault. Buffers may be tables that the first pass fills: then the second pass counts."""
        fault = self._fault(place, cut)
        if fault != BUFFERS:
            return fault
        self._passed(self.module, self.images)
        return self._fault(place, cut)

    def _fault(self, place: Place, cut: Cut) -> str:
        before, tap = RandomState.now(), Tap()
        with tapping(self.module, [place], tap.note):
            whole = self._steps(self.module, self.images, before)
        if tap.value is None or tap.draws is None or len(tap.value) != len(self.images):
            return COMPANY
        if not before.same(tap.draws):
            return RANDOM
        return self._steps_fault(
            whole, self._steps(cut.suffix, tap.value, before)
        ) or self._eval_fault(cut, tap.value)

    def _steps_fault(self, whole: Sequence[Observed], split: Sequence[Observed]) -> str:
        if fault := self._difference(whole[0], split[0], SAME_ROWS):
            return fault
        if not self._difference(whole[1], split[1], OTHER_ROWS):
            return ""
        return COMPANY if whole[0].counters == whole[1].counters else COUNTS

    def _eval_fault(self, cut: Cut, value: Tensor) -> str:
        """Compare rows one by one in eval mode with rows together in training mode."""
        tolerance = allowed(OTHER_ROWS, self.machine.precision)
        with evaluating(self.module):
            alone = [self._passed(cut.prefix, row[None]) for row in self.images[:FEW]]
            if apart(torch.cat(alone), value[:FEW]) > tolerance:
                together = self._passed(cut.prefix, self.images)
                return MODES if apart(together, value) > tolerance else COMPANY
            whole, rest = self._look(self.module, self.images[:1]), self._look(cut.suffix, alone[0])
        fault = self._difference(whole, rest, SAME_ROWS)
        return f"{fault} in eval mode" if fault else ""

    def _passed(self, module: nn.Module, rows: Tensor) -> Tensor:
        with torch.no_grad(), self.machine.autocast():
            output: Tensor = module(rows.clone(memory_format=torch.preserve_format))
        return output

    # ── steps ──

    def _steps(self, module: nn.Module, rows: Tensor, start: RandomState) -> list[Observed]:
        """Two steps in a row from the same random state: all rows, then a few of them in another order."""
        with undisturbed(self.module):
            start.restore()
            return [self._step(module, some) for some in (rows, rows.flip(0)[:FEW])]

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
            return COUNTS
        if apart(split.output, whole.output) > most:
            return "cut in two, the network gives other outputs"
        if not _alike(split.buffers, whole.buffers, most, at_most=1.0):
            return BUFFERS
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
    some: Sequence[Tensor | None],
    others: Sequence[Tensor | None],
    tolerance: float,
    at_most: float = math.inf,
) -> bool:
    """Whether tensors agree in pairs. Tensors of rounding errors are measured by the largest of the others.

    Args:
        at_most: the largest is taken for no larger.
    """
    if [one is None for one in some] != [other is None for other in others]:
        return False
    pairs = [(a, b) for a, b in zip(some, others, strict=True) if a is not None and b is not None]
    floor = NOISE * min(at_most, max((_largest(other) for _, other in pairs), default=0.0))
    return all(apart(a, b, floor) <= tolerance for a, b in pairs)


def _largest(tensor: Tensor) -> float:
    known = tensor.is_floating_point() and tensor.numel() and tensor.isfinite().all()
    return float(tensor.abs().max()) if known else 0.0


# ── which places are sound ────────────────────────────────────────────────────────────────────────


def sound_places(module: nn.Module, places: Sequence[Place], images: Tensor) -> list[Place]:
    """The places up to which no row depends on others, on the mode, or on chance.

    Args:
        places: in the order in which the network passes them.
    """
    with undisturbed(module), torch.enable_grad():
        together = _digests(module, places, images)
    with undisturbed(module), torch.no_grad(), evaluating(module):
        alone = _digests(module, places, images[:1])
    sound = []
    for place in places:
        if place not in together or place not in alone:
            break
        if _digests_apart(together[place][:1], alone[place]):
            break
        sound.append(place)
    return sound


def _digests(module: nn.Module, places: Sequence[Place], rows: Tensor) -> dict[Place, Tensor]:
    """A few numbers for each row at some places, until something is drawn at random."""
    digests: dict[Place, Tensor] = {}
    before = RandomState.now()

    def note(place: Place, value: Tensor) -> None:
        if place not in digests and before.same(RandomState.now()):
            digests[place] = _digest(value.detach())

    with tapping(module, places, note):
        module(rows.clone())
    return digests


def _digest(value: Tensor) -> Tensor:
    rows = value.flatten(1).double()
    ramp = torch.linspace(0.5, 1.5, rows.shape[1], device=rows.device, dtype=rows.dtype)
    return torch.stack((rows.abs().amax(1), rows @ ramp, rows.abs() @ ramp), 1)


def _digests_apart(one: Tensor, other: Tensor) -> bool:
    size = other[:, [0, 2, 2]].clamp_min(torch.finfo(torch.float32).tiny)
    return bool(((one - other).abs() > OTHER_ROWS * size).any())
