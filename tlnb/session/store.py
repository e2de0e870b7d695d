"""Saves a session to disk while it runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from tlnb.core.export import run_files
from tlnb.core.runtime.errors import UsageError
from tlnb.core.training import checkpoint
from tlnb.core.training.checkpoint import Checkpoint
from tlnb.core.training.run import Run
from tlnb.core.training.session_folder import SessionFolder, notebook
from tlnb.session.job import Job, is_about
from tlnb.session.state import SessionState

Lines = Sequence[str]  # the transcript


class SessionStore:
    """Writes a session to its folder; if the disk refuses, it stops writing and the run says so."""

    def __init__(self, folder: SessionFolder | None = None, writes: bool = True) -> None:
        self.folder = folder
        self.writes = writes  # only the main process of a distributed training writes
        self._problem = ""  # why nothing can be written

    def begin(self, state: SessionState, lines: Lines, job: Job) -> None:
        """Before a training, save its job."""
        if not self.writes:
            return
        try:
            self.folder = self.folder or SessionFolder.fresh()
            self.folder.run_file(job.name).unlink(missing_ok=True)
            self._write_start(state, job)
            self._write(state, lines, job)
            self._problem = ""
        except OSError as error:
            self._give_up(error)

    def settle(self, path: Path, job: Job) -> Checkpoint | None:
        """Save the session in this folder from now on.

        Returns:
            The checkpoint after the last epoch if the same job was interrupted there, else None.

        Raises:
            UsageError: another process uses the folder, or it cannot be written to.
        """
        try:
            self.folder = SessionFolder(path)
        except OSError as error:
            raise UsageError(
                f"{path} cannot be used ({error.strerror or 'another process is using it'}): "
                "give another --out"
            ) from None
        for half in path.rglob(".*.part"):  # left by a killed process: no other uses the folder
            half.unlink(missing_ok=True)
        file = self.folder.run_file(job.name)
        if not file.exists():
            return None
        about, saved = checkpoint.read(file)
        return saved if is_about(about, job) else None

    def keep(self, job: Job, state: Checkpoint) -> None:
        """Save a run's checkpoint at the end of an epoch.

        Raises:
            OSError: the disk is full, or cannot be written to.
        """
        if self.folder is None:
            self.folder = SessionFolder.fresh()
        self.folder.write_run(job.name, job.about(), state)

    def end(self, state: SessionState, lines: Lines, run: Run) -> str:
        """After a training, save its run; return why that failed, empty if it did not."""
        if self.folder is None:
            return self._problem
        try:
            if run.status != "stopped" or not self.folder.run_file(run.name).exists():
                about = state.jobs[run.name].about(run)
                self.folder.write_run(run.name, about, run_files.finished(run))
            self._write(state, lines)
        except OSError as error:
            self._give_up(error)
        return self._problem

    def write(self, state: SessionState, lines: Lines) -> None:
        """Save the session after any other change: the bill, a plan."""
        if self.folder is not None:
            try:
                self._write(state, lines)
            except OSError:
                self.folder = None

    def checkpoint_of(self, name: str) -> Checkpoint | None:
        """A run's latest checkpoint; None before the end of its first epoch."""
        if self.folder is None or not self.folder.run_file(name).exists():
            return None
        about, saved = checkpoint.read(self.folder.run_file(name))
        return None if "record" in about else saved

    def close(self) -> None:
        """Release the folder."""
        if self.folder is not None:
            self.folder.close()

    def _write_start(self, state: SessionState, job: Job) -> None:
        """A stopped run may go on later: the one that starts from it now needs it as it is."""
        assert self.folder is not None
        previous = job.previous
        if previous is None or previous.status != "stopped":
            self.folder.start_file(job.name).unlink(missing_ok=True)
            return
        about = state.jobs[previous.name].about(previous)
        self.folder.write_start(job.name, about, run_files.finished(previous))

    def _give_up(self, error: OSError) -> None:
        self.folder, self._problem = None, error.strerror or type(error).__name__

    def _write(self, state: SessionState, lines: Lines, running: Job | None = None) -> None:
        assert self.folder is not None
        data, plan = state.dataset, state.plan
        runs = [run.name for run in state.runs]
        self.folder.write_session(
            {
                "notebook": notebook(),
                "data": run_files.facts_to(data.facts) if data else None,
                "fingerprint": data.fingerprint if data else None,
                "asked": dict(state.asked),
                "plan": asdict(plan) if plan else None,
                "history": [asdict(p) for p in state.history],
                "runs": [*runs, *(n for n in state.unfinished if n not in runs)],
                "lines": list(lines),
                "bill": asdict(state.bill),
                "unfinished": list(state.unfinished),
                "running": running.about() if running else None,
            }
        )
