"""Find the files listed in a table: as written, or as they lie on this machine."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from urllib.parse import unquote

from tlnb.core.data.decoding import extensions
from tlnb.core.data.image_listing import CANNOT_OPEN
from tlnb.core.runtime.errors import listed
from tlnb.core.runtime.paths import is_file, is_folder

WEB = ("http://", "https://", "s3://", "gs://")
MAX_DROPPED = 12  # leading folders of a path that may be dropped
MAX_FOLDERS = 100  # folders beside the table that are tried


class TableFiles:
    """Finds the files of a table; folders are listed once, and only for names without extension."""

    def __init__(self, top: Path, names: Sequence[str]) -> None:
        """Resolve `names` relative to `top`, or else to a folder beside the table.

        If none lies in either (`/kaggle/input/birds/train/1.jpg`), leading folders are dropped
        until some do; `dropped` is their number.
        """
        self._by_stem: dict[Path, dict[str, list[str]]] = {}
        self.top, self.dropped = top, 0
        if names and not self._hits(names, top, 0):
            self.top, self.dropped = self._place(names, top)

    def _place(self, names: Sequence[str], top: Path) -> tuple[Path, int]:
        """The folder that holds most of the names, and how many leading folders to drop."""
        tops = [top, *self._beside(top)]
        for dropped in range(min(MAX_DROPPED, max(len(_parts(name)) for name in names))):
            hits = {folder: self._hits(names, folder, dropped) for folder in tops}
            best = max(tops, key=lambda folder: hits[folder])
            if hits[best]:
                return best, dropped
        return top, 0

    def find(
        self, name: str, top: Path | None = None, dropped: int | None = None
    ) -> tuple[Path, str]:
        """The file that a name means, and why it is unusable; empty if it is usable."""
        top, drop = top or self.top, self.dropped if dropped is None else dropped
        if name.startswith(WEB):
            return top / "web", "a web address: download the files, and list those"
        if drop:
            name = "/".join(_parts(name)[drop:]) or name
        try:
            paths = [top / form for form in _spellings(name)]
            match = next((path for path in paths if path.exists()), None)
            if match is None:
                return self._without_ending(top / name.replace("\\", "/"))
            return Path(os.path.normpath(match)), "" if is_file(match) else "not a regular file"
        except PermissionError as error:
            return top / name, f"{CANNOT_OPEN} ({error.strerror})"
        except (OSError, ValueError) as error:  # a name that is too long, or contains a null byte
            reason = getattr(error, "strerror", None) or error
            return top / name, f"not a valid file name ({reason})"

    def _without_ending(self, path: Path) -> tuple[Path, str]:
        """The only image in the folder with this name plus an extension."""
        if path.parent not in self._by_stem:
            self._by_stem[path.parent] = _images_by_stem(path.parent)
        by_stem = self._by_stem[path.parent]
        matches = by_stem.get(path.name, [])
        if not matches:  # `IMG_1.JPG` for IMG_1.jpg
            others = by_stem.get(path.stem, [])
            matches = [name for name in others if name.lower() == path.name.lower()]
        if len(matches) == 1:
            return Path(os.path.normpath(path.with_name(matches[0]))), ""
        if matches:
            return path, f"more than one file has this name ({listed(matches, 3)})"
        return path, "no such file"

    def _hits(self, names: Sequence[str], folder: Path, dropped: int) -> int:
        return sum(not self.find(name, folder, dropped)[1] for name in names)

    def _beside(self, top: Path) -> list[Path]:
        with suppress(OSError):
            return sorted(p for p in top.iterdir() if is_folder(p))[:MAX_FOLDERS]
        return []


def _parts(name: str) -> list[str]:
    """The folders and the file name of a Unix or Windows path."""
    return [part for part in re.split(r"[/\\]", name) if part]


def _spellings(name: str) -> Iterable[str]:
    """A name as written, with slashes, without `%20` and `file://`, and each in NFC and NFD."""
    forms = (unicodedata.normalize("NFC", name), unicodedata.normalize("NFD", name))
    plain = unquote(name.removeprefix("file://"))
    return dict.fromkeys((name, name.replace("\\", "/"), *forms, plain))


def _images_by_stem(folder: Path) -> dict[str, list[str]]:
    endings = extensions()
    by_stem: dict[str, list[str]] = {}
    with suppress(OSError):
        for name in sorted(os.listdir(folder)):  # noqa: PTH208 - only names are needed
            stem, ending = os.path.splitext(name)  # noqa: PTH122
            if ending.lower() in endings:
                by_stem.setdefault(stem, []).append(name)
    return by_stem
