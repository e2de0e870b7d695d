"""From image files to pixels. Every image file goes this way: upright, RGB, the middle square at one edge."""

from __future__ import annotations

import os
import re
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from tlnb.core.errors import one_line

if TYPE_CHECKING:
    from concurrent.futures import Future

    from PIL.Image import Image

MAX_PIXELS = 100_000_000  # larger images are refused by what their header says, before decoding
FINER = 2  # a JPEG is decoded at no less than so many times the edge: the last step must be the networks' own resizing
LONGEST = 3  # times the shorter side: what lies further out is cut off before resizing, which would enlarge it too
TOGETHER = 8  # images that a thread decodes before it hands them over: each handing over costs time
AHEAD = 64  # images decoded and not yet taken: bounds the memory where they are written to a slower disk
SMALL = 32  # pixels of edge at which a suspicious file is decoded to see whether it can be
TAIL = 64  # bytes

Progress = Callable[[int, int], None]  # done, of how many
Telling = Callable[[str, int, int], None]  # what is being done (`downloading`, `unpacking`), and how far it is


# Named, since Pillow goes by content: others run programs (EPS calls Ghostscript), or are no photos.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "PPM", "GIF")


def extensions() -> tuple[str, ...]:
    """How the names of image files end. Of a moving GIF the first picture counts."""
    from torchvision.datasets.folder import IMG_EXTENSIONS

    return (*IMG_EXTENSIONS, ".gif")


def decode_each(paths: Sequence[Path], edge: int, progress: Progress | None = None) -> Iterator[Tensor | str]:
    """What `decode` makes of every file, in order, done in threads. `progress` is called with (done, total)."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(max_workers=max(1, torch.get_num_threads())) as pool, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what decoders warn of is listed with the file, or does no harm
        waiting: deque[Future[list[Tensor | str]]] = deque()
        todo, done = iter(paths), 0
        while done < len(paths):
            while len(waiting) < AHEAD // TOGETHER and (some := list(islice(todo, TOGETHER))):
                waiting.append(pool.submit(_decode_some, some, edge))
            for found in waiting.popleft().result():
                yield found
                done += 1
                if progress:
                    progress(done, len(paths))


def _decode_some(paths: Sequence[Path], edge: int) -> list[Tensor | str]:
    return [decode(path, edge) for path in paths]


def decode(path: Path, edge: int) -> Tensor | str:
    """One file as (3, edge, edge) uint8, or in words why it cannot be read."""
    from PIL import Image

    try:
        with Image.open(path, formats=FORMATS) as image:
            why = _too_large(image)
            if why:
                return why
            image.draft("RGB", (FINER * edge, FINER * edge))
            return squared(image, edge)
    except Exception as error:  # decoders raise anything on damaged files; the file is listed with the reason
        return _why(error, path)


def look_over(paths: Sequence[Path]) -> dict[int, str]:
    """The numbers of files that cannot be read, and why: by their first and last bytes, without decoding sound ones."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(max_workers=max(1, torch.get_num_threads())) as pool, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = list(pool.map(_look_over, paths))
        return {number: why for number, why in enumerate(found) if why}


def _look_over(path: Path) -> str:
    from PIL import Image

    try:
        with Image.open(path, formats=FORMATS) as image:
            why, whole = _too_large(image), _ends_well(path, image.format)
    except Exception as error:
        return _why(error, path)
    if why or whole:
        return why
    found = decode(path, SMALL)  # it may be cut short, or carry something behind the image
    return found if isinstance(found, str) else ""


def _ends_well(path: Path, kind: str | None) -> bool:
    """Whether the end of the file is that of a whole image, for the kinds that have one."""
    with path.open("rb") as file:
        file.seek(-min(TAIL, path.stat().st_size), os.SEEK_END)
        tail = file.read()
    ends = {"JPEG": tail.rstrip(b"\0").endswith(b"\xff\xd9"), "PNG": b"IEND" in tail, "GIF": tail.endswith(b";")}
    return ends.get(kind or "", False)


def _too_large(image: Image) -> str:
    if image.width * image.height <= MAX_PIXELS:
        return ""
    return f"{image.width}x{image.height} pixels are more than {MAX_PIXELS:,}"


def _why(error: Exception, path: Path) -> str:
    """What is wrong with a file, in words."""
    from PIL import Image, UnidentifiedImageError

    if isinstance(error, Image.DecompressionBombError):
        count = re.search(r"\d{5,}", str(error))
        return f"{int(count[0]):,} pixels are more than {MAX_PIXELS:,}" if count else f"more than {MAX_PIXELS:,} pixels"
    if isinstance(error, PermissionError):
        return "cannot be read (no permission)"
    with suppress(OSError):
        if not path.stat().st_size:
            return "cannot be read (an empty file)"
    if isinstance(error, UnidentifiedImageError):
        return f"cannot be read ({_instead(path)})"
    return f"cannot be read ({one_line(str(error))[:80] or type(error).__name__})"


def _instead(path: Path) -> str:
    """What a file that is named as an image holds instead."""
    with suppress(OSError), path.open("rb") as file:
        start = file.read(256).lstrip().lower()
        if start.startswith((b"<!doctype", b"<html", b"<?xml", b"<svg")):
            return "a web page or drawing, not a photo"
    return "it holds no image"


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
    if upright.mode == "RGB":
        return upright
    return (_eight_bit(upright) if upright.mode[0] in "IF" else upright).convert("RGB")


def _eight_bit(image: Image) -> Image:
    """Grey of 16 or 32 bits or fractions as 8 bits: PIL's own conversion would make nearly all of it white."""
    from PIL import Image

    values = np.asarray(image, dtype=np.float64)
    most = values.max(initial=0)
    full = 1.0 if most <= 1 and image.mode == "F" else 255.0 if most <= 255 else 65535.0 if most <= 65535 else most
    return Image.fromarray((values / full * 255).round().clip(0, 255).astype(np.uint8))
