"""What a network sees: the data by its features before any training, what each stage knows of the answer, and where in an
image the evidence lies."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tlnb.core.data.dataset import DataSet
from tlnb.core.evaluation.predictions import Judge, found_images, read_image
from tlnb.core.evaluation.probes import FOLDS, Probe, labels_in_use, probe, stage_features
from tlnb.core.models.anatomy import evaluating, read_anatomy
from tlnb.core.models.module_copy import copied
from tlnb.core.models.pretrained import Transform
from tlnb.core.runtime.errors import OneLine, UsageError

AT_MOST = 500  # images on a map
NEIGHBOURS = 5
EXAMPLES = 6  # images whose neighbours are listed, and images of the data whose evidence is sought
PERPLEXITY = 30.0
TSNE_STEPS = 500  # the pictures change little afterwards
MIN_FOR_TSNE = 10
PIXEL_EDGE = 32  # raw pixels are compared at this size
CHUNK = 64
MAX_FILES = 12  # images whose evidence is sought in one call
MAP_EDGE = 7  # coarser maps say too little about where
MAP_DEPTH = 0.5  # share of the network's FLOPs that must lie before the map
WINDOW = 5  # the covering square's edge is the image's divided by this
BORDER = 0.25  # share of the image's area that the outer ring takes

Looking = Callable[[int, int], None]


@dataclass(frozen=True)
class View(OneLine):
    """The images as one network's features place them."""

    of: str  # pretrained, random start, or a run
    points: tuple[
        tuple[float, float], ...
    ]  # one an image; distances mean something near by, axes mean nothing
    share: float  # of the images, whose nearest other image is of the same class
    neighbours: tuple[
        tuple[int, ...], ...
    ]  # for each example its nearest other images, nearest first

    def __repr__(self) -> str:
        return f"View {self.of}: nearest image is of the same class for {self.share:.1%}"


@dataclass(frozen=True)
class Depth(OneLine):
    """How much of the answer each stage's output holds, from input to output."""

    of: str  # pretrained, random start, or a run
    probes: tuple[Probe, ...]

    @property
    def best(self) -> Probe:
        """The stage whose output tells most; of equals the first."""
        return max(self.probes, key=lambda p: p.accuracy)

    def __repr__(self) -> str:
        return f"Depth {self.of}: {', '.join(f'{p.stage} {p.accuracy:.1%}' for p in self.probes)}"


@dataclass(frozen=True)
class Evidence(OneLine):
    """Where in one image the evidence for the predicted class lies."""

    name: str
    label: str
    probability: float
    truth: str | None  # where the image comes from the data
    border: (
        float | None
    )  # share of the positive evidence in the outer ring; None where there is no positive evidence

    def __repr__(self) -> str:
        border = (
            "no positive evidence"
            if self.border is None
            else f"{self.border:.0%} of the evidence in the border"
        )
        return f"Evidence {self.name}: {self.label} ({self.probability:.1%}), {border}"


@dataclass(frozen=True)
class Look(OneLine):
    """What a network sees. `kind` is `features`, `stages` or `evidence`; the other kinds' fields are empty."""

    kind: str
    model: str
    run: str | None
    data: str | None
    classes: tuple[str, ...]
    method: str
    labels: tuple[int, ...] = ()  # class number of each image on the map
    splits: tuple[tuple[str, int], ...] = ()  # where the images come from
    examples: tuple[int, ...] = ()  # images whose neighbours are listed
    views: tuple[View, ...] = ()
    pixels: float | None = None  # the same share for raw pixels
    chance: float | None = None  # and for a neighbour drawn at random
    depths: tuple[Depth, ...] = ()  # of `stages`, one a network
    images: tuple[Evidence, ...] = ()
    _pictures: Tensor | None = field(default=None, repr=False, compare=False)  # (N, 3, E, E) uint8
    _heat: Tensor | None = field(
        default=None, repr=False, compare=False
    )  # (N, E, E) positive evidence, largest 1

    def __repr__(self) -> str:
        by = f"run {self.run}" if self.run else self.model
        if self.kind == "evidence":
            shares = [e.border for e in self.images if e.border is not None]
            mean = f"{sum(shares) / len(shares):.0%}" if shares else "none"
            return f"Look at {len(self.images)} images by {by}: {mean} of the evidence in the border ({self.method})"
        if self.kind == "stages":
            best = (f"{d.of} {d.best.accuracy:.1%} at {d.best.stage}" for d in self.depths)
            return f"Look at the stages of {self.model} with {self.data}: a linear layer gets {', '.join(best)}"
        parts = [f"{view.of} {view.share:.1%}" for view in self.views]
        return (
            f"Look at {len(self.labels)} images of {self.data} by {self.model}: nearest image of the same class for "
            f"{', '.join(parts)}, pixels {self.pixels:.1%}, chance {self.chance:.1%}"
        )


# ── features ──────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Seer(OneLine):
    """A network whose features are looked at: what its output layer would see."""

    of: str
    module: nn.Module = field(repr=False)
    head: str
    transform: Transform

    def __repr__(self) -> str:
        return f"Seer {self.of}"


def features(model: str, data: DataSet, seers: Sequence[Seer], run: str | None = None) -> Look:
    """The data's images in two dimensions by each network's features, and each example's nearest images.

    Images come from `train`, `val` and `monitor`, at most `AT_MOST`, classes in equal parts; never from `test`. Nearness
    is the cosine of features, or of pixels. The map is t-SNE after PCA, both with a fixed random state.
    """
    images, labels, splits = _drawn(data)
    examples = _examples(labels)
    views, maps = [], "PCA" if len(labels) < MIN_FOR_TSNE else "t-SNE after PCA"
    for seer in seers:
        seen = features_of(seer, images)
        near = _nearest(seen)
        views.append(
            View(
                seer.of,
                _two_dimensions(seen),
                _same(near, labels),
                tuple(tuple(near[i].tolist()) for i in examples),
            )
        )
    small = (
        images.float()
        if data.edge <= PIXEL_EDGE
        else F.interpolate(images.float(), PIXEL_EDGE, mode="area")
    )
    return Look(
        "features",
        model,
        run,
        data.name,
        data.classes,
        maps,
        tuple(labels.tolist()),
        splits,
        examples,
        tuple(views),
        _same(_nearest(small.flatten(1)), labels),
        _chance(labels),
        _pictures=images,
    )


def _drawn(data: DataSet) -> tuple[Tensor, Tensor, tuple[tuple[str, int], ...]]:
    """Images, labels, and how many come from which split. Classes take turns, training images first."""
    splits = [s for s in ("train", "val", "monitor") if s in data.labels]
    labels = torch.cat([data.labels[s] for s in splits])
    origin = np.repeat(np.arange(len(splits)), [len(data.labels[s]) for s in splits])
    turn = torch.empty_like(labels)
    for c in labels.unique():
        mine = labels == c
        turn[mine] = torch.arange(int(mine.sum()))
    rows = turn.argsort(stable=True)[:AT_MOST].sort().values
    counts = np.bincount(origin[rows.numpy()], minlength=len(splits)).tolist()
    starts = np.cumsum([0, *(len(data.labels[s]) for s in splits)]).tolist()
    chosen = zip(splits, rows.split(counts), starts, strict=False)
    images = torch.cat(
        [data.images[s][part - start] for s, part, start in chosen]
    )  # the others stay where they lie
    return images, labels[rows], tuple((s, n) for s, n in zip(splits, counts, strict=True) if n)


def _examples(labels: Tensor) -> tuple[int, ...]:
    """Some images, spread over the classes that have two or more; of a few classes several each."""
    counts = labels.bincount().tolist()
    able = [c for c, n in enumerate(counts) if n > 1] or [int(labels[0])]
    chosen = [
        able[i] for i in np.linspace(0, len(able) - 1, min(EXAMPLES, len(able))).round().astype(int)
    ]
    each = EXAMPLES // len(chosen)
    return tuple(int(i) for c in chosen for i in (labels == c).nonzero().flatten()[:each])


def features_of(seer: Seer, images: Tensor) -> Tensor:
    """What the output layer sees of uint8 images: (N, features); maps and tokens are averaged over their places."""
    head = seer.module.get_submodule(seer.head)
    axis = 1 if isinstance(head, nn.Conv2d) else -1
    seen: list[Tensor] = []

    def note(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        places = (
            inputs[0].movedim(axis, -1).flatten(1, -2) if inputs[0].ndim > 2 else inputs[0][:, None]
        )
        seen.append(places.float().mean(1))

    handle = head.register_forward_pre_hook(note)
    try:
        with evaluating(seer.module), torch.no_grad():
            for part in images.split(CHUNK):
                seer.module(seer.transform(part))
    finally:
        handle.remove()
    return torch.nan_to_num(torch.cat(seen))


def _nearest(rows: Tensor) -> Tensor:
    """The nearest other rows by cosine, nearest first: (N, `NEIGHBOURS` or as many as there are)."""
    unit = F.normalize(
        rows.double(), dim=1
    )  # random networks give nearly parallel rows: fp32 could not tell them apart
    likeness = unit @ unit.T
    likeness.fill_diagonal_(-math.inf)
    return likeness.topk(min(NEIGHBOURS, len(rows) - 1), dim=1).indices


def _same(nearest: Tensor, labels: Tensor) -> float:
    """Share of the images whose nearest other image is of the same class."""
    return int((labels[nearest[:, 0]] == labels).sum()) / len(labels)


def _chance(labels: Tensor) -> float:
    """The same share where the neighbour is any other image."""
    counts = labels.bincount().double()
    total = len(labels)
    return float((counts * (counts - 1)).sum()) / (total * (total - 1))


def _two_dimensions(rows: Tensor) -> tuple[tuple[float, float], ...]:
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    unit = F.normalize(rows.double(), dim=1).numpy()  # distances then agree with the cosine
    unit = (unit - unit.mean(0)) / max(
        float(unit.std()), 1e-12
    )  # t-SNE's start needs a common scale
    few = len(unit) < MIN_FOR_TSNE
    if unit.shape[1] < 2 or not unit.any():
        unit = np.pad(unit, ((0, 0), (0, 1)))
        unit[:, -1] = np.linspace(
            0, 1e-3, len(unit)
        )  # nothing tells these images apart: a line of points
    flat = PCA(2 if few else min(50, *unit.shape), random_state=0).fit_transform(unit)
    if not few:
        perplexity = min(PERPLEXITY, (len(unit) - 1) / 3)
        flat = TSNE(
            2, perplexity=perplexity, init="pca", max_iter=TSNE_STEPS, random_state=0
        ).fit_transform(flat)
    return tuple((float(x), float(y)) for x, y in flat)


# ── stages ────────────────────────────────────────────────────────────────────────────────────────────────────────


def stages(model: str, data: DataSet, seers: Sequence[Seer], run: str | None = None) -> Look:
    """How much of the answer each stage's output holds: the accuracy of a linear layer on it, by each network.

    Cross-validated on the labels in use (`train` and `val`), at most `probes.AT_MOST` of them.

    Raises:
        UsageError: a class has one label, so that none can be held out.
    """
    used = labels_in_use(data)
    if used.per_class < 2:
        raise UsageError(
            "one label in a class: none can be held out to judge by; give two or more, --per-class 2"
        )
    folds = min(FOLDS, used.per_class)
    images, labels = used.images["train"], used.labels["train"].numpy()
    depths = []
    for seer in seers:
        seen = stage_features(
            seer.module, read_anatomy(seer.module, seer.transform.size), seer.transform, images
        )
        depths.append(Depth(seer.of, probe(seen, labels, folds, repeats=1)))
    method = f"logistic regression, {folds}-fold cross-validation"
    return Look(
        "stages",
        model,
        run,
        data.name,
        data.classes,
        method,
        tuple(labels.tolist()),
        depths=tuple(depths),
    )


# ── evidence ──────────────────────────────────────────────────────────────────────────────────────────────────────


def evidence(
    judge: Judge,
    given: Sequence[Any] = (),
    data: DataSet | None = None,
    report: Looking | None = None,
) -> Look:
    """Where in each image the evidence for the predicted class lies, by Captum.

    Grad-CAM (Selvaraju et al. 2017) at the last layer that gives a map, if that map is fine and lies deep enough: maps times
    their mean gradient. Otherwise occlusion (Zeiler & Fergus 2014): by how much the class's log-probability falls when
    a square of the image is covered with the image's median colour.

    Args:
        given: images as `predict` takes them; none: a few images of the data, from val, else train, never from test.
        report: called with (done, total) images.

    Raises:
        DataError: an image that is missing or cannot be read.
        UsageError: Captum is not installed, too many images, or neither images nor data.
    """
    _check_captum()
    sources = list(found_images(given)) if given else []
    if len(sources) > MAX_FILES:
        raise UsageError(
            f"{len(sources)} images are too many to look into at once: give {MAX_FILES} or fewer"
        )
    if sources:
        images, names = (
            torch.stack([read_image(source, judge.edge, judge.values) for _, source in sources]),
            [n for n, _ in sources],
        )
        truths: list[str | None] = [None] * len(names)
    else:
        images, names, truths = _of_data(data)
    seen = judge.transform.fit(images)
    module = copied(judge.module).eval()
    for part in module.modules():
        if getattr(part, "inplace", False) is True:
            part.inplace = False  # type: ignore[assignment]  # in place, a layer's output would be overwritten
    layer = map_layer(module, judge.transform.size)
    found, heats = [], []
    for i in range(len(seen)):
        inputs = judge.transform.normalise(seen[i : i + 1])
        with torch.no_grad():
            probabilities = module(inputs).float().softmax(1)[0]
        said = int(probabilities.argmax())
        heat = _heat(module, layer, inputs, said)
        heats.append(heat)
        label = judge.classes[said] if judge.classes else f"class {said}"
        found.append(
            Evidence(names[i], label, float(probabilities[said]), truths[i], border_share(heat))
        )
        if report:
            report(i + 1, len(seen))
    method = (
        f"Grad-CAM at {layer}"
        if layer
        else f"occlusion, squares of {_window(judge.transform.size)} pixels"
    )
    of = None if given or data is None else data.name
    return Look(
        "evidence",
        judge.model,
        judge.run,
        of,
        judge.classes,
        method,
        images=tuple(found),
        _pictures=seen,
        _heat=torch.stack(heats),
    )


def _of_data(data: DataSet | None) -> tuple[Tensor, list[str], list[str | None]]:
    """A few images of the data, one a class, with names and classes."""
    if data is None:
        raise UsageError(
            "no data to take images from: %tl_data digits --per-class 2, or %tl_look dog.jpg"
        )
    split = "val" if "val" in data.labels else "train"
    rows = list(_examples(data.labels[split]))
    truths: list[str | None] = [data.classes[int(c)] for c in data.labels[split][rows]]
    return data.images[split][rows], [f"{split} image {i}" for i in rows], truths


def _check_captum() -> None:
    from importlib.util import find_spec

    if find_spec("captum") is None:
        raise UsageError('%tl_look needs Captum to find evidence: pip install "tlnb[look]"')


def map_layer(module: nn.Module, edge: int) -> str | None:
    """The module that gives the last square map before the output layer; None where that map says too little about where.

    It does where it has fewer than `MAP_EDGE` rows, or where most of the work is still to come: transformers have a map
    only where they cut the image into patches.
    """
    anatomy = read_anatomy(module, edge)
    met = _calls(module, edge)
    before = [name for name, _ in met][: [name for name, _ in met].index(anatomy.head)]
    same = (nn.Identity, nn.modules.dropout._DropoutNd)
    maps = [
        (i, shape[-1])
        for i, (name, shape) in enumerate(met[: len(before)])
        if len(shape) == 3
        and shape[1] == shape[2] > 1
        and not isinstance(module.get_submodule(name), same)
    ]
    if not maps or maps[-1][1] < MAP_EDGE:
        return None
    last = maps[-1][0]
    done = set(before[: last + 1])
    depth = sum(x.flops for x in anatomy.layers if x.name in done) / max(1, anatomy.flops)
    return before[last] if depth >= MAP_DEPTH and before[last] else None


def _calls(module: nn.Module, edge: int) -> list[tuple[str, tuple[int, ...]]]:
    """Name and output shape, without the batch, of every module called, in the order of completion."""
    met: list[tuple[str, tuple[int, ...]]] = []
    names = {part: name for name, part in module.named_modules()}

    def note(part: nn.Module, _: object, output: object) -> None:
        if isinstance(output, Tensor):
            met.append((names[part], tuple(output.shape[1:])))

    handles = [part.register_forward_hook(note) for part in names]
    try:
        with evaluating(module), torch.no_grad():
            module(torch.zeros(1, 3, edge, edge, device=next(module.parameters()).device))
    finally:
        for handle in handles:
            handle.remove()
    return met


def _heat(module: nn.Module, layer: str | None, inputs: Tensor, said: int) -> Tensor:
    """Positive evidence (E, E) for class `said`, largest 1."""
    heat = _grad_cam(module, layer, inputs, said) if layer else _occlusion(module, inputs, said)
    heat = torch.nan_to_num(heat.detach()).clamp(min=0)
    return heat / heat.max().clamp(min=1e-12)


def _grad_cam(module: nn.Module, layer: str, inputs: Tensor, said: int) -> Tensor:
    from captum.attr import LayerGradCam

    module.requires_grad_(True)
    coarse = LayerGradCam(module, module.get_submodule(layer)).attribute(
        inputs, target=said, relu_attributions=True
    )
    heat: Tensor = F.interpolate(coarse, inputs.shape[-2:], mode="bilinear", align_corners=False)[
        0, 0
    ]
    return heat


def _occlusion(module: nn.Module, inputs: Tensor, said: int) -> Tensor:
    from captum.attr import Occlusion

    def sure(batch: Tensor) -> Tensor:
        found: Tensor = module(batch).float().log_softmax(1)
        return found

    channels, window = inputs.shape[1], _window(inputs.shape[-1])
    step = max(1, window // 2)
    median = inputs.flatten(2).median(2).values[..., None, None].expand_as(inputs)
    with torch.no_grad():
        fall: Tensor = Occlusion(sure).attribute(
            inputs,
            sliding_window_shapes=(channels, window, window),
            strides=(channels, step, step),
            baselines=median,
            target=said,
            perturbations_per_eval=CHUNK // 2,
        )
    return fall[0].mean(0)


def _window(edge: int) -> int:
    return max(1, edge // WINDOW)


def border_share(heat: Tensor) -> float | None:
    """Share of positive evidence `(E, E)` in the outer ring that takes `BORDER` of the area; None where there is none."""
    total = float(heat.sum())
    if not total > 0:
        return None
    edge = heat.shape[-1]
    margin = edge * (1 - math.sqrt(1 - BORDER)) / 2
    place = torch.arange(edge, dtype=torch.float64)
    inside = (
        torch.minimum(place + 1, torch.tensor(edge - margin))
        - torch.maximum(place, torch.tensor(margin))
    ).clamp(0, 1)
    return 1 - float((heat.double() * inside[:, None] * inside).sum()) / total
