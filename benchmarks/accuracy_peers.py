"""Test accuracy beside seconds: tlnb and other ways to the same network, with the same labels.

    python -m benchmarks accuracy-peers [--model squeezenet1_0] [--per-class 10 50] [--seeds 5]

Each peer has its best reasonable setting (`SETTINGS`), the same training and test images, and all
labels in use; tlnb holds a fifth of them out where its recipe does. A seed draws the labels and
decides all else that is random. A peer whose package is absent is a line of the table that says so.
`--spare` tests on training photos that were not drawn: so peers' settings were chosen.
Photos and weights come from $TLNB_REAL_DATA, as in `python -m benchmarks`. Means over the draws,
with the standard deviation of the accuracy.
"""

from __future__ import annotations

import argparse
import random
import shutil
import statistics
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from benchmarks import table
from benchmarks.measure import Result, measure, measured
from benchmarks.work import SUFFIXES, Job, draw_digits, draw_photos, real, weights_of


@dataclass(frozen=True)
class Setting:
    """How a peer is used."""

    peer: str
    strategy: str
    epochs: int = 1  # not used by tlnb, whose recipe has its own
    batch_size: int = 16
    augment: str = "recipe"
    rate: float | None = None  # None: the peer's own


SETTINGS = {
    "tlnb, head": Setting("tlnb_recipe", "head"),
    "tlnb, partial": Setting("tlnb_recipe", "partial"),
    "tlnb, full": Setting("tlnb_recipe", "full"),
    "scikit-learn on features": Setting("sklearn", "head", augment="none"),
    "tutorial, head": Setting("tutorial", "head", epochs=25, batch_size=4),
    "tutorial, full": Setting("tutorial", "full", epochs=25, batch_size=4),
    "fastai, fine_tune": Setting("fine_tune", "head", epochs=10),
    "Lightning, full": Setting("lightning", "full", epochs=25),
}
SPARE = 35  # photos per class to choose settings by
NOTE = (
    "The tutorial keeps the epoch that is best on the test images, so its accuracy is chosen on "
    "them; the others look once, at the end."
)


def main(arguments: list[str] | None = None) -> None:
    """Measure and print a table for each number of labels."""
    chosen = _arguments(arguments)
    for per_class in chosen.per_class:
        results = [
            result
            for seed in range(chosen.seeds)
            for result in _draw(chosen, None if per_class == "all" else int(per_class), seed)
        ]
        edge = f" at {chosen.size} px" if chosen.size else ""
        print(f"## {chosen.model}{edge}, {per_class} labels per class, {chosen.seeds} draws\n")
        print(accuracies(results), flush=True)
    print(f"\n{NOTE}")


def _arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("benchmarks accuracy-peers", description=__doc__)
    parser.add_argument("--model", default="squeezenet1_0")
    parser.add_argument("--per-class", nargs="+", default=["10", "50", "all"], metavar="N")
    parser.add_argument("--peers", nargs="+", default=list(SETTINGS), choices=list(SETTINGS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--size", type=int, help="edge of the network's input; default: its own")
    parser.add_argument("--shrink", type=int, metavar="PX", help="shrink photos to this beforehand")
    parser.add_argument("--epochs", type=int, help="instead of the peers' own")
    parser.add_argument("--rate", type=float, help="learning rate instead of the peers' own")
    parser.add_argument(
        "--spare", action="store_true", help="choose settings: test on spare labels"
    )
    parser.add_argument("--one-process", action="store_true", help="import the libraries once")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args(arguments)


def _draw(chosen: argparse.Namespace, per_class: int | None, seed: int) -> list[Result]:
    """Every peer on one draw of the labels, each in a process of its own unless asked otherwise."""
    with tempfile.TemporaryDirectory() as folder:
        base = Job(
            peer="",
            label="",
            strategy="",
            model=chosen.model,
            data=str(_drawn(chosen, Path(folder), per_class, seed)),
            weights=weights_of(chosen.model),
            epochs=1,
            batch_size=16,
            augment="recipe",
            size=chosen.size,
            device=chosen.device,
            threads=chosen.threads,
            seed=seed,
        )
        by_hand = {n: v for n in ("epochs", "rate") if (v := getattr(chosen, n)) is not None}
        jobs = [replace(base, label=n, **(vars(SETTINGS[n]) | by_hand)) for n in chosen.peers]
        return [_told((measure if chosen.one_process else measured)(job)) for job in jobs]


def _told(result: Result) -> Result:
    """The result, said at once: a whole table can take an hour."""
    print(result.job.label, result.job.seed, result.outcome or result.problem, file=sys.stderr)
    return result


def _drawn(chosen: argparse.Namespace, folder: Path, per_class: int | None, seed: int) -> Path:
    """A folder with train/ and val/: some of the training images, and all that are tested."""
    found = real()
    if chosen.model == "glyphnet":
        source = draw_digits(folder / "all", None)
    else:
        source = found / "ants_bees" if found else draw_photos(folder / "all", 122)
    for place in sorted(p for p in source.glob("*/*") if p.is_dir()):
        photos = sorted(p for p in place.iterdir() if p.suffix.lower() in SUFFIXES)
        split, spare = place.parent.name, []
        if split == "train" and per_class is not None:
            shuffled = random.Random(f"{seed} {place.name}").sample(photos, len(photos))
            photos, spare = shuffled[:per_class], shuffled[per_class:][:SPARE]
        parts = {"train": photos, "val": spare} if chosen.spare else {split: photos}
        if split == "val" and chosen.spare:
            continue
        for part, some in parts.items():
            target = folder / "drawn" / part / place.name
            target.mkdir(parents=True)
            for photo in some:
                _copy(photo, target / photo.name, chosen.shrink)
    return folder / "drawn"


def _copy(photo: Path, target: Path, shrink: int | None) -> None:
    """Copy a photo; with `shrink`, its shorter edge has so many pixels: decoding weighs less."""
    if shrink is None:
        shutil.copy(photo, target)
        return
    with Image.open(photo) as opened:
        share = shrink / min(opened.size)
        size = tuple(max(1, round(share * edge)) for edge in opened.size)
        opened.convert("RGB").resize(size, Image.Resampling.LANCZOS).save(target, quality=95)


def accuracies(results: list[Result]) -> str:
    """Accuracy in percent and seconds of every peer, as a Markdown table."""
    lines = []
    for label, row in table.rows(results).items():
        done = [result.outcome for result in row if result.outcome]
        if not done:
            lines.append([label, row[0].problem])
            continue
        shares = [100 * (outcome.accuracy or 0.0) for outcome in done]
        spread = statistics.stdev(shares) if len(shares) > 1 else 0.0
        seconds = [outcome.fixed + sum(outcome.epochs) for outcome in done]
        work = table.spread([outcome.processor for outcome in done])
        reached = f"{statistics.mean(shares):.1f} ± {spread:.1f}"
        lines.append([label, reached, table.spread(seconds), work])
    return table.markdown(["", "test accuracy, %", "seconds", "processor seconds"], lines)


if __name__ == "__main__":
    main()
