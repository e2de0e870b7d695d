"""Answers to calls whose arguments do not fit: one line with the call that would work."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import numpy as np
import torch

from tlnb.core.planning.magic_lines import keyword
from tlnb.core.planning.old_names import OLD_OPTION, todays_options
from tlnb.core.planning.options import Asked
from tlnb.core.planning.other_tools import alone, meant_option
from tlnb.core.runtime.errors import UsageError, did_you_mean, listed

Class = TypeVar("Class", bound=type[Any])

NUMBERS = {"int": int, "int | None": int, "float": float, "float | None": float}
SAME = {"shots": "per_class"}  # keywords with two names
EXAMPLES = {
    "data": "tl.data('digits', per_class=2)",
    "load": "tl.load('glyphnet')",
    "add": "tl.add('before:head', 'nn.Dropout(0.2)')",
    "remove": "tl.remove('layer4')",
    "replace": "tl.replace('head', 'nn.Linear(in_features, classes)')",
    "train": "tl.train(epochs=20)",
    "tune": "tl.tune(trials=30)",
    "strategy": "tl.strategy('partial', last=2)",
    "advise": "tl.advise(budget='5min')",
    "save": "tl.save('network.safetensors')",
    "check": "tl.check('1.1')",
}
MAX_VALUE = 40  # characters of a value in a suggested call


class BadCall(UsageError, TypeError):
    """Arguments that a call does not take; a TypeError too, which is what Python raises."""


def guided(kind: Class) -> Class:
    """Decorate a class so that its public methods refuse bad arguments with what would work."""
    for name, call in vars(kind).copy().items():
        if inspect.isfunction(call) and not name.startswith("_"):
            setattr(kind, name, _guided(name, call))
    return kind


def _guided(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
    signature = inspect.signature(call)
    kinds = _keywords(signature)
    patterns = [f"*{p.name}" for p in signature.parameters.values() if p.kind is p.VAR_POSITIONAL]
    takes = [*patterns, *kinds]

    @functools.wraps(call)
    def checked(*args: Any, **kwargs: Any) -> Any:
        args = tuple(map(_plain, args))
        named = {k if k in kinds else SAME.get(k, k): value for k, value in kwargs.items()}
        given = {k: _plain(value, kinds.get(k, "")) for k, value in named.items()}
        _check_names(name, kinds, _example(name, takes), args[1:], given)
        _check_positions(name, signature, _example(name, takes), args[1:], given)
        _check_numbers(name, kinds, args[1:], given)
        try:
            signature.bind(*args, **todays_options(given))
        except TypeError as error:
            raise BadCall(f"tl.{name}: {error}; {_example(name, takes)}") from None
        return call(*args, **given)

    return checked


def _plain(value: Any, kind: str = "") -> Any:
    """What records can hold: numbers as Python's, whole ones as `int` where one belongs."""
    if isinstance(value, torch.device):
        return str(value)
    value = value.item() if isinstance(value, np.generic) else value
    whole = isinstance(value, float) and value.is_integer() and NUMBERS.get(kind) is int
    return int(value) if whole else value


def _keywords(signature: inspect.Signature) -> dict[str, str]:
    """The keywords of a call and their annotations as text; `**asked` are training options."""
    parameters = list(signature.parameters.values())[1:]
    plain = (p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY))
    more = any(p.kind is p.VAR_KEYWORD for p in parameters)
    options = {n: getattr(a, "__forward_arg__", str(a)) for n, a in Asked.__annotations__.items()}
    return {p.name: str(p.annotation) for p in plain} | (options if more else {})


def _check_names(
    name: str,
    kinds: Mapping[str, str],
    example: str,
    values: tuple[Any, ...],
    given: Mapping[str, Any],
) -> None:
    """Raise `BadCall` for a keyword that the call does not have."""
    old = OLD_OPTION.removeprefix("--")
    known = [*kinds, *([old] if "optimizer" in kinds else [])]
    meant = {k: _meant(k, v, kinds) for k, v in given.items() if k not in known}
    unknown = [k for k, v in meant.items() if v is None]
    if not meant:
        return
    if unknown:
        hint = did_you_mean(unknown[0], kinds, example)
        raise BadCall(f"tl.{name} has no {unknown[0]}: {hint}")
    right = dict(meant[k] or (k, v) if k in meant else (k, v) for k, v in given.items())
    raise BadCall(f"tl.{name} has no {listed(meant)}: write {_written(name, values, right)}")


def _meant(word: str, value: Any, kinds: Mapping[str, str]) -> tuple[str, Any] | None:
    """The keyword and value that an unknown keyword means."""
    if word == "pretrained" and "weights" in kinds:
        return "weights", "default" if value else "none"
    switch = keyword(word.replace("_", "-"), value)
    if switch[0] in kinds:
        return switch
    option = meant_option(word, [f"--{kind.replace('_', '-')}" for kind in kinds])
    return (option[2:].replace("-", "_"), value) if option else None


def _check_positions(
    name: str,
    signature: inspect.Signature,
    example: str,
    values: tuple[Any, ...],
    given: Mapping[str, Any],
) -> None:
    """Raise `BadCall` for values without a name where there must be one, and for too few."""
    own = list(signature.parameters.values())[1:]
    if name == "data" and _is_name_and_amount(values):
        own = own[:1]
    if any(p.kind is p.VAR_POSITIONAL for p in own):
        return
    by_position = [p for p in own if p.kind is p.POSITIONAL_OR_KEYWORD]
    extra = values[len(by_position) :]
    missing = [
        p.name
        for p in by_position[len(values) :]
        if p.default is inspect.Parameter.empty and p.name not in given
    ]
    if missing:
        raise BadCall(f"tl.{name} needs {listed(missing)}: {EXAMPLES.get(name, '')}")
    options = [alone(name, str(value), values[0]).replace("-", "_") for value in extra]
    taken = {p.name for p in by_position}
    if extra and all(option and option not in taken for option in options):
        right = dict(zip(options, extra, strict=True)) | dict(given)
        call = _written(name, values[: len(by_position)], right)
        raise BadCall(f"tl.{name} takes options by name: write {call}")
    if extra:
        raise BadCall(f"tl.{name} does not take {_short(extra[0])} without a name: {example}")


def _is_name_and_amount(values: tuple[Any, ...]) -> bool:
    """Whether `data` is given a name and an amount: labels, its second value, go with arrays."""
    return len(values) == 2 and isinstance(values[0], str) and bool(alone("data", str(values[1])))


def _check_numbers(
    name: str, kinds: Mapping[str, str], values: tuple[Any, ...], given: Mapping[str, Any]
) -> None:
    """Raise `BadCall` for text where a number belongs, and a fraction where a whole one does."""
    wrong = {k: v for k, v in given.items() if _is_no_number(v, kinds.get(k, ""))}
    for word, text in wrong.items():
        kind = NUMBERS[kinds[word]]
        try:
            right: Any = kind(text)
        except (ValueError, OverflowError):
            right = 10 if kind is int else 0.1
        call = _written(name, values, {**given, word: right})
        a_number = "a whole number" if kind is int else "a number"
        raise BadCall(f"{word}={text!r} is not {a_number}: write {call}")


def _is_no_number(value: Any, kind: str) -> bool:
    fraction = isinstance(value, float) and NUMBERS.get(kind) is int
    return fraction or (isinstance(value, str) and kind in NUMBERS)


def _written(name: str, values: tuple[Any, ...], given: Mapping[str, Any]) -> str:
    parts = [*map(_short, values), *(f"{k}={_short(v)}" for k, v in given.items())]
    return f"tl.{name}({', '.join(parts)})"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= MAX_VALUE else "…"


def _example(name: str, takes: Iterable[str]) -> str:
    words = f"it takes {listed(takes) or 'nothing'}"
    return f"write {EXAMPLES[name]}; {words}" if name in EXAMPLES else words
