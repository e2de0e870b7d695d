"""The only training loop. Every strategy, the baseline and the embedded models' pretraining go through it.

A run goes one way: prepare a copy of the network → cache what is frozen → warm the new output layer up → train →
test once → compare with the start. What each part took is charged to its phase.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from tlnb.core.data.augment import draw
from tlnb.core.data.dataset import DataSet
from tlnb.core.models.anatomy import Anatomy, evaluating
from tlnb.core.models.meter import FLOPS_BASIS, PHASES, SECONDS_BASIS, Clock, Tally, forward_flops
from tlnb.core.models.pretrained import PretrainedModel
from tlnb.core.planning.edit import Scopes, build
from tlnb.core.planning.options import TrainOptions
from tlnb.core.planning.plan import Plan
from tlnb.core.planning.recipes import WARMUP, recipe
from tlnb.core.runtime.device import Machine, free_memory, machine, out_of_memory
from tlnb.core.runtime.distributed import ALONE, Ranks, ranks, uses_batch_statistics
from tlnb.core.runtime.errors import MemoryLimit, UsageError
from tlnb.core.runtime.malloc import large_blocks_kept
from tlnb.core.runtime.torch_lock import alone, give_way
from tlnb.core.storage.activation_cache import Store
from tlnb.core.storage.memory_map import batches, is_mapped
from tlnb.core.training.cached_inputs import HeadInputs
from tlnb.core.training.checkpoint import Checkpoint, Due, at_risk
from tlnb.core.training.checkpoint_check import check_fits
from tlnb.core.training.features import Source
from tlnb.core.training.forgetting import SourceAccuracy, source_accuracy
from tlnb.core.training.freezing import (
    Change,
    Learning,
    hashes,
    layer_of,
    relative_change,
    set_modes,
    state_of,
)
from tlnb.core.training.monitor_schedule import looks
from tlnb.core.training.own_answers import own_answers
from tlnb.core.training.run import Answers, Cache, EpochRecord, Run, Work, wilson_interval
from tlnb.core.training.standardise import Standardise, can_fold
from tlnb.core.training.training_inputs import Cost, Inputs

RISE = 0.15  # share of the steps in which the learning rate rises; then it falls along a cosine
STATISTICS_ROWS = 256  # cached features in one look at what reaches the output layer
LBFGS_STEPS = 5  # iterations that count as one epoch
STRIDE = 1_000_003  # a prime between the seeds of runs, so that epochs of neighbouring seeds never share one


@dataclass(frozen=True)
class Progress:
    """Where a run is, for whoever shows it."""

    run: str
    phase: str
    epoch: int = 0
    epochs: int = 0
    loss: float | None = None
    accuracy: float | None = None


Report = Callable[[Progress], None]
Epoch = Callable[[int], tuple[float, int, int]]  # an epoch's number → its loss, steps, images


class Batch(NamedTuple):
    """What one process has of a batch."""

    inputs: Tensor
    labels: Tensor
    share: Tensor | float = 1  # of the whole batch's weight in the loss
    of: int = 0  # items of the whole batch; 0: these are all


@dataclass
class Pieces:
    """Into how many pieces a batch is split, each by itself in memory, gradients added up. Grows when memory runs out."""

    count: int = 1


def train_epoch(
    module: nn.Module,
    batches: Iterable[Batch | tuple[Tensor, Tensor]],
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    machine: Machine,
    *,
    scaler: torch.amp.GradScaler | None = None,
    class_weights: Tensor | None = None,
    label_smoothing: float = 0.0,
    pieces: Pieces | None = None,
    ranks: Ranks = ALONE,
) -> float:
    """One optimiser step for each batch of inputs and labels; the mean loss over all items.

    The modes, and what needs gradients, are the caller's business; so is a gradient scaler for fp16, which must
    outlive the epoch, and `pieces`, which grows when memory runs out. Several processes take one step together: each has
    its share of every batch (a `Batch`), and a module that averages gradients over them (`Ranks.wrapped`).

    Raises:
        MemoryLimit: not even one item fits in memory.
    """
    total, seen = torch.zeros((), device=machine.device), 0
    scaler, pieces = scaler or torch.amp.GradScaler(enabled=False), pieces or Pieces()

    def loss_of(inputs: Tensor, labels: Tensor) -> Tensor:
        with machine.autocast():
            return F.cross_entropy(
                module(inputs), labels, class_weights, label_smoothing=label_smoothing
            )

    for inputs, labels, share, of in (Batch(*batch) for batch in batches):
        scale = (
            None if ranks.count == 1 else share * ranks.count
        )  # since a mean of gradients is to be their sum
        items = ranks.draws.of = of or len(labels)
        loss = _gradients(loss_of, inputs, labels, optimizer, scaler, class_weights, pieces, scale)
        scaler.step(optimizer)
        scaler.update()
        schedule.step()
        total += loss * (share * items)
        seen += items
    return float(ranks.sum(total)) / seen


def _gradients(
    loss_of: Callable[[Tensor, Tensor], Tensor],
    inputs: Tensor,
    labels: Tensor,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    class_weights: Tensor | None,
    pieces: Pieces,
    scale: Tensor | float | None = None,
) -> Tensor:
    """The batch's mean loss, its gradients in place: whole, or piece by piece where memory demands it.

    Args:
        scale: of a process among several, whose backward pass meets the others': it cannot be begun again in pieces.
    """
    while True:
        optimizer.zero_grad(set_to_none=True)
        try:
            if pieces.count == 1:
                loss = loss_of(inputs, labels)
                scaler.scale(loss if scale is None else loss * scale).backward()
                return loss.detach()
            total = torch.zeros((), device=labels.device)
            for some, theirs in zip(
                inputs.tensor_split(pieces.count), labels.tensor_split(pieces.count), strict=True
            ):
                loss = loss_of(some, theirs) * _share(theirs, labels, class_weights)
                scaler.scale(loss).backward()
                total += loss.detach()
            return total
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
        if scale is not None:
            raise MemoryLimit(
                f"{len(labels)} images do not fit in a process's memory: a smaller --batch-size, or more processes"
            )
        # outside of `except`: the traceback, and all tensors that its frames hold, are gone here
        optimizer.zero_grad(set_to_none=True)
        free_memory()
        if pieces.count >= len(labels):
            raise MemoryLimit(
                "not even one image fits in memory for training: a smaller --size, or fewer layers to train"
            )
        pieces.count = min(2 * pieces.count, len(labels))


def _share(some: Tensor, of: Tensor, class_weights: Tensor | None) -> Tensor | float:
    """What some labels weigh in the mean over others that they are among: classes may weigh differently."""
    if class_weights is None:
        return len(some) / len(of)
    return class_weights[some].sum() / class_weights[of].sum()


def can_fuse(device: str) -> bool:
    """Whether AdamW steps all parameters in one call there, for a small network in a fifth of the time; untried on MPS."""
    return not device.startswith("mps")


def one_cycle(optimizer: torch.optim.Optimizer, steps: int) -> torch.optim.lr_scheduler.LRScheduler:
    """Every group's rate rises linearly from nothing, then falls along a cosine to nothing."""
    rise = max(1, round(RISE * steps))

    def factor(step: int) -> float:
        if step < rise:
            return (step + 1) / rise
        return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def go_on(
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    scaler: torch.amp.GradScaler,
    found: Checkpoint,
) -> None:
    """Put optimiser, schedule and scaler where they were."""
    state: dict[int, dict[str, Tensor]] = {}
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for key, tensor in found.part("optimizer").items():
        number, _, name = key.partition("/")
        like = parameters[int(number)]
        # a fused step takes numbers as they lie in memory, so they must lie as the parameter's do (channels_last, say)
        laid = (
            torch.empty_like(like, dtype=tensor.dtype).copy_(tensor)
            if tensor.shape == like.shape
            else tensor
        )
        state.setdefault(int(number), {})[name] = laid
    optimizer.load_state_dict(
        {"state": state, "param_groups": optimizer.state_dict()["param_groups"]}
    )
    schedule.last_epoch = found.steps
    factors = schedule.lr_lambdas  # type: ignore[attr-defined]
    for group, base, factor in zip(optimizer.param_groups, schedule.base_lrs, factors, strict=True):
        group["lr"] = base * factor(found.steps)
    if found.scaler:
        scaler.load_state_dict(found.scaler)


def steps_of(options: TrainOptions, images: int) -> int:
    """Optimiser steps that filled-in options mean for so many training images."""
    return (options.epochs or 0) * math.ceil(images / (options.batch_size or 1))


def looks_at_monitor(data: DataSet, options: TrainOptions, cost: Cost) -> tuple[int, ...]:
    """The epochs, from 0, after which a run with filled-in options looks at `monitor`; none where there is no such split."""
    if "monitor" not in data.splits:
        return ()
    epochs = options.epochs or 0
    return looks(
        epochs, epochs * data.splits["train"] * cost.done, data.splits["monitor"] * cost.look
    )


Keep = Callable[[Checkpoint], None]


@large_blocks_kept()
def train(
    model: PretrainedModel,
    anatomy: Anatomy,
    data: DataSet,
    plan: Plan,
    options: TrainOptions,
    *,
    name: str,
    scopes: Scopes | None = None,
    baseline_of: str | None = None,
    previous: Run | None = None,
    report: Report | None = None,
    store: Store | None = None,
    keep: Keep | None = None,
    resume: Checkpoint | None = None,
    stop: Callable[[], bool] | None = None,
    trial: bool = False,
) -> Run:
    """Carry out a plan on a copy of the model.

    Args:
        anatomy: of the model with the plan's edits.
        options: filled in, nothing left to the recipe.
        scopes: the user's names that the plan's edits mention.
        previous: start from this run's weights instead of the plan's start.
        report: called with a `Progress` as the run goes on.
        store: what earlier runs computed, to be used and added to.
        keep: called with a `Checkpoint` where one is due (`checkpoint.Due`), and where the run is cut short; it may raise
            `OSError`, which the run notes.
        resume: go on from here; all else must be as it was.
        stop: asked before every step; once it says yes, the run ends as by an interrupt.
        trial: one of many, of which nobody asks what the network still knows of its own source: that is not measured.

    Where several processes have joined (`core.ranks`) all of them call it alike, and have the same record; `keep` is called
    by the one that writes. FLOPs and energy are those of all, seconds are that one's, and an interrupt goes through.

    Returns:
        The record. An interrupt ends it early with status `stopped`; everything so far is kept.

    Raises:
        UsageError: a device or precision that this machine does not have; a checkpoint that is not of this training.
        MemoryLimit: not even one image fits in memory.
    """
    here, group = machine(options.device, options.precision), ranks()
    paid = resume if group.writes else None  # what was spent before is counted by one process
    clock = Clock(here, resume.seconds if resume else None, paid.wh if paid else None)
    with seeded(options.seed, here):
        tally = Tally(clock, paid.flops if paid else None)
        work = Training(
            model,
            anatomy,
            data,
            plan,
            options,
            here,
            tally,
            name,
            report or (lambda _: None),
            keep,
            resume,
            stop,
            ranks=group,
        )
        with tally.phase("preparing"):
            start = (
                previous.module()
                if previous
                else build(model, plan.edits, plan.start, options.seed, scopes)
            )
            work.prepare(start, store or Store())
            work.check_resume()
        status = work.run(warm=plan.start == "pretrained" and previous is None)
        answers = work.test(trial)
    changes = work.changes()
    source = None if trial else work.on_its_source([c.name for c in changes if c.moved], previous)
    notes = list(work.notes)
    broken = [c.name for c in changes if c.frozen and c.moved]
    if broken:
        status = "failed"
        notes.append(f"frozen layers moved: {', '.join(broken)}")
    inference = work.inference_flops
    trained = work.result()
    seconds, (flops, wh) = clock.seconds(), work.spent()
    right, by_class = scores(answers)
    tested = len(data.labels["test"])
    return Run(
        name=name,
        plan=plan,
        options=options,
        data=data.name,
        fingerprint=data.fingerprint,
        status=status,
        accuracy=right / tested,
        interval=wilson_interval(right, tested),
        balanced_accuracy=by_class,
        test_images=tested,
        epochs=tuple(work.epochs),
        best_epoch=work.best_epoch,
        seconds=seconds,
        flops_by_phase=flops,
        work=work.done,
        energy_wh=sum(wh.values()),
        money=0.0,
        wh_by_phase=wh,
        bases={"seconds": SECONDS_BASIS, "flops": FLOPS_BASIS, "energy_wh": clock.meter.basis},
        device=here.device,
        hardware=here.name,
        threads=here.threads,
        precision=here.precision,
        changes=changes,
        baseline_of=baseline_of,
        started_from=previous.name if previous else None,
        notes=tuple(notes),
        versions={"torch": torch.__version__, "torchvision": torchvision.__version__},
        classes=data.classes,
        edge=data.edge,
        source_accuracy=(source.before, source.after) if source else None,
        source_pictures=source.pictures if source else 0,
        cache=work.cache,
        uncached=work.source.why,
        inference_flops=inference,
        processes=group.count,
        _trained=trained,
        _hashes=work.end_hashes,
        _answers=answers,
        _transform=model.transform,
    )


@contextmanager
def seeded(seed: int, here: Machine) -> Iterator[None]:
    """Random numbers from this seed inside; afterwards they go on as if nothing had been drawn."""
    with (
        alone(),
        here.exact(),
        torch.random.fork_rng(
            devices=[torch.cuda.current_device()] if here.device.startswith("cuda") else []
        ),
    ):
        torch.manual_seed(seed)
        yield


def scores(answers: Answers) -> tuple[int, float]:
    """How many are right, and the mean of the accuracies by class."""
    right = (answers.guesses == answers.truths).float()
    by_class = [float(right[answers.truths == c].mean()) for c in answers.truths.unique()]
    return int(right.sum()), sum(by_class) / len(by_class)


def advice_for_nan(options: TrainOptions, usual: float | None, precision: str) -> str:
    """What is most likely to help when a loss is no longer a number."""
    rates = [options.lr or 0.0, *(rate for _, rate in options.stage_lr)]
    highest = max(rates)
    if usual and highest > usual:
        return f"--lr {highest:g} is {highest / usual:.3g} times what is usual here: try --lr {usual:g}"
    if precision == "fp16":
        return "fp16 overflows where activations are large: try --precision fp32"
    return f"try a smaller rate, --lr {highest / 10:g}, and look at the images with %tl_data: are they as the model expects?"


@dataclass
class Training:
    """The working state of one run."""

    model: PretrainedModel
    anatomy: Anatomy
    data: DataSet
    plan: Plan
    options: TrainOptions
    machine: Machine
    tally: Tally
    name: str
    report: Report
    keep: Keep | None = None
    resume: Checkpoint | None = None
    stop: Callable[[], bool] | None = None
    epochs: list[EpochRecord] = field(default_factory=list)
    best_epoch: int | None = None
    notes: list[str] = field(default_factory=list)
    done: Work = field(default_factory=lambda: Work(0, 0, 0, 0, 0, 0))
    cache: Cache | None = None
    ranks: Ranks = ALONE
    held: Checkpoint | None = None  # the last epoch's end, where it is not on disk

    # ── preparing ──

    def prepare(self, network: nn.Module, store: Store) -> None:
        """Bring the network to the device; note every layer's hash and what trained layers hold."""
        self.report(Progress(self.name, "preparing"))
        self.module = network.to(
            self.machine.device, memory_format=self.model.transform.memory_format
        )  # type: ignore[call-overload]
        self.labels = {s: y.to(self.machine.device) for s, y in self.data.labels.items()}
        self.source = Source(
            self.module,
            self.model.transform,
            self.data,
            self.machine,
            self.tally,
            store,
            self._pause,
            self.ranks,
        )
        self.scales: list[Standardise] = []
        self.inference_flops = 0.0
        self.inputs: Inputs | None = None
        self.pieces = Pieces()
        self.best, self.best_state = -1.0, dict[str, Tensor]()
        self.last_state = dict[str, Tensor]()
        self.at_risk = at_risk()
        self.start, self.start_hashes = (
            state_of(self.module, self.plan.trained),
            hashes(self.module),
        )
        self._check_count()
        self.class_weights: Tensor | None = None
        if self.options.class_weights:
            counts = torch.bincount(self.labels["train"], minlength=len(self.data.classes)).float()
            self.class_weights = counts.sum() / (len(counts) * counts)

    def check_resume(self) -> None:
        """Raises `UsageError` where the checkpoint to go on from is not of this training."""
        if self.resume is not None:
            groups = self._groups(self.plan.trained, self.options)
            parameters: list[Tensor] = [p for group in groups for p in group["params"]]  # type: ignore[attr-defined]
            self.set_modes()
            options = self._none_alone(self.module, self.options)
            check_fits(
                self.resume,
                self.name,
                self.module,
                self.plan,
                self.anatomy,
                options,
                len(self.labels["train"]),
                parameters,
            )

    def _pause(self) -> None:
        """Between two steps: other threads may have their turn, and whoever asked to stop is heard."""
        give_way()
        if self.stop is not None and self.stop():
            raise KeyboardInterrupt

    def set_modes(self) -> None:
        """As the plan says: what trains in training mode, what is frozen in eval mode."""
        set_modes(self.module, set(self.plan.trained))

    def _check_count(self) -> None:
        """What trains must be what the plan promises; a parameter that layers share counts once."""
        held = {
            id(p): p.numel()
            for n in self.plan.trained
            for p in layer_of(self.module, n)._parameters.values()
            if p is not None
        }
        if self.plan.trainable_params > sum(held.values()):
            raise AssertionError(
                f"the plan trains {self.plan.trainable_params} parameters, found {held.values()}"
            )

    # ── training ──

    def run(self, warm: bool) -> str:
        """Warm-up where it helps, then the plan. `finished`, `stopped` on an interrupt, `failed` without a loss."""
        try:
            set_modes(self.module, set(self.plan.trained))
            before = self.resume.cache if self.resume else None
            self.inputs = self.source.inputs(self.plan.trained, self.options, before)
            self.cache = self.inputs.cache
            if self.resume:
                self._restore(self.resume)
            else:
                self.notes += [self.inputs.note] if self.inputs.note else []
                self._begin(warm)
            self._fit()
        except KeyboardInterrupt:
            self._write(self.held)
            if (
                self.ranks.count > 1
            ):  # the others may be anywhere: what is left is the last checkpoint
                raise
            self.notes.append(
                f"stopped after epoch {len(self.epochs)} of {self.options.epochs}: %tl_resume goes on"
            )
            return "stopped"
        except BaseException:
            with suppress(Exception):  # a GPU that fell away takes what it held with it
                self._write(self.held)
            raise
        finally:
            self.stop = None  # testing comes, which a stopped run is owed too
            if self.best_state:
                self.module.load_state_dict(self.best_state, strict=False)
            for scale in self.scales:
                scale.fold()
        return (
            "failed"
            if self.epochs and not math.isfinite(self.epochs[-1].train_loss)
            else "finished"
        )

    def _begin(self, warm: bool) -> None:
        """The output layers before the first epoch: what reaches them standardised, new ones trained alone for a while."""
        heads = tuple(h for h in self.anatomy.heads if h in self.plan.trained)
        layers = [head for name in heads if can_fold(head := layer_of(self.module, name))]
        scaled = bool(layers) and self.plan.start != "random"
        new = warm and any(edit.covers(h) for edit in self.plan.edits for h in heads)
        warm = new and bool(set(self.plan.trained) - set(self.anatomy.heads))
        if self.inputs is None or not (scaled or warm):
            return
        found = self.source.head_inputs(heads, self.inputs)
        if scaled:
            self._standardise(layers, found, keep=not new)
        if warm:
            self._warm_up(heads, found)

    def _standardise(self, layers: list[nn.Module], found: HeadInputs | None, keep: bool) -> None:
        """Let output layers see features of zero mean and like spread; folded into their weights at the end.

        Activations may have any scale, and one learning rate must fit all models. With `keep` the layers go on computing
        what they computed before.
        """
        seen: dict[nn.Module, list[Tensor]] = {head: [] for head in layers}
        handles = [
            head.register_forward_pre_hook(lambda h, x: seen[h].append(x[0].detach().float()))
            for head in layers
        ]
        look = self.source
        rest = self.module if found is None else found.judges
        rows = look.images("train") if found is None else found.features
        with (
            evaluating(self.module),
            self.tally.phase("caching", "statistics"),
            torch.no_grad(),
            self.machine.autocast(),
        ):
            for part in rows.split(look.chunk() if found is None else STATISTICS_ROWS):
                rest(
                    self.model.transform(look.placed(part))
                    if found is None
                    else look.placed(part).clone()
                )
        for handle in handles:
            handle.remove()
        example = look.example() if found is None else look.placed(found.features[:2])
        self.tally.charge(
            "caching", len(self.labels["train"]) * forward_flops(rest, example), "statistics"
        )
        self.scales = [Standardise.of(head, torch.cat(features)) for head, features in seen.items()]
        self.ranks.same(t for scale in self.scales for t in (scale.mean, scale.spread))
        for scale in self.scales if keep else ():
            scale.unfold()

    def _warm_up(self, heads: tuple[str, ...], found: HeadInputs | None) -> None:
        """New output layers alone, on what reaches them, so that their first gradients do not spoil what is pretrained."""
        options = replace(WARMUP, seed=self.options.seed)
        set_modes(self.module, set(heads))
        assert self.inputs is not None
        inputs = (
            self.source.raw("none")
            if found is None
            else found.inputs(self.inputs, self.machine, self._warm_up_cost(found))
        )
        one_epoch = self._in_batches(inputs, heads, options)
        for epoch in range(options.epochs or 0):
            self._seed(epoch)
            with self.tally.phase("warmup", "steps"):
                loss, steps, images = one_epoch(epoch)
            self._count(inputs.cost, steps, images, "warmup")
            self.report(Progress(self.name, "warmup", epoch + 1, options.epochs or 0, loss))

    def _warm_up_cost(self, found: HeadInputs) -> Cost:
        """FLOPs for one image; what the modes are now is what a step without a cache would have cost."""
        example = self.source.placed(found.features[:2])
        counts, whole = self.source.counts, self.inputs.cost if self.inputs else None
        planned = counts.step(self.module, self.source.example())
        return Cost(
            counts.step(found.teaches, example), planned, whole.full if whole else planned, 0.0, 0.0
        )

    def _fit(self) -> None:
        inputs, options, trained = self.inputs, self.options, self.plan.trained
        assert inputs is not None
        watched = "monitor" if "monitor" in self.data.splits else "val"
        looked_at = looks_at_monitor(self.data, options, inputs.cost)
        set_modes(self.module, set(trained))
        lbfgs = options.solver == "lbfgs"
        said = self.resume.pieces if self.resume else 1
        one_epoch = (
            self._all_at_once(inputs, options)
            if lbfgs
            else self._in_batches(inputs, trained, options, self.resume)
        )
        learning, due = Learning(self.module), Due(self.at_risk)
        for epoch in range(len(self.epochs), options.epochs or 0):
            self._seed(epoch)  # dropout: the same whatever ran before
            before = self.tally.clock.of("training")
            with self.tally.phase("training", "steps"):
                loss, steps, images = one_epoch(epoch)
            self._count(inputs.cost, steps, images, "training")
            if self.pieces.count > said:
                self._note_pieces()
                said = self.pieces.count
            self.ranks.same(self.module.buffers())
            seen = self._watch(
                inputs, learning, ("val", "monitor") if epoch in looked_at else ("val",)
            )
            seconds = self.tally.clock.of("training") - before
            self.epochs.append(EpochRecord(loss, seen.get("val"), seen.get("monitor"), seconds))
            if not math.isfinite(loss):
                self._note_nan()
                return
            self.last_state = state_of(self.module, trained)
            if (
                "val" in seen and seen["val"] >= self.best
            ):  # of equally good epochs the last: it has learned longest
                self.best, self.best_epoch, self.best_state = seen["val"], epoch, self.last_state
            if not lbfgs:  # which takes less time than it would to go on with it
                with self.tally.phase("other", "keep"):
                    self._keep(due)
            self.report(
                Progress(
                    self.name, "training", epoch + 1, options.epochs or 0, loss, seen.get(watched)
                )
            )

    def _seed(self, epoch: int) -> None:
        self.ranks.seed(self.options.seed * STRIDE + epoch, self.machine.on_cpu)

    def _note_pieces(self) -> None:
        batch_statistics = uses_batch_statistics(self.module)
        same = (
            "; batch statistics are of the pieces, so the result differs from whole batches"
            if batch_statistics
            else ""
        )
        self.notes.append(
            f"memory ran out: batches are split into {self.pieces.count} pieces{same}"
        )

    def _note_nan(self) -> None:
        """The loss is no number: back to the last epoch that had one, with the advice that fits."""
        if self.last_state:
            self.module.load_state_dict(self.last_state, strict=False)
            kept = f"weights are those of epoch {len(self.epochs) - 1}"
        else:
            self.module.load_state_dict(self.start, strict=False)
            kept = "weights are those at the start"
        usual = recipe(self.plan, self.data, self.options.solver).lr
        advice = advice_for_nan(self.options, usual, self.machine.precision)
        self.notes.append(f"the loss is not a number in epoch {len(self.epochs)}; {kept}; {advice}")

    # ── keeping ──

    def _keep(self, due: Due) -> None:
        """Write where the run stands, or hold it for an interrupt, which comes in the middle of an epoch."""
        if self.ranks.every(self.keep is None):
            return
        flops, wh = self.spent()
        if self.keep is None or not self.ranks.writes:
            return
        found = self._standing(flops, wh)
        if not due.after_epoch():
            try:
                self.held = found.held()
                return
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
        self._write(found)
        due.written()

    def _standing(self, flops: dict[str, float], wh: dict[str, float]) -> Checkpoint:
        """The run at the end of an epoch, in tensors that the next one changes."""
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        state = {
            i: self.optimizer.state[p]
            for i, p in enumerate(parameters)
            if p in self.optimizer.state
        }
        tensors = {
            **{f"last/{k}": t for k, t in self.last_state.items()},
            **{f"best/{k}": t for k, t in self.best_state.items() if not self._last_is_best},
            **{f"optimizer/{i}/{k}": t for i, held in state.items() for k, t in held.items()},
            **{
                f"scale/{i}/{k}": getattr(s, k)
                for i, s in enumerate(self.scales)
                for k in ("mean", "spread")
            },
        }
        return Checkpoint(
            tuple(self.epochs),
            self.best,
            self.best_epoch,
            self.tally.clock.seconds(),
            flops,
            self.done,
            self.schedule.last_epoch,
            self.cache,
            tuple(self.notes),
            self.pieces.count,
            self.scaler.state_dict(),
            wh,
            tensors,
        )

    def _write(self, found: Checkpoint | None) -> None:
        """To disk, if there is anything to write."""
        self.held = None
        if found is None or self.keep is None:
            return
        try:
            self.keep(found)
        except OSError as error:
            self.keep = None
            reason = error.strerror or type(error).__name__
            self.notes.append(
                f"no checkpoint from epoch {len(found.epochs)} on ({reason}): %tl_resume goes back to before that"
            )

    def _restore(self, found: Checkpoint) -> None:
        self.epochs, self.best, self.best_epoch = list(found.epochs), found.best, found.best_epoch
        self.done, self.notes, self.pieces.count = found.work, list(found.notes), found.pieces
        device = self.machine.device
        self.last_state, self.best_state = (
            {k: t.to(device) for k, t in found.part(p).items()} for p in ("last", "best")
        )
        heads = [layer_of(self.module, h) for h in self.anatomy.heads if h in self.plan.trained]
        kept = {k: t.to(device) for k, t in found.part("scale").items()}
        self.scales = [
            Standardise(head, kept[f"{i}/mean"], kept[f"{i}/spread"])
            for i, head in enumerate(filter(can_fold, heads))
            if f"{i}/mean" in kept
        ]
        if self._last_is_best:
            self.best_state = self.last_state
        self.module.load_state_dict(self.last_state, strict=False)

    @property
    def _last_is_best(self) -> bool:
        """Whether one copy of what trains is enough."""
        return self.best_epoch is not None and self.best_epoch == len(self.epochs) - 1

    # ── an epoch ──

    def _in_batches(
        self,
        inputs: Inputs,
        trained: tuple[str, ...],
        options: TrainOptions,
        resume: Checkpoint | None = None,
    ) -> Epoch:
        """AdamW with one-cycle rates, a step for each batch."""
        options = self._none_alone(inputs.teaches, options)
        groups, fused = self._groups(trained, options), self._can_fuse()
        optimizer = torch.optim.AdamW(groups, lr=options.lr or 0.0, weight_decay=0.0, fused=fused)
        images = len(self.labels["train"])
        schedule = one_cycle(optimizer, steps_of(options, images))
        scaler = torch.amp.GradScaler(enabled=self.machine.precision == "fp16")
        self.optimizer, self.schedule, self.scaler = optimizer, schedule, scaler
        if resume is not None:
            go_on(optimizer, schedule, scaler, resume)
        teaches = self._taught_together(inputs.teaches, images, options)

        def one_epoch(epoch: int) -> tuple[float, int, int]:
            loss = train_epoch(
                teaches,
                self._batches(inputs, options, epoch),
                optimizer,
                schedule,
                self.machine,
                scaler=scaler,
                class_weights=self.class_weights,
                pieces=self.pieces,
                ranks=self.ranks,
            )
            return loss, math.ceil(images / (options.batch_size or 1)), images

        return one_epoch

    def _can_fuse(self) -> bool:
        """Whether one call may step all parameters: complex ones take plain AdamW."""
        return can_fuse(self.machine.device) and not any(
            p.is_complex() for p in self.module.parameters()
        )

    def _none_alone(self, teaches: nn.Module, options: TrainOptions) -> TrainOptions:
        """Batches of two or more images where batch statistics are taken: that of one image tells nothing.

        Raises:
            UsageError: batches of one image were asked for.
        """
        images, size = len(self.labels["train"]), options.batch_size or 1
        if (
            self.ranks.count > 1
            or images // math.ceil(images / size) > 1
            or not uses_batch_statistics(teaches)
        ):
            return options
        if size == 1:
            raise UsageError(
                "--batch-size 1 leaves BatchNorm one image, which has no statistics: use --batch-size 2 or more, "
                "or %tl_freeze the BatchNorm layers"
            )
        note = f"batches of {size + 1}: one of {size} would leave one image alone, which has no batch statistics"
        self.notes += [note] if note not in self.notes else []
        return replace(options, batch_size=size + 1)

    def _taught_together(self, teaches: nn.Module, images: int, options: TrainOptions) -> nn.Module:
        """The module as several processes train it.

        Raises:
            UsageError: some would have too few images for batch statistics.
        """
        count = self.ranks.count
        if count > 1 and uses_batch_statistics(teaches):
            least = images // math.ceil(images / (options.batch_size or 1)) // count
            synchronised = self.machine.device.startswith("cuda")
            if least < (1 if synchronised else 2):
                raise UsageError(
                    f"batches of {options.batch_size} on {count} processes leave some {least} images, too few for batch "
                    "statistics: fewer processes, a larger --batch-size, or %tl_freeze the BatchNorm layers"
                )
            whose = "over all processes (SyncBatchNorm)" if synchronised else "each process's own"
            note = f"{count} processes shared every batch: batch statistics are {whose}"
            self.notes += [note] if note not in self.notes else []
        return self.ranks.wrapped(
            teaches, unused=not all(layer.used for layer in self.anatomy.layers)
        )

    def _all_at_once(self, inputs: Inputs, options: TrainOptions) -> Epoch:
        """L-BFGS on the output layer: logistic regression by all cached views of all images in every evaluation."""
        if not inputs.views:
            raise UsageError(
                "--solver lbfgs needs cached features, and this network cannot be cut: leave it out"
            )
        features = self.source.placed(
            torch.cat([inputs.train(view) for view in range(inputs.views)])
        )
        labels = self.labels["train"].repeat(inputs.views)
        head = layer_of(self.module, self.anatomy.head)
        weight: Tensor = head.weight  # type: ignore[assignment]
        optimizer = torch.optim.LBFGS(
            head.parameters(), max_iter=LBFGS_STEPS, line_search_fn="strong_wolfe"
        )
        evaluations: list[float] = []
        part = self.ranks.part(len(labels))
        mine, share = self.ranks.busy(part), _share(labels[part], labels, self.class_weights)

        def evaluate() -> Tensor:
            optimizer.zero_grad(set_to_none=True)
            # in eval mode: a line search needs the same loss for the same weights, which dropout would not give
            loss = (
                F.cross_entropy(inputs.judges(features[mine]), labels[mine], self.class_weights)
                * share
            )
            penalty = 0.5 * (options.weight_decay or 0.0) * weight.square().sum() / self.ranks.count
            (loss + penalty).backward()
            for parameter in head.parameters():
                if parameter.grad is not None:
                    self.ranks.sum(parameter.grad)
            loss = self.ranks.sum(loss.detach())
            evaluations.append(float(loss))
            return loss

        self.module.eval()

        def one_epoch(_: int) -> tuple[float, int, int]:
            evaluations.clear()
            optimizer.step(evaluate)
            return evaluations[-1], len(evaluations), len(evaluations) * len(labels)

        return one_epoch

    def _groups(self, trained: tuple[str, ...], options: TrainOptions) -> list[dict[str, object]]:
        """Parameters by learning rate and decay. Biases and normalisation do not decay."""
        rates = dict(options.stage_lr)
        stages = {layer.name: layer.stage for layer in self.anatomy.layers}
        groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
        taken: set[int] = set()
        for name in trained:
            for parameter in layer_of(self.module, name)._parameters.values():
                if parameter is not None and id(parameter) not in taken:
                    taken.add(id(parameter))  # one that layers share steps once
                    key = (rates.get(stages[name], options.lr or 0.0), parameter.ndim > 1)
                    groups.setdefault(key, []).append(parameter)
        decay = options.weight_decay or 0.0
        return [
            {"params": p, "lr": rate, "weight_decay": decay * decays}
            for (rate, decays), p in groups.items()
        ]

    def _batches(self, inputs: Inputs, options: TrainOptions, epoch: int) -> Iterator[Batch]:
        """Batches of nearly equal size: no last batch of one image, which batch statistics could not bear.

        Of each, this process's rows. One that has none takes part with a row that weighs nothing, so that gradients meet.
        """
        generator = torch.Generator().manual_seed(options.seed * STRIDE + epoch)
        source, labels = inputs.train(epoch), self.labels["train"]
        order = torch.randperm(len(labels), generator=generator)
        groups = list(order.tensor_split(math.ceil(len(labels) / (options.batch_size or 1))))
        parts = [self.ranks.part(len(rows)) for rows in groups]
        own = [(rows, self.ranks.busy(part)) for rows, part in zip(groups, parts, strict=True)]
        mine = [rows[busy] for rows, busy in own]
        sizes = [len(rows) for rows in mine]
        drawn = [draw(len(rows), inputs.augment, generator)[:, busy] for rows, busy in own]
        numbers = self.machine.placed(torch.cat(drawn, 1)).split(sizes, 1)
        if source.device.type == "cpu":  # in memory, or in a file that is read as it is needed
            here = labels.cpu()
            in_memory = ((source[rows], here[rows]) for rows in mine)
            pairs = (
                batches(source, here, mine, pin=labels.is_cuda) if is_mapped(source) else in_memory
            )
        else:
            there = self.machine.placed(torch.cat(mine)).split(
                sizes
            )  # one copy an epoch: a step waits for none
            pairs = ((source[rows], labels[rows]) for rows in there)
        for rows, part, some_numbers, (some, theirs) in zip(
            groups, parts, numbers, pairs, strict=True
        ):
            self._pause()
            ready, theirs = (
                inputs.make(self.machine.placed(some), some_numbers),
                self.machine.placed(theirs),
            )
            if self.ranks.count == 1:
                yield Batch(ready, theirs)
            else:
                whole = labels[self.machine.placed(rows)]
                yield Batch(
                    ready, theirs, _share(whole[part], whole, self.class_weights), len(rows)
                )

    def _watch(
        self, inputs: Inputs, learning: Learning, splits: Sequence[str]
    ) -> Mapping[str, float]:
        """Accuracy on those of the splits that the data have."""
        here = [s for s in splits if s in self.data.splits]
        if not here:
            return {}
        seen = {s: inputs.seen(s) for s in here}
        with self.tally.phase("evaluating", "look"), learning.resting():
            guesses = {s: self._scores(inputs, x).argmax(1) for s, x in seen.items()}
            images = sum(map(len, seen.values())) / self.ranks.count
            self.tally.charge("evaluating", images * inputs.cost.look, "look")
            return {
                s: float((found == self.labels[s]).float().mean()) for s, found in guesses.items()
            }

    def _scores(self, inputs: Inputs, rows: Tensor) -> Tensor:
        """Logits `(N, classes)` by the network in eval mode; processes share the rows."""

        def look(some: slice) -> Tensor:
            return self.source.pass_through(inputs.judges, inputs.look(rows[some].clone()))

        return torch.cat(list(self.ranks.shared(len(rows), inputs.chunk, look)))

    # ── counting ──

    def _count(self, cost: Cost, steps: int, images: int, phase: str) -> None:
        old = self.done
        self.done = Work(
            cost.full,
            cost.planned,
            old.steps + steps,
            old.images + images,
            old.unfrozen_flops + images * cost.full,
            old.uncached_flops + images * cost.planned,
        )
        self.tally.charge(phase, images * cost.done / self.ranks.count, "steps")

    def spent(self) -> tuple[dict[str, float], dict[str, float]]:
        """FLOPs and watt-hours by phase, of all processes."""
        wh, one_speaks = (
            self.tally.clock.wh(),
            self.tally.clock.meter.shared and self.ranks.local > 0,
        )
        flops = self.ranks.totals(self.tally.flops, PHASES)
        return flops, self.ranks.totals(dict.fromkeys(wh, 0.0) if one_speaks else wh, PHASES)

    # ── the end ──

    def test(self, with_logits: bool = False) -> Answers:
        """What the network says about the test split, which is read once."""
        self.report(Progress(self.name, "evaluating", len(self.epochs), self.options.epochs or 0))
        inputs = self.inputs or self.source.raw("none")
        rows = inputs.seen("test")
        self.module.eval()
        with self.tally.phase("evaluating", "look"):
            logits = self._scores(inputs, rows)
        own = own_answers(self.source, inputs, logits, self._scores)
        logits, self.notes = own.logits, [*self.notes, *filter(None, [own.note])]
        with self.tally.phase("evaluating", "look"):
            truths, guesses, probabilities = (
                self.labels["test"],
                logits.argmax(1),
                logits.float().softmax(1),
            )
            sure, of_truth = (probabilities.gather(1, c[:, None])[:, 0] for c in (guesses, truths))
            whole = logits.float().cpu() if with_logits else None
            answers = Answers(truths.cpu(), guesses.cpu(), sure.cpu(), of_truth.cpu(), whole)
        self.inference_flops = inputs.cost.whole
        self.tally.charge("evaluating", len(logits) * inputs.cost.look / self.ranks.count, "look")
        return answers

    def changes(self) -> tuple[Change, ...]:
        """What each layer is beside what it was at the start, in the anatomy's order: the proof."""
        end, frozen = hashes(self.module), set(self.plan.frozen)
        self.end_hashes = end
        found = []
        for layer in self.anatomy.layers:
            moved = end[layer.name] != self.start_hashes[layer.name]
            weights, statistics = (
                relative_change(self.module, layer.name, self.start) if moved else (0.0, 0.0)
            )  # a frozen layer that moved has no copy of its start: how far is then unknown
            found.append(
                Change(
                    layer.name,
                    layer.stage,
                    layer.params,
                    layer.name in frozen,
                    moved,
                    weights if layer.params else None,
                    statistics if layer.running_stats else None,
                )
            )
        return tuple(found)

    def on_its_source(self, moved: Sequence[str], previous: Run | None) -> SourceAccuracy | None:
        """What the network still knows of its own source, where that is at hand; one process's work."""
        if not self.ranks.writes:
            return None
        with self.tally.phase("evaluating", "source"):
            found = source_accuracy(self.model, self.plan, self.module, moved, previous)
        self.tally.charge("evaluating", found.flops if found else 0.0, "source")
        return found

    def result(self) -> nn.Module:
        """The trained network, on the CPU, everything trainable again."""
        self.source.forget()
        self.inputs = None
        self.module.requires_grad_(True)
        self.module.zero_grad(set_to_none=True)  # or each run that is kept would hold them, too
        trained: nn.Module = self.module.cpu()
        return trained.eval()
