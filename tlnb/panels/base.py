"""The base of all panels: error line, last action as a magic, session as a cell, refreshing.

A panel has no state of its own: it fills its controls from the session whenever that changes,
whoever changed it. No exception reaches the front end as a traceback; unexpected ones are kept in
`failure`.
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
from tlnb.display.html import VERMILION, safe
from tlnb.display.live import counted
from tlnb.session import Session

FIELD, WIDE = "17em", "22em"
LABEL = "7.5em"
MAX_ERROR_LENGTH = 400  # characters of an error
_drawing = threading.RLock()  # only one thread at a time fills panels


def field(kind: type[Any], label: str, tip: str, width: str = FIELD, **traits: Any) -> Any:
    """A control with a label before it; screen readers read the tip too, if they are given it."""
    traits = {
        "description": label,
        "layout": w.Layout(width=width, max_width="100%"),
        "style": {"description_width": LABEL},
        **traits,
    }
    widget = kind(**traits)
    for name in ("tooltip", "description_tooltip"):  # 8.x and 7.x
        if widget.has_trait(name):
            setattr(widget, name, tip)
    return widget


def button(
    label: str,
    tip: str,
    on_click: Callable[[], None],
    icon: str = "",
    style: str = "",
    width: str = "auto",
) -> Any:
    """A button that calls `on_click` without arguments."""
    widget = w.Button(
        description=label, tooltip=tip, icon=icon, button_style=style, layout=w.Layout(width=width)
    )
    widget.on_click(lambda _: on_click())
    return widget


def row(*parts: Any) -> Any:
    """Controls side by side; on a narrow page they wrap."""
    wrap = {"flex_flow": "row wrap", "align_items": "center"}
    return w.HBox(list(parts), layout=w.Layout(**wrap, width="100%", overflow="visible"))


def progress_bar(width: str) -> Any:
    """A bar from 0 to 1, hidden until something runs."""
    layout = w.Layout(width="100%", max_width=width, display="none")
    return w.FloatProgress(min=0.0, max=1.0, layout=layout)


def heading(text: str) -> Any:
    """A line above a group of controls."""
    return w.HTML(f'<div style="font-weight:600;margin:.5em 0 .1em">{safe(text)}</div>')


STYLE = "<style>.tlnb-view td,.tlnb-view th{padding:.15em .7em .15em .2em}.tlnb-view{line-height:1.4}</style>"


def shown(html: str) -> str:
    """Wrap a card for an HTML control, which lacks the front end's table style by default.

    It fills the available width without requiring any, so that wide tables scroll and wide pictures
    shrink.
    """
    if not html:
        return ""
    style = "padding:0;width:0;min-width:100%"
    return f'{STYLE}<div class="jp-RenderedHTMLCommon tlnb-view" style="{style}">{html}</div>'


def whole(text: str, name: str) -> int | None:
    """Parse a typed whole number; None if the field is empty.

    Raises:
        UsageError: anything else, including a comma that does not separate thousands: it might be a
            decimal comma.
    """
    if not text.strip():
        return None
    try:
        if "," in text and not re.fullmatch(r"\d{1,3}(,\d{3})+", text.strip()):
            raise ValueError
        return int(text.strip().replace(",", "").replace("_", ""))
    except ValueError:
        raise UsageError(
            f"{name} must be a whole number, not {text.strip()!r}: type e.g. 20, or leave it empty"
        ) from None


def decimal(text: str, name: str) -> float | None:
    """Parse a typed number with a decimal point or comma; None if the field is empty.

    Raises:
        UsageError: anything else.
    """
    if not text.strip():
        return None
    try:
        return float(text.strip().replace(",", "."))
    except ValueError:
        raise UsageError(
            f"{name} must be a number, not {text.strip()!r}: type e.g. 0.01, or leave it empty"
        ) from None


def user_names() -> Mapping[str, Any]:
    """The user's variables in the notebook."""
    from IPython import get_ipython

    shell = get_ipython()  # type: ignore[no-untyped-call, unused-ignore]
    return {} if shell is None else dict(shell.user_ns)


class Panel:
    """Controls for a session's calls."""

    title: ClassVar[str] = ""

    def __init__(self, session: Session) -> None:
        self._session = weakref.ref(session)
        self._filling = 0
        self._drawn: dict[str, Any] = {}
        self.failure: BaseException | None = None
        self.error = w.HTML()
        self.bar = progress_bar("30em")
        tip = "The last action as a magic: copy it into a cell"
        self.did = field(w.Text, "last action", tip, "100%")
        self.did.layout.max_width = "54em"
        self.did.observe(self._restore, "value")
        self.script = w.Textarea(
            rows=8, layout=w.Layout(width="100%", max_width="54em", display="none")
        )
        tip = "The whole session as magics, to copy into a cell (%tl_script)"
        self.hand_over = button("Session as a cell", tip, self.toggle_script, "code")
        self.box = w.VBox(
            [row(self.did, self.hand_over), self.script, self.bar, self.error, *self.parts()],
            layout=w.Layout(width="100%", padding="4px 0", overflow="visible"),
        )
        self.box.tlnb_panel = self  # lives as long as its widgets
        self._last = self._progress = ""
        self._unsubscribe = [session.watch(self.refresh)]
        self.refresh()

    @property
    def session(self) -> Session:
        """The session that the panel shows."""
        session = self._session()
        if session is None:
            raise UsageError("this panel's session no longer exists: %tl_panel opens a new one")
        return session

    # ── implemented by each panel ──

    def parts(self) -> list[Any]:
        """The panel's own controls, in the order of the work."""
        raise NotImplementedError

    def fill(self) -> None:
        """Update the controls from the session."""
        raise NotImplementedError

    # ── acting ──

    def act(self, call: Callable[[], Any], wait: str = "") -> Any:
        """Call something on the session; an error becomes a line in the panel.

        Args:
            call: called without arguments.
            wait: shown while the call runs.
        """
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
        if self.error.value in (said, self._progress):  # a thread may have written something else
            self.say("")
        return value

    def fail(self, error: BaseException) -> None:
        """Show an error in one line; keep unexpected ones, which are bugs, in `failure`."""
        ours = isinstance(error, TLError | OSError)
        self.failure = None if ours else error
        words = " ".join(str(error).split())
        words = words if len(words) <= MAX_ERROR_LENGTH else f"{words[:MAX_ERROR_LENGTH]} …"
        self.say(words if ours else f"{type(error).__name__}: {words}", bad=True)

    def say(self, words: str, bad: bool = False) -> None:
        """Show a line below the controls; errors have a sign as well as a colour."""
        if not words:
            self.error.value = ""
            return
        role, sign, colour = "status", "", "opacity:.8"
        if bad:
            border = f"border-left:4px solid {VERMILION};padding-left:.5em"
            role, sign, colour = "alert", "⚠ ", border
        self.error.value = (
            f'<div role="{role}" style="margin:.3em 0;{colour}">{sign}{safe(words)}</div>'
        )

    def _report(self, progress: Progress) -> None:
        """Show the progress of a call on the main thread: loading, decoding."""
        self.bar.layout.display = ""
        self.bar.value = progress.epoch / progress.epochs if progress.epochs else 0.0
        self.say(f"{progress.phase}: {counted(progress)}")
        self._progress = self.error.value

    # ── showing ──

    def refresh(self, keep_line: bool = False) -> None:
        """Show the session as it is now. Called after every change, on any thread.

        Args:
            keep_line: keep the shown magic: its action is still running, and the session does not
                know it yet.
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
        """Mark changes of controls as the panel's own, so that they trigger no action."""
        self._filling += 1
        try:
            yield
        finally:
            self._filling -= 1

    def on(self, control: Any, call: Callable[[], None], trait: str = "value") -> None:
        """Call `call` when the user changes a control, but not when the panel does."""

        def changed(_: Any) -> None:
            if not self._filling:
                call()

        control.observe(changed, trait)

    def once(self, what: str, key: Any, draw: Callable[[], str], view: Any) -> None:
        """Draw into an HTML control, unless it already shows `key`."""
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
        """Show the magic of an action that does not change the session."""
        self._last = line
        with self.filling():
            self.did.value = line

    def _restore(self, _: Any) -> None:
        """Undo typing in the field, which is only for copying."""
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
        """Detach from the session and close all widgets."""
        for end in self._unsubscribe:
            end()
        for part in _descendants(self.box):
            part.close()


def _descendants(box: Any) -> list[Any]:
    return [part for child in getattr(box, "children", ()) for part in _descendants(child)] + [box]
