"""The only training loop. Every strategy, the baseline and the embedded models' pretraining go through it.

A run goes one way: prepare a copy of the network → cache what is frozen → warm the new output layer up → train →
test once → compare with the start. What each part took is charged to its phase.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TypedDict

from torch import nn

from tlnb.core.models.calibration import LEAST_LABELS
from tlnb.core.planning.recipes import can_refit, recipe
from tlnb.core.runtime.distributed import uses_batch_statistics
from tlnb.core.runtime.errors import UsageError
from tlnb.core.training.answers import Answers
from tlnb.core.training.batches import note_once, without_single_images
from tlnb.core.training.calibrating import Calibrated, completed, method_of, on_val
from tlnb.core.training.checkpoint import Checkpoint, Due
from tlnb.core.training.checkpoint_check import check_fits
from tlnb.core.training.checkpoint_state import CheckpointWriter, TrainingState
from tlnb.core.training.context import TrainingContext
from tlnb.core.training.cross_validation import by_folds
from tlnb.core.training.epoch import AdamWEpochs, Epochs
from tlnb.core.training.events import event
from tlnb.core.training.freezing import Learning, state_of
from tlnb.core.training.head_first import begin_with_heads
from tlnb.core.training.lbfgs import LbfgsEpochs
from tlnb.core.training.optimizers import advice_for_nan, parameter_groups, parameters_of
from tlnb.core.training.proof import StartState
from tlnb.core.training.refit import context_for_all, epochs_for_all
from tlnb.core.training.refit_record import Refit, difference
from tlnb.core.training.run import EpochRecord
from tlnb.core.training.split_evaluation import (
    answers_on_test,
    evaluate_splits,
    looks_at_monitor,
)
from tlnb.core.training.training_inputs import Inputs


class Costs(TypedDict):
    """What was spent, each by phase."""

    seconds: dict[str, float]
    flops: dict[str, float]
    wh: dict[str, float]


class Trainer:
    """The order of one run: `run` it, then `test` once, then `release` the network."""

    def __init__(
        self,
        context: TrainingContext,
        start: StartState,
        checkpoints: CheckpointWriter,
        resume: Checkpoint | None = None,
        state: TrainingState | None = None,
        *,
        until: int | None = None,
    ) -> None:
        """For a network as it is before its first step.

        Args:
            start: of that network.
            resume: go on from here.
            state: to begin with; by default a new one.
            until: of a refit, the epochs after which it ends; the schedule is that of all.
        """
        self.context, self.start = context, start
        self.checkpoints, self._resume = checkpoints, resume
        self._first_weights, self._until = start.weights, until
        # the end of the last epoch, where checkpoints are kept
        self._ended: Checkpoint | None = None
        self._second: Trainer | None = None  # whose network is the run's, once it has finished
        self.refit: Refit | None = None
        self.calibrated = Calibrated(why_not="the run did not finish")
        self.state = state or TrainingState()
        self.inputs: Inputs | None = None  # until the run has found out what to cache
        self._noted_count = resume.pieces if resume else 1  # micro-batches that a note told of

    def check_resume(self) -> None:
        """Raises `UsageError` where the checkpoint to go on from is not of this training."""
        if self._resume is None:
            return
        if self._resume.refit is not None:
            self._check_refit(self._resume.refit)
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

    def _check_refit(self, resume: Checkpoint) -> None:
        if not self._refits:
            raise UsageError(
                f"the checkpoint of run {self.context.name!r} is of a refit, which its training "
                "has not: %tl_train trains it from the start"
            )
        self._for_all(resume).check_resume()

    # ── training ──

    def run(self, warm: bool, calibrate: bool = False) -> str:
        """The plan, then where that is wanted once more on all labels in use.

        Args:
            calibrate: also fit the temperature on held-out labels, before a refit learns them.

        Returns:
            `finished`, `stopped` on an interrupt, `failed` without a loss.
        """
        status = self._pass(warm)
        if status == "finished" and calibrate:
            status = self._calibrate(warm)
        if status == "finished" and self._refits:
            status = self._on_all_labels(warm)
        return status

    @property
    def _refits(self) -> bool:
        return bool(self.context.options.refit) and can_refit(self.context.data)

    def _on_all_labels(self, warm: bool) -> str:
        """From the start again. Where that ends early, the network is the first pass's."""
        context, checkpoints, resume = self.context, self.checkpoints, self._resume
        chosen = state_of(context.module, context.plan.trained)
        spent = self._costs(resume.refit if resume else None)
        ended = self._ended or resume
        checkpoints.first = self._calibrated_end(ended, spent) if ended else None
        second = self._for_all(resume.refit if resume else None)
        context.module.load_state_dict(self._first_weights, strict=False)
        status = second.run(warm)
        self.state.work = second.state.work
        if status != "finished":
            context.module.load_state_dict(chosen, strict=False)
            return status
        self._second, self.inputs = second, second.inputs
        self.refit = second._as_refit(spent)
        epochs, wanted = self.refit.epochs, context.options.epochs or 0
        done = event("refit", images=self.refit.images, epochs=epochs, wanted=wanted)
        note_once(self.state.events, done)
        return status

    def _calibrated_end(self, ended: Checkpoint, spent: Costs) -> Checkpoint:
        """The end of the first pass, as a refit that is resumed finds it."""
        found, why = self.calibrated.calibration, self.calibrated.why_not
        return replace(ended, refit=None, calibration=found, uncalibrated=why, **spent)

    def _for_all(self, resume: Checkpoint | None) -> Trainer:
        """The trainer of the second pass."""
        context, state = self.context, self.state
        begun = TrainingState(
            work=state.work,
            events=state.events,
            micro_batches=state.micro_batches,
            cache=state.cache,
        )
        everything, until = context_for_all(context), self._epochs_again
        return Trainer(everything, self.start, self.checkpoints, resume, begun, until=until)

    @property
    def _epochs_again(self) -> int | None:
        """How many epochs the network that the run ends with learns for: logits grow with them."""
        epochs, held_out = self.state.epochs, self.context.data.splits.get("val", 0)
        if epochs and self._refits:
            return epochs_for_all(epochs, held_out)
        best = self.state.best_epoch
        return self.context.options.epochs if best is None else best + 1

    def _costs(self, of_refit: Checkpoint | None = None) -> Costs:
        """What was spent so far, without what a refit that is resumed had spent. A collective call."""
        flops, wh = self.context.spent()
        spent: Costs = {"seconds": self.context.costs.clock.seconds(), "flops": flops, "wh": wh}
        if of_refit is None:
            return spent
        return {
            "seconds": difference(spent["seconds"], of_refit.seconds),
            "flops": difference(spent["flops"], of_refit.flops),
            "wh": difference(spent["wh"], of_refit.wh),
        }

    def _as_refit(self, before: Costs) -> Refit:
        now, images = self._costs(), self.context.train_images
        return Refit(
            images=images,
            epochs=len(self.state.epochs),
            seconds=difference(now["seconds"], before["seconds"]),
            flops=difference(now["flops"], before["flops"]),
            wh=difference(now["wh"], before["wh"]),
        )

    def _pass(self, warm: bool) -> str:
        """Warm-up where it helps, then the plan."""
        epochs, events = self.state.epochs, self.state.events
        try:
            self._train_epochs(self._begin(warm))
        except KeyboardInterrupt:
            self.checkpoints.write_held(events)
            # the other processes may be anywhere: what is left is the last checkpoint
            if self.context.ranks.count > 1:
                raise
            kind = "refit-stopped" if self._until else "stopped"
            events.append(event(kind, epoch=len(epochs), epochs=self._epochs_wanted))
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
        before = resume.cache if resume else state.cache
        inputs = context.source.inputs(context.plan.trained, context.options, before)
        self.inputs, state.cache = inputs, inputs.cache
        if resume is not None:
            heads = context.layers(context.trained_heads)
            state.restore(resume, context.module, heads, context.machine.device)
        else:
            if inputs.event:
                note_once(state.events, inputs.event)
            if context.keeping:
                note_once(state.events, event("kept-statistics", layers=len(context.keeping)))
            begin_with_heads(context, inputs, state, warm)
        return inputs

    def _end(self) -> None:
        """The best weights, in a network without helpers."""
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
        for epoch in range(len(state.epochs), self._epochs_wanted):
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

    @property
    def _epochs_wanted(self) -> int:
        return self._until or self.context.options.epochs or 0

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
            loss, steps, images, accuracy = train(epoch)
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
            train_accuracy=accuracy,
        )
        self.state.epochs.append(record)
        return record

    def _report_epoch(self, record: EpochRecord) -> None:
        context = self.context
        monitored = "monitor" in context.data.splits
        accuracy = record.monitor_accuracy if monitored else record.val_accuracy
        done, wanted = len(self.state.epochs), self._epochs_wanted
        context.tell("training", done, wanted, loss=record.train_loss, accuracy=accuracy)

    def _keep(self, train: AdamWEpochs, due: Due) -> None:
        """Write where the run stands, or hold it for an interrupt, which comes in the middle of an epoch."""
        if not self.checkpoints.wanted():
            return
        costs, (flops, wh) = self.context.costs, self.context.spent()  # all processes are asked
        if self.checkpoints.keeps:
            seconds = costs.clock.seconds()
            checkpoint = replace(
                self.state.checkpoint(train.adamw, seconds, flops, wh),
                start=dict(self.start.hashes),
                code=self.start.code,
                found=None if costs.found is None else dict(costs.found),
                known=tuple(sorted(costs.known)),
            )
            self._ended = checkpoint
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

    def _calibrate(self, warm: bool) -> str:
        """Fit the temperature, or say why not; an interrupt ends the run here."""
        events = self.state.events
        try:
            self.calibrated = self._fitted(warm)
        except KeyboardInterrupt:
            self.checkpoints.write_held(events)
            if self.context.ranks.count > 1:
                raise
            done = len(self.state.epochs)
            events.append(event("stopped", epoch=done, epochs=self._epochs_wanted))
            return "stopped"
        return "finished"

    def _fitted(self, warm: bool) -> Calibrated:
        """The temperature; one that a refit's checkpoint brings is not fitted again."""
        context, inputs, before = self.context, self.inputs, self._resume
        assert inputs is not None
        if before is not None and (before.calibration or before.uncalibrated):
            return Calibrated(calibration=before.calibration, why_not=before.uncalibrated)
        method = method_of(context, context.options)
        if method.name == "val":
            return on_val(context, inputs)
        if not method.name:
            return Calibrated(why_not=method.why_not)
        found = self._by_folds(inputs, warm)
        held = context.data.splits.get("val", 0) >= LEAST_LABELS
        return on_val(context, inputs) if held and not found.calibration else found

    def _by_folds(self, inputs: Inputs, warm: bool) -> Calibrated:
        """Calibrate by cross-validation; the weights are put back."""
        module, trained = self.context.module, self.context.plan.trained
        chosen = state_of(module, trained)

        def fit(context: TrainingContext) -> None:
            module.load_state_dict(self._first_weights, strict=False)
            writer = CheckpointWriter(None, math.inf, context.ranks)
            state = TrainingState(micro_batches=self.state.micro_batches, cache=self.state.cache)
            again = Trainer(context, self.start, writer, state=state, until=self._epochs_again)
            if again.run(warm) == "stopped":
                raise KeyboardInterrupt

        try:
            return by_folds(self.context, inputs, fit)
        finally:
            module.load_state_dict(chosen, strict=False)

    def test(self, with_logits: bool = False) -> Answers:
        """What the network says about the test split, which is read once."""
        last = self._second or self
        context, events = last.context, last.state.events
        context.stop_check.silence()  # a stopped run is owed this, too
        context.tell("evaluating", len(last.state.epochs))
        last.inputs = last.inputs or context.source.raw("none")
        refitted, groups = self._second is not None, self.context.data.groups_in_use
        calibrated = completed(self.calibrated, context, last.inputs, refitted, groups)
        answers = answers_on_test(context, last.inputs, events, with_logits, calibrated)
        if calibrated.calibration is not None and answers.likeness is None:
            calibrated = Calibrated(why_not="cached activations gave other answers")
        self.calibrated = calibrated
        return answers

    def release(self) -> nn.Module:
        """The trained network, on the CPU, everything trainable again; what its training needed is let go of."""
        self.context.source.forget()
        if self._second is not None:
            self._second.context.source.forget()
        self.inputs = self._second = None
        module = self.context.module
        module.requires_grad_(True)
        module.zero_grad(set_to_none=True)  # or each run that is kept would hold them, too
        trained: nn.Module = module.cpu()
        return trained.eval()
