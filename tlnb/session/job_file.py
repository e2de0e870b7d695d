"""A training as a file: written in a session, carried out anywhere by `python -m tlnb train job.json --out DIR`.

torchrun starts that in several processes, which do the same job together. All read job and data, and begin only if all
could and have the same; the first writes. Cut off, the same line goes on from the last checkpoint, by itself under
`torchrun --max-restarts`. A search over the job's hyperparameters is shared by as many `python -m tlnb tune` as there are.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tlnb.core.export import run_files
from tlnb.core.export.save import Saved
from tlnb.core.models.anatomy import read_anatomy
from tlnb.core.planning.edit import build
from tlnb.core.planning.options import options_from
from tlnb.core.planning.plan import Plan
from tlnb.core.planning.safe_modules import is_literal
from tlnb.core.planning.shape_fitting import check_activations
from tlnb.core.runtime.device import machine, out_of_memory
from tlnb.core.runtime.distributed import Ranks, ranks
from tlnb.core.runtime.errors import UsageError, listed, one_line
from tlnb.core.runtime.paths import read_text
from tlnb.core.runtime.typed_json import SENSELESS, parse, typed
from tlnb.core.training.run import Run
from tlnb.core.training.session_folder import OF_JOB
from tlnb.session.store import Job

if TYPE_CHECKING:
    from tlnb.core.tuning.tune import Tuning
    from tlnb.session import Session

SCHEMA = 1
RECORD, NETWORK = "run.json", "run.safetensors"


def write_job(job: Job, path: Path) -> Saved:
    """Write what a training needs: data request and fingerprint, model, plan, options. It holds no images and no weights.

    Raises:
        UsageError: data or a module from Python, which a file cannot name; a folder that cannot be written to.
    """
    if job.data.request.source == "arrays":
        raise UsageError("a job file cannot hold data from Python: use a folder, or data by name")
    if job.asked["own"]:
        raise UsageError(
            f"a job file cannot hold your own module {job.asked['source']!r}: load a model by name or file"
        )
    if job.previous is not None:
        raise UsageError(
            f"a job begins from the plan's start, not from run {job.previous.name!r}: leave out --from"
        )
    text = json.dumps({"schema": SCHEMA, **job.about()}, indent=1)
    write_whole(path, text)
    use = f"python -m tlnb train {path} --out DIR"
    return Saved(
        str(path),
        job.name,
        "job",
        len(text.encode()),
        "nothing: it names data, model, plan and options",
        use,
    )


def read_job(path: Path) -> dict[str, Any]:
    """A job file's content.

    Raises:
        UsageError: none, damaged, or of another version.
    """
    try:
        values = parse(read_text(path))
        if values["schema"] != SCHEMA:
            raise UsageError(
                f"{path} has schema {values['schema']}, not {SCHEMA}: write it again with %tl_save --job"
            )
        return {
            k: values[k]
            for k in ("run", "plan", "options", "asked", "facts", "fingerprint", "baseline_of")
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split())[:80]
        raise UsageError(
            f"{path} is no job file ({reason}): %tl_save --job {path.name} writes one"
        ) from None


def carry_out(session: Session, path: Path, out: Path, trust: bool = False) -> Run:
    """Do what a job file says; leave `run.json` (the record), `run.safetensors` (the network) and the session in a folder.

    Where the same job was cut off there it goes on from its last checkpoint. Several processes that have joined
    (`core.ranks`) do it together.

    Args:
        session: an empty one.
        trust: run code in the plan that is more than `nn.*` constructors.

    Raises:
        UsageError: no job file; data that are not what they were; code that is not trusted; a folder that cannot be
            written to; processes that do not have the same.
    """
    group = ranks()
    began = time.perf_counter()
    job = group.together(lambda: prepared(session, path, trust))
    group.agree(_facts(job, group))
    session._keeper.writes = group.writes
    try:
        found = group.given(
            group.together(
                lambda: session._keeper.settle(_made(out) / OF_JOB, job) if group.writes else None
            )
        )
        session._keeper.jobs[job.name] = job
        if found is not None:
            job = replace(
                job, note=f"cut off after epoch {len(found.epochs)}, and went on from there"
            )
        run = session._done(job, began, one_line(f"# tlnb train {path}"), found)
        group.together(lambda: _leave(session, run, out) if group.writes else None)
    finally:
        session._keeper.close()
    return run


def search(
    session: Session,
    path: Path,
    storage: str,
    trials: int,
    best: Path | None = None,
    trust: bool = False,
) -> Tuning:
    """Search hyperparameters for a job, together with all others that use the same storage.

    Args:
        session: an empty one.
        storage: a file for Optuna's journal, or a database's URL.
        trials: to add to what the study has.
        best: write the job with the best values so far to this file.

    Raises:
        UsageError: as `carry_out` and `core.tune.tune` do.
    """
    from tlnb.core.tuning.tune import Task, tune

    job = prepared(session, path, trust)
    task = Task(job.model, job.anatomy, job.data, job.plan, job.options, session._scopes)
    found, _ = tune(
        task,
        trials,
        storage=storage,
        seed=job.options.seed,
        store=session._store,
        report=session.report,
    )
    if best is not None and found.best is not None:
        plan, options = task.planned(found.best.values)
        write_job(replace(job, plan=replace(plan, tuned=found.name), options=options), best)
    return found


def prepared(session: Session, path: Path, trust: bool = False) -> Job:
    """A job file's job, its data and model in the session. Nothing is written.

    Raises:
        UsageError: no job file; data that are not what they were; code that is not trusted.
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


def _facts(job: Job, group: Ranks) -> dict[str, str]:
    """What all processes that do a job together must have alike."""
    device = job.options.device or ""
    if group.here > 1 and ":" in device:
        raise UsageError(
            f"--device {device} cannot be shared by {group.here} processes: write the job without it"
        )
    text = json.dumps({**job.about(), "facts": None}, sort_keys=True)
    here = machine(job.options.device, job.options.precision)
    return {
        "the job": hashlib.sha256(text.encode()).hexdigest()[:8],
        "the data": job.data.fingerprint,
        "the precision": here.precision,
        "the device": here.device.split(":")[0],
    }


def _made(out: Path) -> Path:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"{out} cannot be made ({error.strerror}): --out with a folder of yours"
        ) from None
    return out


def _leave(session: Session, run: Run, out: Path) -> None:
    session.save(out / NETWORK, run.name)
    write_whole(out / RECORD, run.to_json())


def _job(session: Session, values: Mapping[str, Any], trust: bool) -> Job:
    plan, options = Plan.from_json(values["plan"]), options_from(values["options"])
    foreign = [e.code for e in plan.edits if e.code and not is_literal(e.code)]
    if foreign and not trust:
        raise UsageError(
            f"the job holds code that would be run ({listed(foreign, 1)}): if you trust it, --trust"
        )
    request = run_files.facts_from(values["facts"]).request
    given = {k: v for k, v in asdict(request).items() if k != "source"}
    data = session.data(request.source, **given)
    asked = dict(values["asked"])
    source, _ = asked.pop("source"), asked.pop("own")
    session.load(source, **asked, trust=trust)
    data = session.dataset or data  # decoded again where the model needs more pixels
    if data.fingerprint != values["fingerprint"]:
        raise UsageError(
            f"{request.source!r} holds other images than when the job was written: write it again"
        )
    scopes = run_files.scopes_of(plan, trust, {})
    session._scopes.update(scopes)
    assert session.model is not None
    model = session._sized(session.model, data)
    network = build(model, plan.edits, "pretrained", 0, scopes)
    check_activations(network, model.module, plan.edits, model.transform.size)
    anatomy = read_anatomy(network, model.transform.size, model.name)
    name = typed(str, values["run"], "run")
    of = typed(str | None, values["baseline_of"], "baseline_of")  # type: ignore[arg-type]
    return Job(name, plan, options, model, anatomy, values["asked"], data, of)


def write_whole(path: Path, text: str) -> None:
    """The file appears whole or not at all."""
    half = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        half.unlink(missing_ok=True)  # a link of that name would be written through
        half.write_text(text, "utf8")
        half.replace(path)
    except OSError as error:
        raise UsageError(
            f"{path} cannot be written ({error.strerror}): give a file in a folder of yours"
        ) from None
    finally:
        half.unlink(missing_ok=True)
