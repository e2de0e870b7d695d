"""Panels: the session's calls as ipywidgets' core controls. The session holds all state.

A session has one panel of each kind, which may be shown in several places, so that two never
disagree. Without widgets, and in tests, a card shows the same information.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from tlnb.core.runtime.errors import UsageError, did_you_mean
from tlnb.display.live import testing
from tlnb.panels.card import Shown, static
from tlnb.session import PANELS, Session

if TYPE_CHECKING:
    from tlnb.panels.base import Panel

_open: WeakKeyDictionary[Session, dict[str, Panel]] = WeakKeyDictionary()


def open_panel(session: Session, name: str | None = None) -> Shown:
    """Open the panel of that name, or all panels as tabs.

    Raises:
        UsageError: no panel has that name.
    """
    name = name or "all"
    if name != "all" and name not in PANELS:
        hint = did_you_mean(name, PANELS, f"there are {', '.join(PANELS)}")
        raise UsageError(f"no panel is called {name!r}: {hint}")
    if testing() or not widgets_here():
        return Shown(name, static(session, name))
    return Shown(name, static(session, name), panel_of(session, name).box)


def widgets_here() -> bool:
    """Whether ipywidgets is installed."""
    try:
        import ipywidgets  # noqa: F401
    except ImportError:
        return False
    return True


def panel_of(session: Session, name: str) -> Panel:
    """The session's panel of that name, created on first use."""
    from tlnb.panels.all import KINDS, AllPanels

    made = _open.setdefault(session, {})
    if name not in made:
        if name == "all":
            made[name] = AllPanels(session, [panel_of(session, each) for each in PANELS])
        else:
            made[name] = KINDS[name](session)
    return made[name]


__all__ = ["PANELS", "Shown", "open_panel", "panel_of"]
