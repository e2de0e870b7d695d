"""Names from other tools, and ours for them; every answer is a line that works."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from tlnb.core.planning.options import OPTIONS

HABITS = {  # keys without hyphens and underscores
    **{word: each.flag for each in OPTIONS for word in each.also},
    "shots": "per-class",
    "nshot": "per-class",
    "samplesperclass": "per-class",
    "maxsamples": "limit",
    "subset": "limit",
    "imgsz": "size",
    "imagesize": "size",
    "imgsize": "size",
    "inputsize": "size",
    "resolution": "size",
    "validpct": "val",
    "valsplit": "val",
    "validationsplit": "val",
    "testsize": "test",
    "testsplit": "test",
    "numclasses": "classes",
    "pretrained": "weights",
    "checkpointpath": "weights",
    "output": "out",
    "outfile": "out",
    "o": "out",
    "topk": "top",
}
METHODS = {
    "fit": "train",
    "fit_one_cycle": "train",
    "fine_tune": "train",
    "finetune": "train",
    "learn": "train",
    "run": "train",
    "evaluate": "errors",
    "validate": "errors",
    "score": "errors",
    "confusion_matrix": "errors",
    "interpret": "errors",
    "summary": "layers",
    "describe": "layers",
    "lr_find": "tune",
    "search": "tune",
    "infer": "predict",
    "classify": "predict",
    "load_data": "data",
    "dataset_from": "data",
    "load_model": "load",
    "create_model": "load",
    "export": "save",
    "freeze_to": "freeze",
    "plot": "compare",
    "plot_history": "compare",
}


def meant_option(word: str, known: Sequence[str]) -> str:
    """The option that a word means: `--learning-rate` is `--lr`; empty if there is none."""
    plain = re.sub(r"[-_]", "", word).lower()
    by_plain = {re.sub(r"[-_]", "", option): option for option in known}
    habit = HABITS.get(plain, "").replace("-", "")
    return by_plain.get(plain) or by_plain.get(habit) or ""


def meant_words(
    magic: str, words: Sequence[str], known: Sequence[str], numbers: Mapping[str, str]
) -> str:
    """The line that would work in place of words that no option takes; empty if unknown.

    Args:
        known: the options, `--epochs` …
        numbers: magic → the option that a number alone means.
    """
    for word, following in zip(words, [*words[1:], ""], strict=False):
        name, equals, value = word.partition("=")
        if equals and not name.startswith("-") and (option := meant_option(name, known)):
            return f"write %{magic} {option} {value}"
        if re.fullmatch(r"-[A-Za-z]\w*", word) or (re.fullmatch(r"-[A-Za-z]+", word)):
            options = [o for o in known if o.startswith(f"--{word[1:]}")] or [
                o for o in known if o[2] == word[1]
            ]
            option = meant_option(word, known) or (options[0] if options else "")
            if option:
                return f"write %{magic} {option} {following}".rstrip()
        if re.fullmatch(r"\d+([.]\d+)?", word) and magic in numbers:
            return f"write %{magic} {numbers[magic]} {word}"
    return ""


def spaced_path(words: Sequence[str]) -> str:
    """The existing file or folder that these words name if quoted; empty if there is none."""
    for count in range(len(words), 1, -1):
        text = " ".join(words[:count])
        if Path(text).exists():
            return text
    return ""
