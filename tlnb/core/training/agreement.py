"""How far two results of the same computation may differ: rounding depends on the number of rows."""

from __future__ import annotations

import math

import torch
from torch import Tensor

SAME_ROWS = 1e-4  # of the largest number, where the same operations met the same rows
OTHER_ROWS = 1e-3  # where rows had other company, for which other kernels may be taken
ROUNDED = 30.0  # times as much in half precision


def apart(one: Tensor, other: Tensor, floor: float = 0.0) -> float:
    """The largest difference of two results, as a share of the largest number; infinite where their kinds differ.

    Args:
        floor: the largest number is taken for no smaller.
    """
    if one.shape != other.shape or one.dtype != other.dtype:
        return math.inf
    if torch.equal(one, other) or one.numel() == 0:
        return 0.0
    one, other = one.detach().double(), other.detach().double()
    known = torch.isfinite(other)
    if not torch.equal(known, torch.isfinite(one)) or not torch.equal(
        one[~known].nan_to_num(), other[~known].nan_to_num()
    ):
        return math.inf
    size = float(other[known].abs().max()) if known.any() else 0.0
    most = float((one[known] - other[known]).abs().max()) if known.any() else 0.0
    return 0.0 if most == 0 else most / max(size, floor, torch.finfo(torch.float32).tiny)


def allowed(tolerance: float, precision: str) -> float:
    """A tolerance in a run's precision (`fp32`, `bf16`, `fp16`)."""
    return tolerance if precision == "fp32" else tolerance * ROUNDED
