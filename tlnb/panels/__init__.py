"""Panels: the session's calls as ipywidgets' core controls. The session holds all state.

A session has one panel of each kind, which may be shown in several places, so that two never
disagree. Without widgets, and in tests, a card shows the same information.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from tlnb.core.runtime.errors import UsageError, did_you_mean
from tlnb.display.live import testing
from tlnb.panels.card import Shown, static_card
from tlnb.session import PANELS, Session

if TYPE_CHECKING:
    from tlnb.panels.base import Panel

_open_panels: WeakKeyDictionary[Session, dict[str, Panel]] = WeakKeyDictionary()


def open_panel(session: Session, name: str | None = None) -> Shown:
    """Open the panel of that name, or all panels as tabs.

    Raises:
        UsageError: no panel has that name.
    """
    name = name or "all"
    if name != "all" and name not in PANELS:
        hint = did_you_mean(name, PANELS, f"there are {', '.join(PANELS)}")
        raise UsageError(f"no panel is called {name!r}: {hint}")
    if testing() or not has_widgets():
        return Shown(name, static_card(session, name))
    return Shown(name, static_card(session, name), panel_of(session, name).box)


def has_widgets() -> bool:
    """Whether ipywidgets is installed."""
    try:
        import ipywidgets  # noqa: F401
    except ImportError:
        return False
    return True


def panel_of(session: Session, name: str) -> Panel:
    """The session's panel of that name, created on first use."""
    from tlnb.panels.all import KINDS, AllPanels

    panels = _open_panels.setdefault(session, {})
    if name not in panels:
        if name == "all":
            panels[name] = AllPanels(session, [panel_of(session, kind) for kind in PANELS])
        else:
            panels[name] = KINDS[name](session)
    return panels[name]


__all__ = ["PANELS", "Shown", "open_panel", "panel_of"]
