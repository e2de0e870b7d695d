"""Hooks for what is built on top of the session: the panels and the exercise checks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tlnb.core.runtime.errors import UsageError

Extension = Callable[..., Any]  # takes the session first


def _missing(*_: Any) -> Any:
    raise UsageError("panels and exercises come with the package: import tlnb")


@dataclass
class Extensions:
    """Functions that session calls delegate to; their owners register them."""

    open_panel: Extension = _missing  # (session, name)
    check_exercise: Extension = _missing  # (session, name, export, learner)


EXTENSIONS = Extensions()
