"""A training that this process has done is not done again, for tests that are about something else.

Sound because runs are reproducible, which `test_train`, `test_resume` and `test_cache` test without it. Never served from here: a
resumed run, one that did not finish, edits that mention the user's names, and networks of the user's own, whose code may do
anything. Seconds and energy are those of the first time; nobody is told of epochs, and no checkpoint is written but the last.
"""

from __future__ import annotations

import copy
import hashlib
import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from tlnb.core.data.dataset import DataSet
from tlnb.core.models.anatomy import Anatomy
from tlnb.core.models.pretrained import PretrainedModel
from tlnb.core.planning.options import TrainOptions
from tlnb.core.planning.plan import Plan
from tlnb.core.training.run import Run

TRUSTED = ("tlnb", "torch", "torchvision")
SETTINGS = ("TLNB_MEMORY", "TLNB_TESTING")  # of the environment, that a run depends on


def digest(module: nn.Module) -> str:
    """Hash of all parameters and buffers, and of what the network looks like."""
    found = hashlib.blake2b(repr(module).encode(), digest_size=16)
    for name, tensor in module.state_dict().items():
        found.update(
            name.encode()
            + tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
        )
    return found.hexdigest()


def is_ours(module: nn.Module) -> bool:
    """Whether all its code is the libraries', and no hook was added."""
    return all(
        type(m).__module__.split(".")[0] in TRUSTED
        and not (m._forward_hooks or m._forward_pre_hooks)
        for m in module.modules()
    )


class TrainedOnce:
    """Stands in for `core.train.train` and remembers its runs."""

    def __init__(self, train: Callable[..., Run]) -> None:
        self.train = train
        self.runs: dict[tuple[object, ...], Run] = {}
        self.served = 0

    def __call__(
        self,
        model: PretrainedModel,
        anatomy: Anatomy,
        data: DataSet,
        plan: Plan,
        options: TrainOptions,
        **how: Any,
    ) -> Run:
        if how.get("resume") or how.get("scopes") or not is_ours(model.module):
            return self.train(model, anatomy, data, plan, options, **how)
        previous = how.get("previous")
        key = (
            model.name,
            digest(model.module),
            model.transform,
            data.name,
            data.fingerprint,
            tuple(data.splits.items()),
            data.classes,
            data.edge,
            plan,
            options,
            how.get("trial", False),
            how.get("baseline_of"),
            previous and (previous.name, digest(previous.network())),
            torch.get_num_threads(),
            *(os.environ.get(name) for name in SETTINGS),
        )
        if key in self.runs:
            self.served += 1
            return own(self.runs[key], how["name"])
        run = self.train(model, anatomy, data, plan, options, **how)
        if run.status == "finished":
            self.runs[key] = own(run, run.name)
        return run


def own(run: Run, name: str) -> Run:
    """The run under this name, with a network that may be changed."""
    return replace(run, name=name, seconds=dict(run.seconds), _trained=copy.deepcopy(run._trained))
