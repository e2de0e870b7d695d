"""The only training loop. Every strategy, the baseline and the embedded models' pretraining go through it.

A run goes one way: prepare a copy of the network → cache what is frozen → warm the new output layer up → train →
test once → compare hashes. What each part took is charged to its phase.
"""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from tlnb.core.anatomy import ROOT, Anatomy, owned
from tlnb.core.augment import augment
from tlnb.core.cut import Cut, find_cut, same_cut
from tlnb.core.data import DataSet
from tlnb.core.device import Machine, machine
from tlnb.core.edit import build
from tlnb.core.meter import Clock, energy_basis, energy_wh, forward_flops, step_flops
from tlnb.core.plan import Plan, TrainOptions
from tlnb.core.pretrained import PretrainedModel, Transform
from tlnb.core.recipes import WARMUP
from tlnb.core.record import EpochRecord, Run, Work, wilson_interval

WATCHED: tuple[str, ...] = ("val", "monitor")
CHUNK = 256  # images in one forward pass that needs no gradient
CACHED_VIEWS = 10  # augmented views of every image that a cache holds
CACHE_BYTES = 2**30
RISE = 0.15  # share of the steps in which the learning rate rises; then it falls along a cosine
EPSILON = 4.0  # of the features' overall spread, added before dividing by each feature's own: few examples say little


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


def train_epoch(
    module: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler, machine: Machine, *, scaler: torch.amp.GradScaler | None = None,
    class_weights: Tensor | None = None, label_smoothing: float = 0.0,
) -> float:  # fmt: skip
    """One optimiser step for each batch of inputs and labels; the mean loss over all items.

    The modes, and what needs gradients, are the caller's business; so is a gradient scaler for fp16, which must
    outlive the epoch.
    """
    total, seen = torch.zeros((), device=machine.device), 0
    scaler = scaler or torch.amp.GradScaler(enabled=False)
    for inputs, labels in batches:
        optimizer.zero_grad(set_to_none=True)
        with machine.autocast():
            loss = F.cross_entropy(module(inputs), labels, class_weights, label_smoothing=label_smoothing)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        schedule.step()
        total += loss.detach() * len(labels)
        seen += len(labels)
    return float(total) / seen


def one_cycle(optimizer: torch.optim.Optimizer, steps: int) -> torch.optim.lr_scheduler.LRScheduler:
    """Every group's rate rises linearly from nothing, then falls along a cosine to nothing."""
    rise = max(1, round(RISE * steps))

    def factor(step: int) -> float:
        if step < rise:
            return (step + 1) / rise
        return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def steps_of(options: TrainOptions, images: int) -> int:
    """Optimiser steps that filled-in options mean for so many training images."""
    return (options.epochs or 0) * math.ceil(images / (options.batch_size or 1))


def train(
    model: PretrainedModel, anatomy: Anatomy, data: DataSet, plan: Plan, options: TrainOptions, *, name: str,
    baseline_of: str | None = None, previous: Run | None = None, report: Report | None = None,
) -> Run:  # fmt: skip
    """Carry out a plan on a copy of the model.

    Args:
        anatomy: of the model with the plan's edits.
        options: filled in, nothing left to the recipe.
        previous: start from this run's weights instead of the plan's start.
        report: called with a `Progress` as the run goes on.

    Returns:
        The record. An interrupt ends it early with status `stopped`; everything so far is kept.

    Raises:
        UsageError: a device or precision that this machine does not have.
    """
    here = machine(options.device, options.precision)
    clock = Clock(here)
    with torch.random.fork_rng(devices=[torch.cuda.current_device()] if here.device.startswith("cuda") else []):
        torch.manual_seed(options.seed)
        work = _Training(model, anatomy, data, plan, options, here, clock, name, report or (lambda _: None))
        with clock.phase("preparing"):
            work.prepare(previous)
        status = work.run(warm=plan.start == "pretrained" and previous is None)
        right, by_class = work.test()
    moved = work.moved()
    notes = list(work.notes)
    broken = sorted(set(moved) & set(plan.frozen))
    if broken:
        status = "failed"
        notes.append(f"frozen layers moved: {', '.join(broken)}")
    seconds = clock.seconds()
    tested = len(data.labels["test"])
    return Run(
        name=name, plan=plan, options=options, data=data.name, fingerprint=data.fingerprint, status=status,
        accuracy=right / tested, interval=wilson_interval(right, tested), balanced_accuracy=by_class, test_images=tested,
        epochs=tuple(work.epochs), best_epoch=work.best_epoch, seconds=seconds, flops_by_phase=dict(work.flops),
        work=work.tally, energy_wh=energy_wh(here, sum(seconds.values())), money=0.0,
        bases={"seconds": "measured: synchronised wall clock", "flops": "measured: counted by torch on the modules that ran",
               "energy_wh": f"assumed: {energy_basis(here)}"},
        device=here.device, hardware=here.name, precision=here.precision, moved=moved, baseline_of=baseline_of,
        started_from=previous.name if previous else None, notes=tuple(notes),
        versions={"torch": torch.__version__, "torchvision": torchvision.__version__}, _trained=work.result(),
    )  # fmt: skip


@dataclass
class _Inputs:
    """What a training loop eats: cached activations of some views, or raw images to be transformed batch by batch."""

    train: Callable[[int], Tensor]  # epoch → all training inputs, or the raw images
    make: Callable[[Tensor, torch.Generator], Tensor]  # one batch of those → the module's input
    watched: dict[str, Tensor]  # val and monitor
    look: Callable[[Tensor], Tensor]  # the same for these
    teaches: nn.Module  # what trains
    judges: nn.Module  # the same in eval mode
    cost: _Cost


@dataclass(frozen=True)
class _Cost:
    """FLOPs for one image: a step as done, as planned without a cache, with everything trained; and a look."""

    done: float
    planned: float
    full: float
    look: float


@dataclass
class _Training:
    """The working state of one run."""

    model: PretrainedModel
    anatomy: Anatomy
    data: DataSet
    plan: Plan
    options: TrainOptions
    machine: Machine
    clock: Clock
    name: str
    report: Report
    epochs: list[EpochRecord] = field(default_factory=list)
    best_epoch: int | None = None
    notes: list[str] = field(default_factory=list)
    flops: dict[str, float] = field(default_factory=dict)
    tally: Work = field(default_factory=lambda: Work(0, 0, 0, 0, 0, 0))

    # ── preparing ──

    def prepare(self, previous: Run | None) -> None:
        """Build the network, bring images and labels to the device, note every layer's hash."""
        self.report(Progress(self.name, "preparing"))
        made = previous.module() if previous else build(self.model, self.plan.edits, self.plan.start, self.options.seed)
        self.module = made.to(self.machine.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.transform: Transform = self.model.transform
        self.images = {s: self.transform.fit(x).to(self.machine.device) for s, x in self.data.images.items()}
        self.labels = {s: y.to(self.machine.device) for s, y in self.data.labels.items()}
        self.scale: _Standardise | None = None
        self.start = _hashes(self.module)
        counted = sum(
            p.numel() for n in self.plan.trained for p in _layer(self.module, n)._parameters.values() if p is not None
        )
        if not self.plan.trainable_params <= counted:
            raise AssertionError(f"the plan trains {self.plan.trainable_params} parameters, the network has {counted}")
        if self.options.class_weights:
            counts = torch.bincount(self.labels["train"], minlength=len(self.data.classes)).float()
            self.class_weights: Tensor | None = counts.sum() / (len(counts) * counts)
        else:
            self.class_weights = None

    # ── training ──

    def run(self, warm: bool) -> str:
        """Warm-up where it helps, then the plan. `finished`, or `stopped` on an interrupt."""
        try:
            head_trains = self.anatomy.head in self.plan.trained
            if head_trains:
                self._standardise(keep=not warm)
            if warm and head_trains and len(self.plan.trained) > 1 and self.plan.edits:
                warmup = replace(WARMUP, seed=self.options.seed, cache=self.options.cache)
                self._fit((self.anatomy.head,), warmup, "warmup")
            self._fit(self.plan.trained, self.options, "training")
        except KeyboardInterrupt:
            self.notes.append(f"stopped after epoch {len(self.epochs)} of {self.options.epochs}")
            return "stopped"
        finally:
            if self.scale is not None:
                self.scale.fold()
        if self.epochs and not math.isfinite(self.epochs[-1].train_loss):
            self.notes.append("the loss is not a number: try a smaller --lr")
            return "failed"
        return "finished"

    def _standardise(self, keep: bool) -> None:
        """Let the output layer see features of zero mean and like spread; folded into its weights at the end.

        Activations may have any scale, and one learning rate must fit all models. One pass over the training images.
        With `keep` the layer goes on computing what it computed before.
        """
        head = _layer(self.module, self.anatomy.head)
        if self.plan.start == "random" or not _can_fold(head):
            return
        seen: list[Tensor] = []
        handle = head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach().float()))
        self.module.eval()
        with self.clock.phase("caching"), torch.no_grad():
            for part in self.images["train"].split(CHUNK):
                self.module(self.transform.normalise(part))
        handle.remove()
        self._charge("caching", len(self.images["train"]) * self._forward_cost())
        self.scale = _Standardise(head, torch.cat(seen))
        if keep:
            self.scale.unfold()

    def _fit(self, trained: tuple[str, ...], options: TrainOptions, phase: str) -> None:
        set_modes(self.module, set(trained))
        inputs = self._inputs(trained, options, WATCHED if phase == "training" else ())
        groups = self._groups(trained, options)
        on_gpu = self.machine.device.startswith("cuda")
        optimizer = torch.optim.AdamW(groups, lr=options.lr or 0.0, weight_decay=0.0, fused=on_gpu)
        steps = steps_of(options, len(self.labels["train"]))
        schedule = one_cycle(optimizer, steps)
        scaler = torch.amp.GradScaler(enabled=self.machine.precision == "fp16")
        best, best_state = -1.0, None
        for epoch in range(options.epochs or 0):
            set_modes(self.module, set(trained))
            before = self.clock.of(phase)
            with self.clock.phase(phase):
                batches = self._batches(inputs, options, epoch)
                loss = train_epoch(
                    inputs.teaches, batches, optimizer, schedule, self.machine,
                    scaler=scaler, class_weights=self.class_weights,
                )  # fmt: skip
            self._count_epoch(inputs.cost, options, phase)
            if phase != "training":
                self.report(Progress(self.name, phase, epoch + 1, options.epochs or 0, loss))
                continue
            with self.clock.phase("evaluating"):
                seen = {s: self._accuracy(inputs, s) for s in inputs.watched}
                self._charge("evaluating", sum(map(len, inputs.watched.values())) * inputs.cost.look)
            spent = self.clock.of(phase) - before
            self.epochs.append(EpochRecord(loss, seen.get("val"), seen.get("monitor"), spent))
            self.report(
                Progress(self.name, phase, epoch + 1, options.epochs or 0, loss, seen.get("monitor", seen.get("val")))
            )
            if "val" in seen and seen["val"] >= best:  # of equally good epochs the last: it has learned longest
                best, self.best_epoch, best_state = seen["val"], epoch, _state(self.module, trained)
            if not math.isfinite(loss):
                break
        if best_state is not None:
            self.module.load_state_dict(best_state, strict=False)

    def _groups(self, trained: tuple[str, ...], options: TrainOptions) -> list[dict[str, object]]:
        """Parameters by learning rate and decay. Biases and normalisation do not decay."""
        rates = dict(options.stage_lr)
        stages = {layer.name: layer.stage for layer in self.anatomy.layers}
        groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
        for name in trained:
            for parameter in _layer(self.module, name)._parameters.values():
                if parameter is not None:
                    key = (rates.get(stages[name], options.lr or 0.0), parameter.ndim > 1)
                    groups.setdefault(key, []).append(parameter)
        decay = options.weight_decay or 0.0
        return [{"params": p, "lr": rate, "weight_decay": decay * decays} for (rate, decays), p in groups.items()]

    def _batches(self, inputs: _Inputs, options: TrainOptions, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of nearly equal size: no last batch of one image, which batch statistics could not bear."""
        generator = torch.Generator().manual_seed(options.seed * 1_000_003 + epoch)
        source, labels = inputs.train(epoch), self.labels["train"]
        order = torch.randperm(len(labels), generator=generator)
        for rows in order.tensor_split(math.ceil(len(labels) / (options.batch_size or 1))):
            rows = rows.to(labels.device)
            yield inputs.make(source[rows], generator), labels[rows]

    def _accuracy(self, inputs: _Inputs, split: str) -> float:
        guesses = self._guess(inputs.judges, inputs.watched[split], inputs.look)
        return float((guesses == self.labels[split]).float().mean())

    def _guess(self, module: nn.Module, source: Tensor, look: Callable[[Tensor], Tensor]) -> Tensor:
        self.module.eval()
        with torch.no_grad(), self.machine.autocast():
            return torch.cat([module(look(part.clone())).argmax(1) for part in source.split(CHUNK)])

    # ── what the loop eats ──

    def _inputs(self, trained: tuple[str, ...], options: TrainOptions, splits: tuple[str, ...]) -> _Inputs:
        cut = self._cut(trained) if options.cache else None
        watched = {s: self.images[s] for s in splits if s in self.images}
        views = self._views(cut, options) if cut else 0
        if cut is None or not views:
            kind = options.augment or "none"
            return _Inputs(
                lambda _: self.images["train"], lambda x, g: self.transform.normalise(augment(x, kind, g)),
                watched, self.transform.normalise, self.module, self.module,
                self._cost(self.module, self._example(), None),
            )  # fmt: skip
        with self.clock.phase("caching"):
            cached = [self._through(cut.prefix, self.images["train"], options, view) for view in range(views)]
        cost = self._cost(cut.suffix, cached[0][:2], cut)
        self._charge("caching", views * len(cached[0]) * self._cost_of(cut.prefix))
        with self.clock.phase("evaluating"):
            seen = {s: self._through(cut.prefix, x) for s, x in watched.items()}
        self._charge("evaluating", sum(map(len, seen.values())) * self._cost_of(cut.prefix))
        self.module.eval()
        judge = same_cut(self.module, cut.at).suffix
        set_modes(self.module, set(trained))
        if options.augment != "none":
            self.notes.append(f"trained on {views} cached views of each image")
        return _Inputs(lambda epoch: cached[epoch % views], lambda x, _: x, seen, lambda x: x, cut.suffix, judge, cost)

    def _cut(self, trained: tuple[str, ...]) -> Cut | None:
        try:
            return find_cut(self.module, trained)
        except Exception as error:  # torch.fx raises many types on what it cannot trace
            reason = " ".join(str(error).split())[:80]
            self.notes.append(f"trained without a cache: the network cannot be traced ({reason})")
            return None

    def _views(self, cut: Cut, options: TrainOptions) -> int:
        """How many augmented views to cache: fixed before step one, from bytes, never from the clock."""
        with torch.no_grad():
            row = cut.prefix(self._example())[0]
        fits = CACHE_BYTES // (row.numel() * row.element_size() * len(self.labels["train"]))
        if not fits:
            self.notes.append("trained without a cache: the activations would not fit in memory")
        wanted = 1 if options.augment == "none" else min(CACHED_VIEWS, options.epochs or 1)
        return int(min(fits, wanted))

    def _through(self, prefix: nn.Module, images: Tensor, options: TrainOptions | None = None, view: int = 0) -> Tensor:
        """The frozen prefix over images, in one augmented view or (no options) as they are."""
        kind = (options.augment if options else None) or "none"
        generator = torch.Generator().manual_seed((options.seed if options else 0) * 1_000_003 + 500_009 + view)
        with torch.no_grad(), self.machine.autocast():
            parts = [prefix(self.transform.normalise(augment(x, kind, generator))).float() for x in images.split(CHUNK)]
        return torch.cat(parts)

    # ── counting ──

    def _example(self) -> Tensor:
        return self.transform.normalise(self.images["train"][:2])

    def _cost_of(self, module: nn.Module) -> float:
        return forward_flops(module, self._example())

    def _forward_cost(self) -> float:
        self.module.eval()
        return self._cost_of(self.module)

    def _cost(self, teaches: nn.Module, example: Tensor, cut: Cut | None) -> _Cost:
        done = step_flops(teaches, example)
        planned = step_flops(self.module, self._example()) if cut else done
        full = step_flops(_unfrozen(self.module), self._example())
        return _Cost(done, planned, full, forward_flops(teaches, example))

    def _count_epoch(self, cost: _Cost, options: TrainOptions, phase: str) -> None:
        images = len(self.labels["train"])
        old = self.tally
        self.tally = Work(
            cost.full, cost.planned, old.steps + math.ceil(images / (options.batch_size or 1)), old.images + images,
            old.unfrozen_flops + images * cost.full, old.uncached_flops + images * cost.planned,
        )  # fmt: skip
        self._charge(phase, images * cost.done)

    def _charge(self, phase: str, flops: float) -> None:
        self.flops[phase] = self.flops.get(phase, 0.0) + flops

    # ── the end ──

    def test(self) -> tuple[int, float]:
        """Images of the test split that are right, and the mean of the accuracies by class. Read once."""
        self.report(Progress(self.name, "evaluating", len(self.epochs), self.options.epochs or 0))
        with self.clock.phase("evaluating"):
            guesses = self._guess(self.module, self.images["test"], self.transform.normalise)
        self._charge("evaluating", len(guesses) * self._forward_cost())
        right = (guesses == self.labels["test"]).float()
        by_class = [float(right[self.labels["test"] == c].mean()) for c in self.labels["test"].unique()]
        return int(right.sum()), sum(by_class) / len(by_class)

    def moved(self) -> tuple[str, ...]:
        """Layers whose parameters or buffers differ from the start, in the anatomy's order: the proof."""
        end = _hashes(self.module)
        return tuple(n for n in self.anatomy.names if end[n] != self.start[n])

    def result(self) -> nn.Module:
        """The trained network, on the CPU, everything trainable again."""
        self.images.clear()
        self.module.requires_grad_(True)
        trained: nn.Module = self.module.cpu()
        return trained.eval()


class _Standardise:
    """A forward hook on the output layer that standardises its input, until `fold` moves it into the weights."""

    def __init__(self, head: nn.Module, features: Tensor) -> None:
        axes = tuple(i for i in range(features.ndim) if i != _channel_axis(head))
        self.mean = features.mean(axes, keepdim=True)
        self.spread = features.std(axes, keepdim=True, unbiased=False) + EPSILON * features.std() + 1e-6
        self.head = head
        self._handle = head.register_forward_pre_hook(self._hook)

    def _hook(self, _: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        return (((inputs[0].float() - self.mean) / self.spread),)

    def unfold(self) -> None:
        """The same function with the hook as before without it."""
        self._shift(1)
        weight: Tensor = self.head.weight  # type: ignore[assignment]
        with torch.no_grad():
            weight.mul_(self.spread.reshape(_along_inputs(weight)))

    def fold(self) -> None:
        """W ← W / spread, b ← b - W·mean: the same function without the hook."""
        self._handle.remove()
        weight: Tensor = self.head.weight  # type: ignore[assignment]
        with torch.no_grad():
            weight.div_(self.spread.reshape(_along_inputs(weight)))
        self._shift(-1)

    def _shift(self, sign: int) -> None:
        weight: Tensor = self.head.weight  # type: ignore[assignment]
        bias: Tensor = self.head.bias  # type: ignore[assignment]
        with torch.no_grad():
            bias.add_(sign * (weight * self.mean.reshape(_along_inputs(weight))).flatten(1).sum(1))


def _along_inputs(weight: Tensor) -> list[int]:
    return [1, -1] + [1] * (weight.ndim - 2)


def _channel_axis(head: nn.Module) -> int:
    return 1 if isinstance(head, nn.Conv2d) else -1


def _can_fold(head: nn.Module) -> bool:
    """Linear layers, and convolutions without padding, whose borders would see zeros instead of the mean."""
    if getattr(head, "bias", None) is None:
        return False
    return isinstance(head, nn.Linear) or (isinstance(head, nn.Conv2d) and head.padding == (0, 0) and head.groups == 1)


def _layer(module: nn.Module, name: str) -> nn.Module:
    return module if name == ROOT else module.get_submodule(name)


def set_modes(module: nn.Module, trained: set[str]) -> None:
    """Frozen means no gradient *and* eval mode. A part without parameters goes with the next layer after it."""
    owners = {part: name for name, part in owned(module)}
    waiting: list[nn.Module] = []
    for name, part in module.named_modules():
        inside = f"{name}." if name else ""
        if part in owners:
            trains = owners[part] in trained
            for parameter in part._parameters.values():
                if parameter is not None:
                    parameter.requires_grad_(trains)
            for affected in [part, *waiting]:
                affected.training = trains
            waiting.clear()
        elif any(True for _ in part.children()):
            part.training = any(n.startswith(inside) for n in trained)
        else:
            waiting.append(part)
    for last in waiting:
        last.training = True


def _unfrozen(module: nn.Module) -> nn.Module:
    twin = copy.deepcopy(module)
    return twin.train().requires_grad_(True)


def _state(module: nn.Module, trained: tuple[str, ...]) -> dict[str, Tensor]:
    """A copy of what the trained layers hold, by full name."""
    prefixes = tuple("" if name == ROOT else name + "." for name in trained)
    return {
        k: v.clone() for k, v in module.state_dict().items() if k.rpartition(".")[0] + "." in prefixes or "" in prefixes
    }


def _hashes(module: nn.Module) -> dict[str, str]:
    """A hash of every layer's own parameters and buffers, to the bit."""
    found = {}
    for name, part in owned(module):
        digest = hashlib.blake2b(digest_size=16)
        for tensor in [*part._parameters.values(), *part._buffers.values()]:
            if tensor is not None:
                digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        found[name] = digest.hexdigest()
    return found
