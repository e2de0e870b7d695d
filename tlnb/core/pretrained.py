"""Pretrained models: architecture, parameters, preprocessing and card, from the embedded set, torchvision or the user."""

from __future__ import annotations

import copy
import fnmatch
import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tlnb import glyphnet
from tlnb.core.errors import ModelError, UsageError, did_you_mean

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
EMBEDDED = "embedded"


@dataclass(frozen=True)
class Transform:
    """The model's preprocessing: uint8 `(N, 3, H, W)` → normalised floats `(N, 3, size, size)`, channels last."""

    size: int
    resize: int  # the shorter side is brought to this before the middle `size` is cut out
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __call__(self, images: Tensor) -> Tensor:
        return self.normalise(self.fit(images))

    def fit(self, images: Tensor) -> Tensor:
        """Bring uint8 images to the network's input edge."""
        from torchvision.transforms.v2 import functional as F

        edge = images.shape[-1]
        if edge not in (self.size, self.resize):
            images = F.resize(images, [self.resize, self.resize], antialias=True)
            edge = self.resize
        return images if edge == self.size else F.center_crop(images, [self.size, self.size])

    def example(self, count: int) -> Tensor:
        """Blank inputs `(count, 3, size, size)`, to measure with."""
        return torch.zeros(count, 3, self.size, self.size).contiguous(memory_format=torch.channels_last)

    def normalise(self, images: Tensor) -> Tensor:
        """uint8, or floats in 0..255, to what the network was trained on."""
        mean = torch.tensor(self.mean, device=images.device).view(3, 1, 1) * 255
        std = torch.tensor(self.std, device=images.device).view(3, 1, 1) * 255
        return ((images.float() - mean) / std).contiguous(memory_format=torch.channels_last)


@dataclass(frozen=True)
class Card:
    """What is known of a model. `None` means not known. Accuracies are fractions, sizes bytes, FLOPs for one image."""

    name: str
    family: str
    source: str
    source_images: int | None = None
    source_classes: int | None = None
    accuracy: float | None = None
    accuracy_of: str = ""
    parameters: int | None = None
    flops: float | None = None
    bytes: int | None = None
    size: int | None = None
    licence: str = ""
    recipe: str = ""
    training: dict[str, Any] = field(default_factory=dict)  # seconds, cores, flops, hardware, basis
    on_disk: bool = False
    notes: tuple[str, ...] = ()

    @property
    def chance(self) -> float | None:
        """Accuracy of guessing among the source's classes."""
        return 1 / self.source_classes if self.source_classes else None

    def __repr__(self) -> str:
        if self.accuracy is None:
            return f"Card {self.name}: {self.source}"
        return f"Card {self.name}: {self.source}, {self.accuracy:.1%} {self.accuracy_of}"


@dataclass(frozen=True)
class PretrainedModel:
    """A network with its preprocessing and card. `fresh()` gives the same architecture with random parameters."""

    name: str
    module: nn.Module = field(repr=False)
    transform: Transform
    card: Card
    weights: str = "default"
    architecture: Callable[[], nn.Module] | None = field(default=None, repr=False)

    def fresh(self) -> nn.Module:
        """The architecture at a random start, drawn from torch's current random state."""
        if self.architecture is not None:
            return self.architecture()
        module = copy.deepcopy(self.module)
        for layer in module.modules():
            reset = getattr(layer, "reset_parameters", None)
            if callable(reset):
                reset()
        return module

    def __repr__(self) -> str:
        count = sum(p.numel() for p in self.module.parameters())
        return f"PretrainedModel {self.name}: {count:,} parameters, trained on {self.card.source}"


@dataclass(frozen=True)
class Catalogue:
    """What can be loaded, smallest first."""

    cards: tuple[Card, ...]
    pattern: str = "*"

    def __len__(self) -> int:
        return len(self.cards)

    def __repr__(self) -> str:
        offline = sum(card.on_disk for card in self.cards)
        return f"Catalogue: {len(self.cards)} models match {self.pattern!r}, {offline} of them available offline"


def names() -> list[str]:
    """Every model that `load` knows by name: the embedded ones, then torchvision's classifiers."""
    from torchvision import models

    return [*glyphnet.names(), *models.list_models(module=models)]


def catalogue(pattern: str | None = None) -> Catalogue:
    """The models whose name matches a glob, or contains a plain word.

    Raises:
        ModelError: nothing matches.
    """
    known = names()
    glob = pattern or "*"
    glob = glob if any(c in glob for c in "*?[") else f"*{glob}*"
    found = [n for n in known if fnmatch.fnmatchcase(n.lower(), glob.lower())]
    if not found:
        hint = did_you_mean(pattern or "", known, "%tl_models lists all")
        raise ModelError(f"no model matches {pattern!r}: {hint}")
    embedded = set(glyphnet.names())
    cards = [_embedded_card(n) if n in embedded else _torchvision_card(n) for n in found]
    cards.sort(key=lambda c: (c.family != EMBEDDED, c.parameters or 0))
    return Catalogue(tuple(cards), pattern or "*")


def load(
    source: str | nn.Module, weights: str = "default", *, mean: Any = None, std: Any = None, size: int | None = None,
    called: str | None = None,
) -> PretrainedModel:  # fmt: skip
    """Load a model by name, or wrap one's own module.

    Args:
        source: a name from `names()`, or an `nn.Module`.
        weights: `default`, `none` (random), or a file: safetensors, or a state_dict read with `weights_only=True`.
        mean, std, size: replace the preprocessing's; one's own module is assumed to take ImageNet's.
        called: the name to show for one's own module.

    Raises:
        ModelError: an unknown name; weights that are missing, damaged, or of another architecture.
    """
    if isinstance(source, nn.Module):
        model = _own(source, called or type(source).__name__)
    elif source in glyphnet.names():
        model = _embedded(source, weights)
    elif source in names():
        model = _torchvision(source, weights)
    else:
        raise ModelError(f"no model is called {source!r}: {did_you_mean(source, names(), '%tl_models lists all')}")
    if weights not in ("default", "none"):
        _load_file(model.module, Path(weights).expanduser(), model.name)
        model = replace(model, weights=weights, card=replace(model.card, notes=(f"weights from {weights}",)))
    model.module.eval()
    return replace(model, transform=_changed(model.transform, mean, std, size))


def resized(model: PretrainedModel, size: int | None) -> PretrainedModel:
    """The model with another input edge; None changes nothing."""
    return replace(model, transform=_changed(model.transform, None, None, size))


def _changed(transform: Transform, mean: Any, std: Any, size: int | None) -> Transform:
    if size is not None:
        if size < 16:
            raise UsageError(f"--size {size} is too small: use 16 pixels or more")
        transform = replace(transform, size=size, resize=round(size * transform.resize / transform.size))
    if mean is not None:
        transform = replace(transform, mean=_three("mean", mean))
    if std is not None:
        transform = replace(transform, std=_three("std", std))
    return transform


def _three(name: str, values: Any) -> tuple[float, float, float]:
    try:
        parts = values.split(",") if isinstance(values, str) else list(values)
        r, g, b = (float(v) for v in parts)
    except (TypeError, ValueError):
        raise UsageError(f"--{name} {values} is not three numbers: write --{name} 0.5,0.5,0.5") from None
    if name == "std" and min(r, g, b) <= 0:
        raise UsageError(f"--std {values} must be above zero: write --std 0.25,0.25,0.25")
    return r, g, b


# ── embedded ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _embedded_card(name: str) -> Card:
    facts = glyphnet.card(name)
    known = {k: v for k, v in facts.items() if k in Card.__dataclass_fields__}
    return Card(**{**known, "family": EMBEDDED, "on_disk": True, "notes": tuple(facts.get("notes", ()))})


def _embedded(name: str, weights: str) -> PretrainedModel:
    card = _embedded_card(name)
    classes = card.source_classes or 1

    def architecture() -> nn.Module:
        return glyphnet.GlyphNet(classes)

    try:
        module = glyphnet.load(name) if weights == "default" else architecture()
    except glyphnet.DamagedWeights as error:
        raise ModelError(f"the weights of {name} are damaged ({error}): install tlnb again") from None
    transform = Transform(glyphnet.SIZE, glyphnet.SIZE, glyphnet.MEAN, glyphnet.STD)
    return PretrainedModel(name, module, transform, card, weights, architecture)


# ── torchvision ───────────────────────────────────────────────────────────────────────────────────────────────────


def _torchvision_weights(name: str) -> Any:
    from torchvision import models

    return models.get_model_weights(name).DEFAULT


def _torchvision_card(name: str) -> Card:
    """From torchvision's own metadata; nothing is typed in here."""
    weights = _torchvision_weights(name)
    meta = weights.meta
    dataset, metrics = next(iter(meta["_metrics"].items()))
    return Card(
        name, "torchvision", dataset, source_classes=len(meta["categories"]), accuracy=metrics["acc@1"] / 100,
        accuracy_of=f"top-1 on {dataset}", parameters=meta["num_params"], flops=meta["_ops"] * 2e9,
        bytes=int(meta["_file_size"] * 1e6), size=weights.transforms().crop_size[0], recipe=meta["recipe"],
        licence="BSD-3-Clause (torchvision)", on_disk=_cached_file(weights.url).exists(),
    )  # fmt: skip


def _cached_file(url: str) -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[-1]


def _torchvision(name: str, weights: str) -> PretrainedModel:
    from torchvision import models

    best = _torchvision_weights(name)
    preset = best.transforms()

    def architecture() -> nn.Module:
        module: nn.Module = models.get_model(name, weights=None)
        return module

    try:
        module = models.get_model(name, weights=best if weights == "default" else None)
    except (OSError, RuntimeError) as error:  # no network, a 404, a hash that differs
        reason = str(error).splitlines()[0][:100]
        raise ModelError(
            f"the weights of {name} could not be downloaded ({reason}): "
            f"try %tl_load {name} --weights FILE, or %tl_load glyphnet, which needs no network"
        ) from None
    transform = Transform(preset.crop_size[0], preset.resize_size[0], tuple(preset.mean), tuple(preset.std))
    return PretrainedModel(name, module, transform, _torchvision_card(name), weights, architecture)


# ── one's own ─────────────────────────────────────────────────────────────────────────────────────────────────────


def _own(module: nn.Module, called: str) -> PretrainedModel:
    count = sum(p.numel() for p in module.parameters())
    if not count:
        raise ModelError(f"{called} has no parameters: give a network to train")
    notes = (
        "preprocessing assumed: ImageNet's mean and standard deviation at 224 pixels (mean=, std=, size= change it)",
    )
    card = Card(called, "own", "unknown data (your own module)", parameters=count, on_disk=True, notes=notes)
    transform = Transform(224, 256, IMAGENET_MEAN, IMAGENET_STD)
    return PretrainedModel(called, copy.deepcopy(module), transform, card)


# ── files ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _load_file(module: nn.Module, path: Path, name: str) -> None:
    """Read a state_dict into `module`, completely or not at all."""
    if not path.is_file():
        raise ModelError(f"no weights file {str(path)!r}: give default, none, or a file that exists")
    state = _read_state(path)
    own = module.state_dict()
    wrong = [f"{k} is {tuple(state[k].shape)}, {name} has {tuple(own[k].shape)}"
             for k in own if k in state and state[k].shape != own[k].shape]  # fmt: skip
    wrong += [f"{k} is missing" for k in own if k not in state and not k.endswith("num_batches_tracked")]
    wrong += [f"{k} is not part of {name}" for k in state if k not in own]
    if wrong:
        more = f" (and {len(wrong) - 3} more)" if len(wrong) > 3 else ""
        raise ModelError(f"{path.name} does not fit {name}: {'; '.join(wrong[:3])}{more}")
    module.load_state_dict(state, strict=False)


def _read_state(path: Path) -> dict[str, Tensor]:
    data = path.read_bytes()
    promised = re.search(r"-([0-9a-f]{8,64})\.", path.name)  # torch.hub's way of naming checkpoints
    found = hashlib.sha256(data).hexdigest()
    if promised and not found.startswith(promised[1]):
        raise ModelError(f"{path.name} has the wrong hash ({found[:8]}, not {promised[1]}): download it again")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load as read_safetensors

            state: dict[str, Tensor] = read_safetensors(data)
        else:
            import io

            state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # both readers raise many types for a damaged file
        reason = " ".join(str(error).split())[:80] or type(error).__name__
        raise ModelError(f"{path.name} is damaged, or no state_dict ({reason}): give another file") from None
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise ModelError(f"{path.name} holds no state_dict of tensors: save model.state_dict() and give that file")
    return state
