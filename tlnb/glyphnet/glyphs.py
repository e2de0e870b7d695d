"""Letters and symbols of many scripts, rendered from the fonts that matplotlib ships.

A class is a character; its examples are that character in every font face that has it. Every glyph
is cropped to its bounding box and scaled into a 48×48 picture, so that classes differ by shape, not
by size or position.

The network must never have seen a digit, so three rules exclude classes, in this order:

1. *by name*: whatever Unicode calls a number, in any script, and whatever is composed of one
   (``²``, ``①``, ``½``);
2. *by look*: whatever correlates with a digit of some face above `DIGIT_LIKENESS`, even when
   rotated or mirrored;
3. *by audit*: whatever a network trained on the rest mistakes real handwritten digits for
   (`excluded.json`).
"""

from __future__ import annotations

import json
import unicodedata
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

EDGE = 48
# correlation with a rendered digit from which a class counts as looking like it
DIGIT_LIKENESS = 0.80
# correlation from which two characters are one class (A in Latin, Greek and Cyrillic)
TWIN_LIKENESS = 0.90
MIN_FACES = 3  # that a class needs: one is held out to measure the source accuracy
MAX_FACES = 12
DIGITS = "0123456789"

FACES = (
    *("DejaVuSans", "DejaVuSerif", "DejaVuSansMono", "STIXGeneral"),
    *("DejaVuSans-Bold", "DejaVuSerif-Bold", "DejaVuSansMono-Bold", "STIXGeneralBol"),
    *("DejaVuSans-Oblique", "DejaVuSerif-Italic", "DejaVuSansMono-Oblique", "STIXGeneralItalic"),
    *("DejaVuSans-BoldOblique", "DejaVuSerif-BoldItalic", "DejaVuSansMono-BoldOblique"),
    "STIXGeneralBolIta",
)

BLOCKS = (
    (0x0021, 0x007E),  # basic Latin
    (0x00A1, 0x017F),  # Latin-1 and Latin Extended-A
    (0x0186, 0x0292),  # Latin Extended-B, IPA
    (0x0370, 0x052F),  # Greek, Cyrillic
    (0x0531, 0x058A),  # Armenian
    (0x05D0, 0x05EA),  # Hebrew
    (0x0621, 0x064A),  # Arabic
    (0x07CA, 0x07EA),  # N'Ko
    (0x0E81, 0x0EDF),  # Lao
    (0x10A0, 0x10FF),  # Georgian
    (0x1401, 0x1676),  # Canadian syllabics
    (0x1680, 0x169C),  # Ogham
    (0x2020, 0x2060),  # punctuation
    (0x20A0, 0x20BF),  # currency
    (0x2100, 0x214F),  # letterlike
    (0x2190, 0x2311),  # arrows, mathematics
    (0x2500, 0x2570),  # box drawing
    (0x25A0, 0x25FF),  # geometric shapes
    (0x2600, 0x26FF),  # symbols
    (0x2701, 0x27BE),  # dingbats
    (0x27C0, 0x27FF),  # more mathematics
    (0x2A00, 0x2AFF),  # still more
    (0x2D30, 0x2D6F),  # Tifinagh
)


@dataclass(frozen=True, kw_only=True)
class GlyphSet:
    """The letters and symbols of the source: `names[c]` is the character of class `c`."""

    names: tuple[str, ...]
    images: NDArray[np.uint8]  # (G, 48, 48), ink is bright
    labels: NDArray[np.int64]  # (G,) class of each picture
    held_out: NDArray[np.bool_]  # (G,) one face of every class, kept for the source accuracy

    def __repr__(self) -> str:
        return f"GlyphSet: {len(self.names)} classes, {len(self.images)} glyphs, {self.held_out.sum()} held out"


def render(character: str, face: str) -> NDArray[np.float32] | None:
    """Render a glyph as (48, 48) in 0..1, its ink scaled to 40 pixels; None if it is blank."""
    from PIL import Image

    mask, _ = _font(face).getmask2(character, mode="L")
    width, height = mask.size
    if not width or not height:
        return None
    ink = Image.frombytes("L", mask.size, bytes(mask))
    box = ink.getbbox()
    if box is None:
        return None
    ink = ink.crop(box)
    scale = 40 / max(ink.size)
    size = (max(2, round(ink.width * scale)), max(2, round(ink.height * scale)))
    picture = Image.new("L", (EDGE, EDGE))
    corner = ((EDGE - size[0]) // 2, (EDGE - size[1]) // 2)
    picture.paste(ink.resize(size, Image.Resampling.BILINEAR), corner)
    ink_of: NDArray[np.float32] = np.asarray(picture, dtype=np.float32) / np.float32(255)
    return ink_of


def is_number(character: str) -> bool:
    """Whether Unicode calls a character a number or composes it from one (rule 1)."""
    composed = unicodedata.normalize("NFKD", character)
    by_value = any(unicodedata.numeric(c, None) is not None for c in composed)
    words = unicodedata.name(character, "").split()
    return by_value or "DIGIT" in words or "NUMBER" in words or "NUMERAL" in words


@lru_cache(maxsize=1)
def audited() -> frozenset[str]:
    """The classes excluded by earlier audits (rule 3), from the list that ships."""
    text = resources.files(__package__).joinpath("excluded.json").read_text("utf8")
    return frozenset(json.loads(text)["classes"])


def glyph_set(excluded: frozenset[str] | None = None) -> GlyphSet:
    """Render every class that the rules allow. `excluded` replaces the shipped audit list."""
    excluded = audited() if excluded is None else excluded
    kept = _rendered()
    names = tuple(sorted(c for c in kept if c not in excluded))
    images, labels, held_out = [], [], []
    for label, name in enumerate(names):
        faces = kept[name]
        for i, image in enumerate(faces):
            images.append(np.rint(image * 255).astype(np.uint8))
            labels.append(label)
            held_out.append(i == label % len(faces))
    return GlyphSet(
        names=names, images=np.stack(images), labels=np.array(labels), held_out=np.array(held_out)
    )


@lru_cache(maxsize=1)
def _rendered() -> dict[str, list[NDArray[np.float32]]]:
    """The classes that rules 1 and 2 allow, in every face, without twins.

    Takes about ten seconds, once.
    """
    drawn = {c: _faces_of(c) for c in _characters() if not is_number(c)}
    candidates = {c: faces for c, faces in drawn.items() if len(faces) >= MIN_FACES}
    return _without_twins(_unlike_digits(candidates))


def _characters() -> list[str]:
    points = (p for first, last in BLOCKS for p in range(first, last + 1))
    # an accented letter is composed from its base letter; only the base letter is a class
    plain = (c for c in map(chr, points) if unicodedata.normalize("NFD", c) == c)
    return [c for c in plain if unicodedata.category(c)[0] in "LPS"]


@lru_cache(maxsize=len(FACES))
def _font(face: str):  # type: ignore[no-untyped-def]
    """The face as PIL's `FreeTypeFont`; PIL is imported only when glyphs are drawn."""
    from PIL import ImageFont

    return ImageFont.truetype(str(_folder() / f"{face}.ttf"), 72)


@lru_cache(maxsize=len(FACES))
def _covered(face: str) -> frozenset[int]:
    from fontTools.ttLib import TTFont

    return frozenset(TTFont(_folder() / f"{face}.ttf").getBestCmap())


def _folder() -> Path:
    import matplotlib

    return Path(matplotlib.get_data_path()) / "fonts" / "ttf"


def _faces_of(character: str) -> list[NDArray[np.float32]]:
    faces = [f for f in FACES if ord(character) in _covered(f)]
    return [image for f in faces[:MAX_FACES] if (image := render(character, f)) is not None]


def _unit(images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows with zero mean and unit length, smoothed so that strokes may differ by a pixel."""
    blocks = images.reshape(len(images), EDGE // 3, 3, EDGE // 3, 3)
    pooled = blocks.mean((2, 4)).reshape(len(images), -1)
    pooled = pooled - pooled.mean(1, keepdims=True)
    length = np.linalg.norm(pooled, axis=1, keepdims=True) + 1e-6
    return np.asarray(pooled / length, dtype=np.float32)


def _views(image: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    """The eight rotations and reflections of a picture."""
    turns = [np.rot90(image, k) for k in range(4)]
    return turns + [t[:, ::-1] for t in turns]


def _unlike_digits(
    candidates: dict[str, list[NDArray[np.float32]]],
) -> dict[str, list[NDArray[np.float32]]]:
    digits = [image for d in DIGITS for f in FACES if (image := render(d, f)) is not None]
    digit_rows = _unit(np.stack([view for image in digits for view in _views(image)]))
    return {
        c: faces
        for c, faces in candidates.items()
        if float((_unit(np.stack(faces)) @ digit_rows.T).max()) < DIGIT_LIKENESS
    }


def _without_twins(
    candidates: dict[str, list[NDArray[np.float32]]],
) -> dict[str, list[NDArray[np.float32]]]:
    """Keep the first of characters that look alike, in Unicode's order."""
    kept: dict[str, list[NDArray[np.float32]]] = {}
    rows = np.empty((0, (EDGE // 3) ** 2), dtype=np.float32)
    for character, faces in candidates.items():
        row = _unit(faces[0][None])
        if rows.size and float((rows @ row.T).max()) >= TWIN_LIKENESS:
            continue
        kept[character] = faces
        rows = np.concatenate([rows, row])
    return kept
