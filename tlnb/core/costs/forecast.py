"""What a training will take, before its first step: the real loop on a small sample of the images, timed, then scaled.

FLOPs need no sample: each kind of work costs the same for every image, so that counts are exact short of early ends.
"""

from __future__ import annotations

import copy
import math
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tlnb.core.costs.prices import Price, list_price
from tlnb.core.data.augment import draw
from tlnb.core.data.dataset import DataSet
from tlnb.core.models.anatomy import Anatomy
from tlnb.core.models.meter import PHASES, Clock, Tally
from tlnb.core.models.pretrained import PretrainedModel
from tlnb.core.planning.edit import Scopes, build
from tlnb.core.planning.options import TrainOptions
from tlnb.core.planning.plan import Plan
from tlnb.core.runtime.device import Machine, machine
from tlnb.core.runtime.malloc import large_blocks_kept
from tlnb.core.storage.activation_cache import Store
from tlnb.core.training.checkpoint_timing import Writes, count
from tlnb.core.training.features import FIXED, KeptRows, Source
from tlnb.core.training.forgetting import SourceAccuracy, source_accuracy
from tlnb.core.training.freezing import hashes
from tlnb.core.training.run import Cache, Forecast, Run
from tlnb.core.training.split_choice import Choice
from tlnb.core.training.trainer import Training, looks_at_monitor, seeded
from tlnb.core.training.training_inputs import Cost

LEAST_SECONDS = 1.0  # that a forecast may take, however short the run
SHARE = 0.05  # of the run's seconds that it may take otherwise
FIRST_FLOPS = 3e9  # for each thread in the first, smallest rehearsal: some tenths of a second
LEAST, FEW = (
    2,
    8,
)  # images of a large network's first and second: two sizes tell what a pass takes for itself
FEW_FLOPS = 4e10  # for each thread that those of the second may take
BATCHES = 6  # that a rehearsal times at most
EPOCHS, MOST_EPOCHS = (
    2,
    10,
)  # of a rehearsal; the first is not timed, and of the others the one in the middle
TIMED = 0.15  # seconds of training from which on an epoch's time can be told from chance
PASSES = (
    "steps",
    "prefix",
    "features",
    "look",
)  # kinds of work that are done some images at a time
LEAST_OF_ITS_OWN = 0.4  # of a pass's seconds, that its images take at the least
OF_ITS_SOURCE = 128  # images of the network's source on which that evaluation is timed

Part = tuple[str, str]  # a phase, a kind of work in it


@large_blocks_kept()  # as while it trains
def forecast(
    model: PretrainedModel,
    anatomy: Anatomy,
    data: DataSet,
    plan: Plan,
    options: TrainOptions,
    *,
    name: str,
    scopes: Scopes | None = None,
    previous: Run | None = None,
    store: Store | None = None,
    price: Price | None = None,
) -> tuple[Forecast, Tally]:
    """What `train` with the same arguments will take, and what finding that out took.

    Nothing but a copy of the network is touched; the sample never holds test images' answers to anything.

    Raises:
        UsageError: a device or precision that this machine does not have.
    """
    here = machine(options.device, options.precision)
    clock = Clock(here)
    spent = Tally(clock)
    began = time.perf_counter()
    with seeded(options.seed, here):
        whole = _Whole.begin(
            model,
            anatomy,
            data,
            plan,
            options,
            here,
            spent,
            name,
            scopes,
            previous,
            store or Store(),
        )
        count = whole.first_count()
        rehearsal = whole.rehearse(count, whole.first_epochs())
        until = max(LEAST_SECONDS, SHARE * sum(whole.scaled(rehearsal).values()))
        left = 0.5 * (until - (time.perf_counter() - began))
        more = max(
            whole.next_count(count, rehearsal.times_in(left)), whole.few() if count == LEAST else 0
        )
        if (
            more > count or not here.on_cpu
        ):  # the first one on a GPU has loaded what it computes with
            first, rehearsal = rehearsal, whole.rehearse(max(count, more), rehearsal.enough_epochs)
            rehearsal = whole.as_in_whole_passes(first, rehearsal)
    phases, flops = whole.scaled(rehearsal), whole.flops(rehearsal)
    seconds = sum(phases.values())
    watts = sum(clock.wh().values()) / sum(clock.seconds().values())
    own = price or list_price(here.device, here.name, here.threads)
    sampled = (
        f"assumed: {rehearsal.sample} of {whole.images} training images timed, the rest scaled"
    )
    found = Forecast(
        name,
        data.fingerprint,
        plan,
        options,
        phases,
        flops,
        whole.per_epoch(rehearsal),
        seconds * watts,
        own.of(seconds),
        own.currency,
        whole.peak_bytes(rehearsal),
        {
            "seconds": sampled,
            "flops": "measured: counted, times the number of images",
            "wh": f"assumed: the forecast's own power for so many seconds ({clock.meter.basis})",
            "money": f"{own.basis}, {own.per_hour:g} {own.currency} an hour",
            "peak_bytes": "assumed: the sizes of the tensors that are held at once"
            + ("" if here.on_cpu else ", but at least what the sample held"),
        },
        rehearsal.sample,
        time.perf_counter() - began,
        per_look=whole.per_look(rehearsal),
        look_share=whole.look_share(rehearsal),
    )
    return found, spent


class Rehearsal(Source):
    """A source over a sample: it computes every kind of activation once, and notes which the real run would find."""

    def __init__(
        self, real: Source, sample: DataSet, choice: tuple[Choice | None, str], tally: Tally
    ) -> None:
        super().__init__(real.module, real.transform, sample, real.machine, tally, Store())
        self._real, self._choice, self.counts = real, choice, real.counts
        self._first: Tensor | None = None
        self.store.costs, self.cuts = real.store.costs, real.cuts
        self.missing: dict[Part, float] = {}  # images that the real run computes

    def choose(
        self, trained: tuple[str, ...], options: TrainOptions, before: Cache | None = None
    ) -> tuple[Choice | None, str]:
        return self._choice

    def _data_key(self, split: str, kind: str, seed: int, view: int) -> tuple[object, ...]:
        return self._real._data_key(split, kind, seed, view)

    def _kept(self, work: KeptRows, where: str) -> tuple[Tensor, bool]:
        known = work.key in self._real.store
        images = 0 if known else len(self._real.data.labels[work.split])
        done = work.phase, work.part
        self.missing[done] = self.missing.get(done, 0.0) + images
        train = work.split == "train" and work.part == "prefix"
        if train and self._first is not None:
            return self._first, known  # further views take as long as the first
        with self.tally.phase(*done):  # past the store: a sample must neither be found nor kept
            value = torch.cat(list(self.parts(work)))
        self.tally.charge(work.phase, len(value) * work.flops, work.part)
        if train:
            self._first = value
        return value, known


@dataclass(frozen=True)
class Rehearsed:
    """What a rehearsal took, by kind of work, and how much of each kind it did."""

    sample: int  # training images
    splits: Mapping[str, int]
    seconds: dict[Part, float]
    flops: dict[Part, float]
    missing: dict[Part, float]  # images that the real run sends through what is frozen
    other: float  # seconds of what does not grow with images or epochs
    keeping: float  # seconds of one checkpoint
    saved_bytes: float  # that a batch of one image keeps for its backward pass
    held_bytes: int  # the most that the GPU held at once; 0 on processors, which do not say
    took: float
    epochs: int  # so few that each was followed by a look at every split
    cost: Cost

    def times_in(self, seconds: float) -> float:
        """How many times as many images as these could be rehearsed in so many seconds."""
        by_images = sum(took for part, took in self.seconds.items() if part[1] in PASSES)
        return (seconds - (self.took - by_images)) / max(1e-3, by_images)

    @property
    def enough_epochs(self) -> int:
        """For the next rehearsal: more where they are quick."""
        one = self.seconds.get(("training", "steps"), 0.0) / self.epochs
        return max(EPOCHS, min(MOST_EPOCHS, math.ceil(TIMED / max(one, 1e-3))))


@dataclass
class _Whole:
    """The training as it would be."""

    training: Training
    options: TrainOptions
    warm: bool
    tally: Tally
    choice: tuple[Choice | None, str]
    other: float
    writes: Writes
    source: float = (
        0.0  # how many times what was done of the evaluation on the network's source the run does
    )

    @classmethod
    def begin(
        cls,
        model: PretrainedModel,
        anatomy: Anatomy,
        data: DataSet,
        plan: Plan,
        options: TrainOptions,
        here: Machine,
        tally: Tally,
        name: str,
        scopes: Scopes | None,
        previous: Run | None,
        store: Store,
    ) -> _Whole:
        """Prepare a copy, as the run would; choose where to cut it."""
        training = Training(model, anatomy, data, plan, options, here, tally, name, lambda _: None)
        with tally.phase("preparing"):
            start = (
                previous.module()
                if previous
                else build(model, plan.edits, plan.start, options.seed, scopes)
            )
            training.prepare(start, store)
        training.set_modes()
        began = time.perf_counter()
        choice = training.source.choose(plan.trained, options)
        warm = plan.start == "pretrained" and previous is None
        found = cls(training, options, warm, tally, choice, 0.0, Writes(options.epochs or 0))
        found.other = time.perf_counter() - began + found._proof_seconds()
        found._source(previous)
        return found

    def _proof_seconds(self) -> float:
        began = time.perf_counter()
        hashes(self.training.module)
        return time.perf_counter() - began

    def _source(self, previous: Run | None) -> None:
        """The network's accuracy on its own source costs the same whatever the data: a part of that evaluation is timed."""
        work = self.training

        def look(pictures: int) -> SourceAccuracy | None:
            return source_accuracy(
                work.model, work.plan, work.module, work.plan.trained, previous, at_most=pictures
            )

        look(1)  # reads the pictures
        with self.tally.phase("evaluating", "source"):
            found = look(OF_ITS_SOURCE)
        self.tally.charge("evaluating", found.flops if found else 0.0, "source")
        self.source = max(1.0, found.pictures / OF_ITS_SOURCE) if found and found.flops else 1.0

    @property
    def images(self) -> int:
        return len(self.training.labels["train"])

    # ── rehearsing ──

    def first_count(self) -> int:
        """Images of the first rehearsal: few of a large network, but on a GPU a batch, which may take no longer than one."""
        if not self.training.machine.on_cpu:
            return min(self.images, self.options.batch_size or 1)
        count = self._images_in(FIRST_FLOPS)
        return min(self.images, 256, count if count > FEW else LEAST)

    def few(self) -> int:
        """Images that even a large network's second rehearsal has, unless those take very long."""
        return min(self.images, FEW, self._images_in(FEW_FLOPS))

    def _images_in(self, flops: float) -> int:
        """How many can be learned from with so many FLOPs in each thread."""
        source = self.training.source
        step = source.counts.step(source.module, source.example())
        return int(flops * max(1, torch.get_num_threads()) / max(step, 1.0))

    def first_epochs(self) -> int:
        """Epochs of the first rehearsal: more where they pass through nothing but output layers."""
        only_output = set(self.training.plan.trained) <= set(self.training.anatomy.heads)
        return MOST_EPOCHS if self.choice[0] and only_output else EPOCHS

    def next_count(self, done: int, times: float) -> int:
        """Images of the second: so many times the first, at most some batches, whole ones where there is time for one."""
        batch = self.options.batch_size or 1
        most = min(self.images, max(BATCHES * batch, 256))
        count = int(min(most, done * times))
        return count if count < batch or count >= self.images else count // batch * batch

    def rehearse(self, count: int, epochs: int = EPOCHS) -> Rehearsed:
        """The training on a sample, some epochs of it, and what each kind of work took."""
        began = time.perf_counter()
        tally = Tally(Clock(self.training.machine, meter=self.tally.clock.meter))
        sample = _sample(self.training.data, count)
        work = copy.copy(self.training)
        # else what an earlier one taught would look like another network
        work.module.load_state_dict(work.start, strict=False)
        batch = min(self.options.batch_size or 1, len(sample.labels["train"]))
        work.options = replace(self.options, epochs=epochs, batch_size=batch)
        work.data, work.tally, work.epochs, work.notes = sample, tally, [], []
        work.labels = {s: y.to(work.machine.device) for s, y in sample.labels.items()}
        source = Rehearsal(self.training.source, sample, self.choice, tally)
        work.source = source
        work.keep, work.at_risk = lambda _: None, math.inf  # epochs are held, none is written
        on_gpu = work.machine.device.startswith("cuda")
        if on_gpu:
            torch.cuda.reset_peak_memory_stats(work.machine.device)
        if work.run(self.warm) == "stopped":
            raise KeyboardInterrupt
        work.test()
        held = torch.cuda.max_memory_allocated(work.machine.device) if on_gpu else 0
        for (
            phase,
            part,
        ), cost in tally.parts.items():  # what the rehearsal computed is charged to the forecast
            self.tally.charge(phase, cost.flops, part)
        seconds = {part: cost.seconds for part, cost in tally.parts.items()}
        if work.epochs:
            seconds["training", "steps"] = epochs * statistics.median_low(
                e.seconds for e in work.epochs[1:] or work.epochs
            )
        other = tally.clock.seconds()["other"] - seconds.get(("other", "keep"), 0.0)
        if work.held is not None:
            self.writes.keep(work.held)
        flops = {part: cost.flops for part, cost in tally.parts.items()}
        return Rehearsed(
            len(sample.labels["train"]),
            sample.splits,
            seconds,
            flops,
            source.missing,
            max(0.0, other),
            self.writes.seconds,
            _saved_bytes(work),
            held,
            time.perf_counter() - began,
            epochs,
            _cost(work),
        )

    # ── scaling ──

    def as_in_whole_passes(self, first: Rehearsed, second: Rehearsed) -> Rehearsed:
        """The second rehearsal with the seconds that its images would take in passes as large as the run's.

        A few images would else speak of a large network's overhead alone.
        """
        if second.sample <= first.sample or not self.training.machine.on_cpu:
            return second
        batch, chunk = self.options.batch_size or 1, self.training.source.chunk()
        seconds = dict(second.seconds)
        for part, took in second.seconds.items():
            if part[1] in PASSES:
                before = (first.sample, first.seconds.get(part, took))
                seconds[part] = in_larger_passes(
                    before, (second.sample, took), batch if part[1] == "steps" else chunk
                )
        return replace(second, seconds=seconds)

    def factors(self, done: Rehearsed) -> dict[Part, float]:
        """How many times the rehearsal's work of each kind the run does."""
        real, sample = self.training.data.splits, done.splits
        epochs = self.options.epochs or 0
        watched = epochs * real.get("val", 0) + len(self._looks(done)) * real.get("monitor", 0)
        grow = real["train"] / sample["train"]
        return {
            ("caching", "prefix"): done.missing.get(("caching", "prefix"), 0.0) / sample["train"],
            ("caching", "features"): done.missing.get(("caching", "features"), 0.0)
            / sample["train"],
            ("caching", "statistics"): grow,
            ("warmup", "steps"): grow,
            ("training", "steps"): grow * epochs / done.epochs,
            ("evaluating", "prefix"): done.missing.get(("evaluating", "prefix"), 0.0)
            / max(1, sum(sample.get(s, 0) for s in FIXED)),
            ("evaluating", "look"): (watched + real["test"]) / self._looked(done),
            ("other", "keep"): epochs / done.epochs,
        }

    def _looks(self, done: Rehearsed) -> tuple[int, ...]:
        return looks_at_monitor(self.training.data, self.options, done.cost)

    @staticmethod
    def _looked(done: Rehearsed) -> int:
        """Images that the rehearsal looked at."""
        return (
            done.epochs * sum(done.splits.get(split, 0) for split in ("val", "monitor"))
            + done.splits["test"]
        )

    def scaled(self, done: Rehearsed) -> dict[str, float]:
        """Seconds by phase."""
        phases = dict.fromkeys(PHASES, 0.0)
        for part, factor in self.factors(done).items():
            phases[part[0]] += factor * done.seconds.get(part, 0.0)
        mine = self.tally.parts
        phases["preparing"] += mine["preparing", ""].seconds
        phases["evaluating"] += self.source * mine["evaluating", "source"].seconds
        phases["other"] += self.other + done.other + done.keeping * self._writes(phases)
        return phases

    def _writes(self, phases: Mapping[str, float]) -> int:
        epochs = 0 if self.options.solver == "lbfgs" else self.options.epochs or 0
        return count(epochs, phases["training"] + phases["evaluating"], self.training.at_risk)

    def flops(self, done: Rehearsed) -> dict[str, float]:
        """FLOPs by phase."""
        found: dict[str, float] = {}
        for part, factor in self.factors(done).items():
            found[part[0]] = found.get(part[0], 0.0) + factor * done.flops.get(part, 0.0)
        found["evaluating"] += self.source * self.tally.parts["evaluating", "source"].flops
        return {phase: flops for phase, flops in found.items() if flops}

    def per_epoch(self, done: Rehearsed) -> float:
        """Seconds of one more epoch, without a look at `monitor`."""
        one = replace(self, options=replace(self.options, epochs=1))
        two = replace(self, options=replace(self.options, epochs=2))
        return sum(two.scaled(done).values()) - sum(one.scaled(done).values()) - self.per_look(done)

    def per_look(self, done: Rehearsed) -> float:
        """Seconds of one look at `monitor`."""
        images = self.training.data.splits.get("monitor", 0)
        return images * done.seconds.get(("evaluating", "look"), 0.0) / self._looked(done)

    def look_share(self, done: Rehearsed) -> float:
        """FLOPs of one look at `monitor`, in those of an epoch's training."""
        real = self.training.data.splits
        return real.get("monitor", 0) * done.cost.look / max(1.0, real["train"] * done.cost.done)

    def peak_bytes(self, done: Rehearsed) -> int:
        """Parameters, their gradients and moments; two copies of what trains and one of the moments; a batch's activations;
        images; what is cached.

        What passes through frozen layers while features are cached only a GPU knows: the sample's chunks are as large.
        """
        module, data = self.training.module, self.training.data
        held = sum(t.nbytes for t in module.state_dict().values())
        trains = 4 * self.training.plan.trainable_params
        batch = done.saved_bytes * min(self.options.batch_size or 1, self.images)
        images = sum(t.nbytes for t in data.images.values())
        cached = self.choice[0].bytes if self.choice[0] else 0
        return max(int(held + 7 * trains + batch + images + cached), done.held_bytes)


def in_larger_passes(first: tuple[int, float], second: tuple[int, float], size: int) -> float:
    """Seconds that the second sample's images would have taken in passes of `size`.

    A pass takes so much for itself (a step of the optimiser, fetching the weights) and so much for each image: both
    follow from two samples, each `(images, seconds)` in one pass. At least `LEAST_OF_ITS_OWN` is the images'.
    """
    (fewer, before), (images, took) = first, second
    if images >= size or not took:
        return took
    by_images = (took - before) * images / (images - fewer) / took
    by_images = min(1.0, max(LEAST_OF_ITS_OWN, by_images))
    return took * (by_images + (1 - by_images) * images / size)


def _sample(data: DataSet, count: int) -> DataSet:
    """The first images of every split; as many as that of the training images, spread over them."""
    return data.with_splits(
        {split: (split, _spread(len(labels), count)) for split, labels in data.labels.items()}
    )


def _spread(length: int, count: int) -> Tensor:
    return torch.linspace(0, length - 1, min(length, count)).round().long()


def _cost(work: Training) -> Cost:
    """FLOPs for one image, as the run counts them."""
    return work.inputs.cost if work.inputs else Cost(0.0, 0.0, 0.0, 0.0, 0.0)


def _saved_bytes(work: Training) -> float:
    """Bytes that one image's forward pass keeps for the backward pass, parameters not counted; by autograd's own hook."""
    inputs = work.inputs
    if inputs is None:
        return 0.0
    own = {p.untyped_storage().data_ptr() for p in work.module.state_dict().values()}
    seen: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        at = tensor.untyped_storage().data_ptr()
        if at not in own:
            seen[at] = tensor.untyped_storage().nbytes()
        return tensor

    work.set_modes()
    rows = inputs.train(0)[:2]
    ready = inputs.make(rows, draw(len(rows), inputs.augment, torch.Generator().manual_seed(0)))
    with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t), work.machine.autocast():
        inputs.teaches(ready).sum()
    return math.fsum(seen.values()) / len(rows)
