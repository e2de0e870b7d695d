"""Linear probes: cross-validated accuracy of a linear layer on each stage's output.

They use the labels in use only: test and monitor images are not read.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tlnb.core.data.dataset import IN_USE, DataSet
from tlnb.core.data.splits import Labelled
from tlnb.core.models.anatomy import Anatomy, evaluating
from tlnb.core.models.calibration import spread_rows
from tlnb.core.models.pretrained import Transform
from tlnb.core.runtime.blas import on_one_blas_thread
from tlnb.core.runtime.errors import UsageError
from tlnb.core.training.raw_inputs import chunk_of

FOLDS = 3
MAX_IMAGES = 600  # images used for probes
GRID = 2  # a stage's output is averaged to at most this many cells per side
REPEATS = 3  # cross-validations of a probe, each with new folds
TEMPERATURES = np.geomspace(0.2, 20, 25)


@dataclass(frozen=True, kw_only=True)
class Probe:
    """A logistic regression on a frozen stage's output: how well it predicts the classes."""

    stage: str
    accuracy: float  # cross-validated
    error: float  # standard error
    features: int = 0  # numbers per image


def labels_in_use(data: DataSet, least: int = 0) -> DataSet:
    """`train` and `val` as one, at most `MAX_IMAGES`, classes in equal parts.

    Probes may not use anything else.

    Args:
        least: leave classes out rather than keep fewer images than this of each: what a network
            learns depends on the images per class more than on the number of classes.
    """
    splits, groups = [s for s in IN_USE if s in data.splits], data.groups_in_use
    labels = torch.cat([data.labels[s] for s in splits])
    rows = _some_classes(labels, MAX_IMAGES, least)
    rows = rows[spread_rows(labels[rows], MAX_IMAGES)]
    ends = np.cumsum([0, *(len(data.labels[s]) for s in splits)])
    parts = []
    for split, start, end in zip(splits, ends, ends[1:], strict=False):
        mine = rows[(rows >= start) & (rows < end)] - int(start)
        parts.append(data.images[split][mine])
    images = {"train": torch.cat(parts), "test": torch.cat(parts)[:0]}
    held = {"train": labels[rows], "test": labels[rows][:0]}
    group_of = {} if groups is None else {"train": groups[rows], "test": groups[:0]}
    return replace(
        data, images=MappingProxyType(images), labels=MappingProxyType(held), group_of=group_of
    )


def _some_classes(labels: Tensor, most: int, least: int) -> Tensor:
    """Rows of as many classes, evenly spaced, as `most` rows hold with `least` images of each."""
    classes, counts = labels.unique(return_counts=True)
    each = max(1, min(least, int(counts.float().mean())))
    kept = max(2, most // each)
    if len(labels) <= most or not least or kept >= len(classes):
        return torch.arange(len(labels))
    chosen = classes[torch.linspace(0, len(classes) - 1, kept).long()]
    return torch.isin(labels, chosen).nonzero()[:, 0]


def probe(
    stages: Mapping[str, np.ndarray], labels: Labelled, repeats: int = REPEATS
) -> tuple[Probe, ...]:
    """Fit a probe for each stage's features `(N, features)`, with labels that have folds."""
    return tuple(
        Probe(
            stage=stage,
            accuracy=float(right.mean()),
            error=standard_error(right),
            features=features.shape[1],
        )
        for stage, features in stages.items()
        for right in [cross_validated(features, labels, repeats=repeats)]
    )


def stage_features(
    module: nn.Module, anatomy: Anatomy, transform: Transform, images: Tensor
) -> dict[str, np.ndarray]:
    """The output of each stage before the output layer for images `(N, 3, E, E)`.

    Maps are averaged to a small grid: `(N, features)`.
    """
    with stage_outputs(module, anatomy) as held, evaluating(module), torch.no_grad():
        for part in images.split(chunk_of(transform.size, on_cpu=True)):
            module(transform(part))
    return {stage: torch.cat(chunks).numpy() for stage, chunks in held.items() if chunks}


@contextmanager
def stage_outputs(module: nn.Module, anatomy: Anatomy) -> Iterator[dict[str, list[Tensor]]]:
    """Collect, while it is open, what each stage before the output layer gives: a chunk a pass."""
    watched = _watched(module, anatomy)
    held: dict[str, list[Tensor]] = {stage: [] for stage in watched}
    handles = [part.register_forward_hook(_keeper(held[stage])) for stage, part in watched.items()]
    try:
        yield held
    finally:
        for handle in handles:
            handle.remove()


def _watched(module: nn.Module, anatomy: Anatomy) -> dict[str, nn.Module]:
    """A module for each stage but the output layer's.

    It is the module of the stage's name, else the stage's last layer.
    """
    parts = dict(module.named_modules())
    head = {layer.stage for layer in anatomy.layers if layer.name in anatomy.heads}
    last = {
        layer.stage: layer.name
        for layer in anatomy.layers
        if layer.name in parts and layer.stage not in head
    }
    return {stage: parts[stage if stage in parts else name] for stage, name in last.items()}


def _keeper(held: list[Tensor]) -> Callable[[nn.Module, Any, Any], None]:
    def keep(_: nn.Module, __: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            held.append(_pooled(output).float())

    return keep


def _pooled(output: Tensor) -> Tensor:
    """Average `(N, C, H, W)` to a grid and `(N, tokens, C)` to one row.

    `(N, features)` stays as it is.
    """
    if output.ndim == 4:
        edge = min(GRID, output.shape[-1])
        return torch.nn.functional.adaptive_avg_pool2d(output, edge).flatten(1)
    return output.mean(1) if output.ndim == 3 else output.flatten(1)


@on_one_blas_thread
def cross_validated(
    features: np.ndarray, labels: Labelled, share: float = 1.0, repeats: int = REPEATS
) -> np.ndarray:
    """How often a logistic regression is right on held-out images, `(N,)`.

    It learns from `share` of the others.

    Raises:
        UsageError: no labels can be held out.
    """
    divided = labels.repeated(FOLDS, repeats)
    if not divided:
        raise UsageError(labels.none_held)
    right = np.zeros(len(features))
    for rows, held in itertools.chain(*divided):
        learned = rows if share >= 1 else _part(labels, rows, share)
        guesses = _guesses(features[learned], labels.labels[learned], features[held])
        right[held] += guesses == labels.labels[held]
    return np.asarray(right / len(divided))


def _part(labels: Labelled, rows: np.ndarray, share: float) -> np.ndarray:
    """A share of the rows, classes taking turns; of images in groups, a share of the groups."""
    firsts = rows
    if labels.groups is not None:
        firsts = rows[np.sort(np.unique(labels.groups[rows], return_index=True)[1])]
    most = max(1, round(share * len(firsts)))
    chosen = firsts[spread_rows(torch.from_numpy(labels.labels[firsts]), most).numpy()]
    if labels.groups is None:
        return np.asarray(chosen)
    return np.asarray(rows[np.isin(labels.groups[rows], labels.groups[chosen])])


def _guesses(learned: np.ndarray, labels: np.ndarray, held: np.ndarray) -> np.ndarray:
    """The classes `(m,)` of features `(m, D)`, by a logistic regression on `(n, D)` with labels."""
    from sklearn.linear_model import LogisticRegression

    if len(np.unique(labels)) < 2:  # few groups may have no other class
        return np.full(len(held), labels[0])
    mean, spread = learned.mean(0), learned.std(0)
    scale = spread + 0.1 * spread.mean() + 1e-6
    with warnings.catch_warnings():
        # A solver that stops early warns; the fit is good enough here.
        warnings.simplefilter("ignore")
        model = LogisticRegression(C=0.01, max_iter=200).fit((learned - mean) / scale, labels)
    return np.asarray(model.predict((held - mean) / scale))


def calibrated_loss(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Cross-entropy `(n,)` of each image from logits `(n, C)`, after temperature scaling.

    One temperature, the best for these logits, is used for all: networks that train longer become
    more confident in everything, which says nothing about what they know.

    Source: Guo et al., On Calibration of Modern Neural Networks, ICML 2017.
    """

    def loss(temperature: float) -> np.ndarray:
        scaled = logits.astype(np.float64) / temperature
        scaled -= scaled.max(1, keepdims=True)
        true_logits = scaled[np.arange(len(labels)), labels]
        losses: np.ndarray = np.log(np.exp(scaled).sum(1)) - true_logits
        return losses

    return min((loss(t) for t in TEMPERATURES), key=lambda losses: float(losses.mean()))


def standard_error(values: np.ndarray) -> float:
    """Standard error of a mean.

    An extra value on either side keeps few images from looking certain.
    """
    count = len(values)
    return math.sqrt(float(values.var()) / count + 1 / count**2)
