"""Forgetting: accuracy on the pretraining task before and after a run.

Both use the old output layer.

Target accuracy hides forgetting, and hides statistics that drift in a backbone left in training
mode; this shows both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from tlnb import glyphnet
from tlnb.core.models.catalogue import EMBEDDED
from tlnb.core.models.module_copy import copied
from tlnb.core.models.pretrained import PretrainedModel, Transform
from tlnb.core.planning.plan import Plan
from tlnb.core.runtime.errors import OneLine
from tlnb.core.training.freezing import hashes
from tlnb.core.training.run import Run

CHUNK = 256
OUTPUT = "head"  # output layer of the embedded networks


@dataclass(frozen=True, kw_only=True)
class SourceAccuracy(OneLine):
    """Accuracy on held-out pictures of the pretraining task, as fractions.

    `flops` is the cost of measuring it this time.
    """

    before: float
    after: float
    pictures: int
    flops: float

    def __repr__(self) -> str:
        return (
            f"SourceAccuracy: {self.before:.1%} before, {self.after:.1%} after, "
            f"{self.pictures} pictures"
        )


# By network: hashes of its layers as they were, its accuracy, and the number of pictures.
_known: WeakKeyDictionary[nn.Module, tuple[dict[str, str], float, int]] = WeakKeyDictionary()


def source_accuracy(
    model: PretrainedModel,
    plan: Plan,
    trained: nn.Module,
    moved: Sequence[str],
    previous: Run | None = None,
    at_most: int | None = None,
) -> SourceAccuracy | None:
    """Measure accuracy on the pretraining task before and after a run.

    Both use the model's *own* output layer, so they compare the backbones alone. If only the output
    layer moved, nothing is measured afterwards: the run's proof says that the backbone is the same,
    bit for bit.

    Args:
        trained: the run's network; it is not changed.
        moved: layers that changed.
        previous: the run whose weights it started from.
        at_most: pictures to measure on, if only the cost is of interest; default: all.

    Returns:
        None if the source data are not available, the backbone did not come from it, or layers
        before the output were edited.
    """
    since = previous.source_accuracy if previous else None
    if not _at_hand(model, plan) or (
        previous and (since is None or previous.plan.model != model.name)
    ):
        return None
    before, pictures, looked = _before(model, at_most)
    after = since[1] if since else before
    if any(not _of_output(layer) for layer in moved):
        twin = copied(trained)
        device = next(trained.parameters()).device
        twin.set_submodule(OUTPUT, copied(model.module.get_submodule(OUTPUT)).to(device))
        images, labels = _pictures(model, at_most)
        after = right_of(twin, images, labels) / len(labels)
        looked += len(labels)
    return SourceAccuracy(
        before=before,
        after=after,
        pictures=pictures,
        flops=float(looked * glyphnet.card(model.name)["flops"]),
    )


def _at_hand(model: PretrainedModel, plan: Plan) -> bool:
    """Whether it is an embedded network as shipped.

    The plan may edit only its output layer.
    """
    if model.card.family != EMBEDDED or model.weights != "default" or plan.start != "pretrained":
        return False
    own = getattr(model.module, OUTPUT, None)
    whole = isinstance(own, nn.Linear) and own.out_features == model.card.source_classes
    return whole and all(_of_output(edit.name) for edit in plan.edits)


def _of_output(layer: str) -> bool:
    return layer == OUTPUT or layer.startswith(OUTPUT + ".")


def _pictures(model: PretrainedModel, at_most: int | None) -> tuple[Tensor, Tensor]:
    from tlnb.glyphnet import held_out

    images, labels = held_out.pictures(tuple(glyphnet.card(model.name)["classes"]))
    return images[:at_most], labels[:at_most]


def _before(model: PretrainedModel, at_most: int | None) -> tuple[float, int, int]:
    """The pretrained network's accuracy, the number of pictures, and how many were used now.

    It was measured before the network shipped; a network that was changed since is measured once.
    """
    network = model.module
    numbers = hashes(network)
    if network in _known and _known[network][0] == numbers:
        return (*_known[network][1:], 0)
    right, pictures, looked = _shipped(model) or _measured(model, at_most)
    if at_most is None or not looked:
        _known[network] = numbers, right / (looked or pictures), pictures
    return right / (looked or pictures), pictures, looked


def _shipped(model: PretrainedModel) -> tuple[int, int, int] | None:
    """Correct predictions and pictures of a network whose weights are still as shipped."""
    from tlnb.glyphnet import held_out

    state, shipped = model.module.state_dict(), glyphnet.weights(model.name)
    same = state.keys() == shipped.keys() and all(
        torch.equal(t.cpu(), shipped[k]) for k, t in state.items()
    )
    return (*held_out.measured()[model.name], 0) if same else None


def _measured(model: PretrainedModel, at_most: int | None) -> tuple[int, int, int]:
    images, labels = _pictures(model, at_most)
    return (
        right_of(copied(model.module), images, labels),
        len(_pictures(model, None)[1]),
        len(labels),
    )


def right_of(network: nn.Module, images: Tensor, labels: Tensor) -> int:
    """Number of correct predictions in fp32 and eval mode.

    Images have the source's size and normalisation.
    """
    network.eval()
    device = next(network.parameters()).device
    normalise = Transform(
        size=glyphnet.SIZE, resize=glyphnet.SIZE, mean=glyphnet.MEAN, std=glyphnet.STD
    ).normalise
    with torch.no_grad():
        guesses = torch.cat(
            [network(normalise(part.to(device))).argmax(1).cpu() for part in images.split(CHUNK)]
        )
    return int((guesses == labels).sum())
