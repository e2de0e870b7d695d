"""The work that all peers do: the same files, network and trained layers. Times nothing."""

from __future__ import annotations

import os
import random
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from benchmarks.laps import Laps
from tlnb.core.data.dataset import BUNDLED, DataRequest, open_data
from tlnb.core.models.flops import step_flops
from tlnb.core.models.pretrained import Transform
from tlnb.core.planning.edit import build
from tlnb.core.runtime.device import Machine, machine
from tlnb.core.training.freezing import set_modes
from tlnb.session import Session

WEIGHTS_FILES = {
    "squeezenet1_0": "squeezenet1_0_imagenet.safetensors"
}  # in the folder $TLNB_REAL_DATA
BY_PACKAGE = ("glyphnet", "efficientnet_lite0")  # networks whose weights a package brings
PHOTO_NETWORKS = (*WEIGHTS_FILES, "efficientnet_lite0")
PHOTO_SIZE = (500, 375)  # pixels, the size of most photos of ants and bees
PHOTO_KINDS = {
    "coarse": (5, (120, 96, 60)),
    "fine": (24, (84, 112, 72)),
}  # class → cells along an edge, colour
SUFFIXES = (".jpg", ".jpeg", ".png")


@dataclass(frozen=True)
class Job:
    """One measurement, as plain values that can be sent to another process."""

    peer: str
    label: str  # of its row in the table
    strategy: str
    model: str
    data: str  # a folder with train/ and val/, or a built-in data set in memory
    weights: str  # as for `Session.load`
    epochs: int
    batch_size: int
    augment: str  # recipe: the peer's own way; none
    size: int | None  # edge of the network's input in pixels; None: the model's own
    device: str
    threads: int
    seed: int
    again: bool = False  # tlnb: repeat the training in the same session
    rate: float | None = None  # learning rate of SGD, or fastai's base rate; None: the peer's own


@dataclass(frozen=True)
class Task:
    """A job prepared up to the point where the clock starts."""

    job: Job
    # on the device, with a new output layer; frozen layers need no gradient and are in eval mode
    network: nn.Module
    trained: tuple[str, ...]  # names of the layers that train, by tlnb's plan
    transform: Transform
    machine: Machine
    flops: float  # of a training step, for one image
    laps: Laps

    @property
    def mirror(self) -> bool:
        """Whether augmentation may mirror images: yes for photos, no for digits."""
        return self.job.model != "glyphnet"


def prepare(job: Job) -> Task:
    """Seed everything, build the network, and freeze its layers as in tlnb's plan."""
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(job.seed)
    session = Session()
    session.load(job.model, job.weights, size=job.size)
    count = len(classes(job.data))
    blank = np.zeros((4 * count, 32, 32), np.uint8)  # needed for planning only
    session.data(blank, [i % count for i in range(4 * count)])
    plan = session.strategy(job.strategy)
    network = build(session.model, plan.edits, plan.start, job.seed).to(job.device)
    set_modes(network, set(plan.trained))
    edge = session.model.transform.size
    flops = step_flops(network, torch.zeros(2, 3, edge, edge, device=job.device))
    laps = Laps(job.device, job.epochs)
    return Task(
        job=job,
        network=network,
        trained=plan.trained,
        transform=session.model.transform,
        machine=machine(job.device),
        flops=flops,
        laps=laps,
    )


def classes(data: str) -> list[str]:
    """The classes of a folder or a built-in data set."""
    if data in BUNDLED:
        return list(open_data(data).classes)
    return sorted(p.name for p in Path(data, "train").iterdir() if p.is_dir())


# ── data and weights ──────────────────────────────────────────────────────────────────────────────


def real() -> Path | None:
    """The folder with real photos and weights, if there is one."""
    folder = os.environ.get("TLNB_REAL_DATA")
    return Path(folder) if folder else None


def weights_of(model: str) -> str:
    """The weights for a model: embedded, from a file if available, else random.

    Time does not depend on them.
    """
    folder = real()
    if model in BY_PACKAGE:
        return "default"
    if folder and model in WEIGHTS_FILES and (folder / WEIGHTS_FILES[model]).exists():
        return str(folder / WEIGHTS_FILES[model])
    return "none"


def make_data(model: str, folder: Path, per_class: int | None, edge: int | None) -> str:
    """Make a folder with train/ and val/ for this model: digits for glyphnet, else photos.

    Real photos are used if available.

    Args:
        per_class: training images, with half as many test images. None: all available ones, or as
            many as ants and bees have.
        edge: of generated photos in pixels; None: full size, or real photos.
    """
    real_data = real()
    if model == "glyphnet":
        return str(draw_digits(folder / "digits", per_class))
    if real_data and edge is None:
        return str(copy_photos(real_data / "ants_bees", folder / "ants_bees", per_class))
    size = PHOTO_SIZE if edge is None else (edge, edge)
    return str(draw_photos(folder / "photos", per_class or 122, size))


def draw_photos(
    folder: Path, per_class: int, size: tuple[int, int] = PHOTO_SIZE, seed: int = 0
) -> Path:
    """Generate JPEGs of two classes that differ in texture and colour, as large as photos.

    Args:
        per_class: training images, with half as many test images.
        size: width and height in pixels.
    """
    if folder.is_dir():  # already generated for another network
        return folder
    wanted = []
    for split, count in (("train", per_class), ("val", max(1, per_class // 2))):
        for name in PHOTO_KINDS:
            target = folder / split / name
            target.mkdir(parents=True, exist_ok=True)
            wanted += [(name, target / f"{i:04}.jpg") for i in range(count)]

    def draw(numbered: tuple[int, tuple[str, Path]]) -> None:
        number, (name, file) = numbered
        _photo(np.random.default_rng([seed, number]), *PHOTO_KINDS[name], size).save(
            file, quality=90
        )

    with ThreadPoolExecutor() as pool:
        list(pool.map(draw, enumerate(wanted)))
    return folder


def _photo(
    rng: np.random.Generator, cells: int, colour: tuple[int, int, int], size: tuple[int, int]
) -> Image.Image:
    """Smooth patches in varying colours, with grain, which makes photos slow to decode."""
    patches = Image.fromarray(rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8)).resize(
        size, Image.Resampling.BICUBIC
    )
    tint = np.array(colour) + rng.normal(0, 25, 3)
    grain = rng.normal(0, 8, (size[1], size[0], 1))
    pixels = tint + 0.6 * (np.asarray(patches, np.float64) - 128) + grain
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def draw_digits(folder: Path, per_class: int | None) -> Path:
    """Write tlnb's digits as PNG files of 32×32 pixels."""
    data = open_data("digits", request=DataRequest(source="digits", per_class=per_class, val=0))
    for split, target in (("train", "train"), ("test", "val")):
        for i, (image, label) in enumerate(
            zip(data.images[split], data.labels[split].tolist(), strict=True)
        ):
            place = folder / target / data.classes[label]
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(place / f"{i:04}.png")
    return folder


def copy_photos(source: Path, folder: Path, per_class: int | None) -> Path:
    """Copy real photos without other files, which not every peer ignores."""
    for split, share in (("train", 1.0), ("val", 0.5)):
        for place in sorted(p for p in (source / split).iterdir() if p.is_dir()):
            target = folder / split / place.name
            target.mkdir(parents=True, exist_ok=True)
            photos = sorted(p for p in place.iterdir() if p.suffix.lower() in SUFFIXES)
            for photo in photos[: None if per_class is None else max(1, int(per_class * share))]:
                shutil.copy(photo, target)
    return folder
