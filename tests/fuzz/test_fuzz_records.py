"""JSON that was changed: records of runs, plans, headers, jobs, sessions."""

from __future__ import annotations

import ast
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.cases import fuzz, one_line_or, spoilt
from tlnb.core.evaluation.recorded import SCHEMA, read_recorded
from tlnb.core.export.save import Header
from tlnb.core.planning.plan import Plan
from tlnb.core.runtime.errors import UsageError, one_line
from tlnb.core.training.run import Run
from tlnb.display import cards, run_cards
from tlnb.session import Session
from tlnb.session.job_runner import carry_out
from tlnb.session.restoring import adopt, restore


def record_of(session: Session) -> str:
    return session.runs[0].to_json()


@fuzz
@given(data=st.data())
def test_records_of_runs(trained: Session, data: st.DataObject):
    run = one_line_or(lambda: Run.from_json(data.draw(spoilt(record_of(trained)))))
    if run is not None:
        assert Run.from_json(run.to_json()).to_json() == run.to_json()
        assert "\n" not in one_line(repr(run)) and "<script" not in run_cards.run_card(run)


@fuzz
@given(data=st.data())
def test_plans(trained: Session, data: st.DataObject):
    spoiled = data.draw(spoilt(json.dumps(trained.plan.to_json())))
    plan = one_line_or(lambda: Plan.from_json(_parsed(spoiled)))
    if plan is not None:
        assert (
            Plan.from_json(json.loads(json.dumps(plan.to_json()))) == plan
            or "NaN" in spoiled
            or "nan" in repr(plan)
        )
        assert "<script" not in run_cards.plan_card(plan)


def _parsed(record: str) -> Any:
    from tlnb.core.runtime.typed_json import parse

    try:
        return parse(record)
    except ValueError:
        return None


@fuzz
@given(data=st.data())
def test_headers_of_saved_runs(trained: Session, data: st.DataObject):
    model = trained.model
    whole = Header(
        origin=model.origin,
        transform=model.transform,
        classes=trained.runs[0].classes,
        run=trained.runs[0],
    ).to_json()
    header = one_line_or(lambda: Header.from_json(data.draw(spoilt(whole)), "x.safetensors"))
    if header is not None:
        ast.parse(
            f"MEAN, STD = {header.transform.mean}, {header.transform.std}\nSIZE = {header.transform.size}"
        )


@fuzz
@given(data=st.data())
def test_jobs(trained: Session, place: Path, data: st.DataObject):
    whole, file = place / "job.json", place / "spoilt.json"
    if not whole.exists():
        trained.save(job=whole, epochs=1)
    file.write_text(data.draw(spoilt(whole.read_text())), "utf8", "surrogatepass")
    session = Session()

    def enough(*_: Any) -> None:
        raise UsageError("far enough")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tlnb.session.trainings.carry_out", enough)
        one_line_or(lambda: carry_out(session, file, place / "out"))


@fuzz
@given(data=st.data())
def test_recorded_runs(trained: Session, place: Path, data: st.DataObject):
    facts, file = trained.dataset, place / "recorded.json"
    about = {
        "name": facts.name,
        "counts": facts.counts,
        "splits": facts.splits,
        "skipped": ["a: hidden file"],
    }
    whole = json.dumps(
        {
            "schema": SCHEMA,
            "recorded": "2026-01-31",
            "typed": ["%tl_train"],
            "notes": ["drawn"],
            "data": about,
            "model": "glyphnet",
            "runs": [json.loads(record_of(trained))],
        }
    )
    file.write_text(data.draw(spoilt(whole)), "utf8", "surrogatepass")
    found = one_line_or(lambda: read_recorded(file))
    if found is not None:
        assert found.runs and repr(found) and found.compare().rows
        assert "<script" not in cards.comparison_card(found.compare())


@fuzz
@given(data=st.data())
def test_sessions(trained: Session, place: Path, data: st.DataObject):
    """What a session left behind, changed by someone who gets the checksum right."""
    import zlib

    folder = place / "session"
    if not folder.exists():
        shutil.copytree(trained.store.folder.path, folder)
        (folder / "lock").unlink(missing_ok=True)
        (folder / "whole.json").write_text((folder / "session.json").read_text())
    outer = json.loads((folder / "whole.json").read_text())
    if data.draw(st.booleans()):
        record = data.draw(spoilt(outer["session"]))
        outer |= {"session": record, "crc32": zlib.crc32(record.encode(errors="replace"))}
        (folder / "session.json").write_text(json.dumps(outer))
    else:
        (folder / "session.json").write_text(
            data.draw(spoilt(json.dumps(outer))), "utf8", "surrogatepass"
        )
    session = Session()
    try:
        one_line_or(lambda: adopt(session, restore(folder, Session)))
        if session.plan is not None:
            one_line_or(session.undo)
            assert all(one_line(said) == said for said in session.script().splitlines())
    finally:
        session.store.close()
