"""Time the same transfer learning with tlnb and with other libraries.

    python -m benchmarks [head|partial|full|scratch|overhead|peak ...] [--models …]
        [--peers …] [--epochs 5 25] …
    python -m benchmarks --quick        two to three minutes: does every peer work?
    python -m benchmarks accuracy-peers   test accuracy beside seconds, at equal labels

`head` and `partial` time whole runs including decoding, but without imports and building the model.
`full` and `scratch` time only the training. `overhead` compares tlnb's loop with a plain one on the
same images in memory; `peak` is the processor's fastest matrix product. Requires `pip install -e
'.[bench]'`; missing peers are listed as such. Real photos and weights come from the folder
$TLNB_REAL_DATA (`ants_bees/`, `squeezenet1_0_imagenet.safetensors`); without it, photos are
generated and networks start at random. Run nothing else at the same time.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from dataclasses import asdict, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from benchmarks import accuracy_peers, table
from benchmarks.measure import Result, fresh, measured, peak
from benchmarks.peers import ABOUT
from benchmarks.work import Job, make_data, real, weights_of
from tlnb.core.runtime.device import machine

TABLES = {
    "head": table.runs_table,
    "partial": table.runs_table,
    "full": table.steps_table,
    "scratch": table.steps_table,
    "overhead": table.overhead_table,
}
WHOLE_RUNS = ("head", "partial")  # timed as whole runs
MODELS = ("squeezenet1_0", "resnet18", "resnet50", "mobilenet_v3_large", "glyphnet")
LIBRARIES = ("tlnb", "torch", "torchvision", "fastai", "lightning", "keras", "numpy", "pillow")
OVERHEAD = {"model": "glyphnet", "data": "digits", "batch_size": 64, "epochs": 5, "augment": "none"}
QUICK = {
    "work": ["head", "full", "overhead", "peak"],
    "models": ["resnet18"],
    "epochs": [2],
    "measured_epochs": 1,
    "repeats": 1,
    "per_class": 8,
    "size": 64,
}


def main() -> None:
    if sys.argv[1:2] == ["accuracy-peers"]:
        accuracy_peers.main(sys.argv[2:])
        return
    chosen = _arguments()
    os.environ["OMP_NUM_THREADS"] = str(chosen.threads)  # for the processes to come
    rates = fresh(peak, chosen.device, chosen.threads)
    text, results = [_title(chosen, rates)], []
    print(text[0], flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for work, model in _comparisons(chosen):
            compared = _compare(work, model, chosen, Path(folder))
            results += compared
            text.append(f"## {work}, {model}\n\n{TABLES[work](compared, chosen.epochs, rates)}")
            print(f"\n{text[-1]}", flush=True)
    text.append(_notes(results))
    print(f"\n{text[-1]}")
    if chosen.out:
        chosen.out.write_text("\n\n".join(text) + "\n", "utf8")
    if chosen.json:
        record = {
            "versions": _versions(),
            "options": vars(chosen),
            "peak_gflops": rates,
            "results": [asdict(r) for r in results],
        }
        chosen.json.write_text(json.dumps(record, indent=1, default=str) + "\n", "utf8")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("work", nargs="*", choices=[[], *TABLES, "peak"], metavar="WORK", help="default: all")
    add("--models", nargs="+", default=list(MODELS), help="torchvision's or tlnb's")
    add("--peers", nargs="+", default=list(ABOUT), choices=list(ABOUT))
    add("--epochs", type=int, nargs="+", default=[5, 25], help="numbers of epochs of whole runs")
    add(
        "--measured-epochs",
        type=int,
        default=2,
        help="epochs measured for peers whose epochs all take the same time; the rest is extrapolated",
    )
    add(
        "--repeats",
        type=int,
        default=3,
        help="runs for median and spread, each with its own seed",
    )
    add("--batch-size", type=int, default=16)
    add("--tutorial-batch", type=int, help="also run the tutorial with this batch size, not only 4")
    add(
        "--augment",
        choices=["recipe", "none"],
        default="recipe",
        help="each peer's own augmentation, or none",
    )
    add(
        "--size",
        type=int,
        help="edge of the networks' input in pixels, and of generated photos; default: the model's own",
    )
    add(
        "--per-class",
        type=int,
        help="training images per class, and half as many test images; default: all photos",
    )
    add("--device", default="cpu", help="cpu, cuda")
    add("--threads", type=int, default=1)
    add("--quick", action="store_true", help="tiny data, small images")
    add("--out", type=Path, metavar="FILE", help="the tables")
    add("--json", type=Path, metavar="FILE", help="write everything measured to this file")
    chosen = parser.parse_args()
    if chosen.quick:
        given = {"work": chosen.work} if chosen.work else {}
        vars(chosen).update({**QUICK, **given})
    chosen.work = chosen.work or [*TABLES, "peak"]
    return chosen


def _comparisons(chosen: argparse.Namespace) -> list[tuple[str, str]]:
    """Pairs of the work to compare and the model."""
    pairs = [
        (work, model)
        for work in chosen.work
        if work not in ("overhead", "peak")
        for model in chosen.models
    ]
    return [*pairs, *([("overhead", OVERHEAD["model"])] if "overhead" in chosen.work else [])]


def _compare(work: str, model: str, chosen: argparse.Namespace, folder: Path) -> list[Result]:
    """Run all jobs in turn, several times: temporary noise then affects all of them alike."""
    jobs = _overhead(chosen) if work == "overhead" else _jobs(work, model, chosen, folder)
    results = []
    for repeat in range(chosen.repeats):
        for job in jobs:
            results.append(measured(replace(job, seed=repeat)))
            print(
                f"{work} {model} {repeat + 1}/{chosen.repeats}: {job.label}, {job.epochs} epochs",
                file=sys.stderr,
                flush=True,
            )
    return results


def _jobs(work: str, model: str, chosen: argparse.Namespace, folder: Path) -> list[Job]:
    data = make_data(model, folder, chosen.per_class, chosen.size)
    size = None if model == "glyphnet" else chosen.size  # glyphnet is built for 32 pixels
    base = Job(
        label="",
        peer="",
        strategy=work,
        model=model,
        data=data,
        weights=weights_of(model),
        epochs=chosen.measured_epochs,
        batch_size=chosen.batch_size,
        augment=chosen.augment,
        size=size,
        device=chosen.device,
        threads=chosen.threads,
        seed=0,
    )
    jobs = [
        replace(base, peer=name, label=name)
        for name in chosen.peers
        if name not in ("tlnb", "floor")
    ]
    if chosen.tutorial_batch and "tutorial" in chosen.peers:
        label = f"tutorial (batch {chosen.tutorial_batch})"
        jobs.append(replace(base, peer="tutorial", label=label, batch_size=chosen.tutorial_batch))
    if work == "head" and "floor" in chosen.peers:
        jobs.append(replace(base, peer="floor", label="floor"))
    return jobs + (_ours(work, base, chosen) if "tlnb" in chosen.peers else [])


def _ours(work: str, base: Job, chosen: argparse.Namespace) -> list[Job]:
    """tlnb's jobs, with and without augmentation.

    Whole runs are not extrapolated, because only the first epoch fills the cache.
    """
    ways = (
        {"recipe": "tlnb", "none": "tlnb, not augmented"}
        if chosen.augment == "recipe"
        else {"none": "tlnb"}
    )
    counts = chosen.epochs if work in WHOLE_RUNS else [chosen.measured_epochs]
    return [
        replace(base, peer="tlnb", label=label, augment=way, epochs=count, again=work in WHOLE_RUNS)
        for way, label in ways.items()
        for count in counts
    ]


def _overhead(chosen: argparse.Namespace) -> list[Job]:
    base = Job(
        "",
        "",
        "full",
        weights="default",
        size=None,
        device=chosen.device,
        threads=chosen.threads,
        seed=0,
        **OVERHEAD,
    )
    return [
        replace(base, peer=name, label=name)
        for name in table.OVERHEAD_PEERS
        if name in chosen.peers
    ]


# ── text around the tables ────────────────────────────────────────────────────────────────


def _title(chosen: argparse.Namespace, rates: dict[str, float]) -> str:
    hardware = machine(chosen.device)
    products = ", ".join(f"{rate:,.1f} GFLOP/s in {kind}" for kind, rate in rates.items())
    versions = ", ".join(f"{name} {found}" for name, found in _versions().items())
    photos = f"{chosen.per_class or 'all'} training images per class" + (
        "" if real() and not chosen.size else ", photos generated"
    )
    augmented = "each peer's own augmentation" if chosen.augment == "recipe" else "no augmentation"
    return (
        f"{hardware.name}, {chosen.device}, {chosen.threads} threads; fastest matrix product: {products}. {versions}.\n\n"
        f"Batches of {chosen.batch_size}, {augmented}, {photos}. Medians of {chosen.repeats} runs, each in a fresh process "
        f"(least–most)."
    )


def _notes(results: list[Result]) -> str:
    random = sorted(
        {r.job.model for r in results if r.job.weights == "none" and r.job.strategy != "scratch"}
    )
    words = "starts from random weights with every peer, which changes accuracies but not seconds."
    said = [f"* {', '.join(random)}: no weights available; {words}"] if random else []
    return "\n".join([table.notes({r.job.peer for r in results}), *said])


def _versions() -> dict[str, str]:
    """The version of every library, or that it is missing."""

    def version_of(name: str) -> str:
        try:
            return version(name)
        except PackageNotFoundError:
            return "not installed"

    return {"python": sys.version.split()[0]} | {name: version_of(name) for name in LIBRARIES}


if __name__ == "__main__":
    main()
