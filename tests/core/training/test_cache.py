"""Never computing twice: where networks are cut, that nothing changes by it, and what is found again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from torch import nn
from torchvision.models.efficientnet import MBConvConfig

from tlnb.core.storage import activation_cache as storing
from tlnb.core.storage import checked_arrays as kept
from tlnb.core.storage.activation_cache import Store, key_of
from tlnb.core.storage.memory_map import is_mapped
from tlnb.core.training import model_split as splitting
from tlnb.core.training.freezing import set_modes
from tlnb.core.training.model_split import Cuts
from tlnb.session import Session

ARCHITECTURES = {  # ten families; small versions where torchvision has constructors for them
    "resnet": lambda: torchvision.models.resnet18(num_classes=5),
    "squeezenet": lambda: torchvision.models.squeezenet1_1(num_classes=5),
    "mobilenet v3": lambda: torchvision.models.mobilenet_v3_small(num_classes=5),
    "efficientnet": lambda: torchvision.models.EfficientNet(
        [MBConvConfig(1, 3, 1, 16, 16, 1), MBConvConfig(4, 3, 2, 16, 24, 1)],
        dropout=0.2,
        num_classes=5,
    ),
    "densenet": lambda: torchvision.models.DenseNet(8, (2, 2), 16, num_classes=5),
    "shufflenet": lambda: torchvision.models.shufflenet_v2_x0_5(num_classes=5),
    "regnet": lambda: torchvision.models.regnet_x_400mf(num_classes=5),
    "mnasnet": lambda: torchvision.models.mnasnet0_5(num_classes=5),
    "vision transformer": lambda: torchvision.models.VisionTransformer(
        64, 16, 2, 2, 32, 64, num_classes=5
    ),
    "swin": lambda: torchvision.models.SwinTransformer(
        [4, 4], 16, [1, 1], [2, 2], [4, 4], num_classes=5
    ),
}


def photos(count: int = 16, edge: int = 64) -> tuple[np.ndarray, list[int]]:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (count, edge, edge, 3), dtype=np.uint8)
    for i in range(count):
        images[i, : edge // 2] //= 1 + i % 4
    return images, [i % 4 for i in range(count)]


def session_of(network: nn.Module, edge: int = 64) -> Session:
    session = Session()
    session.data(*photos(edge=edge))
    session.load(network, size=edge, called="net")
    return session


# where everything trains there is little to keep: that is shown with one network in the default, with all of them in the whole
BOTH = [
    pytest.param(
        name,
        strategy,
        marks=[pytest.mark.slow] if strategy == "full" and name != "squeezenet" else [],
    )
    for name in ARCHITECTURES
    for strategy in ("head", "partial", "full")
]


@pytest.mark.parametrize(("name", "strategy"), BOTH)
def test_cached_and_uncached_runs_agree(name: str, strategy: str):
    torch.manual_seed(0)
    session = session_of(ARCHITECTURES[name]())
    session.strategy(strategy)
    quick = {"epochs": 2, "batch_size": 8, "augment": "none", "precision": "fp32"}
    cached, uncached = (session.train(**quick, cache=cache) for cache in (True, False))
    losses = [[e.train_loss for e in run.epochs] for run in (cached, uncached)]
    assert np.allclose(*losses, atol=1e-5, rtol=1e-5)
    assert (cached.cache is not None) == (strategy != "full") and uncached.cache is None
    if strategy != "full":
        assert cached.work.uncached_flops == pytest.approx(uncached.work.uncached_flops)
        assert cached.flops_by_phase["training"] < uncached.flops_by_phase["training"]


@pytest.mark.parametrize("name", ["resnet", "mobilenet v3", "vision transformer"])
def test_they_agree_in_bf16(name: str):
    torch.manual_seed(0)
    session = session_of(ARCHITECTURES[name]())
    quick = {"epochs": 2, "batch_size": 8, "augment": "none", "precision": "bf16"}
    runs = [session.train(**quick, cache=cache) for cache in (True, False)]
    assert np.allclose(*([e.train_loss for e in run.epochs] for run in runs), atol=1e-3)
    assert runs[0].cache.dtype in ("bfloat16", "float32")


# ── where to cut ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_places_know_their_shapes_and_flops():
    network = torchvision.models.resnet18(num_classes=5)
    set_modes(network, {"fc"})
    cuts = Cuts()
    found = {p.at: p for p in cuts.places(network, ["fc"], torch.zeros(2, 3, 64, 64))}
    pooled = found["the input of fc"]
    assert found["relu"].shape == (64, 32, 32) and pooled.shape == (512,)
    assert found["relu"].flops == 2 * 3 * 64 * 49 * 32 * 32 < pooled.flops
    images = torch.randn(3, 3, 64, 64)
    with torch.no_grad():
        network.eval()
        for place in found.values():
            cut = cuts.at(network, place)
            assert torch.allclose(cut.suffix(cut.prefix(images)), network(images), atol=1e-5)


def test_a_narrow_place_earlier_is_taken_where_the_last_does_not_fit(monkeypatch):
    """Wide after narrow: the cache lies before the frozen layer that widens, if only that fits."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, 4),
        nn.ReLU(),
        nn.Conv2d(8, 400, 1),
        nn.Conv2d(400, 4, 3),
        nn.Flatten(),
        nn.Linear(4 * 14 * 14, 4),
    )
    session = session_of(network)
    session.strategy("full")
    session.freeze("0", "2")
    monkeypatch.setenv("TLNB_DISK", "1kB")
    quick = {"epochs": 2, "batch_size": 8, "augment": "none", "precision": "fp32"}
    roomy = session.train(**quick)
    monkeypatch.setenv("TLNB_MEMORY", "2MB")
    tight = session.train(**quick)
    monkeypatch.setenv("TLNB_MEMORY", "1kB")
    none = session.train(**quick)
    assert roomy.cache.at == "the input of 3"
    assert tight.cache.at == "the input of 2" and none.cache is None
    assert "fit neither in memory nor on the disk" in none.notes[0]
    losses = [[e.train_loss for e in run.epochs] for run in (roomy, tight, none)]
    assert np.allclose(losses[0], losses[1], atol=1e-5) and np.allclose(
        losses[0], losses[2], atol=1e-5
    )


class Winding(nn.Module):
    """Asks for values on its way; its parts come one after the other."""

    def __init__(self, early: bool = False) -> None:
        super().__init__()
        self.early = early
        self.stem, self.body, self.head = (
            nn.Conv2d(3, 8, 3, 2),
            nn.Conv2d(8, 8, 3, 2),
            nn.Linear(8, 5),
        )

    def forward(self, x):
        x = self.stem(x).relu()
        if self.early and float(x.sum()) < 0:
            x = -x
        x = self.body(x).relu()
        if float(x.sum()) < 0:
            x = -x
        return self.head(x.mean((2, 3)))


def test_control_flow_by_values_stays_the_networks_own():
    torch.manual_seed(0)
    session = session_of(Winding())
    quick = {"epochs": 3, "batch_size": 8, "augment": "none", "precision": "fp32"}
    runs = [session.train(**quick, cache=cache) for cache in (True, False)]
    assert runs[0].cache.at == "the input of head" and runs[1].cache is None
    assert np.allclose(*([e.train_loss for e in run.epochs] for run in runs), atol=1e-5)
    assert runs[0].accuracy == runs[1].accuracy and runs[0].moved == ("head",)
    session.strategy("full")
    session.freeze("stem")
    assert session.train(**quick).cache.at == "the input of body"


class Looping(nn.Module):
    """A part is called twice, as often as values say, and `around` the image goes past all of them."""

    def __init__(self, around: bool = False) -> None:
        super().__init__()
        self.stem, self.twice, self.head = (
            nn.Conv2d(3, 8, 3, 2),
            nn.Conv2d(8, 8, 3, 1, 1),
            nn.Linear(8, 5),
        )
        self.around = around

    def forward(self, images):
        x = self.stem(images * 2)
        for _ in range(2 + int(float(x.mean()) > 1e9)):
            x = self.twice(x)
        scores = self.head(x.mean((2, 3)))
        return scores + images.mean((1, 2, 3))[:, None] if self.around else scores


def test_a_part_that_runs_twice_is_cached_with_the_rest():
    torch.manual_seed(0)
    session = session_of(Looping())
    quick = {"epochs": 3, "batch_size": 8, "augment": "none", "precision": "fp32"}
    runs = [session.train(**quick, cache=cache) for cache in (True, False)]
    assert runs[0].cache.at == "the input of head"
    assert np.allclose(*([e.train_loss for e in run.epochs] for run in runs), atol=1e-5)


def test_what_goes_past_every_cut_trains_uncached_and_says_why():
    torch.manual_seed(0)
    run = session_of(Looping(around=True)).train(epochs=1, augment="none")
    assert run.cache is None and run.uncached
    assert f"trained without a cache: {run.uncached}" in run.notes


# ── found again ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_second_run_computes_no_frozen_layer_again(small: Session):
    first, second = small.train(epochs=3), small.train(epochs=3)
    assert not first.cache.reused and second.cache.reused
    assert [e.train_loss for e in first.epochs] == [e.train_loss for e in second.epochs]
    assert first.accuracy == second.accuracy
    assert second.flops_by_phase["caching"] < 0.01 * first.flops_by_phase["caching"]
    assert (
        second.flops_by_phase["evaluating"] < 0.01 * first.flops_by_phase["evaluating"]
    )  # monitor and test too
    other = small.train(epochs=3, seed=1)  # other views
    assert (
        not other.cache.reused
        and other.flops_by_phase["evaluating"] == second.flops_by_phase["evaluating"]
    )
    small.data("digits", per_class=2, seed=1)  # other images
    assert not small.train(epochs=3).cache.reused


def test_a_network_is_recorded_once_for_what_trains_and_all_runs(small: Session, monkeypatch):
    recorded, record = [], splitting.record
    monkeypatch.setattr(
        splitting, "record", lambda *given: (recorded.append(given[1]), record(*given))[1]
    )
    for strategy in ("head", "partial"):
        small.strategy(strategy)
        for seed in (0, 1):
            small.train(epochs=1, seed=seed)
    assert len(recorded) == len(set(recorded)) == 2


def test_changed_weights_are_never_mistaken(small: Session):
    small.train(epochs=1, augment="none")
    with torch.no_grad():
        small.model.module.layer1.conv1.weight[0, 0, 0, 0] += 1e-3
    assert not small.train(epochs=1, augment="none").cache.reused


def test_another_kernel_finds_what_took_long(monkeypatch, tmp_path: Path):
    monkeypatch.setenv("TLNB_CACHE", str(tmp_path))
    monkeypatch.setattr(storing, "WORTH_A_FILE", 0.0)
    runs = []
    for _ in range(2):
        session = Session()
        session.data("digits", per_class=2)
        session.load("glyphnet")
        runs.append(session.train(epochs=2))
    assert not runs[0].cache.reused and runs[1].cache.reused
    assert [e.train_loss for e in runs[0].epochs] == [e.train_loss for e in runs[1].epochs]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(7,), (3, 4, 5)])
def test_files_hold_what_was_written_and_damage_is_seen(tmp_path: Path, monkeypatch, dtype, shape):
    monkeypatch.setenv("TLNB_CACHE", str(tmp_path))
    rows = torch.randn(10, *shape).to(dtype)
    if rows.ndim == 4:
        rows = rows.contiguous(memory_format=torch.channels_last)
    key = key_of("a", shape, str(dtype))
    kept = Store().keep(key, 10, rows.split(4), "disk")
    assert torch.equal(kept, rows) and kept.dtype == dtype
    assert torch.equal(Store().get(key), rows)
    file = next((tmp_path / "activations").glob("*.npy"))
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(bytes(content))
    assert Store().get(key) is None
    file.write_bytes(bytes(content[:-40]))
    assert Store().get(key) is None


def test_the_cache_folder_stays_within_its_budget(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("TLNB_CACHE", str(tmp_path))
    monkeypatch.setenv("TLNB_DISK", "100kB")
    for i in range(5):
        Store().keep(key_of(i), 10, [torch.randn(10, 1000)], "disk")  # 40 kB
    files = list((tmp_path / "activations").iterdir())
    assert len(files) == 2
    assert Store().get(key_of(4)) is not None and Store().get(key_of(0)) is None
    with pytest.raises(OSError, match="not enough room"):
        Store().keep(key_of(9), 10, [torch.randn(10, 10000)], "disk")


def test_a_cache_on_disk_trains_the_same(small: Session, monkeypatch):
    small.strategy("partial")
    quick = {"epochs": 2, "batch_size": 8}
    in_memory = small.train(**quick)
    monkeypatch.setenv("TLNB_MEMORY", "10kB")
    small.cache = Store()
    on_disk = small.train(**quick)
    assert in_memory.cache.place == "memory" and on_disk.cache.place == "disk"
    assert [e.train_loss for e in on_disk.epochs] == [e.train_loss for e in in_memory.epochs]


def test_the_least_recently_used_goes_first(monkeypatch):
    monkeypatch.setenv("TLNB_MEMORY", "100kB")
    store = Store()
    for name in "abc":
        store.keep(name, 10, [torch.randn(10, 1000)], "memory")
    assert store.get("a") is None and store.get("b") is not None
    store.keep("d", 10, [torch.randn(10, 1000)], "memory")
    assert store.get("c") is None and store.get("b") is not None


def test_images_in_a_file_train_as_those_in_memory(folder: Path, monkeypatch):
    losses = []
    for memory in ("1GB", "1kB"):
        monkeypatch.setenv("TLNB_MEMORY", memory)
        session = Session()
        session.data(str(folder), size=32)
        session.load("glyphnet")
        session.strategy("full")
        run = session.train(epochs=2, batch_size=4)
        assert is_mapped(session.dataset.images["train"]) == (memory == "1kB")
        losses.append([e.train_loss for e in run.epochs])
    assert losses[0] == losses[1]


def test_a_kept_file_that_reads_the_same_with_other_white_space_was_damaged_all_the_same(
    tmp_path: Path,
):
    file, array = tmp_path / "kept.npy", np.zeros((2, 3), np.float32)
    kept.write(file, array.shape, array.dtype, [array], lambda: {"a": 1})
    assert kept.read(file) == {"a": 1}
    file.write_bytes(file.read_bytes().replace(b'"a": 1', b'"a":\t1'))
    assert kept.read(file) is None and not file.exists()
