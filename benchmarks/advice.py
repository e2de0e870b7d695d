"""Measure whether the advised strategy comes within a point of the best one.

    python -m benchmarks.advice [--settings digits-2 textures-20 …] [--seeds 5]
        [--log FILE] [--threads 1]

For every setting and seed: `tl.advise()`, then training and testing of all three strategies. The
settings on which the rule of `tlnb/core/tuning/advise.py` was fixed are not included. A log in JSON
lines allows resuming a stopped run. Real photos and weights come from the folder $TLNB_REAL_DATA;
without it that setting is left out.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from pathlib import Path
from typing import Any

import torch

from tlnb.core.tuning.trials import STRATEGIES
from tlnb.session import Session

# The rule was fixed on these, with two to three seeds starting at 10; an earlier rule had been
# judged on the first of them.
FIXED_ON = (
    "digits-2",
    "digits-5",
    "digits-20",
    "textures-2",
    "textures-10",
    "textures-50",
    "faces-2",
    "faces-5",
    "faces-20",
    "symbols20-2",
    "symbols20-20",
    "symbols10-5",
    "digits-5@glyphnet-few",
    "digits-20@glyphnet-early",
    "textures-20@glyphnet-glyphs",
    "symbols5-30@glyphnet-early",
)
# nothing had been measured on these when the rule was fixed
SETTINGS = (
    "digits-3",
    "digits-7",
    "textures-3",
    "textures-30",
    "faces-3",
    "faces-7",
    "faces-15",
    "symbols8-3",
    "symbols15-8",
    "digits-10@glyphnet-early",
    "textures-10@glyphnet-few",
    "faces-5@glyphnet-glyphs",
    "symbols12-15@glyphnet-few",
    "ants_bees-90",
)
# ImageNet's network; nothing in the rule was fixed on photos
PHOTO_SETTINGS = (
    "textures-5@efficientnet_lite0",
    "textures-20@efficientnet_lite0",
    "faces-2@efficientnet_lite0",
    "faces-10@efficientnet_lite0",
    "ants_bees-5@efficientnet_lite0",
    "ants_bees-20@efficientnet_lite0",
)
PHOTO_EDGE = 96  # pixels: training all layers at 224 takes five times the work
CLOSE_POINTS = 1.0


def opened(setting: str, seed: int) -> Session:
    """Open a session with a setting's data and network."""
    session = Session()
    source, _, per_class = setting.partition("-")
    per_class, _, model = per_class.partition("@")
    classes = int(source.removeprefix("symbols")) if source.startswith("symbols") else None
    name = "symbols" if classes else source
    real = Path(os.environ.get("TLNB_REAL_DATA", ""))
    session.data(
        str(real / name) if name == "ants_bees" else name,
        classes=classes,
        per_class=int(per_class),
        size=PHOTO_EDGE if setting in PHOTO_SETTINGS else None,
        seed=seed,
    )
    if name == "ants_bees" and not model:
        session.load("squeezenet1_0", real / "squeezenet1_0_imagenet.safetensors")
    else:
        session.load(model or "glyphnet")
    return session


def measured(setting: str, seed: int) -> dict[str, Any]:
    """The advice for one seed, and each strategy's test accuracy in percent."""
    session = opened(setting, seed)
    began = time.perf_counter()
    advice = session.advise()
    took = time.perf_counter() - began
    reached = {}
    for strategy in STRATEGIES:
        session.strategy(strategy)
        reached[strategy] = 100 * session.train(seed=seed).accuracy
    expected = {
        t.strategy: [round(100 * t.expected, 2), round(100 * t.sd, 2), t.gain, t.error]
        for t in advice.evidence
    }
    return {
        "setting": setting,
        "seed": seed,
        "advised": advice.strategy,
        "seconds": round(took, 1),
        "expected": expected,
        **reached,
    }


def table(rows: list[dict[str, Any]], settings: list[str]) -> str:
    """Format means over seeds, and how often the advice came within a point of the best."""
    lines = [
        "| setting | head | partial | full | advised | reached by advice | behind the best |",
        "|---|---|---|---|---|---|---|",
    ]
    regrets, means = [], {name: [] for name in (*STRATEGIES, "advice")}
    for setting in settings:
        mine = [r for r in rows if r["setting"] == setting]
        if not mine:
            continue
        mean = {s: statistics.mean(r[s] for r in mine) for s in STRATEGIES}
        got = statistics.mean(r[r["advised"]] for r in mine)
        regret = max(mean.values()) - got
        regrets.append(regret)
        for name, value in {**mean, "advice": got}.items():
            means[name].append(value)
        counts = ", ".join(
            f"{s} {n}" for s in STRATEGIES if (n := sum(r["advised"] == s for r in mine))
        )
        cells = [f"{mean[s]:.1f}" for s in STRATEGIES]
        lines.append(f"| {setting} | {' | '.join(cells)} | {counts} | {got:.1f} | {regret:+.1f} |")
    close = sum(r <= CLOSE_POINTS for r in regrets)
    average = ", ".join(
        f"{name} {statistics.mean(values):.2f}" for name, values in means.items() if values
    )
    seconds = statistics.median(r["seconds"] for r in rows) if rows else 0.0
    lines += [
        "",
        f"within a point of the best: {close} of {len(regrets)}; mean accuracy: {average}; advice took {seconds:.1f} s (median)",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--settings",
        nargs="+",
        default=list(SETTINGS),
        choices=[*SETTINGS, *FIXED_ON, *PHOTO_SETTINGS],
    )
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--log", type=Path)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    rows = (
        [json.loads(line) for line in chosen.log.read_text().splitlines()]
        if chosen.log and chosen.log.exists()
        else []
    )
    done = {(r["setting"], r["seed"]) for r in rows}
    for setting in chosen.settings:
        if setting.startswith("ants_bees") and not os.environ.get("TLNB_REAL_DATA"):
            continue
        for seed in range(chosen.seeds):
            if (setting, seed) in done:
                continue
            rows.append(measured(setting, seed))
            print(json.dumps(rows[-1]), flush=True)
            if chosen.log:
                with chosen.log.open("a") as file:
                    file.write(json.dumps(rows[-1]) + "\n")
    print(table(rows, chosen.settings))


if __name__ == "__main__":
    main()
