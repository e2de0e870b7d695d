"""Train: options, forecast and start; progress, curves and Stop; the run with its proof."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, ClassVar

import ipywidgets as w

from tlnb.core.planning.magic_lines import line as magic
from tlnb.core.planning.options import AUGMENTATIONS, SOLVERS, TrainOptions
from tlnb.core.planning.recipes import recipe
from tlnb.core.training.run import Forecast
from tlnb.display import cards, drawings, run_cards
from tlnb.display.html import line
from tlnb.display.live import counted
from tlnb.display.words import percent, seconds
from tlnb.panels.base import WIDE, Panel, button, decimal, field, row, shown, whole
from tlnb.session.background import Training, on_colab

BY_RECIPE = "as the recipe says"
# seconds between two drawings of the curves, which cost a browser as much as everything else
CURVES_INTERVAL = 1.0


class TrainPanel(Panel):
    """`%tl_train`, `%tl_resume` and `%tl_stop` with the mouse."""

    title: ClassVar[str] = "Train"

    def parts(self) -> list[Any]:
        text = lambda label, tip: field(w.Text, label, f"{tip}; empty: as the recipe says")  # noqa: E731
        self.epochs = text("epochs", "Passes over the training images")
        self.lr = text("learning rate", "One for all, or by stage: layer4=0.001,head=0.01")
        self.batch = text("batch size", "Images in one step")
        self.decay = text("weight decay", "Decay of weights")
        self.augment = field(
            w.Dropdown,
            "augmentation",
            "How images are varied",
            WIDE,
            options=[(BY_RECIPE, ""), *((a, a) for a in AUGMENTATIONS)],
            value="",
        )
        self.solver = field(
            w.Dropdown,
            "solver",
            "lbfgs: the output layer alone, all images at once",
            options=SOLVERS,
        )
        self.seed = field(
            w.BoundedIntText,
            "seed",
            "Of new layers, batches and augmentation",
            value=0,
            min=0,
            max=2**31 - 1,
        )
        self.name = field(
            w.Text,
            "name",
            "What to call the run; empty: by its strategy",
            placeholder="by its strategy",
        )
        self.weigh = field(
            w.Checkbox,
            "weigh rare classes up",
            "Rare classes count more in the loss",
            "auto",
            value=False,
            indent=False,
        )
        self.more = w.VBox(
            [row(self.batch, self.decay, self.solver), row(self.seed, self.name, self.weigh)],
            layout=w.Layout(width="100%", display="none"),
        )
        self.options = button(
            "More options",
            "Batch size, weight decay, solver, seed, name",
            self.toggle_more,
            "sliders",
        )
        self.go = button("Train", "Train the plan (%tl_train)", self.train, "play", "primary")
        self.scratch = button(
            "Train the baseline",
            "Train the same network from scratch (%tl_train --scratch)",
            self.baseline,
            "random",
        )
        self.resume = button(
            "Resume", "Resume the run that was stopped (%tl_resume)", self.go_on, "forward"
        )
        self.stop = button(
            "Stop", "Stop; the result so far is kept (%tl_stop)", self.halt, "stop", "danger"
        )
        self.ask = button(
            "Forecast",
            "The cost, before the first step (%tl_forecast)",
            self.forecast,
            "clock-o",
        )
        self.plan, self.live, self.curve, self.view = w.HTML(), w.HTML(), w.HTML(), w.HTML()
        self.done = w.FloatProgress(
            min=0.0, max=1.0, layout=w.Layout(width="100%", max_width="54em", display="none")
        )
        self._curves_at = 0.0
        self._unsubscribe_training: list[Callable[[], None]] = [
            self.session.turn.progressed.add(self.follow)
        ]
        return [
            self.plan,
            row(self.epochs, self.lr, self.augment),
            self.more,
            row(self.go, self.scratch, self.stop, self.resume, self.ask, self.options),
            self.done,
            self.live,
            self.curve,
            self.view,
        ]

    # ── what a click does ──

    def typed(self) -> dict[str, Any]:
        """The chosen options as arguments of `Session.train`.

        Raises:
            UsageError: a field that needs a number has something else.
        """
        options = {
            "epochs": whole(self.epochs.value, "epochs"),
            "lr": self.lr.value.strip() or None,
            "batch_size": whole(self.batch.value, "batch size"),
            "weight_decay": decimal(self.decay.value, "weight decay"),
            "augment": self.augment.value or None,
            "name": self.name.value.strip() or None,
            "seed": self.seed.value or None,
            "class_weights": self.weigh.value or None,
            "solver": None if self.solver.value == "sgd" else self.solver.value,
        }
        return {name: value for name, value in options.items() if value is not None}

    def train(self) -> None:
        """Train the plan."""
        self._begin("the training", lambda chosen: self.session.train(**chosen), self.typed)

    def baseline(self) -> None:
        """Train the last run's baseline.

        It has its own recipe: only epochs and seed come from the controls.
        """

        def chosen() -> dict[str, Any]:
            return {"scratch": True} | {
                k: v for k, v in self.typed().items() if k in ("epochs", "seed")
            }

        self._begin(
            "the baseline's training", lambda options: self.session.train(**options), chosen
        )

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

        def start() -> Training:
            chosen = options()
            begun = self.session.turn.start(name, lambda: call(chosen))
            if begun.running:
                self.show_line(magic(typed, **{k.replace("_", "-"): v for k, v in chosen.items()}))
            return begun

        wait = "training; to stop it, interrupt the kernel" if on_colab() else ""
        if self.act(start, wait) is not None:
            self.refresh(keep_line=True)

    def halt(self) -> None:
        """Ask the training to stop without waiting for it: the panel must stay responsive."""
        running = self.session.turn.running
        if running is not None:
            running.stop()
            self.stop.disabled = True
            self.live.value = line("stopping after this step: the result is kept and tested …")
            self.show_line("%tl_stop")

    def forecast(self) -> None:
        """Forecast the cost of training with these options."""
        call: Callable[..., Forecast] = self.session.forecast
        forecast = self.act(lambda: call(**self.typed()), "measuring …")
        if forecast is not None:
            self.live.value = shown(cards.HTML[Forecast](forecast))

    def toggle_more(self) -> None:
        """Show or hide the less common options."""
        self.more.layout.display = "" if self.more.layout.display == "none" else "none"

    # ── what is shown ──

    def follow(self, training: Training) -> None:
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
        running = session.turn.running
        self._fill_plan()
        self._fill_buttons(running)
        if running is not None:
            self.view.value, self._drawn["run"] = "", running
            self.live.value = line(live_words(running))
            return
        self.curve.value = ""
        self._fill_end(session.turn.training)
        run = session.runs[-1] if session.runs else None
        self.once("run", run, lambda: run_cards.run_card(run) if run else "", self.view)

    def _fill_end(self, ended: Training | None) -> None:
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
            usual = recipe(session.plan, session.dataset, self.solver.value)
        self._fill_usual(usual)

    def _fill_usual(self, usual: TrainOptions | None) -> None:
        """Show the recipe's values in empty fields."""
        pairs = (
            (self.epochs, "epochs"),
            (self.lr, "lr"),
            (self.batch, "batch_size"),
            (self.decay, "weight_decay"),
        )
        for control, name in pairs:
            control.placeholder = "" if usual is None else f"{getattr(usual, name):g}"

    def _fill_buttons(self, running: Training | None) -> None:
        session = self.session
        ready = running is None and session.plan is not None and session.dataset is not None
        current_runs = [
            r
            for r in session.runs
            if session.dataset and r.fingerprint == session.dataset.fingerprint
        ]
        self.go.disabled = not ready
        self.scratch.disabled = not (ready and any(r.baseline_of is None for r in current_runs))
        self.resume.disabled = running is not None or not session._keeper.unfinished
        self.stop.disabled = running is None or running.stopping
        self.ask.disabled = not ready
        self.done.layout.display = "" if running is not None else "none"

    def close(self) -> None:
        """Detach from the training too."""
        for end in self._unsubscribe_training:
            end()
        super().close()


def live_words(training: Training) -> str:
    """The state of a training in words.

    `head: training 12 of 100 epochs, loss 0.123, accuracy 89.0%, about 3 s left`.
    """
    progress = training.progress
    if progress is None:
        return f"{training.name} is starting …"
    words = [
        f"{progress.run}: {progress.phase}" + (f" {counted(progress)}" if progress.epochs else "")
    ]
    words += [f"loss {progress.loss:.3f}"] if progress.loss is not None else []
    words += [f"accuracy {percent(training.accuracy)}"] if training.accuracy is not None else []
    words += [f"about {seconds(training.left)} left"] if training.left is not None else []
    return ", ".join(words)
