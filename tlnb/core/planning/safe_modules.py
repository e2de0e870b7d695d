"""Code that is safe from any source: `nn.*` constructors with numbers, of bounded size.

Sessions, jobs and saved networks hold the code of their edits, and may come with a cloned
repository.
"""

from __future__ import annotations

import ast
import warnings
from functools import lru_cache
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy
from torch.utils._python_dispatch import TorchDispatchMode

NUMBERS = ("in_features", "classes")  # names that stand for a number
ARITHMETIC = (ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod)
FORBIDDEN_ARGUMENTS = ("device", "dtype")  # they would bypass the meta device and its limits
# What Python's parser raises.
PARSER_ERRORS = (SyntaxError, ValueError, RecursionError, MemoryError)
LONGEST = 10_000  # characters of code
# Parameters and buffers of all edits of a plan together; VGG's classifier fits.
MOST_BYTES = 5 * 10**8
MOST_STEPS = 5_000  # tensor operations while building: about a thousand layers
MOST_EDITS = 200  # in a plan


def is_literal(code: str) -> bool:
    """Whether code is only `nn.*` constructors with numbers, booleans and tuples of them."""
    try:
        return len(code) <= LONGEST and _call(ast.parse(code.strip(), mode="eval").body)
    except PARSER_ERRORS:
        return False


def _call(node: ast.expr) -> bool:
    """Whether a node is an `nn` constructor; its arguments may be such constructors too."""
    if not (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and _is_module(node.func)
    ):
        return False
    keywords_fit = all(
        k.arg and k.arg not in FORBIDDEN_ARGUMENTS and _argument(k.value) for k in node.keywords
    )
    return keywords_fit and all(map(_argument, node.args))


def _is_module(node: ast.Attribute) -> bool:
    kind = getattr(nn, node.attr, None)
    return (
        isinstance(node.value, ast.Name)
        and node.value.id == "nn"
        and isinstance(kind, type)
        and issubclass(kind, nn.Module)
    )


def _argument(node: ast.expr) -> bool:
    return _call(node) if isinstance(node, ast.Call) else _plain(node)


def _plain(node: ast.expr) -> bool:
    return all(map(_plain, node.elts)) if isinstance(node, ast.Tuple) else _number(node)


def _number(node: ast.expr) -> bool:
    """Whether a node is arithmetic on numbers; powers and repeated tuples could fill the memory."""
    if isinstance(node, ast.BinOp):
        return isinstance(node.op, ARITHMETIC) and _number(node.left) and _number(node.right)
    if isinstance(node, ast.UnaryOp):
        return _number(node.operand)
    if isinstance(node, ast.Name):
        return node.id in NUMBERS
    return isinstance(node, ast.Constant) and type(node.value) in (bool, int, float)


class _Bounded(TorchDispatchMode):
    """Context that limits the number of tensor operations and refuses to allocate memory."""

    def __init__(self) -> None:
        super().__init__()
        self.steps = 0

    def __torch_dispatch__(self, call: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.steps += 1
        if self.steps > MOST_STEPS:
            raise ValueError("it has too many layers")
        if torch.device((kwargs or {}).get("device") or "meta").type != "meta":
            raise ValueError("it names a device")
        return call(*args, **(kwargs or {}))


@lru_cache(maxsize=256)
def size_of(code: str, in_features: int | None, classes: int | None) -> int:
    """Bytes of the parameters and buffers that literal code builds, without allocating any.

    Raises:
        ValueError: too many layers, or too many bytes.
        Exception: what `nn`'s constructors raise.
    """
    names = {"__builtins__": {}, "nn": nn, "in_features": in_features, "classes": classes}
    with (
        torch.device("meta"),
        torch.random.fork_rng(devices=[]),
        warnings.catch_warnings(),
        _Bounded(),
    ):
        warnings.simplefilter("ignore")
        made = eval(compile(ast.parse(code.strip(), mode="eval"), "<edit>", "eval"), names)  # noqa: S307 - literal
    tensors = [*made.parameters(), *made.buffers()]
    size: int = sum(t.numel() * t.element_size() for t in tensors if not is_lazy(t))
    check_size(size)
    return size


def check_size(size: int) -> None:
    """Raise `ValueError` if edits take too many bytes."""
    if size > MOST_BYTES:
        raise ValueError(
            f"{size / 1e6:,.0f} MB of parameters and buffers, at most {MOST_BYTES / 1e6:.0f}; "
            "a module of your own may be larger"
        )
