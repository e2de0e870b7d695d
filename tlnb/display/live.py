"""Progress of a call: one HTML display in a notebook, tqdm in a terminal, none in tests.

In a notebook the display ends as one line of text, and only that line stays in the file.
"""

from __future__ import annotations

import os
import time
from typing import Any

from tlnb.core.training.progress import Progress
from tlnb.display.html import BLUE, safe

UPDATE_INTERVAL = 0.25  # seconds between updates
WIDTH, HEIGHT = 180, 36
UNITS = {  # what a phase counts, if not epochs
    "decoding": "files",
    "unpacking": "files",
    "downloading": "MB",
    "looking": "images",
    "tuning": "trials",
    "advising": "steps",
}


def _unit(progress: Progress) -> str:
    return UNITS.get(progress.phase, "epochs")


def counted(progress: Progress) -> str:
    """`2 of 5 MB`, or `2 MB` if the total is unknown."""
    of = f" of {progress.epochs}" if progress.epochs else ""
    return f"{progress.epoch}{of} {_unit(progress)}"


def testing() -> bool:
    """Whether `TLNB_TESTING=1` asks for no live displays and fixed threads."""
    return os.environ.get("TLNB_TESTING") == "1"


class Silent:
    """Shows nothing."""

    def __call__(self, progress: Progress) -> None:
        pass

    def close(self) -> None:
        pass


class Terminal(Silent):
    """A tqdm bar for each run."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._key: tuple[str, str] | None = None
        self._seen = ""  # the latest accuracy

    def __call__(self, progress: Progress) -> None:
        from tqdm import tqdm

        key = (progress.run, progress.phase)
        if key != self._key:
            self.close()
            self._key = key
            if progress.epochs:
                unit = _unit(progress).removesuffix("s")
                self._bar = tqdm(
                    total=progress.epochs,
                    desc=f"{progress.run}: {progress.phase}",
                    unit=unit,
                    leave=False,
                )
        if self._bar is not None:
            self._bar.update(progress.epoch - self._bar.n)
            self._seen = self._seen if progress.accuracy is None else f"{progress.accuracy:.1%}"
            loss = {} if progress.loss is None else {"loss": f"{progress.loss:.3f}"}
            seen = {"accuracy": self._seen} if self._seen else {}
            self._bar.set_postfix(**loss, **seen, refresh=False)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
        self._bar = self._key = None
        self._seen = ""


class Notebook(Silent):
    """One display id: a bar and a small curve, at most four times a second."""

    def __init__(self) -> None:
        self._handle: Any = None
        self._drawn = 0.0
        self._start = 0.0
        self._curve: list[tuple[int, float]] = []  # epoch and accuracy, at each evaluation
        self._last: Progress | None = None

    def __call__(self, progress: Progress) -> None:
        from IPython.display import HTML, display

        now = time.monotonic()
        if self._handle is None:
            self._start = now
            self._handle = display(HTML(self._html(progress)), display_id=True)
        if self._last is not None and self._last.run != progress.run:
            self._curve = []
        if progress.accuracy is not None:
            self._curve.append((progress.epoch, progress.accuracy))
        self._last = progress
        if now - self._drawn >= UPDATE_INTERVAL:
            self._drawn = now
            self._handle.update(HTML(self._html(progress)))

    def close(self) -> None:
        if self._handle is None or self._last is None:
            return
        last = self._last
        text = f"{last.run}: {counted(last)}, {time.monotonic() - self._start:.1f} s"
        self._handle.update({"text/plain": text}, raw=True)
        self._handle = self._last = None
        self._curve = []

    def _html(self, progress: Progress) -> str:
        done = progress.epoch / progress.epochs if progress.epochs else 0
        loss = "" if progress.loss is None else f", loss {progress.loss:.3f}"
        learning = (progress.loss, progress.accuracy) != (None, None)
        seen = f", accuracy {self._curve[-1][1]:.1%}" if learning and self._curve else ""
        left = self._left(done)
        words = f"{progress.run}: {progress.phase} {counted(progress)}{loss}{seen}{left}"
        return f'<div>{safe(words)}</div><progress value="{done:.3f}" max="1" style="width:{WIDTH}px"></progress>{self._svg()}'

    def _left(self, done: float) -> str:
        if not 0.05 < done < 1:
            return ""
        return f", about {(time.monotonic() - self._start) * (1 - done) / done:.0f} s left"

    def _svg(self) -> str:
        if len(self._curve) < 2:
            return ""
        first, last = self._curve[0][0], self._curve[-1][0]
        scale = WIDTH / max(1, last - first)
        points = " ".join(
            f"{(epoch - first) * scale:.1f},{HEIGHT * (1 - a):.1f}" for epoch, a in self._curve
        )
        return (
            f'<svg width="{WIDTH}" height="{HEIGHT}" style="display:block" role="img" aria-label="accuracy so far">'
            f'<polyline points="{points}" fill="none" stroke="{BLUE}" stroke-width="1.5"/></svg>'
        )


def reporter(shell: Any = None) -> Silent:
    """Choose the reporter: none in tests, HTML in a kernel, else tqdm."""
    if testing():
        return Silent()
    return Notebook() if getattr(shell, "kernel", None) is not None else Terminal()
