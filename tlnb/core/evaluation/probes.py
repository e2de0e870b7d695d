"""How much of the answer each stage's output holds: a linear layer on it, judged by cross-validation on the labels in use.

Test images, and those that only draw curves, are not read.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tlnb.core.data.dataset import DataSet
from tlnb.core.data.splits import folds_of
from tlnb.core.models.anatomy import Anatomy, evaluating
from tlnb.core.models.pretrained import Transform
from tlnb.core.training.raw_inputs import chunk_of

FOLDS = 3
MAX_IMAGES = 600  # images that evidence is measured on
GRID = 2  # a stage's output is averaged to at most so many by so many cells
REPEATS = 3  # cross-validations of a probe, each dealt anew


@dataclass(frozen=True)
class Probe:
    """A logistic regression on one stage's output, frozen: how much of the answer is there already."""

    stage: str
    accuracy: float  # cross-validated
    error: float  # standard error
    features: int = 0  # numbers an image


def labels_in_use(data: DataSet) -> DataSet:
    """`train` and `val` as one, at most so many, classes in equal parts; all that evidence may look at."""
    splits = [s for s in ("train", "val") if s in data.splits]
    labels = torch.cat([data.labels[s] for s in splits])
    rows = _evenly(labels, MAX_IMAGES)
    ends = np.cumsum([0, *(len(data.labels[s]) for s in splits)])
    parts = []
    for split, start, end in zip(splits, ends, ends[1:], strict=False):
        mine = rows[(rows >= start) & (rows < end)] - int(start)
        parts.append(data.images[split][mine])
    images = {"train": torch.cat(parts), "test": torch.cat(parts)[:0]}
    held = {"train": labels[rows], "test": labels[rows][:0]}
    return replace(data, images=MappingProxyType(images), labels=MappingProxyType(held))


def _evenly(labels: Tensor, most: int) -> Tensor:
    """Rows, in order; classes take turns until there are enough."""
    if len(labels) <= most:
        return torch.arange(len(labels))
    turn = torch.empty_like(labels)
    for c in labels.unique():
        mine = (labels == c).nonzero()[:, 0]
        turn[mine] = torch.arange(len(mine))
    return torch.argsort(turn, stable=True)[:most].sort().values


def probe(
    stages: Mapping[str, np.ndarray], labels: np.ndarray, folds: int, repeats: int = REPEATS
) -> tuple[Probe, ...]:
    """A probe for each stage's features `(N, features)`, labels `(N,)`."""
    return tuple(
        Probe(stage, float(right.mean()), standard_error(right), features.shape[1])
        for stage, features in stages.items()
        for right in [cross_validated(features, labels, folds, repeats=repeats)]
    )


def stage_features(
    module: nn.Module, anatomy: Anatomy, transform: Transform, images: Tensor
) -> dict[str, np.ndarray]:
    """What each stage before the output layer gives for images `(N, 3, E, E)`: `(N, features)`, averaged to a small grid."""
    watched = _watched(module, anatomy)
    held: dict[str, list[Tensor]] = {stage: [] for stage in watched}
    handles = [part.register_forward_hook(_keeper(held[stage])) for stage, part in watched.items()]
    try:
        with evaluating(module), torch.no_grad():
            for part in images.split(chunk_of(transform.size, on_cpu=True)):
                module(transform(part))
    finally:
        for handle in handles:
            handle.remove()
    return {stage: torch.cat(chunks).numpy() for stage, chunks in held.items() if chunks}


def _watched(module: nn.Module, anatomy: Anatomy) -> dict[str, nn.Module]:
    """A module for each stage but the output layer's: the one of that name, else the last layer in it."""
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
    """`(N, C, H, W)` averaged to a grid, `(N, tokens, C)` to one; `(N, features)` as they are."""
    if output.ndim == 4:
        edge = min(GRID, output.shape[-1])
        return torch.nn.functional.adaptive_avg_pool2d(output, edge).flatten(1)
    return output.mean(1) if output.ndim == 3 else output.flatten(1)


def cross_validated(
    features: np.ndarray, labels: np.ndarray, folds: int, share: float = 1.0, repeats: int = REPEATS
) -> np.ndarray:
    """How often a logistic regression is right of images it has not seen `(N,)`, with a share of the others to learn from."""
    from sklearn.linear_model import LogisticRegression

    right = np.zeros(len(labels))
    for seed in range(repeats):
        for rows, held in folds_of(labels, folds, seed):
            if share < 1:
                rows = rows[
                    _evenly(
                        torch.from_numpy(labels[rows]), max(1, round(share * len(rows)))
                    ).numpy()
                ]
            mean, spread = features[rows].mean(0), features[rows].std(0)
            scale = spread + 0.1 * spread.mean() + 1e-6
            with warnings.catch_warnings():
                warnings.simplefilter(
                    "ignore"
                )  # it says when it stops early; then it is good enough here
                model = LogisticRegression(C=0.01, max_iter=200).fit(
                    (features[rows] - mean) / scale, labels[rows]
                )
            right[held] += model.predict((features[held] - mean) / scale) == labels[held]
    return right / repeats


def standard_error(values: np.ndarray) -> float:
    """Of a mean; one value more on either side keeps few images from looking certain."""
    count = len(values)
    return math.sqrt(float(values.var()) / count + 1 / count**2)
