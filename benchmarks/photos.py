"""How fast a folder of photos is opened, beside the decoder alone: listing, reading, decoding, dividing, looking for twins.

    python -m benchmarks.photos --photos 10000

The decoder's own speed is that of `tlnb.core.decoding.decode` in as many threads as torch uses, on the same files, nothing
else being done: neither listed, divided, kept nor compared. Photos are generated (500×375 JPEGs) unless `--folder` names some.
Both are run in turns, after one run of each that is not counted (the system then holds the files in memory).
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

import torch

from benchmarks.work import draw_photos
from tlnb.core.data import PHOTO_EDGE, DataSet, open_data
from tlnb.core.decoding import decode
from tlnb.core.listing import list_folder
from tlnb.core.request import DataRequest

DRAWN = 400  # pictures that differ; the others are further names of the same files, and are decoded as slowly


def main() -> None:
    """Measure and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=int, default=10_000)
    parser.add_argument("--folder", type=Path, help="photos of one's own, one folder per class")
    parser.add_argument("--times", type=int, default=3)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        os.environ["TLNB_CACHE"] = str(Path(place) / "cache")
        folder = given.folder or make(Path(place) / "photos", given.photos)
        paths = list_folder(folder).paths
        alone(paths[:200]), opened(folder, 200)
        rounds = [(alone(paths), *opened(folder, None)) for _ in range(given.times)]
    decoding, opening = (median(r[i] for r in rounds) for i in (0, 1))
    data, speed = rounds[0][2], len(paths) / decoding
    print(f"{len(paths):,} photos, {torch.get_num_threads()} threads on {os.cpu_count()} processors, edge {PHOTO_EDGE}")
    print(f"the decoder alone: {decoding:.2f} s, {speed:,.0f} photos/s")
    print(
        f"opened: {opening:.2f} s, {len(paths) / opening:,.0f} photos/s, {decoding / opening:.1%} of the decoder's speed"
    )
    print(
        f"{data!r}; {len(data.leaks)} twins; {len(paths) - sum(data.splits.values()) - len(data.skipped)} photos unaccounted for"
    )


def alone(paths: list[Path]) -> float:
    """Seconds to decode all of them, each image dropped at once."""
    start = time.perf_counter()
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        for _ in pool.map(lambda path: decode(path, PHOTO_EDGE) is None, paths):
            pass
    return time.perf_counter() - start


def opened(folder: Path, limit: int | None) -> tuple[float, DataSet]:
    """Seconds from a folder's name to a data set, and that."""
    shutil.rmtree(os.environ["TLNB_CACHE"], ignore_errors=True)  # nothing is found again
    start = time.perf_counter()
    data = open_data(folder, request=DataRequest(str(folder), limit=limit))
    return time.perf_counter() - start, data


def make(folder: Path, count: int) -> Path:
    """So many photos in two classes."""
    drawn = draw_photos(folder.with_name("drawn"), DRAWN // 2)
    for name in ("a", "b"):
        (folder / name).mkdir(parents=True)
    for split in ("val",):
        shutil.rmtree(drawn / split)
    kinds = sorted((drawn / "train").iterdir())
    sources = [sorted(kind.iterdir()) for kind in kinds]
    for i in range(count):
        source = sources[i % 2][(i // 2) % len(sources[i % 2])]
        os.link(source, folder / "ab"[i % 2] / f"{i:06}.jpg")
    return folder


if __name__ == "__main__":
    main()
