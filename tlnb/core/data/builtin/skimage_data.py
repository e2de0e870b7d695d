"""Pictures that come with scikit-image: patches of materials, and faces. Nothing is downloaded.

`textures`: a picture is cut along its longer side into three strips with a gap of one patch between
them: the first and largest for training, then monitor, then test. A test patch thus shares no pixel
and no neighbourhood with a training patch: a random split within one photo would let a network
recognise the place instead of the material. Patches are grey, with equal brightness and contrast:
colour and exposure would give most pictures away.

`faces`: a hundred faces and a hundred patches of background from Labeled Faces in the Wild. The
file does not say who is shown, and its order is random (neighbours are as different as other
pairs), so one person may appear in both splits; pictures that look like a test picture are excluded
from training.
"""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tlnb.core.runtime.errors import DataError

EDGE = 32
MONITOR_EACH, TEST_EACH = 16, 32  # patches per class
MONITOR_SHARE, TEST_SHARE = 8, 5  # a strip is one in this many patches along the longer side
# grey levels: mean, standard deviation, smallest deviation to stretch
TONE, CONTRAST, LEAST = (128.0, 44.0, 6.0)

# rows and columns of windows, each a quarter patch from the last
WINDOWS, OVERLAP = (8, 4)

FACES_TEST = 30  # of each class, the last by file order
ALIKE = 0.9  # correlation with a test picture that excludes one from training
SAME_TONE = 0.02  # mean difference of two pictures in 0..1 that does so for flat pictures
NO_NAMES = "the file does not say who is seen: one person may appear in both train and test"


@dataclass(frozen=True)
class Material:
    """A picture, and how it is cut."""

    picture: str  # its name in scikit-image
    patch: int  # pixels, scaled to `EDGE`
    _: KW_ONLY
    shrink: int = 1  # downscaling factor, by averaging
    # the region that shows it: left, top, right, bottom
    box: tuple[float, float, float, float] = (0, 0, 1, 1)


MATERIALS = {
    "brick": Material("brick", 32),
    "cat": Material("cat", 20, box=(0, 0, 0.84, 1)),
    "coins": Material("coins", 24),
    "grass": Material("grass", 32),
    "gravel": Material("gravel", 32),
    "handwriting": Material("text", 20),
    "moon": Material("moon", 32),
    "print": Material("page", 14, box=(0, 0.26, 0.97, 0.78)),
    "retina": Material("retina", 24, shrink=2, box=(0.17, 0.17, 0.83, 0.83)),
    "stars": Material("hubble_deep_field", 32, shrink=2),
    "tissue": Material("immunohistochemistry", 32),
    "workshop": Material("stereo_motorcycle", 32),
}


def texture_patches() -> tuple[Tensor, Tensor, dict[str, np.ndarray]]:
    """Patches `(N, 3, 32, 32)` uint8, labels `(N,)`, and rows by strip.

    Labels follow the order of `MATERIALS`; the strips are `pool`, `monitor` and `test`.

    Raises:
        DataError: scikit-image is not installed.
    """
    images, labels, rows, start = [], [], {"pool": [], "monitor": [], "test": []}, 0  # type: ignore[var-annotated]
    for number, material in enumerate(MATERIALS.values()):
        for strip, patches in _strips(_grey(material), material.patch).items():
            images.append(_even(patches))
            labels.append(torch.full((len(patches),), number))
            rows[strip].append(np.arange(start, start + len(patches)))
            start += len(patches)
    together = {strip: np.concatenate(parts) for strip, parts in rows.items()}
    return torch.cat(images).expand(-1, 3, -1, -1), torch.cat(labels), together


def sliding_windows(material: str) -> tuple[Tensor, Tensor]:
    """Overlapping windows (by three quarters) of one material, from both ends of its picture.

    They show what not to split at random: a window in the test split would share most of its pixels
    with training windows.

    Returns:
        Two tensors `(64, 3, 32, 32)` uint8, in the brightness and contrast of the patches.

    Raises:
        DataError: scikit-image is not installed.
    """
    spec = MATERIALS[material]
    grey, step = _grey(spec), spec.patch // OVERLAP
    wide = spec.patch + (WINDOWS - 1) * step
    ends = (grey[..., :wide, :wide], grey[..., :wide, -wide:])
    cut = (end.unfold(2, spec.patch, step).unfold(3, spec.patch, step) for end in ends)
    one, other = (_even(_scaled(rows.flatten(0, 3))).expand(-1, 3, -1, -1) for rows in cut)
    return one, other


def face_pictures() -> tuple[Tensor, Tensor, dict[str, np.ndarray]]:
    """Pictures `(200, 3, 32, 32)` uint8, labels (0 background, 1 face), and rows by part.

    The parts are `pool` and `test`.

    Raises:
        DataError: scikit-image is not installed.
    """
    pictures = _shipped("lfw_subset").astype(np.float32)
    images = _scaled(torch.from_numpy(pictures))
    labels = torch.tensor([1] * 100 + [0] * 100)
    test = np.concatenate([np.arange(end - FACES_TEST, end) for end in (100, 200)])
    pool = np.setdiff1d(np.arange(200), test)
    alike = _alike(pictures.reshape(200, -1))[np.ix_(pool, test)].any(1)
    colours = images.mul(255).round().byte().expand(-1, 3, -1, -1)
    return colours, labels, {"pool": pool[~alike], "test": test}


def _alike(flat: np.ndarray) -> np.ndarray:
    """Which pictures `(N, pixels)` in 0..1 look alike, by shape, or tone if flat: `(N, N)` bool."""
    centred = flat - flat.mean(1, keepdims=True)
    unit = centred / np.linalg.norm(centred, axis=1, keepdims=True).clip(1e-6)
    rows = torch.from_numpy(flat)
    tones = torch.cdist(rows, rows, p=1).numpy() / flat.shape[1]
    return np.asarray((unit @ unit.T > ALIKE) | (tones < SAME_TONE))


def _shipped(name: str) -> Any:
    try:
        from skimage import data
    except ImportError:
        raise DataError(
            "textures and faces need pictures from scikit-image, which is not installed: "
            "%pip install scikit-image"
        ) from None
    return getattr(data, name)()


def _grey(material: Material) -> Tensor:
    """A picture as `(1, 1, H, W)` floats in 0..255, with its longer side horizontal."""
    image = _shipped(material.picture)
    pixels = torch.from_numpy(np.array(image[0] if isinstance(image, tuple) else image)).float()
    grey = pixels if pixels.ndim == 2 else pixels[..., :3] @ torch.tensor([0.299, 0.587, 0.114])
    height, width = grey.shape
    left, top, right, bottom = material.box
    rows = slice(round(top * height), round(bottom * height))
    part = grey[rows, round(left * width) : round(right * width)]
    grey = torch.nn.functional.avg_pool2d(part[None, None], material.shrink)
    return grey if grey.shape[-1] >= grey.shape[-2] else grey.mT


def _strips(picture: Tensor, patch: int) -> dict[str, Tensor]:
    """Patches `(N, 1, 32, 32)` by strip, without overlaps."""
    # (rows, columns, patch, patch)
    grid = picture.unfold(2, patch, patch).unfold(3, patch, patch)[0, 0]
    columns = grid.shape[1]
    test = columns - columns // TEST_SHARE
    monitor = test - 1 - columns // MONITOR_SHARE
    pool, monitored, tested = grid[:, : monitor - 1], grid[:, monitor : test - 1], grid[:, test:]
    return {
        "pool": _scaled(pool.flatten(0, 1)),
        "monitor": _scaled(_spread(monitored.flatten(0, 1), MONITOR_EACH)),
        "test": _scaled(_spread(tested.flatten(0, 1), TEST_EACH)),
    }


def _spread(patches: Tensor, amount: int) -> Tensor:
    return patches[np.linspace(0, len(patches) - 1, amount).round().astype(int)]


def _scaled(patches: Tensor) -> Tensor:
    interpolate = torch.nn.functional.interpolate
    return interpolate(patches[:, None], EDGE, mode="bilinear", align_corners=False)


def _even(patches: Tensor) -> Tensor:
    """Equalise brightness and contrast; returns uint8."""
    mean, deviation = patches.mean((1, 2, 3), keepdim=True), patches.std((1, 2, 3), keepdim=True)
    standard = (patches - mean) / deviation.clamp(min=LEAST)
    return (standard * CONTRAST + TONE).round().clamp(0, 255).byte()
