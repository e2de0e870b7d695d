"""What happened to a run: facts, and the notes that are written from them."""

from __future__ import annotations

import inspect
import json
from dataclasses import asdict
from typing import Any, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlnb.core.runtime.typed_json import typed
from tlnb.core.training.events import KINDS, Event, event, events_of_notes, once

OF_TYPE: dict[Any, st.SearchStrategy[Any]] = {int: st.integers(0, 10**9), str: st.text()}
READ_BY_PROGRAMS = ("cached-views", "one-view", "uncached", "budget")


@st.composite
def events(draw: st.DrawFn, kinds: tuple[str, ...] = tuple(KINDS)) -> Event:
    kind = draw(st.sampled_from(kinds))
    hints = get_type_hints(KINDS[kind])
    return Event(
        kind, {n: draw(OF_TYPE[hints[n]]) for n in inspect.signature(KINDS[kind]).parameters}
    )


@given(events())
def test_an_event_is_the_same_after_json(happened: Event):
    assert typed(Event, json.loads(json.dumps(asdict(happened)))) == happened


@given(events())
def test_an_old_note_is_said_as_it_was(happened: Event):
    """Whatever a record's notes say, its events say the same."""
    (read,) = (Event(**each) for each in events_of_notes([str(happened)]))
    assert str(read) == str(happened)


def test_what_programs_read_is_found_in_old_notes():
    for happened in (
        event("cached-views", views=10),
        event("one-view"),
        event("uncached", why="the network cannot be traced"),
        event("budget", epochs=5, wanted=40, budget="2s"),
        event("budget", epochs=40, wanted=40, budget="1h"),
    ):
        assert happened.kind in READ_BY_PROGRAMS
        assert events_of_notes([str(happened)]) == [asdict(happened)]


@pytest.mark.parametrize(
    "values",
    [
        {"kind": "unheard-of"},
        {"kind": "stopped"},
        {"kind": "stopped", "facts": {"epoch": "3", "epochs": 4}},
        {"kind": "stopped", "facts": {"epoch": 3, "epochs": 4, "more": 5}},
        {"kind": "note", "facts": {"text": 1}},
        {"kind": "cached-views", "facts": {"views": True}},
    ],
)
def test_what_is_no_event_is_refused(values: dict[str, Any]):
    with pytest.raises(ValueError):
        typed(Event, values)


def test_what_was_said_is_not_said_again():
    said = [event("joined-batches", size=2), event("one-view"), event("joined-batches", size=2)]
    assert once(said) == said[:2]
