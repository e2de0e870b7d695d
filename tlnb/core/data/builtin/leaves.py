"""Draw a realistic folder of photos: leaves of three trees, in series, with the usual clutter.

Nothing is downloaded. The drawn leaves lie on photographs of a lawn, gravel or bricks that come
with scikit-image. All photos of a series show the same leaf in the same place, like a camera's
burst, and are named after it: `oak/leaf07_2.jpg`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.random import Generator

from tlnb.core.runtime.errors import DataError, UsageError, did_you_mean, listed

WIDTH, HEIGHT = 96, 128  # pixels of a photo
FINER = 2  # outlines are drawn this many times larger, then reduced, for smooth edges
SERIES = 3  # photos of one leaf
LEAVES = {"beech": 36, "birch": 9, "oak": 18}  # leaves per class: imbalanced, as in practice
GROUND = ("grass", "gravel", "brick")
# summer to winter
GREENS = np.array([[74, 112, 44], [120, 138, 52], [164, 140, 60], [140, 88, 44], [96, 60, 38]])
POINTS = 240  # points on each side of an outline
ORIENTATION, SIDEWAYS = 274, 6  # EXIF tag, and its value for a camera held upright

Array = np.ndarray[Any, Any]


def leaf_photos(folder: str | Path, seed: int = 0, leaves: Mapping[str, int] | None = None) -> Path:
    """Draw the folder if it does not exist yet; returns its path.

    It has 189 photos in three class folders: 63 leaves, three photos each. Beside them lies what
    real folders contain: hidden files, a web page saved as a photo, an empty and a truncated file,
    one without an extension, an empty class, photos that the camera turned, a copy of a photo under
    another name, and a copy in a second class.

    Args:
        seed: of the leaves.
        leaves: number of leaves to draw of `beech`, `birch` and `oak` (at least five); default: 36,
            9 and 18.

    Raises:
        DataError: scikit-image, whose pictures are the background, is not installed, or the folder
            cannot be written.
        UsageError: something else exists at this path.
    """
    top = Path(folder).expanduser()
    if top.exists():
        if not all((top / kind).is_dir() for kind in LEAVES):
            raise UsageError(
                f"{str(top)!r} exists and is not a folder of leaves: give another folder"
            )
        return top
    grounds = [_ground(name) for name in GROUND]
    try:
        for number, kind in enumerate(LEAVES):
            (top / kind).mkdir(parents=True)
            for leaf in range(1, (leaves or LEAVES)[kind] + 1):
                rng = np.random.default_rng([seed, number, leaf])
                _write_series(top / kind / f"leaf{leaf:02d}", kind, grounds, rng)
        _add_dirt(top)
    except OSError as error:
        raise DataError(
            f"{str(top)!r} cannot be written ({error.strerror}): give a folder that you can "
            "write to"
        ) from None
    return top


def leaf_photo(file: str | Path, kind: str, seed: int = 1000) -> Path:
    """Draw one photo of a new leaf, absent from `leaf_photos`; returns its path.

    Args:
        kind: `beech`, `birch` or `oak`.
        seed: of the leaf.

    Raises:
        DataError: scikit-image is not installed, or the file cannot be written.
        UsageError: the kind is unknown.
    """
    if kind not in LEAVES:
        raise UsageError(
            f"{kind!r} is not a kind of leaf: {did_you_mean(kind, LEAVES, listed(LEAVES))}"
        )
    rng = np.random.default_rng([seed, list(LEAVES).index(kind)])
    path = Path(file).expanduser()
    try:
        _save(_photo(_grown(kind, [_ground(name) for name in GROUND], rng), rng), path)
    except OSError as error:
        raise DataError(
            f"{str(path)!r} cannot be written ({error.strerror}): give a file in a folder that you "
            "can write to"
        ) from None
    return path


# ── leaves ────────────────────────────────────────────────────────────────────────────────────────


def _beech(t: Array, rng: Generator) -> Array:
    """Half the leaf's width from stalk (0) to tip (1): smooth and oval."""
    return np.asarray(np.sin(np.pi * t ** rng.uniform(0.85, 0.95)) ** 0.85)


def _birch(t: Array, rng: Generator) -> Array:
    """Broad at the base, pointed at the tip, with teeth."""
    teeth = (t * rng.integers(13, 18)) % 1
    return np.asarray(1.75 * t**0.45 * (1 - t) ** 0.95 * (1 - 0.16 * teeth))


def _oak(t: Array, rng: Generator) -> Array:
    """Round lobes, wider above the middle."""
    lobes = np.cos(2 * np.pi * (t * rng.integers(3, 5) + rng.uniform(-0.1, 0.1)))
    return np.asarray(np.sin(np.pi * t**1.2) ** 0.7 * (1 - rng.uniform(0.2, 0.32) * (1 + lobes)))


OUTLINES: dict[str, Callable[[Array, Generator], Array]] = {
    "beech": _beech,
    "birch": _birch,
    "oak": _oak,
}


@dataclass(frozen=True, kw_only=True)
class _Leaf:
    """One leaf on its background. Lengths are fractions of the photo's width."""

    outline: Array  # (n, 2), stalk at the origin, tip at (0, -length)
    spine: Array  # (n, 2)
    colour: Array  # (3,) 0..255
    ground: Array  # (height, width, 3) 0..255
    angle: float  # degrees
    light: float  # brightness
    shade: Array  # (2,) gradient of the light across the photo


def _write_series(start: Path, kind: str, grounds: list[Array], rng: Generator) -> None:
    leaf = _grown(kind, grounds, rng)
    for number in range(1, SERIES + 1):
        turned = rng.random() < 0.15
        _save(_photo(leaf, rng), start.with_name(f"{start.name}_{number}.jpg"), turned)


def _grown(kind: str, grounds: list[Array], rng: Generator) -> _Leaf:
    t = np.linspace(0, 1, POINTS)
    slim, bend, length = rng.uniform(0.24, 0.36), rng.normal(0, 0.08), rng.uniform(0.8, 1.05)
    sides = [slim * OUTLINES[kind](t, rng) for _ in range(2)]
    spine = np.stack([bend * np.sin(np.pi * t), -t], 1)
    right, left = (
        spine + np.stack([side * sign, 0 * t], 1) for side, sign in zip(sides, (1, -1), strict=True)
    )
    season = rng.uniform(0, len(GREENS) - 1)
    greens = [np.interp(season, range(len(GREENS)), GREENS[:, c]) for c in range(3)]
    colour = np.array(greens) + rng.normal(0, 6, 3)
    ground = grounds[rng.integers(len(grounds))]
    height, width = ground.shape[:2]
    top, side = rng.integers(0, height - HEIGHT + 1), rng.integers(0, width - WIDTH + 1)
    patch = ground[top : top + HEIGHT, side : side + WIDTH]
    patch = patch * rng.uniform(0.55, 0.9) * rng.uniform(0.92, 1.08, 3)
    return _Leaf(
        outline=length * np.concatenate([right, left[::-1]]),
        spine=length * spine,
        colour=colour,
        ground=patch,
        angle=rng.uniform(-25, 25),
        light=rng.uniform(0.85, 1.15),
        shade=rng.uniform(-0.2, 0.2, 2),
    )


def _photo(leaf: _Leaf, rng: Generator) -> Array:
    """One photo of a series, `(HEIGHT, WIDTH, 3)` uint8: the camera shakes, the light changes."""
    angle = np.deg2rad(leaf.angle + rng.normal(0, 1.2))
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    scale, shift = rng.normal(1, 0.012), rng.normal(0, 0.006, 2)
    middle = np.array([0.5, 0.5 * HEIGHT / WIDTH]) + shift - leaf.spine[POINTS // 2] @ turn * scale
    blade, veins = _masks(leaf, lambda points: (points @ turn * scale + middle) * WIDTH * FINER)
    shadow = np.roll(_blurred(blade), (4, 3), (0, 1))
    texture = leaf.colour * (1 + 0.05 * rng.standard_normal((HEIGHT, WIDTH, 1))) + 40 * veins
    scene = leaf.ground * (1 - 0.5 * shadow) * (1 - blade) + texture * blade
    rows, columns = np.mgrid[-1 : 1 : HEIGHT * 1j, -1 : 1 : WIDTH * 1j]
    slope = 1 + leaf.shade[0] * rows + leaf.shade[1] * columns
    scene *= (leaf.light * rng.normal(1, 0.03) * slope)[..., None]
    return np.asarray((scene + rng.normal(0, 4, scene.shape)).clip(0, 255).astype(np.uint8))


def _masks(leaf: _Leaf, placed: Callable[[Array], Array]) -> tuple[Array, Array]:
    """Masks of the leaf and of its veins: `(HEIGHT, WIDTH, 1)` in 0..1."""
    from PIL import Image, ImageDraw

    blade, veins = (Image.new("L", (WIDTH * FINER, HEIGHT * FINER)) for _ in range(2))

    def draw(mask: Image.Image, points: Array, fill: int, width: int = FINER) -> None:
        ImageDraw.Draw(mask).line([*placed(points).flatten().tolist()], fill=fill, width=width)

    ImageDraw.Draw(blade).polygon([*placed(leaf.outline).flatten().tolist()], fill=255)
    draw(blade, np.array([[0, 0], [0, 0.12]]), 255, 2 * FINER)  # the stalk
    draw(veins, leaf.spine, 255)
    for i in range(POINTS // 8, POINTS - POINTS // 8, POINTS // 9):
        for side in (leaf.outline[:POINTS], leaf.outline[POINTS:][::-1]):
            draw(veins, np.stack([leaf.spine[i], side[min(POINTS - 1, i + POINTS // 12)]]), 140)
    one, other = (np.asarray(m.reduce(FINER), float)[..., None] / 255 for m in (blade, veins))
    return one, other


def _blurred(mask: Array) -> Array:
    from PIL import Image, ImageFilter

    image = Image.fromarray((mask[..., 0] * 255).astype(np.uint8))
    return np.asarray(image.filter(ImageFilter.GaussianBlur(4)), float)[..., None] / 255


def _ground(name: str) -> Array:
    """A colour photograph that comes with scikit-image, `(512, 512, 3)` 0..255."""
    try:
        from skimage import data
    except ImportError:
        raise DataError(
            "the leaves need pictures from scikit-image, which is not installed: "
            "%pip install scikit-image"
        ) from None
    grey = np.asarray(getattr(data, name)(), float)
    tint = {"grass": (0.8, 1.0, 0.55), "gravel": (1.0, 0.95, 0.88), "brick": (1.1, 0.8, 0.68)}[name]
    return np.asarray(grey[..., None] * np.array(tint))


# ── files ─────────────────────────────────────────────────────────────────────────────────────────


def _save(pixels: Array, file: Path, turned: bool = False) -> None:
    """Save as a JPEG file; if `turned`, with the sensor's rows, and the orientation in EXIF."""
    from PIL import Image

    image = Image.fromarray(np.rot90(pixels) if turned else pixels)
    exif = Image.Exif()
    if turned:
        exif[ORIENTATION] = SIDEWAYS
    image.save(file, quality=88, exif=exif)


def _add_dirt(top: Path) -> None:
    """Add the clutter of real photo folders."""
    photo = (top / "oak" / "leaf01_1.jpg").read_bytes()
    dirt: dict[str, bytes] = {
        ".DS_Store": b"\0\0\0\1Bud1",
        "beech/Thumbs.db": b"\xd0\xcf\x11\xe0",
        "beech/leaf90_1.jpg": b"",
        "oak/leaf90_1.jpg": photo[: len(photo) // 3],
        "oak/IMG_0417.MOV": b"\0\0\0\x14ftypqt  ",
        "birch/leaf90_1.jpg": b"<!DOCTYPE html><html>404</html>",
        "oak/leaf03_2 (copy).jpg": (top / "oak" / "leaf03_2.jpg").read_bytes(),
        "birch/from-oak.jpg": (top / "oak" / "leaf05_1.jpg").read_bytes(),
    }
    for name, content in dirt.items():
        (top / name).write_bytes(content)
    (top / "unsorted").mkdir()
