"""Model: find a network in the catalogue, read its card, load it."""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar

import ipywidgets as w
from torch import nn

from tlnb.core.models.catalogue import SORTS, Card
from tlnb.core.planning.magic_lines import line as magic
from tlnb.core.runtime.errors import ModelError
from tlnb.display import model_cards
from tlnb.display.html import Raw, line
from tlnb.display.words import count, flops, percent, size
from tlnb.panels.base import WIDE, Panel, button, field, row, user_names
from tlnb.session.loading import suggested_model

OWN, RUN, NAME = "own", "run", "name"
LIST_ROWS = 8
ORDERS = (
    ("smallest first", "small"),
    ("most accurate first", "accurate"),
    ("fastest first", "fast"),
)


class ModelPanel(Panel):
    """`%tl_models` and `%tl_load` with the mouse."""

    title: ClassVar[str] = "Model"

    def parts(self) -> list[Any]:
        self.cards: dict[str, Card] = {}
        self.searched: tuple[str, str] | None = None
        tip = "Part of a name, or a glob such as resnet*"
        self.find = field(w.Text, "find", tip, placeholder="resnet*")
        tip = "Order of the list"
        self.sort = field(w.Dropdown, "order", tip, WIDE, options=ORDERS, value=SORTS[0])
        tip = "The networks that can be loaded: choose one to read its card"
        self.list = field(w.Select, "networks", tip, "64em", rows=LIST_ROWS, options=[])
        tip, known = "Which parameters to start from", ["default", "none"]
        self.weights = field(w.Dropdown, "weights", tip, WIDE, options=known)
        self.go = button("Load", "Load this network (%tl_load)", self.load, "check", "primary")
        self.now, self.view = w.HTML(), w.HTML()
        self.on(self.find, self.search)
        self.on(self.sort, self.search)
        self.on(self.list, self.choose)
        search, load = row(self.find, self.sort), row(self.weights, self.go)
        return [search, self.list, load, self.now, self.view]

    # ── finding ──

    def search(self) -> None:
        """List the networks that match; if none does, say so and offer none."""
        pattern = self.find.value.strip() or None
        self.act(lambda: self._list_matches(pattern, self.sort.value))
        self.show_line(magic("tl_models", *([pattern] if pattern else []), sort=self.sort.value))
        self.choose()

    def _list_matches(self, pattern: str | None, sort: str) -> None:
        try:
            cards = self.session.models(pattern, sort).cards
        except ModelError:
            self.cards = {}
            self._fill_list(own_modules(), sort)
            raise
        self.cards = {card.name: card for card in cards}
        self._fill_list(own_modules(), sort)

    def _fill_list(self, own: dict[str, nn.Module], sort: str) -> None:
        """Fill the list, and keep the selection if it is still listed."""
        kinds = {name: type(module).__name__ for name, module in own.items()}
        options = [(f"{name}: your own {kind}", f"{OWN}:{name}") for name, kind in kinds.items()]
        results = {run.name: percent(run.accuracy) for run in self.session.runs}
        said = "the result of this run"
        options += [(f"{n}: {said}, {accuracy}", f"{RUN}:{n}") for n, accuracy in results.items()]
        options += [(_card_words(card), f"{NAME}:{name}") for name, card in self.cards.items()]
        with self.filling():
            before = self.list.value
            if tuple(self.list.options) != tuple(options):
                self.list.options = options
            values = [value for _, value in options]
            suggested = suggested_model(self.session.dataset)
            likely = suggested if suggested in self.cards else next(iter(self.cards), None)
            first = f"{NAME}:{likely}" if likely else next(iter(values), None)
            self.list.value = before if before in values else first
        self.searched = (self.find.value, sort)

    def choose(self) -> None:
        """Show the card and the available weights of the selection."""
        with self.filling():
            self._choose()

    def _choose(self) -> None:
        kind, name = self.chosen
        card = self.cards.get(name) if kind == NAME else None
        known = ["default", "none", *((o.weights for o in card.others) if card else ())]
        if list(self.weights.options) != known:
            self.weights.options = known
        self.weights.disabled = kind == RUN
        self.go.disabled = not name
        model = self.session.model

        def draw() -> str:
            if model is not None and kind == NAME and model.name == name:
                return model_cards.model_card(model)
            return model_cards.catalogue_entry_card(card) if card else line(Raw())

        self.once("view", (kind, name, id(model)), draw, self.view)

    @property
    def chosen(self) -> tuple[str, str]:
        """Kind and name of the selection; both are empty without one."""
        kind, _, name = str(self.list.value or "").partition(":")
        return kind, name

    # ── loading ──

    def load(self) -> None:
        """Load the selection."""
        kind, name = self.chosen
        weights = "default" if kind == RUN else self.weights.value
        source: Any = own_modules().get(name, name) if kind == OWN else name
        called = name if kind == OWN else None
        call = partial(self.session.load, source, weights, called=called, names=user_names())
        self.act(call, f"loading {name} …")

    def fill(self) -> None:
        model = self.session.model
        if self.searched is None or not self.cards:
            self._list_matches(self.find.value.strip() or None, self.sort.value)
        self._fill_list(own_modules(), self.sort.value)
        named = f"{NAME}:{model.name}" if model else None
        offered = [value for _, value in self.list.options]
        if self._drawn.get("model") is not model and named in offered:
            self.list.value = named
        self._drawn["model"] = model
        self._choose()
        nothing = "Nothing loaded yet: choose a network and load it."
        self.now.value = line(f"Loaded: {model.name}" if model else nothing)


def own_modules() -> dict[str, nn.Module]:
    """The user's own networks by variable name."""
    modules = {n: v for n, v in user_names().items() if isinstance(v, nn.Module)}
    return {n: module for n, module in modules.items() if not n.startswith("_")}


def _card_words(card: Card) -> str:
    """A catalogue entry as one line of the list."""
    accuracy = f"{percent(card.accuracy)} · " if card.accuracy is not None else ""
    place = "on disk" if card.on_disk else f"{size(card.bytes)} to download"
    return f"{card.name}: {accuracy}{count(card.parameters)} parameters · {flops(card.flops)} · {place} · {card.source}"
