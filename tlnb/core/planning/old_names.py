"""Option names from earlier versions: lines, calls and files that use them keep working."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ParamSpec, TypeVar

from tlnb.core.runtime.errors import UsageError

OLD_OPTION, NEW_OPTION = "--solver", "--optimizer"  # of version 0.1.0
OLD_OPTIMIZERS = {"sgd": "adamw"}  # what `--solver` called it

P = ParamSpec("P")
R = TypeVar("R")


def todays_options(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Rename old options: `solver` to `optimizer`, and its `sgd`, which ran AdamW, to `adamw`.

    Raises:
        UsageError: both names are given.
    """
    rest = dict(asked)
    if "solver" not in rest:
        return rest
    solver = rest.pop("solver")
    if "optimizer" in rest:
        raise UsageError(f"solver={solver!r} is the old name of optimizer: give optimizer alone")
    return rest | {"optimizer": OLD_OPTIMIZERS.get(str(solver), solver)}


def takes_old_names(call: Callable[P, R]) -> Callable[P, R]:
    """Decorate a call to accept old option names, with a warning that says the new name."""

    @functools.wraps(call)
    def renamed(*args: P.args, **kwargs: P.kwargs) -> R:
        if "solver" not in kwargs:
            return call(*args, **kwargs)
        options: Any = todays_options(kwargs)
        new = f"optimizer={options['optimizer']!r}"
        message = f"solver={kwargs['solver']!r} is now called {new}"
        # of the line to be changed, which called the guided call that called this
        warnings.warn(message, FutureWarning, stacklevel=3)
        return call(*args, **options)

    return renamed


def todays_words(words: Sequence[str]) -> tuple[list[str], str]:
    """Rename old options among the words of a training's line.

    Returns:
        The words, and a line that says what was renamed (empty if nothing was).
    """
    at = next((i for i, word in enumerate(words) if word.partition("=")[0] == OLD_OPTION), None)
    if at is None:
        return list(words), ""
    _, equals, value = words[at].partition("=")
    rest = words[at + 1 :]
    value, rest = (value, rest) if equals else ("".join(rest[:1]), rest[1:])
    new = OLD_OPTIMIZERS.get(value, value)
    renamed = [*words[:at], NEW_OPTION, *([new] if new else []), *rest]
    return renamed, f"{OLD_OPTION} {value} is now called {NEW_OPTION} {new}"
