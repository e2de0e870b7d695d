"""torchvision data sets by name, with their own splits. Failed downloads leave nothing behind.

torchvision checks a hash of each file that it downloads. This module adds progress reports, a
timeout, atomic writes, and one-line errors.
"""

from __future__ import annotations

import io
import os
import re
import socket
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from functools import partial
from http.client import HTTPException
from inspect import signature
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlparse

import numpy as np
import torch
from torch import Tensor

from tlnb.core.data.arrays import as_images
from tlnb.core.data.decoding import Progress, Telling, squared
from tlnb.core.data.image_listing import Listing
from tlnb.core.data.image_loading import read_files
from tlnb.core.data.request import DataRequest
from tlnb.core.data.splits import Parts, divide
from tlnb.core.runtime.errors import DataError
from tlnb.core.runtime.limits import cache_folder, memory_budget
from tlnb.core.runtime.paths import user_path
from tlnb.core.storage.checked_arrays import LEFTOVER
from tlnb.core.storage.download import sweep

TIMEOUT = 30.0  # seconds without data after which a download is aborted
CHUNK_BYTES = 2**18
FAKE_IMAGES = 1000
# of downloads and unpacked folders
UNFINISHED = re.compile(r".+\.[0-9a-f]{8}\.part|\.[a-z0-9_]{8}\.part")
# where data sets put their archives; image folders are not searched deeper
ARCHIVE_PLACES = ("*.part", "*/*.part", "*/raw/*.part")

_BY_FLAG: dict[str, dict[str, Any]] = {"train": {"train": True}, "test": {"train": False}}


def _named(*splits: str) -> dict[str, dict[str, Any]]:
    return {split: {"split": split} for split in splits}


_THREE = _named("train", "val", "test")
_FLAGGED = ("CIFAR10", "CIFAR100", "MNIST", "FashionMNIST", "KMNIST", "USPS")
_OF_TWO = ("SVHN", "STL10", "Food101", "GTSRB", "StanfordCars")
_OF_THREE = ("Flowers102", "DTD", "FGVCAircraft", "PCAM", "RenderedSST2")
LIBRARY: dict[str, dict[str, dict[str, Any]]] = {  # data set → split → torchvision's arguments
    **dict.fromkeys(_FLAGGED, _BY_FLAG),
    "EMNIST": {split: {"split": "balanced", **flag} for split, flag in _BY_FLAG.items()},
    **dict.fromkeys(_OF_TWO, _named("train", "test")),
    **dict.fromkeys(_OF_THREE, _THREE),
    "OxfordIIITPet": {"train": {"split": "trainval"}, "test": {"split": "test"}},
    "Country211": {**_THREE, "val": {"split": "valid"}},
    **dict.fromkeys(("Imagenette", "ImageNet"), _named("train", "val")),
    **{name: {"": {}} for name in ("EuroSAT", "SUN397", "Caltech101", "SEMEION")},
    "FakeData": {"": {"size": FAKE_IMAGES}},
}
ARRAYS = (*_FLAGGED, "EMNIST", "SVHN", "STL10", "SEMEION")
LABELS = ("targets", "labels", "_labels", "y")
FILES = ("_image_files", "_images", "images")
PAIRS = ("samples", "_samples", "imgs")


def library_name(text: str) -> str | None:
    """torchvision's spelling of a data set's name, ignoring case and hyphens, or None."""
    return {_plain(name): name for name in LIBRARY}.get(_plain(text))


def read_library(
    name: str,
    request: DataRequest,
    edge: int,
    progress: Progress | None = None,
    telling: Telling | None = None,
) -> Parts:
    """Read images and labels of a torchvision data set, in its own splits.

    Args:
        name: as in `LIBRARY`.
        edge: for decoding files, in pixels; data sets of arrays keep their own size.
        progress: called with (done, total) while files are decoded.
        telling: called with (`downloading`, megabytes done, total).

    Raises:
        DataError: the data set is missing and cannot be downloaded, is damaged, or the disk is
            full.
    """
    root = user_path(request.root) if request.root else cache_folder() / "datasets"
    _sweep(root)
    datasets = {s: _opened(name, root, options, telling) for s, options in LIBRARY[name].items()}
    listing = _listing(name, root, datasets)
    if listing is not None:
        parts = read_files(listing, request, edge, progress)
    else:
        held = {split: _held(name, data, edge, progress) for split, data in datasets.items()}
        parts = _divided(name, _classes(next(iter(datasets.values()))), held, request)
    official = "the data set has no splits of its own: they are made here"
    if len(datasets) > 1:
        official = "the splits are the data set's own"
    return replace(parts, notes=(*parts.notes, f"{name}: {official}"), folders=())


# ── opening ───────────────────────────────────────────────────────────────────────────────────────


def _opened(name: str, root: Path, options: Mapping[str, Any], telling: Telling | None) -> Any:
    from torchvision import datasets

    kind = getattr(datasets, name)
    if name == "FakeData":
        return kind(**options)
    takes = signature(kind.__init__).parameters
    quiet = {"download": False} if "download" in takes else {}
    try:
        return kind(root, **options, **quiet)
    except (RuntimeError, OSError):
        pass  # missing or incomplete
    except Exception as error:  # each data set has its own parser
        reason = " ".join(str(error).split())[:80] or type(error).__name__
        raise DataError(
            f"{name} in {str(root)!r} is damaged ({reason}): remove it there, and load it again"
        ) from None
    if ("download" not in takes and "kwargs" not in takes) or name == "ImageNet":
        raise DataError(
            f"{name} is not in {str(root)!r} and may not be downloaded by programs: fetch it and "
            "give --root FOLDER"
        )
    return _downloaded(name, root, partial(kind, root, **options, download=True), telling)


def _downloaded(name: str, root: Path, load: Callable[[], Any], telling: Telling | None) -> Any:
    from filelock import FileLock

    written: list[Path] = []
    try:
        root.mkdir(parents=True, exist_ok=True)
        with (
            FileLock(root / f".{name}.lock"),
            _our_download(written, telling),
            redirect_stdout(io.StringIO()),
        ):
            return load()  # it finds what another kernel downloaded meanwhile
    # ValueError: no longer hosted
    except (OSError, HTTPException, RuntimeError, EOFError, ValueError) as error:
        if "orrupted" in str(error) or isinstance(error, EOFError):
            for path in written[-1:]:
                path.unlink(missing_ok=True)
        raise DataError(
            f"{name} could not be downloaded: {_why(error, written)}; --root FOLDER takes a copy"
        ) from None
    except ImportError as error:
        raise DataError(
            f"{name} needs a package that is not installed: %pip install {error.name}"
        ) from None


@contextmanager
def _our_download(written: list[Path], telling: Telling | None) -> Iterator[None]:
    """Replace torchvision's download while a data set is opened.

    torchvision writes into the final file, prints a bar, waits forever, and falls back to unsafe
    connections. It also unpacks in place, and mistakes a half-unpacked folder for a complete one.
    """
    from torchvision.datasets import utils

    module: Any = utils
    theirs, unpack = module._urlretrieve, module.extract_archive
    before = socket.getdefaulttimeout()
    module._urlretrieve = _retrieve(written, telling)
    module.extract_archive = partial(_unpack_beside, unpack)
    socket.setdefaulttimeout(TIMEOUT if before is None else before)
    try:
        yield
    finally:
        module._urlretrieve, module.extract_archive = theirs, unpack
        socket.setdefaulttimeout(before)


def _retrieve(written: list[Path], telling: Telling | None) -> Callable[..., None]:
    """A download that adds its file to `written`; what failed once fails at once without TLS."""
    failed: dict[str, Exception] = {}

    def retrieve(url: str, filename: str | Path, *_: Any, **__: Any) -> None:
        if url.replace("http:", "https:", 1) in failed:
            raise failed[url.replace("http:", "https:", 1)]
        try:
            _download(url, Path(filename), telling)
        except Exception as error:
            failed[url] = error
            raise
        written.append(Path(filename))

    return retrieve


def _unpack_beside(
    unpack: Callable[..., Any], from_path: Any, to_path: Any = None, remove_finished: bool = False
) -> str:
    target = Path(to_path or Path(from_path).parent)
    target.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".", suffix=".part", dir=target) as part:
        unpacked_to = unpack(from_path, part, remove_finished)
        _move_into(Path(part), target)
    return str(target / Path(unpacked_to).relative_to(part))


def _move_into(source: Path, target: Path) -> None:
    """Move files and folders atomically; existing folders are merged."""
    for entry in source.iterdir():
        destination = target / entry.name
        if entry.is_dir() and destination.is_dir():
            _move_into(entry, destination)
        else:
            entry.replace(destination)


def _download(url: str, file: Path, telling: Telling | None) -> None:
    unfinished = file.with_name(f"{file.name}.{os.urandom(4).hex()}.part")
    try:
        request = urllib.request.Request(url, headers={"User-Agent": "tlnb"})
        with urllib.request.urlopen(request) as answer, unfinished.open("wb") as out:
            total, done = int(answer.headers.get("Content-Length") or 0), 0
            while piece := answer.read(CHUNK_BYTES):
                out.write(piece)
                done += len(piece)
                if telling:
                    telling("downloading", round(done / 1e6), round(total / 1e6))
        if done < total:
            raise OSError(f"{done:,} of {total:,} bytes arrived")
        unfinished.replace(file)
    finally:
        unfinished.unlink(missing_ok=True)


def _sweep(root: Path) -> None:
    """Remove leftovers of killed kernels by name: the root may be a folder of the user's own."""
    parts = (path for places in ARCHIVE_PLACES for path in root.glob(places))
    sweep((part for part in parts if UNFINISHED.fullmatch(part.name)), LEFTOVER)


def _why(error: Exception, written: Sequence[Path]) -> str:
    if isinstance(error, HTTPError):
        return f"{urlparse(error.url).hostname} answered {error.code} {error.reason}"
    if isinstance(error, URLError):
        return f"no connection ({getattr(error.reason, 'strerror', None) or error.reason})"
    if isinstance(error, RuntimeError) and written and "orrupted" in str(error):
        return f"{written[-1].name} came with the wrong hash and was removed"
    return " ".join(str(error).split())[:200].rstrip(".") or type(error).__name__


# ── what is in it ─────────────────────────────────────────────────────────────────────────────────


def _classes(data: Any) -> tuple[str, ...]:
    names = getattr(data, "classes", None) or getattr(data, "categories", None)
    if names is None:
        return tuple(str(n) for n in range(max(_labels(data)) + 1))
    return tuple(n if isinstance(n, str) else n[0] for n in names)


def _labels(data: Any) -> list[int]:
    for name in LABELS:
        if getattr(data, name, None) is not None:
            return [int(label) for label in np.asarray(getattr(data, name)).ravel()]
    pairs = _pairs(data)
    if pairs is not None:
        return [int(label) for _, label in pairs]
    return [int(data[i][1]) for i in range(len(data))]


def _pairs(data: Any) -> list[tuple[Any, Any]] | None:
    return next((getattr(data, n) for n in PAIRS if isinstance(getattr(data, n, None), list)), None)


def _files(data: Any) -> list[Path] | None:
    """The image files, if the data set consists of files."""
    pairs = _pairs(data)
    lists = [[path for path, _ in pairs]] if pairs else []
    lists += [getattr(data, name) for name in FILES if hasattr(data, name)]
    paths = next(iter(lists), None)
    if not isinstance(paths, list) or not paths or not isinstance(paths[0], str | Path):
        return None
    return [Path(p) for p in paths]


def _listing(name: str, root: Path, datasets: Mapping[str, Any]) -> Listing | None:
    """The image files of all splits; None if a split does not consist of files."""
    files = {split: _files(data) for split, data in datasets.items()}
    if None in files.values():
        return None
    listing = Listing(name, root, _classes(next(iter(datasets.values()))))
    for split, paths in files.items():
        assert paths is not None
        listing.paths += paths
        listing.split_of += [split] * len(paths)
        listing.class_of += _labels(datasets[split])
    return listing


def _held(name: str, data: Any, edge: int, progress: Progress | None) -> tuple[Tensor, Tensor]:
    """All images `(N, 3, E, E)` and labels `(N,)` of a data set of arrays or generated images."""
    if isinstance(getattr(data, "data", None), np.ndarray | Tensor):
        return as_images(data.data).contiguous(), torch.tensor(_labels(data))
    if len(data) * 3 * edge**2 > memory_budget():
        raise DataError(
            f"{name} at {edge} pixels does not fit in memory: set TLNB_MEMORY, or give a smaller "
            "--size"
        )
    images, labels = torch.empty((len(data), 3, edge, edge), dtype=torch.uint8), []
    for i in range(len(data)):
        image, label = data[i]
        images[i] = squared(image, edge)
        labels.append(int(label))
        if progress:
            progress(i + 1, len(data))
    return images, torch.tensor(labels)


def _divided(
    name: str,
    classes: tuple[str, ...],
    held: Mapping[str, tuple[Tensor, Tensor]],
    request: DataRequest,
) -> Parts:
    ends = np.cumsum([len(labels) for _, labels in held.values()])
    rows = dict(zip(held, np.split(np.arange(ends[-1]), ends[:-1]), strict=True))
    pool = rows.pop("train") if "train" in rows else rows.pop("")
    images, labels = map(torch.cat, zip(*held.values(), strict=True))
    return divide(name, classes, images, labels, request, pool=pool, fixed=rows)


def _plain(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.lower())
