"""BatchNorm that trains without moving its statistics: whose, what moves, and that all else follows."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models import mobilenet_v3_small

from tests.resuming import begun, own_home, same, stop_after  # noqa: F401 - a fixture of every test here
from tlnb.core.planning.recipes import recipe
from tlnb.core.training.freezing import keeping_statistics, set_modes
from tlnb.core.training.run import Run
from tlnb.session import Session

QUICK = {"epochs": 2, "batch_size": 8, "augment": "none", "precision": "fp32"}


def network(name: str = "own", pretrained: bool = True) -> nn.Module:
    """Its statistics are those of noise where it is pretrained."""
    torch.manual_seed(0)
    net = NETWORKS[name]()
    if pretrained:
        net(torch.randn(16, 3, 32, 32))
    return net.eval()


def own() -> nn.Module:
    """Three stages, two with BatchNorm."""
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU()),
        nn.Sequential(nn.Conv2d(8, 16, 3, 2), nn.BatchNorm2d(16), nn.ReLU()),
        nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4)),
    )


def timms() -> nn.Module:
    """Its BatchNorm computes the activation, too."""
    timm = pytest.importorskip("timm", reason="timm is not installed")
    net: nn.Module = timm.create_model("test_efficientnet", num_classes=4)
    return net


NETWORKS = {"own": own, "mobilenet": partial(mobilenet_v3_small, num_classes=4), "timm": timms}


def on_digits(net: nn.Module | str, per_class: int = 1, strategy: str = "full") -> Session:
    session = Session()
    session.data("digits", per_class=per_class)
    session.load(net, **({} if isinstance(net, str) else {"size": 32, "called": "mine"}))
    session.strategy(strategy)
    return session


def statistics_that_moved(session: Session, run: Run) -> set[str]:
    before, after = session.model.module.state_dict(), run.module().state_dict()
    keys = [key for key in before if key.endswith(("running_mean", "running_var"))]
    return {key.rpartition(".")[0] for key in keys if not torch.equal(before[key], after[key])}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("strategy", ["partial", "full"])
def test_a_small_set_moves_weights_but_no_pretrained_statistics(strategy: str, name: str):
    session = on_digits(network(name), strategy=strategy)
    kinds = {layer.name: layer.kind for layer in session.layers().layers}
    norms = {layer for layer in session.plan.trained if "BatchNorm" in kinds[layer]}
    run = session.train(**QUICK)
    assert run.status == "finished" and norms and norms <= set(run.moved)
    assert not statistics_that_moved(session, run)
    assert {c.name: c.statistics for c in run.changes if c.name in norms} == dict.fromkeys(norms, 0)
    noted = run.event("kept-statistics")
    assert noted is not None and noted.facts == {"layers": len(norms)}
    assert any("kept" in n and "--batch-statistics" in n for n in run.notes)


def test_whoever_asks_for_batch_statistics_gets_them():
    session = on_digits(network())
    asked = session.train(**QUICK, batch_statistics=True)
    assert statistics_that_moved(session, asked) == {"0.1", "1.1"} and not asked.event(
        "kept-statistics"
    )


def test_who_keeps_them_by_default():
    mine, embedded = on_digits(network()), on_digits("glyphnet")
    assert recipe(mine.plan, mine.dataset).batch_statistics is False
    assert recipe(embedded.plan, embedded.dataset).batch_statistics is True
    assert recipe(mine.strategy("scratch"), mine.dataset).batch_statistics is True
    some = on_digits(network(), per_class=4)
    assert recipe(some.plan, some.dataset).batch_statistics is False
    assert recipe(some.strategy("partial"), some.dataset).batch_statistics is True
    many = on_digits(network(), per_class=7)
    assert recipe(many.plan, many.dataset).batch_statistics is True


def test_layers_without_statistics_of_their_own_take_the_batchs():
    fresh = on_digits(network(pretrained=False))
    assert statistics_that_moved(fresh, fresh.train(**QUICK)) == {"0.1", "1.1"}
    session = on_digits(network())
    session.add("after:1.1", "nn.BatchNorm2d(16)")
    run = session.train(**QUICK)
    assert not statistics_that_moved(session, run)
    assert run.module().get_submodule("1.1.after1").running_mean.any()


def test_from_a_random_start_there_are_none_to_keep():
    session = on_digits(network(), strategy="scratch")
    run = session.train(**QUICK, batch_statistics=False)
    assert run.event("kept-statistics") is None
    assert statistics_that_moved(session, run) == {"0.1", "1.1"}


def test_a_batch_of_one_image_is_enough():
    run = on_digits(network()).train(**{**QUICK, "batch_size": 1})
    assert run.status == "finished" and run.event("joined-batches") is None


def test_dropout_before_such_a_layer_stays_active():
    net = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm1d(4), nn.Linear(4, 2))
    set_modes(net, {"1", "2"}, {"1"})
    assert net[0].training and not net[1].training and net[2].training
    assert all(p.requires_grad for p in net.parameters())


def test_with_and_without_a_cache_losses_agree():
    session = on_digits(network(), strategy="partial")
    runs = [session.train(**QUICK, cache=cache) for cache in (True, False)]
    losses = [[e.train_loss for e in run.epochs] for run in runs]
    assert runs[0].cache is not None and np.allclose(*losses, atol=1e-5, rtol=0)


def test_an_interrupted_run_goes_on_as_if_it_had_not_been():
    whole = begun().train(epochs=4, batch_statistics=False)
    session = begun()
    stop_after(session, 2)
    assert session.train(epochs=4, batch_statistics=False).status == "stopped"
    session.report = None
    same(session.resume(), whole)


def test_records_from_before_there_was_a_choice_took_batch_statistics():
    session = on_digits(network())
    run = session.train(**QUICK, batch_statistics=True)
    older = replace(run.options, batch_statistics=None)
    assert not keeping_statistics(session.model.module, run.plan, older)
