"""Run trainings: call the engine, add the run to the session, and save it to disk."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial

from tlnb.core.costs import bill
from tlnb.core.data.pretraining_overlap import seen_by
from tlnb.core.models.pretrained import resized
from tlnb.core.runtime.device import device_lost
from tlnb.core.runtime.errors import DeviceLost, TLError, UsageError, one_line
from tlnb.core.training.baseline import with_equal_steps
from tlnb.core.training.checkpoint import Checkpoint
from tlnb.core.training.events import event, once
from tlnb.core.training.run import Forecast, Run
from tlnb.core.training.train import train
from tlnb.session.job import Job
from tlnb.session.job_planner import job_to_resume
from tlnb.session.run_registry import network_of
from tlnb.session.session_base import SessionBase
from tlnb.session.state import SessionState


def carry_out(
    session: SessionBase, job: Job, began: float, typed: str, checkpoint: Checkpoint | None = None
) -> Run:
    """Run a job, from its checkpoint if there is one, and add the run to the session.

    Args:
        began: when the call began, by `time.perf_counter`.
        typed: the call's line of the transcript.

    Raises:
        TLError: as the engine; DeviceLost says what to do.
    """
    before = sum(checkpoint.seconds.values()) if checkpoint else 0.0
    run = _timed(_trained(session, job, checkpoint), began - before)
    run = _scored(session.state, run)
    session.commit(with_run(session.state, run, job), typed)
    return _kept(session, run)


def go_on(session: SessionBase, name: str) -> Run:
    """Resume a stopped run from its last checkpoint, or else from the start.

    Raises:
        UsageError: the run's data is not loaded.
    """
    job = job_to_resume(session.state, name)
    checkpoint = session.store.checkpoint_of(name)
    run = _scored(session.state, _trained(session, job, checkpoint))
    state = session.state  # the run's new charge includes what it was charged before
    uncharged = replace(state, bill=state.bill.without(name))
    session.commit(with_run(uncharged, run, job), "%tl_resume")
    return _kept(session, run)


def _trained(session: SessionBase, job: Job, checkpoint: Checkpoint | None) -> Run:
    """Train, saving checkpoints to disk."""
    if checkpoint is None:
        session.store.begin(session.state, session.transcript, job)
    try:
        run = train(
            job.model,
            job.anatomy,
            job.data,
            job.plan,
            job.options,
            name=job.name,
            scopes=session.state.scopes,
            baseline_of=job.baseline_of,
            previous=job.previous,
            report=session.report,
            store=session.cache,
            keep=partial(session.store.keep, job),
            resume=checkpoint,
            stop=session.background.interrupted,
        )
    except KeyboardInterrupt:  # in the final test
        _leave_unfinished(session, job)
        raise
    except TLError:
        if job.name not in session.state.unfinished:  # else an earlier checkpoint can be resumed
            session.save_to_disk()
        raise
    except RuntimeError as error:
        if not device_lost(error):
            raise
        raise _device_lost(session, job, error) from None
    return _noted(session.state, run, job)


def _leave_unfinished(session: SessionBase, job: Job) -> None:
    """Let `resume` find a run that was cut off and left a checkpoint."""
    if session.store.checkpoint_of(job.name) is None:
        return
    state = session.state
    jobs = {**state.jobs, job.name: job}
    session.commit(replace(state, jobs=jobs, unfinished=_unfinished(state, job.name, True)))
    session.save_to_disk()


def _device_lost(session: SessionBase, job: Job, error: RuntimeError) -> DeviceLost:
    reason = one_line(str(error).splitlines()[0])[:100]
    next_step = (
        "%tl_resume continues from the last checkpoint"
        if session.store.folder
        else "load data and model again"
    )
    return DeviceLost(
        f"{job.options.device or 'the GPU'} stopped responding ({reason}): "
        f"restart the kernel, then {next_step}"
    )


def _kept(session: SessionBase, run: Run) -> Run:
    """Save the run to disk; if that fails, the run says so."""
    problem = session.store.end(session.state, session.transcript, run)
    if not problem:
        return run
    noted = replace(run, events=(*run.events, event("not-kept", reason=problem)))
    session.commit(replace(session.state, runs=_with(session.state.runs, noted)))
    return noted


# ── a state and a run → the next state ──


def with_run(state: SessionState, run: Run, job: Job) -> SessionState:
    """The state with this run; a resumed run replaces its earlier part."""
    return replace(
        state,
        runs=_with(state.runs, run),
        bill=state.bill.with_run(run),
        networks={**state.networks, job.name: (job.model, job.anatomy)},
        facts={**state.facts, run.name: job.data.facts},
        jobs={**state.jobs, job.name: job},
        unfinished=_unfinished(state, run.name, run.status == "stopped"),
    )


def _unfinished(state: SessionState, name: str, stopped: bool) -> tuple[str, ...]:
    """The runs that can be resumed, with this one last if it was stopped, else without it."""
    others = tuple(other for other in state.unfinished if other != name)
    return (*others, name) if stopped else others


def _with(runs: tuple[Run, ...], run: Run) -> tuple[Run, ...]:
    """The runs with this one, which replaces a run of the same name."""
    if any(r.name == run.name for r in runs):
        return tuple(run if r.name == run.name else r for r in runs)
    return (*runs, run)


def _timed(run: Run, began: float) -> Run:
    """Add the call's time outside the training itself to phase `other`."""
    rest = time.perf_counter() - began - sum(run.seconds.values())
    return replace(run, seconds={**run.seconds, "other": run.seconds["other"] + max(0.0, rest)})


def _noted(state: SessionState, run: Run, job: Job) -> Run:
    """Add what the session knows: how the run came about, and its siblings by seed."""
    siblings = [r for r in state.runs if job.group and r.group == job.group and r.name != run.name]
    repeats = tuple((r.seed, r.accuracy) for r in (*siblings, run)) if job.group else ()
    pretrained_on = job.model.card.source if job.plan.start == "pretrained" else ""
    seen = seen_by(pretrained_on, job.data.source_hint) if pretrained_on else ""
    before = [job.event] if job.event else []
    after = [event("note", text=seen)] if seen else []
    events = tuple(once([*before, *run.events, *after]))
    return replace(run, events=events, group=job.group, repeats=repeats)


def _scored(state: SessionState, run: Run) -> Run:
    """Add the run's money and its latest forecast, with measured figures if it finished."""
    run = bill.priced(run, state.bill.price)
    forecast = next((f for f in reversed(state.forecasts) if same_training(f, run)), None)
    if forecast is None:
        return run
    if run.status != "finished":
        return replace(run, forecast=forecast)
    measured = sum(run.seconds.values())
    return replace(run, forecast=replace(forecast, measured=measured, measured_flops=run.flops))


def same_training(one: Forecast, other: Forecast | Run) -> bool:
    """Whether a forecast and a run, or two forecasts, are of the same training."""
    return (one.plan, one.options, one.fingerprint) == (
        other.plan,
        other.options,
        other.fingerprint,
    )


# ── the baseline with its run's number of steps ──


def with_equal_budget(session: SessionBase, baseline: Run, of: Run) -> SessionState:
    """Train the baseline for its run's number of steps; return the state with it, charged.

    Raises:
        UsageError: the training was stopped.
    """
    state = session.state
    model, anatomy = network_of(state, baseline)
    data = state.data()
    twin = train(
        resized(model, data.request.size),
        anatomy,
        data,
        baseline.plan,
        with_equal_steps(baseline, of.work.steps),
        name=f"{baseline.name}, equal steps",
        scopes=state.scopes,
        baseline_of=of.name,
        report=session.report,
        store=session.cache,
        stop=session.background.interrupted,
    )
    if twin.status == "stopped":
        raise UsageError(
            "stopped before the equal-steps baseline was trained: %tl_compare starts it again"
        )
    twin = replace(bill.priced(twin, state.bill.price), kind="equal-budget")
    return replace(
        state,
        equal_budget={**state.equal_budget, baseline.name: twin},
        bill=state.bill.with_run(twin, "equal budget"),
    )
