"""Layers: the network from input to output; freezing by click or pattern; edits."""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar

import ipywidgets as w

from tlnb.core.models.anatomy import Anatomy, Stage
from tlnb.core.planning.plan import STRATEGIES, Plan
from tlnb.display import drawings, run_cards
from tlnb.display.html import BLUE, ORANGE, Raw, bar, line, safe
from tlnb.display.networks import STRATEGY_MEANINGS, anatomy_card, frozen_of, work
from tlnb.display.words import count, percent, seconds
from tlnb.panels.base import WIDE, Panel, button, field, heading, row, user_names

MAX_STAGE_BUTTONS = 60  # with a button each, at most
MAX_OFFERED_NAMES = 400  # of modules offered, at most
EDITS = (
    ("add after", "after"),
    ("add before", "before"),
    ("replace", "replace"),
    ("remove", "remove"),
)


class LayersPanel(Panel):
    """`%tl_layers`, `%tl_strategy`, `%tl_freeze`, `%tl_unfreeze` and edits with the mouse."""

    title: ClassVar[str] = "Layers"

    def parts(self) -> list[Any]:
        self._make_strategies()
        self._make_freezing()
        self._make_edits()
        self.drawing, self.shares, self.notes, self.detail = w.HTML(), w.HTML(), w.HTML(), w.HTML()
        tip = "Show or hide all layers (%tl_layers --all)"
        self.every = button("All layers", tip, self.toggle_detail, "list")
        self._detailed = False
        return [
            row(*self.strategies.values(), self.last, self.predict),
            self.shares,
            self.drawing,
            heading("Stages, from input to output: click to freeze or unfreeze"),
            self.stages,
            row(self.pattern, self.freeze, self.unfreeze, self.undo),
            heading("Change the network"),
            row(self.kind, self.part, self.code, self.apply),
            self.notes,
            row(self.every),
            self.detail,
        ]

    def _make_strategies(self) -> None:
        self.strategies = {
            name: button(name, STRATEGY_MEANINGS[name], partial(self.choose, name))
            for name in STRATEGIES
        }
        tip = "partial: how many stages train, counted from the output; 0: automatic"
        self.last = field(w.BoundedIntText, "last stages", tip, "13em", value=0, min=0, max=1000)
        tip = "Forecast the cost of this plan (%tl_forecast)"
        self.predict = button("Predict seconds", tip, self.forecast, "clock-o")
        self.predicted: dict[tuple[str, Plan], float] = {}

    def _make_freezing(self) -> None:
        self.stages = w.VBox(layout=w.Layout(width="100%", max_height="26em", overflow="auto"))
        self.buttons: list[Any] = []
        self.bars: list[Any] = []
        tip = "A layer, a stage, a glob such as *.bn1, or a range a..b"
        self.pattern = field(w.Text, "layers", tip, WIDE, placeholder="stem..layer2")
        freeze, unfreeze = partial(self.by_pattern, True), partial(self.by_pattern, False)
        self.freeze = button("Freeze", "Freeze what matches (%tl_freeze)", freeze, "lock")
        tip = "Train what matches (%tl_unfreeze)"
        self.unfreeze = button("Unfreeze", tip, unfreeze, "unlock")

    def _make_edits(self) -> None:
        tip = "What to change in the network"
        self.kind = field(w.Dropdown, "change", tip, options=EDITS, value="after")
        tip = "The part's name in PyTorch"
        self.part = field(w.Combobox, "part", tip, WIDE, options=[], placeholder="layer4")
        tip = "What to put there: an expression that creates a layer"
        self.code = field(w.Text, "new part", tip, WIDE, placeholder="nn.Dropout(0.2)")
        tip = "Change the network (%tl_add, %tl_remove, %tl_replace)"
        self.apply = button("Apply", tip, self.edit, "wrench")
        self.undo = button("Undo", "Undo the last change (%tl_undo)", self.take_back, "undo")
        self.on(self.kind, self._switch)

    # ── what a click does ──

    def choose(self, strategy: str) -> None:
        """Set a strategy."""
        last = self.last.value or None if strategy == "partial" else None
        self.act(lambda: self.session.strategy(strategy, last=last))

    def toggle(self, stage: str) -> None:
        """Freeze a stage that trains completely; unfreeze any other."""
        read = self.session.layers()
        now = next(s for s in read.stages if s.name == stage)
        call = self.session.unfreeze if now.frozen else self.session.freeze
        self.act(lambda: call(stage))

    def by_pattern(self, freeze: bool) -> None:
        """Freeze or unfreeze the layers that the typed patterns match."""
        patterns = self.pattern.value.split()
        if not patterns:
            self.say("no layer given: type e.g. stem..layer2, or click a stage", bad=True)
            return
        call = self.session.freeze if freeze else self.session.unfreeze
        self.act(lambda: call(*patterns))

    def edit(self) -> None:
        """Add, replace or remove a part."""
        name, code, kind = self.part.value.strip(), self.code.value, self.kind.value
        if not name:
            self.say("no part given: choose one from the list", bad=True)
        elif kind == "remove":
            self.act(lambda: self.session.remove(name))
        elif kind == "replace":
            self.act(lambda: self.session.replace(name, code, user_names()))
        else:
            self.act(lambda: self.session.add(f"{kind}:{name}", code, user_names()))

    def take_back(self) -> None:
        """Undo the last change."""
        self.act(self.session.undo)

    def forecast(self) -> None:
        """Forecast the plan's seconds, and remember them for this plan and data set."""
        plan, data = self.session.plan, self.session.dataset
        forecast = self.act(self.session.forecast, "measuring …")
        if forecast is not None and plan is not None and data is not None:
            self.predicted[data.fingerprint, plan] = forecast.seconds
            self.refresh()

    def toggle_detail(self) -> None:
        """Show or hide the list of all layers."""
        self._detailed = not self._detailed
        self.refresh()
        if self._detailed:
            self.show_line("%tl_layers --all")

    def _switch(self) -> None:
        self.code.disabled = self.kind.value == "remove"

    # ── what is shown ──

    def fill(self) -> None:
        session = self.session
        plan = session.plan
        read = session.layers() if session.model is not None else None
        self._switch_on(read is not None)
        if read is None or plan is None:
            self.drawing.value = line(
                "no network yet: load one in the Model panel, or with %tl_load"
            )
            self.stages.children, self.buttons = (), []
            self.shares.value = self.notes.value = self.detail.value = ""
            return
        key = (plan, read.model, read.names)
        self.once("drawing", key, lambda: drawings.network(read) + LEGEND, self.drawing)
        self._fill_strategies(plan)
        self._fill_stages(read)
        self.shares.value = self._shares(read, plan)
        notes = "".join(line(f"Note: {words}") for words in plan.notes)
        self.notes.value = notes + edits_words(plan)
        self._fill_names(read)

        def detail() -> str:
            if not self._detailed:
                return ""
            return anatomy_card(session.layers(True)) + run_cards.plan_card(plan)

        self.once("detail", (key, self._detailed), detail, self.detail)

    def _switch_on(self, loaded: bool) -> None:
        """Enable the controls that can be used now."""
        patterns = (self.last, self.pattern, self.freeze, self.unfreeze)
        edits = (self.kind, self.part, self.apply, self.every)
        for control in (*self.strategies.values(), *patterns, *edits):
            control.disabled = not loaded
        self.code.disabled = not loaded or self.kind.value == "remove"
        self.undo.disabled = not self.session.state.history
        self.predict.disabled = not loaded or self.session.dataset is None

    def _fill_strategies(self, plan: Plan) -> None:
        for name, each in self.strategies.items():
            chosen = plan.strategy == name
            each.icon, each.button_style = ("check", "primary") if chosen else ("", "")

    def _fill_stages(self, read: Anatomy) -> None:
        stages = read.stages[:MAX_STAGE_BUTTONS]
        if [s.name for s in stages] != self._drawn.get("stages") or not self.buttons:
            self._drawn["stages"] = [s.name for s in stages]
            clicks = [partial(self.toggle, stage.name) for stage in stages]
            self.buttons = [button("", "", click, width="16em") for click in clicks]
            self.bars = [w.HTML(layout=w.Layout(flex="1 1 20em")) for _ in stages]
            rows = [row(b, html) for b, html in zip(self.buttons, self.bars, strict=True)]
            if more := len(read.stages) - len(stages):
                rest = f"and {more} more stages: type their names in the field below"
                rows.append(w.HTML(line(rest)))
            self.stages.children = rows
        most = max(1, *(s.params for s in stages)), max(1, *(s.flops for s in stages))
        for each, html, stage in zip(self.buttons, self.bars, stages, strict=True):
            _fill_stage(each, stage)
            html.value = stage_bars(stage, *most)

    def _shares(self, read: Anatomy, plan: Plan) -> str:
        trained, total = plan.trainable_params, plan.total_params
        step = read.step_flops / max(1, read.with_frozen(()).step_flops)
        work = f"{percent(step)} of training everything"
        if read.once_flops and read.flops:
            once = percent(read.once_flops / read.flops)
            work += f"; {once} of the way forward is computed once, then cached"
        data = self.session.dataset
        known = self.predicted.get((data.fingerprint, plan)) if data else None
        took = "not predicted for this plan yet"
        if known is not None:
            took = f"about {seconds(known)} in all (forecast)"
        strategy = f"{plan.strategy}: {STRATEGY_MEANINGS[plan.strategy]}"
        share = f"{count(trained)} of {count(total)} train"
        rows = [
            drawings.meter("strategy", None, strategy),
            drawings.meter("parameters", trained / max(1, total), share),
            drawings.meter("a step's FLOPs", step, work),
            drawings.meter("seconds", None, took),
        ]
        return f'<div role="status">{"".join(rows)}</div>'

    def _fill_names(self, read: Anatomy) -> None:
        if self._drawn.get("names") != read.names:
            self._drawn["names"] = read.names
            steps = [name.split(".") for name in read.names]
            parents = [".".join(each[:k]) for each in steps for k in range(1, len(each) + 1)]
            self.part.options = list(dict.fromkeys(parents))[:MAX_OFFERED_NAMES]


LEGEND = Raw(
    '<div style="font-size:90%;opacity:.8">Wider: more parameters. Taller: more FLOPs (both by their square root). '
    "Filled: trains. Hatched: frozen.</div>"
)


def _fill_stage(each: Any, stage: Stage) -> None:
    state = frozen_of(stage.frozen, stage.layers) if stage.used else "unused"
    each.description = f"{stage.name}: {state}"
    each.icon = "lock" if stage.frozen == stage.layers else "unlock"
    each.button_style = "" if stage.frozen == stage.layers else "info"
    each.tooltip = f"{stage.name}: click to {'unfreeze it' if stage.frozen else 'freeze it'}"


def stage_bars(stage: Stage, most_params: int, most_flops: int) -> Raw:
    """Bars of a stage's parameters and FLOPs relative to the largest; outlines: frozen."""
    params = bar(stage.params / most_params, BLUE, hollow=stage.frozen_params / most_params)
    flops = bar(stage.flops / most_flops, ORANGE, hollow=stage.frozen_flops / most_flops)
    cell = '<span style="display:inline-block;width:17em;max-width:100%;white-space:nowrap">'
    return Raw(
        f'<div style="line-height:1.5">{cell}{params} {count(stage.params)} parameters</span> '
        f"{cell}{flops} {safe(work(stage.flops))}</span></div>"
    )


def edits_words(plan: Plan) -> str:
    """The plan's edits, one line each."""
    rows = [(safe(repr(e)), " (to fit your data)" * e.automatic) for e in plan.edits]
    return "".join(line(Raw(f"<code>{edit}</code>{why}")) for edit, why in rows)
