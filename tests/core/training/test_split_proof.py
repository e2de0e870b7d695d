"""A split is proven before it is used: uncommon networks train alike with and without a cache, and say what they reach."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.core.training.uncommon_networks import NETWORKS, Net
from tlnb.core.models.tracing import blank
from tlnb.core.models.undisturbed import undisturbed
from tlnb.core.training import own_answers as reporting
from tlnb.core.training.agreement import apart
from tlnb.core.training.run import Run
from tlnb.core.training.split_proof import FEW, MOST, rows_for
from tlnb.core.training.split_search import Prover
from tlnb.session import Session

QUICK = {"epochs": 2, "batch_size": 8, "lr": 0.05, "augment": "none", "precision": "fp32"}
ALWAYS = (  # of each kind one; the others before a merge
    "plain",
    "pre-hook on the root",
    "activation kept by a hook",
    "no_grad block",
    "reversed gradient, late",
    "LayerDrop by random.random()",
    "bernoulli method, early",
    "attention with dropout by position",
    "steps counted",
    "BatchNorm without statistics",
    "less the mean of the batch, early",
    "guesses the range of its images",
    "early by mode",
    "nested blocks",
)
BOTH = [
    pytest.param(
        name,
        strategy,
        marks=[] if name in ALWAYS and strategy == "head" else [pytest.mark.slow],
        id=f"{name}, {strategy}",
    )
    for name in NETWORKS
    for strategy in ("head", "partial")
]


def photos(count: int = 24) -> tuple[np.ndarray, np.ndarray]:
    """Noise in three classes, each brighter than the one before."""
    labels = np.arange(count) % 3
    noise = np.random.default_rng(0).integers(0, 80, (count, 32, 32, 3))
    return (noise + 80 * labels[:, None, None, None]).astype(np.uint8), labels


def seeded() -> None:
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)


def session_of(network: nn.Module, strategy: str = "head") -> Session:
    session = Session()
    session.data(*photos())
    session.load(network, size=32, called="net")
    session.strategy(strategy)
    return session


def trained(name: str, strategy: str, cache: bool) -> tuple[Session, Run]:
    seeded()
    session = session_of(NETWORKS[name](), strategy)
    seeded()
    return session, session.train(**QUICK, cache=cache)


def own_accuracy(session: Session, run: Run) -> float:
    data = session.dataset
    seeded()
    with torch.no_grad():
        guesses = run.module()(session.model.transform(data.images["test"])).argmax(1)
    return float((guesses == data.labels["test"]).float().mean())


SIGNS = (1, -1, 1, -1, -1, 1, 1, 1, -1, 1) * 2  # of images: after even and odd numbers of others


def answers_vary(run: Run) -> bool:
    """Whether the trained network answers by chance, or by what it saw before."""
    network, images = run.module(), torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        first = network(images)
        answers = [network(sign * images) for sign in SIGNS]
    same = [a for a, sign in zip(answers, SIGNS, strict=True) if sign > 0]
    return any(apart(answer, first) > 0 for answer in same)


def test_there_are_enough_of_them():
    assert len(NETWORKS) >= 60 and set(ALWAYS) <= set(NETWORKS)


@pytest.mark.parametrize(("name", "strategy"), BOTH)
def test_cached_and_uncached_runs_agree_and_report_what_their_networks_reach(
    name: str, strategy: str
):
    (session, cached), (_, uncached) = (trained(name, strategy, cache) for cache in (True, False))
    losses = [[e.train_loss for e in run.epochs] for run in (cached, uncached)]
    assert np.allclose(*losses, atol=1e-5, rtol=0)
    assert cached.accuracy == uncached.accuracy and cached.moved == uncached.moved
    assert uncached.cache is None and not uncached.uncached
    assert (cached.cache is None) == bool(cached.uncached)
    if not answers_vary(cached):
        assert cached.accuracy == pytest.approx(own_accuracy(session, cached))


@pytest.mark.parametrize(
    ("name", "at"),
    [
        ("plain", "the input of fc"),
        ("hook on a frozen layer", "the input of fc"),
        ("no_grad block", "the input of fc"),
        ("reversed gradient of the scores", "the input of fc"),
        ("pre-hook on the root", "the input of fc"),
        ("BatchNorm without statistics", "the input of norm"),
        ("bernoulli method, early", "a"),
        ("steps counted in a list", "a"),
        ("LayerDrop by random.random(), in eval mode too", "a"),
        ("torch.poisson, late", "c"),
        ("attention with dropout always", "b"),
        ("steps counted", "c"),
        ("nested blocks", "the input of fc"),
        ("loops by value", "the input of fc"),
        ("by the size of the batch", "a"),
    ],
)
def test_as_much_is_cached_as_is_sound(name: str, at: str):
    _, run = trained(name, "head", cache=True)
    assert run.cache is not None and run.cache.at == at


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("guesses the range of its images", "beside it"),
        ("passes counted first", "counts its passes"),
        ("noise on the image by random.random()", "random"),
    ],
)
def test_a_run_says_why_it_trained_without_a_cache(name: str, why: str):
    _, run = trained(name, "head", cache=True)
    assert run.cache is None and why in run.uncached
    assert f"trained without a cache: {run.uncached}" in run.notes
    assert Run.from_json(run.to_json()).uncached == run.uncached


def test_a_proof_is_made_once_for_a_network_and_its_images(monkeypatch: pytest.MonkeyPatch):
    session, asked = session_of(Net()), []
    monkeypatch.setattr("tlnb.core.training.split_proof.Proof._fault", _counting(asked))
    session.train(**QUICK)
    first = len(asked)
    session.train(**QUICK)
    assert first == len(asked) == 1
    session.dataset.images["train"].zero_()
    session.train(**QUICK)
    assert len(asked) == 2


def _counting(asked: list[int]) -> object:
    from tlnb.core.training.split_proof import Proof

    fault = Proof._fault
    return lambda self, *given: (asked.append(1), fault(self, *given))[1]


def test_where_the_cache_answers_otherwise_the_networks_own_answers_are_reported(
    monkeypatch: pytest.MonkeyPatch,
):
    class Turned(Net):
        def forward(self, x: Tensor) -> Tensor:
            sign = -1.0 if float(x.abs().amax()) > 0 else 1.0  # of a blank image it is 1
            return super().forward(x) * sign

    monkeypatch.setattr(Prover, "fault", lambda *_: "")  # all is believed
    session = session_of(Turned())
    run = session.train(**QUICK)
    assert run.cache is not None and any("the network's own are reported" in n for n in run.notes)
    assert run.accuracy == pytest.approx(own_accuracy(session, run))
    monkeypatch.setattr(reporting, "_agree", lambda *_: True)
    believed = session.train(**QUICK)
    assert believed.accuracy != run.accuracy  # what would have been shown


def test_trying_a_network_leaves_no_trace():
    class Everything(Net):
        def __init__(self) -> None:
            super().__init__()
            self.steps, self.seen = 0, [0]
            self.register_buffer("mean", torch.zeros(8))

        def late(self, x: Tensor) -> Tensor:
            self.steps += 1
            self.seen.append(self.steps)
            self.mean += torch.rand(8) + random.random() + np.random.rand()
            self.kept = super().late(x)
            return self.kept

    network = Everything()
    seeded()
    expected = torch.rand(3), random.random(), np.random.rand()
    seeded()
    with undisturbed(network):
        network(torch.randn(2, 3, 32, 32)).sum().backward()
    drawn = torch.rand(3), random.random(), np.random.rand()
    assert torch.equal(drawn[0], expected[0]) and drawn[1:] == expected[1:]
    assert network.steps == 0 and network.seen == [0] and not hasattr(network, "kept")
    assert not network.mean.any() and all(p.grad is None for p in network.parameters())


def test_a_proof_takes_few_images_where_little_is_cached():
    assert rows_for(1e12, 10) == FEW and rows_for(1e6, 10) == MOST == rows_for(1e12, 10_000)


def test_a_network_without_numbers_can_be_tried_too():
    network = blank(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)))
    with undisturbed(network):
        network(torch.zeros(2, 3, 8, 8, device="meta"))
