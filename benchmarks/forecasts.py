"""Measure the errors of forecasts in seconds and FLOPs, for runs of several kinds and sizes.

    python -m benchmarks.forecasts [--threads 1] [--only symbols]

Run nothing else at the same time: a forecast cannot know that the machine will be busier later.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from typing import Any

import torch

from tlnb.session import Session

# data, their options, model, strategy, training options; each run takes over 5 s on two cores
CASES: tuple[tuple[str, dict[str, Any], str, str, dict[str, Any]], ...] = (
    ("digits", {"per_class": 20}, "glyphnet", "full", {}),
    ("digits", {"per_class": 50}, "glyphnet", "partial", {"epochs": 60}),
    ("digits", {"per_class": 100}, "glyphnet", "scratch", {}),
    ("digits", {"per_class": 100}, "glyphnet", "head", {"epochs": 400, "augment": "none"}),
    ("symbols", {"per_class": 50}, "glyphnet", "full", {}),
    ("symbols", {"per_class": 100, "classes": 10}, "glyphnet", "partial", {}),
    ("symbols", {"per_class": 200, "classes": 10}, "glyphnet", "scratch", {"epochs": 8}),
    ("symbols", {"per_class": 20}, "glyphnet", "output-frozen", {}),
    ("symbols", {"per_class": 20, "classes": 4, "size": 96}, "resnet18", "full", {"epochs": 6}),
    (
        "symbols",
        {"per_class": 30, "classes": 4, "size": 96},
        "mobilenet_v3_small",
        "scratch",
        {"epochs": 10},
    ),
    ("ants_bees", {}, "squeezenet1_0", "head", {}),
    ("ants_bees", {}, "squeezenet1_0", "partial", {"epochs": 10}),
    ("ants_bees", {}, "squeezenet1_0", "full", {"epochs": 2}),
)


def measured(
    source: str, given: dict[str, Any], model: str, strategy: str, options: dict[str, Any]
) -> str:
    """Forecast and train, and return a row of the table."""
    session = Session()
    weights: Any = "default"
    if source == "ants_bees":
        real = Path(os.environ["TLNB_REAL_DATA"])
        source, weights = str(real / source), real / "squeezenet1_0_imagenet.safetensors"
    elif model != "glyphnet":
        weights = "none"
    session.data(source, **given)
    session.load(model, weights)
    session.strategy(strategy)
    began = time.perf_counter()
    session.forecast(**options)
    took = time.perf_counter() - began
    forecast = session.train(**options).forecast
    assert forecast is not None and forecast.measured is not None
    name = f"{Path(source).name} {given.get('per_class', 'all')} a class, {model}, {strategy}"
    return (
        f"| {name} | {forecast.seconds:.1f} | {forecast.measured:.1f} | {forecast.error:.0%} | {forecast.flops_error:.2%} | "
        f"{took:.1f} ({took / forecast.measured:.0%}) |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--only", default="", help="only data sets whose names begin with this")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    print(
        "| run | forecast, s | took, s | off | off in FLOPs | the forecast took, s |\n|---|---|---|---|---|---|"
    )
    for case in CASES:
        photos = case[0] == "ants_bees"
        if case[0].startswith(chosen.only) and not (
            photos and not os.environ.get("TLNB_REAL_DATA")
        ):
            print(measured(*case), flush=True)


if __name__ == "__main__":
    main()
