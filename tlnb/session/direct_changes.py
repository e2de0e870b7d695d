"""Direct changes of `tl.model.module` (`requires_grad`, `fc = …`) become part of the plan."""

from __future__ import annotations

from dataclasses import replace

from tlnb.core.data.dataset import DataSet
from tlnb.core.planning.prepare import Prepared, noticed, prepare
from tlnb.core.runtime.errors import one_line
from tlnb.session.state import SessionState


def with_direct_changes(state: SessionState) -> tuple[SessionState, str]:
    """Apply what was changed in Python since the state was made.

    Returns:
        The state, and a transcript line that names the change (empty if nothing changed).

    Raises:
        PlanError, ModelError: a change after which the network cannot be used.
    """
    now = _prepared(state)
    change = None if now is None else noticed(now, state.dataset, state.scopes)
    if change is None:
        return state, ""
    prepared, what = change
    line = f"# tl.model.module was changed in Python: {one_line(what)}"
    return state.with_prepared(prepared), line


def with_data(state: SessionState, data: DataSet) -> tuple[SessionState, str]:
    """The state with new data and its plan adapted to that, and the line of a direct change.

    A new output layer that the user put into the module for this data is kept.
    """
    changed, line = with_direct_changes(replace(state, dataset=data))
    if changed.model is None or changed.anatomy is not state.anatomy:
        return changed, line  # no model yet, or already adapted
    prepared = prepare(changed.model, data, changed.plan, changed.scopes, loaded=changed.parts)
    return changed.with_prepared(prepared), line


def _prepared(state: SessionState) -> Prepared | None:
    if state.model is None or state.anatomy is None or state.plan is None:
        return None
    return Prepared(
        model=state.model, parts=state.parts, anatomy=state.anatomy, plan=state.plan, scopes={}
    )
