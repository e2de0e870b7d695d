"""Record real runs for lesson 8, which cannot ship photos and ImageNet weights.

    TLNB_REAL_DATA=… python -m benchmarks.records --threads 1 --out lessons/records/ants-bees.json

Ants and bees (the photos of the official PyTorch tutorial) on SqueezeNet 1.0 with ImageNet weights:
a new output layer, the same network from scratch, the last stages, everything. Each run is forecast
first. `tlnb.core.evaluation.recorded` reads the file.
"""

from __future__ import annotations

import argparse
import json
import os
from datetime import UTC, datetime
from pathlib import Path

import torch

from tlnb.core.evaluation.recorded import SCHEMA
from tlnb.session import Session

DATA, MODEL, WEIGHTS = "ants_bees", "squeezenet1_0", "squeezenet1_0_imagenet.safetensors"
STRATEGIES = ("head", "partial", "full")
NOTES = (
    "ants and bees come from ImageNet, the very pictures that the network was pretrained on: its accuracy here says little "
    "about photos that nobody has trained on",
    "recorded while other programs used the machine: seconds are on the pessimistic side",
)


def recorded(folder: Path) -> dict[str, object]:
    """Train on the photos in `folder`, and return the record as JSON values."""
    session = Session()
    data = session.data(folder / DATA)
    session.load(MODEL, folder / WEIGHTS)
    for strategy in STRATEGIES:
        session.strategy(strategy)
        session.forecast()
        print(session.train(), flush=True)
        if strategy == "head":  # the baseline is matched to the preceding run
            print(session.train(scratch=True), flush=True)
    typed = [line.replace(f"{folder}{os.sep}", "") for line in session.script().splitlines()]
    facts = {
        "name": data.name,
        "counts": data.counts,
        "splits": data.splits,
        "skipped": list(data.skipped),
    }
    return {
        "schema": SCHEMA,
        "recorded": f"{datetime.now(UTC):%Y-%m-%d}",
        "typed": typed[1:],
        "notes": NOTES,
        "data": facts,
        "model": MODEL,
        "runs": [json.loads(run.to_json()) for run in session.runs],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("lessons/records/ants-bees.json"))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    folder = Path(os.environ["TLNB_REAL_DATA"])
    chosen.out.write_text(json.dumps(recorded(folder), ensure_ascii=False, indent=1) + "\n", "utf8")


if __name__ == "__main__":
    main()
