"""Names from other tools, and ours for them; every answer is a line that works."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from tlnb.core.planning.options import OPTIONS

# Our option, and other tools' words for it without hyphens and underscores.
WORDS = {
    **{each.flag: each.also for each in OPTIONS},
    "per-class": ("nshot", "nshots", "samplesperclass"),
    "limit": ("maxsamples", "subset"),
    "size": ("imgsz", "imagesize", "imgsize", "inputsize", "resolution"),
    "val": ("validpct", "valsplit", "validationsplit"),
    "test": ("testsize", "testsplit"),
    "classes": ("numclasses",),
    "weights": ("pretrained", "checkpointpath"),
    "out": ("output", "outfile", "o"),
    "top": ("topk",),
    "trials": ("ntrials",),
    "budget": ("timeout", "maxtime"),
    "target": ("targetaccuracy",),
    "last": ("lastlayers", "nlayers"),
}
HABITS = {word: option for option, words in WORDS.items() for word in words}
CALLS = {  # our call, and other tools' methods that do the same
    "train": ("fit", "fit_one_cycle", "fine_tune", "finetune", "learn", "run"),
    "errors": ("evaluate", "validate", "score", "confusion_matrix", "interpret"),
    "layers": ("summary", "describe"),
    "tune": ("lr_find", "search", "tune_hyperparameters"),
    "predict": ("infer", "classify"),
    "data": ("load_data", "dataset_from"),
    "load": ("load_model", "create_model"),
    "save": ("export",),
    "freeze": ("freeze_to", "linear_probe", "feature_extraction"),
    "unfreeze": ("unfreeze_all",),
    "compare": ("plot", "plot_history"),
    "look": ("gradcam", "grad_cam", "explain"),
    "code": ("to_pytorch",),
}
METHODS = {method: call for call, methods in CALLS.items() for method in methods}

AMOUNT = r"\d+([.]\d+)?(s|sec|min|h|usd|eur)"  # of time or money
NUMBER = r"\d+([.]\d+)?"
# What a word alone means after a magic, or a value without a name in a call: option, pattern.
ALONE = {
    "train": {"epochs": NUMBER, "budget": AMOUNT},
    "forecast": {"epochs": NUMBER},
    "tune": {"trials": r"\d+", "budget": AMOUNT},
    "data": {"per-class": r"\d+"},
    "strategy": {"last": r"\d+"},
    "strategy adapter": {"rank": r"\d+"},
    "advise": {"budget": AMOUNT},
    "cost": {"price": r".+/h"},
    "code": {"out": r".+[.]py", "run": r"[\w-]+"},
    "errors": {"run": r"[\w-]+"},
}
LOOKS = {  # other names of what `look` shows
    **dict.fromkeys(("grad-cam", "gradcam", "saliency", "heatmap", "attribution"), "evidence"),
    **dict.fromkeys(("embeddings", "embedding", "tsne", "t-sne", "umap", "pca"), "features"),
    **dict.fromkeys(("probes", "probe", "linear-probes"), "stages"),
}


def meant_option(word: str, known: Sequence[str]) -> str:
    """The option that a word means: `--learning-rate` is `--lr`; empty if there is none."""
    plain = re.sub(r"[-_]", "", word).lower()
    by_plain = {re.sub(r"[-_]", "", option): option for option in known}
    habit = HABITS.get(plain, "").replace("-", "")
    return by_plain.get(plain) or by_plain.get(habit) or ""


def short_option(word: str, known: Sequence[str]) -> str:
    """The option that a word with one hyphen means: `-e` is `--epochs`; empty if there is none."""
    if not re.fullmatch(r"-[A-Za-z][\w-]*", word):
        return ""
    letters = [o for o in known if o.startswith(f"--{word[1:]}")]
    return meant_option(word, known) or next(iter(letters), "")


def alone(call: str, value: str, first: object = "") -> str:
    """The option that a value without a name means after this call: `5` is `epochs` of `train`.

    Args:
        first: the call's first value, on which it may depend.
    """
    options = ALONE.get(f"{call} {first}", ALONE.get(call, {}))
    fitting = (o for o, pattern in options.items() if re.fullmatch(pattern, value))
    return next(fitting, "")


def repaired(call: str, words: Sequence[str], known: Sequence[str]) -> list[str]:
    """The words with options as the magic has them; whether it takes them is for its parser to say.

    `epochs=5`, `epochs 5`, `-e 5`, `--n_epochs 5` and `5` become `--epochs 5`.

    Args:
        call: the magic without `%tl_`.
        known: its options, `--epochs` …
    """
    result: list[str] = []
    for word in words:
        if word == "=":
            continue
        is_value = bool(result) and result[-1].startswith("--")
        plain = is_value and not word.startswith("-")
        result += [word] if plain else _options(call, words[0], word, known)
    return result


def _options(call: str, first: str, word: str, known: Sequence[str]) -> list[str]:
    """A word that is not an option's value, as the option that it means; else as it is."""
    name, equals, value = word.partition("=")
    option = short_option(name, known) or meant_option(name, known)
    if option and (equals or word not in known):
        return [option] if value in ("", "True", "true") else [option, value]
    lone = f"--{alone(call, word, first)}"
    return [lone, word] if lone in known else [word]


def spaced_path(words: Sequence[str]) -> str:
    """The existing file or folder that these words name if quoted; empty if there is none."""
    for count in range(len(words), 1, -1):
        text = " ".join(words[:count])
        if Path(text).exists():
            return text
    return ""
