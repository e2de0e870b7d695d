"""Exports: a run's file, a job file, a plain PyTorch script, a cell of magics."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from tlnb.core.data.dataset import DataFacts
from tlnb.core.planning.edit import build
from tlnb.core.planning.magic_lines import line, train_line
from tlnb.core.planning.old_names import takes_old_names
from tlnb.core.planning.options import Asked, TrainOptions
from tlnb.core.planning.plan import Plan
from tlnb.core.planning.recipes import recipe
from tlnb.core.runtime.device import machine
from tlnb.core.runtime.errors import UsageError
from tlnb.core.runtime.paths import user_path
from tlnb.core.training.run import Run
from tlnb.session.job_planner import plan_job
from tlnb.session.run_registry import has_plain_run, last_run, name_of
from tlnb.session.session_base import SessionBase
from tlnb.session.state import Network, SessionState

if TYPE_CHECKING:  # imported where they are used, so that the extension loads fast
    from torch import Tensor

    from tlnb.core.export.pytorch_script import Script
    from tlnb.core.export.save import Saved


@takes_old_names
def save(
    self: SessionBase,
    file: str | Path | None = None,
    run: str | Run | None = None,
    *,
    job: str | Path | None = None,
    runtime: str | Path | None = None,
    **asked: Unpack[Asked],
) -> Saved:
    """Save a run to a file: its network, plan, classes, preprocessing and record.

    Args:
        file: ending in `.safetensors` (`%tl_load` reads it), `.pt2` (torch.export), `.onnx`, or
            `.html`: a page that runs the network in a browser. Default: the run's name, in the
            current folder.
        run: default: the latest that is not a baseline.
        job: write what `train` with the options `asked` would do to this file instead, for
            `python -m tlnb train FILE --out DIR`; it needs no run.
        runtime: for a page, a folder with ONNX Runtime Web (`npm pack onnxruntime-web`), which is
            put into it; default: the page fetches it from a CDN.

    Raises:
        UsageError: no run, an unknown ending, a folder that cannot be written to, a missing
            package, a page that is too large; for a job, data or a module from Python.
        ModelError: ONNX cannot express the network.
    """
    if job is not None:
        if file is not None or run is not None or runtime is not None:
            raise UsageError(
                f"--job {user_path(job)} already names the file: leave out FILE, --run and "
                "--runtime"
            )
        written = _save_job(self.current(), user_path(job), asked)
        self.record(train_line(asked, "tl_save", job=user_path(job)))
        return written
    if train_line(asked) != "%tl_train":
        raise UsageError(
            "training options need --job FILE: a run is saved with the options it was trained with"
        )
    written = _save_run(self.state, file, last_run(self.state, run), runtime)
    folder = None if runtime is None else user_path(runtime)
    self.record(line("tl_save", file, run=name_of(run), runtime=folder) if file else "%tl_save")
    return written


def _save_run(
    state: SessionState, file: str | Path | None, run: Run, runtime: str | Path | None
) -> Saved:
    from tlnb.core.export.save import save

    if run.name not in state.networks:
        raise UsageError(f"run {run.name!r} belongs to another session: save it from there")
    model = replace(state.networks[run.name][0], transform=run.transform())
    path = user_path(file or file_name(run.name))
    return save(run, model, path, _images(state), runtime)


def file_name(run: str, ending: str = ".safetensors") -> str:
    """What a run's file is called if nothing else is said."""
    return (re.sub(r"[^\w.-]+", "-", run).strip("-.") or "run") + ending


def _images(state: SessionState) -> Tensor | None:
    """A few images of the data in use: those of the first split, spread over its classes."""
    from tlnb.core.export.onnx_file import MOST_IMAGES

    splits = state.dataset.images if state.dataset else {}
    rows = next((splits[name] for name in ("test", "val", "train") if name in splits), None)
    return None if rows is None or not len(rows) else rows[:: -(-len(rows) // MOST_IMAGES)]


def _save_job(state: SessionState, path: Path, asked: Asked) -> Saved:
    from tlnb.session.job_file import write_job

    return write_job(plan_job(state, asked), path)


def script(self: SessionBase) -> Script:
    """Return the session as a cell of magics."""
    from tlnb.core.export.pytorch_script import Script

    return Script("\n".join(["%load_ext tlnb", *self.transcript]), "the session as magics")


def code(
    self: SessionBase, run: str | Run | None = None, *, out: str | Path | None = None
) -> Script:
    """Write a run, or without runs the current plan, as a plain PyTorch script without tlnb.

    Args:
        run: default: the latest that is not a baseline. The script's first lines name it.
        out: a file to write the script to.

    Raises:
        UsageError: no run has that name; no data, model or plan yet; a way of training that no
            script supports; a file that cannot be written.
    """
    planned = run is None and not has_plain_run(self.state)
    text = _script_of_plan(self.current()) if planned else _script_of_run(self.state, run)
    if out is not None:
        try:
            user_path(out).write_text(str.__str__(text), "utf8")
        except OSError as error:
            raise UsageError(
                f"{str(out)!r} cannot be written ({error.strerror}): "
                "choose a folder that you can write to"
            ) from None
    return text


def _script_of_run(state: SessionState, which: str | Run | None) -> Script:
    run = last_run(state, which)
    if run.name not in state.facts or run.name not in state.networks:
        raise UsageError(
            f"run {run.name!r} was not trained in this session: %tl_code needs a run that was"
        )
    network, facts = state.networks[run.name], state.facts[run.name]
    return script_of(state, network, facts, run.plan, run.options, precision=run.precision, run=run)


def _script_of_plan(state: SessionState) -> Script:
    data = state.data()
    _, anatomy, plan = state.loaded()
    options = plan.options.filled(recipe(plan, data, plan.options.optimizer))
    precision = machine(options.device, options.precision).precision
    network = (state.sized(), anatomy)
    return script_of(state, network, data.facts, plan, options, precision)


def script_of(
    state: SessionState,
    network: Network,
    data: DataFacts,
    plan: Plan,
    options: TrainOptions,
    precision: str,
    run: Run | None = None,
) -> Script:
    """Write a training as a plain PyTorch script.

    Raises:
        UsageError: a way of training that no script supports.
    """
    from tlnb.core.export.pytorch_script import ScriptFacts, write_script

    model, anatomy = network
    case = ScriptFacts(
        model=model,
        network=build(model, plan.edits, "pretrained", 0, state.scopes),
        anatomy=anatomy,
        data=data,
        plan=plan,
        options=options,
        precision=precision,
        run=run,
        scopes=state.scopes,
    )
    return write_script(case)
