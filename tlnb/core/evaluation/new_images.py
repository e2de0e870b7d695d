"""Find and read new images: files, folders, globs, PIL images, arrays."""

from __future__ import annotations

import glob
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from tlnb.core.data.decoding import Values, decode, extensions, squared
from tlnb.core.runtime.errors import DataError, UsageError, did_you_mean, one_line
from tlnb.core.runtime.paths import is_file, is_folder, user_path


def found_images(given: Iterable[Any]) -> Iterator[tuple[str, Any]]:
    """Yield names with images or their files, expanding folders and globs.

    Raises:
        DataError: a file, folder or glob does not lead to an image.
        UsageError: nothing is given.
    """
    given = list(given)
    if not given:
        raise UsageError("no image was given: %tl_predict dog.jpg, or a folder")
    for number, item in enumerate(given, 1):
        if isinstance(item, str | Path):
            yield from ((_short(path), path) for path in _files(str(item)))
        else:
            yield f"image {number}", item


def _files(pattern: str) -> list[Path]:
    path = user_path(pattern)
    if is_file(path):
        return [path]
    if is_folder(path):
        files = _images(
            p
            for p in path.rglob("*")
            if not any(q.startswith(".") for q in p.relative_to(path).parts)
        )
    elif glob.has_magic(pattern):
        matches = glob.glob(str(path), recursive=True)  # noqa: PTH207 - the glob may be absolute
        files = _images(map(Path, matches))
    else:
        near = [p.name for p in path.parent.iterdir()] if is_folder(path.parent) else []
        hint = did_you_mean(
            path.name,
            near,
            "give an image file, a folder of images, or a glob such as photos/*.jpg",
        )
        raise DataError(f"{pattern!r} does not exist: {hint}")
    if not files:
        raise DataError(
            f"{pattern!r} holds no images: give files that end in {', '.join(extensions())}"
        )
    return files


def _images(paths: Iterable[Path]) -> list[Path]:
    return sorted(p for p in paths if is_file(p) and p.suffix.lower() in extensions())


def _short(path: Path) -> str:
    return one_line(str(Path(*path.parts[-2:])))


def read_image(source: Any, edge: int, values: Values | None = None) -> Tensor:
    """Read one image as `(3, edge, edge)` uint8: a file, a PIL image, or a uint8 array.

    All of them are squared alike.

    Args:
        values: black and white points of grey images of more than 8 bits; None: each image's own
            range.

    Raises:
        DataError: the file cannot be read, or the array has another type or shape.
    """
    if isinstance(source, Path):
        pixels = decode(source, edge, values)
        if isinstance(pixels, str):
            raise DataError(f"{source} {pixels}: leave it out, or give another file")
        return pixels
    return squared(_as_picture(source), edge, values)


def _as_picture(source: Any) -> Any:
    """Convert a PIL image or a uint8 array to a PIL image."""
    from PIL import Image

    if isinstance(source, Image.Image):
        return source
    pixels = source.numpy() if isinstance(source, Tensor) else np.asarray(source)
    if not pixels.size:
        raise DataError(
            f"an image of shape {pixels.shape} holds no pixels: give uint8 (H, W), (H, W, 3) or "
            "(3, H, W)"
        )
    if pixels.ndim == 3 and pixels.shape[-1] not in (1, 3, 4) and pixels.shape[0] in (1, 3):
        pixels = np.moveaxis(pixels, 0, -1)
    if pixels.ndim == 3 and pixels.shape[-1] == 1:
        pixels = pixels[..., 0]
    if pixels.dtype != np.uint8 or not (
        pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[-1] in (3, 4))
    ):
        raise DataError(
            f"an image of type {pixels.dtype} and shape {pixels.shape} cannot be read: give uint8 "
            "(H, W), (H, W, 3) or (3, H, W)"
        )
    return Image.fromarray(np.ascontiguousarray(pixels))
