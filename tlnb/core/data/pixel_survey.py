"""Survey image files as a set: their range of values, and whether parts are transparent.

Grey images of 16 bits or of fractions do not say what is black and white. Scaled one by one, a dark
image comes out as bright as any, and brightness could no longer tell classes apart, so all images
of a data set share one scale. JPEGs, which have neither property, are recognised by their first
bytes and not opened.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tlnb.core.data.decoding import (
    Values,
    formats,
    is_transparent,
    opaque,
    raise_if_memory_ran_out,
    too_large,
    white,
)

ALPHA_CHECKED = 64  # images with an alpha channel that are decoded to inspect it
JPEG = b"\xff\xd8\xff"
PNG_DEPTH = 24  # offset of the bit depth in a PNG's header
TIFF_DEPTH = 258  # TIFF's BitsPerSample tag


@dataclass(frozen=True, kw_only=True)
class Survey:
    """What the survey of a data set found."""

    # black and white points of grey images of more than 8 bits; None: per image
    values: Values | None = None
    transparent: bool = False  # whether some images have, or may have, transparent parts
    notes: tuple[str, ...] = ()
    own_range: bool = False  # whether whole numbers and fractions are scaled image by image


@dataclass(frozen=True, kw_only=True)
class _Seen:
    """One file: its range of values if above 8 bits, and whether it has an alpha channel."""

    kind: str = ""  # Pillow's mode: I or F
    least: float = 0.0
    most: float = 0.0
    alpha: bool = False
    deep: bool = False  # whether its colours have more than 8 bits; Pillow reads the upper 8


def survey(paths: Sequence[Path]) -> Survey:
    """Look at all files of a data set.

    Unreadable files are skipped: they are found and reported elsewhere.

    Raises:
        MemoryError, RuntimeError: memory ran out.
    """
    with (
        ThreadPoolExecutor(max_workers=max(1, torch.get_num_threads())) as pool,
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        seen = list(pool.map(_seen, paths))
    values, notes = _values([each for each in seen if each.kind])
    hidden, more = _hidden([path for path, each in zip(paths, seen, strict=True) if each.alpha])
    own_range = values is None and any(each.kind for each in seen)
    notes += _deep(sum(each.deep for each in seen))
    return Survey(values=values, transparent=hidden, notes=(*notes, *more), own_range=own_range)


def _seen(path: Path) -> _Seen:
    from PIL import Image

    try:
        with path.open("rb") as file:
            if file.read(len(JPEG)) == JPEG:
                return _Seen()
        with Image.open(path, formats=formats()) as image:
            if too_large(image):
                return _Seen()
            if image.mode[0] in "IF":
                return _range(image)
            return _Seen(alpha=is_transparent(image), deep=_is_deep(path, image))
    except Exception as error:  # decoders raise anything on damaged files
        raise_if_memory_ran_out(error)
        return _Seen()


def _is_deep(path: Path, image: Any) -> bool:
    """Whether a colour PNG or TIFF has more than 8 bits per channel."""
    if image.format == "PNG":
        with path.open("rb") as file:
            return file.read(PNG_DEPTH + 1)[PNG_DEPTH:] == b"\x10"
    return bool(max(getattr(image, "tag_v2", {}).get(TIFF_DEPTH, (8,))) > 8)


def _deep(count: int) -> list[str]:
    note = (
        f"{count} images have colours of more than 8 bits, of which the upper 8 are read: scale "
        "dark ones before saving them"
    )
    return [note] * bool(count)


def _range(image: object) -> _Seen:
    values = np.asarray(image)
    known = np.isfinite(values)
    if not known.any():
        return _Seen()
    finite = values if known.all() else values[known]
    least, most = float(finite.min()), float(finite.max())
    return _Seen(kind=image.mode[0], least=least, most=most)  # type: ignore[attr-defined]


def _values(seen: Sequence[_Seen]) -> tuple[Values | None, list[str]]:
    kinds = {each.kind for each in seen}
    if len(kinds) != 1:
        several = (
            "images of whole numbers and of fractions are each scaled by their own range: "
            "brightness tells nothing"
        )
        return None, [several] if kinds else []
    least, most = min(each.least for each in seen), max(each.most for each in seen)
    if least < 0:
        note = (
            f"{len(seen)} images hold values of {least:g}..{most:g}, negative ones too: "
            f"black is {least:g}, white {most:g}"
        )
        return (least, most if most > least else least + 1), [note]
    return (0.0, white(most, kinds.pop())), []


def _hidden(paths: Sequence[Path]) -> tuple[bool, list[str]]:
    """Whether any of these files is transparent anywhere, with notes on what that loses."""
    lost, hidden = 0, False
    for path in paths[:ALPHA_CHECKED]:
        clear, plain = _lost(path)
        hidden, lost = hidden or clear, lost + plain
    if not hidden:
        return len(paths) > ALPHA_CHECKED, []
    notes = [f"{len(paths)} images have an alpha channel: transparent parts become white"]
    if lost:
        notes.append(f"{lost} of those checked become all white: save them on a dark background")
    return True, notes


def _lost(path: Path) -> tuple[bool, bool]:
    """Whether an image is transparent anywhere, and whether it is of one colour on white."""
    from PIL import Image

    try:
        with Image.open(path, formats=formats()) as image:
            clear = int(np.asarray(image.convert("RGBA").getchannel("A")).min()) < 255
            return clear, clear and not np.ptp(np.asarray(opaque(image)), axis=(0, 1)).any()
    except Exception as error:
        raise_if_memory_ran_out(error)
        return False, False
