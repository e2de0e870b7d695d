"""Write a plan, or a run, as a plain PyTorch script without tlnb.

The script does what `core/training` does, in the same order and from the same seeds, so that it
ends with the same weights; it leaves out what the plan does not need. It is built from templates
that read like the script itself: `fill` drops the lines whose condition is false and substitutes
values. Only the imports that the text uses are written.
"""

from __future__ import annotations

import re
import textwrap

from tlnb.core.export.pytorch_script.data_section import data_sections, data_settings
from tlnb.core.export.pytorch_script.network_section import network_sections, own_names
from tlnb.core.export.pytorch_script.script_facts import Script, ScriptFacts
from tlnb.core.export.pytorch_script.template import USER_MODULE, WIDTH
from tlnb.core.export.pytorch_script.training_section import LOOPS, rates, training_sections
from tlnb.core.runtime.errors import UsageError, one_line
from tlnb.core.training.run import Run

__all__ = ["Script", "ScriptFacts", "write_script"]

MEANING = {
    "head": "a new output layer on a frozen network",
    "partial": "the last stages and a new output layer",
    "full": "every layer, from the pretrained weights",
    "scratch": "every layer, from a random start",
    "output-frozen": "every layer but a random output layer",
    "adapter": "small parts added to every layer, and a new output layer",
    "custom": "some layers, the others frozen",
}

# Import line → pattern that the text must contain for it; in the order of the script.
IMPORTS: tuple[tuple[str, str], ...] = (
    ("import copy", r"\bcopy\."),
    ("import math", r"\bmath\."),
    ("import unicodedata", r"\bunicodedata\."),
    ("from collections import OrderedDict", r"\bOrderedDict\("),
    ("from collections.abc import Iterator", r"\bIterator\["),
    ("from importlib.resources import files", r"\bfiles\("),
    ("from pathlib import Path", r"\bPath\("),
    ("from typing import cast", r"\bcast\("),
    ("", ""),
    ("import numpy as np", r"\bnp\."),
    ("import timm", r"\btimm\.create_model"),
    ("import torch", r"\btorch\."),
    ("import torch.nn.functional as F", r"\bF\."),
    ("import torchvision.transforms.v2.functional as TF", r"\bTF\."),
    ("from PIL import Image, ImageOps", r"\bImageOps\."),
    ("from safetensors.torch import load_file", r"\bload_file\("),
    ("from sklearn.datasets import load_digits", r"\bload_digits\("),
    ("from torch import Tensor, nn", r"\bTensor\b"),
    ("from torch.nn.utils import parametrize", r"\bparametrize\."),
    ("from torchvision import models", r"\bmodels\."),
    ("from torchvision.models.resnet import BasicBlock", r"\bBasicBlock\("),
)


def write_script(case: ScriptFacts) -> Script:
    """Write the plan, or the run, as a plain PyTorch script.

    Raises:
        UsageError: a way of training that no script supports.
    """
    optimizer = case.options.optimizer
    if optimizer not in LOOPS or (optimizer == "lbfgs" and not case.apart):
        raise UsageError(
            f"%tl_code cannot write --optimizer {optimizer} for this network: "
            "%tl_train --optimizer adamw"
        )
    if case.came_from is not None and case.plan.strategy == "adapter":
        raise UsageError(
            f"%tl_code cannot write a run that goes on with the adapters of {case.came_from!r}: "
            "train it without --from"
        )
    parts = [
        _settings(case),
        *data_sections(case),
        *network_sections(case),
        *training_sections(case),
    ]
    body = "\n\n\n".join(part.strip("\n") for part in parts)
    subject = f"run {case.run.name}" if case.run else f"the plan ({case.plan.strategy})"
    whole = f"{_docstring(case)}\n\n{_imports(case, body)}\n\n{body}\n"
    lines = map(one_line, whole.split("\n"))  # names in the docstring need not be valid text
    return Script("\n".join(lines), f"{subject} as plain PyTorch")


def _docstring(case: ScriptFacts) -> str:
    lines = [f"Trains {case.model.name} on {case.data.name}: {MEANING[case.plan.strategy]}.", ""]
    lines += textwrap.wrap(
        f"{_did(case.run) if case.run else _will(case)} Writes model.pt.", WIDTH - 2
    )
    if case.sees_new_views:
        lines.append(
            "tlnb trained on a few augmented views of each image; here every epoch sees new ones."
        )
    return '"""' + "\n".join(lines).replace("\\", "\\\\").replace('"""', "'''") + '\n"""'


def _did(run: Run) -> str:
    low, high = run.interval
    versions = ", ".join(
        f"{name} {version.partition('+')[0]}" for name, version in run.versions.items()
    )
    stopped = f" It was stopped after {len(run.epochs)} epochs." if run.status == "stopped" else ""
    return (
        f'Does what tlnb\'s run "{run.name}" did (strategy {run.strategy}), which got {run.accuracy:.1%} of '
        f"{run.test_images:,} test images right (measured; 95% interval {low:.1%} to {high:.1%}; {versions}).{stopped}"
    )


def _will(case: ScriptFacts) -> str:
    return (
        f"Does what tlnb's plan says (strategy {case.plan.strategy}); no run has measured it yet."
    )


def _imports(case: ScriptFacts, body: str) -> str:
    lines = [line for line, mark in IMPORTS if not mark or re.search(mark, body)]
    own = sorted(own_names(case))
    if own:
        lines += [
            f"from {USER_MODULE} import {', '.join(own)}  # CHANGE: your own code, and the file that it is in"
        ]
    return "\n".join(lines).strip("\n")


def _settings(case: ScriptFacts) -> str:
    o, t = case.options, case.model.transform
    lines = data_settings(case)
    if case.data.edge != t.size:
        lines.append(f"SIZE = {t.size}  # the network's input edge, in pixels")
    values = f"MEAN, STD = {t.mean}, {t.std}"
    whose = "# of the images that the network was trained on"
    lines += [f"{values}  {whose}"] if len(values + whose) < WIDTH - 1 else [whose, values]
    if o.optimizer == "adamw":
        lines.append(
            f"EPOCHS, BATCH_SIZE, WEIGHT_DECAY = {o.epochs}, {case.batch_size}, {o.weight_decay:g}"
        )
        lines += rates(case)
    else:
        lines.append(f"EPOCHS, WEIGHT_DECAY = {o.epochs}, {o.weight_decay:g}")
    if case.apart and case.augmented:
        lines.append(
            f"VIEWS = {case.views}  # of each image: the first is the image itself, the others are moved a little"
        )
    chance = (
        "new layers, the order of images and augmentation"
        if case.augmented
        else "new layers and the order of images"
    )
    lines += [
        f"SEED = {o.seed}  # of {chance}",
        'DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")',
        "Data = dict[str, tuple[Tensor, Tensor]]  # split: images (N, 3, edge, edge) uint8, labels (N,)",
    ]
    return "\n".join(lines)
