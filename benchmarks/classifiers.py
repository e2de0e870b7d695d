"""Check every classifier of torchvision: anatomy, plans, output layer, split, training steps.

    python -m benchmarks.classifiers [PATTERN ...] [--no-step] [--memory GiB]

A nightly check. For each model, with random weights, it verifies that

* the layers' parameters and FLOPs add up to the network's, and FLOPs agree with torchvision's own
  figure within 2%;
* `head` ⊂ `partial` ⊂ `full` in trainable layers, and `full` trains every parameter;
* a new output layer for ten classes gives ten scores, and `head` and `partial` leave a frozen
  prefix to cache;
* one step on a batch of two changes no frozen layer, bit for bit, and the loss is finite.

Models come smallest first; those whose step needs more memory than --memory are skipped and named.
Steps use a small input size if the architecture allows it; seconds are process time. The exit
status is 1 if anything failed.
"""

from __future__ import annotations

import argparse
import contextlib
import fnmatch
import math
import sys
import time
import traceback
from dataclasses import dataclass

import torch
from torch import nn
from torchvision import models

from tlnb.core.models.anatomy import Anatomy, read_anatomy
from tlnb.core.models.tracing import blank, watch
from tlnb.core.planning.edit import apply_edit, output_edits
from tlnb.core.planning.plan import Plan, plan_strategy
from tlnb.core.runtime.device import machine
from tlnb.core.training.epoch import train_epoch
from tlnb.core.training.freezing import hashes, set_modes
from tlnb.core.training.model_split import Cuts
from tlnb.core.training.optimizers import one_cycle

CLASSES = 10
BATCH = 2
STRATEGIES = ("head", "partial", "full")
TOLERANCE = 0.02  # of torchvision's figure for FLOPs
STEP_EDGE = 64  # input edge of a step in pixels, if the architecture takes any size
BYTES_PER_PARAMETER = 8  # weights and gradients; plain SGD has no other state
MEMORY = 24.0  # GiB


@dataclass(frozen=True)
class Classifier:
    """A model's name and the facts from its weights' metadata."""

    name: str
    size: int  # the weights' own input edge
    least: int  # smallest edge that it takes
    params: int
    flops: float  # forward, one image, as torchvision gives it

    @property
    def fixed(self) -> bool:
        """Whether the network is built for one input size."""
        return self.name.startswith("vit_")

    def make(self, size: int, numbers: bool) -> nn.Module:
        """Build the network with random weights, or on the meta device without values."""
        options: dict[str, object] = {"image_size": size} if self.fixed else {}
        if self.name in ("googlenet", "inception_v3"):
            options = {"init_weights": False, "aux_logits": False}
        if numbers:
            return models.get_model(self.name, weights=None, **options)
        # regnets compute their widths with tensors during construction
        with contextlib.nullcontext() if self.name.startswith("regnet") else torch.device("meta"):
            return blank(models.get_model(self.name, weights=None, **options))

    @property
    def step_size(self) -> int:
        """The input edge for a training step, in pixels."""
        return max(self.least, STEP_EDGE) if self.least < 224 else 224

    def step_gib(self) -> float:
        """GiB for a step of `full`: weights, gradients and the result of every operation."""
        passed = watch(self.make(self.step_size, numbers=False), self.step_size)
        results = sum(math.prod(step.shape) for step in passed.steps)
        return (BYTES_PER_PARAMETER * self.params + 4 * BATCH * results) / 2**30


def classifiers(patterns: list[str]) -> list[Classifier]:
    """The classifiers whose names match a glob, smallest first."""
    networks = []
    for name in models.list_models(module=models):
        if any(fnmatch.fnmatch(name, p) for p in patterns):
            weights = models.get_model_weights(name).DEFAULT
            least = max(weights.meta["min_size"])
            networks.append(
                Classifier(
                    name,
                    weights.transforms().crop_size[0],
                    least,
                    weights.meta["num_params"],
                    weights.meta["_ops"] * 2e9,
                )
            )
    return sorted(networks, key=lambda c: c.params)


def check(one: Classifier, step: bool) -> str:
    """Run all checks and return a line for the report.

    Raises:
        AssertionError: a check fails.
    """
    module = one.make(one.size, numbers=False)
    start = time.process_time()
    read = read_anatomy(module, one.size, one.name)
    seconds = time.process_time() - start
    assert read.params == sum(p.numel() for p in module.parameters()), (
        "parameters do not sum to the network's"
    )
    assert abs(read.flops / one.flops - 1) < TOLERANCE, (
        f"{read.flops:.4g} FLOPs, torchvision says {one.flops:.4g}"
    )
    for edit in output_edits(module, read.heads, CLASSES, {}):
        apply_edit(module, edit, {})
    edited = read_anatomy(module, one.size, one.name)
    assert edited.heads == read.heads, f"another output layer after the edit: {edited.heads}"
    plans = [plan_strategy(edited, strategy) for strategy in STRATEGIES]
    nested(edited, plans)
    cuts = [cut_of(module, plan, one.size) for plan in plans[:2]]
    took = steps(one) if step else ""
    return (
        f"{one.name:20} {len(read.layers):4} layers {len(read.stages):2} stages  head {read.head:16} "
        f"partial {plans[1].trainable_params / edited.params:4.0%}  cuts {' '.join(cuts):40} read in {seconds:.2f} s{took}"
    )


def nested(read: Anatomy, plans: list[Plan]) -> None:
    """Check that head ⊂ partial ⊂ full, and that full trains everything."""
    head, partial, full = (set(plan.trained) for plan in plans)
    assert set(read.heads) == head < partial < full == set(read.names), "the strategies do not nest"
    assert plans[2].trainable_params == plans[2].total_params == read.params, (
        "full does not train all"
    )


def cut_of(module: nn.Module, plan: Plan, size: int) -> str:
    """The name of the layer where the frozen prefix ends."""
    set_modes(module, set(plan.trained))
    cuts = Cuts().places(module, plan.trained, torch.zeros(2, 3, size, size, device="meta"))
    assert cuts, f"{plan.strategy} leaves no prefix to cache"
    return cuts[-1].at


def steps(one: Classifier) -> str:
    """Take one step per strategy on a batch of two, and return the seconds in words."""
    torch.manual_seed(0)
    module = one.make(one.step_size, numbers=True)
    read = read_anatomy(module, one.step_size, one.name)
    for edit in output_edits(module, read.heads, CLASSES, {}):
        apply_edit(module, edit, {})
    read = read_anatomy(module, one.step_size, one.name)
    hardware = machine("cpu", "fp32")
    images, labels = torch.randn(BATCH, 3, one.step_size, one.step_size), torch.arange(BATCH)
    took = []
    for strategy in STRATEGIES:
        plan = plan_strategy(read, strategy)
        set_modes(module, set(plan.trained))
        before = hashes(module)
        optimizer = torch.optim.SGD([p for p in module.parameters() if p.requires_grad], lr=1e-3)
        start = time.process_time()
        loss, _ = train_epoch(
            module, [(images, labels)], optimizer, one_cycle(optimizer, 1), hardware
        )
        took.append(f"{time.process_time() - start:.1f}")
        optimizer.zero_grad(set_to_none=True)
        after = hashes(module)
        moved = [n for n in plan.frozen if before[n] != after[n]]
        assert math.isfinite(loss), f"{strategy}: the loss is {loss}"
        assert not moved, f"{strategy}: frozen layers moved: {moved[:3]}"
        assert any(before[n] != after[n] for n in plan.trained), f"{strategy}: nothing moved"
    return f", steps {' '.join(took)} s at {one.step_size}"


def main() -> None:
    """Check all classifiers: print a line for each, then a summary."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("patterns", nargs="*", default=["*"], metavar="PATTERN")
    parser.add_argument("--no-step", action="store_true")
    parser.add_argument("--memory", type=float, default=MEMORY, metavar="GiB")
    chosen = parser.parse_args()
    failed, skipped = [], []
    networks = classifiers(chosen.patterns)
    for one in networks:
        try:
            needs = 0.0 if chosen.no_step else one.step_gib()
            if needs > chosen.memory:
                skipped.append(f"{one.name} ({needs:.0f} GiB)")
            print(check(one, step=not chosen.no_step and needs <= chosen.memory), flush=True)
        except Exception as error:
            failed.append(one.name)
            print(f"{one.name:20} FAILED: {error}", flush=True)
            if not isinstance(error, AssertionError):
                traceback.print_exc(limit=-3)
    print(
        f"{len(networks) - len(failed)} of {len(networks)} pass; failed: {', '.join(failed) or 'none'}"
    )
    print(f"steps skipped for lack of memory: {', '.join(skipped) or 'none'}")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
