"""From image files to pixels. Every image file goes this way: upright, RGB, the middle square at one edge."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from concurrent.futures import Future

    from PIL.Image import Image

MAX_PIXELS = 100_000_000  # larger images are refused by what their header says, before decoding
FINER = 2  # a JPEG is decoded at no less than so many times the edge: the last step must be the networks' own resizing
LONGEST = 3  # times the shorter side: what lies further out is cut off before resizing, which would enlarge it too
AHEAD = 64  # images decoded and not yet taken: bounds the memory where they are written to a slower disk

Progress = Callable[[int, int], None]


def extensions() -> tuple[str, ...]:
    """How the names of image files end."""
    from torchvision.datasets.folder import IMG_EXTENSIONS

    return tuple(IMG_EXTENSIONS)


def decode_each(paths: Sequence[Path], edge: int, progress: Progress | None = None) -> Iterator[Tensor | str]:
    """What `decode` makes of every file, in order, done in threads. `progress` is called with (done, total)."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(max_workers=max(1, torch.get_num_threads())) as pool:
        waiting: deque[Future[Tensor | str]] = deque()
        todo, done = iter(paths), 0
        while done < len(paths):
            waiting.extend(pool.submit(decode, path, edge) for path in islice(todo, AHEAD - len(waiting)))
            yield waiting.popleft().result()
            done += 1
            if progress:
                progress(done, len(paths))


def decode(path: Path, edge: int) -> Tensor | str:
    """One file as (3, edge, edge) uint8, or in words why it cannot be read."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            if image.width * image.height > MAX_PIXELS:
                return f"{image.width}x{image.height} pixels are more than {MAX_PIXELS:,}"
            image.draft("RGB", (FINER * edge, FINER * edge))
            return squared(image, edge)
    except Exception as error:  # decoders raise anything on damaged files; the file is listed with the reason
        return f"cannot be read ({str(error)[:80] or type(error).__name__})"


def squared(image: Image, edge: int) -> Tensor:
    """A PIL image as (3, edge, edge) uint8: upright, RGB, the shorter side scaled to `edge`, cut to the middle square.

    These are the steps, and the roundings, of torchvision's presets; their own crop, taken from this square, is theirs.
    """
    from torchvision.transforms.v2 import functional as F

    pixels = torch.from_numpy(np.array(_upright_rgb(image))).permute(2, 0, 1)
    _, height, width = pixels.shape
    most = LONGEST * min(height, width)
    middle = F.center_crop(pixels, [min(height, most), min(width, most)])
    square: Tensor = F.center_crop(F.resize(middle, [edge], antialias=True), [edge, edge])
    return square.contiguous()


def _upright_rgb(image: Image) -> Image:
    """Copied only where something is to be done: copying takes time."""
    from PIL import ExifTags, ImageOps

    upright = image if image.getexif().get(ExifTags.Base.Orientation, 1) == 1 else ImageOps.exif_transpose(image)
    return upright if upright.mode == "RGB" else upright.convert("RGB")
