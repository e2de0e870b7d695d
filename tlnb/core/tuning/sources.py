"""Which pretrained network suits the data: linear probes of the candidates, compared in pairs.

A probe learns from the features that strategy `head` would train on, and is scored by
cross-validation on the labels in use. All candidates have the same folds, so two are compared image
by image. Test images, and those that only draw curves, are not read.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from tlnb.core.data.dataset import DataSet
from tlnb.core.evaluation.embeddings import FeatureExtractor, features_of
from tlnb.core.evaluation.probes import (
    FOLDS,
    Probe,
    cross_validated,
    probe,
    stage_outputs,
    standard_error,
)
from tlnb.core.models.anatomy import Anatomy, read_anatomy
from tlnb.core.models.catalogue import Card
from tlnb.core.models.clocks import CostTracker
from tlnb.core.models.flops import forward_flops
from tlnb.core.models.pretrained import PretrainedModel
from tlnb.core.runtime.errors import OneLine, TLError
from tlnb.core.storage.activation_cache import Store, key_of
from tlnb.core.training.cache_key import identity, pixels
from tlnb.core.training.run import wilson_interval

MOST_FOLDS = 5
HEAD, COST = "what reaches the output layer", "cost"
SURE = 1.96  # standard errors of a difference that is told apart: 95%

_unique = itertools.count()


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A network that may be the source; `load` gives it at the edge that the data ask for."""

    name: str
    line: str  # the magic that loads it
    load: Callable[[], PretrainedModel] = field(repr=False)
    optional: bool = False  # whether it is left out where it cannot be used


@dataclass(frozen=True, kw_only=True)
class Source(OneLine):
    """A candidate as measured on the labels in use, beside what its card states."""

    name: str
    line: str
    seconds: float  # of its forward passes over the labels in use, when they were computed
    bytes: int  # of its parameters and buffers
    card: Card = field(repr=False)
    labels: int  # that were in use
    accuracy: float | None = None  # of the probe, cross-validated; None: not measured
    interval: tuple[float, float] | None = None  # 95%
    behind: float | None = None  # accuracy below the best's
    error: float | None = None  # standard error of that, image by image
    depths: tuple[Probe, ...] = ()  # probes of its stages; of the best source only

    @property
    def tied(self) -> bool:
        """Whether it cannot be told apart from the best, with 95% confidence."""
        return self.behind is not None and self.behind <= SURE * (self.error or 0.0)

    def __repr__(self) -> str:
        right = "not measured" if self.accuracy is None else f"{self.accuracy:.1%}"
        return f"Source {self.name}: {right}"


@dataclass(frozen=True, kw_only=True)
class _Measured:
    """A source, its features `(N, features)` by depth, and how often each image was right."""

    source: Source
    features: Mapping[str, np.ndarray]
    labels: np.ndarray
    right: np.ndarray | None  # None: no label can be held out


def probe_sources(
    candidates: Sequence[Candidate],
    used_by: Callable[[PretrainedModel], DataSet],
    store: Store,
    spent: CostTracker,
    report_step: Callable[[int], None] = lambda step: None,
) -> tuple[tuple[Source, ...], tuple[str, ...]]:
    """Probe each candidate and compare it with the best.

    Args:
        used_by: the labels in use, decoded for a network; the same images for each.
        store: where features are found again.

    Returns:
        The sources, best first and the smaller of equals first, in their order where nothing can be
        held out; and which candidates were left out, and why.

    Raises:
        ModelError, UsageError: a candidate that is not optional, or all of them, cannot be used.
    """
    measured, left_out = list[_Measured](), list[str]()
    for step, candidate in enumerate(candidates):
        report_step(step)
        try:
            measured.append(_measure(candidate, used_by, store, spent))
        except TLError as error:
            if not candidate.optional or len(left_out) == len(candidates) - 1:
                raise
            left_out.append(f"{candidate.name} is left out: {error}")
    best, *others = sorted(measured, key=_rank)
    if best.right is None:
        return tuple(each.source for each in measured), tuple(left_out)
    first = replace(best.source, behind=0.0, error=0.0, depths=_depths(best))
    return (first, *(_compared(best.right, each) for each in others)), tuple(left_out)


def _measure(
    candidate: Candidate,
    used_by: Callable[[PretrainedModel], DataSet],
    store: Store,
    spent: CostTracker,
) -> _Measured:
    model = candidate.load()
    used = used_by(model)
    labels, images = used.labels["train"].numpy(), used.images["train"]
    found = _found(model, images, store, spent)
    features = {name: part.numpy() for name, part in found.items() if name != COST}
    right = held_out(features[HEAD], labels)
    source = Source(
        name=candidate.name,
        line=candidate.line,
        card=model.card,
        labels=len(labels),
        seconds=float(found[COST][0, 0]),
        bytes=sum(t.nbytes for t in (*model.module.parameters(), *model.module.buffers())),
        accuracy=None if right is None else float(right.mean()),
        interval=None if right is None else wilson_interval(round(right.sum()), len(right)),
    )
    return _Measured(source=source, features=features, labels=labels, right=right)


def held_out(features: np.ndarray, labels: np.ndarray) -> np.ndarray | None:
    """How often each image is right, `(N,)`, held out; None where a class has a single label."""
    folds = _folds(labels, MOST_FOLDS)
    return cross_validated(features, labels, folds) if folds > 1 else None


def _folds(labels: np.ndarray, most: int) -> int:
    counts = np.bincount(labels)
    return min(most, int(counts[counts > 0].min()))


def _rank(measured: _Measured) -> tuple[float, int]:
    return -(measured.source.accuracy or 0.0), measured.source.bytes


def _compared(best: np.ndarray, each: _Measured) -> Source:
    """The source with its distance from the best, from the same images in the same folds."""
    difference = best - (each.right if each.right is not None else best)
    error = standard_error(difference)
    return replace(each.source, behind=float(difference.mean()), error=error)


def _depths(best: _Measured) -> tuple[Probe, ...]:
    """A probe of each stage: once, since it is only to show where the features lie."""
    stages = {name: part for name, part in best.features.items() if part.shape[1] > 1}
    return probe(stages, best.labels, _folds(best.labels, FOLDS), repeats=1)


# ── features ──────────────────────────────────────────────────────────────────────────────────────


def _found(
    model: PretrainedModel, images: Tensor, store: Store, spent: CostTracker
) -> dict[str, Tensor]:
    """Features by depth and what they cost, `(1, 2)` seconds and FLOPs, found or computed."""
    anatomy = read_anatomy(model.module, model.transform.size, model.name)
    known = identity(model.module) or f"unique {next(_unique)}"
    whole = key_of(known, pixels(images), repr(model.transform), torch.__version__)
    names = (COST, *dict.fromkeys(layer.stage for layer in anatomy.layers), HEAD)
    found = {name: store.get(key_of(whole, name)) for name in names}
    known_parts = {name: part for name, part in found.items() if part is not None}
    if HEAD in known_parts and COST in known_parts:
        return known_parts
    computed = _computed(model, anatomy, images)
    flops = float(computed[COST][0, 1])
    spent.charge("advising", flops)
    for name, part in computed.items():
        store.keep(key_of(whole, name), len(part), [part], "memory", flops)
    return computed


def _computed(model: PretrainedModel, anatomy: Anatomy, images: Tensor) -> dict[str, Tensor]:
    seer = FeatureExtractor(
        of=model.name, module=model.module, head=anatomy.head, transform=model.transform
    )
    began = time.perf_counter()
    with stage_outputs(model.module, anatomy) as held:
        inputs = features_of(seer, images)
    seconds = time.perf_counter() - began
    flops = len(images) * forward_flops(model.module, model.transform(images[:2]))
    stages = {stage: torch.cat(parts) for stage, parts in held.items() if parts}
    cost = torch.tensor([[seconds, flops]], dtype=torch.float64)
    return {COST: cost, **stages, HEAD: inputs}
