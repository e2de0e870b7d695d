"""Find where in an image the evidence for the predicted class lies: Grad-CAM, or occlusion."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tlnb.core.data.dataset import DataSet
from tlnb.core.evaluation.embeddings import spread_examples
from tlnb.core.evaluation.look import Evidence, Look
from tlnb.core.evaluation.new_images import found_images, read_image
from tlnb.core.evaluation.predictions import Judge
from tlnb.core.models.anatomy import evaluating, read_anatomy
from tlnb.core.models.module_copy import copied_or_shared
from tlnb.core.runtime.errors import UsageError

MAX_FILES = 12  # images per call
MAP_EDGE = 7  # coarser maps hardly localise
MAP_DEPTH = 0.5  # share of the network's FLOPs that must lie before the map
WINDOW = 5  # the covering square's edge is the image's divided by this
SQUARES_AT_ONCE = 32  # covered images per forward pass
BORDER = 0.25  # share of the image's area that the outer ring takes

Looking = Callable[[int, int], None]


def evidence(
    judge: Judge,
    given: Sequence[Any] = (),
    data: DataSet | None = None,
    report: Looking | None = None,
) -> Look:
    """Find where in each image the evidence for the predicted class lies, with Captum.

    Grad-CAM (Selvaraju et al. 2017) at the last layer that gives a map, if that map is fine and
    deep enough: maps times their mean gradient. Otherwise occlusion (Zeiler & Fergus 2014): the
    drop of the class's log-probability when a square of the image is covered with the image's
    median colour.

    Args:
        given: images as `predict` takes them; none: a few images of the data, from val, else train,
            never from test.
        report: called with (done, total) images.

    Raises:
        DataError: an image is missing or unreadable.
        UsageError: Captum is not installed, there are too many images, or neither images nor data.
    """
    _check_captum()
    images, names, truths = _given(judge, given) if given else _of_data(data)
    seen = judge.transform.fit(images)
    module = _without_in_place(judge.module)
    layer = map_layer(module, judge.transform.size)
    records, heats = [], []
    for i, (name, truth) in enumerate(zip(names, truths, strict=True)):
        inputs = judge.transform.normalise(seen[i : i + 1])
        with torch.no_grad():
            probabilities = module(inputs).float().softmax(1)[0]
        predicted = int(probabilities.argmax())
        heats.append(_heat(module, layer, inputs, predicted))
        label = judge.classes[predicted] if judge.classes else f"class {predicted}"
        probability, border = float(probabilities[predicted]), border_share(heats[-1])
        records.append(
            Evidence(name=name, label=label, probability=probability, truth=truth, border=border)
        )
        if report:
            report(i + 1, len(seen))
    squares = f"occlusion, squares of {_window(judge.transform.size)} pixels"
    return Look(
        kind="evidence",
        model=judge.model,
        run=judge.run,
        data=None if given or data is None else data.name,
        classes=judge.classes,
        method=f"Grad-CAM at {layer}" if layer else squares,
        images=tuple(records),
        _pictures=seen,
        _heat=torch.stack(heats),
    )


def _without_in_place(module: nn.Module) -> nn.Module:
    """A copy in eval mode without in-place operations.

    Those would overwrite a layer's output.
    """
    module = copied_or_shared(module).eval()
    for part in module.modules():
        if getattr(part, "inplace", False) is True:
            part.inplace = False  # type: ignore[assignment]
    return module


def _given(judge: Judge, given: Sequence[Any]) -> tuple[Tensor, list[str], list[str | None]]:
    """The user's images with their names; their classes are unknown."""
    sources = list(found_images(given))
    if len(sources) > MAX_FILES:
        raise UsageError(
            f"{len(sources)} images are too many for one call: give {MAX_FILES} or fewer"
        )
    images = [read_image(source, judge.edge, judge.values) for _, source in sources]
    return torch.stack(images), [name for name, _ in sources], [None] * len(sources)


def _of_data(data: DataSet | None) -> tuple[Tensor, list[str], list[str | None]]:
    """A few images of the data, one per class, with names and classes."""
    if data is None:
        raise UsageError(
            "no data to take images from: %tl_data digits --per-class 2, or %tl_look dog.jpg"
        )
    split = "val" if "val" in data.labels else "train"
    rows = list(spread_examples(data.labels[split]))
    truths: list[str | None] = [data.classes[int(c)] for c in data.labels[split][rows]]
    return data.images[split][rows], [f"{split} image {i}" for i in rows], truths


def _check_captum() -> None:
    from importlib.util import find_spec

    if find_spec("captum") is None:
        raise UsageError('%tl_look needs Captum to find evidence: pip install "tlnb[look]"')


def map_layer(module: nn.Module, edge: int) -> str | None:
    """Name the last layer before the output layer that gives a usable square map, or None.

    That is so if the map has fewer than `MAP_EDGE` rows, or if most of the work comes after it:
    transformers have a map only where they cut the image into patches.
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
    """Name and output shape, without the batch, of each module, in order of completion."""
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
    """Positive evidence `(E, E)` for class `said`, scaled to a maximum of 1."""
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
        log_probabilities: Tensor = module(batch).float().log_softmax(1)
        return log_probabilities

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
            perturbations_per_eval=SQUARES_AT_ONCE,
        )
    return fall[0].mean(0)


def _window(edge: int) -> int:
    return max(1, edge // WINDOW)


def border_share(heat: Tensor) -> float | None:
    """Share of positive evidence `(E, E)` in the outer ring; None if there is none.

    The ring takes `BORDER` of the area.
    """
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
