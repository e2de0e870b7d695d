"""Files that were uploaded in a panel, kept in a folder beside the notebook."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ipywidgets as w

from tlnb.core.runtime.errors import UsageError

FOLDER = Path("uploads")
NEW_PHOTOS = FOLDER / "new"  # to be predicted
BY_CLASS = FOLDER / "photos"  # a folder for each class
# Jupyter's server ends the connection at a message of 10 MB; base64 makes one a third larger.
MAX_MEGABYTES = 7
MAX_NAME = 80  # characters


def upload_button(words: str, tip: str, accept: str, style: str = "") -> Any:
    """A button that opens the browser's file chooser; photos may also be dropped on it."""
    traits = {"description": words, "button_style": style, "layout": w.Layout(width="auto")}
    widget = w.FileUpload(accept=accept, multiple=True, **traits)
    for name in ("tooltip", "description_tooltip"):  # 8.x and 7.x
        if widget.has_trait(name):
            setattr(widget, name, f"{tip}; at most {MAX_MEGABYTES} MB at once")
    return widget


def uploaded(widget: Any) -> list[tuple[str, bytes]]:
    """Name and content of each uploaded file; empties the widget for the next upload."""
    value = widget.value
    if isinstance(value, dict):  # ipywidgets 7
        found = [(name, bytes(file["content"])) for name, file in value.items()]
        value.clear()
        widget.metadata, widget.data = [], []
        widget._counter = 0  # from which it makes its value anew
        return found
    found = [(file["name"], bytes(file["content"])) for file in value]
    widget.value = ()
    return found


def keep(files: list[tuple[str, bytes]], folder: Path) -> list[Path]:
    """Write files into a folder; of their names only what cannot lead elsewhere is kept.

    Raises:
        UsageError: the folder cannot be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return [_kept(folder / plain_name(name), content) for name, content in files]
    except OSError as error:
        raise UsageError(
            f"{folder} cannot be written to ({error.strerror}): start Jupyter in your own folder"
        ) from None


def plain_name(name: str) -> str:
    """A file's or class's name without folders, control characters and hidden files' dots."""
    last = re.split(r"[/\\]", name)[-1]
    safe = re.sub(r"[^\w. ()+-]+", "-", last).strip(". ")[-MAX_NAME:].lstrip(". -")
    return safe or "file"


def _kept(path: Path, content: bytes) -> Path:
    free = next(p for p in _names(path) if not p.exists() or p.read_bytes() == content)
    free.write_bytes(content)
    return free


def _names(path: Path) -> Iterator[Path]:
    """The path, then others beside it: two photos may have the same name."""
    yield path
    for k in range(2, 1_000_000):
        yield path.with_name(f"{path.stem}-{k}{path.suffix}")
