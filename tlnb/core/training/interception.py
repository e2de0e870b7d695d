"""Change from outside, for a while, what modules are given and what they compute."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn

Forward = Callable[..., Any]


@contextmanager
def forwards_replaced(replaced: Mapping[nn.Module, Forward]) -> Iterator[None]:
    """Give some modules another forward within the context. Their hooks still run."""
    own = {part: part.__dict__.get("forward") for part in replaced}
    try:
        for part, forward in replaced.items():
            part.__dict__["forward"] = forward
        yield
    finally:
        for part, before in own.items():
            if before is None:
                part.__dict__.pop("forward", None)
            else:
                part.__dict__["forward"] = before


@contextmanager
def hooked(hooks: Mapping[nn.Module, Forward]) -> Iterator[None]:
    """Call `hook(module, args, kwargs)` first of all when a module is called within the context.

    No hook is registered: transformer layers have a fast path, without dropout, only where none is.
    """
    with ExitStack() as stack:
        for part, hook in hooks.items():
            stack.callback(part.__dict__.pop, "_call_impl", None)
            part.__dict__["_call_impl"] = _entered(part, hook)
        yield


def _entered(part: nn.Module, hook: Forward) -> Forward:
    call = part._call_impl

    def entered(*given: Any, **named: Any) -> Any:
        changed = hook(part, given, named)
        given, named = (given, named) if changed is None else changed
        return call(*given, **named)

    return entered
