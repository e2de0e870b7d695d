"""The sections of a script that freeze, train and test."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from tlnb.core.export.pytorch_script.data_section import count
from tlnb.core.export.pytorch_script.network_section import path, place
from tlnb.core.export.pytorch_script.script_facts import ScriptFacts
from tlnb.core.export.pytorch_script.template import assigned, fill, literal, quoted, signature
from tlnb.core.export.pytorch_script.training_templates import (
    ACCURACY,
    ANSWER,
    FEATURES,
    FIT,
    FIT_AT_ONCE,
    FIT_LAYER,
    GROUPS,
    MAIN,
    MODES,
    ONE_CYCLE,
    SHARE_RIGHT,
)
from tlnb.core.models.calibration import NEAREST
from tlnb.core.planning.recipes import WARMUP
from tlnb.core.training.context import SEED_STRIDE
from tlnb.core.training.features import VIEW_SEED
from tlnb.core.training.folded_input_norm import EPSILON, feature_axes
from tlnb.core.training.lbfgs import LBFGS_ITERATIONS
from tlnb.core.training.optimizers import RISING_SHARE, can_fuse
from tlnb.core.training.raw_inputs import chunk_of


def _device(case: ScriptFacts) -> str:
    return case.run.device if case.run else case.options.device or "cpu"


def _chunk(case: ScriptFacts) -> int:
    return chunk_of(case.model.transform.size, on_cpu=_device(case) == "cpu")


def training_sections(case: ScriptFacts) -> Iterator[str]:
    """Everything from the frozen network to `model.pt`."""
    flags, values = _flags(case), _values(case)
    sections = (
        ("modes", MODES),
        ("standardised", FEATURES),
        *LOOPS[case.options.optimizer],
        ("", ACCURACY),
        ("calibrated", ANSWER),
        ("", MAIN),
    )
    for when, template in sections:
        if not when or flags[when]:
            yield fill(template, flags, values)


def rates(case: ScriptFacts) -> list[str]:
    """The learning-rate setting: a dictionary, or one rate if there is only one."""
    if case.apart:
        return [f"LEARNING_RATE = {case.rates_of(case.plan.trained)[case.head_name]:g}"]
    if not case.parted:
        return [f"LEARNING_RATE = {case.options.lr:g}"]
    learning = case.learning(case.plan.trained)
    quiet = [
        _in_script(case, n)
        for n in learning
        if n and not any(True for _ in case.network.get_submodule(n).parameters())
    ]
    note = "what learns, and how fast" + ("; all else is frozen" if case.plan.frozen else "")
    if "" in learning:
        note += ' ("" is the whole network)'
    if quiet:
        note += f" ({'some are' if len(quiet) > 1 else quiet[0] + ':'} dropout, which acts where its layer learns)"
    return assigned(
        "LEARNING_RATES", {_in_script(case, n): rate for n, rate in learning.items()}, note
    )


# ── values and conditions ─────────────────────────────────────────────────────────────────────────


def _flags(case: ScriptFacts) -> dict[str, bool]:
    shorter = case.until is not None
    twice = case.warm and (case.augmented or case.chooses or shorter)
    return {
        "apart": case.apart,
        "warm": case.warm,
        "fresh": case.fresh,
        "parted": case.parted,
        "modes": case.parted and not case.apart,
        "single": case.one_by_one,
        "keeping": bool(case.keeping),
        "standardised": bool(case.scaled),
        "several": len(case.scaled) > 1,
        "one": len(case.scaled) == 1,
        "val": case.chooses,
        "refit": case.refits,
        "shorter": shorter,
        "augmented": case.augmented,
        "twice": twice,
        "weighted": case.options.class_weights,
        "half": case.precision != "fp32",
        "fp16": case.precision == "fp16",
        "dropout": bool(case.dropouts),
        "lbfgs": case.options.optimizer == "lbfgs",
        "views": case.apart and case.augmented,
        "cast": case.apart and case.precision != "fp32",
        "whole": not case.apart,
        "score_layer": case.apart and case.chooses,
        "sized": case.data.edge != case.model.transform.size,
        "askers": bool(case.askers),
        "adapted": case.plan.adapters is not None,
        "calibrated": bool(case.run and case.run.calibration),
    }


def _values(case: ScriptFacts) -> dict[str, object]:
    return {
        **_loop_words(case),
        **_layer_words(case),
        **_asked_words(case),
        **_adapter_words(case),
        **_calibration_words(case),
    }


def _calibration_words(case: ScriptFacts) -> dict[str, object]:
    """What turns scores into answers, where the run has measured it."""
    fitted = case.run.calibration if case.run else None
    if fitted is None:
        return {}
    conv = isinstance(case.network.get_submodule(fitted.layer), nn.Conv2d)
    return {
        "temperature": f"{fitted.temperature:.4g}",
        "threshold": f"{fitted.threshold:.4g}",
        "fitted_labels": fitted.labels,
        "fitted_method": fitted.method,
        "fitted_layer": path(place(fitted.layer, case.plan.edits)),
        "fitted_axis": 1 if conv else -1,
        "nearest": NEAREST,
    }


def _adapter_words(case: ScriptFacts) -> dict[str, object]:
    """The output layers, which get no adapter, and the rank of those that the others get."""
    edit = case.plan.adapters
    if edit is None:
        return {"adapted": "()", "rank": 0}
    heads = [quoted(place(head, case.plan.edits)) for head in edit.heads]
    return {"adapted": f"({', '.join(heads)}{',' if len(heads) == 1 else ''})", "rank": edit.rank}


def _loop_words(case: ScriptFacts) -> dict[str, object]:
    """The loop's names for its options, which are arguments if it runs twice, and constants."""
    settings = {
        "learning": "LEARNING_RATES",
        "epochs": "EPOCHS",
        "batch_size": "BATCH_SIZE",
        "weight_decay": "WEIGHT_DECAY",
    }
    arguments, groups = ["model: nn.Module", "data: Data"], ["model: nn.Module"]
    if case.warm:
        settings = {name: name for name in settings}
        arguments += [
            "learning: dict[str, float]",
            "epochs: int",
            "batch_size: int",
            "weight_decay: float",
        ]
        arguments += ["warmup: bool = False"] if _flags(case)["twice"] else []
        groups += ["learning: dict[str, float]", "weight_decay: float"]
    alone = {
        _in_script(case, n): rate
        for n, rate in case.learning(case.anatomy.heads, WARMUP.lr).items()
    }
    return {
        **settings,
        "fit": signature("fit", arguments, "None"),
        "groups": signature("parameter_groups", groups, "list[dict]"),
        "stride": f"{SEED_STRIDE:_}",
        "view_seed": f"{VIEW_SEED:_}",
        "rise": RISING_SHARE,
        "iterations": LBFGS_ITERATIONS,
        "chunk": _chunk(case),
        "fused": ", fused=True" if can_fuse(_device(case)) else "",
        "alone": literal(alone),
        "warm_epochs": WARMUP.epochs,
        "warm_batch": WARMUP.batch_size,
        "warm_decay": f"{WARMUP.weight_decay:g}",
        "warmup": ", warmup=True" if _flags(case)["twice"] else "",
        "what": "Train what learns" if case.parted else "Train the network",
        "best": ", and keep the epoch that val likes best" if case.chooses else "",
        "val_argument": ", val" if case.chooses else "",
        "fed": "views: list[Tensor]" if case.augmented else "inputs: Tensor",
        "features": "views" if case.augmented else "seen",
        "until": case.until,
        "targets": "targets" if case.augmented else "labels",
    }


def _layer_words(case: ScriptFacts) -> dict[str, object]:
    """How the output layer is named, fed and rescaled."""
    edits, conv = case.plan.edits, isinstance(case.head, nn.Conv2d)
    head = path(place(case.head_name, edits))
    layers = [*(path(place(n, edits)) for n in case.dropouts), head]
    axes, back = _feature_axes(case)
    return {
        "heads": ", ".join(path(place(name, edits)) for name in case.scaled),
        "head": head,
        "hooked": "head" if len(case.scaled) > 1 else head,
        "layer": f"nn.Sequential({', '.join(layers)})" if len(layers) > 1 else "head",
        "axes": axes,
        "back": back,
        "epsilon": f"{EPSILON:g}",
        "dot": "(head.weight * mean).sum((1, 2, 3))" if conv else "head.weight @ mean",
        "flat": ".flatten(1)" if conv else "",
        "eval": ".eval()" if case.dropouts else "",
    }


def _asked_words(case: ScriptFacts) -> dict[str, object]:
    """Words that only some options and plans need."""
    kind = "bfloat16" if case.precision == "bf16" else "float16"
    each, unless = _batch_norms(case)
    return {
        "count": count(case),
        "weights": ", class_weights" if case.options.class_weights else "",
        "autocast": f"torch.autocast(DEVICE.type, dtype=torch.{kind})",
        "float": "" if case.precision == "fp32" else ".float()",
        "recurse": "recurse=False" if case.one_by_one else "",
        "each": each,
        "unless": unless,
        "asker": "\n    ".join(_asking(case, name) for name in case.askers),
    }


def _batch_norms(case: ScriptFacts) -> tuple[str, str]:
    """What to go through, and a condition that leaves out the layers whose statistics move."""
    moving = [n for n in case.plan.trained if n in case.norms and n not in case.keeping]
    if not moving:
        return "layer in model.modules()", ""
    names = [quoted(place(name, case.plan.edits)) for name in moving]
    listed = ", ".join(names) + ("," if len(names) == 1 else "")
    return "name, layer in model.named_modules()", f" and name not in ({listed})"


def _asking(case: ScriptFacts, name: str) -> str:
    """A line that sets the mode of a module with both frozen and trained layers."""
    at = path(place(name, case.plan.edits))
    return (
        f"{at}.training = any(p.requires_grad for p in {at}.parameters())"
        if name
        else f"{at}.training = True"
    )


def _in_script(case: ScriptFacts, name: str) -> str:
    return place(name, case.plan.edits, whole=not case.one_by_one)


def _feature_axes(case: ScriptFacts) -> tuple[str, str]:
    """The axes of mean and spread, and the code that reshapes them to match the features."""
    shape = next(layer.shape for layer in case.anatomy.layers if layer.name == case.head_name) or (
        1,
    )
    axes = feature_axes(case.head, 1 + len(shape))
    back = ".view(-1, 1, 1)" if isinstance(case.head, nn.Conv2d) else ""
    return (str(axes[0]) if len(axes) == 1 else str(axes)), back


# By optimizer: the condition for a section, and the section.
LOOPS: dict[str, tuple[tuple[str, str], ...]] = {
    "adamw": (
        ("whole", GROUPS),
        ("", ONE_CYCLE),
        ("score_layer", SHARE_RIGHT),
        ("apart", FIT_LAYER),
        ("whole", FIT),
    ),
    "lbfgs": (("score_layer", SHARE_RIGHT), ("", FIT_AT_ONCE)),
}
