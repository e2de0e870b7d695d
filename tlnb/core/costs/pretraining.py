"""What pretraining cost: measured for the embedded models, estimated for others.

Estimates follow the published recipes: epochs and crops are those of torchvision's own training
scripts (references/classification/README.md and issue 3995 of its repository), which the weights'
metadata name, and those of EfficientNet's authors. Other models get no estimate.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tlnb.core.costs.prices import Price, list_price
from tlnb.core.models.catalogue import EMBEDDED, Card
from tlnb.core.models.efficientnet_lite import RECIPE as LITE0_RECIPE
from tlnb.core.runtime.errors import OneLine

# A forward and a backward pass together cost about three forward passes: the gradients of the
# inputs and of the weights cost one each.
FORWARDS_PER_STEP = 3
GPU = "A100"
GPU_PEAK = 312e12  # FLOP/s in bf16, dense: NVIDIA's data sheet of the A100
# Two published trainings on A100s reach 24% (ResNet-50) and 35% (ResNet-18) of that peak by the
# same count: FFCV's README, 77.2 minutes on eight GPUs and 187 minutes on one, 88 epochs each.
GPU_UTILISATION = 0.3
GPU_WATTS = 400.0  # NVIDIA's limit for the SXM card

# end of the recipe's URL, epochs, edge of the training crop in pixels (None: the input size)
RECIPES: tuple[tuple[str, int, int | None], ...] = (
    ("#alexnet-and-vgg", 90, None),
    ("#resnet", 90, None),
    ("#resnext", 100, None),
    ("#mobilenetv2", 300, None),
    ("#mobilenetv3-large--small", 600, None),
    ("#small-models", 100, None),
    ("#medium-models", 100, None),
    ("#large-models", 100, None),
    ("#vit_b_16", 300, None),
    ("#vit_b_32", 300, None),
    ("#vit_l_16", 600, None),
    ("#vit_l_32", 300, None),
    ("#convnext", 600, 176),
    ("#swintransformer", 300, 224),
    ("#swintransformer-v2", 300, 256),
    ("#maxvit", 400, 224),
    ("#new-recipe", 600, 176),
    ("#new-recipe-with-fixres", 600, 176),
    ("#issuecomment-1013906621", 600, 176),
)
# Epochs by the whole of the recipe's URL, at the input size. EfficientNet: 350, as TensorFlow's
# reference code trains it (models/official/efficientnet/main.py, 218,949 steps of 2,048 images).
OTHER_RECIPES = {LITE0_RECIPE: 350}
# training crops in pixels; the large variant was ported from elsewhere
EFFICIENTNET_V2 = {"efficientnet_v2_s": 300, "efficientnet_v2_m": 384}


@dataclass(frozen=True, kw_only=True)
class Pretraining(OneLine):
    """The one-time cost of pretraining. `bases`: figure → (`measured` or `assumed`, how)."""

    model: str
    seconds: float  # on one core, or one GPU
    flops: float
    wh: float | None
    hardware: str
    price: Price
    bases: Mapping[str, tuple[str, str]]
    steps: int | None = None

    @property
    def money(self) -> float:
        """The money at the list price of its hardware."""
        return self.price.of(self.seconds)

    @property
    def on_gpu(self) -> bool:
        """Whether its seconds are of a GPU, which do not compare with those of a CPU."""
        return self.hardware.startswith("one ")

    @property
    def basis(self) -> str:
        """`assumed` if its seconds or FLOPs are, else `measured`."""
        kinds = {kind for figure, (kind, _) in self.bases.items() if figure in ("seconds", "flops")}
        return "assumed" if "assumed" in kinds else "measured"

    def __repr__(self) -> str:
        hours = self.seconds / 3600
        return (
            f"Pretraining of {self.model}: {hours:,.{0 if hours >= 10 else 1}f} hours on {self.hardware}, {self.flops:.2g} FLOP "
            f"({self.basis})"
        )


def pretraining_of(card: Card) -> Pretraining | None:
    """The cost of a model's pretraining; None if it is not known."""
    if card.family == EMBEDDED and card.training:
        return _measured(card.name, card.training)
    recipe = _recipe(card)
    if recipe is None or not card.flops or not card.source_images:
        return None
    epochs, crop = recipe
    size = card.size or 224
    area = ((crop or size) / size) ** 2
    flops = epochs * card.source_images * FORWARDS_PER_STEP * card.flops * area
    seconds = flops / (GPU_PEAK * GPU_UTILISATION)
    cropped = f" at {crop} pixels" if crop and crop != size else ""
    how = (
        f"{epochs} epochs of {card.source_images:,} images{cropped}, "
        f"{FORWARDS_PER_STEP} forward passes' work each ({card.recipe})"
    )
    speed = f"one {GPU} at {GPU_UTILISATION:.0%} of {GPU_PEAK / 1e12:g} TFLOP/s"
    bases = {
        "flops": ("assumed", how),
        "seconds": ("assumed", speed),
        "wh": ("assumed", f"{GPU_WATTS:g} W, the card alone"),
    }
    return Pretraining(
        model=card.name,
        seconds=seconds,
        flops=flops,
        wh=seconds * GPU_WATTS / 3600,
        hardware=f"one {GPU}",
        price=list_price("cuda", GPU),
        bases=bases,
    )


def _measured(name: str, training: Mapping[str, Any]) -> Pretraining:
    threads = int(training.get("threads", 1))
    cores = f"{threads} core" + ("s" if threads > 1 else "")
    basis = str(training.get("basis", "measured"))
    kind = "assumed" if basis.startswith("assumed") else "measured"
    bases = {
        "seconds": (kind, "when it was pretrained"),
        "flops": (kind, "counted when it was pretrained"),
        "wh": ("assumed", "8 W a core"),
    }
    return Pretraining(
        model=name,
        seconds=float(training["seconds"]),
        flops=float(training.get("flops") or 0.0),
        wh=training.get("wh"),
        hardware=cores,
        price=list_price("cpu", threads=threads),
        bases=bases,
        steps=training.get("steps"),
    )


def _recipe(card: Card) -> tuple[int, int | None] | None:
    """Epochs and training crop; None if no recipe is published."""
    if card.name in EFFICIENTNET_V2 and card.recipe.endswith("#efficientnet-v2"):
        return 600, EFFICIENTNET_V2[card.name]
    if card.recipe in OTHER_RECIPES:
        return OTHER_RECIPES[card.recipe], None
    fragment = re.search(r"#[\w-]+$", card.recipe)
    known = {end: (epochs, crop) for end, epochs, crop in RECIPES}
    is_torchvision = re.search(r"/pytorch/vision/(tree/|issues/3995#)", card.recipe)
    return known.get(fragment[0]) if fragment and is_torchvision else None
