"""Resume a stopped run, or restore an earlier session from its folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tlnb.core.data.dataset import DataSet
from tlnb.core.export import run_files
from tlnb.core.models.anatomy import Anatomy, read_anatomy
from tlnb.core.models.pretrained import PretrainedModel, resized
from tlnb.core.planning.edit import Scopes, build
from tlnb.core.planning.options import options_from
from tlnb.core.planning.plan import Plan
from tlnb.core.planning.shape_fitting import check_activations
from tlnb.core.runtime.device import out_of_memory
from tlnb.core.runtime.errors import ModelError, PlanError, UsageError, one_line
from tlnb.core.runtime.typed_json import SENSELESS, typed
from tlnb.core.training import checkpoint
from tlnb.core.training.checkpoint import Checkpoint
from tlnb.core.training.run import Run
from tlnb.core.training.session_folder import SessionFolder, find_session, read_session
from tlnb.session.direct_changes import with_data
from tlnb.session.job import Job, event_of
from tlnb.session.loading import LoadRequest, Tell, read_again, with_model
from tlnb.session.plan_editor import prepared_anew
from tlnb.session.session_base import SessionBase
from tlnb.session.state import SessionState
from tlnb.session.store import SessionStore
from tlnb.session.trainings import go_on
from tlnb.session.transcript import read_back


def resume(
    session: SessionBase, where: str | Path | None, trust: bool, names: Mapping[str, Any]
) -> Run | None:
    """Resume a stopped run; an empty session restores an earlier session first.

    Returns:
        The resumed run; None if the earlier session had none to resume.

    Raises:
        UsageError: nothing to resume; data, weights or a module that no longer exist.
    """
    state = session.state
    if where is None and (state.runs or state.unfinished):
        if not state.unfinished:
            raise UsageError(
                "no run of this session was stopped: %tl_train --from RUN continues a finished one"
            )
        return go_on(session, state.unfinished[-1])
    if state.runs:
        raise UsageError(
            "this session has runs, which the earlier session would replace: %tl_reset first"
        )
    restored = restore(where, type(session), trust, names, current=state.dataset, tell=session.tell)
    return _adopt_and_resume(session, restored)


@dataclass(frozen=True, kw_only=True)
class Restored:
    """An earlier session."""

    state: SessionState
    transcript: list[str]
    store: SessionStore
    running: str | None = None  # the run to resume, if one was in progress or stopped


def _adopt_and_resume(session: SessionBase, restored: Restored) -> Run | None:
    """Adopt an earlier session and resume its run; on failure its other runs, or nothing, stay."""
    before = Restored(state=session.state, transcript=session.transcript, store=session.store)
    session.store.close()
    adopt(session, restored)
    try:
        return None if restored.running is None else go_on(session, restored.running)
    except UsageError as error:
        if restored.state.runs:
            session.commit(
                losing(session.state, f"run {restored.running!r} does not go on: {error}")
            )
            return None
        session.store.close()
        adopt(session, before)
        raise


def adopt(session: SessionBase, other: Restored) -> None:
    """Replace the session's content by an earlier session's."""
    session.store, session.transcript = other.store, list(other.transcript)
    session.commit(other.state)


def restore(
    where: str | Path | None,
    calls: type,
    trust: bool = False,
    names: Mapping[str, Any] | None = None,
    current: DataSet | None = None,
    tell: Tell = lambda *_: None,
) -> Restored:
    """Restore an earlier session from its folder.

    Args:
        calls: the class whose calls the lines of the transcript are.
        trust: run code in it that is more than `nn.*` constructors; it may use `names`.
        current: the data already loaded, used if it is what the session needs (arrays cannot be
            read again).

    Raises:
        UsageError: no such session, or one that cannot be restored; the message says what is
            missing.
    """
    folder = find_session(where)
    values = read_session(folder)
    store = SessionStore(_locked(folder))
    try:
        return _Restoring(store, trust, names or {}, current, tell).all(values, calls)
    except SENSELESS as error:
        store.close()
        if out_of_memory(error):
            raise
        reason = one_line(f"{type(error).__name__}: {error}")[:80]
        raise UsageError(
            f"the session in {folder} is damaged ({reason}): start a new one"
        ) from None
    except BaseException:
        store.close()
        raise


def _locked(folder: Path) -> SessionFolder:
    try:
        return SessionFolder(folder)
    except OSError as error:
        raise UsageError(
            f"{folder} cannot be written to ({error.strerror}): %tl_resume another folder"
        ) from None


@dataclass
class _Restoring:
    """Rebuilds an earlier session, each step on those before: data, runs, model, plan, bill."""

    store: SessionStore
    trust: bool
    names: Mapping[str, Any]
    current: DataSet | None
    tell: Tell
    state: SessionState = field(default_factory=SessionState)
    data: DataSet | None = None  # as the runs used it; a model may need it decoded again
    missing: dict[str, str] = field(default_factory=dict)  # run without its network → why

    def all(self, values: dict[str, Any], calls: type) -> Restored:
        """Restore the session from the values in its file."""
        self._take_data(values["data"], values["fingerprint"])
        for name in typed(tuple[str, ...], values["runs"], "runs"):
            self._take_run(name)
        if values["asked"]:
            self._load(values["asked"])
        if values["plan"] is not None:
            self.state = prepared_anew(self.state, self._checked(values["plan"]))
            history = tuple(self._checked(p) for p in values["history"])
            self.state = replace(self.state, history=history)
        lines = read_back(_lines(values["lines"]), calls, self.trust)
        unfinished = tuple(n for n in values["unfinished"] if n in self.state.jobs)
        bill = run_files.bill_from(values["bill"])
        self.state = replace(self.state, bill=bill, unfinished=unfinished)
        last = unfinished[-1] if unfinished else None
        running = values["running"]
        if running is not None:
            last = self._take_job(running).name
        return Restored(state=self.state, transcript=lines, store=self.store, running=last)

    def _take_data(self, facts: Mapping[str, Any] | None, fingerprint: str | None) -> None:
        if facts is None:
            return
        data = self.current
        if data is None or data.fingerprint != fingerprint:
            data = self._read(facts, fingerprint)
        self.data = data
        self.state = with_data(self.state, data)[0]

    def _read(self, facts: Mapping[str, Any], fingerprint: str | None) -> DataSet:
        request = run_files.facts_from(facts).request
        if request.source == "arrays":
            raise UsageError(
                "the session's data came from Python: tl.data(images, labels) first, then %tl_resume"
            )
        data = read_again(request, None, self.tell)
        if data.edge != facts["edge"]:
            data = read_again(request, int(facts["edge"]), self.tell)
        if data.fingerprint != fingerprint:
            raise UsageError(
                f"the images in {request.source!r} have changed since the session was saved: "
                "start over with %tl_data"
            )
        return data

    def _load(self, asked: Mapping[str, Any]) -> PretrainedModel:
        given = dict(asked)
        source = given.pop("source")
        if source in self.missing:
            raise UsageError(f"the network of run {source!r} is needed: {self.missing[source]}")
        if given.pop("own"):
            if source not in self.names:
                raise UsageError(
                    f"the session used your own module {source!r}: build it again, then %tl_resume"
                )
            source, given["called"] = self.names[source], source
        request = LoadRequest(source=source, **given, trust=self.trust, names=self.names)
        self.state, _ = with_model(self.state, request, self.tell)
        return self.state.loaded()[0]

    def _take_job(self, about: Mapping[str, Any]) -> Job:
        """Restore a run's job, with its model and anatomy."""
        job = self._job(about)
        self._add(job, about)
        return job

    def _add(self, job: Job, about: Mapping[str, Any]) -> None:
        facts = run_files.facts_from(about["facts"])
        self.state = replace(
            self.state,
            jobs={**self.state.jobs, job.name: job},
            networks={**self.state.networks, job.name: (job.model, job.anatomy)},
            facts={**self.state.facts, job.name: facts},
        )

    def _job(self, about: Mapping[str, Any]) -> Job:
        asked = about["asked"]
        same = next((j for j in self.state.jobs.values() if dict(j.asked) == asked), None)
        plan = self._checked(about["plan"])
        size = about["facts"]["request"]["size"]
        model = same.model if same else resized(self._load(asked), size)
        data = self.data
        if data is None or about["fingerprint"] != data.fingerprint:
            data = DataSet(
                name="other data",
                classes=(),
                images={},
                labels={},
                request=run_files.facts_from(about["facts"]).request,
            )
        return Job(
            name=typed(str, about["run"], "run"),
            plan=plan,
            options=options_from(about["options"]),
            model=model,
            anatomy=_anatomy(model, plan, self.state.scopes),
            asked=asked,
            data=data,
            baseline_of=typed(str | None, about["baseline_of"], "baseline_of"),  # type: ignore[arg-type]
            previous=self._previous(about),
            event=event_of(about),
            group=typed(str, about["group"], "group"),
        )

    def _checked(self, values: Mapping[str, Any]) -> Plan:
        """Restore a plan after checking its code; plans kept for undo are checked too."""
        plan = Plan.from_json(values)
        scopes = run_files.scopes_of(plan, self.trust, self.names)
        self.state = replace(self.state, scopes={**self.state.scopes, **scopes})
        return plan

    def _previous(self, about: Mapping[str, Any]) -> Run | None:
        """The run that another started from, as it was then."""
        assert self.store.folder is not None
        name = about["previous"]
        if name is None:
            return None
        if (file := self.store.folder.start_file(about["run"])).exists():
            return self._made_again(*checkpoint.read(file))[1]
        previous = next((r for r in self.state.runs if r.name == name), None)
        if previous is None:
            raise UsageError(f"run {name!r}, from which {about['run']!r} started, is not there")
        return previous

    def _take_run(self, name: str) -> None:
        """A run with its network; where that cannot be made again, its record, and a line about it."""
        assert self.store.folder is not None
        about, saved = checkpoint.read(self.store.folder.run_file(name))
        record = self._record(about)
        try:
            job, run = self._made_again(about, saved)
            self._add(job, about)
        except (UsageError, ModelError, PlanError) as error:
            run, kept = (
                record,
                "came back as a record without its network" if record else "is left out",
            )
            self.missing[name] = one_line(str(error))
            line = f"run {name!r} {kept}: {self.missing[name]}"
            self.state = losing(self.state, line)
        if run is not None:
            self.state = replace(self.state, runs=(*self.state.runs, run))

    def _record(self, about: Mapping[str, Any]) -> Run | None:
        """What a run was, once its code is known to be harmless; None of one that has not ended."""
        plan = self._checked(about["plan"])
        return run_files.record_of(about, plan) if "record" in about else None

    def _made_again(self, about: Mapping[str, Any], found: Checkpoint) -> tuple[Job, Run | None]:
        """What a run was to do, and the run with its network if it has ended."""
        job = self._job(about)
        if "record" not in about:
            return job, None
        scopes = self.state.scopes
        return job, run_files.restored(about, found, job.model, job.plan, scopes, job.previous)


def losing(state: SessionState, line: str) -> SessionState:
    """The state with a line about what did not come back."""
    return replace(state, lost=(*state.lost, one_line(line)))


def _lines(values: Any) -> list[str]:
    """The transcript, which `%tl_script` will show: magics, calls and comments, nothing else."""
    lines = typed(list[str], values, "lines")
    strange = [
        text
        for text in lines
        if one_line(text) != text or not text.startswith(("%tl_", "tl.", "#"))
    ]
    if strange:
        raise ValueError(f"not a line that a magic writes: {strange[0]!r}")
    return lines


def _anatomy(model: PretrainedModel, plan: Plan, scopes: Scopes) -> Anatomy:
    network = build(model, plan.edits, "pretrained", 0, scopes)
    check_activations(network, model.module, plan.edits, model.transform.size)
    return read_anatomy(network, model.transform.size, model.name)
