"""`symbols`: invented alphabets, drawn stroke by stroke; any number of classes and pictures.

An alphabet is a handful of curved strokes; each of its letters joins some of them, so letters of
one alphabet share parts and only the combination tells them apart. No font is involved: the
pictures are disjoint from the training data of the embedded networks. Each picture writes a letter
anew: its points jitter, the whole is rotated, sheared, shifted and scaled, the pen varies, ink and
paper take any two tones, and noise is added.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np
import torch
from torch import Tensor

EDGE = 32
LETTERS_PER_ALPHABET = 10
STROKES_PER_ALPHABET = 6
STROKES_PER_LETTER = 3
POINTS = 7  # points on a drawn curve, joined by straight segments
CHUNK = 256


def draw_symbols(classes: int, per_class: int, seed: int) -> tuple[Tensor, Tensor]:
    """Pictures `(classes * per_class, 3, 32, 32)` uint8 and labels, ordered by class.

    A letter depends on its number alone: class 7 is the same letter in every data set; the seed
    changes how it is written. Drawing 10,000 pictures takes about 3 s on one core.
    """
    letters = torch.stack([_letter(c) for c in range(classes)])  # (K, strokes, 3, 2) control points
    labels = torch.arange(classes).repeat_interleave(per_class)
    generator = torch.Generator().manual_seed(seed)
    parts = [_write(letters[part], generator) for part in labels.split(CHUNK)]
    return torch.cat(parts), labels


def symbol_names(classes: int) -> tuple[str, ...]:
    """`A0, A1, …, B0, …`: the alphabet and the letter's number within it."""
    places = (divmod(number, LETTERS_PER_ALPHABET) for number in range(classes))
    return tuple(f"{_alphabet_name(alphabet)}{letter}" for alphabet, letter in places)


def _alphabet_name(number: int) -> str:
    first, last = divmod(number, 26)
    return (_alphabet_name(first - 1) if first else "") + chr(ord("A") + last)


def _letter(number: int) -> Tensor:
    """Control points `(STROKES_PER_LETTER, 3, 2)` in -1..1 of quadratic Bézier strokes."""
    alphabet, place = divmod(number, LETTERS_PER_ALPHABET)
    rng = np.random.default_rng([20, alphabet])
    ends = rng.uniform(-0.85, 0.85, (STROKES_PER_ALPHABET, 2, 2))
    short = np.linalg.norm(ends[:, 0] - ends[:, 1], axis=-1) < 0.6
    ends[short, 1] = -ends[short, 0]
    bend = rng.normal(0, 0.55, (STROKES_PER_ALPHABET, 1, 2))
    strokes = np.concatenate([ends[:, :1], ends.mean(1, keepdims=True) + bend, ends[:, 1:]], axis=1)
    choices = np.array(list(combinations(range(STROKES_PER_ALPHABET), STROKES_PER_LETTER)))
    chosen = choices[rng.permutation(len(choices))[place]]
    return torch.from_numpy(strokes[chosen]).float()


def _write(letters: Tensor, generator: torch.Generator) -> Tensor:
    """Draw letters `(N, strokes, 3, 2)` as images `(N, 3, 32, 32)` uint8."""
    n = len(letters)

    def normal(*shape: int) -> Tensor:
        return torch.randn((n, *shape), generator=generator)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.rand((n, *shape), generator=generator) * (high - low) + low

    control = letters + 0.09 * normal(*letters.shape[1:])
    t = torch.linspace(0, 1, POINTS)
    # (POINTS, 3), Bernstein polynomials
    weights = torch.stack([(1 - t) ** 2, 2 * t * (1 - t), t**2], dim=1)
    points = torch.einsum("pc,nscx->nspx", weights, control)
    angle, size = 0.22 * normal(), uniform(0.62, 0.95, 2)
    shear = -angle.sin() + 0.2 * normal()
    turn = torch.stack([angle.cos(), shear, angle.sin(), angle.cos()], 1).view(n, 2, 2)
    turned = torch.einsum("nxy,nspy->nspx", turn, points)
    points = turned * size[:, None, None] + 0.09 * normal(1, 1, 2)
    distance = _distance(points[:, :, :-1].flatten(1, 2), points[:, :, 1:].flatten(1, 2))
    pen = uniform(0.04, 0.13, 1, 1)
    ink = torch.sigmoid((pen - distance) * uniform(14, 45, 1, 1))[:, None]  # (N, 1, 32, 32)
    paper, tone = uniform(0, 1, 3, 1, 1), uniform(0, 1, 3, 1, 1)
    grey = uniform(0, 1, 1, 1, 1) < 0.7
    paper, tone = torch.where(grey, paper[:, :1], paper), torch.where(grey, tone[:, :1], tone)
    close = (tone - paper).abs().mean(1, keepdim=True) < 0.3
    tone = torch.where(close, torch.where(paper < 0.5, paper + 0.45, paper - 0.45), tone)
    pictures = paper + (tone - paper) * ink + uniform(0.0, 0.12, 1, 1, 1) * normal(3, EDGE, EDGE)
    return pictures.clamp_(0, 1).mul_(255).round_().byte()


def _distance(start: Tensor, end: Tensor) -> Tensor:
    """Distance `(N, 32, 32)` of every pixel to the nearest segment `(N, S, 2)`."""
    line = (torch.arange(EDGE) * 2 + 1) / EDGE - 1
    pixels = torch.stack(torch.meshgrid(line, line, indexing="xy"), -1).view(1, 1, -1, 2)
    along = (end - start)[:, :, None]  # (N, S, 1, 2)
    offset = pixels - start[:, :, None]  # (N, S, P, 2)
    share = ((offset * along).sum(-1) / along.square().sum(-1).clamp(min=1e-6)).clamp(0, 1)
    nearest = offset - share[..., None] * along
    return nearest.square().sum(-1).amin(1).sqrt().view(-1, EDGE, EDGE)
