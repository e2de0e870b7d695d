"""What a session keeps on disk as it goes on, and a session back from there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tlnb.core.data.dataset import DataSet
from tlnb.core.export import run_files
from tlnb.core.models.anatomy import Anatomy, read_anatomy
from tlnb.core.models.pretrained import PretrainedModel
from tlnb.core.planning.edit import Scopes, build
from tlnb.core.planning.options import TrainOptions, options_from
from tlnb.core.planning.plan import Plan
from tlnb.core.planning.shape_fitting import check_activations
from tlnb.core.runtime.device import out_of_memory
from tlnb.core.runtime.errors import UsageError, one_line
from tlnb.core.runtime.typed_json import SENSELESS, typed
from tlnb.core.training import checkpoint
from tlnb.core.training.checkpoint import Checkpoint
from tlnb.core.training.run import Run
from tlnb.core.training.session_folder import Home, find_session, notebook, read_session
from tlnb.session.transcript import read_back

if TYPE_CHECKING:
    from tlnb.session import Session


@dataclass(frozen=True)
class Job:
    """One training, with all that is needed to begin it again or to go on with it."""

    name: str
    plan: Plan
    options: TrainOptions
    model: PretrainedModel
    anatomy: Anatomy
    asked: Mapping[str, Any]  # what was asked of `Session.load`
    data: DataSet
    baseline_of: str | None = None
    previous: Run | None = None
    note: str = ""  # what the run should say about how it came about
    group: str = ""  # of runs that differ in nothing but their seeds, the first's name

    def about(self, run: Run | None = None) -> dict[str, Any]:
        """As JSON's values; with the record once the run has ended."""
        ended = {} if run is None else {"record": run.to_json(), "hashes": run.hashes()}
        return {**self._about, **ended}

    @cached_property
    def _about(self) -> dict[str, Any]:
        return {
            "run": self.name,
            "plan": asdict(self.plan),
            "options": asdict(self.options),
            "asked": dict(self.asked),
            "facts": run_files.facts_to(self.data.facts),
            "fingerprint": self.data.fingerprint,
            "baseline_of": self.baseline_of,
            "previous": self.previous.name if self.previous else None,
            "note": self.note,
            "group": self.group,
        }


class Keeper:
    """Writes what a session is. On a disk that cannot be written to it stops, and the run says so."""

    def __init__(self, writes: bool = True) -> None:
        self.writes = writes  # of several processes that train together one does
        self.home: Home | None = None
        self.jobs: dict[str, Job] = {}
        self.unfinished: list[str] = []  # runs that stopped and can go on, oldest first
        self._problem = ""  # why nothing can be written

    def begin(self, session: Session, job: Job) -> None:
        """Before a training: what is going to run."""
        self.jobs[job.name] = job
        if not self.writes:
            return
        try:
            self.home = self.home or Home.fresh()
            self.home.run_file(job.name).unlink(missing_ok=True)
            self._write(session, job)
            self._problem = ""
        except OSError as error:
            self._give_up(error)

    def settle(self, folder: Path, job: Job) -> Checkpoint | None:
        """Keep the session in this folder. Where the same job was cut off there, where it stood after its last epoch.

        Raises:
            UsageError: another process is at work there, or it cannot be written to.
        """
        try:
            self.home = Home(folder)
        except OSError as error:
            raise UsageError(
                f"{folder} cannot be used ({error.strerror or 'another process is at work there'}): give another --out"
            ) from None
        for half in folder.rglob(
            ".*.part"
        ):  # of a process that was killed: nobody else is at work here
            half.unlink(missing_ok=True)
        file = self.home.run_file(job.name)
        if not file.exists():
            return None
        about, found = checkpoint.read(file)
        return found if {**about, "note": job.note} == json.loads(json.dumps(job.about())) else None

    def keep(self, job: Job, found: Checkpoint) -> None:
        """Where a run stands at the end of an epoch.

        Raises:
            OSError: the disk is full, or cannot be written to.
        """
        if self.home is None:
            self.home = Home.fresh()
        self.home.write_run(job.name, job.about(), found)

    def end(self, session: Session, run: Run) -> str:
        """After a training. Why it could not be written, else nothing."""
        job = self.jobs[run.name]
        self.unfinished = [name for name in self.unfinished if name != run.name]
        if run.status == "stopped":
            self.unfinished.append(run.name)
        if self.home is None:
            return self._problem
        try:
            if run.status != "stopped" or not self.home.run_file(run.name).exists():
                self.home.write_run(run.name, job.about(run), run_files.finished(run))
            self._write(session)
        except OSError as error:
            self._give_up(error)
        return self._problem

    def _give_up(self, error: OSError) -> None:
        self.home, self._problem = None, error.strerror or type(error).__name__

    def write(self, session: Session) -> None:
        """After anything else that should be found again: the bill, a plan."""
        if self.home is not None:
            try:
                self._write(session)
            except OSError:
                self.home = None

    def failed(self, session: Session, job: Job) -> None:
        """After a training that could not be carried out: there is nothing to go on with but an earlier checkpoint."""
        if job.name not in self.unfinished:
            self.jobs.pop(job.name, None)
            self.write(session)

    def checkpoint_of(self, name: str) -> Checkpoint | None:
        """Where a run stands; None before the end of its first epoch."""
        if self.home is None or not self.home.run_file(name).exists():
            return None
        about, found = checkpoint.read(self.home.run_file(name))
        return None if "record" in about else found

    def close(self) -> None:
        """Let go of the folder."""
        if self.home is not None:
            self.home.close()

    def _write(self, session: Session, running: Job | None = None) -> None:
        assert self.home is not None
        data, plan = session.dataset, session.plan
        self.home.write_session(
            {
                "notebook": notebook(),
                "data": run_files.facts_to(data.facts) if data else None,
                "fingerprint": data.fingerprint if data else None,
                "asked": dict(session._asked),
                "plan": asdict(plan) if plan else None,
                "history": [asdict(p) for p in session._history],
                "runs": [r.name for r in session.runs],
                "lines": list(session._lines),
                "bill": asdict(session.bill),
                "unfinished": self.unfinished,
                "running": running.about() if running else None,
            }
        )


# ── and back ──────────────────────────────────────────────────────────────────────────────────────────────────────


def restore(
    session: Session,
    where: str | Path | None,
    trust: bool,
    names: Mapping[str, Any],
    current: DataSet | None,
) -> str | None:
    """Fill an empty session with an earlier one; the name of the run to go on with, if one was in progress.

    Args:
        current: data at hand, used where they are the ones that are needed (arrays cannot be read again).

    Raises:
        UsageError: no such session, or one that cannot be made again; the line says what is missing.
    """
    folder = find_session(where)
    values = read_session(folder)
    try:
        return _Restoring(session, folder, values, trust, names, current).all()
    except SENSELESS as error:
        if out_of_memory(error):
            raise
        reason = one_line(f"{type(error).__name__}: {error}")[:80]
        raise UsageError(
            f"the session in {folder} is damaged ({reason}): start a new one"
        ) from None


@dataclass
class _Restoring:
    session: Session
    folder: Path
    values: dict[str, Any]
    trust: bool
    names: Mapping[str, Any]
    current: DataSet | None

    def all(self) -> str | None:
        """Data, model, runs, plan, bill; in this order, since each needs what came before."""
        session, values = self.session, self.values
        try:
            session._keeper.home = Home(self.folder)
        except OSError as error:
            raise UsageError(
                f"{self.folder} cannot be written to ({error.strerror}): %tl_resume in another folder"
            ) from None
        data = self._data(values["data"], values["fingerprint"])
        for name in typed(tuple[str, ...], values["runs"], "runs"):
            self._run(name, data)
        if values["asked"]:
            self._load(values["asked"])
        if values["plan"] is not None:
            plan = self._checked(values["plan"])
            session._set(session._prepared(session.model, data, plan))
            session._history = [self._checked(p) for p in values["history"]]
        session._lines = read_back(_lines(values["lines"]), type(session), self.trust)
        session.bill = run_files.bill_from(values["bill"])
        session._keeper.unfinished = [n for n in values["unfinished"] if n in values["runs"]]
        running = values["running"]
        if running is not None:
            self._job(running, data)
            return str(running["run"])
        return session._keeper.unfinished[-1] if session._keeper.unfinished else None

    def _data(self, facts: Mapping[str, Any] | None, fingerprint: str | None) -> DataSet | None:
        if facts is None:
            return None
        if self.current is not None and self.current.fingerprint == fingerprint:
            self.session.dataset = self.current
            return self.current
        request = run_files.facts_from(facts).request
        if request.source == "arrays":
            raise UsageError(
                "the session's data came from Python: tl.data(images, labels) first, then %tl_resume"
            )
        given = {k: v for k, v in asdict(request).items() if k != "source"}
        found = self.session.data(request.source, **given)
        if found.edge != facts["edge"]:
            found = self.session._read_at(int(facts["edge"]))
        if found.fingerprint != fingerprint:
            raise UsageError(
                f"{request.source!r} holds other images than when the session was left: %tl_data starts anew"
            )
        return found

    def _load(self, asked: Mapping[str, Any]) -> PretrainedModel:
        given = dict(asked)
        source = given.pop("source")
        if given.pop("own"):
            if source not in self.names:
                raise UsageError(
                    f"the session used your own module {source!r}: build that again, then %tl_resume"
                )
            source, given["called"] = self.names[source], source
        return self.session.load(source, **given, trust=self.trust, names=self.names)

    def _job(self, about: Mapping[str, Any], data: DataSet | None) -> Job:
        """What a run was to do, with its model and anatomy."""
        session, asked = self.session, about["asked"]
        same = next((j for j in session._keeper.jobs.values() if dict(j.asked) == asked), None)
        plan = self._checked(about["plan"])
        model = same.model if same else self._sized(self._load(asked), about)
        anatomy = _anatomy(model, plan, session._scopes)
        if data is None or about["fingerprint"] != data.fingerprint:
            data = DataSet("other data", (), {}, {}, run_files.facts_from(about["facts"]).request)
        previous = next((r for r in session.runs if r.name == about["previous"]), None)
        texts = {k: typed(str, about[k], k) for k in ("run", "note", "group")}
        of = typed(str | None, about["baseline_of"], "baseline_of")  # type: ignore[arg-type]
        options = options_from(about["options"])
        job = Job(
            texts["run"],
            plan,
            options,
            model,
            anatomy,
            asked,
            data,
            of,
            previous,
            texts["note"],
            texts["group"],
        )
        session._keeper.jobs[job.name] = job
        session._networks[job.name] = (model, anatomy)
        session._facts[job.name] = run_files.facts_from(about["facts"])
        return job

    def _checked(self, values: Mapping[str, Any]) -> Plan:
        """A plan, once its code is known to be harmless or is trusted: also one that only undo would go back to."""
        plan = Plan.from_json(values)
        self.session._scopes.update(run_files.scopes_of(plan, self.trust, self.names))
        return plan

    def _sized(self, model: PretrainedModel, about: Mapping[str, Any]) -> PretrainedModel:
        from tlnb.core.models.pretrained import resized

        return resized(model, about["facts"]["request"]["size"])

    def _run(self, name: str, data: DataSet | None) -> None:
        session = self.session
        assert session._keeper.home is not None
        path = session._keeper.home.run_file(name)
        about, found = checkpoint.read(path)
        job = self._job(about, data)
        if "record" in about:
            session.runs.append(
                run_files.restored(about, found, job.model, job.plan, session._scopes, job.previous)
            )


def _lines(values: Any) -> list[str]:
    """What was typed: lines of magics, calls and comments, which `%tl_script` shows again."""
    lines = typed(list[str], values, "lines")
    strange = [
        text
        for text in lines
        if one_line(text) != text or not text.startswith(("%tl_", "tl.", "#"))
    ]
    if strange:
        raise ValueError(f"a line that no magic writes: {strange[0]!r}")
    return lines


def _anatomy(model: PretrainedModel, plan: Plan, scopes: Scopes) -> Anatomy:
    network = build(model, plan.edits, "pretrained", 0, scopes)
    check_activations(network, model.module, plan.edits, model.transform.size)
    return read_anatomy(network, model.transform.size, model.name)


def job_of(session: Session, name: str) -> Job:
    """The training that a stopped or interrupted run is to go on with.

    Raises:
        UsageError: its data are not at hand.
    """
    job = session._keeper.jobs[name]
    data = session.dataset
    if data is not None and data.fingerprint == job.data.fingerprint:
        return replace(job, data=data)
    if not job.data.images:
        raise UsageError(
            f"run {name!r} was on other data than the session's: load those with %tl_data, then %tl_resume"
        )
    return job
