"""Are probabilities what they say, and are foreign images refused?

    python -m benchmarks.calibration [--networks glyphnet efficientnet_lite0] [--draws 5]

For each network and bundled data set with 20 labels a class: the expected calibration error beside
its noise on so many images (and in how many draws it is within), how many of one's own test
images are refused, the accuracy of the others, and how many foreign images are refused: other
bundled sets, noise, and scikit-image's photographs. `textures` is cut from such photographs, which are not foreign to it.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from statistics import fmean
from typing import Any

import numpy as np

from tlnb.core.evaluation.calibration import Reliability
from tlnb.session import Session

DATA = ("digits", "symbols", "textures", "faces")
PER_CLASS, FOREIGN = 20, 100
PHOTOS = ("astronaut", "camera", "cat", "coffee", "coins", "clock", "moon", "page", "text", "horse")
HEAD = (
    "| network | data | labels | temperature | error | noise | within noise | own lost | all "
    "| answered |"
)


def foreign_images() -> dict[str, list[np.ndarray]]:
    """Images `(H, W, 3)` or `(H, W)` uint8 by their set."""
    found: dict[str, list[np.ndarray]] = {}
    for name in DATA:
        images = Session().data(name, per_class=2).images["test"]
        rows = np.linspace(0, len(images) - 1, min(FOREIGN, len(images))).round().astype(int)
        found[name] = [images[int(row)].numpy() for row in rows]
    noise = np.random.default_rng(0).integers(0, 256, (FOREIGN, 32, 32, 3), dtype=np.uint8)
    return found | {"noise": list(noise), "photos": list(photos())}


def photos() -> Iterator[np.ndarray]:
    """Photographs that scikit-image brings along."""
    import skimage.data

    for name in PHOTOS:
        pixels = np.asarray(getattr(skimage.data, name)())
        yield pixels if pixels.dtype == np.uint8 else (255 * pixels).astype(np.uint8)


def measured(
    network: str, data: str, seed: int, foreign: Mapping[str, list[np.ndarray]]
) -> tuple[Reliability, dict[str, float], float]:
    """Reliability on the test split, the share refused of each foreign set, and the accuracy."""
    session = Session()
    session.data(data, per_class=PER_CLASS, seed=seed)
    session.load(network)
    run = session.train()
    refused = {
        name: fmean(label is None for label in session.predict(*images).labels)
        for name, images in foreign.items()
        if name != data and (data, name) != ("textures", "photos")
    }
    return session.errors().reliability, refused, run.accuracy


def row(network: str, data: str, results: list[Any], names: list[str]) -> str:
    """Means over draws as a line of the table."""
    found = [reliability for reliability, _, _ in results]
    fitted = [each.calibration for each in found]
    own = [f"{fmean(each.error for each in found):.3f}", f"{fmean(e.noise for e in found):.3f}"]
    own.append(f"{sum(each.error <= each.noise for each in found)}/{len(found)}")
    own.append(f"{fmean(each.refused for each in found):.1%}")
    own.append(f"{fmean(accuracy for _, _, accuracy in results):.1%}")
    own.append(f"{fmean(each.accuracy_answered for each in found):.1%}")
    temperature = f"{fmean(each.temperature for each in fitted):.2f}"
    shares = [[refused.get(name) for _, refused, _ in results] for name in names]
    foreign = ["–" if each[0] is None else f"{fmean(each):.0%}" for each in shares]
    labels = f"{fitted[0].labels} {fitted[0].method}"
    cells = [network, data, labels, temperature, *own, *foreign, f"{refused_of(results):.1%}"]
    return f"| {' | '.join(cells)} |"


def refused_of(results: list[Any]) -> float:
    """The share of foreign images refused, each set and draw weighing the same."""
    return fmean(fmean(refused.values()) for _, refused, _ in results)


def pooled(network: str, by_data: list[list[Any]]) -> str:
    """Means over data sets, which weigh the same, in a sentence."""
    lost = fmean(fmean(each.refused for each, _, _ in results) for results in by_data)
    refused = fmean(refused_of(results) for results in by_data)
    return f"{network}: {refused:.1%} of foreign images refused, {lost:.1%} of one's own"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--networks", nargs="+", default=["glyphnet", "efficientnet_lite0"])
    parser.add_argument("--data", nargs="+", default=list(DATA), choices=DATA)
    parser.add_argument("--draws", type=int, default=5)
    chosen = parser.parse_args()
    foreign = foreign_images()
    names = list(foreign)
    print(f"{HEAD} {' | '.join(names)} | foreign refused |", flush=True)
    print("|---" * (11 + len(names)) + "|", flush=True)
    told = []
    for network in chosen.networks:
        by_data = []
        for data in chosen.data:
            by_data.append([measured(network, data, i, foreign) for i in range(chosen.draws)])
            print(row(network, data, by_data[-1], names), flush=True)
        told.append(pooled(network, by_data))
    print("", *told, sep="\n")


if __name__ == "__main__":
    main()
