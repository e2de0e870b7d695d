"""How a magic runs: its line is parsed, the session called, and the result shown."""

from __future__ import annotations

import functools
import inspect
import re
from argparse import Namespace
from collections.abc import Callable
from typing import Any

from IPython.core.magic import Magics, line_magic
from IPython.core.magic_arguments import argument

from tlnb import magic_options as options
from tlnb.core.planning.magic_lines import tokens
from tlnb.core.runtime.errors import one_line
from tlnb.display.live import reporter
from tlnb.magic_options import parse
from tlnb.session import Session


def _returned(value: Any, silent: bool, cell: Cell) -> Any:
    """The magic's return value; in a cell of several, all but the last print one line."""
    if cell.more_to_come() and not silent:
        print(one_line(repr(value)))
    return None if silent else value


class Cell:
    """Tracks the magics in the running cell, to know which one is its last line."""

    LINE = re.compile(r"^(?P<to>\w[\w\s,]*=\s*)?%tl")

    def __init__(self) -> None:
        # For each magic still to run: whether its value is shown as a card.
        self._waiting: list[bool] = []

    def begin(self, info: Any) -> None:
        """Handle IPython's pre_run_cell event."""
        lines = [
            line
            for line in str(getattr(info, "raw_cell", "")).splitlines()
            if line.strip() and line.strip()[0] != "#"
        ]
        magics = [(i, m) for i, line in enumerate(lines) if (m := self.LINE.match(line))]
        self._waiting = [i == len(lines) - 1 or m["to"] is not None for i, m in magics]

    def more_to_come(self) -> bool:
        """Whether other magics follow, so that IPython will not show this one's value."""
        return not self._waiting.pop(0) if self._waiting else False


class SessionMagics(Magics):
    """Parses a magic's line, calls the session and shows the result."""

    def __init__(self, shell: Any, session: Session) -> None:
        super().__init__(shell)
        self.session = session
        self.cell = Cell()

    def _show(self, call: Callable[[], Any], silent: bool) -> Any:
        show = reporter(self.shell)
        self.session.report = show
        try:
            value = call()
        finally:
            show.close()
            self.session.report = None
        return _returned(value, silent, self.cell)


def magic(*arguments: argument) -> Callable[[Callable[[Any, Namespace], Any]], Any]:
    """Declare a line magic: a method from the parsed line to the session's value."""

    def decorate(call: Callable[[Any, Namespace], Any]) -> Any:
        def run(self: SessionMagics, line: str) -> Any:
            words, silent = tokens(line)
            words, renamed = options.by_todays_names(run, words)
            chosen = parse(run, words)
            if renamed:
                print(renamed)
            return self._show(lambda: call(self, chosen), silent)

        signature = inspect.signature(run)  # IPython shows that of the magic, not the method's
        functools.update_wrapper(run, call).__signature__ = signature  # type: ignore[attr-defined]
        return line_magic(options.takes(*arguments)(run))

    return decorate
