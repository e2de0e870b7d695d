"""What the training loop eats: raw images, or cached activations of what is frozen, which never change."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tlnb.core.augment import augment
from tlnb.core.cut import Cut, find_cut, same_cut
from tlnb.core.device import Machine
from tlnb.core.freeze import set_modes
from tlnb.core.meter import Tally, forward_flops, step_flops
from tlnb.core.options import TrainOptions
from tlnb.core.pretrained import Transform

CHUNK = 256  # images in one forward pass that needs no gradient
CACHED_VIEWS = 10  # views of every image that a cache holds: the image itself, the others augmented
FEW_VIEWS = (
    "trained without augmentation: caching more views takes too much computing (--no-cache augments every batch)"
)
VIEW_FLOPS = 1e12  # for all views together; about ten seconds of two CPU cores
CACHE_BYTES = 2**30
VIEW_SEED = 500_009  # added to the seeds of views, which must not be those of epochs


@dataclass(frozen=True)
class Cost:
    """FLOPs for one image: a step as done, as planned without a cache, with everything trained; and a look."""

    done: float
    planned: float
    full: float
    look: float


@dataclass(frozen=True)
class Inputs:
    """Training and watched images in the form that the training module takes."""

    train: Callable[[int], Tensor]  # epoch → all training inputs, or the raw images
    make: Callable[[Tensor, torch.Generator], Tensor]  # one batch of those → the module's input
    watched: dict[str, Tensor]  # val and monitor
    look: Callable[[Tensor], Tensor]  # the same for these
    teaches: nn.Module  # what trains
    judges: nn.Module  # the same in eval mode
    cost: Cost
    views: int = 0  # how many cached ones `train` cycles through; 0: nothing is cached
    note: str = ""  # how it was done, where the run should say so


@dataclass(frozen=True)
class Kitchen:
    """What inputs are made from: the network, its preprocessing, the images on the device."""

    module: nn.Module
    transform: Transform
    images: dict[str, Tensor]  # split → (N, 3, E, E) uint8
    machine: Machine
    tally: Tally

    def raw(self, kind: str, watched: tuple[str, ...], note: str = "") -> Inputs:
        """Images as they are, augmented batch by batch, through the whole network."""
        cost = self._cost(self.module, self.example(), cached=False)
        return Inputs(
            lambda _: self.images["train"], lambda x, g: self.transform.normalise(augment(x, kind, g)),
            {s: self.images[s] for s in watched if s in self.images}, self.transform.normalise, self.module, self.module,
            cost, note=note,
        )  # fmt: skip

    def inputs(self, trained: tuple[str, ...], options: TrainOptions, watched: tuple[str, ...]) -> Inputs:
        """Cached activations where the plan leaves a frozen prefix that fits in memory, else raw images.

        Call it with the modes set as for training.
        """
        kind = options.augment or "none"
        if not options.cache:
            return self.raw(kind, watched)
        try:
            cut = find_cut(self.module, trained, self.example())
        except Exception as error:  # torch.fx raises many types on what it cannot trace
            reason = " ".join(str(error).split())[:80]
            return self.raw(kind, watched, f"trained without a cache: the network cannot be traced ({reason})")
        if cut is None:
            return self.raw(kind, watched)
        cost = forward_flops(cut.prefix, self.example())
        views = self._views(cut, kind, options.epochs or 1, cost)
        if not views:
            return self.raw(kind, watched, "trained without a cache: the activations would not fit in memory")
        return self._cached(cut, trained, options, views, watched, cost)

    def _cached(
        self, cut: Cut, trained: tuple[str, ...], options: TrainOptions, views: int, watched: tuple[str, ...],
        look_cost: float,
    ) -> Inputs:  # fmt: skip
        kind = options.augment or "none"
        with self.tally.phase("caching"):
            cached = [self._through(cut.prefix, self.images["train"], kind, options.seed, v) for v in range(views)]
        self.tally.charge("caching", views * len(cached[0]) * look_cost)
        cost = self._cost(cut.suffix, cached[0][:2], cached=True)
        with self.tally.phase("evaluating"):
            seen = {s: self._through(cut.prefix, self.images[s]) for s in watched if s in self.images}
        self.tally.charge("evaluating", sum(map(len, seen.values())) * look_cost)
        self.module.eval()
        judge = same_cut(self.module, cut.at).suffix
        set_modes(self.module, set(trained))
        note = ""
        if kind != "none":
            note = f"trained on {views} cached views of each image" if views > 1 else FEW_VIEWS
        return Inputs(
            lambda epoch: cached[epoch % views], lambda x, _: x, seen, lambda x: x, cut.suffix, judge, cost, views, note
        )

    def _views(self, cut: Cut, kind: str, epochs: int, cost: float) -> int:
        """How many views to cache: fixed before step one, from bytes and counted FLOPs, never from the clock."""
        with torch.no_grad():
            row = cut.prefix(self.example())[0]
        images = len(self.images["train"])
        fits = CACHE_BYTES // (row.numel() * row.element_size() * images)
        worth = 1 if kind == "none" else max(1, min(CACHED_VIEWS, epochs, VIEW_FLOPS // (images * max(cost, 1.0))))
        return int(min(fits, worth))

    def _through(self, prefix: nn.Module, images: Tensor, kind: str = "none", seed: int = 0, view: int = 0) -> Tensor:
        """The frozen prefix over images: view 0 is the images as they are, the others are augmented."""
        kind = kind if view else "none"
        generator = torch.Generator().manual_seed(seed * 1_000_003 + VIEW_SEED + view)
        with torch.no_grad(), self.machine.autocast():
            parts = [prefix(self.transform.normalise(augment(x, kind, generator))).float() for x in images.split(CHUNK)]
        return torch.cat(parts)

    def example(self) -> Tensor:
        """Two training images as the network takes them, to measure with."""
        return self.transform.normalise(self.images["train"][:2])

    def _cost(self, teaches: nn.Module, example: Tensor, cached: bool) -> Cost:
        done = step_flops(teaches, example)
        planned = step_flops(self.module, self.example()) if cached else done
        unfrozen = copy.deepcopy(self.module).train().requires_grad_(True)
        return Cost(done, planned, step_flops(unfrozen, self.example()), forward_flops(teaches, example))
