"""Beyond one machine: several processes train as one would, go on after a kill, stop together; studies are shared."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.conftest import picture
from tlnb.core.costs.prices import list_price
from tlnb.core.runtime import distributed
from tlnb.core.runtime.distributed import Ranks
from tlnb.core.runtime.errors import UsageError
from tlnb.core.training.run import Run
from tlnb.session import Session
from tlnb.session.job_runner import search

ROOT = Path(__file__).parents[3]
TIMEOUT = 300

# ── the same losses ───────────────────────────────────────────────────────────────────────────────────────────────


def plain() -> nn.Module:
    """A network without batch statistics; with dropout before its output layer, as many have."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.GroupNorm(2, 8), nn.ReLU()),
        nn.Sequential(
            nn.Conv2d(8, 16, 3, 2, 1),
            nn.GroupNorm(2, 16),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        ),
        nn.Sequential(nn.Dropout(0.3), nn.Linear(16, 5)),
    )


# name → (network, strategy, labels a class, options); 30 images in batches of 8 are 8, 8, 7, 7: halves are uneven
CASES: dict[str, tuple[str, str, int, dict[str, Any]]] = {
    "head": ("glyphnet", "head", 3, {}),
    "no cache": ("glyphnet", "head", 3, {"cache": False}),
    "lbfgs": ("glyphnet", "head", 3, {"optimizer": "lbfgs"}),
    "plain head": ("plain", "head", 3, {}),
    "plain partial": ("plain", "partial", 3, {}),
    "plain full": ("plain", "full", 3, {"class_weights": True}),
    "plain scratch": ("plain", "scratch", 3, {}),
    "some idle": ("plain", "full", 1, {"batch_size": 1}),
    "held out": ("glyphnet", "head", 20, {"batch_size": 64}),
    "folds": ("glyphnet", "head", 5, {}),
    "kept statistics": ("glyphnet", "full", 3, {"batch_statistics": False}),
    "batch statistics": ("glyphnet", "full", 3, {}),
}


@cache
def trained(case: str) -> Run:
    network, strategy, per_class, options = CASES[case]
    session = Session()
    session.store.writes = distributed.ranks().is_main
    session.data("digits", per_class=per_class)
    if network == "plain":
        session.load(plain(), size=32, called="plain")
    else:
        session.load(network)
    session.strategy(strategy)
    return session.train(
        **{"epochs": 3, "batch_size": 8, "precision": "fp32", "augment": "light", **options}
    )


def work(out: Path) -> None:
    """What each of several processes does: all cases; and two that do not have the same say so."""
    group = distributed.join()
    found = {}
    for case in CASES:
        run = trained(case)
        found[case] = {
            "record": json.loads(run.to_json()),
            "alike": len(set(map(str, group.all_gather_object(run.hashes())))) == 1,
        }
    with pytest.raises(
        UsageError,
        match=r"rank 1 on .* has the data 1, rank 0 on .* has 0: give all of them the same",
    ):
        group.agree({"the job": "x", "the data": str(group.rank)})
    with pytest.raises(UsageError, match="rank 1 of 2: mine"):
        group.together(lambda: complain("mine") if group.rank else None)
    with pytest.raises(UsageError, match="^ours$"):
        group.together(lambda: complain("ours"))
    if group.is_main:
        out.write_text(json.dumps(found))
    distributed.leave()


def complain(words: str) -> None:
    raise UsageError(words)


def torchrun(*arguments: object, restarts: int = 0) -> list[str]:
    how = ["--standalone", "--nproc-per-node", "2", "--max-restarts", str(restarts)]
    return [sys.executable, "-m", "torch.distributed.run", *how, *map(str, arguments)]


def surroundings(tmp_path: Path) -> dict[str, str]:
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return {
        **os.environ,
        "PYTHONPATH": path,
        "OMP_NUM_THREADS": "1",
        "TLNB_HOME": str(tmp_path / "home"),
    }


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Every case, done by two processes."""
    folder = tmp_path_factory.mktemp("together")
    command = torchrun(__file__, folder / "found.json")
    done = subprocess.run(
        command, env=surroundings(folder), capture_output=True, text=True, timeout=TIMEOUT
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return dict(json.loads((folder / "found.json").read_text()))


@pytest.mark.parametrize("case", [c for c in CASES if c != "batch statistics"])
def test_two_processes_give_the_losses_of_one(together: dict[str, Any], case: str):
    here, there = trained(case), Run.from_json(json.dumps(together[case]["record"]))
    assert together[case]["alike"]  # both processes end with the same network, to the bit
    same_losses(here, there)
    assert there.processes == 2 and here.processes == 1
    assert there.accuracy == pytest.approx(here.accuracy, abs=0.003) and there.moved == here.moved
    assert there.cache == here.cache
    if (
        here.options.optimizer == "lbfgs"
    ):  # a line search may ask once more where sums differ in their last digits
        assert there.work.steps == pytest.approx(here.work.steps, rel=0.25)
    else:
        assert there.work == here.work


@pytest.mark.parametrize("case", ["held out", "folds"])
def test_two_processes_calibrate_as_one(together: dict[str, Any], case: str):
    here, there = trained(case), Run.from_json(json.dumps(together[case]["record"]))
    assert here.calibration is not None and there.calibration is not None
    assert there.calibration.method == here.calibration.method
    assert there.calibration.labels == here.calibration.labels
    for figure in ("temperature", "threshold"):
        assert getattr(there.calibration, figure) == pytest.approx(
            getattr(here.calibration, figure), rel=0.02
        )
    spent = there.flops_by_phase["evaluating"]
    assert spent == pytest.approx(here.flops_by_phase["evaluating"], rel=0.001)


def same_losses(one: Run, other: Run) -> None:
    losses, others = ([e.train_loss for e in run.epochs] for run in (one, other))
    assert others[0] == pytest.approx(losses[0], abs=1e-4)
    assert others == pytest.approx(losses, abs=1e-3)
    shares, both = ([e.train_accuracy for e in run.epochs] for run in (one, other))
    assert both == pytest.approx(shares, abs=0.03)  # each image is counted by one process


def test_what_both_processes_spend_is_counted_once(together: dict[str, Any]):
    here, there = trained("head"), Run.from_json(json.dumps(together["head"]["record"]))
    for phase in ("training", "evaluating"):
        assert there.flops_by_phase[phase] == pytest.approx(here.flops_by_phase[phase])
    assert there.flops_by_phase["caching"] == pytest.approx(
        here.flops_by_phase["caching"], rel=0.001
    )
    seconds = sum(there.seconds.values())
    hour = list_price(there.device, there.hardware, there.threads)
    assert (
        there.money == pytest.approx(2 * hour.of(seconds)) and "2 processes" in there.bases["money"]
    )
    assert there.energy_wh > 0


def test_batch_statistics_of_a_processor_are_each_processs_own_and_the_run_says_so(
    together: dict[str, Any],
):
    here, there = (
        trained("batch statistics"),
        Run.from_json(json.dumps(together["batch statistics"]["record"])),
    )
    assert together["batch statistics"]["alike"] and there.moved == here.moved
    assert any("batch statistics are each process's own" in note for note in there.notes)
    assert not any("batch statistics" in note for note in here.notes)
    losses, others = ([e.train_loss for e in run.epochs] for run in (here, there))
    assert others != pytest.approx(losses, abs=1e-4) and others == pytest.approx(losses, abs=0.5)


@pytest.mark.parametrize("count", [1, 2, 3, 64])
@pytest.mark.parametrize("length", [0, 1, 2, 7, 64, 200])
def test_shards_are_nearly_equal_and_together_the_whole(count: int, length: int):
    parts = [Ranks(rank=rank, count=count).shard(length) for rank in range(count)]
    assert [i for part in parts for i in range(length)[part]] == list(range(length))
    sizes = [part.stop - part.start for part in parts]
    assert max(sizes) - min(sizes) <= 1 and sizes == sorted(sizes, reverse=True)
    assert all(
        part == Ranks(rank=0, count=count).shard(length, rank) for rank, part in enumerate(parts)
    )


# ── jobs ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def job(tmp_path: Path, **options: Any) -> Path:
    session = Session()
    session.data("digits", per_class=2)
    session.load("glyphnet")
    session.save(
        job=tmp_path / "job.json",
        **{"batch_size": 8, "precision": "fp32", "augment": "none", **options},
    )
    return tmp_path / "job.json"


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
def test_a_training_whose_processes_are_killed_goes_on_by_itself(tmp_path: Path):
    file, out = job(tmp_path, epochs=200), tmp_path / "out"
    command = torchrun("-m", "tlnb", "train", file, "--out", out, restarts=3)
    with (tmp_path / "log").open("w") as log:
        every = {**surroundings(tmp_path), "TLNB_AT_RISK": "0"}  # each epoch is written
        agent = subprocess.Popen(command, env=every, stdout=log, stderr=log, cwd=tmp_path)
    try:
        for rank in (1, 0):
            kept = until(agent, lambda: workers(agent.pid) and latest(out))
            until(
                agent, lambda kept=kept: latest(out) != kept
            )  # this start has kept an epoch of its own
            os.kill(workers(agent.pid)[rank], signal.SIGKILL)
        assert agent.wait(TIMEOUT) == 0, (tmp_path / "log").read_text()[-3000:]
    finally:
        agent.terminate()
    run = Run.from_json((out / "run.json").read_text())
    assert run.status == "finished" and len(run.epochs) == 200 and run.processes == 2
    assert any("cut off after epoch" in note and "went on" in note for note in run.notes)
    assert not list(out.rglob("*.part"))
    session = Session()
    session.data("digits", per_class=2)
    session.load("glyphnet")
    same_losses(session.train(epochs=200, batch_size=8, precision="fp32", augment="none"), run)
    assert (
        "<title>Run head</title>" in (out / "card.html").read_text()
        and "2 processes" in (out / "card.html").read_text()
    )
    later = Session()
    assert later.resume(out) is later
    assert [r.epochs for r in later.runs] == [run.epochs] and later.errors(
        "head"
    ).accuracy == run.accuracy


def until(agent: subprocess.Popen[bytes], what: Any) -> Any:
    """Wait until something is so, and say what it is."""
    end = time.monotonic() + TIMEOUT
    while not (found := what()):
        assert agent.poll() is None and time.monotonic() < end
        time.sleep(0.01)
    return found


def latest(out: Path) -> int:
    """When the last checkpoint was written; 0 before the first."""
    return max((p.stat().st_mtime_ns for p in out.glob("session/runs/head.safetensors")), default=0)


def workers(agent: int) -> list[int]:
    """torchrun's processes, by rank."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if int((folder / "stat").read_text().rpartition(")")[2].split()[1]) == agent:
                said = (folder / "environ").read_bytes().split(b"\0")
                rank = [int(v.removeprefix(b"RANK=")) for v in said if v.startswith(b"RANK=")]
                found.update({r: int(folder.name) for r in rank})
    return [found[rank] for rank in sorted(found)] if len(found) == 2 else []


# ── what goes wrong ───────────────────────────────────────────────────────────────────────────────────────────────

ELSEWHERE = "import os, sys; os.chdir(os.environ['RANK']); from tlnb.cli import main; sys.exit(main(sys.argv[1:]))"


@pytest.fixture
def apart(tmp_path: Path) -> Iterator[Path]:
    """Two folders, one for each rank, with the same photos and the job file that was written for them."""
    for i in range(6):
        picture(tmp_path / "0" / "photos" / "bright" / f"{i}.png", 190 + i)
        picture(tmp_path / "0" / "photos" / "dark" / f"{i}.png", 40 + i)
    session = Session()
    session.data(tmp_path / "0" / "photos")
    session.load("glyphnet")
    session.save(job=tmp_path / "job.json", epochs=2)
    values = json.loads((tmp_path / "job.json").read_text())
    values["facts"]["request"]["source"] = "photos"
    (tmp_path / "0" / "job.json").write_text(json.dumps(values))
    shutil.copytree(tmp_path / "0", tmp_path / "1")
    (tmp_path / "start.py").write_text(ELSEWHERE)
    yield tmp_path


def without_photos(folder: Path) -> str:
    shutil.rmtree(folder / "photos")
    return "rank 1 of 2: 'photos' is neither a data set nor a folder"


def with_another_photo(folder: Path) -> str:
    picture(folder / "photos" / "dark" / "0.png", 90)
    return "rank 1 of 2: the images in 'photos' have changed since the job was written"


def of_another_version(folder: Path) -> str:
    for rank in "01":
        file = folder.parent / rank / "job.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), "schema": 9}))
    return "job.json has schema 9, expected 1: write it again with %tl_save --job"


@pytest.mark.parametrize(
    "spoil",
    [
        without_photos,
        *(
            pytest.param(s, marks=pytest.mark.slow)
            for s in (with_another_photo, of_another_version)
        ),
    ],
)
def test_what_is_wrong_on_one_rank_stops_all_with_one_line(apart: Path, spoil: Any):
    words = spoil(apart / "1")
    command = torchrun(apart / "start.py", "train", "job.json", "--out", apart / "out")
    done = subprocess.run(
        command, env=surroundings(apart), capture_output=True, text=True, timeout=TIMEOUT, cwd=apart
    )
    said = [line for line in (done.stdout + done.stderr).splitlines() if "tlnb: " in line]
    assert done.returncode != 0 and len(said) == 1 and words in said[0], done.stderr[-3000:]
    assert (
        "Traceback (most recent call last)"
        not in done.stderr.split("torch/distributed/elastic", 1)[0]
    )  # torchrun has one of its own
    assert not (apart / "out").exists() and not list(apart.glob("*/.tlnb"))


# ── a study of several processes ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.slow
def test_workers_share_a_study_and_a_killed_one_takes_no_finished_trial_with_it(tmp_path: Path):
    pytest.importorskip("optuna")
    file, storage, best = job(tmp_path, epochs=1), tmp_path / "study.log", tmp_path / "best.json"
    command = [
        sys.executable,
        "-m",
        "tlnb",
        "tune",
        str(file),
        "--storage",
        str(storage),
        "--trials",
    ]
    workers = [
        subprocess.Popen(
            [*command, trials],
            env=surroundings(tmp_path),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for trials in ("10000", "2")
    ]
    killed, other = workers
    said, wrong = other.communicate(timeout=TIMEOUT)
    killed.kill()
    killed.communicate()
    assert other.returncode == 0 and "The best trial" in said, wrong[-2000:]
    finished = trials_in(storage)
    assert len(finished) >= 2 and sum(t.params["lr"] == pytest.approx(0.01) for t in finished) <= 1
    found = search(Session(), file, str(storage), 1, best)
    after = trials_in(storage)
    assert (
        len(after) == len(found.trials) == len(finished) + 1 and after[: len(finished)] == finished
    )
    drawn = [tuple(t.params.values()) for t in after]
    assert len(set(drawn)) == len(drawn)  # no two workers drew the same
    chosen = json.loads(best.read_text())
    assert found.best is not None and chosen["options"]["lr"] == found.best.values["lr"]
    assert chosen["plan"]["tuned"] == found.name


def trials_in(storage: Path) -> list[Any]:
    """Trials that were judged or pruned, oldest first."""
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    place = JournalStorage(JournalFileBackend(str(storage)))
    study = optuna.load_study(study_name=None, storage=place)
    return [t for t in study.get_trials() if t.state.is_finished()]


if __name__ == "__main__":
    work(Path(sys.argv[1]))
