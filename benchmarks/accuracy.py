"""Test accuracy by strategy and amount of data, over seeds.

    python -m benchmarks.accuracy digits --per-class 1 2 5 20 --strategies head scratch pixels --seeds 5

Prints a row for each strategy, mean ± standard deviation over seeds in percent. A seed chooses the images and everything
random in the run. `scratch` is the recipe for scratch with its full number of steps. `--monitor` reads the monitor split
instead of the test split: that is how recipes are chosen.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch

from tlnb.core.compare import pixels_row
from tlnb.session import Session


def one(
    data: str, model: str, strategy: str, per_class: int, classes: int | None, seed: int, extra: dict, monitor: bool
) -> float:
    """Accuracy of one run in percent."""
    session = Session()
    found = session.data(data, per_class=per_class, classes=classes, seed=seed)
    if strategy == "pixels":
        return 100 * (pixels_row(found).accuracy or 0)
    session.load(model)
    session.strategy(strategy)
    run = session.train(seed=seed, **extra)
    return 100 * ((run.epochs[-1].monitor_accuracy or 0) if monitor else run.accuracy)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", choices=["digits", "symbols", "textures", "faces"])
    parser.add_argument("--model", default="glyphnet")
    parser.add_argument("--per-class", type=int, nargs="+", default=[1, 2, 5, 10, 20, 50, 100])
    parser.add_argument("--classes", type=int)
    parser.add_argument("--strategies", nargs="+", default=["head", "partial", "full", "scratch"])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--monitor", action="store_true")
    for name, kind in (("epochs", int), ("lr", float), ("batch-size", int), ("weight-decay", float), ("augment", str)):
        parser.add_argument(f"--{name}", type=kind)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    names = ("epochs", "lr", "batch_size", "weight_decay", "augment")
    extra = {n: v for n in names if (v := getattr(chosen, n)) is not None}
    print(f"| {chosen.model}, per class |" + "".join(f" {n} |" for n in chosen.per_class) + " seconds |")
    print("|---|" + "---|" * (len(chosen.per_class) + 1))
    for strategy in chosen.strategies:
        start, cells = time.perf_counter(), []
        for n in chosen.per_class:
            found = [
                one(chosen.data, chosen.model, strategy, n, chosen.classes, s, extra, chosen.monitor)
                for s in range(chosen.seeds)
            ]
            spread = statistics.stdev(found) if len(found) > 1 else 0.0
            cells.append(f" {statistics.mean(found):.1f} ± {spread:.1f} |")
        print(f"| {strategy} |" + "".join(cells) + f" {time.perf_counter() - start:.0f} |", flush=True)


if __name__ == "__main__":
    main()
