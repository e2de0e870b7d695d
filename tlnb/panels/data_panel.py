"""Data: choose a source and an amount; see images, counts and skipped files."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import ipywidgets as w

from tlnb.core.data.builtin import BUNDLED
from tlnb.core.data.dataset import DataSet
from tlnb.core.data.request import DataRequest
from tlnb.core.runtime.errors import UsageError
from tlnb.display import data_cards
from tlnb.display.html import Raw, bar, line, table
from tlnb.panels.base import WIDE, Panel, button, field, row, shown
from tlnb.panels.uploads import BY_CLASS, FOLDER, keep, plain_name, upload_button, uploaded

AMOUNTS = (("images per class", "per_class"), ("images in all", "limit"), ("all images", "all"))
OTHER_FOLDER, FROM_PYTHON = "another folder", "arrays"
ARCHIVES = (".zip", ".tar", ".tgz", ".tar.gz")
LOADABLE = (*ARCHIVES, ".csv", ".tsv")  # files that are a data set
MAX_ENTRIES = 500  # of a folder, listed at most
MAX_FOLDERS = 20  # offered at most
MAX_COUNTED_CLASSES = 300  # at most so many classes have their counts listed


class DataPanel(Panel):
    """`%tl_data` with the mouse."""

    title: ClassVar[str] = "Data"

    def parts(self) -> list[Any]:
        tip = "Where the images come from"
        self.source = field(w.Dropdown, "source", tip, WIDE, options=sources(), value="digits")
        self._make_own()
        self._make_amount()
        tip = "Load the data set (%tl_data)"
        self.take = button("Load these images", tip, self.load, "check", "primary")
        self.view = w.HTML()
        self.on(self.source, self._switch)
        self.on(self.amount, self._switch)
        self.on(self.browser, self._open)
        self.on(self.files, self._keep_uploads)
        self.on(self.source, self._suggest_amount)
        self._switch()
        return [
            row(self.source, self.folder),
            self.browser,
            self.upload,
            row(self.amount, self.number, self.seed),
            row(self.take),
            self.view,
        ]

    def _make_own(self) -> None:
        """Make the controls for one's own photos: browsed on the server, or uploaded."""
        tip = "A folder with one subfolder of images per class, a zip of one, or a table"
        self.folder = field(w.Text, "folder", tip, WIDE, placeholder="path/to/photos")
        tip = "Folders and archives here: click one to open it"
        self.browser = field(w.Select, "browse", tip, "54em", rows=6)
        tip = "A zip of class folders, or photos of the class named beside it"
        self.files = upload_button("Upload photos or a zip", tip, ".zip,image/*")
        tip = "The class of the photos that you upload"
        self.class_name = field(w.Text, "class", tip, placeholder="cats")
        self.upload = row(self.files, self.class_name)

    def _make_amount(self) -> None:
        tip, kind = "How much of it to use", w.BoundedIntText
        self.amount = field(w.Dropdown, "use", tip, WIDE, options=AMOUNTS, value="per_class")
        tip = "Images per class, or images in all"
        self.number = field(kind, "how many", tip, value=2, min=1, max=10_000_000)
        tip = "Which images are chosen"
        self.seed = field(kind, "seed", tip, value=0, min=0, max=2**31 - 1)

    def _switch(self) -> None:
        """Hide or disable controls that do not apply to the choice."""
        for control in (self.folder, self.browser, self.upload):
            control.layout.display = "" if self.source.value == OTHER_FOLDER else "none"
        if self.source.value == OTHER_FOLDER:
            self._browse(self.folder.value)
        self.number.disabled = self.amount.value == "all"
        # arrays can only be loaded from a cell
        self.take.disabled = self.source.value == FROM_PYTHON

    def _suggest_amount(self) -> None:
        """Of photos of one's own all are used, of a built-in set two of each class."""
        with self.filling():
            self.amount.value = "per_class" if self.source.value in BUNDLED else "all"
            self._switch()

    def _browse(self, where: str) -> None:
        """List what can be opened or loaded from a folder on the server."""
        with self.filling():
            self.browser.options = entries(Path(where.strip() or "."))
            self.browser.value = None

    def _open(self) -> None:
        """Take over the folder or archive that was clicked, and list what is in a folder."""
        if self.browser.value is not None:
            with self.filling():
                self.folder.value = self.browser.value
            self._browse(self.folder.value)

    def _keep_uploads(self) -> None:
        """Keep what was uploaded beside the notebook, and choose it as the source."""
        with self.filling():
            files = uploaded(self.files)
        if files:
            kept = self.act(lambda: self._kept(files), "keeping the files …")
            if kept is not None:
                with self.filling():
                    self.folder.value, self.amount.value = kept.as_posix(), "all"
                self._switch()
                self.say(f"uploaded to {kept.as_posix()}: load it, or upload more")

    def _kept(self, files: list[tuple[str, bytes]]) -> Path:
        archives = [file for file in files if file[0].lower().endswith(ARCHIVES)]
        if archives:
            return keep(archives[:1], FOLDER)[0]
        if not self.class_name.value.strip():
            raise UsageError("photos need a class: type its name, e.g. cats, and upload them again")
        keep(files, BY_CLASS / plain_name(self.class_name.value))
        return BY_CLASS

    def load(self) -> None:
        """Load the data set that the controls describe."""
        chosen = self.source.value
        if chosen == OTHER_FOLDER:
            chosen = self.folder.value.strip()
        if not chosen:
            self.say("no folder given: click one, upload a zip, or type one", bad=True)
            return
        amount = {} if self.amount.value == "all" else {self.amount.value: self.number.value}
        call = partial(self.session.data, chosen, seed=self.seed.value, **amount)
        self.act(call, f"reading {chosen} …")

    def fill(self) -> None:
        data = self.session.dataset
        from_python = data is not None and data.request.source == FROM_PYTHON
        arrays = [("arrays, from Python", FROM_PYTHON)] * from_python
        self.source.options = [*arrays, *sources()]
        if data is None:
            words = line("no data yet: choose a source and load it")
            self.once("view", None, lambda: words, self.view)
            return
        request = data.request
        known = [value for _, value in self.source.options]
        self.source.value = request.source if request.source in known else OTHER_FOLDER
        self.folder.value = "" if request.source in known else request.source
        self.amount.value = _amount_of(request)
        self.number.value = request.limit or request.per_class or self.number.value
        self.seed.value = request.seed
        self._switch()
        if self._drawn.get("view") != data.fingerprint:
            self.view.value = shown(line(repr(data)))  # figures first: drawing pictures takes time
        self.once("view", data.fingerprint, partial(_card_with_counts, data), self.view)


def _amount_of(request: DataRequest) -> str:
    if request.limit:
        return "limit"
    return "per_class" if request.per_class else "all"


def _card_with_counts(data: DataSet) -> str:
    return data_cards.data_card(data) + counts(data)


def sources() -> list[tuple[str, str]]:
    """The sources on offer: built-in data sets, and local folders that have subfolders."""
    return [
        *((name, name) for name in BUNDLED),
        *((f"{name}{os.sep}", name) for name in _folders()),
        ("your own photos …", OTHER_FOLDER),
    ]


def entries(where: Path) -> list[tuple[str, str]]:
    """What a folder on the server offers, as label and path: its folders and loadable files."""
    folder = where if where.is_dir() else where.parent
    try:
        inside = sorted(folder.iterdir(), key=lambda p: (not p.is_dir(), p.name.lower()))
        named = [p for p in inside if not p.name.startswith((".", "_"))]
        known = [p for p in named if p.is_dir() or p.name.lower().endswith(LOADABLE)]
    except OSError:
        known = []
    parent = (Path(os.pardir) if folder == Path() else folder.parent).as_posix()
    up = parent if folder.name != ".." else f"{folder}/.."
    above = (f"..  (up from {folder.as_posix()})", up)
    return [above, *((p.name + os.sep * p.is_dir(), p.as_posix()) for p in known[:MAX_ENTRIES])]


def _folders() -> list[str]:
    try:
        folders = [e for e in os.scandir(".") if e.is_dir() and not e.name.startswith((".", "_"))]
        return sorted(e.name for e in folders if _holds_folders(e.path))[:MAX_FOLDERS]
    except OSError:
        return []


def _holds_folders(path: str) -> bool:
    try:
        return sum(e.is_dir() and not e.name.startswith(".") for e in os.scandir(path)) >= 2
    except OSError:
        return False


def counts(data: DataSet) -> Raw:
    """Labels in use by class, the smallest classes first if they differ."""
    by_class = list(data.counts.items())
    most = max(n for _, n in by_class)
    if most != min(n for _, n in by_class):
        by_class.sort(key=lambda pair: pair[1])
    rows = [[name, f"{n:,}", bar(n / most)] for name, n in by_class[:MAX_COUNTED_CLASSES]]
    left_out = len(by_class) - len(rows)
    rest = line(f"and {left_out} more classes") if left_out else ""
    height = "16em" if len(rows) > 10 else ""
    return Raw(table(["class", "labels in use", ""], rows, height=height) + rest)
