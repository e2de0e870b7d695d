"""Stages: the few groups of layers, from input to output, that describe a network.

The tree of modules is opened until it shows parts that stand side by side: blocks, or single
layers. Then

* a part without weight matrices (normalisation, tokens, position embeddings) joins the part before
  it;
* everything from the output layer's part on is one stage, the last;
* single layers before the first block are the stem; between blocks they join the block after them
  (a transition, a downsampling), after the last block that block;
* if that gives too many stages, or if all parts are single layers (VGG), neighbours of the same
  resolution form one stage;
* if it gives too few (a transformer keeps one resolution throughout), the largest is divided into
  equal parts.

A stage of one module has that module's name; one of several is named after its first and last,
`features.4-6`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise, takewhile

from torch import nn

ROOT = "(root)"  # the layer of the model's own parameters and buffers
UNUSED = "unused"  # the stage of layers that the scores do not depend on
MIN_STAGES, MAX_STAGES = 4, 9
MAX_DIVISION = 4  # parts that a stage is divided into if there are too few
DOMINANT_SHARE = 0.85  # a part with a larger share of the network's matrices is opened
MAX_SINGLE_SHARE = 1 / 3  # with fewer matrices in single layers, a network is made of blocks
RESOLUTION_RATIO = 1.5  # ratio of positions that separates resolutions


@dataclass(frozen=True, kw_only=True)
class Part:
    """A module, or a container's own parameters, with its layers in data-flow order."""

    path: str
    layers: tuple[str, ...]
    matrices: int  # number of layers with weight matrices
    positions: int | None  # pixels or tokens of its output; None if unknown


Group = list[Part]


def name_stages(
    module: nn.Module,
    layers: Sequence[str],
    heads: Sequence[str],
    work: Mapping[str, int],
    shapes: Mapping[str, tuple[int, ...]],
) -> dict[str, str]:
    """Assign a stage to every layer.

    Args:
        layers: names in the order of the data flow.
        heads: those that compute the scores.
        work: FLOPs by layer; a layer with FLOPs has a matrix.
        shapes: output shape of every module called, without the batch.
    """

    def part(path: str, inside: Sequence[str]) -> Part:
        matrices = sum(work.get(n, 0) > 0 for n in inside)
        positions = _positions(shapes.get(path, shapes.get(inside[-1])))
        return Part(path=path, layers=tuple(inside), matrices=matrices, positions=positions)

    def inside(whole: Part) -> list[Part]:
        by_path: dict[str, list[str]] = {}
        for name in whole.layers:
            by_path.setdefault(_below(name, whole.path), []).append(name)
        return [part(path, names) for path, names in by_path.items()]

    parts = inside(part("", layers))
    while (at := _to_open(module, parts, set(heads))) is not None:
        parts[at : at + 1] = inside(parts[at])
    groups, blocks = _groups(parts, set(heads))
    names = _names(module, groups, blocks)
    named = zip(names, groups, strict=True)
    return {layer: name for name, group in named for p in group for layer in p.layers}


def _below(layer: str, path: str) -> str:
    """The path one step from `path` towards the layer; `path` itself for its own parameters."""
    if layer in (path, ROOT):
        return layer
    rest = layer.removeprefix(path + ".") if path else layer
    return f"{path}.{rest.partition('.')[0]}".lstrip(".")


def _to_open(module: nn.Module, parts: list[Part], heads: set[str]) -> int | None:
    """The index of the part to replace by its contents, or None."""
    sizes = [p.matrices if set(p.layers) != {p.path} else 0 for p in parts]
    most = max(sizes, default=0)
    if not most:
        return None
    at = sizes.index(most)
    if most > DOMINANT_SHARE * sum(p.matrices for p in parts):
        return at
    few = sum(p.matrices > 0 and not heads & set(p.layers) for p in parts) + 1 < MIN_STAGES
    listed = isinstance(module.get_submodule(parts[at].path), nn.Sequential | nn.ModuleList)
    return at if few and (most >= MIN_STAGES or (most > 1 and listed)) else None


# ── grouping ──────────────────────────────────────────────────────────────────────────────────────


def _groups(parts: list[Part], heads: set[str]) -> tuple[list[Group], bool]:
    """The parts of each stage, and whether the network is made of blocks."""
    first = next((i for i, p in enumerate(parts) if heads & set(p.layers)), len(parts))
    trunk, end = _with_matrices(parts[:first]), parts[first:]
    total = sum(_matrices(g) for g in trunk)
    single = sum(_matrices(g) for g in trunk if _matrices(g) == 1)
    blocks = single < MAX_SINGLE_SHARE * total
    if blocks:
        groups = _around_blocks(trunk)
        if len(groups) + 1 > MAX_STAGES:
            groups = groups[:1] + _by_resolution(groups[1:])
    else:
        groups = _by_resolution(trunk)
    if groups and len(groups) + 1 < MIN_STAGES:
        groups = _divided(groups)
    return ([*groups, end] if end else groups), blocks


def _matrices(group: Group) -> int:
    return sum(p.matrices for p in group)


def _with_matrices(parts: list[Part]) -> list[Group]:
    """Group each part with a matrix with those without that follow it.

    Parts before the first matrix join the first group.
    """
    groups: list[Group] = []
    for p in parts:
        if groups and not (p.matrices and _matrices(groups[-1])):
            groups[-1].append(p)
        else:
            groups.append([p])
    return groups


def _around_blocks(trunk: list[Group]) -> list[Group]:
    """Join single layers to the stem and to blocks.

    Between blocks they join the block after them, at the end the one before.
    """
    groups: list[Group] = []
    waiting: Group = []
    for group in trunk:
        waiting = [*waiting, *group]
        if _matrices(group) == 1:
            continue
        stem = len(waiting) - len(group)
        if not groups and stem:
            groups.append(waiting[:stem])
            waiting = waiting[stem:]
        groups.append(waiting)
        waiting = []
    groups[-1].extend(waiting)
    return groups


def _by_resolution(groups: list[Group]) -> list[Group]:
    joined = [list(g) for g in groups[:1]]
    for before, group in pairwise(groups):
        if _coarser(before, group):
            joined.append(list(group))
        else:
            joined[-1].extend(group)
    return joined


def _coarser(before: Group, after: Group) -> bool:
    one, other = before[-1].positions, after[-1].positions
    if one is None or other is None:
        return False
    return max(one, other) >= RESOLUTION_RATIO * min(one, other)


def _divided(groups: list[Group]) -> list[Group]:
    """Divide the group with the most matrices into up to four equal parts."""
    sizes = [_matrices(g) for g in groups]
    at = sizes.index(max(sizes))
    inside = _with_matrices(groups[at])
    count = min(MAX_DIVISION, len(inside))
    edges = [round(i * len(inside) / count) for i in range(count + 1)]
    pieces = [[p for group in inside[a:b] for p in group] for a, b in pairwise(edges)]
    return [*groups[:at], *pieces, *groups[at + 1 :]]


def _positions(shape: tuple[int, ...] | None) -> int | None:
    """Pixels or tokens of an output: `(C, H, W)`, `(H, W, C)`, `(tokens, C)` or `(C,)`."""
    if shape is None or not 1 <= len(shape) <= 3:
        return None
    if len(shape) < 3:
        return shape[0] if len(shape) == 2 else 1
    a, b, c = shape
    return a * b if a == b != c else b * c


# ── names ─────────────────────────────────────────────────────────────────────────────────────────


def _names(module: nn.Module, groups: list[Group], blocks: bool) -> list[str]:
    """A unique name for each group, never that of another module."""
    modules = {name for name, _ in module.named_modules()}
    paths = [p.path for group in groups for p in group]
    names: list[str] = []
    for i, group in enumerate(groups):
        ends = [p for p in group if p.matrices] or group
        first, last = (_short(p.path, paths, modules) for p in (ends[0], ends[-1]))
        options = [first] if len(ends) == 1 else [f"{first}-{_rest(first, last)}"]
        if i == 0 and blocks and len(group) > 1 and "stem" not in modules:
            options.insert(0, "stem")
        if i == len(groups) - 1 and len(ends) > 1 and "head" not in modules - set(paths):
            options.insert(0, "head")
        names.append(next((n for n in options if n not in names), f"stage{i + 1}"))
    return names


def _short(path: str, paths: list[str], modules: set[str]) -> str:
    """The end of a path from its last word on (`features.3`), if unambiguous.

    Otherwise all of it.
    """
    steps = path.split(".")
    words = [i for i, step in enumerate(steps) if not step.isdigit()]
    for start in range(words[-1] if words else 0, 0, -1):
        name = ".".join(steps[start:])
        others = Counter(p.endswith("." + name) for p in paths)[True]
        if others == 1 and name not in modules:
            return name
    return path


def _rest(first: str, last: str) -> str:
    """The part of `last` beyond the beginning shared with `first`.

    Numbers and words are kept whole.
    """
    alike = takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False))
    shared = len(list(alike))
    while shared and _one_piece(last[shared - 1], last[shared : shared + 1]):
        shared -= 1
    return last[shared:] or last


def _one_piece(before: str, after: str) -> bool:
    of_a_kind = (before.isdigit() and after.isdigit()) or (before.isalpha() and after.isalpha())
    return of_a_kind or not after
