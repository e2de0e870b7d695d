"""Run a job file (`python -m tlnb train job.json --out DIR`), or search its hyperparameters.

Under torchrun several processes run the same job together. All of them read the job and the data
and start only if all succeeded and agree; the main process writes. After an interruption the same
command resumes from the last checkpoint (`torchrun --max-restarts` does that by itself). Several
`python -m tlnb tune` processes can share one search over the job's hyperparameters.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tlnb.core.export import run_files
from tlnb.core.models.anatomy import read_anatomy
from tlnb.core.planning.edit import build
from tlnb.core.planning.options import options_from
from tlnb.core.planning.plan import Plan
from tlnb.core.planning.safe_modules import is_literal
from tlnb.core.planning.shape_fitting import check_activations
from tlnb.core.runtime.device import machine, out_of_memory
from tlnb.core.runtime.distributed import Ranks, ranks
from tlnb.core.runtime.errors import UsageError, listed, one_line
from tlnb.core.runtime.typed_json import SENSELESS, typed
from tlnb.core.training.events import event
from tlnb.core.training.run import Run
from tlnb.core.training.session_folder import OF_JOB
from tlnb.session import trainings
from tlnb.session.job import Job
from tlnb.session.job_file import read_job, write_job, write_whole
from tlnb.session.job_planner import check_held_out
from tlnb.session.session import Session

if TYPE_CHECKING:
    from tlnb.core.tuning.tune import Tuning

RECORD, NETWORK = "run.json", "run.safetensors"


def carry_out(session: Session, path: Path, out: Path, trust: bool = False) -> Run:
    """Run a job file and write its results to a folder.

    The results are `run.json` (the record), `run.safetensors` (the network) and the session. If
    the same job was interrupted in that folder, it resumes from its last checkpoint. Processes
    that have joined a group (`core.runtime.distributed`) run the job together.

    Args:
        session: an empty session.
        trust: run code in the plan that is more than `nn.*` constructors.

    Raises:
        UsageError: not a job file; data that has changed; untrusted code; a folder that cannot be
            written to; processes that do not agree.
    """
    group = ranks()
    began = time.perf_counter()
    job = group.together(lambda: prepared(session, path, trust))
    group.agree(_facts(job, group))
    session.store.writes = group.is_main
    try:
        checkpoint = group.broadcast_object(
            group.together(
                lambda: session.store.settle(_create(out) / OF_JOB, job) if group.is_main else None
            )
        )
        if checkpoint is not None:
            job = replace(job, event=event("went-on", epoch=len(checkpoint.epochs)))
        typed = one_line(f"# tlnb train {path}")
        run = trainings.carry_out(session, job, began, typed, checkpoint)
        group.together(lambda: _write_results(session, run, out) if group.is_main else None)
    finally:
        session.store.close()
    return run


def search(
    session: Session,
    path: Path,
    storage: str,
    trials: int,
    best: Path | None = None,
    trust: bool = False,
) -> Tuning:
    """Search a job's hyperparameters, together with all processes that use the same storage.

    Args:
        session: an empty session.
        storage: a file for Optuna's journal, or a database URL.
        trials: number of trials to add to the study.
        best: write the job with the best values so far to this file.

    Raises:
        UsageError: as `carry_out` and `core.tuning.tune.tune`.
    """
    from tlnb.core.tuning.tune import tune

    job = prepared(session, path, trust)
    task = job.tuning_task(session.state.scopes)
    tuning, _ = tune(
        task,
        trials,
        storage=storage,
        seed=job.options.seed,
        store=session.cache,
        report=session.report,
    )
    if best is not None and tuning.best is not None:
        plan, options = task.planned(tuning.best.values)
        write_job(replace(job, plan=replace(plan, tuned=tuning.name), options=options), best)
    return tuning


def prepared(session: Session, path: Path, trust: bool = False) -> Job:
    """Read a job file and load its data and model into the session; nothing is written.

    Raises:
        UsageError: not a job file; data that has changed; untrusted code; nothing to refit with.
    """
    values = read_job(path)
    try:
        return _job(session, values, trust)
    except SENSELESS as error:
        if out_of_memory(error):
            raise
        raise UsageError(
            f"{path} is damaged ({one_line(str(error))[:80]}): write it again with %tl_save --job"
        ) from None


def _job(session: Session, values: Mapping[str, Any], trust: bool) -> Job:
    plan, options = Plan.from_json(values["plan"]), options_from(values["options"])
    foreign = [e.code for e in plan.edits if e.code and not is_literal(e.code)]
    if foreign and not trust:
        raise UsageError(
            f"the job holds code that would be run ({listed(foreign, 1)}): add --trust if you trust it"
        )
    request = run_files.facts_from(values["facts"]).request
    given = {k: v for k, v in asdict(request).items() if k != "source"}
    data = session.data(request.source, **given)
    asked = dict(values["asked"])
    source, _ = asked.pop("source"), asked.pop("own")
    session.load(source, **asked, trust=trust)
    data = session.dataset or data  # decoded again if the model needs more pixels
    if data.fingerprint != values["fingerprint"]:
        raise UsageError(
            f"the images in {request.source!r} have changed since the job was written: write it again"
        )
    check_held_out(options, data)
    scopes = run_files.scopes_of(plan, trust, {})
    state = session.state
    session.commit(replace(state, scopes={**state.scopes, **scopes}))
    model = state.sized()
    network = build(model, plan.edits, "pretrained", 0, scopes)
    check_activations(network, model.module, plan.edits, model.transform.size)
    return Job(
        name=typed(str, values["run"], "run"),
        plan=plan,
        options=options,
        model=model,
        anatomy=read_anatomy(network, model.transform.size, model.name),
        asked=values["asked"],
        data=data,
        baseline_of=typed(str | None, values["baseline_of"], "baseline_of"),  # type: ignore[arg-type]
    )


def _facts(job: Job, group: Ranks) -> dict[str, str]:
    """What all processes that run a job together must agree on."""
    device = job.options.device or ""
    if group.local_count > 1 and ":" in device:
        raise UsageError(
            f"--device {device} cannot be shared by {group.local_count} processes: "
            "write the job without --device"
        )
    text = json.dumps({**job.about(), "facts": None}, sort_keys=True)
    host = machine(job.options.device, job.options.precision)
    return {
        "the job": hashlib.sha256(text.encode()).hexdigest()[:8],
        "the data": job.data.fingerprint,
        "the precision": host.precision,
        "the device": host.device.split(":")[0],
    }


def _create(out: Path) -> Path:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"{out} cannot be created ({error.strerror}): choose an --out that you can write to"
        ) from None
    return out


def _write_results(session: Session, run: Run, out: Path) -> None:
    session.save(out / NETWORK, run.name)
    write_whole(out / RECORD, run.to_json())
