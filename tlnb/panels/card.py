"""Panels without widgets: the same information as a card that any front end can show."""

from __future__ import annotations

from typing import Any

from tlnb.core.runtime.errors import OneLine
from tlnb.display import cards, data_cards, model_cards, run_cards
from tlnb.display.html import card, line, note
from tlnb.display.networks import anatomy_card
from tlnb.session import Session

VIEW = "application/vnd.jupyter.widget-view+json"
HINTS = {
    "all": "%tl shows the state of the session",
    "data": "%tl_data NAME loads a data set",
    "model": "%tl_load NAME loads a network, %tl_models lists them",
    "layers": "%tl_freeze and %tl_unfreeze set which layers train",
    "train": "%tl_train trains the plan",
    "compare": "%tl_compare shows runs side by side",
    "use": "%tl_predict FILE labels new images, %tl_save keeps the network",
}


class Shown(OneLine):
    """What `tl.panel` returns: widgets if the front end supports them, else a card."""

    def __init__(self, name: str, html: str, box: Any = None) -> None:
        self.name, self.html, self.box = name, html, box

    def __repr__(self) -> str:
        where = "" if self.box is not None else " (no widgets here)"
        return f"Panel {self.name}{where}: {HINTS[self.name]}"

    def _repr_html_(self) -> str:
        return self.html

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        bundle: dict[str, Any] = {"text/plain": repr(self), "text/html": self.html}
        if self.box is not None:
            bundle[VIEW] = {"version_major": 2, "version_minor": 0, "model_id": self.box.model_id}
        return bundle


def static_card(session: Session, name: str) -> str:
    """A card with the content of the panel of that name."""
    mouseless = note(f"Without the mouse: {HINTS[name]}.")
    return card(f"Panel: {name}", *_parts(session, name), mouseless)


def _parts(session: Session, name: str) -> list[str]:
    if name == "data" and session.dataset is not None:
        return [data_cards.data_card(session.dataset)]
    if name == "model" and session.model is not None:
        return [model_cards.model_card(session.model)]
    if name == "layers" and session.plan is not None:
        return [anatomy_card(session.layers()), run_cards.plan_card(session.plan)]
    if name == "train" and session.runs:
        return [run_cards.run_card(session.runs[-1])]
    if name in ("all", "train", "compare", "use"):
        return [cards.session_card(session)]
    return [line(f"nothing yet; next: {session.next_line}")]
