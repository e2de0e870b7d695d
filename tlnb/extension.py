"""The extension: magics, cards, completion and the name `tl` in an IPython shell."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from difflib import get_close_matches
from typing import Any

from tlnb.completion import completions
from tlnb.core.planning.other_tools import METHODS
from tlnb.core.runtime.errors import UsageError
from tlnb.display.live import testing
from tlnb.magics import TLMagics
from tlnb.session import Session

TESTING_THREADS = 2
UNKNOWN = "tl_unknown"  # the magic that answers misspelt ones


def register(shell: Any, session: Session) -> None:
    """Register magics, cards and completion, and bind `tl` unless the name is taken."""
    magics = TLMagics(shell, session)
    shell.register_magics(magics)
    shell.events.register("pre_run_cell", magics.cell.begin)
    shell.input_transformers_cleanup.append(_separate_semicolon)
    shell.register_magic_function(no_such_magic, "line", UNKNOWN)
    shell.input_transformers_post.append(_catch_unknown)
    shell.user_ns.setdefault("tl", session)
    session.names = shell.user_ns
    _register_cards(shell)

    def offer(_: Any, event: Any) -> list[str]:
        typed = event.line[: event.line.rfind(event.symbol) + len(event.symbol)]
        return completions(session, shell.user_ns, typed)

    for name in [*magics.magics["line"]]:
        shell.set_hook("complete_command", offer, str_key=f"%{name}")
    if testing() and "OMP_NUM_THREADS" not in os.environ:  # torch follows that variable by itself
        import torch

        torch.set_num_threads(min(TESTING_THREADS, os.cpu_count() or 1))


def _separate_semicolon(lines: list[str]) -> list[str]:
    """Turn `%tl_freeze;` into `%tl_freeze ;`; IPython would look for a magic `tl_freeze;`."""
    return [re.sub(r"^(\s*(?:[\w\s,]+=\s*)?%tl\w*);", r"\1 ;", line) for line in lines]


def no_such_magic(line: str) -> None:
    """Answer a misspelt magic with the name that was meant."""
    name = line.split()[0].removeprefix("tl_")
    known = [each.removeprefix("tl_") for each in dir(TLMagics) if each.startswith("tl_")]
    meant = [METHODS[name]] if name in METHODS else get_close_matches(name, known, n=1)
    hint = f"write %tl_{meant[0]}" if meant else "%tl shows what comes next"
    raise UsageError(f"there is no %tl_{name}: {hint}")


def _catch_unknown(lines: list[str]) -> list[str]:
    """Send magics `%tl_…` that do not exist to `no_such_magic`; IPython has no hook for them."""

    def known(match: re.Match[str]) -> str:
        name = match["name"]
        return match[0] if hasattr(TLMagics, name) else f"{match['call']}'{UNKNOWN}', '{name} ' + "

    call = r"(?P<call>get_ipython\(\)\.run_line_magic\()'(?P<name>tl_\w+)', "
    return [re.sub(call, known, line) for line in lines]


def _register_cards(shell: Any) -> None:
    from tlnb.core.evaluation.comparison import Comparison
    from tlnb.core.export.pytorch_script import Script
    from tlnb.display import cards, text

    formatters = shell.display_formatter.formatters
    for kind, make in cards.HTML.items():
        formatters["text/html"].for_type(kind, make)
    plain: dict[type, Callable[[Any], str]] = {Script: str.__str__}
    # a notebook shows the HTML; this is what a text file gets
    if getattr(shell, "kernel", None) is not None:
        plain[Comparison] = text.comparison_text
    else:
        plain |= dict.fromkeys(text.TEXT, _for_terminal)
    for kind, write in plain.items():
        formatters["text/plain"].for_type(kind, _printer(write))


def _for_terminal(value: Any) -> str:
    from tlnb.display.text import WIDTH, terminal_text

    return terminal_text(value, max(WIDTH, shutil.get_terminal_size().columns))


def _printer(write: Callable[[Any], str]) -> Callable[[Any, Any, bool], None]:
    return lambda value, printer, _: printer.text(write(value))
