"""Sixty-four procedural textures and shapes.

They teach what letters cannot: surfaces, repetition, filled areas. There are eight families of
eight classes. A picture is a grey map `(48, 48)` in 0..1; colour, blur and distortion are added
later, for glyphs and textures alike (`distortions.py`).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

EDGE = 48
Map = NDArray[np.float64]
Draw = Callable[[np.random.Generator], Map]
_Y, _X = np.meshgrid(np.linspace(-1, 1, EDGE), np.linspace(-1, 1, EDGE), indexing="ij")


def texture_set(
    per_class: int, seed: int = 0
) -> tuple[tuple[str, ...], NDArray[np.uint8], NDArray[np.int64]]:
    """Draw the textures: names, pictures `(64 * per_class, 48, 48)` and labels.

    The seed determines the pictures.
    """
    classes = _classes()
    images = np.empty((len(classes) * per_class, EDGE, EDGE), dtype=np.uint8)
    for label, draw in enumerate(classes.values()):
        rng = np.random.default_rng([seed, label])
        for i in range(per_class):
            images[label * per_class + i] = np.rint(255 * np.clip(draw(rng), 0, 1))
    return tuple(classes), images, np.repeat(np.arange(len(classes)), per_class)


def _classes() -> dict[str, Draw]:
    draws: dict[str, Draw] = {}
    for turn in range(4):
        for name, cycles in (("wide", 3.0), ("fine", 7.0)):
            draws[f"grating-{45 * turn}-{name}"] = _with_settings(
                _grating, np.pi * turn / 4, cycles
            )
    for name, cycles, weave in (
        ("2", 2.0, False),
        ("4", 4.0, False),
        ("7", 7.0, False),
        ("12", 12.0, False),
        ("soft-3", 3.0, True),
        ("soft-5", 5.0, True),
        ("soft-8", 8.0, True),
        ("soft-12", 12.0, True),
    ):
        draws[f"checker-{name}"] = _with_settings(_checker, cycles, weave)
    for slope in (0.0, 0.7, 1.2, 1.7, 2.2, 3.0):
        draws[f"noise-{slope}"] = _with_settings(_noise, slope, False)
    for slope in (1.5, 2.5):
        draws[f"blobs-{slope}"] = _with_settings(_noise, slope, True)
    for count, radius in ((6, 0.2), (14, 0.12), (30, 0.07), (70, 0.04)):
        for name, ring in (("dots", False), ("rings", True)):
            draws[f"{name}-{count}"] = _with_settings(_dots, count, radius, ring)
    for count in (6, 14, 35, 80):
        for name, edges in (("cells", False), ("cracks", True)):
            draws[f"{name}-{count}"] = _with_settings(_cells, count, edges)
    for name, kind in (("ripples", 0), ("rays", 1), ("spiral", 2), ("marble", 3)):
        for cycles in (3, 6):
            draws[f"{name}-{cycles}"] = _with_settings(_waves, kind, cycles)
    for sides in (3, 4, 5, 6):
        draws[f"polygon-{sides}"] = _with_settings(_polygon, sides, 1.0)
    for points in (3, 4, 5, 8):
        draws[f"star-{points}"] = _with_settings(_polygon, points, 0.4)
    for rows in (3, 6):
        draws[f"bricks-{rows}"] = _with_settings(_bricks, rows)
        draws[f"scales-{rows}"] = _with_settings(_scales, rows)
        draws[f"zigzag-{rows}"] = _with_settings(_zigzag, rows)
        draws[f"sticks-{rows}"] = _with_settings(_sticks, 4 * rows)
    return draws


def _with_settings(draw: Callable[..., Map], *settings: object) -> Draw:
    return lambda rng: draw(rng, *settings)


def _rotated(rng: np.random.Generator, spread: float = 0.2, angle: float = 0.0) -> tuple[Map, Map]:
    """Coordinates rotated by about `angle`, shifted and stretched."""
    a = angle + rng.uniform(-spread, spread)
    stretch = rng.uniform(0.85, 1.15)
    x, y = _X + rng.uniform(-1, 1), _Y + rng.uniform(-1, 1)
    return (x * np.cos(a) + y * np.sin(a)) * stretch, y * np.cos(a) - x * np.sin(a)


def _edge(field: Map, sharpness: float) -> Map:
    return 1 / (1 + np.exp(-np.clip(field * sharpness, -30, 30)))


def _grating(rng: np.random.Generator, angle: float, cycles: float) -> Map:
    u, _ = _rotated(rng, 0.2, angle)
    return _edge(np.sin(np.pi * cycles * u) + rng.uniform(-0.5, 0.5), rng.uniform(1, 8))


def _checker(rng: np.random.Generator, cycles: float, soft: bool) -> Map:
    u, v = _rotated(rng, 0.4)
    a, b = np.sin(np.pi * cycles * u), np.sin(np.pi * cycles * v)
    return (a + b + 2) / 4 if soft else _edge(a * b, 20)


def _noise(rng: np.random.Generator, slope: float, sharp: bool) -> Map:
    fy, fx = np.fft.fftfreq(EDGE)[:, None], np.fft.rfftfreq(EDGE)[None]
    radius = np.hypot(fy, fx) + 1 / EDGE
    field = np.fft.irfft2(
        np.fft.rfft2(rng.standard_normal((EDGE, EDGE))) * radius**-slope, s=(EDGE, EDGE)
    )
    field = (field - field.mean()) / (field.std() + 1e-9)
    return _edge(field, 12) if sharp else 0.5 + field / 5


def _dots(rng: np.random.Generator, count: int, radius: float, ring: bool) -> Map:
    field = np.zeros((EDGE, EDGE))
    for cx, cy in rng.uniform(-1, 1, (count, 2)):
        r = radius * rng.uniform(0.8, 1.25)
        distance = np.hypot(_X - cx, _Y - cy)
        field = np.maximum(
            field, _edge(0.35 * r - abs(distance - r), 80) if ring else _edge(r - distance, 50)
        )
    return field


def _cells(rng: np.random.Generator, count: int, edges: bool) -> Map:
    centres = rng.uniform(-1.1, 1.1, (count, 2))
    distance = np.hypot(_X[..., None] - centres[:, 0], _Y[..., None] - centres[:, 1])
    if edges:
        nearest = np.sort(distance, axis=-1)
        return _edge(rng.uniform(0.04, 0.08) - (nearest[..., 1] - nearest[..., 0]), 50)
    return np.asarray(rng.uniform(0, 1, count)[distance.argmin(-1)])


def _waves(rng: np.random.Generator, kind: int, cycles: int) -> Map:
    cx, cy = rng.uniform(-0.5, 0.5, 2)
    radius, angle = np.hypot(_X - cx, _Y - cy), np.arctan2(_Y - cy, _X - cx)
    phase = rng.uniform(0, 2 * np.pi)
    if kind == 3:
        field = np.sin(np.pi * cycles * _X + 5 * (_noise(rng, 2.2, False) - 0.5) * np.pi + phase)
    else:
        field = np.sin(
            (kind != 1) * 2 * np.pi * cycles * radius / 1.5 + (kind != 0) * cycles * angle + phase
        )
    return _edge(field, rng.uniform(2, 8))


def _polygon(rng: np.random.Generator, corners: int, waist: float) -> Map:
    """Draw a regular polygon (waist 1) or a star, whose radius varies between 1 and `waist`."""
    size, turn = rng.uniform(0.55, 0.9), rng.uniform(0, 2 * np.pi)
    x, y = (_X - rng.uniform(-0.15, 0.15)) / size, (_Y - rng.uniform(-0.15, 0.15)) / size
    angle = (np.arctan2(y, x) + turn) % (2 * np.pi / corners) - np.pi / corners
    if waist < 1:
        radius = waist + (1 - waist) * (abs(angle) / (np.pi / corners)) ** 1.5
    else:
        radius = np.cos(np.pi / corners) / np.cos(angle)
    return _edge(radius - np.hypot(x, y), 25)


def _bricks(rng: np.random.Generator, rows: int) -> Map:
    u, v = _rotated(rng, 0.2)
    row = np.floor(v * rows)
    across = (u * rows / 2 + 0.5 * (row % 2)) % 1
    mortar = np.maximum(abs(across - 0.5) * 2 - 0.88, 2 * abs((v * rows) % 1 - 0.5) - 0.75)
    return _edge(mortar, 30)


def _scales(rng: np.random.Generator, rows: int) -> Map:
    u, v = _rotated(rng, 0.2)
    row = np.floor(v * rows)
    across = (u * rows + 0.5 * (row % 2)) % 1 - 0.5
    return np.asarray(np.clip(np.hypot(across, (v * rows) % 1) * 0.9, 0, 1))


def _zigzag(rng: np.random.Generator, rows: int) -> Map:
    u, v = _rotated(rng, 0.3)
    return _edge(
        np.sin(2 * np.pi * rows * (v + 0.5 * abs((u * rows / 2) % 1 - 0.5)) / 1.5),
        rng.uniform(2, 8),
    )


def _sticks(rng: np.random.Generator, count: int) -> Map:
    field = np.zeros((EDGE, EDGE))
    for _ in range(count):
        a, cx, cy = rng.uniform(0, np.pi), *rng.uniform(-1, 1, 2)
        along = (_X - cx) * np.cos(a) + (_Y - cy) * np.sin(a)
        across = (_Y - cy) * np.cos(a) - (_X - cx) * np.sin(a)
        field = np.maximum(field, _edge(np.minimum(0.3 - abs(along), (0.05 - abs(across)) * 3), 40))
    return field
