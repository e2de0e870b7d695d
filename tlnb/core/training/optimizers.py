"""AdamW with one-cycle learning rates: its parameters, its schedule, and what a checkpoint holds of it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tlnb.core.models.anatomy import Anatomy
from tlnb.core.planning.options import TrainOptions
from tlnb.core.training.batch_sizes import batches_of
from tlnb.core.training.checkpoint import Checkpoint
from tlnb.core.training.freezing import layer_of

RISING_SHARE = 0.15  # of the steps, in which the learning rate rises; then it falls along a cosine

ParameterGroup = dict[str, object]  # as torch's optimisers take them


def can_fuse(device: str) -> bool:
    """Whether fused AdamW is supported: a small network steps in a fifth of the time; untried on MPS."""
    return not device.startswith("mps")


def can_fuse_all(module: nn.Module, device: str) -> bool:
    """Whether fused AdamW can step all parameters: complex ones take plain AdamW."""
    return can_fuse(device) and not any(p.is_complex() for p in module.parameters())


def one_cycle(optimizer: torch.optim.Optimizer, steps: int) -> torch.optim.lr_scheduler.LRScheduler:
    """Every group's rate rises linearly from nothing, then falls along a cosine to nothing."""
    rise = max(1, round(RISING_SHARE * steps))

    def factor(step: int) -> float:
        if step < rise:
            return (step + 1) / rise
        return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def steps_of(options: TrainOptions, images: int) -> int:
    """Optimiser steps that filled-in options mean for so many training images."""
    return (options.epochs or 0) * batches_of(options, images)


def advice_for_nan(options: TrainOptions, usual: float | None, precision: str) -> str:
    """What is most likely to help when a loss is no longer a number."""
    rates = [options.lr or 0.0, *(rate for _, rate in options.stage_lr)]
    highest = max(rates)
    if usual and highest > usual:
        return f"--lr {highest:g} is {highest / usual:.3g} times what is usual here: try --lr {usual:g}"
    if precision == "fp16":
        return "fp16 overflows where activations are large: try --precision fp32"
    return f"try a smaller rate, --lr {highest / 10:g}, and look at the images with %tl_data: are they as the model expects?"


def parameter_groups(
    module: nn.Module, anatomy: Anatomy, trained: tuple[str, ...], options: TrainOptions
) -> list[ParameterGroup]:
    """Parameters by learning rate and decay. Biases and normalisation do not decay."""
    rates = dict(options.stage_lr)
    stages = {layer.name: layer.stage for layer in anatomy.layers}
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    grouped: set[int] = set()
    for name in trained:
        for parameter in layer_of(module, name)._parameters.values():
            if parameter is not None and id(parameter) not in grouped:
                grouped.add(id(parameter))  # one that layers share steps once
                key = (rates.get(stages[name], options.lr or 0.0), parameter.ndim > 1)
                groups.setdefault(key, []).append(parameter)
    decay = options.weight_decay or 0.0
    return [
        {"params": parameters, "lr": rate, "weight_decay": decay * decays}
        for (rate, decays), parameters in groups.items()
    ]


def parameters_of(groups: list[ParameterGroup]) -> list[Tensor]:
    """All parameters of all groups, in the optimiser's order."""
    return [p for group in groups for p in group["params"]]  # type: ignore[attr-defined]


@dataclass(frozen=True, kw_only=True)
class AdamW:
    """The optimiser, its schedule, and the scaler of fp16's gradients."""

    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    scaler: torch.amp.GradScaler

    @classmethod
    def of(
        cls,
        groups: list[ParameterGroup],
        options: TrainOptions,
        steps: int,
        fused: bool,
        fp16: bool,
    ) -> AdamW:
        """A new one for so many steps."""
        optimizer = torch.optim.AdamW(groups, lr=options.lr or 0.0, weight_decay=0.0, fused=fused)
        return cls(
            optimizer=optimizer,
            schedule=one_cycle(optimizer, steps),
            scaler=torch.amp.GradScaler(enabled=fp16),
        )

    def tensors(self) -> dict[str, Tensor]:
        """The moments that it goes on changing: `3/exp_avg` is that of parameter 3."""
        return {
            f"{number}/{name}": tensor
            for number, parameter in enumerate(parameters_of(self.optimizer.param_groups))
            if parameter in self.optimizer.state
            for name, tensor in self.optimizer.state[parameter].items()
        }

    def restore(self, checkpoint: Checkpoint) -> None:
        """Put optimiser, schedule and scaler where they were."""
        parameters = parameters_of(self.optimizer.param_groups)
        state = _moments(checkpoint.part("optimizer"), parameters)
        self.optimizer.load_state_dict(
            {"state": state, "param_groups": self.optimizer.state_dict()["param_groups"]}
        )
        self.schedule.last_epoch = checkpoint.steps
        factors = self.schedule.lr_lambdas  # type: ignore[attr-defined]
        groups = self.optimizer.param_groups  # other ones since the state was loaded
        for group, base, factor in zip(groups, self.schedule.base_lrs, factors, strict=True):
            group["lr"] = base * factor(checkpoint.steps)
        if checkpoint.scaler:
            self.scaler.load_state_dict(checkpoint.scaler)


def _moments(tensors: dict[str, Tensor], parameters: list[Tensor]) -> dict[int, dict[str, Tensor]]:
    """A checkpoint's moments by the number of their parameter, laid out as it is.

    A fused step takes numbers as they lie in memory, so they must lie as the parameter's do (channels_last, say).
    """
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        number, _, name = key.partition("/")
        like = parameters[int(number)]
        if tensor.shape == like.shape:
            tensor = torch.empty_like(like, dtype=tensor.dtype).copy_(tensor)
        state.setdefault(int(number), {})[name] = tensor
    return state
