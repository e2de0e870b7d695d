"""What a network still knows of its own source: its accuracy there before and after a run, with its old output layer.

Target accuracy hides forgetting, and hides statistics that drift in a trunk left in training mode; this shows both.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from tlnb import glyphnet
from tlnb.core.catalogue import EMBEDDED
from tlnb.core.copying import copied
from tlnb.core.plan import Plan
from tlnb.core.pretrained import PretrainedModel, Transform
from tlnb.core.record import Run

CHUNK = 256
OUTPUT = "head"  # what the embedded networks call their output layer


@dataclass(frozen=True)
class SourceAccuracy:
    """Fractions of the source's held-out pictures that are right; `flops` is what measuring took this time."""

    before: float
    after: float
    pictures: int
    flops: float

    def __repr__(self) -> str:
        return f"SourceAccuracy: {self.before:.1%} before, {self.after:.1%} after, {self.pictures} pictures"


# by network: its tensors' versions, which count changes made in place, and its accuracy
_known: WeakKeyDictionary[nn.Module, tuple[tuple[int, ...], float]] = WeakKeyDictionary()


def source_accuracy(
    model: PretrainedModel, plan: Plan, trained: nn.Module, moved: Sequence[str], previous: Run | None = None,
    at_most: int | None = None,
) -> SourceAccuracy | None:  # fmt: skip
    """The network's accuracy on its own source before and after a run.

    Both are of a trunk with the model's *own* output layer, so that they compare trunks alone. Where nothing but the
    output layer moved, nothing needs measuring afterwards: the run's proof says that the trunk is the same to the bit.

    Args:
        trained: the run's network; it is not changed.
        moved: layers that changed.
        previous: the run whose weights it started from.
        at_most: pictures that are measured on, where only the cost is asked; default: all.

    Returns:
        None where the source is not at hand, the trunk did not come from it, or layers before the output were edited.
    """
    since = previous.source_accuracy if previous else None
    if not _at_hand(model, plan) or (previous and (since is None or previous.plan.model != model.name)):
        return None
    from tlnb.glyphnet import held_out

    card = glyphnet.card(model.name)
    images, labels = held_out.pictures(tuple(card["classes"]))
    shown = slice(at_most)
    before, looked = _before(model.module, images[shown], labels[shown], keep=at_most is None)
    after = since[1] if since else before
    if any(not _of_output(layer) for layer in moved):
        twin = copied(trained)
        device = next(trained.parameters()).device
        twin.set_submodule(OUTPUT, copy.deepcopy(model.module.get_submodule(OUTPUT)).to(device))
        after = _accuracy(twin, images[shown], labels[shown])
        looked += len(labels[shown])
    return SourceAccuracy(before, after, len(labels), float(looked * card["flops"]))


def _at_hand(model: PretrainedModel, plan: Plan) -> bool:
    """Whether it is an embedded network as it ships, its own output layer kept, and only that edited by the plan."""
    if model.card.family != EMBEDDED or model.weights != "default" or plan.start != "pretrained":
        return False
    own = getattr(model.module, OUTPUT, None)
    whole = isinstance(own, nn.Linear) and own.out_features == model.card.source_classes
    return whole and all(_of_output(edit.name) for edit in plan.edits)


def _of_output(layer: str) -> bool:
    return layer == OUTPUT or layer.startswith(OUTPUT + ".")


def _before(network: nn.Module, images: Tensor, labels: Tensor, keep: bool) -> tuple[float, int]:
    """The pretrained network's accuracy, measured once for each loaded model, and the pictures looked at for it now."""
    versions = tuple(t._version for t in network.state_dict().values())
    if network in _known and _known[network][0] == versions:
        return _known[network][1], 0
    found = _accuracy(copied(network), images, labels)
    if keep:
        _known[network] = versions, found
    return found, len(labels)


def _accuracy(network: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Share of right answers in fp32 and eval mode, at the source's own size and normalisation."""
    network.eval()
    device = next(network.parameters()).device
    normalise = Transform(glyphnet.SIZE, glyphnet.SIZE, glyphnet.MEAN, glyphnet.STD).normalise
    with torch.no_grad():
        guesses = torch.cat([network(normalise(part.to(device))).argmax(1).cpu() for part in images.split(CHUNK)])
    return int((guesses == labels).sum()) / len(labels)
