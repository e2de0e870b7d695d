"""What lesson 7 claims of its seven mistakes, for several draws and seeds."""

from __future__ import annotations

import math
from pathlib import Path
from statistics import fmean

import pytest
import torch
from torchvision.io import write_png

from tlnb import glyphnet
from tlnb.core.evaluation import embeddings
from tlnb.glyphnet import held_out
from tlnb.session import Session

SEEDS = (0, 1, 2)


@pytest.fixture(params=SEEDS)
def seed(request: pytest.FixtureRequest) -> int:
    return request.param


@pytest.fixture
def hundred(session: Session, seed: int) -> Session:
    session.data("digits", per_class=10, seed=seed)
    session.load("glyphnet")
    return session


def test_statistics_follow_the_data_and_not_the_learning_rate(hundred: Session):
    hundred.strategy("full")
    slow = hundred.train(lr=1e-6, epochs=6)
    assert max(c.weights or 0 for c in slow.changes if c.name != "head") < 0.01
    assert max(c.statistics or 0 for c in slow.changes) > 0.05
    assert slow.source_accuracy[1] < slow.source_accuracy[0] - 0.1


def test_a_rate_far_too_high_forgets_the_source_and_costs_accuracy():
    """The source in every draw; the accuracy on average, since at such rates single trainings go far apart."""
    reached: dict[str, list[float]] = {"usual": [], "high": [], "absurd": []}
    for seed in SEEDS:
        tl = Session()
        tl.data("digits", per_class=10, seed=seed)
        tl.load("glyphnet")
        tl.strategy("full")
        usual = tl.train(epochs=5, seed=seed)
        high = tl.train(lr=100 * usual.options.lr, epochs=15, seed=seed)
        absurd = tl.train(lr=1.0, epochs=5, seed=seed)
        assert high.options.lr == pytest.approx(0.1)
        assert (
            max(high.source_accuracy[1], absurd.source_accuracy[1])
            < 0.05
            < usual.source_accuracy[1]
        )
        for name, run in (("usual", usual), ("high", high), ("absurd", absurd)):
            reached[name].append(run.accuracy)
    means = {name: fmean(found) for name, found in reached.items()}
    assert means["absurd"] < means["usual"] - 0.3, reached
    assert 0.6 < means["high"] < means["usual"] - 0.02, (
        reached
    )  # worse, and it may still look respectable


def test_pixels_in_0_to_255_cost_accuracy(hundred: Session):
    right = hundred.train(epochs=20)
    hundred.load("glyphnet", mean=(0, 0, 0), std=(1 / 255,) * 3)
    assert hundred.train(epochs=20).accuracy < right.accuracy


def test_a_frozen_network_in_training_mode_fails_on_its_source_though_no_weight_moves(
    hundred: Session,
):
    pictures, labels = held_out.pictures(tuple(glyphnet.card("glyphnet")["classes"]))
    prepare, drifting = hundred.model.transform, glyphnet.load("glyphnet").requires_grad_(False)

    @torch.no_grad()
    def on_its_source() -> float:
        return float((drifting.eval()(prepare(pictures)).argmax(1) == labels).float().mean())

    before, start = (
        on_its_source(),
        {name: value.clone() for name, value in drifting.state_dict().items()},
    )
    with torch.no_grad():
        for _ in range(30):
            drifting.train()(prepare(hundred.dataset.images["train"]))
    moved = {name for name, value in drifting.state_dict().items() if not value.equal(start[name])}
    assert moved == {name for name, _ in drifting.named_buffers()}
    assert on_its_source() < before - 0.15
    right = hundred.train(epochs=5)
    assert right.moved == ("head",) and right.source_accuracy[0] == right.source_accuracy[1]


def test_two_softmaxes_leave_the_loss_high_and_the_accuracy_nearly_as_it_was(hundred: Session):
    right = hundred.train(epochs=30)
    plan = hundred.add("after:head", "nn.Softmax(1)")
    double = hundred.train(epochs=30)
    floor = -math.log(math.e / (math.e + 9))
    assert any("softmax" in note for note in plan.notes)
    assert double.epochs[-1].train_loss >= floor > right.epochs[-1].train_loss
    with torch.no_grad():
        images = hundred.model.transform(hundred.dataset.images["test"])
        sure = double.module()(images).softmax(1).max()
    assert sure <= math.e / (math.e + 9) + 1e-6
    assert abs(double.accuracy - right.accuracy) < 0.05


def test_copies_of_training_images_are_known_by_heart(hundred: Session, seed: int, tmp_path: Path):
    """Labels drawn at random: nothing can be learned but by heart. Counted as copied is what is the same to the bit."""
    images = hundred.dataset.images["test"]
    drawn = torch.randint(0, 10, (150,), generator=torch.Generator().manual_seed(seed))
    for i in range(150):
        for split in ("train",) * (i < 100) + ("test",) * (i >= 50):  # 50 to 99 are in both
            file = tmp_path / split / str(int(drawn[i])) / f"{i}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            write_png(images[i], str(file))
    data = hundred.data(tmp_path)
    copies = {leak.image for leak in data.leaks if leak.same}
    assert sorted(int(Path(name).stem) for name in copies) == list(range(50, 100))
    hundred.strategy("full")
    answers = hundred.train(epochs=15, augment="none", seed=seed).answers()
    right = (answers.truths == answers.guesses).float()
    copied = torch.tensor([name in copies for name in data.files["test"]])
    assert right[copied].mean() > 0.8
    assert right[~copied].mean() < 0.4  # guessing: 0.1


def test_spare_images_may_lie_above_the_training_accuracy(hundred: Session):
    hundred.add("before:head", "nn.Dropout(0.8)")
    network = hundred.train(epochs=30, augment="none").module()

    @torch.no_grad()
    def accuracy(split: str) -> float:
        images, labels = hundred.dataset.images[split], hundred.dataset.labels[split]
        return float((network(hundred.model.transform(images)).argmax(1) == labels).float().mean())

    finished, spare = accuracy("train"), accuracy("monitor")
    for part in network.modules():
        part.training = isinstance(part, torch.nn.Dropout)
    torch.manual_seed(0)
    assert sum(accuracy("train") for _ in range(10)) / 10 < spare <= finished


def test_a_far_source_is_seen_before_training_and_after(
    session: Session, seed: int, monkeypatch: pytest.MonkeyPatch
):
    pytest.importorskip("skimage")
    monkeypatch.setattr(
        embeddings, "_two_dimensions", lambda seen: ()
    )  # the map is not what is claimed
    session.data("textures", per_class=5, seed=seed)
    shares, accuracy = [], []
    for source in ("glyphnet", "glyphnet-glyphs"):
        session.load(source)
        shares.append(session.look("features").views[0].share)
        accuracy.append(session.train(epochs=50, seed=seed).accuracy)
    assert shares[0] > shares[1] + 0.1
    assert accuracy[0] > accuracy[1] + 0.08
