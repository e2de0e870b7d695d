"""Compare: runs side by side, with a target, a price, and with or without tuning."""

from __future__ import annotations

from typing import Any, ClassVar

import ipywidgets as w

from tlnb.core.costs.bill import summed
from tlnb.core.evaluation.comparison import Comparison
from tlnb.core.training.run import Run
from tlnb.display import cards
from tlnb.display.html import line, note
from tlnb.display.networks import work
from tlnb.display.words import percent, seconds, small
from tlnb.panels.base import Panel, button, field, row
from tlnb.session.background import BackgroundCall

TUNING = "tuning"
COMPARISON = "the comparison"


class ComparePanel(Panel):
    """`%tl_compare` with the mouse."""

    title: ClassVar[str] = "Compare"

    def parts(self) -> list[Any]:
        tip = "The runs to compare; hold Ctrl or Shift for several"
        self.runs = field(w.SelectMultiple, "runs", tip, "54em", rows=5, options=[])
        self.on(self.runs, self.again)
        self._make_target()
        self._make_costs()
        tip = "Show the chosen runs side by side (%tl_compare)"
        self.go = button("Compare", tip, self.compare, "bar-chart", "primary")
        self.bill, self.stale, self.view = w.HTML(), w.HTML(), w.HTML()
        self.found: tuple[Any, Comparison] | None = None
        self._pending = False
        choices = row(self.target, self.own), row(self.price, self.tuning), row(self.go)
        return [self.runs, *choices, self.bill, self.stale, self.view]

    def _make_target(self) -> None:
        tip = "Measure the time to an accuracy that you choose"
        self.own = field(w.Checkbox, "choose a target", tip, "auto", value=False, indent=False)
        self.target = field(
            w.FloatSlider,
            "target",
            "Accuracy to measure the time to",
            "27em",
            value=0.9,
            min=0.01,
            max=1.0,
            step=0.01,
            readout_format=".0%",
            continuous_update=False,
            disabled=True,
        )
        self.on(self.own, self._switch)
        for control in (self.own, self.target):
            self.on(control, self.again)

    def _make_costs(self) -> None:
        self.price = field(
            w.Text,
            "price per hour",
            "Price of an hour, e.g. 0.5usd/h",
            placeholder="the list price",
            continuous_update=False,
        )
        tip = "Whether the total includes the search for hyperparameters"
        self.tuning = field(w.Checkbox, "include tuning", tip, "auto", value=True, indent=False)
        self.on(self.price, self.again)
        self.on(self.tuning, self._counted)

    def _counted(self) -> None:
        self.refresh()
        self.again()

    def _switch(self) -> None:
        self.target.disabled = not self.own.value

    # ── what a click does ──

    def compare(self) -> None:
        """Compare on a thread: a baseline of equal steps may have to be trained first."""
        start = self.session.background.start
        self.act(lambda: start(COMPARISON, self._run_comparison), "comparing …")
        self.refresh()

    def again(self) -> None:
        """Repeat the comparison that is shown, after a change of target, price or choice."""
        running = self.session.background.running
        # a comparison in progress is repeated when it ends
        self._pending = running is not None and running.name == COMPARISON
        if self.found is not None and running is None:
            self.compare()

    def _run_comparison(self) -> Comparison:
        names = [name for name in self.runs.value if name in {r.name for r in self._current_runs()}]
        names = [] if len(names) == len(self._current_runs()) else names
        target = self.target.value if self.own.value else None
        tuning = "in" if self.tuning.value and not self.tuning.disabled else "apart"
        price = self.price.value.strip() or None
        found = self.session.compare(*names, target=target, price=price, tuning=tuning)
        self.found = self._key(), found
        return found

    def _current_runs(self) -> list[Run]:
        """The runs on the data in use."""
        data = self.session.dataset
        return [run for run in self.session.runs if data and run.fingerprint == data.fingerprint]

    def _key(self) -> tuple[str, ...]:
        return tuple(run.name for run in self._current_runs())

    # ── what is shown ──

    def fill(self) -> None:
        runs = self._current_runs()
        running = self.session.background.running
        self._fill_runs(runs)
        self.go.disabled = not runs or running is not None
        charged = any(charge.kind == TUNING for charge in self.session.bill.charges)
        self.tuning.disabled = not charged
        self.bill.value = self._bill() if self.session.bill.charges else ""
        if self.found is not None and not set(self.found[0]) <= set(self._key()):
            self.found = None  # it was of other data, or the session was reset
        self._fill_view(runs)

    def _fill_runs(self, runs: list[Run]) -> None:
        options = [(run_words(run), run.name) for run in runs]
        if tuple(self.runs.options) != tuple(options):
            before, known = set(self.runs.value), {name for _, name in self.runs.options}
            self.runs.options = options
            names = [name for _, name in options]
            self.runs.value = tuple(n for n in names if n in before or n not in known)
        self.runs.rows = max(3, min(8, len(options) + 1))

    def _fill_view(self, runs: list[Run]) -> None:
        training = self.session.background.training
        if training is not None and training.running and training.name == COMPARISON:
            step = "" if training.progress is None else f": {training.progress.run}"
            self.stale.value = line(f"comparing{step} …")
            return
        self.stale.value = ""
        if training is not None and training.name == COMPARISON:
            self._fill_end(training)
        if self.found is None:
            words = "press Compare to show the chosen runs side by side"
            if not runs:
                words = "no run on this data set yet: train one"
            self.once("view", words, lambda: line(words), self.view)
            return
        key, found = self.found
        if key != self._key():
            self.stale.value = line("There are new runs: press Compare to include them.")
        self.once("view", found, lambda: cards.comparison_card(found), self.view)

    def _fill_end(self, ended: BackgroundCall) -> None:
        """Say how a comparison ended, once, and begin one that was asked for meanwhile."""
        if self._drawn.get("ended") is ended:
            return
        self._drawn["ended"] = ended
        self.say("")
        if ended.error is not None:
            self.fail(ended.error)
        if self._pending:
            self._pending = False
            self.compare()

    def _bill(self) -> str:
        charges = [c for c in self.session.bill.charges if self.tuning.value or c.kind != TUNING]
        total = summed(charges, "total")
        tuned = " with tuning" if self.tuning.value and not self.tuning.disabled else ""
        words = (
            f"Everything so far{tuned}: {seconds(total.seconds)}, {work(total.flops)}, "
            f"{small(total.wh, 'Wh')}, {small(total.money, self.session.bill.currency)}"
        )
        return line(words) + note(
            "Seconds and FLOPs are measured, energy and money assumed; %tl_compare shows how."
        )


def run_words(run: Run) -> str:
    """A run as one line of the list."""
    of = f", baseline of {run.baseline_of}" if run.baseline_of else ""
    return f"{run.name}: {percent(run.accuracy)} in {seconds(run.training_seconds)} ({run.strategy}{of}, {run.status})"
