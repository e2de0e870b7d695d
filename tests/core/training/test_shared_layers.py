"""Runs share the memory of what none of them changed, and nothing else."""

from __future__ import annotations

import copy
import gc

import pytest
import torch
from torch import nn

from tlnb.core.models.module_copy import copied_or_shared
from tlnb.core.training import shared_layers
from tlnb.core.training.freezing import hashes
from tlnb.core.training.shared_layers import share_layers
from tlnb.session import Session


def places(network: nn.Module) -> dict[str, int]:
    return {name: tensor.data_ptr() for name, tensor in network.state_dict().items()}


@pytest.fixture(scope="module")
def session() -> Session:
    session = Session()
    session.data("digits", per_class=2)
    session.load("glyphnet")
    session.train(epochs=2, seed=1)
    session.load("glyphnet")
    session.train(epochs=2, seed=2)
    return session


def test_frozen_layers_of_two_runs_lie_in_the_same_place(session):
    first, second = (places(run.network()) for run in session.runs)
    own = {name for name in first if first[name] != second[name]}
    assert own == {"head.weight", "head.bias"}
    assert all(hashes(run.network()) == run.hashes() for run in session.runs)


def test_the_loaded_network_and_copies_of_a_run_have_their_own_memory(session):
    run = session.runs[0]
    held = set(places(run.network()).values())
    for network in (session.model.module, run.module()):
        assert held.isdisjoint(places(network).values())
    with torch.no_grad():
        run.module().stem[0].weight.zero_()
        session.model.module.stem[0].weight.add_(0)
    assert hashes(run.network()) == run.hashes()


def test_training_on_from_a_run_leaves_the_others_as_they_were(session):
    before = [hashes(run.network()) for run in session.runs[:2]]
    session.strategy("full")
    session.train(epochs=1, from_="head")
    assert [hashes(run.network()) for run in session.runs[:2]] == before


def test_layers_of_the_same_bits_but_another_shape_keep_their_own():
    wide, tall = nn.Linear(2, 3, bias=False), nn.Linear(3, 2, bias=False)
    with torch.no_grad():
        tall.weight.copy_(wide.weight.reshape(2, 3))
    for layer in (wide, tall):
        share_layers(nn.ModuleDict({"a": layer}), hashes(nn.ModuleDict({"a": layer})))
    assert wide.weight.data_ptr() != tall.weight.data_ptr()
    assert tall.weight.shape == (2, 3)


def test_what_no_run_holds_is_let_go_of():
    network = nn.ModuleDict({"only-here": nn.Linear(2, 2)})
    share_layers(network, hashes(network))
    again = copy.deepcopy(network)
    share_layers(again, hashes(again))
    assert places(network) == places(again)
    del network, again
    gc.collect()
    assert not any(name == "only-here" for name, _ in shared_layers._LAYERS)


def test_a_layer_that_somebody_wrote_to_is_not_shared_any_more():
    first = nn.ModuleDict({"written": nn.BatchNorm2d(2)})
    others = [copy.deepcopy(first) for _ in range(2)]
    digests = hashes(first)
    share_layers(first, digests)
    with torch.no_grad():
        first["written"].running_mean.add_(1)
    for network in others:
        share_layers(network, digests)
        assert hashes(network) == digests
    assert places(others[0]) == places(others[1]) != places(first)


class Uncopyable(nn.Linear):
    def __deepcopy__(self, memo):
        raise TypeError("not today")


def test_a_network_that_cannot_be_copied_takes_no_other_along():
    layers = [nn.ModuleDict({"own": Uncopyable(2, 2)}) for _ in range(2)]
    layers[1].load_state_dict(layers[0].state_dict())
    for network in layers:
        share_layers(network, hashes(network))
    assert places(layers[0]) == places(layers[1])
    trained = copied_or_shared(layers[0])
    assert trained is layers[0] and not set(places(trained).values()) & set(
        places(layers[1]).values()
    )
