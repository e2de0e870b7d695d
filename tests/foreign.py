"""Images that are of no class of any bundled set."""

from __future__ import annotations

import numpy as np


def foreign_images(count: int = 4) -> list[np.ndarray]:
    """Noise, `(32, 32, 3)` uint8."""
    draw = np.random.default_rng(0)
    return list(draw.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8))
