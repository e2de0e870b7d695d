"""Where timm's architectures are split: 100 of them, over all families, with random weights.

    python -m benchmarks.timm_splits [PATTERN ...]

A line each for `head` and `partial`: how many places there are, where the best one lies, what is kept of an image,
whether it is proven, and processor seconds of recording and proof beside those of an image in the network. `head` is
split at the pooled features if no more numbers are kept than the output layer takes. A transformer is split at every
block if there is a place after each of its frozen blocks.
"""

from __future__ import annotations

import argparse
import fnmatch
import gc
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import nn

from tlnb.core.models.anatomy import Anatomy, read_anatomy
from tlnb.core.models.transform import Transform
from tlnb.core.planning.plan import Plan, plan_strategy
from tlnb.core.runtime.device import machine
from tlnb.core.training.freezing import set_modes
from tlnb.core.training.model_split import Cuts
from tlnb.core.training.split_point import Place
from tlnb.core.training.split_proof import FEW, Proof, proof_images
from tlnb.core.training.split_search import Candidates, first_proven

T = TypeVar("T")
HEADER = """\
| network | strategy | places | split at | good | blocks | record s | proof s | image s |
|---|---|--:|---|---|---|--:|--:|--:|"""
CLASSES = 10
EDGE = 64  # input edge in pixels, except for
EDGES = {
    "efficientformer_l1": 224,
    "eva02_tiny_patch14_224": 56,
    "halonet26t": 256,
    "inception_v3": 96,
    "inception_v4": 96,
    "vit_small_patch14_dinov2": 56,
}


def _names(text: str) -> list[str]:
    return text.split()


CONVOLUTIONAL = _names(
    """
    convmixer_768_32 convnext_atto cs3darknet_s csatv2 cspnext_tiny densenet121 dla34 dpn48b
    efficientnet_b0 ese_vovnet19b_dw fasternet_t0 focalnet_tiny_srf ghostnet_100 hgnetv2_b0
    hrnet_w18_small inception_next_atto inception_v3 inception_v4 lcnet_050 lcnetv2_small
    legacy_seresnet18 lowformer_b0 mambaout_femto mixnet_s mobilenetv3_small_100
    mobilenetv4_conv_small nf_resnet50 nfnet_l0 poolformer_s12 rdnet_tiny regnetx_002
    repghostnet_050 res2net50_26w_4s resnest14d resnet18 resnetv2_50x1_bit rexnet_100 selecsls42
    skresnet18 starnet_s1 tf_efficientnet_lite0 tf_efficientnetv2_b0 tresnet_m
    """
)
FOR_A_SIZE = _names(
    """
    botnet26t_256 gernet_s gmlp_ti16_224 halonet26t lambda_resnet26t mixer_s32_224 repvit_m0_9
    resnet33ts sequencer2d_s
    """
)  # these take `img_size`, and so do most transformers
TRANSFORMERS = _names(
    """
    beitv2_base_patch16_224 cait_xxs24_224 coat_lite_tiny coatnet_0_rw_224 convit_tiny
    deit3_small_patch16_224 deit_tiny_distilled_patch16_224 deit_tiny_patch16_224
    efficientformer_l1 efficientformerv2_s0 efficientvit_m0 eva02_tiny_patch14_224 gcvit_xxtiny
    hiera_tiny_224 levit_128s maxvit_tiny_rw_224 mobilevit_xxs mobilevitv2_050 mvitv2_tiny
    nest_tiny pit_ti_224 swiftformer_xs swin_tiny_patch4_window7_224 swinv2_tiny_window8_256
    tnt_s_patch16_224 twins_svt_small visformer_tiny vit_base_patch32_clip_224
    vit_relpos_small_patch16_224 vit_small_patch14_dinov2 vit_small_patch16_dinov3
    vit_small_r26_s32_224 vit_tiny_patch16_224 vitamin_small_224 volo_d1_224 xcit_nano_12_p16_224
    """
)
ANY_SIZE = _names(
    """
    caformer_s18 crossvit_tiny_240 davit_tiny edgenext_xx_small efficientvim_m1 efficientvit_b0
    fastvit_t8 iformer_t nextvit_small pvt_v2_b0 shvit_s1 tiny_vit_5m_224
    """
)  # transformers too
NETWORKS = sorted(CONVOLUTIONAL + FOR_A_SIZE + TRANSFORMERS + ANY_SIZE)


@dataclass(frozen=True, kw_only=True)
class Last:
    """The latest place, which keeps least to compute."""

    place: Place


@dataclass(frozen=True, kw_only=True)
class Line:
    """A network with one strategy."""

    name: str
    strategy: str
    places: int
    place: Place | None
    why: str
    good: bool  # head: at the pooled features; partial: split at all
    blocks: str  # of a transformer: places after blocks, of its frozen blocks
    seconds: tuple[float, float, float]  # recording, proof, an image in the network

    def __str__(self) -> str:
        where = f"{self.place.at} {self.place.shape}" if self.place else f"no: {self.why}"
        took = " | ".join(f"{s:.2f}" for s in self.seconds)
        right = "yes" if self.good else "NO"
        return f"| {self.name} | {self.strategy} | {self.places} | {where} | {right} | {self.blocks} | {took} |"


def create(name: str) -> tuple[nn.Module, int]:
    """A network with random weights, and the input edge to try it with."""
    import timm

    size = EDGES.get(name, EDGE)
    options = {} if name in CONVOLUTIONAL + ANY_SIZE else {"img_size": size}
    return timm.create_model(name, pretrained=False, num_classes=CLASSES, **options), size


def timed(work: Callable[[], T]) -> tuple[T, float]:
    """What it gives, and processor seconds."""
    start = time.process_time()
    return work(), time.process_time() - start


def lines(name: str) -> list[Line]:
    """Both lines of one network."""
    torch.manual_seed(0)
    module, size = create(name)
    read = read_anatomy(module, size, name)
    return [split_line(name, module, size, read, strategy) for strategy in ("head", "partial")]


def split_line(name: str, module: nn.Module, size: int, read: Anatomy, strategy: str) -> Line:
    """A network with one strategy, split where least is left to compute."""
    plan = plan_strategy(read, strategy)
    set_modes(module, set(plan.trained))
    images = torch.randint(0, 256, (4, 3, size, size), dtype=torch.uint8)
    rows = proof_images(
        images, Transform(size=size, resize=size, mean=(0.5,) * 3, std=(0.25,) * 3), FEW, "cpu"
    )
    cuts, hardware = Cuts(), machine("cpu", "fp32")
    candidates, recording = timed(lambda: Candidates(module, plan.trained, rows, cuts))
    found = candidates.left
    proof = Proof(module=module, images=rows, machine=hardware)
    (choice, why), proving = timed(
        lambda: first_proven(
            candidates,
            lambda some: Last(place=some[-1]),
            lambda place: proof.fault(place, cuts.at(module, place)),
        )
    )
    place = choice.place if choice else None
    with torch.no_grad():
        _, whole = timed(lambda: module(rows))
    good = place is not None and (strategy != "head" or is_pooled(module, read, place))
    return Line(
        name=name,
        strategy=strategy,
        places=len(found),
        place=place,
        why=why,
        good=good,
        blocks=blocks(module, plan, cuts.recording(module).places),
        seconds=(recording, proving, whole / len(rows)),
    )


def is_pooled(module: nn.Module, read: Anatomy, place: Place) -> bool:
    """Whether a place is an output layer's input, or keeps no more numbers than one takes."""
    taken = [getattr(module.get_submodule(head), "weight", None) for head in read.heads]
    widths = [w.shape[1:].numel() for w in taken if w is not None]
    parents = {head.rpartition(".")[0] for head in read.heads} - {""}
    at_head = place.side == "input" and place.module.rpartition(".")[0] in parents
    return bool(widths) and (at_head or place.numbers <= max(widths))


def blocks(module: nn.Module, plan: Plan, found: Sequence[Place]) -> str:
    """After how many of a transformer's frozen blocks there is a place, of how many."""
    after = {place.module for place in found if place.side == "output"}
    frozen = {
        name
        for name, part in module.named_modules()
        if isinstance(getattr(part, "attn", None), nn.Module)
        and not name.endswith("attn")
        and not any(layer.startswith(f"{name}.") for layer in plan.trained)
    }
    return f"{len(frozen & after)} of {len(frozen)}" if frozen else ""


def main() -> None:
    """The table, and a summary."""
    parser = argparse.ArgumentParser(
        "benchmarks.timm_splits",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("patterns", nargs="*", default=["*"], metavar="PATTERN")
    chosen = parser.parse_args()
    warnings.filterwarnings("ignore")
    names = [n for n in NETWORKS if any(fnmatch.fnmatch(n, p) for p in chosen.patterns)]
    print(
        "| network | strategy | places | split at | good | blocks | record s | proof s | image s |"
    )
    print("|---|---|--:|---|---|---|--:|--:|--:|")
    table: list[Line] = []
    for name in names:
        try:
            table += lines(name)
        except Exception as error:
            print(f"| {name} | FAILED: {type(error).__name__}: {error} |", flush=True)
            continue
        print("\n".join(map(str, table[-2:])), flush=True)
        gc.collect()
    for strategy in ("head", "partial"):
        good = sum(one.good for one in table if one.strategy == strategy)
        print(f"{strategy}: {good} of {len(names)}")


if __name__ == "__main__":
    main()
