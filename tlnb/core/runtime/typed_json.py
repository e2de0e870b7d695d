"""JSON as typed values: a value read from a file has the declared type, or is refused.

Dataclasses accept anything: a string in place of a number would be noticed only where it is used,
or end up in a script generated from it.
"""

from __future__ import annotations

import dataclasses
import json
import types
from collections.abc import Mapping
from functools import cache
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")
# What Python and torch raise for a value of the right type that makes no sense: code that reads
# files turns these into one-line errors.
SENSELESS = (
    LookupError,
    TypeError,
    ValueError,
    AttributeError,
    ArithmeticError,
    RuntimeError,
    AssertionError,
    OSError,
)


def parse(text: str) -> Any:
    """Parse JSON.

    Raises:
        ValueError: invalid JSON, a number of thousands of digits, or nesting beyond Python's limit.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def typed(kind: type[T], value: Any, what: str = "") -> T:
    """Convert a JSON value to `kind`.

    A kind is a number, text, `None`, a tuple, a list, a dictionary, a union, or a dataclass of
    those. Dataclass fields with a default may be missing; fields whose name begins with an
    underscore are not part of the JSON. A dataclass with a class method `upgraded` gets values that
    an older version wrote converted to the current names.

    Args:
        what: the field's name, for the error.

    Raises:
        ValueError: a value of another type, or a missing or unknown field.
    """
    result: T = _typed(kind, value, what or getattr(kind, "__name__", "value"))
    return result


def _typed(kind: Any, value: Any, what: str) -> Any:
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any:
        return value
    if origin in (Union, types.UnionType):
        return _one_of(arguments, value, what)
    if dataclasses.is_dataclass(kind):
        return _record(kind, value, what)
    if origin is tuple and isinstance(value, list | tuple):
        return _tuple(arguments, value, what)
    if origin is list and isinstance(value, list):
        return [_typed(arguments[0], each, what) for each in value]
    if origin in (dict, Mapping) and isinstance(value, dict):
        return {
            _typed(arguments[0], k, what): _typed(arguments[1], v, f"{what} of {k}")
            for k, v in value.items()
        }
    return _plain(kind, value, what)


def _plain(kind: Any, value: Any, what: str) -> Any:
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        try:
            float(value)
            return value
        except OverflowError:
            raise ValueError(f"{what} is too large") from None
    if kind is int and isinstance(value, float) and value.is_integer():
        return int(value)
    exact = kind is None or kind is types.NoneType
    if (value is None) if exact else isinstance(kind, type) and type(value) is kind:
        return value
    raise ValueError(f"{what} is {type(value).__name__}, not {getattr(kind, '__name__', kind)}")


def _one_of(kinds: tuple[Any, ...], value: Any, what: str) -> Any:
    if value is None and types.NoneType in kinds:
        return None
    rest = [kind for kind in kinds if kind is not types.NoneType]
    for kind in rest[:-1]:
        try:
            return _typed(kind, value, what)
        except ValueError:
            continue
    return _typed(rest[-1], value, what)


def _tuple(
    arguments: tuple[Any, ...], value: list[Any] | tuple[Any, ...], what: str
) -> tuple[Any, ...]:
    if arguments[-1] is Ellipsis:
        return tuple(_typed(arguments[0], each, what) for each in value)
    if len(value) != len(arguments):
        raise ValueError(f"{what} has {len(value)} parts, not {len(arguments)}")
    return tuple(_typed(kind, each, what) for kind, each in zip(arguments, value, strict=True))


def _record(kind: Any, value: Any, what: str) -> Any:
    if not isinstance(value, dict):
        raise ValueError(f"{what} is {type(value).__name__}, not a record")
    value = getattr(kind, "upgraded", dict)(value)
    hints, needed = _fields(kind)
    unknown, missing = value.keys() - hints.keys(), needed - value.keys()
    if unknown or missing:
        name = sorted(unknown or missing)[0]
        raise ValueError(f"{what} has {'a field' if unknown else 'no'} {name!r}")
    return kind(**{name: _typed(hints[name], each, name) for name, each in value.items()})


@cache
def _fields(kind: Any) -> tuple[dict[str, Any], frozenset[str]]:
    """The fields allowed in the JSON with their types, and the names of the required ones."""
    hints = get_type_hints(kind)
    fields = [f for f in dataclasses.fields(kind) if not f.name.startswith("_")]
    none = dataclasses.MISSING
    needed = frozenset(f.name for f in fields if f.default is none and f.default_factory is none)
    return {f.name: hints[f.name] for f in fields}, needed
