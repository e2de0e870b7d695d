"""Measure how fast a folder of photos is opened, compared with decoding alone.

    python -m benchmarks.photos --photos 10000

Opening a folder means listing, reading, decoding, splitting, and the search for duplicates. The
decoder's own speed is that of `tlnb.core.data.decoding.decode` in as many threads as torch uses, on
the same files, without any other work. Photos are generated (500×375 JPEGs) unless `--folder` names
some. Both alternate, after one uncounted run of each (the system then has the files in memory).
Process time is shown beside wall time, because it does not depend on other work of the machine.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

import numpy as np
import torch
from PIL import Image

from benchmarks.work import PHOTO_SIZE
from tlnb.core.data.dataset import PHOTO_EDGE, DataSet, open_data
from tlnb.core.data.decoding import decode
from tlnb.core.data.image_listing import list_folder
from tlnb.core.data.request import DataRequest


def main() -> None:
    """Measure both and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=int, default=10_000)
    parser.add_argument("--folder", type=Path, help="your own photos, one folder per class")
    parser.add_argument("--times", type=int, default=3)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        os.environ["TLNB_CACHE"] = str(Path(place) / "cache")
        folder = given.folder or make(Path(place) / "photos", given.photos)
        paths = list_folder(folder).paths
        alone(paths[:200]), opened(folder, 200)
        rounds = [(alone(paths), *opened(folder, None)) for _ in range(given.times)]
    decoding, opening = (median(r[i][0] for r in rounds) for i in (0, 1))
    work, work_opening = (median(r[i][1] for r in rounds) for i in (0, 1))
    data, speed = rounds[0][2], len(paths) / decoding
    threads, share, left = (
        torch.get_num_threads(),
        decoding / opening,
        sum(data.splits.values()) + len(data.skipped),
    )
    print(
        f"{len(paths):,} photos, {threads} threads on {os.cpu_count()} processors, edge {PHOTO_EDGE}"
    )
    print(f"the decoder alone: {decoding:.2f} s, {speed:,.0f} photos/s")
    print(
        f"opened: {opening:.2f} s, {len(paths) / opening:,.0f} photos/s, {share:.1%} of the decoder's speed"
    )
    print(f"process time: {work:.2f} s and {work_opening:.2f} s, {work / work_opening:.1%}")
    print(f"{data!r}; {len(paths) - left} photos unaccounted for")


def alone(paths: list[Path]) -> tuple[float, float]:
    """Wall and process seconds to decode all photos, each dropped at once."""
    start = time.perf_counter(), time.process_time()
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        for _ in pool.map(lambda path: decode(path, PHOTO_EDGE) is None, paths):
            pass
    return time.perf_counter() - start[0], time.process_time() - start[1]


def opened(folder: Path, limit: int | None) -> tuple[tuple[float, float], DataSet]:
    """Wall and process seconds from a folder's name to a data set, and the data set."""
    shutil.rmtree(os.environ["TLNB_CACHE"], ignore_errors=True)  # nothing may be cached
    start = time.perf_counter(), time.process_time()
    data = open_data(folder, request=DataRequest(source=str(folder), limit=limit))
    return (time.perf_counter() - start[0], time.process_time() - start[1]), data


def make(folder: Path, count: int) -> Path:
    """Generate distinct photos in two classes: smooth random patches, with shared grain."""
    rng = np.random.default_rng(0)
    grain = rng.normal(0, 8, (PHOTO_SIZE[1], PHOTO_SIZE[0], 1)).astype(np.float32)
    for i in range(count):
        file = folder / "ab"[i % 2] / f"{i:06}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        cells = Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8))
        patches = np.asarray(cells.resize(PHOTO_SIZE, Image.Resampling.BICUBIC), np.float32)
        pixels = patches * 0.8 + 20 + np.roll(grain, int(rng.integers(PHOTO_SIZE[0])), axis=1)
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file, quality=90)
    return folder


if __name__ == "__main__":
    main()
