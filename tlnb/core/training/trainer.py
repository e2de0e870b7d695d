"""The only training loop. Every strategy, the baseline and the embedded models' pretraining go through it.

A run goes one way: prepare a copy of the network → cache what is frozen → warm the new output layer up → train →
test once → compare with the start. What each part took is charged to its phase.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace

import torch
import torchvision
from torch import nn

from tlnb.core.data.dataset import DataSet
from tlnb.core.models.anatomy import Anatomy
from tlnb.core.models.clocks import FLOPS_BASIS, SECONDS_BASIS, Clock, CostTracker
from tlnb.core.models.module_copy import copied_or_shared
from tlnb.core.models.pretrained import PretrainedModel
from tlnb.core.planning.edit import Scopes, build
from tlnb.core.planning.options import TrainOptions
from tlnb.core.planning.plan import Plan
from tlnb.core.planning.recipes import recipe
from tlnb.core.runtime.device import Machine, machine
from tlnb.core.runtime.distributed import Ranks, ranks, uses_batch_statistics
from tlnb.core.runtime.malloc import large_blocks_kept
from tlnb.core.storage.activation_cache import Store
from tlnb.core.training.batches import without_single_images
from tlnb.core.training.checkpoint import Checkpoint, Due, at_risk
from tlnb.core.training.checkpoint_check import check_fits
from tlnb.core.training.checkpoint_state import CheckpointWriter, KeepCheckpoint, TrainingState
from tlnb.core.training.context import TrainingContext, seeded
from tlnb.core.training.epoch import AdamWEpochs, Epochs
from tlnb.core.training.events import event
from tlnb.core.training.forgetting import SourceAccuracy, source_accuracy
from tlnb.core.training.freezing import Change, Learning, hashes, state_of
from tlnb.core.training.head_first import begin_with_heads
from tlnb.core.training.lbfgs import LbfgsEpochs
from tlnb.core.training.optimizers import advice_for_nan, parameter_groups, parameters_of
from tlnb.core.training.progress import Report
from tlnb.core.training.proof import StartState
from tlnb.core.training.run import Answers, EpochRecord, Run, wilson_interval
from tlnb.core.training.split_evaluation import (
    answers_on_test,
    evaluate_splits,
    looks_at_monitor,
    scores,
)
from tlnb.core.training.training_inputs import Inputs


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
    keep: KeepCheckpoint | None = None,
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

    Where several processes have joined (`runtime.distributed`) all of them call it alike, and have the same record;
    `keep` is called by the main one. FLOPs and energy are those of all, seconds are that one's, and an interrupt goes
    through.

    Returns:
        The record. An interrupt ends it early with status `stopped`; everything so far is kept.

    Raises:
        UsageError: a device or precision that this machine does not have; a checkpoint that is not of this training.
        MemoryLimit: not even one image fits in memory.
    """
    host, group = machine(options.device, options.precision), ranks()
    costs = _costs(host, group, resume)
    with seeded(options.seed, host):
        with costs.phase("preparing"):
            context = TrainingContext.prepare(
                network_at_start(model, plan, options, scopes, previous),
                store or Store(),
                name=name,
                model=model,
                anatomy=anatomy,
                data=data,
                plan=plan,
                options=options,
                machine=host,
                costs=costs,
                report=report or (lambda _: None),
                ranks=group,
                stop=stop,
            )
            context.set_modes()
            start = StartState.of(context.module, plan)
            if previous is None:  # else that run's own start was compared
                start = start.with_code(context.module)
            checkpoints = CheckpointWriter(keep, at_risk(), group)
            trainer = Trainer(context, start, checkpoints, resume)
            trainer.check_resume()
        status = trainer.run(warm=starts_pretrained(plan, previous))
        with checkpoints.written_if_interrupted(trainer.state.events):
            answers = trainer.test(trial)
    return _record(trainer, status, answers, baseline_of, previous, trial)


def _costs(host: Machine, group: Ranks, resume: Checkpoint | None) -> CostTracker:
    """Costs so far: none, or what a checkpoint says; what was spent before is counted by one process."""
    paid = resume if group.is_main else None
    clock = Clock(host, resume.seconds if resume else None, paid.wh if paid else None)
    return CostTracker(clock, paid.flops if paid else None)


def network_at_start(
    model: PretrainedModel,
    plan: Plan,
    options: TrainOptions,
    scopes: Scopes | None,
    previous: Run | None,
) -> nn.Module:
    """A network of one's own to train: that of a previous run, or the model with the plan's edits."""
    if previous is not None:
        return copied_or_shared(previous.network())
    return build(model, plan.edits, plan.start, options.seed, scopes)


def starts_pretrained(plan: Plan, previous: Run | None) -> bool:
    """Whether the network comes with pretrained weights, and its new output layers with none."""
    return plan.start == "pretrained" and previous is None


class Trainer:
    """The order of one run: `run` it, then `test` once, then `release` the network."""

    def __init__(
        self,
        context: TrainingContext,
        start: StartState,
        checkpoints: CheckpointWriter,
        resume: Checkpoint | None = None,
        state: TrainingState | None = None,
    ) -> None:
        """For a network as it is before its first step.

        Args:
            start: of that network.
            resume: go on from here.
            state: to begin with; by default a new one.
        """
        self.context, self.start = context, start
        self.checkpoints, self._resume = checkpoints, resume
        self.state = state or TrainingState()
        self.inputs: Inputs | None = None  # until the run has found out what to cache
        # of micro-batches, that a note has told of
        self._noted_count = resume.pieces if resume else 1

    def check_resume(self) -> None:
        """Raises `UsageError` where the checkpoint to go on from is not of this training."""
        if self._resume is None:
            return
        context, events = self.context, self.state.events
        plan, options = context.plan, context.options
        groups = parameter_groups(context.module, context.anatomy, plan.trained, options)
        context.set_modes()
        check_fits(
            self._resume,
            name=context.name,
            module=context.module,
            plan=plan,
            anatomy=context.anatomy,
            options=without_single_images(context, context.module, options, events),
            images=context.train_images,
            parameters=parameters_of(groups),
        )
        model = context.model.name
        self.start = self.start.resumed(self._resume, plan, context.name, model)

    # ── training ──

    def run(self, warm: bool) -> str:
        """Warm-up where it helps, then the plan. `finished`, `stopped` on an interrupt, `failed` without a loss."""
        epochs, events = self.state.epochs, self.state.events
        try:
            self._train_epochs(self._begin(warm))
        except KeyboardInterrupt:
            self.checkpoints.write_held(events)
            # the other processes may be anywhere: what is left is the last checkpoint
            if self.context.ranks.count > 1:
                raise
            wanted = self.context.options.epochs or 0
            events.append(event("stopped", epoch=len(epochs), epochs=wanted))
            return "stopped"
        except BaseException:
            with suppress(Exception):  # a GPU that fell away takes what it held with it
                self.checkpoints.write_held(events)
            raise
        finally:
            self._end()
        return "failed" if epochs and not math.isfinite(epochs[-1].train_loss) else "finished"

    def _begin(self, warm: bool) -> Inputs:
        """Cache what is frozen; go back to the checkpoint, or prepare the output layers."""
        context, state, resume = self.context, self.state, self._resume
        context.set_modes()
        before = resume.cache if resume else None
        inputs = context.source.inputs(context.plan.trained, context.options, before)
        self.inputs, state.cache = inputs, inputs.cache
        if resume is not None:
            heads = context.layers(context.trained_heads)
            state.restore(resume, context.module, heads, context.machine.device)
        else:
            state.events += [inputs.event] if inputs.event else []
            begin_with_heads(context, inputs, state, warm)
        return inputs

    def _end(self) -> None:
        """The best weights, in a network without helpers."""
        self.context.stop_check.silence()  # testing comes, which a stopped run is owed too
        if self.state.best_state:
            self.context.module.load_state_dict(self.state.best_state, strict=False)
        for norm in self.state.input_norms:
            norm.fold()

    def _train_epochs(self, inputs: Inputs) -> None:
        context, state, options = self.context, self.state, self.context.options
        monitored = looks_at_monitor(context.data, options, inputs.cost)
        context.set_modes()
        train = self._epochs(inputs)
        learning, due = Learning(context.module), Due(self.checkpoints.at_risk)
        for epoch in range(len(state.epochs), options.epochs or 0):
            splits = ("val", "monitor") if epoch in monitored else ("val",)
            record = self._epoch(epoch, inputs, train, learning, splits)
            if not math.isfinite(record.train_loss):
                self._back_to_a_number()
                return
            state.add_weights(state_of(context.module, context.plan.trained), record.val_accuracy)
            if isinstance(train, AdamWEpochs):  # L-BFGS takes less time than it would to resume it
                with context.costs.phase("other", "keep"):
                    self._keep(train, due)
            self._report_epoch(record)

    def _epochs(self, inputs: Inputs) -> Epochs:
        """The optimiser that was chosen, where the run stands."""
        context, state = self.context, self.state
        if context.options.optimizer == "lbfgs":
            return LbfgsEpochs(context, inputs, context.options)
        trained, options = context.plan.trained, context.options
        epochs = AdamWEpochs(context, inputs, trained, options, state.micro_batches, state.events)
        if self._resume is not None:
            epochs.adamw.restore(self._resume)
        return epochs

    def _epoch(
        self,
        epoch: int,
        inputs: Inputs,
        train: Epochs,
        learning: Learning,
        splits: Sequence[str],
    ) -> EpochRecord:
        """Train one epoch and look at some splits; charge and record both."""
        context, clock = self.context, self.context.costs.clock
        context.seed(epoch)
        before = clock.of("training")
        with context.costs.phase("training", "steps"):
            loss, steps, images = train(epoch)
        self.state.add_work(inputs.cost, steps, images)
        flops = images * inputs.cost.done / context.ranks.count
        context.costs.charge("training", flops, "steps")
        self._note_micro_batches()
        context.ranks.broadcast(context.module.buffers())
        accuracies = evaluate_splits(context, inputs, learning, splits)
        record = EpochRecord(
            train_loss=loss,
            val_accuracy=accuracies.get("val"),
            monitor_accuracy=accuracies.get("monitor"),
            seconds=clock.of("training") - before,
        )
        self.state.epochs.append(record)
        return record

    def _report_epoch(self, record: EpochRecord) -> None:
        context = self.context
        monitored = "monitor" in context.data.splits
        accuracy = record.monitor_accuracy if monitored else record.val_accuracy
        context.tell("training", len(self.state.epochs), loss=record.train_loss, accuracy=accuracy)

    def _keep(self, train: AdamWEpochs, due: Due) -> None:
        """Write where the run stands, or hold it for an interrupt, which comes in the middle of an epoch."""
        if not self.checkpoints.wanted():
            return
        flops, wh = self.context.spent()  # all processes are asked
        if self.checkpoints.keeps:
            seconds = self.context.costs.clock.seconds()
            checkpoint = replace(
                self.state.checkpoint(train.adamw, seconds, flops, wh),
                start=dict(self.start.hashes),
                code=self.start.code,
            )
            self.checkpoints.after_epoch(checkpoint, due, self.state.events)

    def _note_micro_batches(self) -> None:
        count = self.state.micro_batches.count
        if count <= self._noted_count:
            return
        self._noted_count = count
        same = ""
        if uses_batch_statistics(self.context.module):
            same = "; batch statistics are of the pieces, so the result differs from whole batches"
        self.state.events.append(event("split-batches", pieces=count, same=same))

    def _back_to_a_number(self) -> None:
        """The loss is not a number: back to the last epoch that had one, with the advice that fits."""
        context, state = self.context, self.state
        done = len(state.epochs)
        weights = state.last_state or self.start.weights
        context.module.load_state_dict(weights, strict=False)
        epoch = f"of epoch {done - 1}" if state.last_state else "at the start"
        usual = recipe(context.plan, context.data, context.options.optimizer).lr
        advice = advice_for_nan(context.options, usual, context.machine.precision)
        kept = f"weights are those {epoch}"
        state.events.append(event("not-a-number", epoch=done, kept=kept, advice=advice))

    # ── the end ──

    def test(self, with_logits: bool = False) -> Answers:
        """What the network says about the test split, which is read once."""
        context = self.context
        context.tell("evaluating", len(self.state.epochs))
        self.inputs = self.inputs or context.source.raw("none")
        return answers_on_test(context, self.inputs, self.state.events, with_logits)

    def release(self) -> nn.Module:
        """The trained network, on the CPU, everything trainable again; what its training needed is let go of."""
        self.context.source.forget()
        self.inputs = None
        module = self.context.module
        module.requires_grad_(True)
        module.zero_grad(set_to_none=True)  # or each run that is kept would hold them, too
        trained: nn.Module = module.cpu()
        return trained.eval()


# ── the record ────────────────────────────────────────────────────────────────────────────────────────────────────


def _record(
    trainer: Trainer,
    status: str,
    answers: Answers,
    baseline_of: str | None,
    previous: Run | None,
    trial: bool,
) -> Run:
    """The run as it ended, with the proof; one whose frozen layers moved has failed."""
    context, state, plan = trainer.context, trainer.state, trainer.context.plan
    end = hashes(context.module)
    changes = tuple(trainer.start.changes(context.module, end, context.anatomy, plan))
    source = None if trial else _source_accuracy(context, changes, previous)
    events = list(state.events)
    broken = [change.name for change in changes if change.frozen and change.moved]
    if broken:
        status = "failed"
        events.append(event("frozen-moved", layers=", ".join(broken)))
    inference_flops = trainer.inputs.cost.whole if trainer.inputs else 0.0
    trained = trainer.release()
    clock, host, data = context.costs.clock, context.machine, context.data
    seconds, (flops, wh) = clock.seconds(), context.spent()
    right, by_class = scores(answers)
    tested = len(data.labels["test"])
    return Run(
        name=context.name,
        plan=plan,
        options=context.options,
        data=data.name,
        fingerprint=data.fingerprint,
        status=status,
        accuracy=right / tested,
        interval=wilson_interval(right, tested),
        balanced_accuracy=by_class,
        test_images=tested,
        epochs=tuple(state.epochs),
        best_epoch=state.best_epoch,
        seconds=seconds,
        flops_by_phase=flops,
        work=state.work,
        energy_wh=sum(wh.values()),
        money=0.0,
        wh_by_phase=wh,
        bases={"seconds": SECONDS_BASIS, "flops": FLOPS_BASIS, "energy_wh": clock.meter.basis},
        device=host.device,
        hardware=host.name,
        threads=host.threads,
        precision=host.precision,
        changes=changes,
        baseline_of=baseline_of,
        kind="baseline" if baseline_of else "plain",
        started_from=previous.name if previous else None,
        events=tuple(events),
        versions={"torch": torch.__version__, "torchvision": torchvision.__version__},
        classes=data.classes,
        edge=data.edge,
        source_accuracy=(source.before, source.after) if source else None,
        source_pictures=source.pictures if source else 0,
        cache=state.cache,
        inference_flops=inference_flops,
        processes=context.ranks.count,
        _trained=trained,
        _hashes=end,
        _start_code=trainer.start.code,
        _answers=answers,
        _transform=context.model.transform,
    )


def _source_accuracy(
    context: TrainingContext, changes: Sequence[Change], previous: Run | None
) -> SourceAccuracy | None:
    """What the network still knows of its own source, where that is available; one process's work."""
    if not context.ranks.is_main:
        return None
    moved = [change.name for change in changes if change.moved]
    with context.costs.phase("evaluating", "source"):
        accuracy = source_accuracy(context.model, context.plan, context.module, moved, previous)
    context.costs.charge("evaluating", accuracy.flops if accuracy else 0.0, "source")
    return accuracy
