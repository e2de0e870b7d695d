"""Train: options, forecast and start; progress, curves and Stop; the run with its proof."""

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
from tlnb.panels.base import Panel, button, progress_bar, row, shown
from tlnb.panels.option_controls import control, typed_in
from tlnb.session.background import BackgroundCall, on_colab

OPTIONS_WITH_LABELS = tuple(each for each in OPTIONS if each.label)  # the others have a button
# seconds between two drawings of the curves, which cost a browser as much as everything else
CURVES_INTERVAL = 1.0


class TrainPanel(Panel):
    """`%tl_train`, `%tl_resume` and `%tl_stop` with the mouse."""

    title: ClassVar[str] = "Train"

    def parts(self) -> list[Any]:
        self.controls = {each.name: control(each) for each in OPTIONS_WITH_LABELS}
        rare = [self.controls[each.name] for each in OPTIONS_WITH_LABELS if each.rare]
        self.more = w.VBox([row(*rare)], layout=w.Layout(width="100%", display="none"))
        labels = ", ".join(each.label for each in OPTIONS_WITH_LABELS if each.rare)
        tip = labels[0].upper() + labels[1:]
        self.options = button("More options", tip, self.toggle_more, "sliders")
        self._make_buttons()
        self.plan, self.live, self.curve, self.view = w.HTML(), w.HTML(), w.HTML(), w.HTML()
        self.done = progress_bar("54em")
        self._curves_at = 0.0
        self._unsubscribe_training = self.session.background.progressed.add(self.follow)
        return [
            self.plan,
            row(*(self.controls[each.name] for each in OPTIONS_WITH_LABELS if not each.rare)),
            self.more,
            row(self.go, self.scratch, self.stop, self.resume, self.ask, self.options),
            self.done,
            self.live,
            self.curve,
            self.view,
        ]

    def _make_buttons(self) -> None:
        self.go = button("Train", "Train the plan (%tl_train)", self.train, "play", "primary")
        tip = "Train the same network from scratch (%tl_train --scratch)"
        self.scratch = button("Train the baseline", tip, self.baseline, "random")
        tip = "Resume the run that was stopped (%tl_resume)"
        self.resume = button("Resume", tip, self.go_on, "forward")
        tip = "Stop; the result so far is kept (%tl_stop)"
        self.stop = button("Stop", tip, self.halt, "stop", "danger")
        tip = "The cost, before the first step (%tl_forecast)"
        self.ask = button("Forecast", tip, self.forecast, "clock-o")

    # ── what a click does ──

    def typed(self, of_train: bool = True) -> dict[str, Any]:
        """The chosen options as arguments of `Session.train`.

        Args:
            of_train: include the options that a forecast does not take.

        Raises:
            UsageError: a field that needs a number has something else.
        """
        taken = [each for each in OPTIONS_WITH_LABELS if of_train or not each.of_train]
        chosen = {each.name: typed_in(each, self.controls[each.name]) for each in taken}
        return {name: value for name, value in chosen.items() if value is not None}

    def train(self) -> None:
        """Train the plan."""
        self._begin("the training", lambda chosen: self.session.train(**chosen), self.typed)

    def baseline(self) -> None:
        """Train the last run's baseline: its own recipe, with epochs and seed from the controls."""

        def chosen() -> dict[str, Any]:
            own = {k: v for k, v in self.typed().items() if k in ("epochs", "seed")}
            return {"scratch": True, **own}

        name = "the baseline's training"
        self._begin(name, lambda options: self.session.train(**options), chosen)

    def go_on(self) -> None:
        """Resume the run that was stopped."""
        self._begin("the training", lambda _: self.session.resume(), dict, "tl_resume")

    def _begin(
        self,
        name: str,
        call: Callable[[dict[str, Any]], Any],
        options: Callable[[], dict[str, Any]],
        typed: str = "tl_train",
    ) -> None:
        """Start on a thread, so that panels stay responsive; on Colab, in the foreground."""

        def start() -> BackgroundCall:
            chosen = options()
            begun = self.session.background.start(name, lambda: call(chosen))
            if begun.running:
                self.show_line(train_line(chosen, typed))
            return begun

        wait = "training; to stop it, interrupt the kernel" if on_colab() else ""
        if self.act(start, wait) is not None:
            self.refresh(keep_line=True)

    def halt(self) -> None:
        """Ask the training to stop without waiting for it: the panel must stay responsive."""
        running = self.session.background.running
        if running is not None:
            running.stop()
            self.stop.disabled = True
            self.live.value = line("stopping after this step: the result is kept and tested …")
            self.show_line("%tl_stop")

    def forecast(self) -> None:
        """Forecast the cost of training with these options."""
        call: Callable[..., Forecast] = self.session.forecast
        forecast = self.act(lambda: call(**self.typed(of_train=False)), "measuring …")
        if forecast is not None:
            self.live.value = shown(cards.HTML[Forecast](forecast))

    def toggle_more(self) -> None:
        """Show or hide the less common options."""
        self.more.layout.display = "" if self.more.layout.display == "none" else "none"

    # ── what is shown ──

    def follow(self, training: BackgroundCall) -> None:
        """Show the progress of a training; called on its thread, at most twice a second."""
        progress = training.progress
        if progress is None or not training.running:
            return
        if self.stop.disabled and not training.stopping:
            self._fill_buttons(training)
        self.done.value = progress.epoch / progress.epochs if progress.epochs else 0.0
        if not training.stopping:
            self.live.value = line(live_words(training))
        elif progress.phase == "evaluating":
            self.live.value = line(f"stopped after epoch {progress.epoch}: testing the result …")
        if time.monotonic() - self._curves_at >= CURVES_INTERVAL:
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

    def _fill_end(self, ended: BackgroundCall | None) -> None:
        """Say how the last training ended, once."""
        self.live.value = ""
        if ended is None or self._drawn.get("ended") is ended:
            return
        self._drawn["ended"] = ended
        if ended.error is not None:
            self.fail(ended.error)
        elif ended.stopping:
            self.say("stopped: press Resume to continue")

    def _fill_plan(self) -> None:
        session = self.session
        if session.plan is None or session.dataset is None:
            self.plan.value = line("load data and a network first: next is " + session.next_line)
            usual = None
        else:
            self.plan.value = line(repr(session.plan))
            usual = recipe(session.plan, session.dataset, self.controls["optimizer"].value)
        self._fill_usual(usual)

    def _fill_usual(self, usual: TrainOptions | None) -> None:
        """Show the recipe's values in empty fields."""
        for each in OPTIONS_WITH_LABELS:
            if each.by_recipe and not each.choices:
                said = "" if usual is None else f"{getattr(usual, each.name):g}"
                self.controls[each.name].placeholder = said

    def _fill_buttons(self, running: BackgroundCall | None) -> None:
        session = self.session
        ready = running is None and session.plan is not None and session.dataset is not None
        data = session.dataset
        current_runs = [r for r in session.runs if data and r.fingerprint == data.fingerprint]
        self.go.disabled = not ready
        self.scratch.disabled = not (ready and any(r.baseline_of is None for r in current_runs))
        self.resume.disabled = running is not None or not session.state.unfinished
        self.stop.disabled = running is None or running.stopping
        self.ask.disabled = not ready
        self.done.layout.display = "" if running is not None else "none"

    def close(self) -> None:
        """Detach from the training too."""
        self._unsubscribe_training()
        super().close()


def live_words(training: BackgroundCall) -> str:
    """The state of a training in words.

    `head: training 12 of 100 epochs, loss 0.123, accuracy 89.0%, about 3 s left`.
    """
    progress = training.progress
    if progress is None:
        return f"{training.name} is starting …"
    done = f" {counted(progress)}" if progress.epochs else ""
    words = [f"{progress.run}: {progress.phase}{done}"]
    words += [f"loss {progress.loss:.3f}"] if progress.loss is not None else []
    words += [f"accuracy {percent(training.accuracy)}"] if training.accuracy is not None else []
    words += [f"about {seconds(training.left)} left"] if training.left is not None else []
    return ", ".join(words)
