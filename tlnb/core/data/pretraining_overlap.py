"""Hints, from names alone, that images may be among those a pretrained network learned from."""

from __future__ import annotations

import re
from collections.abc import Sequence

SYNSET = re.compile(r"n\d{8}")  # WordNet IDs, which name ImageNet's folders and files
PHOTO = re.compile(r"n\d{8}_\d+\.|ILSVRC2012_")
IMAGENET_SETS = {
    "imagenet": "ImageNet itself",
    "imagenette": "ten classes of ImageNet",
    "stl10": "taken from ImageNet",
    "imagewoof": "ten classes of ImageNet",
}
TUTORIAL = {"ants", "bees"}


def imagenet_hint(name: str, classes: Sequence[str], files: Sequence[str]) -> str:
    """Why these may be ImageNet's own images, in words; empty if nothing suggests it.

    Only names are compared: renamed images go unnoticed, and a name does not prove anything.
    """
    known = IMAGENET_SETS.get(
        re.sub(r"[^a-z0-9]", "", name.lower()).removesuffix("2160").removesuffix("2320")
    )
    if known:
        return f"{name} is {known}"
    if sum(bool(SYNSET.fullmatch(c)) for c in classes) * 2 > len(classes):
        example = next(c for c in classes if SYNSET.fullmatch(c))
        return f"class folders are named as ImageNet's ({example})"
    photos = [f for f in files if PHOTO.search(f)]
    if len(photos) * 10 > len(files):
        return f"{len(photos):,} of {len(files):,} files are named as ImageNet's ({photos[0]})"
    if set(classes) == TUTORIAL:
        return (
            "ants and bees are the classes of a well-known tutorial, whose photos come from "
            "ImageNet"
        )
    return ""


def seen_note(hint: str) -> str:
    """What the hint means, in a sentence for the card."""
    return (
        f"Perhaps seen before: {hint}. A network pretrained on ImageNet may have learned from "
        "these very images, so that "
        "its accuracy here says little about new ones. A hint by names, not a proof."
    )


def seen_by(source: str, hint: str) -> str:
    """A note if a run's pretrained network may have seen these images; else empty."""
    if not hint or "imagenet" not in source.lower():
        return ""
    return (
        f"the network's source may hold these very images ({hint}): its accuracy here says little "
        "about new ones"
    )
