"""The arguments of each magic, and how a line is parsed.

An error of argparse becomes one line that says what would work.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from IPython.core.error import UsageError as IPythonUsageError
from IPython.core.magic_arguments import argument, magic_arguments

from tlnb.core.models.catalogue import SORTS
from tlnb.core.planning.magic_lines import quoted
from tlnb.core.planning.old_names import NEW_OPTION, todays_words
from tlnb.core.planning.options import OPTIONS, Option
from tlnb.core.planning.other_tools import meant_option, repaired, spaced_path
from tlnb.core.planning.plan import ALIASES, STRATEGIES
from tlnb.core.runtime.errors import UsageError, did_you_mean

Method = TypeVar("Method", bound=Callable[..., Any])
Arguments = tuple[argument, ...]


def takes(*arguments: argument) -> Callable[[Method], Method]:
    """Declare a magic's arguments."""

    def decorate(method: Method) -> Method:
        for declare in reversed(arguments):  # in the order in which decorators are applied
            method = declare(method)
        declared: Method = magic_arguments()(method)
        return declared

    return decorate


class _YesOrNo(argparse.Action):
    """Stores a constant; the other one of the same destination in the same line is refused."""

    def __call__(self, parser: Any, chosen: Any, values: Any, flag: str | None = None) -> None:
        if getattr(chosen, self.dest) not in (None, self.const):
            plain = self.dest.replace("_", "-")
            raise UsageError(f"--{plain} and --no-{plain} exclude each other: give one of them")
        setattr(chosen, self.dest, self.const)


def _training_arguments(option: Option) -> Arguments:
    """One argument, or for what the recipe decides unasked, two: yes and no."""
    if not option.either:
        return (_training_argument(option),)
    actions = zip(option.flags, (True, False), (option.help, f"not --{option.flag}"), strict=True)
    return tuple(
        argument(
            f"--{flag}",
            dest=option.name,
            action=_YesOrNo,
            nargs=0,
            const=const,
            default=None,
            help=text,
        )
        for flag, const, text in actions
    )


def _training_argument(option: Option) -> argument:
    flag = f"--{option.flag}"
    if option.is_switch:
        action = "store_false" if option.default else "store_true"
        return argument(flag, dest=option.name, action=action, help=option.help)
    return argument(
        flag,
        dest=option.name,
        type=option.number,
        default=option.default,
        metavar=option.metavar,
        help=option.help,
    )


TRAIN: Arguments = tuple(each for option in OPTIONS for each in _training_arguments(option))
TRAINING: Arguments = tuple(
    each for option in OPTIONS if not option.of_train for each in _training_arguments(option)
)
DATA: Arguments = (
    argument(
        "source",
        help="digits, symbols, textures, faces; a folder with one folder per class, a .zip, .tar or .tgz of one; "
        "a table of paths and labels (.csv, .tsv); CIFAR10, …",
    ),
    argument(
        "--shots",
        "--per-class",
        dest="per_class",
        type=int,
        metavar="N",
        help="use N labels per class, counting every label (few-shot; --shots N is the same)",
    ),
    argument("--limit", type=int, metavar="N", help="use N images in all, the same per class"),
    argument("--val", type=float, metavar="F", help="share of the labels held out for choosing"),
    argument("--test", type=float, metavar="F", help="share of the images held out for testing"),
    argument("--size", type=int, metavar="PX", help="the network's input edge in pixels"),
    argument("--classes", type=int, metavar="K", help="how many classes to draw (symbols)"),
    argument(
        "--group",
        metavar="REGEX-or-CSV",
        help="images of a group stay in one split, e.g. ([^/]+)_ (write { as {{)",
    ),
    argument(
        "--root", metavar="DIR", help="where torchvision's data sets are, or are downloaded to"
    ),
    argument("--seed", type=int, default=0, metavar="S", help="which images are chosen; default 0"),
)
MODELS: Arguments = (
    argument("pattern", nargs="?", help="a glob, or part of a name; timm/* lists timm's"),
    argument(
        "--sort", metavar="ORDER", help=f"what comes first: {', '.join(SORTS)}; default {SORTS[0]}"
    ),
)
LOAD: Arguments = (
    argument(
        "name",
        help="a model of %%tl_models, timm/NAME, hf-hub:ORG/NAME, a variable that holds your nn.Module or a run, or a saved file",
    ),
    argument(
        "--weights",
        default="default",
        metavar="W",
        help="default, none (random), a name of torchvision's, or a file",
    ),
    argument("--mean", metavar="R,G,B", help="replace the preprocessing's mean"),
    argument("--std", metavar="R,G,B", help="replace the preprocessing's standard deviation"),
    argument("--size", type=int, metavar="PX", help="replace the input edge"),
    argument(
        "--trust",
        action="store_true",
        help="run code in a saved file that is more than nn.* constructors",
    ),
)
LAYERS: Arguments = (
    argument("--all", action="store_true", help="every layer, not only the stages"),
)
STRATEGY: Arguments = (
    argument("name", nargs="?", help=f"{', '.join(STRATEGIES)}; also {', '.join(ALIASES)}"),
    argument("--last", type=int, metavar="N", help="partial only: train the last N stages"),
    argument("--rank", type=int, metavar="R", help="adapter only: the rank of each added part"),
)
PATTERNS: Arguments = (
    argument(
        "patterns", nargs="*", metavar="PATTERN", help="a layer, a stage, a glob, or a range a..b"
    ),
)
ADD: Arguments = (
    argument("place", help="before:NAME or after:NAME, a module's name"),
    argument("code", nargs="+", help="an expression, the rest of the line: nn.Dropout(0.2)"),
)
REMOVE: Arguments = (argument("pattern", help="a module, a stage, a glob, or a range a..b"),)
REPLACE: Arguments = (
    argument("name", help="a module's name"),
    argument(
        "code",
        nargs="*",
        help="an expression, the rest of the line; as %%%%tl_replace NAME the cell's body",
    ),
)
ADVISE: Arguments = (
    argument("--budget", metavar="B", help="what the training may cost: 5min, or 2usd"),
    argument(
        "--models",
        nargs="*",
        metavar="NAME",
        help="which of these networks is the best source; a pattern means those on disk; "
        "default: all on disk",
    ),
)
TUNE: Arguments = (
    argument(
        "--trials",
        type=int,
        default=20,
        metavar="N",
        help="sets of hyperparameters to try; default 20",
    ),
    argument(
        "--budget", metavar="B", help="5min, or 0.1usd: no trial starts that would likely exceed it"
    ),
    argument("--scratch", action="store_true", help="tune the baseline of the last run"),
    argument(
        "--storage",
        metavar="URL",
        help="a journal file, or sqlite:///tuning.db; several processes may share it",
    ),
    argument("--epochs", type=int, metavar="N", help="epochs per trial; default: the recipe's"),
    argument(
        "--seed",
        type=int,
        default=0,
        metavar="S",
        help="seed of the search and of the trainings; default 0",
    ),
)
COST: Arguments = (
    argument("--price", metavar="X/h", help="what an hour costs, from now on: 0.5usd/h"),
)
SAVE: Arguments = (
    argument(
        "file",
        nargs="?",
        help="ending in .safetensors, .pt2 (torch.export), .onnx or .html (a page that runs it); "
        "default: by the run's name",
    ),
    argument("--run", metavar="RUN", help="default: the latest run that is not a baseline"),
    argument(
        "--runtime",
        metavar="DIR",
        help="for a page: a folder with onnxruntime-web, put into it; default: from a CDN",
    ),
    argument(
        "--job",
        metavar="FILE",
        help="write a job file for %%tl_train with these options instead; needs no run",
    ),
    *TRAINING,
)
RESUME: Arguments = (
    argument(
        "where",
        nargs="?",
        metavar="FOLDER",
        help="folder of an earlier session; default: this notebook's latest",
    ),
    argument("--trust", action="store_true", help="run your own code from the saved session"),
)
COMPARE: Arguments = (
    argument("runs", nargs="*", metavar="RUN", help="names; default: all runs on the current data"),
    argument(
        "--target", type=float, metavar="ACC", help="accuracy (0 to 1) for the time to reach it"
    ),
    argument("--price", metavar="X/h", help="what an hour costs, e.g. 0.5usd/h"),
    argument(
        "--tuning",
        default="apart",
        metavar="HOW",
        help="apart (in its own rows), or in (added to the runs that use it)",
    ),
)
ERRORS: Arguments = (
    argument("--run", metavar="NAME", help="which run; default: the latest that is not a baseline"),
)
PREDICT: Arguments = (
    argument("files", nargs="+", metavar="FILE", help="image files, globs, or folders of images"),
    argument(
        "--run",
        metavar="NAME",
        help="which run; default: the latest that is not a baseline, else the loaded model",
    ),
    argument(
        "--top",
        type=int,
        default=3,
        metavar="K",
        help="how many classes to show per image; default 3",
    ),
    argument(
        "--always",
        action="store_true",
        help="answer also where an image is unlike all that the network knows",
    ),
)
LOOK: Arguments = (
    argument(
        "what",
        nargs="*",
        metavar="WHAT",
        help="features (the default), stages (linear probes), evidence (Grad-CAM), or image files",
    ),
    argument(
        "--run",
        metavar="NAME",
        help="whose network; default for evidence: the latest run that is not a baseline",
    ),
)
CODE: Arguments = (
    argument(
        "--run",
        metavar="NAME",
        help="default: the latest run that is not a baseline; without runs, the plan",
    ),
    argument("--out", metavar="FILE", help="write the script to this file"),
)
CHECK: Arguments = (
    argument("name", nargs="?", help="an exercise, e.g. 1.1; default: all, and how far you are"),
    argument("--export", metavar="FILE", help="write all results to this JSON file"),
    argument("--learner", metavar="NAME", help="whose results they are"),
)
PANEL: Arguments = (
    argument(
        "name", nargs="?", help="data, model, layers, train, compare or use; default: all of them"
    ),
)


def training(chosen: argparse.Namespace) -> dict[str, Any]:
    """The training options among the parsed arguments, by the names of `Session.train`."""
    return {each.name: getattr(chosen, each.name) for each in OPTIONS if hasattr(chosen, each.name)}


def place_and_code(magic: str, example: str, line: str) -> tuple[str, str, bool]:
    """Split a line into its first word, the rest, and whether a trailing `;` silences it.

    Raises:
        UsageError: fewer than two words.
    """
    silent = line.rstrip().endswith(";")
    match = re.fullmatch(r"\s*(\S+)\s+(\S.*?)[\s;]*", line, re.DOTALL)
    if not match:
        raise UsageError(f"%{magic} needs a name and an expression: %{magic} {example}")
    return match[1], match[2], silent


def options_of(method: Callable[..., Any]) -> list[str]:
    """The options that a magic takes: `--epochs` …"""
    actions = method.parser._actions  # type: ignore[attr-defined]
    return [o for action in actions for o in action.option_strings if o.startswith("--")]


def by_todays_names(method: Callable[..., Any], words: list[str]) -> tuple[list[str], str]:
    """Rename old options; also return the line that says so (empty if there were none)."""
    return todays_words(words) if NEW_OPTION in options_of(method) else (words, "")


def parse(method: Callable[..., Any], words: list[str]) -> argparse.Namespace:
    """Parse the words of a magic's line.

    Raises:
        UsageError: argparse refuses the words; the message has the line that would work.
    """
    _check_help(method, words)
    _check_options(method, words)
    try:
        return _parsed(method, words)
    except IPythonUsageError as error:
        raise UsageError(_message(method, words, str(error).splitlines()[0])) from None
    except SystemExit:
        raise UsageError(
            f"%{method.__name__} could not read {' '.join(words)!r}: "
            f"%{method.__name__}? shows an example"
        ) from None


def _parsed(method: Callable[..., Any], words: list[str]) -> argparse.Namespace:
    return method.parser.parse_args(words)  # type: ignore[attr-defined, no-any-return]


def _check_help(method: Callable[..., Any], words: list[str]) -> None:
    if {"--help", "-h"} & set(words):
        options = " ".join(options_of(method)) or "it has none"
        raise UsageError(f"%{method.__name__}? shows its options: {options}")


def _check_options(method: Callable[..., Any], words: list[str]) -> None:
    """Raise `UsageError` for an unknown option, and for `target=0.8` where names may stand."""
    name, known = method.__name__, options_of(method)
    for word in words:
        option, equals, _ = word.partition("=")
        if option.startswith("--") and option not in known:
            close = did_you_mean(option, known, f"%{name}? lists its options")
            meant = meant_option(option, known)
            hint = _working_line(method, words) or (f"write {meant}" if meant else close)
            raise UsageError(f"%{name} has no option {option}: {hint}")
        named = equals and not option.startswith("-") and meant_option(option, known)
        if named and not Path(word).exists() and (line := _working_line(method, words)):
            raise UsageError(f"%{name} does not take {word!r}: {line}")


def _working_line(method: Callable[..., Any], words: list[str]) -> str:
    """The line that these words mean, if it can be parsed; else empty."""
    name = method.__name__
    meant = repaired(name.removeprefix("tl_"), words, options_of(method))
    try:
        _parsed(method, meant)
    except (IPythonUsageError, SystemExit):
        return ""
    typed = [word if word.startswith("-") else quoted(word) or repr(word) for word in meant]
    return "write " + " ".join([f"%{name}", *typed]) if meant != words else ""


def _message(method: Callable[..., Any], words: list[str], problem: str) -> str:
    """The error for a line that argparse refuses, with the line that would work if known."""
    name = method.__name__
    if path := spaced_path([word for word in words if not word.startswith("-")]):
        return f'%{name}: a name with spaces needs quotes: %{name} "{path}"'
    if line := _working_line(method, words):
        return f"%{name} does not take {' '.join(words)!r}: {line}"
    return f"%{name}: {problem}; %{name}? shows an example"
