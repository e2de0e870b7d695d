"""The card of a data set."""

from __future__ import annotations

from tlnb.core.data.dataset import CONVENTION, DataSet
from tlnb.core.data.duplicates import Leak
from tlnb.core.data.splits import TEST_SHARE
from tlnb.core.planning.size_rule import size_rule
from tlnb.display import charts
from tlnb.display.html import card, facts, line, long_table, note, picture

# ratio of the largest to the smallest class from which the card mentions it
MENTIONED_IMBALANCE = 3.0


def data_card(data: DataSet) -> str:
    counts = data.counts
    low, high = min(counts.values()), max(counts.values())
    each = f"{low}" if low == high else f"{low} to {high}"
    splits = ", ".join(f"{n:,} {split}" for split, n in data.splits.items())
    used = sum(counts.values())
    rows = [
        (
            "classes",
            f"{len(data.classes)}: {', '.join(data.classes[:12])}{' …' if len(data.classes) > 12 else ''}",
        ),
        ("images", splits),
        ("splits", "; ".join(_origin(data, split) for split in data.splits)),
        ("labels in use", f"{used:,} ({each} in each class)"),
        ("size verdict", f"{size_rule(data.per_class)!r} (a convention: {CONVENTION})"),
        ("kept at", f"{data.edge}×{data.edge} pixels"),
    ]
    if data.imbalance >= MENTIONED_IMBALANCE:
        few, many = (next(c for c, n in counts.items() if n == amount) for amount in (low, high))
        skew = f"{many} has {data.imbalance:.3g} times as many labels as {few}: see balanced accuracy, or train --class-weights"
        rows.append(("imbalance", skew))
    if data.groups is not None:
        rows.append(("groups", f"{data.groups:,}; no group is divided by a split made here"))
    parts = [facts(rows), *(note(words) for words in data.notes)]
    if data.leaks:
        same = sum(leak.same for leak in data.leaks)
        parts.append(
            line(
                f"{len(data.leaks)} images are in two splits ({same} identical, {len(data.leaks) - same} nearly):"
            )
        )
        parts.append(
            long_table(
                ["image", "repeats"],
                [[f"{k.image} ({k.split})", _repeated(k)] for k in data.leaks],
                left=2,
            )
        )
    if data.skipped:
        parts.append(line(f"{len(data.skipped)} files were skipped:"))
        parts.append(long_table(["file and reason"], [[s] for s in data.skipped]))
    training = "all training images" if data.splits["train"] <= 120 else "some training images"
    parts.append(picture(charts.samples(data), f"{training} of {data.name}, one column per class"))
    return card(f"{data.name}: {splits}", *parts)


def _origin(data: DataSet, split: str) -> str:
    """What a split is for, and where it came from."""
    purpose = {
        "train": "teaches",
        "val": "chooses, as the best epoch",
        "monitor": "only draws curves",
        "test": "is only reported",
    }[split]
    folder = dict(data.folders).get(split)
    if split == "monitor":
        where = "spare images"
    elif folder is not None and split == "test" and folder.endswith("val"):
        where = f"your {folder}/ is kept as the test"
    elif folder is not None:
        where = f"your {folder}/"
    elif split in data.brought:
        where = "it came with the data"
    elif split == "train":
        where = "the labels in use" if "val" not in data.splits else "the other labels in use"
    else:
        share = {"val": data.request.val, "test": data.request.test}[split]
        of = "the labels in use" if split == "val" else "all images"
        where = f"{TEST_SHARE if share is None else share:.0%} of {of}, drawn here"
    return f"{split} {purpose} ({where})"


def _repeated(leak: Leak) -> str:
    return f"{leak.other} ({leak.other_split}), {'pixel for pixel' if leak.same else 'nearly identical'}"
