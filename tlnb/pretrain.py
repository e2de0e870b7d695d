"""Train the embedded models: `python -m tlnb.pretrain [NAME …]`.

Trains a network on the source images of `tlnb.glyphnet`, measures its accuracy on held-out typefaces,
audits which classes it takes real handwritten digits for, and writes weights and card. It saves a
checkpoint every 100 steps; a second call resumes from it. `--audit` only audits the networks that
ship; `--held-out` writes the held-out pictures of their sources, which ship too and must be written
again whenever a class changes. On one core `glyphnet` takes about 25 minutes, all four together
about an hour.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as write_safetensors
from torch import Tensor
from tqdm import tqdm

from tlnb import glyphnet
from tlnb.core.data.dataset import open_data
from tlnb.core.models.anatomy import read_anatomy
from tlnb.core.models.flops import step_flops
from tlnb.core.models.pretrained import Transform
from tlnb.core.runtime.device import Machine, machine
from tlnb.core.runtime.energy import WATTS_PER_CPU_THREAD, WATTS_PER_GPU
from tlnb.core.runtime.paths import written_beside
from tlnb.core.training.epoch import train_epoch
from tlnb.core.training.forgetting import right_of
from tlnb.core.training.optimizers import one_cycle
from tlnb.glyphnet import held_out
from tlnb.glyphnet.source import Source, source

MAX_DIGIT_SHARE = 0.05  # a class with this mean probability for some digit is dropped
CHECKPOINT_STEPS = 100  # steps between checkpoints
GLYPHNET_FOLDER = Path(glyphnet.__file__).parent
TRANSFORM = Transform(
    size=glyphnet.SIZE, resize=glyphnet.SIZE, mean=glyphnet.MEAN, std=glyphnet.STD
)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How one embedded model is trained: its source, duration and hyperparameters."""

    name: str
    describes: str
    textures: bool = True
    glyphs: int | None = None  # number of glyph classes; None: all
    faces: int | None = None  # pictures of each; None: all
    steps: int = 5000
    stop_at: int | None = None
    batch_size: int = 256
    lr: float = 0.3
    momentum: float = 0.9
    weight_decay: float = 5e-4
    label_smoothing: float = 0.3
    seed: int = 0


RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            name="glyphnet", describes="letters and symbols of many scripts, textures and shapes"
        ),
        Recipe(
            name="glyphnet-glyphs", describes="letters and symbols of many scripts", textures=False
        ),
        Recipe(
            name="glyphnet-early",
            describes="letters, symbols, textures and shapes, stopped early",
            stop_at=200,
        ),
        Recipe(
            name="glyphnet-few",
            describes="forty letters and symbols in three typefaces",
            textures=False,
            glyphs=40,
            faces=3,
            steps=600,
        ),
    )
}


def source_of(recipe: Recipe) -> Source:
    """The source images of a recipe."""
    return source(recipe.glyphs, recipe.textures, recipe.faces)


def pretrain(recipe: Recipe, folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Train to the recipe's end, from its checkpoint in `folder` if there is one.

    Returns:
        The weights, and the cost of the training.
    """
    images = source_of(recipe)
    hardware = machine()
    network = _network(recipe, len(images.classes), hardware)
    optimizer = torch.optim.SGD(
        network.parameters(),
        recipe.lr,
        recipe.momentum,
        weight_decay=recipe.weight_decay,
        nesterov=True,
    )
    schedule = one_cycle(optimizer, recipe.steps)
    checkpoint = folder / f"{recipe.name}.pt"
    parts: dict[str, Any] = {"network": network, "optimizer": optimizer, "schedule": schedule}
    done, seconds = _restored(checkpoint, parts)
    last = recipe.stop_at or recipe.steps
    coming = _batches(images, recipe, hardware, done, last)
    with tqdm(total=last, initial=done, desc=recipe.name, unit="step", mininterval=5) as bar:
        while done < last:
            start = _clock(hardware)
            until = min(done + CHECKPOINT_STEPS, last)
            network.train()
            loss, _ = train_epoch(
                network,
                islice(coming, until - done),
                optimizer,
                schedule,
                hardware,
                label_smoothing=recipe.label_smoothing,
            )
            hardware.synchronize()
            seconds += _clock(hardware) - start
            bar.update(until - done)
            bar.set_postfix(loss=f"{loss:.3f}")
            done = until
            states = {name: part.state_dict() for name, part in parts.items()}
            _save(checkpoint, {**states, "done": done, "seconds": seconds})
    return {k: v.cpu() for k, v in network.state_dict().items()}, _training_cost(
        network, recipe, hardware, seconds, last
    )


def _network(recipe: Recipe, classes: int, hardware: Machine) -> torch.nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        network = glyphnet.GlyphNet(classes)
    return network.to(hardware.device, memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def _restored(checkpoint: Path, parts: Mapping[str, Any]) -> tuple[int, float]:
    """Give each part its state in the checkpoint, if there is one; steps done and seconds taken."""
    if not checkpoint.exists():
        return 0, 0.0
    state = torch.load(checkpoint, weights_only=True)
    for name, part in parts.items():
        part.load_state_dict(state[name])
    return state["done"], state["seconds"]


def _batches(
    images: Source, recipe: Recipe, hardware: Machine, done: int, last: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Normalised pictures and labels for the steps from `done` to `last`, on the device."""
    # a GPU trains faster than one process can draw batches
    workers = 0 if hardware.on_cpu else max(1, (os.cpu_count() or 1) - 1)
    for pictures, labels in images.batches(recipe.batch_size, last, recipe.seed, done, workers):
        yield TRANSFORM.normalise(hardware.placed(pictures)), hardware.placed(labels)


def _clock(hardware: Machine) -> float:
    """A clock in seconds; on a CPU process time by thread, so that other work does not count."""
    return time.process_time() / hardware.threads if hardware.on_cpu else time.perf_counter()


def _training_cost(
    network: torch.nn.Module, recipe: Recipe, hardware: Machine, seconds: float, steps: int
) -> dict[str, Any]:
    example = torch.zeros(2, 3, glyphnet.SIZE, glyphnet.SIZE, device=hardware.device)
    shown = steps * recipe.batch_size
    watts = WATTS_PER_CPU_THREAD * hardware.threads if hardware.on_cpu else WATTS_PER_GPU
    return {
        "seconds": round(seconds, 1),
        "steps": steps,
        "images": shown,
        "flops": step_flops(network, example) * shown,
        "wh": round(watts * seconds / 3600, 2),
        "threads": hardware.threads,
        "hardware": hardware.name,
        "precision": hardware.precision,
        "basis": f"{'processor ' if hardware.on_cpu else ''}seconds and FLOPs measured; energy assumed at {watts:g} W",
        "versions": {"torch": torch.__version__, "python": platform.python_version()},
    }


def _save(path: Path, state: dict[str, Any]) -> None:
    """Write through a temporary file: a killed process leaves the last checkpoint intact."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_beside(path) as half:
        torch.save(state, half)


def source_accuracy(network: torch.nn.Module, images: Source) -> float:
    """Accuracy on the held-out typefaces, each distorted several ways."""
    network.eval()
    right = seen = 0
    with torch.no_grad():
        for pictures, labels in images.held_out_batches():
            right += int((network(TRANSFORM.normalise(pictures)).argmax(1) == labels).sum())
            seen += len(labels)
    return right / seen


def audit(network: torch.nn.Module, classes: tuple[str, ...]) -> dict[str, dict[str, float]]:
    """Which classes the network takes real handwritten digits for.

    A share is the mean probability that the network gives a class over the pool's images of a
    digit. (The most probable class alone would be uninformative: some class is always the most
    probable.) The pool is what learners train on; the test split is not used.

    Returns:
        digit → the five classes with the largest shares.
    """
    data = open_data("digits")
    images = torch.cat([data.images[s] for s in ("train", "val")])
    labels = torch.cat([data.labels[s] for s in ("train", "val")])
    network.eval()
    with torch.no_grad():
        shares = torch.cat([network(TRANSFORM(part)).softmax(1) for part in images.split(256)])
    shares_by_digit = {}
    for digit in range(10):
        mean = shares[labels == digit].mean(0)
        top = mean.topk(5)
        shares_by_digit[str(digit)] = {
            classes[int(i)]: round(float(v), 4)
            for v, i in zip(top.values, top.indices, strict=True)
        }
    return shares_by_digit


def confused_classes(shares_by_digit: dict[str, dict[str, float]]) -> set[str]:
    """The classes with a share of `MAX_DIGIT_SHARE` or more of some digit."""
    return {
        name
        for shares in shares_by_digit.values()
        for name, share in shares.items()
        if share >= MAX_DIGIT_SHARE
    }


def publish(
    recipe: Recipe, weights: dict[str, Tensor], took: dict[str, Any], folder: Path
) -> dict[str, Any]:
    """Write packed weights and the card, which has the accuracy and audit of these weights."""
    images = source_of(recipe)
    packed = glyphnet.pack(weights)
    data = write_safetensors(packed)
    network = glyphnet.GlyphNet(len(images.classes))
    network.load_state_dict(glyphnet.unpack(packed))
    anatomy = read_anatomy(network, glyphnet.SIZE)
    trained_on = int((~images.held_out).sum())
    card = {
        "name": recipe.name,
        "source": recipe.describes,
        "source_images": trained_on,
        "source_classes": len(images.classes),
        "accuracy": round(source_accuracy(network, images), 4),
        "accuracy_of": "on held-out typefaces of its source",
        "parameters": anatomy.params,
        "flops": anatomy.flops,
        "bytes": len(data),
        "size": glyphnet.SIZE,
        "licence": "weights: MIT as tlnb; pictures drawn from fonts named in NOTICE.md",
        "recipe": f"python -m tlnb.pretrain {recipe.name}",
        "training": took,
        "settings": asdict(recipe),
        "sha256": hashlib.sha256(data).hexdigest(),
        "classes": list(images.classes),
        "audit": audit(network, images.classes),
    }
    text = json.dumps(card, ensure_ascii=False, indent=1) + "\n"
    for name, content in (
        (f"weights/{recipe.name}.safetensors", data),
        (f"cards/{recipe.name}.json", text.encode()),
    ):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return card


def write_held_out() -> int:
    """Write the held-out pictures of all networks that ship, and how many each gets right.

    Returns:
        The size of the pictures' file in bytes.

    Raises:
        ValueError: the classes on a card differ from its recipe's source: train that network first.
    """
    sources = {name: source_of(RECIPES[name]) for name in glyphnet.names()}
    stale = [
        n for n, images in sources.items() if list(images.classes) != glyphnet.card(n)["classes"]
    ]
    if stale:
        raise ValueError(
            f"the sources of {', '.join(stale)} have different classes than their cards: train them again first"
        )
    data = held_out.packed(sources)
    (GLYPHNET_FOLDER / held_out.FILE).write_bytes(data)
    write_measured()
    return len(data)


def write_measured() -> None:
    """Write how many of the held-out pictures each shipped network gets right."""
    held_out._read.cache_clear()
    held_out.pictures.cache_clear()
    counts = {}
    for name in glyphnet.names():
        images, labels = held_out.pictures(tuple(glyphnet.card(name)["classes"]))
        counts[name] = [right_of(glyphnet.load(name), images, labels), len(labels)]
    (GLYPHNET_FOLDER / held_out.MEASURED).write_text(json.dumps(counts) + "\n", "utf8")


def _report(name: str, shares_by_digit: dict[str, dict[str, float]]) -> None:
    for digit, shares in shares_by_digit.items():
        print(f"  {digit}: " + "  ".join(f"{c} {share:.1%}" for c, share in shares.items()))
    worst = confused_classes(shares_by_digit)
    print(
        f"{name}: {len(worst)} classes take {MAX_DIGIT_SHARE:.0%} or more of some digit: {sorted(worst)}"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "names",
        nargs="*",
        default=[],
        metavar="NAME",
        help=f"one of {', '.join(RECIPES)}; default: all",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("pretrained"),
        help="folder for checkpoints, weights and cards",
    )
    parser.add_argument("--steps", type=int, help="fewer steps, for a quick test")
    parser.add_argument("--audit", action="store_true", help="only audit the networks that ship")
    parser.add_argument(
        "--held-out",
        action="store_true",
        help="only write the held-out pictures of the networks that ship",
    )
    return parser


def main(arguments: list[str] | None = None) -> int:
    parser = _parser()
    chosen = parser.parse_args(arguments)
    if chosen.held_out:
        print(f"{held_out.FILE}: {write_held_out():,} bytes")
        return 0
    unknown = set(chosen.names) - set(RECIPES)
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(RECIPES)}")
    for recipe in [RECIPES[n] for n in chosen.names or RECIPES]:
        if chosen.audit:
            card = glyphnet.card(recipe.name)
            _report(recipe.name, audit(glyphnet.load(recipe.name), tuple(card["classes"])))
            continue
        if chosen.steps:
            recipe = replace(
                recipe,
                steps=chosen.steps,
                stop_at=recipe.stop_at and min(recipe.stop_at, chosen.steps),
            )
        weights, took = pretrain(recipe, chosen.out / "checkpoints")
        card = publish(recipe, weights, took, chosen.out)
        print(f"{recipe.name}: source accuracy {card['accuracy']:.1%}, {took['seconds']:.0f} s")
        _report(recipe.name, card["audit"])
    print(
        f"To ship them, copy {chosen.out}/weights and {chosen.out}/cards to {GLYPHNET_FOLDER.name}/, then run with --held-out."
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
