"""Data sets: images and labels in splits, decoded once.

`open_data` is the one way in. It turns a name, a folder or arrays into a `DataSet` whose images are uint8 tensors in
memory. What was asked for is kept (`DataSet.request`), so that the same data can be read again at another size.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from tlnb.core.errors import DataError, UsageError, did_you_mean, listed

if TYPE_CHECKING:
    from PIL.Image import Image

LITTLE, DECENT = 100, 1000  # images per class: little < 100 <= decent < 1,000 <= a lot
MIN_FOR_VAL = 20  # labels in the smallest class from which a fifth is held out to choose with
VAL_SHARE = TEST_SHARE = 0.2
DIGITS_TEST = 700
DIGITS_MONITOR = 200
PHOTO_EDGE = 256  # photos are kept at this edge until a model asks for more
MAX_PIXELS = 100_000_000  # larger images are refused by what their header says, before decoding
SPLITS = ("train", "val", "monitor", "test")


@dataclass(frozen=True)
class DataRequest:
    """What the user asked for: everything needed to read the same data again."""

    source: str
    per_class: int | None = None
    limit: int | None = None
    val: float | None = None
    test: float | None = None
    size: int | None = None
    classes: int | None = None
    seed: int = 0


@dataclass(frozen=True)
class DataFacts:
    """What is known of a data set without its images: enough to read the same again."""

    name: str
    classes: tuple[str, ...]
    splits: Mapping[str, int]
    edge: int  # of the decoded images, in pixels
    request: DataRequest
    folders: tuple[tuple[str, str], ...] = ()

    @property
    def from_files(self) -> bool:
        """Whether the images were decoded from files, and can be decoded again at another size."""
        return self.request.source not in (*BUNDLED, "arrays")

    def __repr__(self) -> str:
        return f"DataFacts of {self.name}: {len(self.classes)} classes, {sum(self.splits.values())} images"


@dataclass(frozen=True)
class DataSet:
    """Images and labels by split. `train` teaches, `val` chooses, `test` is reported, `monitor` only draws curves."""

    name: str
    classes: tuple[str, ...]
    images: Mapping[str, Tensor] = field(repr=False)  # split → (N, 3, E, E) uint8
    labels: Mapping[str, Tensor] = field(repr=False)  # split → (N,) int64
    request: DataRequest
    skipped: tuple[str, ...] = ()
    folders: tuple[tuple[str, str], ...] = ()  # split → the folder it was read from, where a folder brings its own

    @property
    def splits(self) -> dict[str, int]:
        """How many images each split has."""
        return {split: len(self.labels[split]) for split in SPLITS if split in self.labels}

    @property
    def counts(self) -> dict[str, int]:
        """Labels in use (`train` and `val`) by class."""
        used = torch.cat([self.labels[s] for s in ("train", "val") if s in self.labels])
        found = torch.bincount(used, minlength=len(self.classes)).tolist()
        return dict(zip(self.classes, found, strict=True))

    @property
    def per_class(self) -> int:
        """Labels in use in the smallest class."""
        return min(self.counts.values())

    @property
    def mean_count(self) -> float:
        """Labels in use per class, on average."""
        return sum(self.counts.values()) / len(self.classes)

    @property
    def from_files(self) -> bool:
        """Whether the images were decoded from files, and can be decoded again at another size."""
        return self.facts.from_files

    @property
    def size_verdict(self) -> str:
        """`little`, `decent` or `a lot`."""
        return size_verdict(self.mean_count)

    @property
    def edge(self) -> int:
        """Edge of the decoded images in pixels."""
        return int(self.images["train"].shape[-1])

    @property
    def facts(self) -> DataFacts:
        """Everything but the images."""
        return DataFacts(self.name, self.classes, self.splits, self.edge, self.request, self.folders)

    def save(self, path: str | Path) -> Path:
        """Write images and labels of every split to a `.npz` file that NumPy reads; returns its path.

        It holds `train_images` `(N, 3, E, E)` uint8, `train_labels` `(N,)` int64, the same for the other splits, and
        `classes`. The file appears whole or not at all.
        """
        target = Path(path).expanduser()
        arrays = {"classes": np.array(self.classes)}
        for split in self.splits:
            arrays[f"{split}_images"] = self.images[split].numpy()
            arrays[f"{split}_labels"] = self.labels[split].numpy()
        unfinished = target.with_name(target.name + ".part")
        try:
            with unfinished.open("wb") as file:
                np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
            unfinished.replace(target)
        except OSError as error:
            raise DataError(
                f"{str(target)!r} cannot be written ({error.strerror}): give a file in a folder of yours"
            ) from None
        finally:
            unfinished.unlink(missing_ok=True)
        return target

    @cached_property
    def fingerprint(self) -> str:
        """Hash of all images and labels."""
        digest = hashlib.blake2b(digest_size=8)
        for split in self.splits:
            digest.update(self.images[split].numpy().tobytes())
            digest.update(self.labels[split].numpy().tobytes())
        return digest.hexdigest()

    def __repr__(self) -> str:
        sizes = ", ".join(f"{count} {split}" for split, count in self.splits.items())
        skipped = f", {len(self.skipped)} files skipped" if self.skipped else ""
        return f"DataSet {self.name}: {len(self.classes)} classes, {sizes} ({self.size_verdict} data){skipped}"


def size_verdict(images_per_class: float) -> str:
    """How much data that is: a convention (little < 100 ≤ decent < 1,000 ≤ a lot), not a law of nature."""
    if images_per_class < LITTLE:
        return "little"
    return "decent" if images_per_class < DECENT else "a lot"


Progress = Callable[[int, int], None]


def open_data(
    source: object, labels: object = None, request: DataRequest | None = None, edge: int | None = None,
    progress: Progress | None = None,
) -> DataSet:  # fmt: skip
    """Read a data set.

    Args:
        source: `digits`, `symbols`, a folder of class folders, or images `(N, H, W)`, `(N, H, W, 3)` or `(N, 3, H, W)`
            (uint8, or floats in 0..1).
        labels: `(N,)` class numbers or names, with arrays only.
        request: amounts, splits, seed.
        edge: decode photos to this edge in pixels.
        progress: called with (done, total) while files are decoded.

    Raises:
        DataError: unknown, missing, empty, too little, or unreadable data.
        UsageError: an amount that makes no sense.
    """
    request = request or DataRequest(source if isinstance(source, str) else "arrays")
    _check_request(request)
    if not isinstance(source, str | Path):
        return _from_arrays(source, labels, request)
    if labels is not None:
        raise UsageError("labels go with arrays only: leave them out for a name or a folder")
    if str(source) in BUNDLED:
        return BUNDLED[str(source)](request)
    return _from_folder(Path(source).expanduser(), request, edge or PHOTO_EDGE, progress)


def _check_request(request: DataRequest) -> None:
    for name, least in (("per_class", 1), ("limit", 2), ("size", 8), ("classes", 2)):
        value = getattr(request, name)
        if value is not None and value < least:
            raise UsageError(f"--{name.replace('_', '-')} {value} is too small: use {least} or more")
    for name in ("val", "test"):
        share = getattr(request, name)
        if share is not None and not 0 <= share < 1:
            raise UsageError(f"--{name} {share} is no share: use a fraction from 0 to below 1, e.g. --{name} 0.2")
    if request.per_class and request.limit:
        raise UsageError("--per-class and --limit exclude each other: give one of them")


# ── bundled sets ──────────────────────────────────────────────────────────────────────────────────────────────────


def _digits(request: DataRequest) -> DataSet:
    """scikit-learn's handwritten digits: 8×8 → 24 bilinear, padded to 32. Test is the last 700 by file order."""
    from sklearn.datasets import load_digits

    _refuse(request, "digits", classes="has ten classes", test="has its own test split (the last 700 by file order)")
    found = load_digits()
    grey = torch.from_numpy(found.images).float()[:, None] / 16
    large = torch.nn.functional.interpolate(grey, 24, mode="bilinear", align_corners=False)
    images = torch.nn.functional.pad(large, (4, 4, 4, 4)).mul(255).round().byte().expand(-1, 3, -1, -1)
    labels = torch.from_numpy(found.target).long()
    pool = np.arange(len(labels) - DIGITS_TEST)
    test = np.arange(len(labels) - DIGITS_TEST, len(labels))
    names = tuple(str(d) for d in range(10))
    return _assemble("digits", names, images, labels, request, pool, {"test": test}, DIGITS_MONITOR)


def digits_pixels(images: Tensor) -> Tensor:
    """The raw 8×8 pixels `(N, 64)` in 0..1 back from `digits` images: bilinear ×3 keeps each at a block's centre."""
    return images[:, 0, 5:28:3, 5:28:3].flatten(1).float() / 255


def _symbols(request: DataRequest) -> DataSet:
    """Invented letters: 20 classes and 20 labels a class unless asked otherwise; 50 a class to test, 15 to monitor."""
    from tlnb.core.symbols import draw_symbols, symbol_names

    _refuse(request, "symbols", limit="draws as many as --per-class says", test="draws its own test split")
    classes, per_class = request.classes or 20, request.per_class or 20
    drawn = {split: draw_symbols(classes, n, seed) for split, n, seed in (
        ("used", per_class, 1000 + request.seed), ("test", 50, 1), ("monitor", 15, 2),
    )}  # fmt: skip
    images, labels = torch.cat([d[0] for d in drawn.values()]), torch.cat([d[1] for d in drawn.values()])
    ends = np.cumsum([len(d[1]) for d in drawn.values()])
    used, test, monitor = np.split(np.arange(ends[-1]), ends[:-1])
    fixed = {"test": test, "monitor": monitor}
    return _assemble("symbols", symbol_names(classes), images, labels, request, used, fixed)


BUNDLED: dict[str, Callable[[DataRequest], DataSet]] = {"digits": _digits, "symbols": _symbols}


def _refuse(request: DataRequest, name: str, **reasons: str) -> None:
    for option, reason in reasons.items():
        if getattr(request, option) is not None:
            raise UsageError(f"{name} {reason}: leave out --{option.replace('_', '-')}")


# ── arrays and folders ────────────────────────────────────────────────────────────────────────────────────────────


def _from_arrays(source: object, labels: object, request: DataRequest) -> DataSet:
    if labels is None:
        raise UsageError("arrays need labels: tl.data(images, labels)")
    images = _as_images(source)
    names = [str(y) for y in np.asarray(labels).ravel()]
    if len(names) != len(images):
        raise DataError(f"{len(images)} images but {len(names)} labels: give one label an image")
    numeric = all(n.lstrip("-").isdigit() for n in names)
    classes = tuple(sorted(set(names), key=int if numeric else str))
    where = {name: i for i, name in enumerate(classes)}
    targets = torch.tensor([where[n] for n in names])
    _check_classes("the arrays", classes)
    return _assemble("arrays", classes, images, targets, request, np.arange(len(names)), {})


def _as_images(source: object) -> Tensor:
    images = torch.as_tensor(np.asarray(source))
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4:
        raise DataError(f"images have shape {tuple(images.shape)}: give (N, H, W), (N, H, W, 3) or (N, 3, H, W)")
    if images.shape[1] not in (1, 3):
        images = images.movedim(-1, 1)
    if images.shape[1] not in (1, 3):
        raise DataError(f"images have {images.shape[1]} channels: give grey (1) or RGB (3)")
    if images.is_floating_point():
        if float(images.min()) < 0 or float(images.max()) > 1:
            raise DataError("float images must lie in 0..1: divide by 255, or give uint8")
        images = images.mul(255).round()
    return images.byte().expand(-1, 3, -1, -1).contiguous()


def _from_folder(folder: Path, request: DataRequest, edge: int, progress: Progress | None) -> DataSet:
    _check_folder(folder)
    parts = _split_folders(folder)
    files, skipped = _list_files(folder, parts)
    request = replace(request, source=str(folder))
    trained = files.get("train", files.get("", {}))
    classes = tuple(sorted(trained))
    _check_classes(f"folder {str(folder)!r}", classes)
    chosen = [(path, split, classes.index(name)) for split, found in files.items()
              for name, paths in found.items() if name in classes for path in paths]  # fmt: skip
    images, kept, unreadable = _decode_all([c[0] for c in chosen], edge, progress)
    where = np.array([chosen[i][1] for i in kept])
    labels = torch.tensor([chosen[i][2] for i in kept])
    fixed = {s: np.flatnonzero(where == s) for s in ("val", "test") if (where == s).any()}
    if "val" in fixed and "test" not in fixed:  # train/ and val/ alone: as in the well-known tutorial, val is the test
        fixed["test"], parts["test"] = fixed.pop("val"), parts["val"]
    used = np.flatnonzero((where == "train") | (where == ""))
    name = folder.resolve().name
    found = _assemble(name, classes, images, labels, request, used, fixed, skipped=tuple(skipped + unreadable))
    own = tuple((split, parts[split].name) for split in ("train", *fixed) if "train" in parts)
    return replace(found, folders=own)


def _check_folder(folder: Path) -> None:
    if folder.is_dir():
        return
    if folder.exists():
        raise DataError(f"{str(folder)!r} is a file: give the folder that holds one folder per class")
    near = did_you_mean(
        str(folder), BUNDLED, f"give one of {', '.join(BUNDLED)}, or a folder with one folder per class"
    )
    raise DataError(f"no data set and no folder is called {str(folder)!r}: {near}")


def _check_classes(what: str, classes: Sequence[str]) -> None:
    if len(classes) < 2:
        found = f"one class ({classes[0]})" if classes else "no class folder with images"
        raise DataError(f"{what} has {found}: at least two classes are needed, one folder each")


def _split_folders(folder: Path) -> dict[str, Path]:
    """The folder of each split; the split of a flat folder is the empty string."""
    names = {p.name.lower(): p for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")}
    split_of = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
    parts = {split_of[n]: p for n, p in names.items() if n in split_of}
    return {"": folder} if "train" not in parts or len(parts) < len(names) else parts


def _list_files(folder: Path, parts: Mapping[str, Path]) -> tuple[dict[str, dict[str, list[Path]]], list[str]]:
    """Image files by split and class, and what else lies there."""
    files: dict[str, dict[str, list[Path]]] = {}
    skipped: list[str] = []
    for split, top in parts.items():
        for sub in sorted(p for p in top.iterdir() if p.is_dir() and not p.name.startswith(".")):
            found = [p for p in sorted(sub.rglob("*")) if p.is_file()]
            good = [p for p in found if p.suffix.lower() in extensions() and not p.name.startswith(".")]
            skipped += [f"{p.relative_to(folder)}: {_why_not(p)}" for p in found if p not in set(good)]
            if good:
                files.setdefault(split, {})[sub.name] = good
    return files, skipped


def extensions() -> tuple[str, ...]:
    """How the names of image files end."""
    from torchvision.datasets.folder import IMG_EXTENSIONS

    return tuple(IMG_EXTENSIONS)


def _why_not(path: Path) -> str:
    return "hidden file" if path.name.startswith(".") else f"not an image type ({path.suffix or 'no extension'})"


def _decode_all(paths: list[Path], edge: int, progress: Progress | None) -> tuple[Tensor, list[int], list[str]]:
    """Every file decoded once, in threads: images, the positions that could be read, and why the others could not."""
    from concurrent.futures import ThreadPoolExecutor

    decoded: list[Tensor] = []
    kept: list[int] = []
    unreadable: list[str] = []
    with ThreadPoolExecutor(max_workers=max(1, torch.get_num_threads())) as pool:
        for i, result in enumerate(pool.map(lambda p: decode(p, edge), paths)):
            if isinstance(result, str):
                unreadable.append(f"{Path(*paths[i].parts[-2:])}: {result}")
            else:
                kept.append(i)
                decoded.append(result)
            if progress:
                progress(i + 1, len(paths))
    if not decoded:
        raise DataError(f"none of the {len(paths)} images could be read: {listed(unreadable, 1)}")
    return torch.stack(decoded), kept, unreadable


def decode(path: Path, edge: int) -> Tensor | str:
    """One file as (3, edge, edge) uint8, or in words why it cannot be read. Every image file goes this way."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            if image.width * image.height > MAX_PIXELS:
                return f"{image.width}x{image.height} pixels are more than {MAX_PIXELS:,}"
            image.draft("RGB", (edge, edge))
            return squared(image, edge)
    except Exception as error:  # decoders raise anything on damaged files; the file is listed with the reason
        return f"cannot be read ({str(error)[:80] or type(error).__name__})"


def squared(image: Image, edge: int) -> Tensor:
    """A PIL image as (3, edge, edge) uint8: upright, RGB, the shorter side scaled to `edge`, cut to the middle square."""
    from PIL import Image, ImageOps

    upright = ImageOps.exif_transpose(image).convert("RGB")
    square = ImageOps.fit(upright, (edge, edge), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(square)).permute(2, 0, 1)


# ── splits ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _assemble(
    name: str, classes: tuple[str, ...], images: Tensor, labels: Tensor, request: DataRequest,
    pool: np.ndarray, fixed: Mapping[str, np.ndarray], spare_to_monitor: int = 0, skipped: tuple[str, ...] = (),
) -> DataSet:  # fmt: skip
    """Choose what is used from `pool`, then hold out test and val as the rules say. `fixed` splits stay as they are."""
    rng = np.random.default_rng(request.seed)
    parts = dict(fixed)
    y = labels.numpy()
    pool = _by_turns(pool, y, rng)
    if "test" not in parts:
        pool, parts["test"] = _held_out(pool, y, TEST_SHARE if request.test is None else request.test)
    used = _amount(pool, y, classes, request)
    if spare_to_monitor:
        parts["monitor"] = np.setdiff1d(pool, used, assume_unique=True)[:spare_to_monitor]
    smallest = int(np.bincount(y[used], minlength=len(classes)).min())
    if not smallest:
        missing = [c for i, c in enumerate(classes) if i not in set(y[used].tolist())]
        raise DataError(f"nothing is left to train on for {listed(missing)}: ask for more images, or leave out --test")
    if "val" not in parts and (request.val is not None or smallest >= MIN_FOR_VAL):
        used, parts["val"] = _held_out(used, y, VAL_SHARE if request.val is None else request.val)
    rows = {s: torch.from_numpy(np.asarray(p)) for s, p in {"train": used, **parts}.items() if len(p)}
    if "test" not in rows:
        raise DataError(f"{name} leaves no test images: give more images, or a larger --test")
    return DataSet(
        name, classes, MappingProxyType({s: images[r].contiguous() for s, r in rows.items()}),
        MappingProxyType({s: labels[r] for s, r in rows.items()}), request, skipped,
    )  # fmt: skip


def _by_turns(pool: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Shuffled so that classes take turns: any first part is stratified, and larger parts contain smaller ones."""
    shuffled = rng.permutation(pool)
    turn = np.empty(len(shuffled), dtype=np.int64)
    for c in np.unique(y[shuffled]):
        mine = y[shuffled] == c
        turn[mine] = np.arange(mine.sum())
    return np.asarray(shuffled[np.argsort(turn, kind="stable")])


def _held_out(rows: np.ndarray, y: np.ndarray, share: float) -> tuple[np.ndarray, np.ndarray]:
    """The last `share` of every class, at least one where the class has two."""
    held = []
    for c in np.unique(y[rows]):
        mine = rows[y[rows] == c]
        count = min(len(mine) - 1, max(1, round(share * len(mine)))) if share else 0
        held.append(mine[len(mine) - count :])
    out = np.concatenate(held)
    return rows[~np.isin(rows, out)], out


def _amount(pool: np.ndarray, y: np.ndarray, classes: tuple[str, ...], request: DataRequest) -> np.ndarray:
    if request.limit:
        if request.limit < len(classes):
            raise DataError(f"--limit {request.limit} is less than one image for each of {len(classes)} classes")
        return pool[: request.limit]
    if not request.per_class:
        return pool
    counts = np.bincount(y[pool], minlength=len(classes))
    if counts.min() < request.per_class:
        poorest = int(counts.argmin())
        raise DataError(
            f"class {classes[poorest]!r} has {counts[poorest]} images, fewer than --per-class {request.per_class}: "
            f"use --per-class {counts[poorest]} or less"
        )
    return np.concatenate([pool[y[pool] == c][: request.per_class] for c in range(len(classes))])
