"""Check that a checkpoint belongs to the network and the training that are to resume from it.

A checksum finds damage, not malice: a session may come with a cloned repository. A fused optimiser
writes as far as a parameter reaches, whatever the size of its moments, so every tensor is first
compared with its counterpart.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tlnb.core.models.anatomy import Anatomy
from tlnb.core.planning.options import TrainOptions
from tlnb.core.planning.plan import Plan
from tlnb.core.runtime.errors import UsageError, one_line
from tlnb.core.training.answers import Answers
from tlnb.core.training.checkpoint import Checkpoint
from tlnb.core.training.folded_input_norm import can_fold
from tlnb.core.training.freezing import layer_of, state_of
from tlnb.core.training.split_choice import CACHED_VIEWS

MOMENTS = ("exp_avg", "exp_avg_sq", "step")  # AdamW's state per parameter
SCALER = (
    "_growth_tracker",
    "backoff_factor",
    "growth_factor",
    "growth_interval",
    "scale",
)  # state of torch's gradient scaler


def check_fits(
    checkpoint: Checkpoint,
    name: str,
    module: nn.Module,
    plan: Plan,
    anatomy: Anatomy,
    options: TrainOptions,
    images: int,
    parameters: Sequence[Tensor],
) -> None:
    """Compare a checkpoint with the training that is to resume from it. Nothing is changed.

    Args:
        name: the run's, for the error.
        module: the network as it is before the first step.
        options: with all defaults filled in.
        images: training images.
        parameters: those trained, in the optimiser's order.

    Raises:
        UsageError: a number is out of range, or a tensor is missing, unknown, of another shape or
            type, or not finite.
    """
    try:
        _check_numbers(checkpoint, options, images)
        own = state_of(module, plan.trained)
        check_state(checkpoint.part("last"), own, module)
        if checkpoint.part("best"):
            check_state(checkpoint.part("best"), own, module)
        _check_moments(checkpoint.part("optimizer"), parameters, checkpoint.steps)
        heads = [layer_of(module, h) for h in anatomy.heads if h in plan.trained]
        _check_scales(checkpoint.part("scale"), [h for h in heads if can_fold(h)])
    except ValueError as error:
        raise UsageError(
            f"the checkpoint of run {name!r} does not fit its training "
            f"({one_line(str(error))[:120]}): %tl_train trains it from the start"
        ) from None


def _check_numbers(checkpoint: Checkpoint, options: TrainOptions, images: int) -> None:
    done, batches = len(checkpoint.epochs), math.ceil(images / (options.batch_size or 1))
    _within("epochs", done, 1, options.epochs or 0)
    _within("steps", checkpoint.steps, done * batches, done * batches)
    _within("pieces", checkpoint.pieces, 1, options.batch_size or 1)
    if checkpoint.best_epoch is not None:
        _within("best_epoch", checkpoint.best_epoch, 0, done - 1)
    if checkpoint.cache is not None:
        _within("views", checkpoint.cache.views, 1, CACHED_VIEWS)
    if checkpoint.scaler and (
        sorted(checkpoint.scaler) != sorted(SCALER) or not _sound_scaler(checkpoint.scaler)
    ):
        raise ValueError("the gradient scaler's values are out of range")


def _within(what: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        wanted = f"{least:,}" if least == most else f"{least:,} to {most:,}"
        raise ValueError(f"{what} {value:,}, not {wanted}")


def _sound_scaler(values: Mapping[str, float]) -> bool:
    positive = all(values[key] > 0 for key in SCALER[1:])
    return (
        positive
        and values["_growth_tracker"] >= 0
        and all(float(values[key]).is_integer() for key in SCALER[::3])
    )


def check_state(
    state: Mapping[str, Tensor], own: Mapping[str, Tensor], module: nn.Module, finite: bool = True
) -> None:
    """Compare a run's parameters and buffers with the network's own.

    Args:
        own: the corresponding tensors of the network, by full name.
        finite: whether parameters must be finite; those of a failed run need not be.

    Raises:
        ValueError: names, shapes or types differ, or a parameter is not finite. Buffers may hold
            infinities.
    """
    if state.keys() != own.keys():
        odd = sorted(state.keys() ^ own.keys())[0]
        raise ValueError(f"{odd} is {'missing' if odd in own else 'unknown'}")
    learned = {key for key, _ in module.named_parameters(remove_duplicate=False)}
    for key, tensor in state.items():
        _alike(key, tensor, own[key], finite and key in learned)


def _alike(what: str, tensor: Tensor, like: Tensor, finite: bool = True) -> None:
    if tensor.shape != like.shape or tensor.dtype != like.dtype:
        raise ValueError(f"{what} is {_kind(tensor)}, not {_kind(like)}")
    if finite and not bool(torch.isfinite(tensor).all()):
        raise ValueError(f"{what} is not finite")


def _kind(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"


def _check_moments(held: Mapping[str, Tensor], parameters: Sequence[Tensor], steps: int) -> None:
    """Check that each parameter has all of its moments or none.

    A parameter that no image reaches never steps.
    """
    known = {f"{i}/{name}" for i in range(len(parameters)) for name in MOMENTS}
    numbers = {key.partition("/")[0] for key in held}
    if odd := sorted(
        {f"{i}/{name}" for i in numbers for name in MOMENTS} ^ held.keys() | held.keys() - known
    ):
        raise ValueError(f"optimizer/{odd[0]} is missing or unknown")
    for key, tensor in held.items():
        number, _, name = key.partition("/")
        like = parameters[int(number)].detach()
        _alike(f"optimizer/{key}", tensor, torch.zeros(()) if name == "step" else like)
        if (name != "exp_avg" and bool((tensor < 0).any())) or (
            name == "step" and float(tensor) > steps
        ):
            raise ValueError(f"optimizer/{key} is out of range")


def _check_scales(held: Mapping[str, Tensor], heads: Sequence[nn.Module]) -> None:
    """Check the mean and standard deviation of each output layer's inputs."""
    numbers = {key.partition("/")[0] for key in held}
    known = {f"{i}/{name}" for i in numbers for name in ("mean", "spread")}
    if known != held.keys() or not numbers <= set(map(str, range(len(heads)))):
        raise ValueError("the scales belong to other output layers")
    for key, tensor in held.items():
        weight: Tensor = heads[int(key.partition("/")[0])].weight  # type: ignore[assignment]
        features = weight.shape[1]
        if (
            tensor.numel() != features
            or tensor.dtype != torch.float32
            or max(tensor.shape, default=0) != features
        ):
            raise ValueError(f"scale/{key} is {_kind(tensor)}, not of {features} features")
        if not bool(torch.isfinite(tensor).all()) or (
            key.endswith("spread") and bool((tensor <= 0).any())
        ):
            raise ValueError(f"scale/{key} is out of range")


def check_answers(held: Mapping[str, Any], images: int, classes: int) -> Answers:
    """Read a network's predictions on the test images from a file's tensors.

    Raises:
        ValueError: the number of images or a type differs, or a class or probability is out of
            range.
    """
    kinds = {
        "truths": torch.int64,
        "guesses": torch.int64,
        "sure": torch.float32,
        "sure_of_truth": torch.float32,
    }
    rest = dict(held)
    likeness = rest.pop("likeness", None)  # of a run that has a threshold
    if rest.keys() != kinds.keys():
        raise ValueError("the answers are incomplete")
    if likeness is not None:
        _alike("likeness", likeness, held["sure"])
    for name, kind in kinds.items():
        if held[name].shape != (images,) or held[name].dtype != kind:
            raise ValueError(f"{name} is {_kind(held[name])}, not of {images:,} images")
        most = classes - 1 if kind == torch.int64 else 1 + 1e-4
        if bool(((held[name] < 0) | (held[name] > most)).any()):
            raise ValueError(f"{name} must be from 0 to {most:g}")
    return Answers(**held)
