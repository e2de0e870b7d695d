"""Decode image files: upright, RGB, the centre square at one edge."""

from __future__ import annotations

import math
import os
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tlnb.core.data.decode_limits import check_memory, in_threads, one_at_a_time, why_costly
from tlnb.core.runtime.errors import one_line

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_PIXELS = 100_000_000  # larger images are refused by their header, before decoding
# A JPEG is decoded at no less than this multiple of the edge: the last step must be the model's
# own resizing.
FINER = 2
# Multiple of the shorter side: anything beyond is cropped before resizing, which would enlarge it.
LONGEST = 3
# images that a thread decodes before handing them over, since each handover costs time
BATCH_DECODED = 8
BATCH_CHECKED = 64  # the same for files that are only checked
# Fractions up to this overshoot count as white = 1; images in 0..255 would be black anyway.
OVERSHOT = 2.0
OTHER_EXTENSIONS = (".gif", ".avif", ".heic", ".heif", ".jfif", ".jpe", ".pnm")
BAND = 2**20  # pixels converted to RGB at a time
SMALL = 32  # edge, in pixels, at which a suspicious file is test-decoded
HEAD, TAIL = 16, 64  # bytes
# TIFF tags for the offsets and lengths of strips and tiles
STRIPS, TILES = ((273, 279), (324, 325))
NO_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")  # in torch's words

Progress = Callable[[int, int], None]  # done, total
Telling = Callable[[str, int, int], None]  # activity (`downloading`, `unpacking`), done, total


class Passing(str):
    """Why a file could not be read this time, for an external reason; it may be readable later."""

    __slots__ = ()


Bytes = npt.NDArray[np.uint8]
Fractions = npt.NDArray[np.float64]
Values = tuple[float, float]  # black and white points of grey images of more than 8 bits

# An explicit list, since Pillow detects formats by content: others run programs (EPS calls
# Ghostscript) or are not photos.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "PPM", "GIF", "AVIF", "HEIF")
BRANDS = {
    **dict.fromkeys((b"avif", b"avis"), "AVIF"),
    **dict.fromkeys((b"heic", b"heix", b"hevc", b"mif1", b"msf1"), "HEIC"),
}
REMEDIES = {
    "AVIF": "an AVIF image, which this Pillow does not read: %pip install -U pillow",
    "HEIC": "a HEIC photo, as iPhones take them: %pip install pillow-heif, then restart",
}


@cache
def formats() -> tuple[str, ...]:
    """Formats that can be read here: AVIF since Pillow 11.3, HEIF with the package pillow-heif."""
    from PIL import Image

    if find_spec("pillow_heif"):
        from pillow_heif import register_heif_opener

        register_heif_opener()
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def extensions() -> tuple[str, ...]:
    """Extensions of image files; formats are detected by content, animations give one frame."""
    from torchvision.datasets.folder import IMG_EXTENSIONS

    return (*IMG_EXTENSIONS, *OTHER_EXTENSIONS)


def holds_image(path: Path) -> bool:
    """Whether a file starts like a readable image, whatever its name. Nothing is decoded."""
    from PIL import Image

    try:
        with warnings.catch_warnings(), Image.open(path, formats=formats()):
            return True
    except Image.DecompressionBombError:  # too large, which is reported when it is read
        return True
    except Exception:  # decoders raise anything
        return False


def decode_each(
    paths: Sequence[Path], edge: int, progress: Progress | None = None, values: Values | None = None
) -> Iterator[Tensor | str]:
    """Decode every file as `decode` does, in order, in threads.

    `progress` is called with (done, total).

    Raises:
        MemoryError, RuntimeError: as `decode`.
    """
    groups = [paths[i : i + BATCH_DECODED] for i in range(0, len(paths), BATCH_DECODED)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # decoders' warnings are listed with the file, or harmless
        batches = in_threads(lambda some: [decode(path, edge, values) for path in some], groups)
        for done, found in enumerate(chain.from_iterable(batches), 1):
            yield found
            if progress:
                progress(done, len(paths))


def decode(path: Path, edge: int, values: Values | None = None) -> Tensor | str:
    """Decode a file to `(3, edge, edge)` uint8, or return why it cannot be read.

    A `Passing` reason may be gone the next time.

    Args:
        values: black and white points of grey images of more than 8 bits; None: each image's own
            range.

    Raises:
        MemoryError, RuntimeError: memory ran out, which says nothing about the file.
    """
    from PIL import Image

    try:
        with Image.open(path, formats=formats()) as image:
            why = too_large(image) or why_costly(path, image)
            if why:
                return why
            image.draft("RGB", (FINER * edge, FINER * edge))
            with one_at_a_time(image):
                check_memory(image)
                return squared(image, edge, values)
    except Exception as error:  # decoders raise anything on damaged files; listed with the reason
        return _why(error, path)


def look_over(paths: Sequence[Path], progress: Progress | None = None) -> dict[int, str]:
    """Find unreadable files, as number → reason, by their first and last bytes.

    Sound files are not decoded.

    Args:
        progress: called with (done, total).

    Raises:
        MemoryError, RuntimeError: as `decode`.
    """
    groups = [paths[i : i + BATCH_CHECKED] for i in range(0, len(paths), BATCH_CHECKED)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found: dict[int, str] = {}
        batches = in_threads(lambda some: [*map(_look_over, some)], groups)
        for place, why in enumerate(chain.from_iterable(batches)):
            found |= {place: why} if why else {}
            if progress:
                progress(place + 1, len(paths))
        return found


def _look_over(path: Path) -> str:
    from PIL import Image

    try:
        with Image.open(path, formats=formats()) as image:
            why, whole = too_large(image) or why_costly(path, image), _ends_well(path, image)
    except Exception as error:
        return _why(error, path)
    if why or whole:
        return why
    found = decode(path, SMALL)  # it may be cut short, or carry something behind the image
    return found if isinstance(found, str) else ""


def _ends_well(path: Path, image: Image) -> bool:
    """Whether a file ends as a whole image does; False for formats that do not tell."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(HEAD)
        file.seek(-min(TAIL, size), os.SEEK_END)
        tail = file.read()
    match image.format:
        case "JPEG" | "MPO":  # MPO: a JPEG of a phone with a second image behind the first
            return tail.rstrip(b"\0").endswith(b"\xff\xd9")
        case "PNG":
            return b"IEND" in tail
        case "GIF":
            return tail.endswith(b";")
        case "WEBP":  # RIFF: the length after the first eight bytes
            return int.from_bytes(head[4:8], "little") + 8 == size
        case "BMP":
            return int.from_bytes(head[2:6], "little") == size
        case "TIFF":
            return _holds_its_pieces(image, size)
    return False


def _holds_its_pieces(image: Image, size: int) -> bool:
    """Whether a TIFF's strips or tiles lie within `size` bytes."""
    tags: Mapping[int, Sequence[int]] = getattr(image, "tag_v2", {})
    pieces = ((tags[a], tags[b]) for a, b in (STRIPS, TILES) if a in tags and b in tags)
    starts, lengths = next(pieces, ((), ()))
    ends = [start + length for start, length in zip(starts, lengths, strict=False)]
    return len(starts) == len(lengths) > 0 and max(ends) <= size


def too_large(image: Image) -> str:
    """Why an image is too large to decode, by its header; empty if it is not."""
    if image.width * image.height <= MAX_PIXELS:
        return ""
    return f"{image.width}x{image.height} pixels are more than {MAX_PIXELS:,}"


def raise_if_memory_ran_out(error: Exception) -> None:
    """Re-raise out-of-memory errors: the call must fail, not skip a file that may be fine."""
    said = str(error).lower()
    of_torch = isinstance(error, RuntimeError) and any(words in said for words in NO_MEMORY)
    if isinstance(error, MemoryError) or of_torch:
        raise error


def _why(error: Exception, path: Path) -> str:
    """Describe what is wrong with a file; `Passing` if it may be readable later."""
    from PIL import Image, UnidentifiedImageError

    raise_if_memory_ran_out(error)
    if isinstance(error, Image.DecompressionBombError):
        count = re.search(r"\d{5,}", str(error))
        most = f"more than {MAX_PIXELS:,}"
        return f"{int(count[0]):,} pixels are {most}" if count else f"{most} pixels"
    if isinstance(error, PermissionError):
        return Passing("cannot be read (no permission)")
    # system errors: too many open files, an unresponsive disk
    if isinstance(error, OSError) and error.errno:
        return Passing(f"cannot be read ({error.strerror})")
    with suppress(OSError):
        if not path.stat().st_size:
            return "cannot be read (an empty file)"
    if isinstance(error, UnidentifiedImageError):
        return f"cannot be read ({_instead(path)})"
    words = f"cannot be read ({one_line(str(error))[:80] or type(error).__name__})"
    # Pillow reports some damaged files so, too
    return Passing(words) if NO_MEMORY[0] in words else words


def _instead(path: Path) -> str:
    """What a file with an image's extension holds instead."""
    with suppress(OSError), path.open("rb") as file:
        head = file.read(256)
        if head[4:8] == b"ftyp" and head[8:12] in BRANDS:
            return REMEDIES[BRANDS[head[8:12]]]
        start = head.lstrip().lower()
        if start.startswith((b"<!doctype", b"<html", b"<?xml", b"<svg")):
            return "a web page or drawing, not a photo"
    return "it does not hold an image"


def squared(image: Image, edge: int, values: Values | None = None) -> Tensor:
    """Convert a PIL image to `(3, edge, edge)` uint8.

    The image is turned upright, converted to RGB, scaled so that the shorter side is `edge`, and
    centre-cropped. Transparent parts become white. `values` as for `decode`.

    Steps and rounding follow torchvision's presets; their own crop is then taken from this square.
    """
    from torchvision.transforms.v2 import functional as F

    pixels = torch.from_numpy(upright_rgb(image, values)).permute(2, 0, 1)
    _, height, width = pixels.shape
    most = LONGEST * min(height, width)
    middle = F.center_crop(pixels, [min(height, most), min(width, most)])
    square: Tensor = F.center_crop(F.resize(middle, [edge], antialias=True), [edge, edge])
    return square.contiguous()


def upright_rgb(image: Image, values: Values | None) -> Bytes:
    """Convert an image to upright RGB `(H, W, 3)` uint8, on white where it is transparent.

    Large images are converted in bands of rows: the intermediate steps need many times their
    memory. `values` as for `decode`.
    """
    from PIL import ExifTags, ImageOps

    turned = image.getexif().get(ExifTags.Base.Orientation, 1) != 1
    upright = ImageOps.exif_transpose(image) if turned else image
    to_rgb = _grey_to_rgb(upright, values) if upright.mode[0] in "IF" else _plain_to_rgb
    if upright.width * upright.height <= BAND:
        return to_rgb(upright)
    pixels, top = np.empty((upright.height, upright.width, 3), np.uint8), 0
    for band in _bands(upright):
        pixels[top : top + band.height] = to_rgb(band)
        top += band.height
    return pixels


def _bands(image: Image) -> Iterator[Image]:
    rows = max(1, BAND // image.width)
    for top in range(0, image.height, rows):
        yield image.crop((0, top, image.width, min(top + rows, image.height)))


def _plain_to_rgb(image: Image) -> Bytes:
    return np.array(opaque(image) if image.mode != "RGB" or is_transparent(image) else image)


def is_transparent(image: Image) -> bool:
    """Whether an image has an alpha channel or a transparent colour."""
    return image.mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in image.info


def opaque(image: Image) -> Image:
    """Convert to RGB, on white where transparent: programs leave any colour below, mostly black."""
    from PIL import Image as images

    if not is_transparent(image):
        return image.convert("RGB")
    coloured = image.convert("RGBA")
    paper = images.new("RGBA", coloured.size, "white")
    return images.alpha_composite(paper, coloured).convert("RGB")


def _grey_to_rgb(image: Image, given: Values | None) -> Callable[[Image], Bytes]:
    """How grey of more than 8 bits becomes 8 bits: PIL would make nearly all pixels white."""
    ends = [found for band in _bands(image) if (found := _ends(_numbers(band))) is not None]
    if not ends:
        raise ValueError("none of its pixels is a number")
    least, most = min(low for low, _ in ends), max(high for _, high in ends)
    top = white(most, image.mode[0]) if least >= 0 else max(most, least + 1e-6)
    low, high = given or (least, top)

    def to_rgb(band: Image) -> Bytes:
        values = np.nan_to_num(_numbers(band), copy=False, nan=low, posinf=high, neginf=low)
        grey = ((values - low) / (high - low) * 255).round().clip(0, 255).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)

    return to_rgb


def _numbers(image: Image) -> Fractions:
    return np.array(image, dtype=np.float64)


def _ends(values: Fractions) -> Values | None:
    """Minimum and maximum of the finite values and 0; None if there are none."""
    known = np.isfinite(values)
    if not known.any():
        return None
    return float(values.min(where=known, initial=0)), float(values.max(where=known, initial=0))


def white(most: float, mode: str) -> float:
    """The white point, given that the brightest pixel is `most`.

    Cameras and scanners write 10, 12 or 14 bits into 16-bit files, and the files do not say so.
    White is the largest number of the fewest bits, at least 8, that hold the brightest pixel: no
    image comes out less than half as bright as it could be, and images that use 8 or all 16 bits
    stay as they are. The white of fractions is 1; resizing may have overshot it.
    """
    if mode == "F" and most <= OVERSHOT:
        return 1.0
    return float(2 ** max(8, math.ceil(most).bit_length()) - 1)
