"""Cards about a network: its anatomy, and the three strategies side by side."""

from __future__ import annotations

from tlnb.core.models.anatomy import UNUSED, Anatomy, Layer, Stage
from tlnb.core.planning.plan import Plan, Strategies
from tlnb.display.html import BLUE, ORANGE, Raw, bar, card, line, note, safe, table
from tlnb.display.words import flops, percent

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
    head = ["stage", "layers", "parameters", "", "output", "FLOPs", "", "in training"]
    if read.detailed:
        head[:2] = ["stage, layer", "kind"]
    rows = [row for stage in read.stages for row in _rows(stage, read)]
    width = len(head) + statistics
    head.append("running statistics")
    cut = [row[:width] for row in rows]
    parts: list[str] = [
        table(
            head[:width],
            cut,
            left=2 if read.detailed else 1,
            height="34em" if len(rows) > UNSCROLLED_ROWS else "",
        )
    ]
    parts += [line(f"Note: {words}.") for words in read.warnings]
    parts += [note(words) for words in _notes(read, statistics)]
    return card(f"{read.model}, from input to output", *parts)


def _rows(stage: Stage, read: Anatomy) -> list[list[object]]:
    """The row of a stage; with `detailed`, its layers' rows follow and have the bars."""
    layers = read.layers if read.detailed else ()
    most_params = max((x.params for x in layers or read.stages), default=0)
    most_flops = max((x.flops for x in layers or read.stages), default=0)
    count = f"{stage.layers} layer{'s' if stage.layers != 1 else ''}"
    rows: list[list[object]] = [
        [
            Raw(f"<b>{safe(stage.name)}</b>"),
            count if read.detailed else stage.layers,
            f"{stage.params:,}",
            "" if read.detailed else _bar(stage.params, stage.frozen_params, most_params, BLUE),
            _shape(stage.shape),
            work(stage.flops),
            "" if read.detailed else _bar(stage.flops, stage.frozen_flops, most_flops, ORANGE),
            frozen_of(stage.frozen, stage.layers) if stage.used else "unused",
            f"{stage.running_stats} layer{'s' if stage.running_stats != 1 else ''}"
            if stage.running_stats
            else "",
        ]
    ]
    for x in layers:
        if x.stage == stage.name:
            rows.append(
                [
                    Raw(f'<span style="padding-left:1em">{safe(x.name)}</span>'),
                    x.kind,
                    f"{x.params:,}" if x.params else "–",
                    _bar(x.params, x.params * x.frozen, most_params, BLUE),
                    _shape(x.shape),
                    work(x.flops),
                    _bar(x.flops, x.flops * x.frozen, most_flops, ORANGE),
                    _layer_state(x),
                    "yes" if x.running_stats else "",
                ]
            )
    return rows


def _layer_state(layer: Layer) -> str:
    if not layer.used:
        return "unused"
    return "frozen" if layer.frozen else "trains"


def _bar(value: int, frozen: int, most: int, colour: str) -> Raw:
    return bar(value / max(most, 1), colour, hollow=frozen / max(most, 1))


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
    head = ["strategy", "trains", "made for", "parameters", "", "", "a step's FLOPs", "", ""]
    rows = [
        _strategy_row(plan, stages, cost, most, strategies.suggested)
        for plan, stages, cost in zip(
            strategies.plans, strategies.stages, strategies.step_flops, strict=True
        )
    ]
    words = ["FLOPs are counted (measured): one image, forward and backward, nothing cached."]
    if strategies.size_verdict:
        words.append(
            f"The suggestion follows from the amount of data ({strategies.size_verdict} here); it is a starting point, not a law."
        )
    words.append(
        "%tl_strategy partial --last 2 trains the last two stages instead; %tl_layers shows them."
    )
    return card(repr(strategies), table(head, rows, left=3), *(note(w) for w in words))


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
        f"{plan.trainable_params:,}",
        percent(share),
        bar(share),
        flops(cost),
        percent(cost / most),
        bar(cost / most, ORANGE),
    ]
