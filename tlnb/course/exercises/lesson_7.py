"""Lesson 7: when it goes wrong."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from tlnb import glyphnet
from tlnb.core.training.run import Run
from tlnb.course.checks import Step, Steps, a_run, exercise
from tlnb.course.exercises.causes import fitting, learned_little
from tlnb.course.exercises.shared import a_network, eval_mode, finished, trained_on
from tlnb.session import Session

HUNDRED = trained_on("digits", 10)
LIKE_HUNDRED = "it was trained on ten images of each digit"
MIN_FIXED_ACCURACY = 0.93  # exercise 7.1: test accuracy that only the right preprocessing reaches
# exercise 7.2: accuracy on the target, and on the source
MIN_TARGET_ACCURACY, MIN_SOURCE_ACCURACY = 0.93, 0.75


def _is_prepared_as_in_pretraining(run: Run) -> bool:
    used = run.transform()
    return (tuple(used.mean), tuple(used.std)) == (glyphnet.MEAN, glyphnet.STD)


@exercise("7.1", "Find the bug in a colleague's four lines")
def find_the_bug(tl: Session) -> Steps:
    line = "run the colleague's four lines unchanged, including %tl_data digits --per-class 10"
    yield from a_run(tl, where=HUNDRED, like=LIKE_HUNDRED, line=line)
    runs = finished(tl, HUNDRED)
    wrong = [i for i, r in enumerate(runs) if not _is_prepared_as_in_pretraining(r)]
    yield Step(
        "the colleague's lines were run",
        wrong,
        "no run of this session has the mistake",
        "copy the four lines into a cell and see the damage first",
    )
    bad, last = runs[wrong[-1]], runs[-1]
    used, settings = bad.transform(), _wrong_settings(bad)
    again = wrong[-1] > wrong[0]
    tried = "neither epochs nor learning rate can fix it: " if again else ""
    seen = [(edge - used.mean[0]) / used.std[0] for edge in (0, 1)]
    yield Step(
        "afterwards the input is prepared as in pretraining",
        wrong[-1] < len(runs) - 1,
        f"run {last.name!r} gets {last.accuracy:.1%}, and the mistake is still in it",
        f"{tried}compare what the cards of the model say with those of lesson 1, line by line",
        f"it subtracts a mean of {used.mean[0]:g} and divides by {used.std[0]:g}: pixels reach the network as "
        f"{seen[0]:.1f} to {seen[1]:.1f}, from a wrong {settings}",
        f"%tl_load glyphnet without --{' and --'.join(settings.split(' and '))}",
    )
    yield Step(
        "the network is still glyphnet, from its pretrained weights",
        last.plan.model == "glyphnet" and last.plan.start == "pretrained",
        f"run {last.name!r} trained {last.plan.model}, start {last.plan.start}: a different network does not fix the bug",
        "%tl_load glyphnet"
        if last.plan.model != "glyphnet"
        else "any strategy but scratch: %tl_strategy head",
    )
    little = learned_little(last, rate=0.005, epochs=20)
    yield Step(
        f"at least {MIN_FIXED_ACCURACY:.0%} are right",
        last.accuracy >= MIN_FIXED_ACCURACY,
        f"run {last.name!r}: {last.accuracy:.1%}",
        little or "the epochs and the rate of the recipe are enough",
        "%tl_train, without options",
    )
    gap = 100 * (last.accuracy - bad.accuracy)
    return f"{last.accuracy:.1%}, {gap:.1f} points more than with the mistake. Nothing had failed, and the loss had fallen."


def _wrong_settings(run: Run) -> str:
    """The parts of the preprocessing that differ from pretraining."""
    used = run.transform()
    wrong = {"mean": tuple(used.mean) != glyphnet.MEAN, "std": tuple(used.std) != glyphnet.STD}
    return " and ".join(name for name, is_so in wrong.items() if is_so)


@exercise("7.2", "Learn without forgetting the source")
def without_forgetting(tl: Session) -> Steps:
    line = "%tl_data digits --per-class 10, %tl_load glyphnet, %tl_train"
    run = yield from a_run(tl, where=HUNDRED, like=LIKE_HUNDRED, line=line)
    still = [c.name for c in run.changes if _is_convolution(run, c.name) and not c.moved]
    yield Step(
        "every convolution moved",
        not still,
        f"run {run.name!r}: {len(still)} convolutions did not, {still[0] if still else ''} first",
        "frozen layers learn nothing: %tl_strategy full trains them all",
    )
    known = run.source_accuracy
    yield Step(
        "accuracy on its source is known",
        known,
        "this network's source is not available",
        "%tl_load glyphnet",
    )
    assert known is not None
    little = learned_little(run, rate=0.0001, epochs=10)
    yield Step(
        f"at least {MIN_TARGET_ACCURACY:.0%} of the test images are right",
        run.accuracy >= MIN_TARGET_ACCURACY,
        f"run {run.name!r}: {run.accuracy:.1%}",
        little or "a few more epochs",
        "%tl_train --epochs 10 --lr 0.0001",
    )
    norms = [c.name for c in run.changes if c.moved and c.statistics]
    statistics = f"the running statistics of {len(norms)} BatchNorm layers moved"
    why = statistics if norms else "its weights moved far"
    yield Step(
        f"at least {MIN_SOURCE_ACCURACY:.0%} on its own source",
        known[1] >= MIN_SOURCE_ACCURACY,
        f"run {run.name!r}: {known[0]:.1%} before, {known[1]:.1%} after: {why}",
        *fitting(
            norms,
            "statistics do not depend on the learning rate: freeze the BatchNorm layers, %tl_freeze *bn* *downsample.1",
            "a small learning rate keeps weights near their start: --lr 0.0001",
        ),
    )
    return (
        f"{run.accuracy:.1%} on your digits, {known[1]:.1%} on its source (before: {known[0]:.1%})."
    )


@exercise("7.3", "In PyTorch: a trunk that stays frozen, whatever the loop calls")
def frozen_for_good(tl: Session, names: Mapping[str, Any]) -> Steps:
    network = yield from a_network(names, "network", "network = nn.Sequential(…)")
    shape = _output_shape(network)
    yield Step(
        "it takes images (N, 3, 32, 32) and gives ten scores",
        shape == (4, 10),
        f"it gives {shape}",
        "trunk.head = nn.Identity() leaves 160 features, nn.Linear(160, 10) turns them into ten scores",
    )
    trained = [n for n, p in network.named_parameters() if p.requires_grad]
    yield Step(
        "only the output layer trains",
        len(trained) == 2,
        f"{len(trained)} parameters require a gradient, {trained[0] if trained else 'none'} first",
        "trunk.requires_grad_(False) first, then the new nn.Linear",
    )
    missing, moved = _after_training_mode(network)
    yield Step(
        "its trunk is glyphnet's",
        not missing,
        f"{missing} of glyphnet's tensors are not in it",
        "glyphnet.load('glyphnet') with no weight changed",
    )
    network.train()
    dropouts = [m for m in network.modules() if isinstance(m, nn.Dropout)]
    yield Step(
        "there is a dropout", dropouts, "none found", "nn.Dropout(0.5) before the output layer"
    )
    yield Step(
        "after network.train() the dropout is active",
        all(m.training for m in dropouts),
        "it is not: train() must reach everything but the trunk",
        "override train() of the trunk's wrapper only, not of the whole network",
    )
    yield Step(
        "after network.train() the trunk does not change",
        not moved,
        f"{moved} tensors changed after network.train(): the loop undoes a single eval()",
        "a wrapper whose train() calls super().train(mode) and then self.trunk.eval()",
        "nn.Module.train() calls train() of every child: override it where the trunk is",
    )
    return "The loop may call whatever it likes. tlnb does the same in one place, and proves it after every run."


def _is_convolution(run: Run, name: str) -> bool:
    return isinstance(run.network().get_submodule(name), nn.Conv2d)


def _output_shape(network: nn.Module) -> tuple[int, ...] | str:
    """The shape of the output for four images, or the error as text."""
    try:
        with eval_mode(network):
            return tuple(network(torch.zeros(4, 3, 32, 32)).shape)
    except (RuntimeError, ValueError, TypeError, NotImplementedError) as error:
        return " ".join(str(error).split())[:80]


def _after_training_mode(network: nn.Module) -> tuple[int, int]:
    """How many of glyphnet's tensors are not there, and how many a pass in train mode changes."""
    whole = glyphnet.load("glyphnet").state_dict()
    trunk = {n: t for n, t in whole.items() if not n.startswith("head") and t.ndim}
    kept = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    missing = sum(not _holds(kept, name, tensor) for name, tensor in trunk.items())
    mode = network.training
    with torch.no_grad():
        network.train()(torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
    now = network.state_dict()
    moved = sum(not now[name].equal(tensor) for name, tensor in kept.items())
    network.load_state_dict(kept)
    network.train(mode)
    return missing, moved


def _holds(state: Mapping[str, Tensor], name: str, tensor: Tensor) -> bool:
    """Whether the first tensor of this shape whose name ends so is the same."""
    same = (t for n, t in state.items() if n.endswith(name) and t.shape == tensor.shape)
    return next((t.equal(tensor) for t in same), False)
