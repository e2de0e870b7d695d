"""Photos and folders of them, and data opened from there."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conftest import picture
from tlnb.core.data.dataset import DataSet, open_data
from tlnb.core.data.request import DataRequest


def opened(source: Path, edge: int = 32, **amounts: object) -> DataSet:
    return open_data(source, request=DataRequest(source=str(source), **amounts), edge=edge)


def reasons(data: DataSet) -> dict[str, str]:
    return {
        Path(name).as_posix(): why for name, _, why in (s.partition(": ") for s in data.skipped)
    }


def two_classes(top: Path, count: int = 6) -> Path:
    for i in range(count):
        picture(top / "a" / f"{i}.png", 40 + i)
        picture(top / "b" / f"{i}.png", 180 + i)
    return top


def scene(
    path: Path, seed: int, quality: int = 95, size: tuple[int, int] = (200, 150), lighter: int = 0
) -> None:
    """A photo-like picture: the same seed is the same scene."""
    rng = np.random.default_rng(seed)
    patches = Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8)).resize(
        (200, 150), Image.Resampling.BICUBIC
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    patches.resize(size).point(lambda v: min(255, v + lighter)).save(path, quality=quality)


locked = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads everything"
)


def png_header(width: int, height: int) -> bytes:
    """A PNG that says how large it is, and holds nothing."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return (
        b"\x89PNG\r\n\x1a\n"
        + head
        + chunk(b"IDAT", zlib.compress(b"\0" * 100))
        + chunk(b"IEND", b"")
    )


def plants(top: Path, each: int = 4) -> Path:
    for plant in range(10):
        for i in range(each):
            scene(
                top / ("sick" if plant % 2 else "well") / f"plant{plant}_{i}.jpg",
                plant,
                quality=95 - i,
            )
    return top
