"""The layers' panel: stages, patterns, edits, what a step costs."""

from __future__ import annotations

import pytest
from torch import nn

from tests.panels.held import lines
from tlnb.core.models.flops import step_flops
from tlnb.panels import panel_of
from tlnb.panels.layers_panel import LayersPanel
from tlnb.session import Session


def test_stages_patterns_edits_and_undo(small: Session):
    panel: LayersPanel = panel_of(small, "layers")
    next(b for b in panel.buttons if b.description.startswith("layer4")).click()
    assert "layer4.conv1" in small.plan.trained and panel.undo.disabled is False
    panel.pattern.value = "*.bn1"
    panel.freeze.click()
    assert "layer4: 1 of 6 frozen" in [b.description for b in panel.buttons]
    assert "layer4.bn1" in small.plan.frozen
    panel.kind.value, panel.part.value, panel.code.value = "before", "head", "nn.Dropout(0.2)"
    panel.apply.click()
    assert (
        lines(small)[-1] == "%tl_add before:head nn.Dropout(0.2)"
        and "nn.Dropout" in panel.notes.value
    )
    panel.kind.value = "remove"
    assert panel.code.disabled
    panel.undo.click()
    assert lines(small)[-1] == "%tl_undo" and "Dropout" not in panel.notes.value
    assert panel.error.value == ""


def test_a_partly_frozen_stage_trains_after_a_click(small: Session):
    panel = panel_of(small, "layers")
    small.strategy("full")
    small.freeze("layer4.bn1")
    button = next(b for b in panel.buttons if b.description.startswith("layer4"))
    assert "1 of" in button.description
    button.click()
    assert button.description == "layer4: trains"


def test_the_last_thing_that_trains_cannot_be_frozen_and_the_panel_says_why(small: Session):
    panel = panel_of(small, "layers")
    before = small.plan
    next(b for b in panel.buttons if b.description.startswith("head")).click()
    assert (
        "everything in glyphnet is frozen" in panel.error.value
        and 'role="alert"' in panel.error.value
    )
    assert small.plan is before
    panel.strategies["full"].click()
    assert panel.error.value == ""


@pytest.mark.parametrize("strategy", ["head", "partial", "full"])
def test_a_steps_share_is_what_counting_says(small: Session, strategy: str):
    from tlnb.core.planning.edit import build
    from tlnb.core.training.freezing import set_modes

    small.strategy(strategy)
    network = build(small.model, small.plan.edits, "pretrained", 0)
    set_modes(network, set(small.plan.trained))
    counted = step_flops(network, small.model.transform.example(2))
    assert small.layers().step_flops == pytest.approx(counted, rel=0.02)


def test_a_thousand_layers(session: Session):
    deep = nn.Sequential(
        nn.Flatten(), *[nn.Linear(48 if i else 3072, 48) for i in range(999)], nn.Linear(48, 10)
    )
    session.load(deep, size=32, called="deep")
    panel = panel_of(session, "layers")
    panel.pattern.value = "500..600"
    panel.unfreeze.click()
    assert len(session.plan.trained) == 102 and panel.error.value == ""
    panel.every.click()
    assert panel.detail.value.count("<tr>") > 1000
    assert len(panel.part.options) <= 400


def test_three_layers(session: Session):
    session.load(
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)),
        size=32,
        called="tiny",
    )
    panel = panel_of(session, "layers")
    assert panel.error.value == "" and "<svg" in panel.drawing.value
