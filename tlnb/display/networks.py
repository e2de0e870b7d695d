"""Cards about a network: its anatomy, and the three strategies side by side."""

from __future__ import annotations

from collections.abc import Sequence

from tlnb.core.data.dataset import CONVENTION
from tlnb.core.models.anatomy import UNUSED, Anatomy, Layer, Stage
from tlnb.core.planning.plan import Plan, Strategies
from tlnb.core.planning.size_rule import MEASURED, Measured
from tlnb.display.html import BLUE, ORANGE, Raw, bar, card, folded, line, note, safe, table
from tlnb.display.words import flops, percent

BAR_WIDTH = 30  # pixels: the table of stages fits a page of 800
UNSCROLLED_ROWS = 40  # tables with more rows scroll
STRATEGY_MEANINGS = {
    "head": "a new output layer on a frozen network",
    "partial": "the last stages and the output layer",
    "full": "everything, from the pretrained weights",
    "scratch": "everything, from a random start",
    "output-frozen": "everything but a random output layer",
    "adapter": "small parts added to every layer, and the output layer",
    "custom": "what you froze and unfroze",
}
STRATEGY_DATA = {"head": "little data", "partial": "a decent amount", "full": "a lot"}


def anatomy_card(read: Anatomy) -> str:
    """Stages, and with `detailed` their layers: parameters, FLOPs, and what is frozen."""
    statistics = any(x.running_stats for x in read.layers)
    head = ["stage", "in training", "layers", "parameters", "", "output", "FLOPs", ""]
    if read.detailed:
        head[:3] = ["stage, layer", "in training", "kind"]
    head += ["running statistics"] * statistics
    rows = [row[: len(head)] for stage in read.stages for row in _rows(stage, read)]
    height = "34em" if len(rows) > UNSCROLLED_ROWS else ""
    parts: list[str] = [table(head, rows, left=3 if read.detailed else 2, height=height)]
    parts += [line(f"Note: {words}.") for words in read.warnings]
    parts += [note(words) for words in _notes(read, statistics)]
    return card(f"{read.model}, from input to output", *parts)


def _rows(stage: Stage, read: Anatomy) -> list[list[object]]:
    """The row of a stage; with `detailed`, its layers' rows follow and have the bars."""
    if not read.detailed:
        return [_stage_row(stage, read.stages)]
    own = [x for x in read.layers if x.stage == stage.name]
    return [_stage_row(stage, ()), *(_layer_row(x, read.layers) for x in own)]


def _stage_row(stage: Stage, bars: Sequence[Stage]) -> list[object]:
    """Its bars are relative to the largest of `bars`; without any there are none."""
    statistics = f"{stage.running_stats} layer{'s' if stage.running_stats != 1 else ''}"
    layers = f"{stage.layers} layer{'s' if stage.layers != 1 else ''}"
    return [
        Raw(f"<b>{safe(stage.name)}</b>"),
        state_of(stage),
        stage.layers if bars else layers,
        f"{stage.params:,}",
        _params_bar(stage, stage.frozen_params, bars),
        _shape(stage.shape),
        work(stage.flops),
        _flops_bar(stage, stage.frozen_flops, bars),
        statistics if stage.running_stats else "",
    ]


def _layer_row(layer: Layer, bars: Sequence[Layer]) -> list[object]:
    return [
        Raw(f'<span style="padding-left:1em">{safe(layer.name)}</span>'),
        state_of(layer),
        layer.kind,
        f"{layer.params:,}" if layer.params else "–",
        _params_bar(layer, layer.params * layer.frozen, bars),
        _shape(layer.shape),
        work(layer.flops),
        _flops_bar(layer, layer.flops * layer.frozen, bars),
        "yes" if layer.running_stats else "",
    ]


def state_of(unit: Stage | Layer) -> str:
    """`trains`, `frozen`, `2 of 3 frozen`, or `unused`."""
    if not unit.used:
        return "unused"
    return frozen_of(unit.frozen, unit.layers if isinstance(unit, Stage) else 1)


def _params_bar(unit: Stage | Layer, frozen: int, bars: Sequence[Stage | Layer]) -> Raw:
    return _bar(unit.params, frozen, max((x.params for x in bars), default=0), BLUE)


def _flops_bar(unit: Stage | Layer, frozen: int, bars: Sequence[Stage | Layer]) -> Raw:
    return _bar(unit.flops, frozen, max((x.flops for x in bars), default=0), ORANGE)


def _bar(value: int, frozen: int, most: int, colour: str) -> Raw:
    return bar(value / most, colour, BAR_WIDTH, frozen / most) if most else Raw()


def _notes(read: Anatomy, statistics: bool) -> list[str]:
    heads = " and ".join(read.heads) + (", which count as one" if len(read.heads) > 1 else "")
    words = [
        repr(read),
        f"Output layer: {heads}. Bars: the longest is the largest {'layer' if read.detailed else 'stage'}; "
        "an outline is frozen.",
        "Parameters and FLOPs are counted (measured): one image, forward; a multiply-add counts as two.",
    ]
    if statistics:
        words.append(
            "Running statistics: the means and variances that BatchNorm keeps. They change only in layers that train."
        )
    if any(not x.used for x in read.layers):
        words.append(f"{UNUSED}: layers that do not affect any score.")
    if not read.detailed:
        words.append("%tl_layers --all shows every layer.")
    return words


def work(value: float) -> str:
    return flops(value) if value else "–"


def _shape(shape: tuple[int, ...] | None) -> str:
    return "–" if shape is None else "×".join(map(str, shape))


def frozen_of(frozen: int, layers: int) -> str:
    """Say how much of a stage is frozen."""
    if not frozen:
        return "trains"
    return "frozen" if frozen == layers else f"{frozen} of {layers} frozen"


def strategies_card(strategies: Strategies) -> str:
    """What each strategy trains, what a step costs, and the amount of data it suits."""
    most = max(strategies.step_flops)
    head = ["strategy", "trains", "made for", "parameters", "", "a step's FLOPs", ""]
    rows = [
        _strategy_row(plan, stages, cost, most, strategies.suggested)
        for plan, stages, cost in zip(
            strategies.plans, strategies.stages, strategies.step_flops, strict=True
        )
    ]
    words = ["FLOPs are counted (measured): one image, forward and backward, nothing cached."]
    if strategies.rule:
        words.append(f"{strategies.rule!r}. A convention ({CONVENTION}); %tl_advise measures.")
    words.append(
        "%tl_strategy partial --last 2 trains the last two stages instead; %tl_layers shows them."
    )
    parts = [table(head, rows, left=3), *(note(w) for w in words)]
    return card(repr(strategies), *parts, folded("What the rule rests on", _evidence()))


def _evidence() -> Raw:
    """The measured accuracies behind the rule's limits."""
    head = ["data", "labels a class", "head", "partial", "full", "partial − head"]
    rows = [
        [m.data, f"{m.per_class:,}", *map(_mean_sd, (m.head, m.partial, m.full)), _lead(m)]
        for m in MEASURED
    ]
    words = "Test accuracy, %, ± standard deviation over seeds; the lead ± its standard error"
    return Raw(
        table(head, rows, height="26em")
        + note(f"{words}. The page docs/which-strategy.md explains.")
    )


def _mean_sd(figures: tuple[float, float]) -> str:
    return f"{figures[0]:.1f} ± {figures[1]:.1f}"


def _lead(row: Measured) -> str:
    points, error = row.lead("partial", "head")
    return f"{points:+.1f} ± {error:.1f}"


def _strategy_row(
    plan: Plan, stages: tuple[str, ...], cost: float, most: float, suggested: str | None
) -> list[object]:
    share = plan.trainable_params / max(plan.total_params, 1)
    where = f" ({', '.join(stages)})" if plan.strategy == "partial" else ""
    name = Raw(
        f"<b>{safe(plan.strategy)}</b>{' ← suggested' if plan.strategy == suggested else ''}"
    )
    return [
        name,
        STRATEGY_MEANINGS[plan.strategy] + where,
        STRATEGY_DATA.get(plan.strategy, ""),
        f"{plan.trainable_params:,} ({percent(share)})",
        bar(share, width=BAR_WIDTH),
        f"{flops(cost)} ({percent(cost / most)})",
        bar(cost / most, ORANGE, BAR_WIDTH),
    ]
