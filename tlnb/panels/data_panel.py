"""Data: choose a source and an amount; see images, counts and skipped files."""

from __future__ import annotations

import os
from functools import partial
from typing import Any, ClassVar

import ipywidgets as w

from tlnb.core.data.builtin import BUNDLED
from tlnb.core.data.dataset import DataSet
from tlnb.display import data_cards
from tlnb.display.html import Raw, bar, line, table
from tlnb.panels.base import WIDE, Panel, button, field, row, shown

AMOUNTS = (
    ("images per class", "per_class"),
    ("images in all", "limit"),
    ("all images", "all"),
)
OTHER, PYTHON = "another folder", "arrays"
FOLDERS = 20  # offered at most
COUNTED = 300  # at most so many classes have their counts listed


class DataPanel(Panel):
    """`%tl_data` with the mouse."""

    title: ClassVar[str] = "Data"

    def parts(self) -> list[Any]:
        self.source = field(
            w.Dropdown,
            "source",
            "Where the images come from",
            WIDE,
            options=sources(),
            value="digits",
        )
        self.folder = field(
            w.Text,
            "folder",
            "A folder with one subfolder of images per class",
            WIDE,
            placeholder="path/to/photos",
        )
        self.amount = field(
            w.Dropdown, "use", "How much of it to use", WIDE, options=AMOUNTS, value="per_class"
        )
        self.number = field(
            w.BoundedIntText,
            "how many",
            "Images per class, or images in all",
            value=2,
            min=1,
            max=10_000_000,
        )
        self.seed = field(
            w.BoundedIntText, "seed", "Which images are chosen", value=0, min=0, max=2**31 - 1
        )
        self.take = button(
            "Load these images", "Load the data set (%tl_data)", self.load, "check", "primary"
        )
        self.view = w.HTML()
        self.on(self.source, self._switch)
        self.on(self.amount, self._switch)
        self._switch()
        return [
            row(self.source, self.folder),
            row(self.amount, self.number, self.seed),
            row(self.take),
            self.view,
        ]

    def _switch(self) -> None:
        """Hide or disable controls that do not apply to the choice."""
        self.folder.layout.display = "" if self.source.value == OTHER else "none"
        self.number.disabled = self.amount.value == "all"
        self.take.disabled = self.source.value == PYTHON  # arrays can only be loaded from a cell

    def load(self) -> None:
        """Load the data set that the controls describe."""
        chosen = self.folder.value.strip() if self.source.value == OTHER else self.source.value
        if not chosen:
            self.say("no folder given: type one, e.g. photos", bad=True)
            return
        amount = {} if self.amount.value == "all" else {self.amount.value: self.number.value}
        self.act(
            lambda: self.session.data(chosen, seed=self.seed.value, **amount), f"reading {chosen} …"
        )

    def fill(self) -> None:
        data = self.session.dataset
        arrays = (
            [("arrays, from Python", PYTHON)]
            if data is not None and data.request.source == PYTHON
            else []
        )
        self.source.options = [*arrays, *sources()]
        if data is None:
            self.once(
                "view", None, lambda: line("no data yet: choose a source and load it"), self.view
            )
            return
        asked = data.request
        known = [value for _, value in self.source.options]
        self.source.value = asked.source if asked.source in known else OTHER
        self.folder.value = "" if asked.source in known else asked.source
        self.amount.value = "limit" if asked.limit else "per_class" if asked.per_class else "all"
        self.number.value = asked.limit or asked.per_class or self.number.value
        self.seed.value = asked.seed
        self._switch()
        if self._drawn.get("view") != data.fingerprint:
            self.view.value = shown(line(repr(data)))  # figures first: drawing pictures takes time
        self.once("view", data.fingerprint, partial(_seen, data), self.view)


def _seen(data: DataSet) -> str:
    return data_cards.data_card(data) + counts(data)


def sources() -> list[tuple[str, str]]:
    """The sources on offer: built-in data sets, and local folders that have subfolders."""
    return [
        *((name, name) for name in BUNDLED),
        *((f"{name}{os.sep}", name) for name in _folders()),
        (f"{OTHER} …", OTHER),
    ]


def _folders() -> list[str]:
    try:
        here = [e for e in os.scandir(".") if e.is_dir() and not e.name.startswith((".", "_"))]
        return sorted(e.name for e in here if _holds_folders(e.path))[:FOLDERS]
    except OSError:
        return []


def _holds_folders(path: str) -> bool:
    try:
        return sum(e.is_dir() and not e.name.startswith(".") for e in os.scandir(path)) >= 2
    except OSError:
        return False


def counts(data: DataSet) -> Raw:
    """Labels in use by class, the smallest classes first if they differ."""
    found = list(data.counts.items())
    most = max(n for _, n in found)
    uneven = most != min(n for _, n in found)
    shown = sorted(found, key=lambda pair: pair[1])[:COUNTED] if uneven else found[:COUNTED]
    rows = [[name, f"{n:,}", bar(n / most)] for name, n in shown]
    rest = line(f"and {len(found) - len(shown)} more classes") if len(found) > len(shown) else ""
    return Raw(
        table(["class", "labels in use", ""], rows, height="16em" if len(rows) > 10 else "") + rest
    )
