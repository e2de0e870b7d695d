"""The catalogue of models that can be loaded by name. Reads metadata only, offline."""

from __future__ import annotations

import fnmatch
import math
import re
from dataclasses import dataclass, field, replace
from importlib.metadata import metadata
from typing import Any

from tlnb import glyphnet
from tlnb.core.models import efficientnet_lite as lite0
from tlnb.core.runtime.errors import ModelError, OneLine, UsageError, did_you_mean
from tlnb.core.storage.download import cached_file

EMBEDDED, PACKAGED, TORCHVISION, TIMM = "embedded", "package", "torchvision", "timm"
SORTS = ("small", "accurate", "fast")
# ILSVRC 2012, training set: Russakovsky et al., IJCV 115 (2015), table 2
TRAINING_IMAGES = {"ImageNet-1K": 1_281_167}


@dataclass(frozen=True, kw_only=True)
class Card(OneLine):
    """What is known about a model. `None` means unknown.

    Accuracies are fractions, sizes bytes, FLOPs for one image.
    """

    name: str
    family: str
    source: str
    source_images: int | None = None
    source_classes: int | None = None
    accuracy: float | None = None
    accuracy_of: str = ""
    top5: float | None = None  # top-5 accuracy
    parameters: int | None = None
    flops: float | None = None
    bytes: int | None = None
    size: int | None = None
    min_size: int | None = None  # smallest input edge, in pixels
    only_size: bool = False  # whether it takes images of `size` alone
    licence: str = ""
    recipe: str = ""
    about: str = ""  # the authors' description of the weights
    training: dict[str, Any] = field(default_factory=dict)  # seconds, cores, flops, hardware, basis
    on_disk: bool = False
    notes: tuple[str, ...] = ()
    weights: str = ""  # torchvision's name for these weights
    others: tuple[Card, ...] = field(default=(), repr=False)  # the same network with other weights

    @property
    def chance(self) -> float | None:
        """Accuracy of guessing among the source's classes."""
        return 1 / self.source_classes if self.source_classes else None

    def __repr__(self) -> str:
        if self.accuracy is None:
            return f"Card {self.name}: {self.source}"
        return f"Card {self.name}: {self.source}, {self.accuracy:.1%} {self.accuracy_of}"


@dataclass(frozen=True, kw_only=True)
class Catalogue(OneLine):
    """A selection of models, in the order asked for."""

    cards: tuple[Card, ...]
    pattern: str = "*"
    sort: str = "small"

    def __len__(self) -> int:
        return len(self.cards)

    def __repr__(self) -> str:
        offline = sum(card.on_disk for card in self.cards)
        models = "model matches" if len(self.cards) == 1 else "models match"
        return (
            f"Catalogue: {len(self.cards)} {models} {self.pattern!r}, {offline} available offline, "
            f"{self.sort} first"
        )


def names() -> list[str]:
    """All names without a prefix that `load` knows: the embedded, a package's, torchvision's."""
    from torchvision import models

    return [*glyphnet.names(), lite0.NAME, *models.list_models(module=models)]


def catalogue(pattern: str | None = None, sort: str | None = None) -> Catalogue:
    """The models whose name matches a glob or contains a word.

    Args:
        sort: `small` (by parameters; embedded models first), `accurate` (by top-1; embedded models
            last, since their source differs) or `fast` (by FLOPs for one image).

    Raises:
        ModelError: nothing matches.
        UsageError: the order is unknown.
    """
    known, glob = names(), glob_of(pattern or "*").lower()
    matches = [n for n in known if fnmatch.fnmatchcase(n.lower(), glob)]
    if not matches:
        hint = did_you_mean(pattern or "", known, "%tl_models lists all")
        raise ModelError(f"no model matches {pattern!r}: {hint}")
    return ordered(tuple(map(_card, matches)), pattern or "*", sort)


def glob_of(pattern: str) -> str:
    """A pattern as a glob; a word may stand anywhere in a name."""
    return pattern if any(c in pattern for c in "*?[") else f"*{pattern}*"


def ordered(cards: tuple[Card, ...], pattern: str, sort: str | None) -> Catalogue:
    """These cards in an order; None: the first of `SORTS`.

    Raises:
        UsageError: the order is unknown.
    """
    order = sort or SORTS[0]
    if order not in SORTS:
        hint = did_you_mean(order, SORTS, f"use {', '.join(SORTS)}")
        raise UsageError(f"--sort {order} is not an order of models: {hint}")
    in_order = sorted(cards, key=lambda card: _rank(card, order))
    return Catalogue(cards=tuple(in_order), pattern=pattern, sort=order)


def _card(name: str) -> Card:
    if name == lite0.NAME:
        return packaged_card()
    return embedded_card(name) if name in glyphnet.names() else torchvision_card(name)


def _rank(card: Card, order: str) -> tuple[bool, float]:
    if order == "accurate":
        return card.family == EMBEDDED, -(card.accuracy or 0.0)
    return card.family != EMBEDDED, (card.flops if order == "fast" else card.parameters) or math.inf


def embedded_card(name: str) -> Card:
    """Read the card stored beside the weights."""
    facts = glyphnet.card(name)
    known = {k: v for k, v in facts.items() if k in Card.__dataclass_fields__}
    known["notes"] = tuple(facts.get("notes", ()))
    return Card(**known | {"family": EMBEDDED, "on_disk": True})


def packaged_card() -> Card:
    """The card of EfficientNet-Lite0, whose weights a package brings."""
    return Card(
        name=lite0.NAME,
        family=PACKAGED,
        source="ImageNet-1K",
        source_images=TRAINING_IMAGES["ImageNet-1K"],
        source_classes=1000,
        accuracy=0.751,
        accuracy_of="top-1 on ImageNet-1K",
        parameters=4_652_008,
        flops=770_375_104.0,
        bytes=18_826_032,
        size=lite0.SIZE,
        min_size=32,
        licence="Apache-2.0",
        recipe=lite0.RECIPE,
        about=f"TensorFlow's weights, converted to PyTorch by the package {lite0.PACKAGE}",
        on_disk=lite0.weights_file() is not None,
    )


# ── torchvision ───────────────────────────────────────────────────────────────────────────────────


def torchvision_weights(name: str) -> dict[str, Any]:
    """torchvision's weights for a model by name, the default first; empty for other models."""
    from torchvision import models

    if name not in models.list_models(module=models):
        return {}
    entries = models.get_model_weights(name)
    return {w.name: w for w in sorted(entries, key=lambda w: w is not entries.DEFAULT)}


def torchvision_card(name: str, weights: str | None = None) -> Card:
    """Build a card from torchvision's own metadata; none of it is copied here.

    Args:
        weights: one of `torchvision_weights(name)`; default: the first. The others become
            `Card.others`.
    """
    cards = {w: _card_of(name, entry) for w, entry in torchvision_weights(name).items()}
    mine = cards.pop(weights or next(iter(cards)))
    return replace(mine, others=tuple(cards.values()))


def _card_of(name: str, weights: Any) -> Card:
    meta = weights.meta
    dataset, metrics = next(iter(meta["_metrics"].items()))
    top1, top5 = (None if math.isnan(metrics[k]) else metrics[k] / 100 for k in ("acc@1", "acc@5"))
    return Card(
        name=name,
        family=TORCHVISION,
        source=dataset,
        source_images=TRAINING_IMAGES.get(dataset),
        source_classes=len(meta["categories"] or ()) or None,
        accuracy=top1,
        accuracy_of=f"top-1 on {dataset}",
        top5=top5,
        parameters=meta["num_params"],
        flops=meta["_ops"] * 2e9,  # torchvision counts a multiply-add as one
        bytes=round(meta["_file_size"] * 2**20),
        size=weights.transforms().crop_size[0],
        min_size=max(meta["min_size"]),
        only_size=name.startswith("vit_"),  # its positions are of this size
        licence=meta.get("license") or _code_licence(),
        recipe=meta["recipe"],
        about=_plain(meta.get("_docs", "")),
        on_disk=cached_file(weights.url).is_file(),
        weights=weights.name,
    )


def _code_licence() -> str:
    facts = metadata("torchvision").json
    code = facts.get("license_expression") or facts.get("license") or "not stated either"
    return f"none stated for the weights (torchvision's code: {code})"


def _plain(text: str) -> str:
    """Convert reStructuredText to plain text.

    Links keep their text; markup and line ends are dropped.
    """
    text = re.sub(r"`([^`<]+?)\s*<[^>]*>`_+", r"\1", text)
    return " ".join(re.sub(r"`{1,2}|:\w+:", "", text).split())
