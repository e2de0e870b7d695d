"""What only a GPU shows: that it computes the same, keeps no memory, is never waited for within an epoch, and is measured.

All other tests run on a GPU too where there is one.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from tlnb.core.runtime.device import Machine
from tlnb.core.runtime.energy import meter_of
from tlnb.core.training.run import Run
from tlnb.session import Session

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("TLNB_HOME", str(tmp_path / "home"))


def session_of(network: nn.Module, strategy: str, count: int = 64, edge: int = 64) -> Session:
    """Four classes that differ in brightness."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (count, edge, edge, 3), dtype=np.uint8)
    for i in range(count):
        images[i, : edge // 2] //= 1 + i % 4
    session = Session()
    session.data(images, [i % 4 for i in range(count)])
    session.load(network, size=edge, called="net")
    session.strategy(strategy)
    return session


def losses(run: Run) -> list[float]:
    return [epoch.train_loss for epoch in run.epochs]


def test_the_record_says_where_and_the_result_is_at_home_again(small: Session):
    run = small.train(epochs=2)
    assert run.device == "cuda" and run.hardware == torch.cuda.get_device_name()
    assert all(not p.is_cuda and p.requires_grad for p in run.module().parameters())


@pytest.mark.parametrize("strategy", ["head", "partial", "full"])
def test_processor_and_gpu_agree(small: Session, strategy: str):
    small.strategy(strategy)
    quick = {"epochs": 2, "augment": "none", "precision": "fp32"}
    here, there = (small.train(**quick, device=device) for device in ("cpu", "cuda"))
    assert np.allclose(losses(here), losses(there), rtol=2e-3)


@pytest.mark.parametrize("strategy", ["head", "full"])
def test_a_run_is_a_function_of_its_seed(small: Session, strategy: str):
    small.strategy(strategy)
    one, other = small.train(epochs=3, seed=1), small.train(epochs=3, seed=1)
    assert losses(one) == losses(other)
    pairs = zip(
        one.module().state_dict().values(), other.module().state_dict().values(), strict=True
    )
    assert all(torch.equal(a, b) for a, b in pairs)


def test_random_numbers_and_switches_are_left_as_they_were(small: Session):
    def state() -> tuple[object, ...]:
        cudnn = torch.backends.cudnn
        return cudnn.enabled, cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32

    before, numbers = state(), torch.cuda.get_rng_state()
    small.train(epochs=1)
    assert state() == before and torch.equal(torch.cuda.get_rng_state(), numbers)


@pytest.mark.parametrize("cache", [True, False])
def test_memory_comes_back(cache: bool):
    session = session_of(
        torchvision.models.resnet18(num_classes=4), "full" if not cache else "partial"
    )
    session.train(
        epochs=1, cache=cache
    )  # what torch takes once for the process, and what is cached for later runs
    before = torch.cuda.memory_allocated()
    session.train(epochs=1, cache=cache)
    assert torch.cuda.memory_allocated() <= before
    assert torch.cuda.memory_reserved() <= torch.cuda.memory_allocated() + 64 * 2**20


def test_more_steps_do_not_wait_more_often():
    """Asking a GPU for a number stops the line of work before it. An epoch does so at its end."""

    def waits(batch_size: int) -> int:
        session = session_of(torchvision.models.resnet18(num_classes=4), "full")
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                session.train(epochs=2, batch_size=batch_size, augment="photo")
            finally:
                torch.cuda.set_sync_debug_mode("default")
        return sum("synchroniz" in str(warning.message) for warning in said)

    waits(16)  # what happens once
    assert waits(4) == waits(16) > 0


@pytest.mark.parametrize("augment", ["none", "photo"])
def test_images_that_do_not_fit_stay_at_home(monkeypatch, augment: str):
    session = session_of(torchvision.models.squeezenet1_1(num_classes=4), "full")
    quick = {"epochs": 2, "augment": augment, "batch_size": 8}
    there = session.train(**quick)
    monkeypatch.setattr(Machine, "fits", lambda self, size: False)
    assert losses(session.train(**quick)) == losses(there)


def test_a_cache_in_a_file_teaches_the_same(monkeypatch):
    session = session_of(torchvision.models.squeezenet1_1(num_classes=4), "partial")
    quick = {"epochs": 2, "augment": "none", "batch_size": 8}
    there = session.train(**quick)
    monkeypatch.setenv("TLNB_MEMORY", "1kB")
    monkeypatch.setenv("TLNB_DISK", "1GB")
    session = session_of(session.model.module, "partial")
    in_file = session.train(**quick)
    assert there.cache.place == "memory" and in_file.cache.place == "disk"
    assert np.allclose(losses(in_file), losses(there), rtol=1e-3)


def test_memory_that_runs_out_makes_smaller_pieces():
    """For real: torch may take only a little of the GPU."""
    network = torchvision.models.squeezenet1_1(
        num_classes=4, dropout=0.0
    )  # each piece would draw its own
    session = session_of(network, "full", count=256, edge=224)
    quick = {"epochs": 1, "batch_size": 128, "augment": "none", "precision": "fp32"}
    roomy = session.train(**quick)
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(1.5e9 / total)
    try:
        tight = session.train(**quick)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert any("memory ran out" in note for note in tight.notes) and not any(
        "ran out" in n for n in roomy.notes
    )
    assert np.allclose(losses(tight), losses(roomy), rtol=1e-3)


def test_fp16_scales_its_gradients(small: Session):
    small.strategy("full")
    run = small.train(epochs=3, precision="fp16")
    assert run.precision == "fp16" and run.status == "finished" and losses(run)[-1] < losses(run)[0]


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_resumed_run_equals_an_uninterrupted_one(small: Session, precision: str):
    small.strategy("full")
    whole = small.train(epochs=4, precision=precision)

    def report(progress):
        if progress.phase == "training" and progress.epoch == 2:
            raise KeyboardInterrupt

    small.report = report
    assert small.train(epochs=4, precision=precision).status == "stopped"
    small.report = None
    assert losses(small.resume()) == losses(whole)


def test_the_gpu_counts_its_own_energy(small: Session):
    host = Machine(device="cuda", precision="bf16", name="", threads=1)
    if not meter_of(host).basis.startswith("measured"):
        pytest.skip("this GPU's counter cannot be read (pip install nvidia-ml-py)")
    small.strategy("full")
    run = small.train(epochs=5)
    assert (
        run.bases["energy_wh"].startswith("measured: the GPU's own counter") and run.energy_wh > 0
    )
