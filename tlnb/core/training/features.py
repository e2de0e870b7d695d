"""What the training loop eats: raw images, or cached activations of what is frozen, which never change."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, fx, nn

from tlnb.core.data.augment import changed, draw
from tlnb.core.data.dataset import DataSet
from tlnb.core.models.clocks import CostTracker
from tlnb.core.models.flops import Counts, forward_flops
from tlnb.core.models.pretrained import Transform
from tlnb.core.planning.options import TrainOptions
from tlnb.core.runtime.device import Machine, in_chunks
from tlnb.core.runtime.distributed import ALONE, Ranks
from tlnb.core.runtime.limits import cache_folder, disk_budget, memory_budget
from tlnb.core.storage.activation_cache import Store, key_of
from tlnb.core.storage.memory_map import is_mapped
from tlnb.core.training.events import Event, event
from tlnb.core.training.freezing import set_modes
from tlnb.core.training.model_split import Cuts, cut_at, kinds_of, places
from tlnb.core.training.run import Cache
from tlnb.core.training.split_chain import Cut, Place, chain_places

CHUNK = 256  # images in one forward pass that needs no gradient, at most
CHUNK_NUMBERS = (
    8 * 3 * 224 * 224
)  # and numbers in the images of one: more do not fit a core's cache and are slower
AT_ONCE = 64  # rows of a chunk that pass a processor at once: faster than more (GlyphNet by a fifth), and less memory
CACHED_VIEWS = 10  # views of every image that a cache holds: the image itself, the others augmented
VIEW_FLOPS = 1e12  # for all views together; about ten seconds of two CPU cores
VIEW_SEED = 500_009  # added to the seeds of views, which must not be those of epochs
PRICE = {
    "memory": 1.0,
    "disk": 50.0,
}  # of reading a byte of cache, in FLOPs that take as long; rough, and fixed
FIXED = ("val", "monitor", "test")

_unique = itertools.count()


def chunk_of(edge: int, on_cpu: bool) -> int:
    """Images in one forward pass that needs no gradient."""
    return max(8, min(CHUNK, CHUNK_NUMBERS // (3 * edge**2))) if on_cpu else CHUNK


@dataclass(frozen=True)
class Cost:
    """FLOPs for one image: a step as done, as planned without a cache, with everything trained; and a look.

    `whole` is a look through the whole network, what is cached included.
    """

    done: float
    planned: float
    full: float
    look: float
    whole: float


@dataclass(frozen=True)
class Inputs:
    """Images in the form that the training module takes."""

    train: Callable[[int], Tensor]  # epoch → all training inputs, or the raw images
    make: Callable[
        [Tensor, Tensor], Tensor
    ]  # a batch of those and what `draw` gave for it → the module's input
    seen: Callable[[str], Tensor]  # split → inputs to judge by
    look: Callable[[Tensor], Tensor]  # a batch of those → the module's input
    teaches: nn.Module  # what trains
    judges: nn.Module  # the same in eval mode
    cost: Cost
    views: int = 0  # how many cached ones `train` cycles through; 0: nothing is cached
    event: Event | None = None  # how it was done, where the run should say so
    chunk: int = 8  # rows in one forward pass that needs no gradient
    cache: Cache | None = None
    augment: str = "none"  # of each batch


@dataclass(frozen=True)
class HeadInputs:
    """What reaches the output layers for each training image, and what is right of there."""

    features: Tensor  # (N, …)
    teaches: nn.Module  # to train the output layers alone
    judges: nn.Module  # the same in eval mode


@dataclass(frozen=True)
class Choice:
    """Where to cut, how many views to keep, and where."""

    place: Place
    views: int
    where: str  # memory, disk
    bytes: int  # of everything that is kept

    @property
    def price(self) -> float:
        """Of reading the training images once, in FLOPs that take as long."""
        return PRICE[self.where] * self.place.numbers * 4


class Source:
    """Where inputs come from: the network, its preprocessing, the images, and what was computed before."""

    def __init__(
        self,
        module: nn.Module,
        transform: Transform,
        data: DataSet,
        machine: Machine,
        tally: CostTracker,
        store: Store,
        pause: Callable[[], None] = lambda: None,
        ranks: Ranks = ALONE,
    ) -> None:
        self.ranks = ranks  # who share the passes without gradients
        self.module, self.transform, self.data = module, transform, data
        self.machine, self.tally, self.store = machine, tally, store
        self._pause = pause  # called between passes
        self._fitted: dict[str, Tensor] = {}
        self._identities: dict[nn.Module, str] = {}
        self.counts, self.cuts = Counts(), Cuts(store.surveys)

    # ── images ──

    def images(self, split: str) -> Tensor:
        """A split's images at the network's edge `(N, 3, E, E)` uint8, on the device where they fit.

        Those in a file stay there, as large as they are: batches of them are brought to the edge.
        """
        if split not in self._fitted:
            if is_mapped(self.data.images[split]):
                return self.data.images[split]
            fitted = self.transform.fit(self.data.images[split])
            self._fitted[split] = (
                fitted.to(self.machine.device) if self.machine.fits(fitted.nbytes) else fitted
            )
        return self._fitted[split]

    def example(self) -> Tensor:
        """Two training images as the network takes them, to measure with."""
        first = self.transform.fit(self.data.images["train"][:2])
        return self.transform.normalise(first.to(self.machine.device))

    def forget(self) -> None:
        """Let go of images, and of the run that is asked between passes: memory is free at once, not when Python tidies up."""
        self._fitted.clear()
        self._identities.clear()
        self.counts.forget()
        self.cuts.forget()
        self._pause = lambda: None

    def raw(self, kind: str, happened: Event | None = None) -> Inputs:
        """Images as they are, augmented batch by batch, through the whole network."""
        to, fit = self.transform.normalise, self.transform.fit
        return Inputs(
            lambda _: self.images("train"),
            lambda x, numbers: to(changed(fit(x), kind, numbers)),
            self.images,
            lambda x: to(fit(self.placed(x))),
            self.module,
            self.module,
            self._cost(self.module, self.example()),
            event=happened,
            chunk=self.chunk(),
            augment=kind,
        )

    # ── where to cut ──

    def inputs(
        self, trained: tuple[str, ...], options: TrainOptions, before: Cache | None = None
    ) -> Inputs:
        """Cached activations where the plan leaves a frozen prefix worth keeping, else raw images.

        Call it with the modes set as for training.

        Args:
            before: what an interrupted run had chosen, which is chosen again.
        """
        choice, why = self.choose(trained, options, before)
        kind = options.augment or "none"
        if choice is None:
            return self.raw(kind, event("uncached", why=why) if why else None)
        try:
            return self._cached(choice, trained, options)
        except OSError as error:
            reason = error.strerror or type(error).__name__
            why = f"it could not be written ({reason})"
            return self.raw(kind, event("uncached", why=why))

    def choose(
        self, trained: tuple[str, ...], options: TrainOptions, before: Cache | None = None
    ) -> tuple[Choice | None, str]:
        """Where to cut; where nothing is to be cached None, and why not if the run should say so."""
        if not options.cache:
            return None, ""
        found, why = self.places(self.module, trained, self.example())
        if not found:
            return None, why
        choice = self._chosen(found, options.augment or "none", options.epochs or 1, before)
        full = "the activations fit neither in memory nor on the disk"
        return choice, "" if choice else full

    def places(
        self, module: nn.Module, trained: Sequence[str], example: Tensor
    ) -> tuple[list[Place], str]:
        """Where the module can be cut, and where torch.fx cannot trace it and no chain helps, why not."""
        try:
            return places(module, trained, example, self.cuts), ""
        except Exception as error:  # torch.fx raises many types on what it cannot trace
            reason = " ".join(str(error).split())[:80]
        try:
            found = chain_places(module, trained, example)
        except Exception:  # nor is a foreign forward bound to take what we try
            found = []
        return (
            found,
            "" if found else f"the network cannot be traced ({reason}) and is no chain of modules",
        )

    def _chosen(
        self, found: list[Place], kind: str, epochs: int, before: Cache | None
    ) -> Choice | None:
        """The cheapest place by bytes read and FLOPs computed again: fixed before step one, never by the clock."""
        if before is not None:
            found = [place for place in found if place.at == before.at] or found
        last = found[-1].flops
        images = len(self.data.labels["train"])
        room = self._room()
        choices = [c for place in found for c in self._ways(place, kind, epochs, before, room)]

        def cost(
            choice: Choice,
        ) -> tuple[float, int]:  # of equals the last: what costs no FLOPs takes time too
            again = epochs * images * (last - choice.place.flops)
            return again + epochs * images * choice.price, -found.index(choice.place)

        best = min(choices, key=cost, default=None)
        uncached = epochs * images * last
        return best if best is not None and (before or cost(best)[0] < uncached) else None

    def _ways(
        self, place: Place, kind: str, epochs: int, before: Cache | None, room: tuple[int, int]
    ) -> Iterator[Choice]:
        counts = self.data.splits
        images = counts["train"]
        wanted = int(
            max(1, min(CACHED_VIEWS, epochs, VIEW_FLOPS // (images * max(place.flops, 1.0))))
        )
        wanted = before.views if before else (1 if kind == "none" else wanted)
        one = place.numbers * self.machine.bytes_per_number
        fixed = sum(counts.get(split, 0) for split in FIXED) * one
        memory, disk = room
        for where, most in (("memory", memory), ("disk", disk)):
            if wanted * images * one + fixed <= most:
                yield Choice(place, wanted, where, wanted * images * one + fixed)
                return
        fewer = int((memory - fixed) // (images * one))
        if 1 <= fewer < wanted:
            yield Choice(place, fewer, "memory", fewer * images * one + fixed)

    def _room(self) -> tuple[int, int]:
        """Bytes in memory and on the disk for what is cached; processes share a machine's, and all must decide alike."""
        free, memory = self.machine.free_bytes(), memory_budget() // self.ranks.local_count
        memory = memory if free is None else min(free // 2, memory)
        return self.ranks.all_reduce_min(memory), self.ranks.all_reduce_min(
            disk_budget(cache_folder())
        )

    # ── what is cached ──

    def _cached(self, choice: Choice, trained: tuple[str, ...], options: TrainOptions) -> Inputs:
        kind, place = options.augment or "none", choice.place
        cut = cut_at(self.module, place, self.cuts)
        who = self.identity(cut)
        look_cost = place.flops or forward_flops(cut.prefix, self.example())
        was: list[bool] = []

        def kept(split: str, view: int, phase: str) -> Tensor:
            key = key_of(who, self._data_key(split, kind if view else "none", options.seed, view))
            parts = self._through(cut.prefix, split, kind if view else "none", options.seed, view)
            value, found = self._kept(key, split, parts, choice.where, look_cost, phase, "prefix")
            was.append(found)
            return value

        train = [kept("train", view, "caching") for view in range(choice.views)]
        held: dict[str, Tensor] = {}

        def seen(split: str) -> Tensor:
            if split not in held:
                self.module.eval()
                held[split] = kept(split, 0, "evaluating")
            return held[split]

        cost = self._cost(cut.suffix, self.placed(train[0][:2]), known=who)
        self.module.eval()
        judge = cut_at(self.module, place, self.cuts).suffix
        set_modes(self.module, set(trained))
        varied = (
            event("cached-views", views=choice.views) if choice.views > 1 else event("one-view")
        )
        facts = Cache(
            place.at,
            choice.views,
            choice.bytes,
            choice.where,
            str(train[0].dtype).removeprefix("torch."),
            all(was),
        )
        chunk = self.chunk() * max(1, self.example_numbers // max(1, place.numbers))
        return Inputs(
            lambda epoch: train[epoch % choice.views],
            lambda x, _: self.placed(x),
            seen,
            self.placed,
            cut.suffix,
            judge,
            cost,
            choice.views,
            varied if kind != "none" else None,
            chunk,
            facts,
        )

    def placed(self, rows: Tensor) -> Tensor:
        """Rows on the device."""
        return self.machine.placed(rows)

    def _kept(
        self,
        key: str,
        split: str,
        parts: Iterator[Tensor],
        where: str,
        flops: float,
        phase: str,
        part: str,
    ) -> tuple[Tensor, bool]:
        """A value from the store, or computed and charged; and whether it was there."""
        count = len(self.data.labels[split])
        with self.tally.phase(phase, part):
            found = self.store.get(key, self.machine.device)
            if self.ranks.every(found is not None):
                assert found is not None
                return found, True
            value = self._computed(key, count, parts, where, count * flops)
        self.tally.charge(phase, count * flops / self.ranks.count, part)
        return value, False

    def _computed(
        self, key: str, count: int, parts: Iterator[Tensor], where: str, flops: float
    ) -> Tensor:
        """All rows of `parts`, kept; a file is written by one process of each machine.

        Raises:
            OSError: on every process, where one of them could not write.
        """
        value, problem = None, None
        if where == "memory" or self.ranks.local == 0:
            try:
                value = self.store.keep(key, count, parts, where, flops)
            except OSError as error:
                if self.ranks.count == 1:
                    raise
                problem = error
        for _ in parts:  # its share of what the others write
            pass
        if not self.ranks.every(problem is None):
            raise problem or OSError(5, "another process could not write it")
        value = value if value is not None else self.store.get(key, self.machine.device)
        if value is None:
            raise OSError(5, "what another process wrote cannot be read")
        return value

    def _through(
        self, prefix: nn.Module, split: str, kind: str, seed: int, view: int
    ) -> Iterator[Tensor]:
        """The frozen prefix over a split: view 0 is the images as they are, the others are augmented."""
        generator = torch.Generator().manual_seed(seed * 1_000_003 + VIEW_SEED + view)
        images, chunk = self.images(split), self.chunk()
        drawn = self.placed(
            torch.cat([draw(len(part), kind, generator) for part in images.split(chunk)], 1)
        )

        def pass_some(rows: slice) -> Tensor:
            self._pause()
            fitted = self.transform.fit(self.placed(images[rows]))
            return self.pass_through(
                prefix, self.transform.normalise(changed(fitted, kind, drawn[:, rows]))
            )

        return self.ranks.shared(len(images), chunk, pass_some)

    def pass_through(self, module: nn.Module, ready: Tensor) -> Tensor:
        """A forward pass without gradients; in smaller pieces where memory runs out."""
        with torch.no_grad(), self.machine.autocast():
            return in_chunks(
                module, ready, min(len(ready), AT_ONCE) if self.machine.on_cpu else len(ready)
            )

    @property
    def example_numbers(self) -> int:
        """Numbers in one image."""
        return 3 * self.transform.size**2

    def chunk(self) -> int:
        """Images in one forward pass."""
        return chunk_of(self.transform.size, self.machine.on_cpu)

    # ── the output layer's features ──

    def head_inputs(self, heads: tuple[str, ...], base: Inputs) -> HeadInputs | None:
        """What reaches the output layers, for each training image as it is; None where the network cannot be cut there.

        It comes from what is cached already, as far as there is something; else from the images. Leaves the modes set
        for training the output layers alone.
        """
        if base.cache is not None and not isinstance(base.teaches, fx.GraphModule):
            base = replace(base, cache=None)  # a chain of modules is cut from the images on
        start = None if base.cache is None else Place(base.cache.at, (), 0.0)
        example = self.example() if start is None else self.placed(base.train(0)[:2])
        set_modes(self.module, set(heads))
        outer = (
            cut_at(self.module, start, self.cuts) if start else Cut("", nn.Identity(), self.module)
        )
        found, _ = self.places(outer.suffix, heads, example)
        if not found and start is None:
            return None
        self.module.eval()  # tracing bakes modes in
        judges = cut_at(self.module, start, self.cuts).suffix if start else self.module
        judges = cut_at(judges, found[-1], self.cuts).suffix if found else judges
        set_modes(self.module, set(heads))
        if not found:
            return HeadInputs(base.train(0), outer.suffix, judges)
        cut = cut_at(outer.suffix, found[-1], self.cuts)
        flops = found[-1].flops or forward_flops(cut.prefix, example)
        key = key_of(
            self.identity(outer) if start else "",
            self.identity(cut),
            self._data_key("train", "none", 0, 0),
        )
        if start is None:
            parts = self._through(cut.prefix, "train", "none", 0, 0)
        else:
            cached = base.train(0)
            parts = self.ranks.shared(
                len(cached),
                self.chunk(),
                lambda rows: self.pass_through(cut.prefix, self.placed(cached[rows]).clone()),
            )
        features, _ = self._kept(key, "train", parts, "memory", flops, "caching", "features")
        return HeadInputs(features, cut.suffix, judges)

    # ── keys and costs ──

    def identity(self, cut: Cut) -> str:
        """Everything that a prefix's values depend on. One whose code cannot be read is like no other."""
        if cut.prefix not in self._identities:
            self._identities[cut.prefix] = self._identity(cut.prefix)
        return self._identities[cut.prefix]

    @staticmethod
    def _identity(prefix: nn.Module) -> str:
        hooked = any(p._forward_hooks or p._forward_pre_hooks for p in prefix.modules())
        if not isinstance(prefix, fx.GraphModule) or hooked:
            return f"unique {next(_unique)}"
        digest = hashlib.sha256()
        digest.update(repr(kinds_of(prefix)).encode())
        for name, tensor in prefix.state_dict().items():
            digest.update(name.encode())
            digest.update(
                tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
            )
        return digest.hexdigest()[:32]

    def _data_key(self, split: str, kind: str, seed: int, view: int) -> tuple[object, ...]:
        drawn = (kind, seed, view) if view else ()
        where = (self.machine.device.split(":")[0], self.machine.precision, torch.__version__)
        return (self.data.fingerprint, split, drawn, repr(self.transform), self.chunk(), where)

    def _cost(self, teaches: nn.Module, example: Tensor, known: str = "") -> Cost:
        """Counted, or looked up: what is counted once for a prefix, shapes and what trains is so for ever."""
        shapes = [(n, tuple(p.shape), p.requires_grad) for n, p in self.module.named_parameters()]
        key = key_of(known, getattr(teaches, "code", ""), shapes, tuple(example.shape))
        if known and key in self.store.costs:
            return Cost(*self.store.costs[key])
        image, counts = self.example(), self.counts
        done, look = counts.step(teaches, example), counts.forward(teaches, example)
        planned, full = (
            counts.step(self.module, image),
            counts.step(self.module, image, everything=True),
        )
        self.store.costs[key] = (done, planned, full, look, counts.forward(self.module, image))
        return Cost(*self.store.costs[key])
