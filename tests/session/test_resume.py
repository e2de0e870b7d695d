"""Going on: after an interrupt, after a killed kernel, with a full disk, with too little memory."""

from __future__ import annotations

import json
import random
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tests.resuming import begun, own_home, same, stop_after  # noqa: F401 - a fixture of every test here
from tlnb.core.runtime.device import machine
from tlnb.core.runtime.errors import MemoryLimit, UsageError
from tlnb.core.training import checkpoint, session_folder
from tlnb.core.training.batches import MicroBatches
from tlnb.core.training.epoch import train_epoch
from tlnb.core.training.optimizers import one_cycle
from tlnb.core.training.run import Run
from tlnb.session import Session


@pytest.mark.parametrize(
    ("strategy", "per_class"), [("head", 2), ("partial", 20), ("full", 2), ("scratch", 2)]
)
def test_a_resumed_run_equals_an_uninterrupted_one(strategy: str, per_class: int):
    whole = begun(per_class, strategy).train(epochs=5)
    session = begun(per_class, strategy)
    stop_after(session, 2)
    stopped = session.train(epochs=5)
    assert (
        stopped.status == "stopped"
        and len(stopped.epochs) == 2
        and "%tl_resume" in stopped.notes[-1]
    )
    session.report = None
    resumed = session.resume()
    assert session.runs == [resumed] and resumed.status == "finished"
    same(resumed, whole)
    assert sum(c.seconds for c in session.bill.charges) == pytest.approx(
        sum(resumed.seconds.values())
    )
    assert resumed.work == whole.work
    with pytest.raises(UsageError, match="no run of this session was stopped"):
        session.resume()


def test_a_later_kernel_goes_on_where_an_earlier_one_ended(monkeypatch):
    first = begun(strategy="head")
    first.train(epochs=3, name="done")
    first.strategy("partial")
    first.freeze("layer4.bn1")
    stop_after(first, 1)
    first.train(epochs=4, from_="done")
    first.store.close()  # as the end of its kernel does
    later = Session()
    resumed = later.resume()
    assert (
        isinstance(resumed, Run) and resumed.status == "finished" and resumed.started_from == "done"
    )
    assert [r.name for r in later.runs] == ["done", "custom"] and later.plan == first.plan
    same(later.runs[0], first.runs[0])
    assert later.script().count("%tl_train") == 2 and "%tl_load glyphnet" in later.script()
    uninterrupted = begun(strategy="head")
    uninterrupted.train(epochs=3, name="done")
    uninterrupted.strategy("partial")
    uninterrupted.freeze("layer4.bn1")
    same(resumed, uninterrupted.train(epochs=4, from_="done"))
    assert later.undo().strategy == "partial"
    assert later.errors("done").run == "done"


def test_a_session_without_a_stopped_run_comes_back_as_it_was():
    first = begun(strategy="head")
    first.train(epochs=2)
    first.train(scratch=True, epochs=2)
    first.store.close()
    later = Session()
    assert later.resume() is later
    assert [r.name for r in later.runs] == [
        "head",
        "scratch",
    ] and later.bill.total.seconds == first.bill.total.seconds
    assert later.runs[1].baseline_of == "head"
    assert later.compare().speedup is None or later.compare().speedup > 0
    with pytest.raises(UsageError, match="%tl_reset first"):
        later.resume(session_folder.home_folder())


def test_a_running_kernel_keeps_its_session_to_itself():
    first = begun(strategy="head")
    first.train(epochs=1)
    with pytest.raises(UsageError, match="except those of running kernels"):
        Session().resume()


def test_data_from_python_and_own_modules_are_asked_for():
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 255, (24, 16, 16), dtype=np.uint8), ["a", "b"] * 12

    def net() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 14 * 14, 2))

    first = Session()
    first.data(images, labels)
    first.load(net(), size=16, called="net")
    first.strategy("full")
    stop_after(first, 1)
    first.train(epochs=3)
    first.store.close()
    later = Session()
    with pytest.raises(UsageError, match=r"tl\.data\(images, labels\) first"):
        later.resume()
    later.data(images, labels)
    with pytest.raises(UsageError, match="your own module 'net'"):
        later.resume()
    assert later.runs == [] and later.model is None
    resumed = later.resume(names={"net": net()})
    assert resumed.status == "finished" and len(resumed.epochs) == 3


def test_a_model_that_a_run_made_of_ones_own_module_asks_for_that_module():
    def net() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, 2))

    first = begun()
    first.load(net(), called="net")
    run = first.train(epochs=1, name="one")
    first.load(run)
    first.train(epochs=1, name="two")
    first.store.close()
    later = Session()
    with pytest.raises(UsageError, match=r"run 'one' is needed: .* own module 'net': build it"):
        later.resume()
    assert later.runs == [] and later.model is None
    later.resume(names={"net": net()})
    assert (
        later.model.name == "one" and all(r.network() for r in later.runs) and not later.state.lost
    )


def test_code_of_ones_own_is_not_run_without_trust():
    first = begun(strategy="head")
    first.add("before:head", "make()", {"make": lambda: nn.Dropout(0.1)})
    first.train(epochs=1)
    first.store.close()
    with pytest.raises(UsageError, match="--trust"):
        Session().resume()
    later = Session()
    later.resume(trust=True, names={"make": lambda: nn.Dropout(0.1)})
    assert later.plan == first.plan


def rewritten(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """A session's file changed by someone who gets the checksum right."""
    outer = json.loads((folder / "session.json").read_text())
    values = json.loads(outer["session"])
    change(values)
    text = json.dumps(values)
    outer |= {"session": text, "crc32": zlib.crc32(text.encode())}
    (folder / "session.json").write_text(json.dumps(outer))


def with_code(plan: dict[str, Any], mark: Path) -> dict[str, Any]:
    code = f"__import__('pathlib').Path({str(mark)!r}).touch()"
    edit = {"kind": "add", "name": "head", "code": code, "where": "before", "part": "before1"}
    return {**plan, "edits": [*plan["edits"], edit]}


def test_code_is_found_wherever_it_stands(tmp_path: Path):
    """In the plan that undo would go back to; in the record of a run whose own plan is harmless."""
    mark = tmp_path / "it-ran"
    first = begun(strategy="head")
    first.train(epochs=1)
    first.store.close()
    folder = first.store.folder.path
    whole = (folder / "session.json").read_text()
    rewritten(folder, lambda values: values["history"].append(with_code(values["plan"], mark)))
    with pytest.raises(UsageError, match="--trust"):
        Session().resume()
    (folder / "session.json").write_text(whole)
    file = folder / "runs" / "head.safetensors"
    about, found = checkpoint.read(file)
    record = json.loads(about["record"])
    record["plan"] = with_code(record["plan"], mark)
    checkpoint.write(file, {**about, "record": json.dumps(record)}, found)
    with pytest.raises(UsageError, match="has another plan"):
        Session().resume()
    assert not mark.exists()


def test_lines_that_no_magic_writes_are_refused():
    first = begun(strategy="head")
    first.train(epochs=1)
    first.store.close()
    rewritten(
        first.store.folder.path, lambda values: values["lines"].append("%tl_train\n!touch pwned")
    )
    with pytest.raises(UsageError, match="is damaged .*not a line that a magic writes"):
        Session().resume()


def test_a_damaged_session_does_not_hide_the_one_before():
    for name in ("early", "late"):
        session = begun(strategy="head")
        session.train(epochs=1, name=name)
        session.store.close()
        time.sleep(1.1)  # folders are called by the second
    file = session.store.folder.path / "session.json"
    file.write_text(file.read_text().replace("late", "lame"))
    later = Session()
    assert later.resume() is later and [r.name for r in later.runs] == ["early"]
    with pytest.raises(UsageError, match="its checksum differs"):
        Session().resume(file.parent)


@pytest.mark.parametrize("where", [0, 20, -2000, -1])
def test_a_damaged_checkpoint_is_never_read_as_good(tmp_path: Path, where: int):
    session = begun(strategy="partial")
    stop_after(session, 1)
    session.train(epochs=3)
    path = session.store.folder.run_file("partial")
    content = bytearray(path.read_bytes())
    content[where] ^= 0x41
    path.write_bytes(bytes(content))
    with pytest.raises(UsageError, match="partial.safetensors"):
        session.resume()
    assert len(session.runs) == 1


def test_a_full_disk_stops_no_run(monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "write", full)
    for at_risk, words in (
        ("0", "no checkpoint from epoch 1 on (No space left on device)"),
        ("1000", "cached views"),
    ):
        monkeypatch.setenv("TLNB_AT_RISK", at_risk)
        session = begun(strategy="head")
        run = session.train(epochs=3)
        assert run.status == "finished" and len(run.epochs) == 3 and session.runs == [run]
        assert words in run.notes[-2] and run.notes[-1].startswith(
            "not kept on disk (No space left on device)"
        )


def test_a_home_that_cannot_be_written_stops_no_run(tmp_path: Path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TLNB_HOME", str(tmp_path / "file" / "home"))
    run = begun(strategy="head").train(epochs=2)
    assert run.status == "finished" and run.notes[-1].startswith(
        "not kept on disk (Not a directory)"
    )


# ── memory ────────────────────────────────────────────────────────────────────────────────────────────────────────


class Hungry(nn.Module):
    """Linear, and out of memory for more than so many rows."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.layer, self.most = nn.Linear(6, 3), most

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        if len(rows) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")
        return self.layer(rows)


@pytest.mark.parametrize("weights", [None, torch.tensor([1.0, 2.0, 5.0])])
def test_out_of_memory_gives_the_same_result_in_pieces(weights):
    generator = torch.Generator().manual_seed(0)
    batches = [
        (torch.randn(13, 6, generator=generator), torch.randint(0, 3, (13,), generator=generator))
        for _ in range(4)
    ]
    found = []
    for most in (100, 3):
        torch.manual_seed(1)
        module, micro_batches = Hungry(most), MicroBatches()
        optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
        loss, right = train_epoch(
            module,
            batches,
            optimizer,
            one_cycle(optimizer, 4),
            machine("cpu", "fp32"),
            class_weights=weights,
            micro_batches=micro_batches,
        )
        weight = module.layer.weight.detach().clone()
        found.append((loss, weight, micro_batches.count, right))
    assert found[0][2] == 1 and found[1][2] == 8
    assert 0 < found[0][3] == found[1][3] < 1  # images counted once, whole or in pieces
    assert found[0][0] == pytest.approx(found[1][0], abs=1e-6)
    assert torch.allclose(found[0][1], found[1][1], atol=1e-6)


def test_a_run_that_runs_out_of_memory_goes_on_in_pieces_and_says_so(monkeypatch):
    session = begun(strategy="partial")
    plain = session.train(epochs=2, batch_size=20, augment="none")
    real = torch.nn.functional.cross_entropy

    def greedy(scores, labels, *args, **kwargs):
        if len(labels) > 6:
            raise torch.OutOfMemoryError("out of memory")
        return real(scores, labels, *args, **kwargs)

    monkeypatch.setattr(torch.nn.functional, "cross_entropy", greedy)
    run = session.train(epochs=2, batch_size=20, augment="none")
    assert run.status == "finished" and "4 pieces; batch statistics are of the pieces" in " ".join(
        run.notes
    )
    assert len(run.epochs) == len(plain.epochs)

    def never(*_, **__):
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(torch.nn.functional, "cross_entropy", never)
    runs = list(session.runs)
    with pytest.raises(MemoryLimit, match="not even one image fits"):
        session.train(epochs=2)
    assert session.runs == runs


def test_a_loss_that_is_no_number_stops_with_the_advice_that_fits():
    session = Session()
    session.data("digits", per_class=2)
    deep = [part for _ in range(20) for part in (nn.Linear(64, 64), nn.ReLU())]
    session.load(
        nn.Sequential(nn.AvgPool2d(4), nn.Flatten(), nn.Linear(192, 64), *deep, nn.Linear(64, 10)),
        size=32,
    )
    session.strategy("full")
    run = session.train(epochs=6, lr=90.0, batch_size=4, augment="none")
    assert run.status == "failed" and len(run.epochs) < 6
    assert "--lr 90 is 9e+05 times what is usual here: try --lr 0.0001" in run.notes[-1]
    assert "weights are those" in run.notes[-1]
    assert all(torch.isfinite(t).all() for t in run.module().state_dict().values())


def test_global_random_state_stays_as_it_was(monkeypatch):
    session = begun(strategy="full")
    torch.manual_seed(3)
    random.seed(3)
    np.random.seed(3)
    before = torch.random.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    session.train(epochs=1)
    after = torch.random.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    assert torch.equal(before[0], after[0]) and before[1:] == after[1:]


def test_a_run_whose_batches_were_joined_goes_on():
    """Eleven images in batches of two would leave one alone: the batches are of three, and so is what is gone on with."""
    session = Session()
    session.data("digits", limit=11)
    session.load("glyphnet")
    session.strategy("full")
    stop_after(session, 2)
    stopped = session.train(epochs=4, batch_size=2, augment="none")
    session.report = lambda _: None
    resumed = session.resume()
    assert stopped.status == "stopped" and resumed.status == "finished" and len(resumed.epochs) == 4
    assert sum("batches of 3" in note for note in resumed.notes) == 1
