"""Lesson 8: your own photos."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from tlnb.core.data.dataset import DataSet
from tlnb.core.evaluation.predictions import errors
from tlnb.core.training.run import Run
from tlnb.course.checks import Step, Steps, a_run, exercise
from tlnb.course.exercises.shared import a_network
from tlnb.session import Session

MAX_TWIN_SHARE = 0.15  # share of test images: leaves of different series sometimes look alike
MIN_SPLITS = 3
MIN_IMBALANCE = 2.0  # ratio of the largest to the smallest class
MIN_AGREEMENT = 0.98  # resizing with another library changes an image or two
FOLDER = '%tl_data photos --test 0.33 --group "(\\w+/leaf\\d+)"'


def _folder_of_photos(tl: Session) -> Generator[Step, None, DataSet]:
    data = tl.dataset
    yield Step("data are loaded", data is not None, "no data yet", FOLDER)
    assert data is not None
    yield Step(
        "the data are a folder of photos", data.from_files, f"the data are {data.name}", FOLDER
    )
    return data


@exercise("8.1", "Clean a folder, keep its series together, and train on that")
def clean_and_grouped(tl: Session) -> Steps:
    data = yield from _folder_of_photos(tl)
    pair = " and ".join(data.two_labels[0]) if data.two_labels else ""
    yield Step(
        "no image is in two classes",
        not data.two_labels,
        f"{pair} are the same image",
        "look at the image: which label is right?",
        'delete the other file, Path("photos/…").unlink(), and load the folder again with %tl_data',
    )
    yield Step(
        "the split keeps groups together",
        data.groups is not None,
        "it is random, photo by photo",
        "%tl_data photos --group PATTERN, where PATTERN matches what the names of a series have in common",
    )
    assert data.groups is not None
    twins = [leak for leak in data.leaks if leak.split == "test"]
    tested, alone = data.splits["test"], data.groups > 0.9 * sum(data.splits.values())
    why = "each photo is a group of its own" if alone else f"there are {data.groups} groups"
    yield Step(
        "a group is a series: test photos have no twins in the labels in use",
        len(twins) <= MAX_TWIN_SHARE * tested,
        f"{len(twins)} of {tested} test photos have one, and {why}",
        "oak/leaf07_1.jpg and oak/leaf07_2.jpg have oak/leaf07 in common",
        "the parentheses in the pattern capture the group: (\\w+/leaf\\d+)",
    )
    run = yield from a_run(
        tl,
        None,
        lambda r, _: r.fingerprint == data.fingerprint,
        like="it was trained on the current data",
        line="%tl_train, now that the data are in order",
    )
    low, high = (100 * share for share in run.interval)
    return (
        f"{run.accuracy:.1%} ({low:.0f}–{high:.0f}) on {tested} photos of series that it has never seen, out of {data.groups} "
        "series. The interval counts photos; there are fewer series, so the true interval is wider."
    )


@exercise("8.2", "Weight rare classes more, on three splits")
def weights_for_the_rare(tl: Session) -> Steps:
    data = yield from _folder_of_photos(tl)
    yield Step(
        "its classes differ in size",
        data.imbalance >= MIN_IMBALANCE,
        f"the largest class has {data.imbalance:.1f} times the labels of the smallest",
        "without --per-class: the leaves have four times as many beeches as birches",
    )
    runs = [
        r
        for r in tl.runs
        if r.status == "finished" and not r.baseline_of and tl.data_of(r).request.group
    ]
    yield Step(
        "there are runs with series kept together", runs, "there are none", FOLDER, "then %tl_train"
    )
    plain = [r for r in runs if not r.options.class_weights]
    weighted = [r for r in runs if r.options.class_weights]
    missing_kind = "there are none with" if plain else "there are none without"
    lacking = "%tl_train --class-weights" if plain else "%tl_train, without --class-weights"
    yield Step(
        "some with class weights and some without",
        plain and weighted,
        missing_kind,
        f"{lacking}, on the same data",
    )
    pairs = {
        tl.data_of(w).request.seed: (p, w) for w in weighted for p in plain if not _difference(p, w)
    }
    apart = _difference(plain[-1], weighted[-1])
    yield Step(
        "two of them differ in nothing else",
        pairs,
        f"{plain[-1].name!r} and {weighted[-1].name!r} differ in {apart}",
        f"use the same for both runs: {apart}",
        "%tl_train, then %tl_train --class-weights, with nothing between them and no other options",
    )
    yield Step(
        "this was done on three splits",
        len(pairs) >= MIN_SPLITS,
        f"{len(pairs)} so far",
        "%tl_data photos --test 0.33 --group … --seed 1 splits the photos differently",
        "on each split %tl_train, then %tl_train --class-weights",
    )
    gaps = [
        100 * (after.balanced_accuracy - before.balanced_accuracy)
        for before, after in pairs.values()
    ]
    rare = min(data.counts, key=lambda name: data.counts[name])
    score = next(c for c in errors(next(iter(pairs.values()))[1]).by_class if c.name == rare)
    worth = 100 / max(1, score.total) / len(data.classes)
    return (
        f"Balanced accuracy with weights, {len(gaps)} splits: {', '.join(f'{gap:+.1f}' for gap in gaps)} points. One photo of "
        f"{rare} is worth {worth:.1f} points of it, and a series is right or wrong together."
    )


def _difference(one: Run, other: Run) -> str:
    """What two runs differ in besides class weights, in a few words; empty for nothing."""
    if one.fingerprint != other.fingerprint:
        return "their data"
    if one.strategy != other.strategy:
        return "strategy"
    if (one.plan.start, one.plan.model, one.plan.edits, one.plan.frozen) != (
        other.plan.start,
        other.plan.model,
        other.plan.edits,
        other.plan.frozen,
    ):
        return "what trains"
    same = replace(other.options, class_weights=one.options.class_weights)
    names = [name for name, value in vars(one.options).items() if value != getattr(same, name)]
    return names[0].replace("_", " ") if names else ""


@exercise("8.3", "In PyTorch: the saved network without tlnb")
def without_tlnb(tl: Session, names: Mapping[str, Any]) -> Steps:
    run = yield from a_run(tl)
    data = tl.dataset
    yield Step(
        "the current data are those of the run",
        data is not None and data.fingerprint == run.fingerprint,
        f"run {run.name!r} was on {run.data}: different data or another split",
        "%tl_train on the current data",
    )
    assert data is not None
    line = "network = glyphnet.load('glyphnet'), with network.head = nn.Linear(network.head.in_features, 3)"
    network = yield from a_network(names, "network", line)
    state, saved = network.state_dict(), run.network().state_dict()
    yield Step(
        "it has the layers of the saved network",
        {n: t.shape for n, t in state.items()} == {n: t.shape for n, t in saved.items()},
        "names or shapes differ from those in the file",
        "as many outputs as classes: network.head = nn.Linear(network.head.in_features, 3)",
    )
    others = [name for name, tensor in saved.items() if not torch.equal(tensor, state[name].cpu())]
    yield Step(
        "its numbers are the run's",
        not others,
        f"{len(others)} tensors differ, {others[0] if others else ''} first",
        "they are not loaded yet: %tl_save leaves.safetensors writes them, load_state_dict loads them",
        'network.load_state_dict(load_file("leaves.safetensors")), from safetensors.torch',
    )
    yield Step(
        "it is in eval mode",
        not network.training,
        "in train mode BatchNorm would use each batch's statistics, and change its own",
        "network.eval(), after everything that calls train()",
    )
    guesses, answers = names.get("guesses"), run.answers().guesses
    given = None if guesses is None else np.asarray(guesses).ravel()
    yield Step(
        "guesses holds a class number for each test image",
        given is not None and len(given) == len(answers),
        "there is no variable guesses"
        if given is None
        else f"it holds {len(given)}, there are {len(answers)} test images",
        'guesses = network(inputs).argmax(1), with inputs made from tl.dataset.images["test"]',
    )
    same = int((torch.as_tensor(given) == answers).sum())
    yield Step(
        "they are the run's predictions",
        same >= MIN_AGREEMENT * len(answers),
        f"{same} of {len(answers)} are: the network gets different inputs than in training",
        "images are uint8, 0 to 255: resize them to 32×32 pixels, divide by 255",
        "then subtract glyphnet.MEAN and divide by glyphnet.STD, one number per colour channel",
    )
    right = float((torch.as_tensor(given) == run.answers().truths).float().mean())
    return (
        f"{same} of {len(answers)} predictions agree, and {right:.1%} of all are right: the file and a few lines of code are "
        "all you need to take with you."
    )
