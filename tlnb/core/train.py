"""The only training loop. Every strategy, the baseline and the embedded models' pretraining go through it.

A run goes one way: prepare a copy of the network → cache what is frozen → warm the new output layer up → train →
test once → compare with the start. What each part took is charged to its phase.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from tlnb.core.anatomy import Anatomy
from tlnb.core.data import DataSet
from tlnb.core.device import Machine, machine
from tlnb.core.edit import Scopes, build
from tlnb.core.errors import UsageError
from tlnb.core.freeze import Change, hashes, layer_of, relative_change, set_modes, state_of
from tlnb.core.inputs import CHUNK, Inputs, Kitchen
from tlnb.core.meter import Clock, Tally, energy_basis, energy_wh, forward_flops
from tlnb.core.options import TrainOptions
from tlnb.core.plan import Plan
from tlnb.core.pretrained import PretrainedModel
from tlnb.core.recipes import WARMUP
from tlnb.core.record import Answers, EpochRecord, Run, Work, wilson_interval
from tlnb.core.source import source_accuracy
from tlnb.core.standardise import Standardise, can_fold

WATCHED: tuple[str, ...] = ("val", "monitor")
RISE = 0.15  # share of the steps in which the learning rate rises; then it falls along a cosine
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
    scopes: Scopes | None = None, baseline_of: str | None = None, previous: Run | None = None, report: Report | None = None,
) -> Run:  # fmt: skip
    """Carry out a plan on a copy of the model.

    Args:
        anatomy: of the model with the plan's edits.
        options: filled in, nothing left to the recipe.
        scopes: the user's names that the plan's edits mention.
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
        work = _Training(model, anatomy, data, plan, options, here, Tally(clock), name, report or (lambda _: None))
        with clock.phase("preparing"):
            start = previous.module() if previous else build(model, plan.edits, plan.start, options.seed, scopes)
            work.prepare(start)
        status = work.run(warm=plan.start == "pretrained" and previous is None)
        answers = work.test()
    changes = work.changes()
    with clock.phase("evaluating"):
        moved = [c.name for c in changes if c.moved]
        source = source_accuracy(model, plan, work.module, moved, previous)
    work.tally.charge("evaluating", source.flops if source else 0.0)
    notes = list(work.notes)
    broken = [c.name for c in changes if c.frozen and c.moved]
    if broken:
        status = "failed"
        notes.append(f"frozen layers moved: {', '.join(broken)}")
    seconds = clock.seconds()
    right, by_class = scores(answers)
    tested = len(data.labels["test"])
    return Run(
        name=name, plan=plan, options=options, data=data.name, fingerprint=data.fingerprint, status=status,
        accuracy=right / tested, interval=wilson_interval(right, tested), balanced_accuracy=by_class, test_images=tested,
        epochs=tuple(work.epochs), best_epoch=work.best_epoch, seconds=seconds, flops_by_phase=dict(work.tally.flops),
        work=work.done, energy_wh=energy_wh(here, sum(seconds.values())), money=0.0,
        bases={"seconds": "measured: synchronised wall clock", "flops": "measured: counted by torch on the modules that ran",
               "energy_wh": f"assumed: {energy_basis(here)}"},
        device=here.device, hardware=here.name, precision=here.precision, changes=changes, baseline_of=baseline_of,
        started_from=previous.name if previous else None, notes=tuple(notes),
        versions={"torch": torch.__version__, "torchvision": torchvision.__version__},
        classes=data.classes, edge=data.edge, source_accuracy=(source.before, source.after) if source else None,
        source_pictures=source.pictures if source else 0,
        _trained=work.result(), _answers=answers, _transform=model.transform,
    )  # fmt: skip


def scores(answers: Answers) -> tuple[int, float]:
    """How many are right, and the mean of the accuracies by class."""
    right = (answers.guesses == answers.truths).float()
    by_class = [float(right[answers.truths == c].mean()) for c in answers.truths.unique()]
    return int(right.sum()), sum(by_class) / len(by_class)


@dataclass
class _Training:
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
    epochs: list[EpochRecord] = field(default_factory=list)
    best_epoch: int | None = None
    notes: list[str] = field(default_factory=list)
    done: Work = field(default_factory=lambda: Work(0, 0, 0, 0, 0, 0))

    # ── preparing ──

    def prepare(self, network: nn.Module) -> None:
        """Bring network, images and labels to the device; note every layer's hash and what trained layers hold."""
        self.report(Progress(self.name, "preparing"))
        self.module = network.to(self.machine.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        fit = self.model.transform.fit
        images = {s: fit(x).to(self.machine.device) for s, x in self.data.images.items()}
        self.labels = {s: y.to(self.machine.device) for s, y in self.data.labels.items()}
        self.kitchen = Kitchen(self.module, self.model.transform, images, self.machine, self.tally)
        self.scales: list[Standardise] = []
        self.start, self.start_hashes = state_of(self.module, self.plan.trained), hashes(self.module)
        self._check_count()
        self.class_weights: Tensor | None = None
        if self.options.class_weights:
            counts = torch.bincount(self.labels["train"], minlength=len(self.data.classes)).float()
            self.class_weights = counts.sum() / (len(counts) * counts)

    def _check_count(self) -> None:
        """What trains must be what the plan promises; a parameter that layers share counts once."""
        held = {id(p): p.numel() for n in self.plan.trained for p in layer_of(self.module, n)._parameters.values()
                if p is not None}  # fmt: skip
        if self.plan.trainable_params > sum(held.values()):
            raise AssertionError(f"the plan trains {self.plan.trainable_params} parameters, found {held.values()}")

    # ── training ──

    def run(self, warm: bool) -> str:
        """Warm-up where it helps, then the plan. `finished`, or `stopped` on an interrupt."""
        try:
            heads = [h for h in self.anatomy.heads if h in self.plan.trained]
            head_trains = bool(heads)
            warm = warm and any(edit.covers(h) for edit in self.plan.edits for h in heads)  # only new ones
            self._standardise(heads, keep=not warm)
            if warm and head_trains and set(self.plan.trained) - set(self.anatomy.heads):
                warmup = replace(WARMUP, seed=self.options.seed, cache=self.options.cache)
                self._fit(self.anatomy.heads, warmup, "warmup")
            self._fit(self.plan.trained, self.options, "training")
        except KeyboardInterrupt:
            self.notes.append(f"stopped after epoch {len(self.epochs)} of {self.options.epochs}")
            return "stopped"
        finally:
            for scale in self.scales:
                scale.fold()
        if self.epochs and not math.isfinite(self.epochs[-1].train_loss):
            self.notes.append("the loss is not a number: try a smaller --lr")
            return "failed"
        return "finished"

    def _standardise(self, heads: list[str], keep: bool) -> None:
        """Let output layers see features of zero mean and like spread; folded into their weights at the end.

        Activations may have any scale, and one learning rate must fit all models. One pass over the training images.
        With `keep` they go on computing what they computed before.
        """
        layers = [head for name in heads if can_fold(head := layer_of(self.module, name))]
        if self.plan.start == "random" or not layers:
            return
        seen: dict[nn.Module, list[Tensor]] = {head: [] for head in layers}
        handles = [
            head.register_forward_pre_hook(lambda h, x: seen[h].append(x[0].detach().float())) for head in layers
        ]
        self.module.eval()
        with self.tally.phase("caching"), torch.no_grad():
            for part in self.kitchen.images["train"].split(CHUNK):
                self.module(self.model.transform.normalise(part))
        for handle in handles:
            handle.remove()
        self.tally.charge("caching", len(self.labels["train"]) * self._forward_cost())
        self.scales = [Standardise(head, torch.cat(features)) for head, features in seen.items()]
        for scale in self.scales if keep else ():
            scale.unfold()

    def _fit(self, trained: tuple[str, ...], options: TrainOptions, phase: str) -> None:
        set_modes(self.module, set(trained))
        inputs = self.kitchen.inputs(trained, options, WATCHED if phase == "training" else ())
        if inputs.note:
            self.notes.append(inputs.note)
        lbfgs = options.solver == "lbfgs" and phase == "training"
        one_epoch = self._all_at_once(inputs, options) if lbfgs else self._in_batches(inputs, trained, options)
        best, best_state = -1.0, None
        for epoch in range(options.epochs or 0):
            set_modes(self.module, set(trained))
            torch.manual_seed(options.seed * STRIDE + epoch)  # dropout: the same whatever ran before
            before = self.tally.clock.of(phase)
            with self.tally.phase(phase):
                loss, steps, images = one_epoch(epoch)
            self._count(inputs, steps, images, phase)
            if phase != "training":
                self.report(Progress(self.name, phase, epoch + 1, options.epochs or 0, loss))
                continue
            seen = self._watch(inputs)
            self.epochs.append(
                EpochRecord(loss, seen.get("val"), seen.get("monitor"), self.tally.clock.of(phase) - before)
            )
            self.report(
                Progress(self.name, phase, epoch + 1, options.epochs or 0, loss, seen.get("monitor", seen.get("val")))
            )
            if "val" in seen and seen["val"] >= best:  # of equally good epochs the last: it has learned longest
                best, self.best_epoch, best_state = seen["val"], epoch, state_of(self.module, trained)
            if not math.isfinite(loss):
                break
        if best_state is not None:
            self.module.load_state_dict(best_state, strict=False)

    def _in_batches(self, inputs: Inputs, trained: tuple[str, ...], options: TrainOptions) -> Epoch:
        """AdamW with one-cycle rates, a step for each batch."""
        on_gpu = self.machine.device.startswith("cuda")
        groups = self._groups(trained, options)
        optimizer = torch.optim.AdamW(groups, lr=options.lr or 0.0, weight_decay=0.0, fused=on_gpu)
        images = len(self.labels["train"])
        schedule = one_cycle(optimizer, steps_of(options, images))
        scaler = torch.amp.GradScaler(enabled=self.machine.precision == "fp16")

        def one_epoch(epoch: int) -> tuple[float, int, int]:
            batches = self._batches(inputs, options, epoch)
            loss = train_epoch(
                inputs.teaches,
                batches,
                optimizer,
                schedule,
                self.machine,
                scaler=scaler,
                class_weights=self.class_weights,
            )
            return loss, math.ceil(images / (options.batch_size or 1)), images

        return one_epoch

    def _all_at_once(self, inputs: Inputs, options: TrainOptions) -> Epoch:
        """L-BFGS on the output layer: logistic regression by all cached views of all images in every evaluation."""
        if not inputs.views:
            raise UsageError("--solver lbfgs needs cached features, and this network cannot be cut: leave it out")
        features = torch.cat([inputs.train(view) for view in range(inputs.views)])
        labels = self.labels["train"].repeat(inputs.views)
        head = layer_of(self.module, self.anatomy.head)
        weight: Tensor = head.weight  # type: ignore[assignment]
        optimizer = torch.optim.LBFGS(head.parameters(), max_iter=LBFGS_STEPS, line_search_fn="strong_wolfe")
        evaluations: list[float] = []

        def evaluate() -> Tensor:
            optimizer.zero_grad(set_to_none=True)
            # in eval mode: a line search needs the same loss for the same weights, which dropout would not give
            loss = F.cross_entropy(inputs.judges(features), labels, self.class_weights)
            evaluations.append(float(loss.detach()))
            (loss + 0.5 * (options.weight_decay or 0.0) * weight.square().sum()).backward()
            return loss

        def one_epoch(_: int) -> tuple[float, int, int]:
            evaluations.clear()
            self.module.eval()
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
        return [{"params": p, "lr": rate, "weight_decay": decay * decays} for (rate, decays), p in groups.items()]

    def _batches(self, inputs: Inputs, options: TrainOptions, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of nearly equal size: no last batch of one image, which batch statistics could not bear."""
        generator = torch.Generator().manual_seed(options.seed * STRIDE + epoch)
        source, labels = inputs.train(epoch), self.labels["train"]
        order = torch.randperm(len(labels), generator=generator)
        for rows in order.tensor_split(math.ceil(len(labels) / (options.batch_size or 1))):
            rows = rows.to(labels.device)
            yield inputs.make(source[rows], generator), labels[rows]

    def _watch(self, inputs: Inputs) -> Mapping[str, float]:
        """Accuracy on val and monitor, where there are such splits."""
        with self.tally.phase("evaluating"):
            self.tally.charge("evaluating", sum(map(len, inputs.watched.values())) * inputs.cost.look)
            guesses = {s: self._scores(inputs.judges, x, inputs.look).argmax(1) for s, x in inputs.watched.items()}
            return {s: float((found == self.labels[s]).float().mean()) for s, found in guesses.items()}

    def _scores(self, module: nn.Module, source: Tensor, look: Callable[[Tensor], Tensor]) -> Tensor:
        """Logits `(N, classes)`, in eval mode."""
        self.module.eval()
        with torch.no_grad(), self.machine.autocast():
            return torch.cat([module(look(part.clone())) for part in source.split(CHUNK)])

    # ── counting ──

    def _forward_cost(self) -> float:
        self.module.eval()
        return forward_flops(self.module, self.kitchen.example())

    def _count(self, inputs: Inputs, steps: int, images: int, phase: str) -> None:
        cost, old = inputs.cost, self.done
        self.done = Work(
            cost.full, cost.planned, old.steps + steps, old.images + images,
            old.unfrozen_flops + images * cost.full, old.uncached_flops + images * cost.planned,
        )  # fmt: skip
        self.tally.charge(phase, images * cost.done)

    # ── the end ──

    def test(self) -> Answers:
        """What the network says about the test split, which is read once."""
        self.report(Progress(self.name, "evaluating", len(self.epochs), self.options.epochs or 0))
        with self.tally.phase("evaluating"):
            logits = self._scores(self.module, self.kitchen.images["test"], self.model.transform.normalise)
            truths, guesses, probabilities = self.labels["test"], logits.argmax(1), logits.float().softmax(1)
            sure, of_truth = (probabilities.gather(1, c[:, None])[:, 0] for c in (guesses, truths))
            answers = Answers(truths.cpu(), guesses.cpu(), sure.cpu(), of_truth.cpu())
        self.tally.charge("evaluating", len(logits) * self._forward_cost())
        return answers

    def changes(self) -> tuple[Change, ...]:
        """What each layer is beside what it was at the start, in the anatomy's order: the proof."""
        end, frozen = hashes(self.module), set(self.plan.frozen)
        found = []
        for layer in self.anatomy.layers:
            moved = end[layer.name] != self.start_hashes[layer.name]
            weights, statistics = (
                relative_change(self.module, layer.name, self.start) if moved else (0.0, 0.0)
            )  # a frozen layer that moved has no copy of its start: how far is then unknown
            found.append(Change(layer.name, layer.stage, layer.params, layer.name in frozen, moved,
                                weights if layer.params else None, statistics if layer.running_stats else None))  # fmt: skip
        return tuple(found)

    def result(self) -> nn.Module:
        """The trained network, on the CPU, everything trainable again."""
        self.kitchen.images.clear()
        self.module.requires_grad_(True)
        trained: nn.Module = self.module.cpu()
        return trained.eval()
