"""What lies above the session and is handed in by its owner: the panels and the checks of exercises."""

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
    """Functions that a call of the session hands over to."""

    open_panel: Extension = _missing  # (session, name)
    check_exercise: Extension = _missing  # (session, name, export, learner)


EXTENSIONS = Extensions()
