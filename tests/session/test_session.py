"""The session's state: who changes it, what a direct change of the module does, what comes from above it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest
from torch import nn

from tlnb.core.runtime.errors import TLError
from tlnb.session import Session

READS: list[Callable[[Session], object]] = [
    lambda tl: tl.layers(every=True),
    lambda tl: tl.strategy(),
    lambda tl: tl.models("glyph*"),
    lambda tl: tl.errors(),
    lambda tl: tl.predict(tl.dataset.images["test"][0].numpy()),
    lambda tl: tl.look("stages"),
    lambda tl: tl.compare(),
    lambda tl: tl.cost(),
    lambda tl: tl.code(),
    lambda tl: tl.script(),
    lambda tl: tl.check("1.1"),
    lambda tl: tl.data_of("head"),
    lambda tl: (tl.plan, tl.runs, tl.next_line, repr(tl)),
]


def test_reads_leave_the_state_as_it_is(compared: Session):
    before = compared.state
    for read in READS:
        read(compared)
        assert compared.state is before


def test_a_read_shows_a_direct_change_and_does_not_take_it_over(small: Session):
    small.strategy("full")
    before, lines = small.state, small.script()
    small.model.module.stem.requires_grad_(False)
    trained = [layer.name for layer in small.layers().layers if not layer.frozen]
    assert trained == list(small.plan.trained) and small.plan.strategy == "custom"
    assert not any(name.startswith("stem") for name in trained)
    assert small.state is before and small.script() == lines
    small.freeze("layer1")
    assert small.script().splitlines()[-2].startswith("# tl.model.module was changed in Python")
    assert {name.partition(".")[0] for name in small.plan.frozen} == {"stem", "layer1"}


def test_new_data_keep_a_direct_change(small: Session):
    small.strategy("full")
    small.model.module.stem.requires_grad_(False)
    small.data("symbols", classes=3, per_class=2)
    assert {name.partition(".")[0] for name in small.plan.frozen} == {"stem"}
    assert len(small.dataset.classes) == 3 and "changed in Python" in small.script()


def test_an_output_layer_made_for_the_next_data_is_kept(small: Session):
    own = small.model.module.head = nn.Linear(small.model.module.head.in_features, 3)
    small.data("symbols", classes=3, per_class=2)
    assert small.plan.edits == () and small.plan.trained == ("head",)
    assert small.model.module.head is own


def test_a_direct_change_that_does_not_fit_is_said_by_the_call_that_needs_it(small: Session):
    before = small.plan
    small.model.module.head = nn.Linear(7, 10)
    assert small.plan == before and "glyphnet" in repr(small)
    with pytest.raises(TLError):
        small.layers()


@pytest.mark.parametrize(
    "call",
    [
        lambda tl: tl.data("nowhere"),
        lambda tl: tl.load("nothing"),
        lambda tl: tl.freeze("nothing"),
        lambda tl: tl.add("before:head", "nn.Linear(1, 2)"),
        lambda tl: tl.replace("head", "nn.Conv2d(3, 3, 3)"),
        lambda tl: tl.remove("head"),
        lambda tl: tl.undo(),
        lambda tl: tl.train(lr="nothing=1"),
        lambda tl: tl.train(scratch=True),
        lambda tl: tl.save(),
        lambda tl: tl.cost("cheap"),
        lambda tl: tl.check("0.0"),
        lambda tl: tl.check("1.1", export="/nowhere/grades.json", learner="Ada"),
    ],
)
def test_a_call_that_fails_leaves_the_session_as_it_was(small: Session, call):
    before, lines = small.state, small.script()
    with pytest.raises(TLError):
        call(small)
    assert small.state is before and small.script() == lines


def test_a_state_is_never_changed(small: Session):
    before = small.state
    plan, scopes = before.plan, dict(before.scopes)
    small.add("before:head", nn.Dropout(0.1))
    small.train(epochs=1, augment="none")
    assert before.plan is plan and before.scopes == scopes and before.runs == ()
    assert small.state.runs and small.state.scopes and small.state.history == (plan,)


def test_panels_and_exercises_come_when_they_are_asked_for():
    code = """
import sys
from tlnb import tl
loaded = lambda *names: [name for name in names if name in sys.modules]
print(loaded("ipywidgets", "tlnb.panels", "tlnb.course"))
print(tl.check("1.1").passed, tl.panel("data").name)
print(loaded("tlnb.panels", "tlnb.course"))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.splitlines() == [
        "[]",
        "False data",
        "['tlnb.panels', 'tlnb.course']",
    ], done.stderr
