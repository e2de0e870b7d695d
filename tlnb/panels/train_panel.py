"""Train: options, forecast, start; curves and the time left while it runs; Stop; afterwards the proof of what moved."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, ClassVar

import ipywidgets as w

from tlnb.core.planning.magic_lines import train_line
from tlnb.core.planning.options import OPTIONS, TrainOptions
from tlnb.core.planning.recipes import recipe
from tlnb.core.training.run import Forecast
from tlnb.display import cards, drawings, run_cards
from tlnb.display.html import line
from tlnb.display.live import counted
from tlnb.display.words import percent, seconds
from tlnb.panels.base import Panel, button, row, shown
from tlnb.panels.option_controls import control, typed_in
from tlnb.session.background import Training, on_colab

SHOWN = tuple(each for each in OPTIONS if each.label)  # the others have a button
CURVES = 1.0  # seconds between two drawings of the curves, which cost a browser as much as all else


class TrainPanel(Panel):
    """`%tl_train`, `%tl_resume`, `%tl_stop` with the mouse."""

    title: ClassVar[str] = "Train"

    def parts(self) -> list[Any]:
        self.controls = {each.name: control(each) for each in SHOWN}
        rare = [self.controls[each.name] for each in SHOWN if each.rare]
        self.more = w.VBox([row(*rare)], layout=w.Layout(width="100%", display="none"))
        labels = ", ".join(each.label for each in SHOWN if each.rare)
        self.options = button(
            "More options", labels[0].upper() + labels[1:], self.toggle_more, "sliders"
        )
        self.go = button("Train", "Train the plan (%tl_train)", self.train, "play", "primary")
        self.scratch = button(
            "Train the baseline",
            "The same network from scratch (%tl_train --scratch)",
            self.baseline,
            "random",
        )
        self.resume = button(
            "Go on", "Go on with the run that was stopped (%tl_resume)", self.go_on, "forward"
        )
        self.stop = button(
            "Stop", "Stop; what it has so far is kept (%tl_stop)", self.halt, "stop", "danger"
        )
        self.ask = button(
            "Forecast",
            "What it would cost, before the first step (%tl_forecast)",
            self.forecast,
            "clock-o",
        )
        self.plan, self.live, self.curve, self.view = w.HTML(), w.HTML(), w.HTML(), w.HTML()
        self.done = w.FloatProgress(
            min=0.0, max=1.0, layout=w.Layout(width="100%", max_width="54em", display="none")
        )
        self._curves_at = 0.0
        self._follow: list[Callable[[], None]] = [
            self.session.background.progressed.add(self.follow)
        ]
        return [
            self.plan,
            row(*(self.controls[each.name] for each in SHOWN if not each.rare)),
            self.more,
            row(self.go, self.scratch, self.stop, self.resume, self.ask, self.options),
            self.done,
            self.live,
            self.curve,
            self.view,
        ]

    # ── what a click does ──

    def typed(self, of_train: bool = True) -> dict[str, Any]:
        """What was chosen, as `Session.train` takes it; a forecast takes no options that are of `train` alone.

        Raises:
            UsageError: what is no number.
        """
        chosen = {
            each.name: typed_in(each, self.controls[each.name])
            for each in SHOWN
            if of_train or not each.of_train
        }
        return {name: value for name, value in chosen.items() if value is not None}

    def train(self) -> None:
        """Train the plan."""
        self._begin("the training", lambda chosen: self.session.train(**chosen), self.typed)

    def baseline(self) -> None:
        """Train the last run's baseline. It has a recipe of its own: only epochs and seed are taken from the controls."""

        def chosen() -> dict[str, Any]:
            return {"scratch": True} | {
                k: v for k, v in self.typed().items() if k in ("epochs", "seed")
            }

        self._begin(
            "the baseline's training", lambda options: self.session.train(**options), chosen
        )

    def go_on(self) -> None:
        """Go on with the run that was stopped."""
        self._begin("the training", lambda _: self.session.resume(), dict, "tl_resume")

    def _begin(
        self,
        name: str,
        call: Callable[[dict[str, Any]], Any],
        options: Callable[[], dict[str, Any]],
        typed: str = "tl_train",
    ) -> None:
        """On a thread, so that the panels go on answering; on Colab here and now."""

        def start() -> Training:
            chosen = options()
            begun = self.session.background.start(name, lambda: call(chosen))
            if begun.running:
                self.show_line(train_line(chosen, typed))
            return begun

        wait = "training; to stop it, interrupt the kernel" if on_colab() else ""
        if self.act(start, wait) is not None:
            self.refresh(keep_line=True)

    def halt(self) -> None:
        """Ask the training to stop, and do not wait for it: the panel must go on answering."""
        running = self.session.background.running
        if running is not None:
            running.stop()
            self.stop.disabled = True
            self.live.value = line("stopping after this step: what it has is kept and tested …")
            self.show_line("%tl_stop")

    def forecast(self) -> None:
        """What training with these options would take."""
        call: Callable[..., Forecast] = self.session.forecast
        found = self.act(lambda: call(**self.typed(of_train=False)), "measuring …")
        if found is not None:
            self.live.value = shown(cards.HTML[Forecast](found))

    def toggle_more(self) -> None:
        """Show the rarer options, or hide them."""
        self.more.layout.display = "" if self.more.layout.display == "none" else "none"

    # ── what is shown ──

    def follow(self, training: Training) -> None:
        """While it trains, on its thread: at most twice a second."""
        progress = training.progress
        if progress is None or not training.running:
            return
        if self.stop.disabled and not training.stopping:
            self._fill_buttons(training)
        self.done.value = progress.epoch / progress.epochs if progress.epochs else 0.0
        if not training.stopping:
            self.live.value = line(live_words(training))
        elif progress.phase == "evaluating":
            self.live.value = line(f"stopped after epoch {progress.epoch}: testing what it has …")
        if time.monotonic() - self._curves_at >= CURVES:
            self._curves_at = time.monotonic()
            self.curve.value = drawings.curves(training.history)

    def fill(self) -> None:
        session = self.session
        running = session.background.running
        self._fill_plan()
        self._fill_buttons(running)
        if running is not None:
            self.view.value, self._drawn["run"] = "", running
            self.live.value = line(live_words(running))
            return
        self.curve.value = ""
        self._fill_end(session.background.training)
        run = session.runs[-1] if session.runs else None
        self.once("run", run, lambda: run_cards.run_card(run) if run else "", self.view)

    def _fill_end(self, ended: Training | None) -> None:
        """How the last training ended, said once."""
        self.live.value = ""
        if ended is None or self._drawn.get("ended") is ended:
            return
        self._drawn["ended"] = ended
        if ended.error is not None:
            self.fail(ended.error)
        elif ended.stopping:
            self.say("stopped: Go on carries it further")

    def _fill_plan(self) -> None:
        session = self.session
        if session.plan is None or session.dataset is None:
            self.plan.value = line("data and a network come first: next is " + session.next_line)
            usual = None
        else:
            self.plan.value = line(repr(session.plan))
            usual = recipe(session.plan, session.dataset, self.controls["optimizer"].value)
        self._fill_usual(usual)

    def _fill_usual(self, usual: TrainOptions | None) -> None:
        """Empty fields say what the recipe would take."""
        for each in SHOWN:
            if each.by_recipe and not each.choices:
                said = "" if usual is None else f"{getattr(usual, each.name):g}"
                self.controls[each.name].placeholder = said

    def _fill_buttons(self, running: Training | None) -> None:
        session = self.session
        ready = running is None and session.plan is not None and session.dataset is not None
        mine = [
            r
            for r in session.runs
            if session.dataset and r.fingerprint == session.dataset.fingerprint
        ]
        self.go.disabled = not ready
        self.scratch.disabled = not (ready and any(r.baseline_of is None for r in mine))
        self.resume.disabled = running is not None or not session.state.unfinished
        self.stop.disabled = running is None or running.stopping
        self.ask.disabled = not ready
        self.done.layout.display = "" if running is not None else "none"

    def close(self) -> None:
        """Let go of the training too."""
        for end in self._follow:
            end()
        super().close()


def live_words(training: Training) -> str:
    """Where a training is: `head: training 12 of 100 epochs, loss 0.123, accuracy 89.0%, about 3 s left`."""
    progress = training.progress
    if progress is None:
        return f"{training.name} begins …"
    words = [
        f"{progress.run}: {progress.phase}" + (f" {counted(progress)}" if progress.epochs else "")
    ]
    words += [f"loss {progress.loss:.3f}"] if progress.loss is not None else []
    words += [f"accuracy {percent(training.accuracy)}"] if training.accuracy is not None else []
    words += [f"about {seconds(training.left)} left"] if training.left is not None else []
    return ", ".join(words)
