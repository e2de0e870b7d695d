"""Plan a training as a `Job`: fill in its options, match a baseline to its run.

Nothing is trained here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from tlnb.core.data.dataset import DataSet
from tlnb.core.models.pretrained import resized
from tlnb.core.planning.options import Asked, TrainOptions, options_asked, parse_rates
from tlnb.core.planning.prepare import prepare
from tlnb.core.planning.recipes import recipe
from tlnb.core.runtime.errors import PlanError, UsageError, did_you_mean
from tlnb.core.training.baseline import matched
from tlnb.core.training.run import Run
from tlnb.session.job import Job
from tlnb.session.run_registry import network_of, new_name, run_meant, run_to_match
from tlnb.session.state import SessionState


def plan_job(state: SessionState, asked: Asked) -> Job:
    """Plan what `train` with these options will do.

    Raises:
        UsageError, PlanError: no data or model, an invalid option, no run to continue from or to
            compare with.
    """
    _check_stages(state, asked.get("lr"))
    options = options_asked(asked)
    data = state.data()
    state.loaded()
    scratch, from_ = asked.get("scratch", False), asked.get("from_")
    name = new_name(state, asked.get("name") or ("scratch" if scratch else None))
    if not scratch:
        previous = run_meant(state, from_) if from_ is not None else None
        return _ordinary(state, data, options, name, previous)
    if from_ is not None:
        raise UsageError(
            "--scratch starts from random weights and --from does not: give one of them"
        )
    return _baseline(state, data, options, name, own_seed=asked.get("seed") is not None)


def with_seeds(state: SessionState, job: Job, seeds: int) -> Iterator[Job]:
    """Yield the job once per seed, counting up, under names that no run of the state has."""
    for seed in range(job.options.seed, job.options.seed + seeds):
        first = seed == job.options.seed
        name = job.name if first else new_name(state, f"{job.name}-seed{seed}")
        options = replace(job.options, seed=seed)
        yield replace(job, name=name, options=options, group=job.name if seeds > 1 else "")


def job_to_resume(state: SessionState, name: str) -> Job:
    """The job that resumes a stopped or interrupted run.

    Raises:
        UsageError: the run's data is not loaded.
    """
    job, data = state.jobs[name], state.dataset
    if data is not None and data.fingerprint == job.data.fingerprint:
        return replace(job, data=data)
    if not job.data.images:
        raise UsageError(
            f"run {name!r} used different data from the session's: "
            "load that data with %tl_data, then %tl_resume"
        )
    return job


def _check_stages(state: SessionState, lr: Any) -> None:
    """Raise `PlanError` if a learning rate names a stage that the network does not have."""
    _, by_stage = parse_rates(lr)
    if by_stage:
        known = [stage.name for stage in state.loaded()[1].stages]
        for stage, _ in by_stage:
            if stage not in known:
                hint = did_you_mean(stage, known, f"the stages are {', '.join(known)}")
                raise PlanError(f"--lr names an unknown stage {stage!r}: {hint}")


def _ordinary(
    state: SessionState, data: DataSet, options: TrainOptions, name: str, previous: Run | None
) -> Job:
    model, anatomy, plan = state.loaded()
    if previous is not None and set(network_of(state, previous)[1].names) != set(anatomy.names):
        raise UsageError(
            f"run {previous.name!r} trained a different network from {model.name}: "
            f"%tl_load {previous.plan.model} first"
        )
    if options.optimizer == "lbfgs" and plan.trained != (anatomy.head,):
        layers = f"{len(plan.trained)} layers" if len(plan.trained) > 1 else plan.trained[0]
        raise UsageError(
            f"--optimizer lbfgs trains only the output layer, but this plan trains {layers}: "
            "%tl_strategy head first"
        )
    if previous is not None and options.refit is None:
        options = replace(options, refit=False)
    filled = options.filled(plan.options).filled(recipe(plan, data, options.optimizer))
    _check_refit(filled, data, previous)
    return Job(
        name=name,
        plan=plan,
        options=filled,
        model=state.sized(),
        anatomy=anatomy,
        asked=state.asked,
        data=data,
        previous=previous,
    )


def _check_refit(options: TrainOptions, data: DataSet, previous: Run | None = None) -> None:
    """Raise `UsageError` if a refit was asked for that cannot be."""
    if not options.refit:
        return
    if previous is not None:
        raise UsageError(
            f"--refit trains again from the plan's start, not from run {previous.name!r}: "
            "leave out --from or --refit"
        )
    check_held_out(options, data)


def check_held_out(options: TrainOptions, data: DataSet) -> None:
    """Raise `UsageError` if a refit was asked for and all labels in use teach already."""
    if options.refit and "val" not in data.splits:
        labels = data.splits["train"]
        raise UsageError(
            f"--refit has nothing to add: no labels are held out, all {labels:,} teach already; "
            "leave it out"
        )


def _baseline(
    state: SessionState, data: DataSet, options: TrainOptions, name: str, own_seed: bool
) -> Job:
    """A job from scratch, matched to the latest run on this data; up to twice its steps."""
    run = run_to_match(state, data)
    model, anatomy = network_of(state, run)
    plain = replace(run.plan, edits=run.plan.lasting_edits)
    if plain != run.plan:  # adapters are for pretrained weights
        anatomy = prepare(model, data, plain, state.scopes).anatomy
    now = state.plan
    same = now is not None and (now.model, now.lasting_edits) == (plain.model, plain.edits)
    options = options if own_seed else replace(options, seed=run.seed)
    _check_refit(options, data)  # before the steps of both passes are counted
    plan, filled = matched(run, anatomy, data, options, now if same else None)
    return Job(
        name=name,
        plan=plan,
        options=filled,
        model=resized(model, data.request.size),
        anatomy=anatomy,
        asked=state.jobs[run.name].asked,
        data=data,
        baseline_of=run.name,
    )
