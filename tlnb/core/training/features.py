"""Training inputs: images, or cached activations of the frozen layers."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TypeVar

import torch
import torchvision
from torch import Tensor, nn

from tlnb.core.data.augment import changed, draw
from tlnb.core.data.dataset import DataSet
from tlnb.core.models.clocks import CostTracker
from tlnb.core.models.flops import Counts
from tlnb.core.models.pretrained import Transform
from tlnb.core.models.undisturbed import undisturbed
from tlnb.core.planning.options import TrainOptions
from tlnb.core.runtime.device import Machine, in_chunks
from tlnb.core.runtime.distributed import ALONE, Ranks
from tlnb.core.runtime.limits import cache_folder, disk_budget, memory_budget
from tlnb.core.storage.activation_cache import Store, key_of
from tlnb.core.storage.memory_map import is_mapped
from tlnb.core.training.agreement import OTHER_ROWS, allowed, apart
from tlnb.core.training.cache_key import identity, pixels, structure
from tlnb.core.training.cached_inputs import CachedInputs
from tlnb.core.training.events import Event, event
from tlnb.core.training.model_split import Cuts
from tlnb.core.training.raw_inputs import Images, RawInputs, chunk_of
from tlnb.core.training.run import Cache
from tlnb.core.training.split_choice import Choice, Demand
from tlnb.core.training.split_point import Place
from tlnb.core.training.split_search import Candidates, Chosen, Prover, first_proven
from tlnb.core.training.training_inputs import Cost, Inputs

AT_ONCE = 64  # rows of a chunk that pass a processor at once: faster than more (GlyphNet by a fifth), and less memory
VIEW_SEED = 500_009  # added to the seeds of views, which must not be those of epochs
FIXED = ("val", "monitor", "test")

Rows = Callable[[slice | Tensor], Tensor]
T = TypeVar("T", bound=Chosen)

_unique = itertools.count()


@dataclass(frozen=True, kw_only=True)
class KeptRows:
    """Activations to compute and keep: a row for each image of a split."""

    key: str
    split: str
    rows: Rows  # which rows → their values
    flops: float  # for one row
    phase: str  # what it is charged to
    part: str
    sample: int = 2  # rows that are computed again where the value is found


class FeatureSource:
    """Makes a run's training inputs from the network, its preprocessing, the images, and earlier activations."""

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
        self._images = Images(data, transform, machine)
        self._pixel_keys: dict[str, str] = {}
        self.counts, self.cuts = Counts(), Cuts(store.recordings)

    # ── images ──

    def images(self, split: str) -> Tensor:
        """A split's images, as `Images.of`."""
        return self._images.of(split)

    def example(self) -> Tensor:
        """Two training images as the network takes them, to measure with."""
        return self._images.example()

    def forget(self) -> None:
        """Release images, networks and the run, without waiting for garbage collection."""
        self._images.forget()
        self._pixel_keys.clear()
        self.counts.forget()
        self.cuts.forget()
        self._pause = lambda: None

    def raw(self, kind: str, happened: Event | None = None) -> Inputs:
        """Images, augmented batch by batch, for the whole network."""
        cost = self._cost(self.module, self.example())
        return RawInputs(
            images=self._images,
            module=self.module,
            cost=cost,
            chunk=self.chunk(),
            augment=kind,
            event=happened,
        )

    # ── where to split ──

    def inputs(
        self, trained: tuple[str, ...], options: TrainOptions, before: Cache | None = None
    ) -> Inputs:
        """Cached activations if a frozen part is worth caching, else raw images.

        Call it with the modes set as for training.

        Args:
            before: the choice of an interrupted run, which is made again.
        """
        choice, why = self.choose(trained, options, before)
        kind = options.augment or "none"
        if choice is None:
            return self.raw(kind, event("uncached", why=why) if why else None)
        try:
            return self._cached(choice, options)
        except OSError as error:
            why = f"it could not be written ({error.strerror or type(error).__name__})"
            return self.raw(kind, event("uncached", why=why))

    def choose(
        self, trained: tuple[str, ...], options: TrainOptions, before: Cache | None = None
    ) -> tuple[Choice | None, str]:
        """Where to split, or None and the reason, empty unless the run should say it."""
        if not options.cache:
            return None, ""
        demand = self.demand(options, before)
        return self.proven(trained, demand.cheapest, demand)

    def proven(
        self, trained: Sequence[str], pick: Callable[[Sequence[Place]], T | None], demand: Demand
    ) -> tuple[T | None, str]:
        """The best proven place in the network's present modes, or None and the reason."""
        with undisturbed(self.module):
            found = Candidates(self.module, trained, self.example(), self.cuts)
            prover = Prover(
                self.module, trained, self._images, self.cuts, self.store.proofs, demand.rows
            )
            return first_proven(
                found, pick, lambda place: self.ranks.broadcast_object(prover.fault(place))
            )

    def demand(self, options: TrainOptions, before: Cache | None) -> Demand:
        counts, (memory, disk) = self.data.splits, self._room()
        return Demand(
            images=counts["train"],
            fixed=sum(counts.get(split, 0) for split in FIXED),
            epochs=options.epochs or 1,
            augmented=(options.augment or "none") != "none",
            number_bytes=self.machine.bytes_per_number,
            memory=memory,
            disk=disk,
            before=before,
        )

    def _room(self) -> tuple[int, int]:
        """Bytes for the cache in memory and on disk. Processes share a machine, and all must decide alike."""
        free, memory = self.machine.free_bytes(), memory_budget() // self.ranks.local_count
        memory = memory if free is None else min(free // 2, memory)
        return self.ranks.all_reduce_min(memory), self.ranks.all_reduce_min(
            disk_budget(cache_folder())
        )

    # ── what is cached ──

    def _cached(self, choice: Choice, options: TrainOptions) -> Inputs:
        kind, place = options.augment or "none", choice.place
        cut = self.cuts.at(self.module, place)
        who = self.identity(place)
        was: list[bool] = []

        def kept(split: str, view: int, phase: str) -> Tensor:
            drawn = (kind if view else "none", options.seed, view)
            key = key_of(who, self.data_key(split, *drawn))
            rows = self.through(cut.prefix, split, *drawn)
            work = KeptRows(
                key=key, split=split, rows=rows, flops=place.flops, phase=phase, part="prefix"
            )
            value, found = self.kept(work, choice.where)
            was.append(found)
            return value

        train = tuple(kept("train", view, "caching") for view in range(choice.views))

        def seen(split: str) -> Tensor:
            self.module.eval()
            return kept(split, 0, "evaluating")

        cost = self._cost(cut.suffix, self.placed(train[0][:2]), place)
        facts = Cache(
            at=place.at,
            views=choice.views,
            bytes=choice.bytes,
            place=choice.where,
            dtype=str(train[0].dtype).removeprefix("torch."),
            reused=all(was),
        )
        chunk = self.chunk() * max(1, self.example_numbers // max(1, place.numbers))
        return CachedInputs(
            kept=train,
            compute=seen,
            machine=self.machine,
            teaches=cut.suffix,
            cost=cost,
            chunk=chunk,
            event=_views_event(kind, choice.views),
            cache=facts,
        )

    def placed(self, rows: Tensor) -> Tensor:
        """Rows on the device."""
        return self.machine.placed(rows)

    def kept(self, work: KeptRows, where: str) -> tuple[Tensor, bool]:
        """Activations from the store, or computed and charged; and whether they were there."""
        count = len(self.data.labels[work.split])
        with self.tally.phase(work.phase, work.part):
            found = self._found(work)
            if found is not None:
                self.tally.find(work.key, work.phase, count * work.flops)
                return found, True
            value = self._computed(work, count, where)
        flops = count * work.flops / self.ranks.count
        self.tally.charge_value(work.key, work.phase, flops, work.part)
        return value, False

    def _found(self, work: KeptRows) -> Tensor | None:
        """Activations from the store, checked by computing some rows again; wrong ones are dropped."""
        found = self.store.get(work.key, self.machine.device)
        right = found is not None and self._again(work, found)
        if found is not None and not right:
            self.store.drop(work.key)
        return found if self.ranks.every(right) else None

    def _again(self, work: KeptRows, found: Tensor) -> bool:
        """Whether some rows, computed again, equal the stored ones."""
        rows = torch.arange(0, len(found), max(1, len(found) - 1))[: work.sample]
        fresh = work.rows(rows)
        tolerance = allowed(OTHER_ROWS, self.machine.precision)
        return apart(fresh, self.placed(found[rows])) <= tolerance

    def parts(self, work: KeptRows) -> Iterator[Tensor]:
        """All rows, a chunk at a time; processes share the work."""
        return self.ranks.shared(len(self.data.labels[work.split]), self.chunk(), work.rows)

    def _computed(self, work: KeptRows, count: int, where: str) -> Tensor:
        """All rows, computed and kept. One process of each machine writes the file.

        Raises:
            OSError: on every process if one of them could not write.
        """
        value, problem, parts = None, None, self.parts(work)
        if where == "memory" or self.ranks.local == 0:
            try:
                value = self.store.keep(work.key, count, parts, where, count * work.flops)
            except OSError as error:
                if self.ranks.count == 1:
                    raise
                problem = error
        for _ in parts:  # its share of what the others write
            pass
        if not self.ranks.every(problem is None):
            raise problem or OSError(5, "another process could not write it")
        value = value if value is not None else self.store.get(work.key, self.machine.device)
        if value is None:
            raise OSError(5, "what another process wrote cannot be read")
        return value

    def through(
        self, prefix: nn.Module, split: str, kind: str = "none", seed: int = 0, view: int = 0
    ) -> Rows:
        """The frozen prefix on rows of a split. View 0 is not augmented, the others are."""
        generator = torch.Generator().manual_seed(seed * 1_000_003 + VIEW_SEED + view)
        images, chunk = self.images(split), self.chunk()
        drawn = self.placed(
            torch.cat([draw(len(part), kind, generator) for part in images.split(chunk)], 1)
        )

        def pass_some(rows: slice | Tensor) -> Tensor:
            self._pause()
            fitted = self.transform.fit(self.placed(images[rows]))
            ready = self.transform.normalise(changed(fitted, kind, drawn[:, rows]))
            return self.pass_aside(prefix, ready)

        return pass_some

    def pass_aside(self, module: nn.Module, ready: Tensor) -> Tensor:
        """The same as `pass_through`, without a trace: a network that counts its passes counts steps alone."""
        with undisturbed(self.module):
            return self.pass_through(module, ready)

    def pass_through(self, module: nn.Module, ready: Tensor) -> Tensor:
        """A forward pass without gradients, in smaller chunks if memory runs out."""
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

    # ── keys and costs ──

    def identity(self, place: Place) -> str:
        """A key of everything that values at a place depend on; a new one each time where that has no key."""
        known = self.known_identity(place)
        return key_of(known, place.at) if known else f"unique {next(_unique)}"

    def known_identity(self, place: Place) -> str | None:
        """A key of the parts that values at a place depend on; None where one of them has no key."""
        parts = self.cuts.recording(self.module).parts_before(place.moment)
        others = [part for name, part in self.module.named_modules() if name not in parts]
        return identity(self.module, others)

    def data_key(self, split: str, kind: str, seed: int, view: int) -> tuple[object, ...]:
        drawn = (kind, seed, view) if view else ()
        where = (self.machine.device.split(":")[0], self.machine.precision)
        made_by = (torch.__version__, torchvision.__version__)
        return (
            self._pixels(split),
            split,
            drawn,
            repr(self.transform),
            self.chunk(),
            where,
            made_by,
        )

    def _pixels(self, split: str) -> str:
        """A hash of a split's images now; of images in a file, of the time they were read."""
        images = self.data.images[split]
        if is_mapped(images):
            return f"{self.data.fingerprint} {images._version}"
        if split not in self._pixel_keys:
            self._pixel_keys[split] = pixels(images)
        return self._pixel_keys[split]

    def _cost(self, teaches: nn.Module, example: Tensor, place: Place | None = None) -> Cost:
        """Counted once for a network, what trains in it, the place and shapes, then looked up."""
        shapes = [(n, tuple(p.shape), p.requires_grad) for n, p in self.module.named_parameters()]
        network, at = structure(self.module), place and (place.at, place.is_tail)
        key = key_of(network, at, shapes, tuple(self.example().shape), tuple(example.shape))
        if network and key in self.store.costs:
            return Cost(**self.store.costs[key])
        with undisturbed(self.module):
            cost = _counted(self.counts, self.module, self.example(), teaches, example)
        self.store.costs[key] = asdict(cost)
        return cost


def _counted(
    counts: Counts, module: nn.Module, image: Tensor, teaches: nn.Module, example: Tensor
) -> Cost:
    return Cost(
        done=counts.step(teaches, example),
        planned=counts.step(module, image),
        full=counts.step(module, image, everything=True),
        look=counts.forward(teaches, example),
        whole=counts.forward(module, image),
    )


def _views_event(kind: str, views: int) -> Event | None:
    """What a run should say about its cached views."""
    if kind == "none":
        return None
    return event("cached-views", views=views) if views > 1 else event("one-view")
