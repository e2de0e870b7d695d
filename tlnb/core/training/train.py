"""One training from its arguments to its record."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
from tlnb.core.runtime.device import Machine, machine
from tlnb.core.runtime.distributed import Ranks, ranks
from tlnb.core.runtime.malloc import large_blocks_kept
from tlnb.core.storage.activation_cache import Store
from tlnb.core.training.answers import Answers
from tlnb.core.training.checkpoint import Checkpoint, at_risk
from tlnb.core.training.checkpoint_state import CheckpointWriter, KeepCheckpoint
from tlnb.core.training.context import TrainingContext, seeded
from tlnb.core.training.events import event
from tlnb.core.training.forgetting import SourceAccuracy, source_accuracy
from tlnb.core.training.freezing import Change, hashes
from tlnb.core.training.progress import Report
from tlnb.core.training.proof import StartState
from tlnb.core.training.run import Run, wilson_interval
from tlnb.core.training.shared_layers import share_layers
from tlnb.core.training.split_evaluation import scores
from tlnb.core.training.trainer import Trainer


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
    if trial:  # it is the held-out labels that are asked for
        options = replace(options, refit=False)
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
            context = replace(context, taught=taught_by(previous, data))
            context.set_modes()
            start = StartState.of(context.module, plan)
            if previous is None:  # else that run's own start was compared
                start = start.with_code(context.module)
            checkpoints = CheckpointWriter(keep, at_risk(), group)
            trainer = Trainer(context, start, checkpoints, resume)
            trainer.check_resume()
            if previous is not None and "val" in context.taught:
                trainer.state.events.append(event("val-seen", run=previous.name))
        status = trainer.run(starts_pretrained(plan, previous), calibrate=not trial)
        with checkpoints.written_if_interrupted(trainer.state.events):
            answers = trainer.test(trial)
    return _record(trainer, status, answers, baseline_of, previous, trial)


def _costs(host: Machine, group: Ranks, resume: Checkpoint | None) -> CostTracker:
    """Costs so far: none, or what a checkpoint says; what was spent before is counted by one process."""
    paid = resume if group.is_main else None
    clock = Clock(host, resume.seconds if resume else None, paid.wh if paid else None)
    if paid is None:
        return CostTracker(clock, known=resume.known if resume else ())
    return CostTracker(clock, paid.flops, paid.found, paid.known)


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


def taught_by(previous: Run | None, data: DataSet) -> frozenset[str]:
    """The splits of these data whose labels a run, or one that it went on from, has learned."""
    if previous is None or previous.fingerprint != data.fingerprint:
        return frozenset()
    all_in_use = previous.refit is not None or previous.event("val-seen") is not None
    return frozenset(("train", "val") if all_in_use else ("train",))


def starts_pretrained(plan: Plan, previous: Run | None) -> bool:
    """Whether the network comes with pretrained weights, and its new output layers with none."""
    return plan.start == "pretrained" and previous is None


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
    share_layers(trained, end)
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
        found_flops=context.costs.found_flops(),
        refit=trainer.refit,
        calibration=trainer.calibrated.calibration,
        uncalibrated=trainer.calibrated.why_not,
        _trained=trained,
        _hashes=end,
        _start_code=trainer.start.code,
        _answers=answers,
        _transform=context.model.transform,
        _known=trainer.calibrated.known,
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
