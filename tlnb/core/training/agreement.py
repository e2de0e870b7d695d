"""How far two results of the same computation may be apart: rounding differs with the number of rows, the way does not."""

from __future__ import annotations

import math

import torch
from torch import Tensor

SAME_ROWS = 1e-4  # of the largest number, where the same operations met the same rows
OTHER_ROWS = 1e-3  # where rows had other company, for which other kernels may be taken
ROUNDED = 30.0  # times as much in half precision


def apart(one: Tensor, other: Tensor) -> float:
    """The largest difference of two results, as a share of the largest number; infinite where they are not alike in kind."""
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
    return 0.0 if most == 0 else most / max(size, torch.finfo(torch.float32).tiny)


def allowed(tolerance: float, precision: str) -> float:
    """A tolerance in a run's precision (`fp32`, `bf16`, `fp16`)."""
    return tolerance if precision == "fp32" else tolerance * ROUNDED
