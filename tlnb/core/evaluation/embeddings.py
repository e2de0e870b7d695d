"""How a network represents the data before training: feature maps and probes of stages."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tlnb.core.data.dataset import DataSet
from tlnb.core.evaluation.look import Look, StageProbes, View
from tlnb.core.evaluation.probes import FOLDS, labels_in_use, probe, stage_features
from tlnb.core.models.anatomy import evaluating, read_anatomy
from tlnb.core.models.calibration import pooled
from tlnb.core.models.pretrained import Transform
from tlnb.core.runtime.errors import OneLine, UsageError

MAX_IMAGES = 500  # images on a map
NEIGHBOURS = 5
EXAMPLES = 6  # images whose neighbours are listed or whose evidence is shown
PERPLEXITY = 30.0
TSNE_STEPS = 500  # the maps change little afterwards
MIN_FOR_TSNE = 10
PIXEL_EDGE = 32  # raw pixels are compared at this size
CHUNK = 64  # images per forward pass


# ── features ──────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, kw_only=True)
class FeatureExtractor(OneLine):
    """A network whose features, the input of its output layer, are examined."""

    of: str
    module: nn.Module = field(repr=False)
    head: str
    transform: Transform

    def __repr__(self) -> str:
        return f"FeatureExtractor {self.of}"


def features(
    model: str, data: DataSet, extractors: Sequence[FeatureExtractor], run: str | None = None
) -> Look:
    """Map the images to two dimensions by each network's features, with nearest neighbours.

    Images come from `train`, `val` and `monitor`, at most `MAX_IMAGES`, classes in equal parts;
    never from `test`. Nearness is the cosine of features, or of pixels. The map is t-SNE after PCA,
    both with a fixed random state.
    """
    images, labels, splits = _drawn(data)
    examples = spread_examples(labels)
    views, maps = [], "PCA" if len(labels) < MIN_FOR_TSNE else "t-SNE after PCA"
    for extractor in extractors:
        seen = features_of(extractor, images)
        near = _nearest(seen)
        views.append(
            View(
                of=extractor.of,
                points=_two_dimensions(seen),
                share=_same(near, labels),
                neighbours=tuple(tuple(near[i].tolist()) for i in examples),
            )
        )
    small = (
        images.float()
        if data.edge <= PIXEL_EDGE
        else F.interpolate(images.float(), PIXEL_EDGE, mode="area")
    )
    return Look(
        kind="features",
        model=model,
        run=run,
        data=data.name,
        classes=data.classes,
        method=maps,
        labels=tuple(labels.tolist()),
        splits=splits,
        examples=examples,
        views=tuple(views),
        pixels=_same(_nearest(small.flatten(1)), labels),
        chance=_chance(labels),
        _pictures=images,
    )


def _drawn(data: DataSet) -> tuple[Tensor, Tensor, tuple[tuple[str, int], ...]]:
    """Images, labels, and the number from each split.

    Classes alternate, and training images come first.
    """
    splits = [s for s in ("train", "val", "monitor") if s in data.labels]
    labels = torch.cat([data.labels[s] for s in splits])
    origin = np.repeat(np.arange(len(splits)), [len(data.labels[s]) for s in splits])
    turn = torch.empty_like(labels)
    for c in labels.unique():
        mine = labels == c
        turn[mine] = torch.arange(int(mine.sum()))
    rows = turn.argsort(stable=True)[:MAX_IMAGES].sort().values
    counts = np.bincount(origin[rows.numpy()], minlength=len(splits)).tolist()
    starts = np.cumsum([0, *(len(data.labels[s]) for s in splits)]).tolist()
    chosen = zip(splits, rows.split(counts), starts, strict=False)
    images = torch.cat(
        [data.images[s][part - start] for s, part, start in chosen]
    )  # the others are not read
    return images, labels[rows], tuple((s, n) for s, n in zip(splits, counts, strict=True) if n)


def spread_examples(labels: Tensor) -> tuple[int, ...]:
    """Choose a few images, spread over the classes with two or more.

    If there are few such classes, each has several.
    """
    counts = labels.bincount().tolist()
    able = [c for c, n in enumerate(counts) if n > 1] or [int(labels[0])]
    chosen = [
        able[i] for i in np.linspace(0, len(able) - 1, min(EXAMPLES, len(able))).round().astype(int)
    ]
    per_class = EXAMPLES // len(chosen)
    return tuple(int(i) for c in chosen for i in (labels == c).nonzero().flatten()[:per_class])


def features_of(extractor: FeatureExtractor, images: Tensor) -> Tensor:
    """The output layer's inputs for uint8 images: `(N, features)`.

    Maps and tokens are averaged over positions.
    """
    head = extractor.module.get_submodule(extractor.head)
    seen: list[Tensor] = []

    def note(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen.append(pooled(inputs[0], layer))

    handle = head.register_forward_pre_hook(note)
    try:
        with evaluating(extractor.module), torch.no_grad():
            for part in images.split(CHUNK):
                extractor.module(extractor.transform(part))
    finally:
        handle.remove()
    return torch.nan_to_num(torch.cat(seen))


def _nearest(rows: Tensor) -> Tensor:
    """The nearest other rows by cosine, nearest first: `(N, K)`.

    K is `NEIGHBOURS`, or the number of other rows if that is smaller.
    """
    unit = F.normalize(
        rows.double(), dim=1
    )  # rows of random networks are nearly parallel, too close for fp32
    likeness = unit @ unit.T
    likeness.fill_diagonal_(-math.inf)
    return likeness.topk(min(NEIGHBOURS, len(rows) - 1), dim=1).indices


def _same(nearest: Tensor, labels: Tensor) -> float:
    """Share of images whose nearest other image has the same class."""
    return int((labels[nearest[:, 0]] == labels).sum()) / len(labels)


def _chance(labels: Tensor) -> float:
    """The same share if the neighbour were a random other image."""
    counts = labels.bincount().double()
    total = len(labels)
    return float((counts * (counts - 1)).sum()) / (total * (total - 1))


def _two_dimensions(rows: Tensor) -> tuple[tuple[float, float], ...]:
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    unit = F.normalize(rows.double(), dim=1).numpy()  # so that distances agree with the cosine
    unit = (unit - unit.mean(0)) / max(
        float(unit.std()), 1e-12
    )  # t-SNE's initial positions need a common scale
    few = len(unit) < MIN_FOR_TSNE
    if unit.shape[1] < 2 or not unit.any():
        unit = np.pad(unit, ((0, 0), (0, 1)))
        unit[:, -1] = np.linspace(
            0, 1e-3, len(unit)
        )  # the images are indistinguishable: a line of points
    flat = PCA(2 if few else min(50, *unit.shape), random_state=0).fit_transform(unit)
    if not few:
        perplexity = min(PERPLEXITY, (len(unit) - 1) / 3)
        flat = TSNE(
            2, perplexity=perplexity, init="pca", max_iter=TSNE_STEPS, random_state=0
        ).fit_transform(flat)
    return tuple((float(x), float(y)) for x, y in flat)


# ── stages ────────────────────────────────────────────────────────────────────────────────────────


def stages(
    model: str, data: DataSet, extractors: Sequence[FeatureExtractor], run: str | None = None
) -> Look:
    """Accuracy of a linear probe on each stage's output, for each network.

    Cross-validated on the labels in use (`train` and `val`), at most `probes.MAX_IMAGES` of them.

    Raises:
        UsageError: no labels can be held out, since a class has one or the groups are too few.
    """
    used = labels_in_use(data)
    images, labels = used.images["train"], used.labelled
    folds = len(labels.folds(FOLDS))
    if not folds or not used.per_class:
        raise UsageError(labels.none_held)
    depths = []
    for extractor in extractors:
        seen = stage_features(
            extractor.module,
            read_anatomy(extractor.module, extractor.transform.size),
            extractor.transform,
            images,
        )
        depths.append(StageProbes(extractor.of, probe(seen, labels, repeats=1)))
    groups = " of whole groups" * (labels.groups is not None)
    method = f"logistic regression, {folds}-fold cross-validation{groups}"
    return Look(
        kind="stages",
        model=model,
        run=run,
        data=data.name,
        classes=data.classes,
        method=method,
        labels=tuple(labels.labels.tolist()),
        depths=tuple(depths),
    )
