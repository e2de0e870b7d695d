"""From a plan to a network: copy, start, edit. The original is never touched."""

from __future__ import annotations

import copy

import torch
from torch import nn

from tlnb.core.errors import PlanError
from tlnb.core.plan import Edit
from tlnb.core.pretrained import PretrainedModel


def new_output_layer(module: nn.Module, head: str, classes: int) -> Edit:
    """The edit that gives the network one score per class."""
    old = module.get_submodule(head)
    if isinstance(old, nn.Linear):
        return Edit("replace", head, f"nn.Linear({old.in_features}, {classes})")
    if isinstance(old, nn.Conv2d):
        return Edit("replace", head, f"nn.Conv2d({old.in_channels}, {classes}, {old.kernel_size})")
    raise PlanError(f"{head} is a {type(old).__name__}: an output layer must be nn.Linear or nn.Conv2d")


def build(model: PretrainedModel, edits: tuple[Edit, ...], start: str, seed: int) -> nn.Module:
    """A network of its own, ready to train: pretrained or random parameters, edits applied.

    New and random parameters depend on `seed` alone; torch's global random state is left as it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = model.fresh() if start == "random" else copy.deepcopy(model.module)
        apply_edits(module, edits)
    return module


def apply_edits(module: nn.Module, edits: tuple[Edit, ...]) -> None:
    """Carry out the edits in place, in their order."""
    for edit in edits:
        made = eval(edit.code, {"__builtins__": {}, "nn": nn})  # noqa: S307 - built by new_output_layer from numbers
        module.set_submodule(edit.name, made)
