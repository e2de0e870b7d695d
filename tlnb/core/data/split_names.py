"""Map names such as `training_set`, `val2017`, `PublicTest` or `is_valid` to splits."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Set
from itertools import combinations
from typing import NamedTuple

from tlnb.core.runtime.errors import DataError, listed

# As in Hugging Face's `imagefolder`, plus words used in competitions.
WORDS = {
    "train": ("train", "training", "trainset", "trainval"),
    "val": ("val", "valid", "validation", "validate", "valset", "dev", "development"),
    "test": ("test", "testing", "testset", "holdout"),
    "eval": ("eval", "evaluation", "evaluate", "evalset"),  # test if nothing else is, else val
}
SPLIT_OF = {word: split for split, words in WORDS.items() for word in words}
PLAIN = frozenset(word for words in WORDS.values() for word in words)
PIECES = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")  # words between non-letters or in CamelCase
PUBLIC = {("public", "test"): "val", ("private", "test"): "test"}  # a leaderboard's two tests
YES = frozenset(("true", "t", "yes", "y", "1", "1.0"))
NO = frozenset(("false", "f", "no", "n", "0", "0.0"))


class SplitName(NamedTuple):
    """The split that a name means, and whether the name says nothing else."""

    split: str  # train, val, test, or eval
    plain: bool


def split_name(text: str) -> SplitName | None:
    """The split that the words of a name mean; None if there is none or more than one."""
    words = tuple(word.lower() for word in PIECES.findall(text))
    if words in PUBLIC:
        return SplitName(PUBLIC[words], False)
    joined = SPLIT_OF.get("".join(words))  # hold-out
    splits = {joined} if joined else {SPLIT_OF[word] for word in words if word in SPLIT_OF}
    if len(splits) != 1:
        return None
    return SplitName(splits.pop(), text.strip().lower() in PLAIN)


def settled(splits: Iterable[str]) -> Mapping[str, str]:
    """The final name of each split: `eval` becomes test if nothing else is, else val."""
    names = set(splits)
    eval_split = "val" if "test" in names else "test"
    return {split: eval_split if split == "eval" else split for split in names}


def yes_or_no(text: str) -> bool | None:
    """Read a flag such as `true` or `no`; None if it is neither."""
    word = text.strip().lower()
    if word in YES:
        return True
    return False if word in NO else None


# ── folders ───────────────────────────────────────────────────────────────────────────────────────


def split_folders(top: str, inside: Mapping[str, Set[str]]) -> dict[str, str]:
    """Split → the folder with its images; empty if the folders are classes.

    Folders named exactly `train`, `val` and `test` are splits. Others with such a word in their
    names are splits if the same class folders lie in several of them.

    Args:
        top: what the folder is called in an error.
        inside: the folders in it → the names of the folders in those.

    Raises:
        DataError: it is ambiguous.
    """
    named = {folder: name for folder in inside if (name := split_name(folder))}
    final = settled(name.split for name in named.values())
    by_split: dict[str, list[str]] = {}
    for folder, name in sorted(named.items(), key=lambda item: not item[1].plain):
        if not (name.plain and final[name.split] in by_split):
            by_split.setdefault(final[name.split], []).append(folder)
    first = [(split, folders[0], len(folders)) for split, folders in by_split.items()]
    parts = {split: folder for split, folder, n in first if n == 1 or named[folder].plain}
    deeper = {folder for folder, names in inside.items() if len(names) > 1}
    deep, train_alone = parts.get("train") in deeper, deeper == {parts.get("train")}
    alone, plain = len(named) == len(inside), all(named[folder].plain for folder in parts.values())
    clear, repeat = len(parts) == len(by_split) and "train" in parts, _repeat(named, inside)
    named_so = (alone and (plain or train_alone)) or (plain and deep and len(parts) > 1)
    if clear and (repeat or named_so):
        return parts
    if repeat or (deep and deeper <= set(named)):
        raise DataError(
            f"{top}: it cannot be told whether {listed(sorted(named), 4)} are splits or classes: "
            "rename the splits to train/ and test/ (val/ too), and move what is neither elsewhere"
        )
    return {}


def _repeat(named: Iterable[str], inside: Mapping[str, Set[str]]) -> bool:
    """Whether some class folder lies in more than one of these folders."""
    return any(inside[one] & inside[other] for one, other in combinations(named, 2))


def check_splits_come_first(top: str, inside: Iterable[Set[str]]) -> None:
    """Raise `DataError` if every class folder holds splits: `cats/train`, `cats/test`."""
    splits = [{name.split for word in names if (name := split_name(word))} for names in inside]
    if splits and all("train" in names and len(names) > 1 for names in splits):
        raise DataError(
            f"{top}: every class folder holds folders of splits: put the classes into those, as in "
            "train/CLASS/ and test/CLASS/, or name files, labels and splits in a CSV file"
        )
