"""Sessions, jobs and records whose values were changed: taken or refused in one line, and shown in one line."""

from __future__ import annotations

import ast
import copy
import importlib
import inspect
import json
import pkgutil
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st

import tlnb
from tests.safety.cases import drawn, passes_once, put, refused, write_session
from tlnb.core.runtime.errors import OneLine, UsageError, one_line
from tlnb.core.training.run import Run
from tlnb.display import drawings, html, run_cards
from tlnb.session import Session
from tlnb.session.job_runner import carry_out
from tlnb.session.restoring import adopt, restore

STRANGE = (
    None,
    True,
    0,
    -1,
    3,
    10**9,
    10**30,
    -0.5,
    1e300,
    float("nan"),
    float("inf"),
    "",
    "x",
    "\x1b[2J",
    "a\nb",
    "\ud800",
    "/proc",
    "<script>",
    "$\\frac{$",
    "/dev/zero",
    "9" * 5000,
    [],
    {},
    ["x"],
    {"x": 1},
    [[]],
    "glyphnet",
    "digits",
    "pretrained",
    "random",
    "remove",
)


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A folder with what a session left behind, its values, and a job's."""
    place = tmp_path_factory.mktemp("left")
    session = Session()
    session.data("digits", per_class=2)
    session.load("glyphnet")
    session.add("before:head", "nn.Dropout(0.2)")
    session.train(epochs=1)
    session.strategy("partial")
    session.save(job=place / "job.json", epochs=1)
    session.save_to_disk()
    session.store.close()
    shutil.copytree(session.store.folder.path, place / "session")
    (place / "session" / "lock").unlink(missing_ok=True)
    values = json.loads(json.loads((place / "session" / "session.json").read_text())["session"])
    return (
        place,
        values,
        json.loads((place / "job.json").read_text()),
        session.runs[0],
        session.layers(),
    )


def places(found: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """All places in JSON's values but the whole; of long lists the first entries."""
    pairs = (
        found.items()
        if isinstance(found, dict)
        else list(enumerate(found))[:3]
        if isinstance(found, list)
        else ()
    )
    inside = [place for key, inner in pairs for place in places(inner, (*at, key))]
    return [*inside, at] if at else inside


def restored(place: Path, values: Any) -> None:
    """A session is taken or refused in a line; what is taken can be looked at."""
    write_session(place / "session", json.dumps(values))
    session = Session()
    try:
        if refused(lambda: adopt(session, restore(place / "session", Session))) is None:
            assert one_line(repr(session)) == repr(session)
            assert all(one_line(said) == said for said in session.script().splitlines())
            for shown in (
                session.undo,
                session.cost,
                session.layers,
                lambda: session.compare(*session.runs),
                session.code,
            ):
                refused(lambda shown=shown: repr(shown()))
    finally:
        session.store.close()


def begun(place: Path, values: Any) -> None:
    """A job is refused in a line, or comes as far as its training."""
    file, session = place / "changed.json", Session()
    file.write_text(json.dumps(values), "utf8")

    def enough(*_: Any) -> Any:
        raise UsageError("far enough")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tlnb.session.trainings.carry_out", enough)
        assert refused(lambda: carry_out(session, file, place / "out"))


def changed(whole: Any, at: tuple[Any, ...], new: Any) -> Any:
    values = copy.deepcopy(whole)
    put(values, at, new)
    return values


TAMPERED: list[tuple[tuple[Any, ...], Any]] = [
    (("runs",), [3]),
    (("runs",), ["../../x"]),
    (("lines",), 3),
    (("bill", "charges", 0, "seconds"), "x"),
    (("asked", "size"), "x"),
    (("asked", "mean"), 3),
    (("asked", "weights"), "/proc/self/mem"),
    (("asked", "source"), "\0"),
    (("data", "request", "seed"), 10**30),
    (("data", "edge"), 10**9),
    (("plan", "edits", 0, "name"), "nowhere"),
    (("plan", "edits", 0, "name"), ""),
    (("plan", "edits", 0, "code"), "nn.LazyLinear(3)"),
    (("plan", "edits", 0, "in_features"), -5),
    (("plan", "frozen"), ["x"]),
    (("plan", "options", "epochs"), 10**30),
    (("unfinished",), ["x"]),
    (("running",), {}),
    (("history",), {}),
    (("data",), []),
    (("fingerprint",), None),
    (("data", "request", "source"), "/proc"),
    (("data", "classes"), ["a"] * 10**5),
    (("plan", "trained"), []),
    (("plan", "model"), "x\x1b[2J"),
]


@pytest.mark.parametrize(("at", "new"), TAMPERED)
def test_a_tampered_session_is_taken_or_refused_in_a_line(left: Any, at: tuple[Any, ...], new: Any):
    restored(left[0], changed(left[1], at, new))


JOB: list[tuple[tuple[Any, ...], Any]] = [
    (("run",), 3),
    (("asked", "size"), "x"),
    (("asked", "own"), "x"),
    (("asked", "weights"), None),
    (("plan", "edits", 0, "name"), "nowhere"),
    (("plan", "edits", 0, "name"), "training"),
    (("options", "device"), "cuda:99"),
    (("options", "device"), "\x1b"),
    (("options", "precision"), "x"),
    (("options", "stage_lr"), [["x", 1]]),
    (("facts", "request", "val"), 5),
    (("facts",), 3),
    (("plan",), None),
    (("baseline_of",), 3),
]


@pytest.mark.parametrize(("at", "new"), JOB)
def test_a_tampered_job_is_refused_in_a_line(left: Any, at: tuple[Any, ...], new: Any):
    begun(left[0], changed(left[2], at, new))


def with_upsampling(values: Any, automatic: bool) -> Any:
    """A session or a job with an edit that makes too much of an image."""
    edited = copy.deepcopy(values)
    edits = edited["plan"]["edits"]
    place = {"kind": "add", "name": "layer1", "where": "after", "part": "after1"}
    code = {"code": "nn.Upsample(size=1000000)", "automatic": automatic}
    edits.append(edits[-1] | place | code)
    return edited


@pytest.mark.parametrize("automatic", [False, True])
def test_a_job_makes_no_more_of_an_image_than_an_edit_may(left: Any, automatic: bool):
    """An edit that is said to be tlnb's own is counted like any other."""
    file = left[0] / "changed.json"
    file.write_text(json.dumps(with_upsampling(left[2], automatic)), "utf8")
    said = refused(lambda: carry_out(Session(), file, left[0] / "out"))
    assert said is not None and "activations per image" in said


@pytest.mark.parametrize("automatic", [False, True])
def test_a_session_makes_no_more_of_an_image_than_an_edit_may(left: Any, automatic: bool):
    """Edits that are said to be tlnb's own are made anew."""
    write_session(left[0] / "session", json.dumps(with_upsampling(left[1], automatic)))
    session = Session()
    said = refused(lambda: adopt(session, restore(left[0] / "session", Session)))
    session.store.close()
    if automatic:
        assert said is None and not any("Upsample" in edit.code for edit in session.plan.edits)
    else:
        assert said is not None and "activations per image" in said


@pytest.fixture
def quick() -> Iterator[None]:
    with passes_once():
        yield


@drawn(data=st.data())
def test_any_value_of_a_session_or_a_job(left: Any, quick: None, data: st.DataObject):
    place, session, job, *_ = left
    whole, read = data.draw(st.sampled_from([(session, restored), (job, begun)]))
    read(
        place,
        changed(
            whole, data.draw(st.sampled_from(places(whole))), data.draw(st.sampled_from(STRANGE))
        ),
    )


# ── records ───────────────────────────────────────────────────────────────────────────────────────────────────────


def shown(run: Run) -> None:
    assert one_line(repr(run)) == repr(run)
    for part in (run.plan, *run.changes, run.cache, run.forecast):
        assert one_line(repr(part)) == repr(part)
    card = run_cards.run_card(run) + run_cards.plan_card(run.plan)
    _is_harmless(card)


def _is_harmless(markup: str) -> None:
    markup.encode()
    assert not {"\x1b", "\0"} & set(markup) and "<script" not in markup and '" onload' not in markup


@drawn(data=st.data())
def test_any_record_on_cards(left: Any, data: st.DataObject):
    record = json.loads(left[3].to_json())
    for _ in range(data.draw(st.integers(1, 3))):
        put(
            record,
            data.draw(st.sampled_from(places(record))),
            copy.deepcopy(data.draw(st.sampled_from(STRANGE))),
        )
        if not isinstance(record, dict):
            return
    read: list[Run] = []
    if refused(lambda: read.append(Run.from_json(json.dumps(record)))) is None:
        refused(lambda: shown(read[0]))


def test_every_repr_of_ones_own_is_one_line():
    """All classes that write their own: names in them come from headers, records, folders."""
    own: list[type] = []
    for found in pkgutil.walk_packages(tlnb.__path__, "tlnb."):
        if found.name.startswith(
            ("tlnb.glyphnet", "tlnb.__main__")
        ):  # their names are the package's
            continue
        module = importlib.import_module(found.name)
        own += [
            kind
            for _, kind in inspect.getmembers(module, inspect.isclass)
            if kind.__module__ == module.__name__ and _writes_its_own(kind)
        ]
    assert len(own) > 30 and [kind for kind in own if not issubclass(kind, OneLine)] == []


def _writes_its_own(kind: type) -> bool:
    body = ast.parse(inspect.cleandoc("\n" + inspect.getsource(kind))).body[0]
    return isinstance(body, ast.ClassDef) and any(
        getattr(part, "name", "") == "__repr__" for part in body.body
    )


@pytest.mark.parametrize(
    "name", ["\x1b[2J", "\0", "\ud800", "<script>", '" onload="x', "$\\frac{$"]
)
def test_a_name_is_text_wherever_a_card_shows_it(left: Any, name: str):
    """In words, in what stands for a picture, in drawings and in links."""
    record = json.loads(left[3].to_json())
    named = Run.from_json(json.dumps(record | {"name": name}))
    shown(named)
    for made in (
        html.picture(b"", name),
        html.link(name, name),
        html.link("https://x/" + name, name),
    ):
        _is_harmless(made)
    _is_harmless(drawings.network(replace(left[4], model=name)))


def test_control_characters_of_a_record_stay_in_the_file(left: Any):
    record = json.loads(left[3].to_json()) | {"name": "a\x1b[2J\nb", "data": "c\x07"}
    assert repr(Run.from_json(json.dumps(record))).startswith("Run a\\x1b[2J\\nb: head on c\\x07")
