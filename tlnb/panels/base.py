"""What every panel has: a line for errors, the magic that the last click ran, the session as a cell, and refreshing.

A panel holds nothing that the session does not: it fills its controls from the session whenever that changes, whoever
changed it. Nothing that is raised reaches the front end as a traceback; what is no `TLError` is kept in `failure`.
"""

from __future__ import annotations

import re
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar

import ipywidgets as w

from tlnb.core.runtime.errors import TLError, UsageError
from tlnb.core.training.progress import Progress
from tlnb.display.html import VERMILION, Raw, safe
from tlnb.display.live import counted
from tlnb.session import Session

FIELD, WIDE = "17em", "22em"
LABEL = "7.5em"
LONGEST = 400  # characters of an error
_drawing = threading.RLock()  # panels are filled by one thread at a time


def field(kind: type[Any], label: str, tip: str, width: str = FIELD, **traits: Any) -> Any:
    """A control with its label before it; the tip is what a screen reader says too, where the front end passes it on."""
    given = {
        "description": label,
        "layout": w.Layout(width=width, max_width="100%"),
        "style": {"description_width": LABEL},
        **traits,
    }
    made = kind(**given)
    for name in ("tooltip", "description_tooltip"):  # 8.x and 7.x
        if made.has_trait(name):
            setattr(made, name, tip)
    return made


def button(
    label: str,
    tip: str,
    on_click: Callable[[], None],
    icon: str = "",
    style: str = "",
    width: str = "auto",
) -> Any:
    """A button that calls without arguments."""
    made = w.Button(
        description=label, tooltip=tip, icon=icon, button_style=style, layout=w.Layout(width=width)
    )
    made.on_click(lambda _: on_click())
    return made


def row(*parts: Any) -> Any:
    """Controls beside each other, below each other where the page is narrow."""
    return w.HBox(
        list(parts), layout=w.Layout(flex_flow="row wrap", align_items="center", width="100%")
    )


def heading(text: str) -> Any:
    """A line above a group of controls."""
    return w.HTML(f'<div style="font-weight:600;margin:.5em 0 .1em">{safe(text)}</div>')


STYLE = "<style>.tlnb-view td,.tlnb-view th{padding:.15em .7em .15em .2em}.tlnb-view{line-height:1.4}</style>"


def shown(html: str) -> str:
    """A card in an HTML control, where the front end's own style of tables does not reach by itself.

    It takes the width that there is and asks for none, so that a wide table scrolls and a wide picture shrinks.
    """
    style = "padding:0;width:0;min-width:100%"
    return (
        f'{STYLE}<div class="jp-RenderedHTMLCommon tlnb-view" style="{style}">{html}</div>'
        if html
        else ""
    )


def whole(text: str, name: str) -> int | None:
    """A typed whole number; None where nothing is typed.

    Raises:
        UsageError: anything else; a comma that does not part thousands, which may be a decimal one.
    """
    if not text.strip():
        return None
    try:
        if "," in text and not re.fullmatch(r"\d{1,3}(,\d{3})+", text.strip()):
            raise ValueError
        return int(text.strip().replace(",", "").replace("_", ""))
    except ValueError:
        raise UsageError(
            f"{name} {text.strip()!r} is no whole number: type e.g. 20, or leave it empty"
        ) from None


def decimal(text: str, name: str) -> float | None:
    """A typed number, with a point or a comma; None where nothing is typed.

    Raises:
        UsageError: anything else.
    """
    if not text.strip():
        return None
    try:
        return float(text.strip().replace(",", "."))
    except ValueError:
        raise UsageError(
            f"{name} {text.strip()!r} is no number: type e.g. 0.01, or leave it empty"
        ) from None


def user_names() -> Mapping[str, Any]:
    """The names that the user has given things in the notebook."""
    from IPython import get_ipython

    shell = get_ipython()  # type: ignore[no-untyped-call, unused-ignore]
    return {} if shell is None else dict(shell.user_ns)


class Panel:
    """Controls over a session's calls."""

    title: ClassVar[str] = ""

    def __init__(self, session: Session) -> None:
        self._session = weakref.ref(session)
        self._filling = 0
        self._drawn: dict[str, Any] = {}
        self.failure: BaseException | None = None
        self.error = w.HTML()
        self.bar = w.FloatProgress(
            min=0.0, max=1.0, layout=w.Layout(width="100%", max_width="30em", display="none")
        )
        self.did = field(
            w.Text,
            "you just did",
            "The magic that the last action ran: copy it into a cell",
            "100%",
        )
        self.did.layout.max_width = "54em"
        self.did.observe(self._restore, "value")
        self.script = w.Textarea(
            rows=8, layout=w.Layout(width="100%", max_width="54em", display="none")
        )
        self.hand_over = button(
            "Session as a cell",
            "The whole session as magics, to copy into a cell (%tl_script)",
            self.toggle_script,
            "code",
        )
        self.box = w.VBox(
            [*self.parts(), self.bar, self.error, row(self.did, self.hand_over), self.script],
            layout=w.Layout(width="100%", padding="4px 0"),
        )
        self.box.tlnb_panel = self  # lives as long as its widgets
        self._last = self._progress = ""
        self._ends = [session.watch(self.refresh)]
        self.refresh()

    @property
    def session(self) -> Session:
        """The session that the panel shows."""
        found = self._session()
        if found is None:
            raise UsageError("this panel's session is gone: %tl_panel opens a new one")
        return found

    # ── for each panel to say ──

    def parts(self) -> list[Any]:
        """The panel's own controls, in the order of the work."""
        raise NotImplementedError

    def fill(self) -> None:
        """Bring the controls to what the session is."""
        raise NotImplementedError

    # ── acting ──

    def act(self, call: Callable[[], Any], wait: str = "") -> Any:
        """Do something to the session; an error becomes a line of the panel."""
        self.say(wait)
        said = self.error.value
        session = self.session
        before, session.report = session.report, self._report
        try:
            value = call()
        except Exception as error:
            self.fail(error)
            return None
        finally:
            session.report = before
            self.bar.layout.display = "none"
        if self.error.value in (said, self._progress):  # and not what a thread has said meanwhile
            self.say("")
        return value

    def fail(self, error: BaseException) -> None:
        """Say an error in one line. What neither the user nor the disk did is a bug: it is kept for a report."""
        ours = isinstance(error, TLError | OSError)
        self.failure = None if ours else error
        words = " ".join(str(error).split())
        words = words if len(words) <= LONGEST else f"{words[:LONGEST]} …"
        self.say(words if ours else f"{type(error).__name__}: {words}", bad=True)

    def say(self, words: str, bad: bool = False) -> None:
        """A line below the controls; errors have a sign, not only a colour."""
        if not words:
            self.error.value = ""
            return
        sign, colour = (
            ("⚠ ", f"border-left:4px solid {VERMILION};padding-left:.5em")
            if bad
            else ("", "opacity:.8")
        )
        role = "alert" if bad else "status"
        self.error.value = (
            f'<div role="{role}" style="margin:.3em 0;{colour}">{sign}{safe(words)}</div>'
        )

    def _report(self, progress: Progress) -> None:
        """Progress of a call that the main thread makes: loading, decoding."""
        self.bar.layout.display = ""
        self.bar.value = progress.epoch / progress.epochs if progress.epochs else 0.0
        self.say(f"{progress.phase}: {counted(progress)}")
        self._progress = self.error.value

    # ── showing ──

    def refresh(self, keep_line: bool = False) -> None:
        """Show the session as it is. Called after every change, by whoever and on whichever thread.

        Args:
            keep_line: of an action that has not ended; the session does not know it yet.
        """
        if self._session() is None:
            return
        with _drawing, self.filling():
            try:
                if not keep_line:
                    self._show_last()
                self.fill()
            except TLError as error:
                self.say(str(error), bad=True)
            except Exception as error:
                self.fail(error)

    @contextmanager
    def filling(self) -> Iterator[None]:
        """Inside, controls change because the session did: nothing is to be done about it."""
        self._filling += 1
        try:
            yield
        finally:
            self._filling -= 1

    def on(self, control: Any, call: Callable[[], None], trait: str = "value") -> None:
        """Call when the user changes a control, and not when the panel does."""

        def changed(_: Any) -> None:
            if not self._filling:
                call()

        control.observe(changed, trait)

    def once(self, what: str, key: Any, draw: Callable[[], str], view: Any) -> None:
        """Draw into an HTML control unless it shows that already."""
        if self._drawn.get(what) != key or what not in self._drawn:
            view.value = shown(draw())
            self._drawn[what] = key

    def _show_last(self) -> None:
        lines = str(self.session.script()).splitlines()
        self._last = lines[-1] if len(lines) > 1 else ""
        self.did.value = self._last
        if self.script.layout.display == "":
            self.script.value = "\n".join(lines)

    def show_line(self, line: str) -> None:
        """The magic of an action that leaves the session as it is."""
        self._last = line
        with self.filling():
            self.did.value = line

    def _restore(self, _: Any) -> None:
        """The field is there to copy from: what is typed into it goes."""
        if self.did.value != self._last:
            self.did.value = self._last

    def toggle_script(self) -> None:
        """Show the session as a cell, or hide it."""
        hidden = self.script.layout.display != ""
        self.script.layout.display = "" if hidden else "none"
        self.script.value = str(self.session.script()) if hidden else ""
        if hidden:
            self.show_line("%tl_script")

    def close(self) -> None:
        """Let go of the session and of all widgets."""
        for end in self._ends:
            end()
        for part in _inside(self.box):
            part.close()


def _inside(box: Any) -> list[Any]:
    return [part for child in getattr(box, "children", ()) for part in _inside(child)] + [box]


__all__ = [
    "FIELD",
    "WIDE",
    "Panel",
    "Raw",
    "button",
    "decimal",
    "field",
    "heading",
    "row",
    "shown",
    "user_names",
    "whole",
]
