"""A checkpoint from elsewhere: what does not belong to the training is refused before anything is built from it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.safety.cases import drawn, refused
from tlnb.core.planning.edit import build
from tlnb.core.training import checkpoint
from tlnb.core.training.checkpoint import Checkpoint
from tlnb.core.training.checkpoint_check import check_fits
from tlnb.core.training.optimizers import AdamW, one_cycle, parameter_groups, parameters_of
from tlnb.session import Session
from tlnb.session.job import Job


@dataclass
class Stopped:
    """A run that was stopped after its first epoch."""

    session: Session
    job: Job
    file: Path
    about: dict[str, Any]
    found: Checkpoint
    parameters: list[Tensor]
    module: nn.Module

    def check(self, found: Checkpoint) -> str | None:
        job = self.job
        images = len(job.data.labels["train"])
        return refused(
            lambda: check_fits(
                found,
                job.name,
                self.module,
                job.plan,
                job.anatomy,
                job.options,
                images,
                self.parameters,
            )
        )


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TLNB_HOME", str(tmp_path_factory.mktemp("home")))
        session = Session()
        session.data("digits", per_class=2)
        session.load("glyphnet")
        session.strategy("partial")

        def report(progress: Any) -> None:
            if progress.phase == "training" and progress.epoch == 1:
                raise KeyboardInterrupt

        session.report = report
        run = session.train(epochs=3, batch_size=8)
        session.report = None
        job, file = session.state.jobs[run.name], session.store.folder.run_file(run.name)
        module = build(job.model, job.plan.edits, job.plan.start, job.options.seed, {})
        groups = parameter_groups(module, job.anatomy, job.plan.trained, job.options)
        parameters = parameters_of(groups)
        yield Stopped(session, job, file, *checkpoint.read(file), parameters, module)


def with_tensors(found: Checkpoint, change: Callable[[dict[str, Tensor]], Any]) -> Checkpoint:
    tensors = dict(found.tensors)
    change(tensors)
    return replace(found, tensors=tensors)


def first(found: Checkpoint, part: str, ending: str = "") -> str:
    return next(k for k in sorted(found.tensors) if k.startswith(part) and k.endswith(ending))


NAN, ODD = torch.tensor(math.nan), torch.zeros(3, 7)
TENSORS = [
    ("optimizer/", "exp_avg", "short", lambda t: t.flatten()[:1]),
    ("optimizer/", "exp_avg_sq", "long", lambda t: torch.zeros(10**5)),
    ("optimizer/", "exp_avg", "of another type", lambda t: t.double()),
    ("optimizer/", "exp_avg", "not finite", lambda t: t * NAN),
    ("optimizer/", "exp_avg_sq", "negative", lambda t: t - 1),
    ("optimizer/", "step", "ahead", lambda t: t + 10**6),
    ("optimizer/", "step", "many", lambda t: torch.ones(5)),
    ("last/", "weight", "of another shape", lambda t: ODD),
    ("last/", "weight", "not finite", lambda t: t * NAN),
    ("last/", "weight", "of another type", lambda t: t.half()),
    ("scale/", "mean", "of another width", lambda t: ODD),
    ("scale/", "spread", "zero", lambda t: t * 0),
    ("scale/", "mean", "not finite", lambda t: t * NAN),
]


@pytest.mark.parametrize(
    ("part", "ending", "how", "change"), TENSORS, ids=[f"{p}{e} {h}" for p, e, h, _ in TENSORS]
)
def test_a_tensor_that_does_not_belong_there_is_refused(
    stopped: Stopped, part: str, ending: str, how: str, change: Any
):
    key = first(stopped.found, part, ending)
    said = stopped.check(
        with_tensors(stopped.found, lambda tensors: tensors.update({key: change(tensors[key])}))
    )
    assert said is not None and "does not fit its training" in said and "%tl_train" in said


@pytest.mark.parametrize("part", ["last/", "optimizer/", "scale/"])
def test_a_tensor_that_is_missing_or_unknown_is_refused(stopped: Stopped, part: str):
    key = first(stopped.found, part)
    assert stopped.check(with_tensors(stopped.found, lambda tensors: tensors.pop(key)))
    for odd in (
        "last/x",
        "optimizer/999999/exp_avg",
        "optimizer/-1/step",
        "optimizer/٣/step",
        "scale/7/mean",
        "best/x",
    ):
        assert stopped.check(
            with_tensors(
                stopped.found, lambda tensors, odd=odd: tensors.update({odd: torch.zeros(1)})
            )
        )


VALUES = {
    "steps": (0, 10**9, -1),
    "pieces": (0, -1, 10**9),
    "best_epoch": (5, -1),
    "epochs": ((),),
    "scaler": (
        {"scale": 1.0},
        {
            "scale": -1.0,
            "growth_factor": 2.0,
            "backoff_factor": 0.5,
            "growth_interval": 2000,
            "_growth_tracker": 0,
        },
    ),
}


@pytest.mark.parametrize(
    ("name", "new"), [(name, new) for name, tried in VALUES.items() for new in tried]
)
def test_a_number_out_of_its_range_is_refused(stopped: Stopped, name: str, new: Any):
    assert stopped.check(stopped.found) is None
    assert stopped.check(replace(stopped.found, **{name: new}))


@pytest.mark.parametrize(
    "change",
    [
        lambda found: replace(found, seconds={"training": math.nan}),
        lambda found: replace(found, flops={"training": -1.0}),
        lambda found: replace(found, best=7.0),
        lambda found: replace(found, work=replace(found.work, images=-3)),
        lambda found: replace(found, epochs=(replace(found.epochs[0], val_accuracy=math.inf),)),
    ],
)
def test_a_figure_that_is_none_is_refused_when_it_is_read(
    stopped: Stopped, tmp_path: Path, change: Any
):
    checkpoint.write(tmp_path / "x.safetensors", stopped.about, change(stopped.found))
    assert "is not a checkpoint, or is damaged" in (
        refused(lambda: checkpoint.read(tmp_path / "x.safetensors")) or ""
    )


def test_a_checkpoint_that_is_refused_leaves_the_session_as_it_was_and_the_run_where_it_stood(
    stopped: Stopped,
):
    key, whole = first(stopped.found, "optimizer/", "exp_avg"), stopped.file.read_bytes()
    broken = with_tensors(stopped.found, lambda tensors: tensors.update({key: torch.zeros(1)}))
    checkpoint.write(stopped.file, stopped.about, broken)
    session, runs = stopped.session, list(stopped.session.runs)
    for _ in range(2):
        assert "exp_avg" in (refused(session.resume) or "")
        assert session.runs == runs
    session.store.close()
    later = Session()
    assert refused(lambda: later.resume(stopped.file.parent.parent))
    assert later.runs == [] and later.model is None and later.dataset is None
    stopped.file.write_bytes(whole)
    assert later.resume(stopped.file.parent.parent).status == "finished"
    later.store.close()


# ── any change ────────────────────────────────────────────────────────────────────────────────────────────────────

shapes = st.lists(st.integers(0, 5), max_size=4)
kinds = st.sampled_from(
    [
        torch.float32,
        torch.float64,
        torch.float16,
        torch.int64,
        torch.uint8,
        torch.bool,
        torch.float8_e5m2,
    ]
)
numbers = st.sampled_from([0, 1, -1, math.nan, math.inf, 10**9])
amounts = st.one_of(numbers, st.integers(-(2**70), 2**70), st.floats())


@st.composite
def changed(draw: Any, found: Checkpoint) -> Checkpoint:
    """A checkpoint with some of its tensors and values changed."""
    tensors, values = dict(found.tensors), {}
    for _ in range(draw(st.integers(1, 3))):
        key = draw(st.sampled_from(sorted(tensors)))
        match draw(st.sampled_from(["shape", "fill", "drop", "name", "swap", "value", "one"])):
            case "shape":
                tensors[key] = torch.zeros(draw(shapes)).to(draw(kinds))
            case "fill":
                tensors[key] = torch.full_like(tensors[key], draw(st.sampled_from([0, 1, 100])))
            case "one" if tensors[key].numel() and tensors[key].dtype == torch.float32:
                tensors[key] = tensors[key].clone()
                tensors[key].view(-1)[-1] = draw(numbers)
            case "drop" if len(tensors) > 1:
                del tensors[key]
            case "name":
                tensors[
                    draw(
                        st.one_of(
                            st.text(max_size=8), st.just(f"optimizer/{draw(st.integers())}/step")
                        )
                    )
                ] = tensors[key].clone()
            case "swap":
                tensors[key] = tensors[draw(st.sampled_from(sorted(tensors)))].clone()
            case _:
                name = draw(
                    st.sampled_from(
                        ["steps", "pieces", "best_epoch", "best", "scaler", "seconds", "epochs"]
                    )
                )
                amount = draw(amounts)
                values[name] = {
                    "scaler": {"scale": amount},
                    "seconds": {"training": amount},
                    "epochs": found.epochs * draw(st.integers(0, 3)),
                }.get(name, amount)
    return replace(found, tensors=tensors, **values)


@drawn(data=st.data())
def test_a_changed_checkpoint_is_refused_or_steps(
    stopped: Stopped, tmp_path_factory: Any, data: st.DataObject
):
    """What is accepted steps: a fused optimiser takes it."""
    place = tmp_path_factory.getbasetemp()
    file, found = place / "run.safetensors", data.draw(changed(stopped.found))
    checkpoint.write(file, stopped.about, found)
    accepted: list[Checkpoint] = []
    refused(lambda: accepted.append(checkpoint.read(file)[1]))
    if not accepted or stopped.check(accepted[0]) is not None:
        return
    parameters = [nn.Parameter(p.detach().clone()) for p in stopped.parameters]
    optimizer = torch.optim.AdamW(parameters, lr=0.001, fused=True)
    scaler = torch.amp.GradScaler(enabled=False)
    AdamW(optimizer=optimizer, schedule=one_cycle(optimizer, 100), scaler=scaler).restore(
        accepted[0]
    )
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    assert all(torch.isfinite(p).all() for p in parameters)
