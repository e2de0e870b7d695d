"""Which pretrained network suits the data: linear probes of the candidates, compared in pairs.

A probe learns from the features that strategy `head` would train on, and is scored by
cross-validation on the labels in use. Accuracy on a few labels says little, so the order is that of
the probability which each held-out label gets. All candidates have the same folds, so two are
compared image by image. What this cannot tell apart goes by the cards: the larger source first.
`python -m benchmarks.sources` measures the order and the advice. Test images, and those that only
draw curves, are not read.
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
from tlnb.core.data.splits import Labelled
from tlnb.core.evaluation.embeddings import FeatureExtractor, features_of
from tlnb.core.evaluation.probes import (
    FOLDS,
    REPEATS,
    Probe,
    calibrated_loss,
    probe,
    stage_outputs,
    standard_error,
)
from tlnb.core.models.anatomy import Anatomy, read_anatomy
from tlnb.core.models.catalogue import Card
from tlnb.core.models.clocks import CostTracker
from tlnb.core.models.flops import forward_flops
from tlnb.core.models.pretrained import PretrainedModel
from tlnb.core.runtime.blas import on_one_blas_thread
from tlnb.core.runtime.errors import OneLine, TLError
from tlnb.core.storage.activation_cache import Store, key_of
from tlnb.core.training.cache_key import identity, pixels
from tlnb.core.training.folded_input_norm import EPSILON
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
    probability: float | None = None  # that held-out labels got, calibrated; in the mean
    behind: float | None = None  # how far that is below the first's
    error: float | None = None  # standard error of that, image by image
    depths: tuple[Probe, ...] = ()  # probes of its stages; of the first source only

    @property
    def tied(self) -> bool:
        """Whether the probe, with 95% confidence, does not put it behind the first."""
        return self.behind is not None and _is_tie(self.behind, self.error or 0.0)

    def __repr__(self) -> str:
        right = "not measured" if self.accuracy is None else f"{self.accuracy:.1%}"
        return f"Source {self.name}: {right}"


@dataclass(frozen=True)
class HeldOut:
    """Of each image, `(N,)`: how often it was right, and the probability its class got."""

    right: np.ndarray
    likely: np.ndarray

    @property
    def probability(self) -> float:
        """The mean of what held-out labels got."""
        return float(self.likely.mean())

    def behind(self, other: HeldOut) -> tuple[float, float]:
        """How much less probability labels got than from another, and its standard error."""
        difference = other.likely - self.likely
        return float(difference.mean()), standard_error(difference)


@dataclass(frozen=True, kw_only=True)
class _Measured:
    """A source, its features `(N, features)` by depth, and what became of each label held out."""

    source: Source
    features: Mapping[str, np.ndarray]
    labels: Labelled
    held: HeldOut | None  # None: no label can be held out


def probe_sources(
    candidates: Sequence[Candidate],
    used_by: Callable[[PretrainedModel], DataSet],
    store: Store,
    spent: CostTracker,
    report_step: Callable[[int], None] = lambda step: None,
) -> tuple[tuple[Source, ...], tuple[str, ...]]:
    """Probe each candidate and compare it with the one that is advised.

    Args:
        used_by: the labels in use, decoded for a network; the same images for each.
        store: where features are found again.

    Returns:
        The sources, best first (`first_of`), in their order where nothing can be held out; and
        which candidates were left out, and why.

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
    return _ordered(measured), tuple(left_out)


def _ordered(measured: Sequence[_Measured]) -> tuple[Source, ...]:
    """The advised source first, then by probability; as they are if nothing was held out."""
    held = {each.source.name: each.held for each in measured if each.held is not None}
    if not held:
        return tuple(each.source for each in measured)
    advised = first_of(held, {each.source.name: each.source.card for each in measured})
    ranked = sorted(measured, key=lambda each: (each.source.name != advised, *_rank(each)))
    first, best = ranked[0], held[advised]
    source = replace(first.source, behind=0.0, error=0.0, depths=_depths(first))
    return source, *(_compared(best, each) for each in ranked[1:])


def first_of(held: Mapping[str, HeldOut], cards: Mapping[str, Card]) -> str:
    """The name of the best source: relevant, then large, then accurate.

    The probe decides as far as it can tell two apart; of those that it cannot tell from its best, a
    network comes first that was trained on more images, then one of higher stated accuracy.
    """
    ranked = sorted(held, key=lambda name: held[name].probability, reverse=True)
    tied = [name for name in ranked if _is_tie(*held[name].behind(held[ranked[0]]))]
    return max(tied, key=lambda n: (cards[n].source_images or 0, cards[n].accuracy or 0.0))


def _is_tie(behind: float, error: float) -> bool:
    return behind <= SURE * error


def _measure(
    candidate: Candidate,
    used_by: Callable[[PretrainedModel], DataSet],
    store: Store,
    spent: CostTracker,
) -> _Measured:
    model = candidate.load()
    used = used_by(model)
    labels, images = used.labelled, used.images["train"]
    found = _found(model, images, store, spent)
    features = {name: part.numpy() for name, part in found.items() if name != COST}
    source = Source(
        name=candidate.name,
        line=candidate.line,
        card=model.card,
        labels=len(images),
        seconds=float(found[COST][0, 0]),
        bytes=sum(t.nbytes for t in (*model.module.parameters(), *model.module.buffers())),
    )
    held = held_out(features[HEAD], labels)
    return _Measured(source=_scored(source, held), features=features, labels=labels, held=held)


def _scored(source: Source, held: HeldOut | None) -> Source:
    if held is None:
        return source
    return replace(
        source,
        accuracy=float(held.right.mean()),
        interval=wilson_interval(round(held.right.sum()), len(held.right)),
        probability=held.probability,
    )


@on_one_blas_thread
def held_out(features: np.ndarray, labelled: Labelled) -> HeldOut | None:
    """Cross-validate a probe of features `(N, features)`; None where no labels can be held out.

    A logistic regression, regularised as far as the output layer that strategy `head` trains.
    """
    from sklearn.linear_model import LogisticRegression

    divided = labelled.repeated(MOST_FOLDS, REPEATS)
    if not divided:
        return None
    labels, rows = labelled.labels, _standardised(features)
    right, likely = np.zeros(len(labels)), np.zeros(len(labels))
    for folds in divided:
        logits = np.full((len(labels), int(labels.max()) + 1), -np.inf)
        for learned, held in folds:
            model = LogisticRegression(max_iter=300).fit(rows[learned], labels[learned])
            logits[np.ix_(held, model.classes_)] = model.predict_log_proba(rows[held])
        right += logits.argmax(1) == labels
        likely += np.exp(-calibrated_loss(logits, labels))
    return HeldOut(right=right / len(divided), likely=likely / len(divided))


def _standardised(features: np.ndarray) -> np.ndarray:
    """Features as they reach the output layer in training, in their own N dimensions at most.

    A rotation changes no logistic regression, and fewer dimensions take less time.
    """
    centred = features - features.mean(0, dtype=np.float64)
    scaled = centred / (centred.std(0) + EPSILON * centred.std() + np.finfo(float).tiny)
    left, size, _ = np.linalg.svd(scaled, full_matrices=False)
    return np.asarray(left * size)


def _rank(measured: _Measured) -> tuple[float, int]:
    return -(measured.source.probability or 0.0), measured.source.bytes


def _compared(first: HeldOut, each: _Measured) -> Source:
    """The source with its distance from the first, from the same images in the same folds."""
    behind, error = (each.held or first).behind(first)
    return replace(each.source, behind=behind, error=error)


def _depths(first: _Measured) -> tuple[Probe, ...]:
    """A probe of each stage: once, since it is only to show where the features lie."""
    stages = {name: part for name, part in first.features.items() if part.shape[1] > 1}
    return probe(stages, first.labels, repeats=1) if first.labels.folds(FOLDS) else ()


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
