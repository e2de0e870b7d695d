"""Use it: predict new photos, see the errors, save the network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import ipywidgets as w

from tlnb.core.evaluation.predictions import Predictions
from tlnb.core.planning.magic_lines import line as magic
from tlnb.core.training.run import Run
from tlnb.display import cards
from tlnb.display.html import line
from tlnb.display.words import percent
from tlnb.panels.base import WIDE, Panel, button, field, row, shown
from tlnb.panels.uploads import NEW_PHOTOS, keep, upload_button, uploaded
from tlnb.session.exports import file_name

SAVED_AS = [
    ("a network for %tl_load (.safetensors)", ".safetensors"),
    ("a page for a browser (.html)", ".html"),
    ("ONNX (.onnx)", ".onnx"),
    ("a PyTorch program (.pt2)", ".pt2"),
]


class UsePanel(Panel):
    """`%tl_predict`, `%tl_errors` and `%tl_save` with the mouse."""

    title: ClassVar[str] = "Use it"

    def parts(self) -> list[Any]:
        self.run = field(w.Dropdown, "run", "Whose network to use", WIDE, options=[])
        tip = "Photos of yours to be named (%tl_predict)"
        self.photos = upload_button("Predict photos", tip, "image/*", "primary")
        label = "answer even if unlike all it knows"
        tip = 'Instead of "none of the classes I know" (--always)'
        self.always = field(w.Checkbox, label, tip, "auto", value=False, indent=False)
        self._files: list[str] = []  # the photos whose labels are shown
        tip = "What it gets wrong on its test images (%tl_errors)"
        self.errors = button("Errors", tip, self.show_errors, "th")
        tip = "Write it to a file beside the notebook (%tl_save)"
        self.save = button("Save", tip, self.keep, "save")
        self.ending = field(w.Dropdown, "save as", "What the file is for", WIDE, options=SAVED_AS)
        tip = "A folder with onnxruntime-web, for a page that needs no network (--runtime)"
        self.runtime = field(w.Text, "runtime", tip, WIDE, placeholder="from a CDN")
        self.now, self.view = w.HTML(), w.HTML()
        self.on(self.photos, self.predict)
        self.on(self.always, self.predict_again)
        self.on(self.run, self._forget)
        self.on(self.ending, self._offer_runtime)
        self._offer_runtime()
        return [
            row(self.run),
            row(self.photos, self.always, self.errors),
            row(self.ending, self.runtime, self.save),
            self.now,
            self.view,
        ]

    # ── what a click does ──

    def predict(self) -> None:
        """Keep the uploaded photos beside the notebook, and predict them."""
        with self.filling():
            files = uploaded(self.photos)
        if files:
            self._show(lambda: self._predictions(keep(files, NEW_PHOTOS)))

    def predict_again(self) -> None:
        """Predict the photos whose labels are shown, answering or refusing as is now asked."""
        if files := self._files:
            self._show(lambda: self._predictions(files))

    def _predictions(self, files: Sequence[Path | str]) -> Predictions:
        names = [Path(file).as_posix() for file in files]
        run, always = self._chosen(), self.always.value
        found = self.session.predict(*names, run=run, always=always)
        self._files = names
        return found

    def show_errors(self) -> None:
        """Show the run's errors."""
        self._files = []
        self._show(lambda: self.session.errors(self._chosen()))

    def keep(self) -> None:
        """Save the run's network under its name."""
        run, ending = self._chosen(), self.ending.value
        file = file_name(run or "", ending)
        runtime = self.runtime.value.strip() or None if ending == ".html" else None
        saved = self.act(lambda: self.session.save(file, run, runtime=runtime), "saving …")
        if saved is not None:
            self.show_line(magic("tl_save", file, run=run, runtime=runtime))
            self.now.value = line(f"Saved: {saved.path}. To use it: {saved.use}")

    def _offer_runtime(self) -> None:
        """Only a page has a runtime in it."""
        self.runtime.layout.display = "" if self.ending.value == ".html" else "none"

    def _show(self, call: Callable[[], Any]) -> None:
        value = self.act(call, "looking …")
        if value is not None:
            self._show_last()
            self.view.value = shown(cards.HTML[type(value)](value))

    def _chosen(self) -> str | None:
        return self.run.value or None

    def _forget(self) -> None:
        """Take away what was shown of another run."""
        self.view.value, self._files = "", []

    # ── what is shown ──

    def fill(self) -> None:
        runs = [run for run in self.session.runs if run.baseline_of is None]
        options = [(_words(run), run.name) for run in reversed(runs)]
        if tuple(self.run.options) != tuple(options):
            self.run.options = options
            self.run.value = options[0][1] if options else None
            self._forget()
        controls = (self.run, self.photos, self.always, self.errors, self.save, self.ending)
        for control in (*controls, self.runtime):
            control.disabled = not runs
        words = "Choose photos to predict, or drop them on the button."
        if not runs:
            words = f"No run to use yet: train one first. Next is {self.session.next_line}"
        self.now.value = line(words)


def _words(run: Run) -> str:
    return f"{run.name}: {percent(run.accuracy)} on {run.data}"
