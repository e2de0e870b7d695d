"""What several exercises ask of a session and of the notebook's variables."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from tlnb import glyphnet
from tlnb.core.data.dataset import DataFacts
from tlnb.core.models.anatomy import evaluating
from tlnb.core.training.run import Run
from tlnb.course.checks import Step
from tlnb.session import Session

Condition = Callable[[Run, DataFacts], bool]


def trained_on(source: str, per_class: int) -> Condition:
    """Whether a run was trained on this many images of each class of a built-in data set."""

    def holds(_: Run, data: DataFacts) -> bool:
        return data.request.source == source and data.request.per_class == per_class

    return holds


def finished(tl: Session, where: Condition, strategy: str | None = None) -> list[Run]:
    """The finished runs that meet a condition, of one strategy if it is given; oldest first."""
    runs = [r for r in tl.runs if r.status == "finished" and where(r, tl.data_of(r))]
    return [r for r in runs if strategy in (None, r.strategy)]


def on_same_images(tl: Session, run: Run, strategy: str) -> list[Run]:
    """The finished runs of a strategy on the images of a run; oldest first."""
    wanted = (strategy, "finished", run.fingerprint)
    return [r for r in tl.runs if (r.strategy, r.status, r.fingerprint) == wanted]


def a_network(names: Mapping[str, Any], name: str, *hints: str) -> Generator[Step, None, nn.Module]:
    """Require a network in one of the notebook's variables."""
    network = names.get(name)
    yield Step(
        f"your network is in the variable {name}",
        isinstance(network, nn.Module),
        "there is none of that name" if network is None else f"it is a {type(network).__name__}",
        *hints,
    )
    assert isinstance(network, nn.Module)
    return network


def unless_missing(name: str, value: object, otherwise: str) -> str:
    """What is wrong with a variable: that it is not there, or else something about its value."""
    return f"there is no variable {name}" if value is None else otherwise


def intervals_overlap(one: Run, other: Run) -> bool:
    """Whether the 95% intervals of two test accuracies overlap."""
    return one.interval[0] <= other.interval[1] and other.interval[0] <= one.interval[1]


def is_statistic(name: str) -> bool:
    """Whether a tensor of a state dict is a running statistic, which no optimiser changes."""
    return "running_" in name or "num_batches" in name


def prepared(images: Tensor) -> Tensor:
    """uint8 images (N, 3, 32, 32) as glyphnet expects them."""
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (glyphnet.MEAN, glyphnet.STD))
    return (images.float() / 255 - mean) / std


@contextmanager
def eval_mode(network: nn.Module) -> Iterator[None]:
    """Eval mode without gradients; afterwards every module is in its mode of before."""
    with torch.no_grad(), evaluating(network):
        yield
