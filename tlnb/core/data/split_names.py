"""Which split a folder's name, or a value of a table, means: `training_set`, `val2017`, `PublicTest`, `is_valid`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Set
from itertools import combinations
from typing import NamedTuple

from tlnb.core.runtime.errors import DataError, listed

# As Hugging Face's `imagefolder` has them, and what competitions add.
WORDS = {
    "train": ("train", "training", "trainset", "trainval"),
    "val": ("val", "valid", "validation", "validate", "valset", "dev", "development"),
    "test": ("test", "testing", "testset", "holdout"),
    "eval": ("eval", "evaluation", "evaluate", "evalset"),  # the test where there is none, else val
}
SPLIT_OF = {word: split for split, words in WORDS.items() for word in words}
PLAIN = frozenset(word for words in WORDS.values() for word in words)
PIECES = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")  # words between non-letters, and of CamelCase
PUBLIC = {("public", "test"): "val", ("private", "test"): "test"}  # a leaderboard's two tests
YES = frozenset(("true", "t", "yes", "y", "1", "1.0"))
NO = frozenset(("false", "f", "no", "n", "0", "0.0"))


class SplitName(NamedTuple):
    """The split that a name means, and whether it says nothing else."""

    split: str  # train, val, test, or eval
    plain: bool


def split_name(text: str) -> SplitName | None:
    """The split that the words of a name mean; None where there is none, or more than one."""
    words = tuple(word.lower() for word in PIECES.findall(text))
    if words in PUBLIC:
        return SplitName(PUBLIC[words], False)
    joined = SPLIT_OF.get("".join(words))  # hold-out
    splits = {joined} if joined else {SPLIT_OF[word] for word in words if word in SPLIT_OF}
    if len(splits) != 1:
        return None
    return SplitName(splits.pop(), text.strip().lower() in PLAIN)


def settled(splits: Iterable[str]) -> Mapping[str, str]:
    """What each split is called in the end: `eval` is the test where nothing else is, else val."""
    found = set(splits)
    return {
        split: split if split != "eval" else ("val" if "test" in found else "test")
        for split in found
    }


def yes_or_no(text: str) -> bool | None:
    """What a column of `true` and `false` says; None for neither."""
    word = text.strip().lower()
    return True if word in YES else False if word in NO else None


# ── folders ───────────────────────────────────────────────────────────────────────────────────────


def split_folders(top: str, inside: Mapping[str, Set[str]]) -> dict[str, str]:
    """Split → the folder with its images; empty where the folders are classes.

    Folders called just `train`, `val` and `test` are splits. Others with such a word in their names are, where the class
    folders of one lie in the other too.

    Args:
        top: what the folder is called in an error.
        inside: the folders in it → the names of the folders in those.

    Raises:
        DataError: it cannot be told.
    """
    named = {folder: name for folder in inside if (name := split_name(folder))}
    final = settled(name.split for name in named.values())
    by_split: dict[str, list[str]] = {}
    for folder, name in sorted(named.items(), key=lambda item: not item[1].plain):
        if not (name.plain and final[name.split] in by_split):
            by_split.setdefault(final[name.split], []).append(folder)
    parts = {
        split: folders[0]
        for split, folders in by_split.items()
        if len(folders) == 1 or named[folders[0]].plain
    }
    deeper = {folder for folder, names in inside.items() if len(names) > 1}
    deep, train_alone = parts.get("train") in deeper, deeper == {parts.get("train")}
    alone, plain = len(named) == len(inside), all(named[folder].plain for folder in parts.values())
    clear = len(parts) == len(by_split) and "train" in parts
    if clear and (
        _repeat(named, inside)
        or (alone and (plain or train_alone))
        or (plain and deep and len(parts) > 1)
    ):
        return parts
    if _repeat(named, inside) or (deep and deeper <= set(named)):
        raise DataError(
            f"{top}: it cannot be told whether {listed(sorted(named), 4)} are splits or classes: rename the splits to train/ and "
            "test/ (val/ too), and move what is neither elsewhere"
        )
    return {}


def _repeat(named: Iterable[str], inside: Mapping[str, Set[str]]) -> bool:
    """Whether a class folder lies in more than one of these."""
    return any(inside[one] & inside[other] for one, other in combinations(named, 2))


def check_splits_come_first(top: str, inside: Iterable[Set[str]]) -> None:
    """Raises `DataError` where every class folder holds folders of splits: `cats/train`, `cats/test`."""
    splits = [{name.split for word in names if (name := split_name(word))} for names in inside]
    if splits and all("train" in names and len(names) > 1 for names in splits):
        raise DataError(
            f"{top}: every class folder holds folders of splits: put the classes into those, as in train/CLASS/ and "
            "test/CLASS/, or name files, labels and splits in a CSV file"
        )
