"""Direct changes of `tl.model.module` (`requires_grad`, `fc = …`) become part of the plan."""

from __future__ import annotations

from dataclasses import replace

from tlnb.core.data.dataset import DataSet
from tlnb.core.planning.prepare import Prepared, noticed, prepare
from tlnb.core.runtime.errors import one_line
from tlnb.session.state import SessionState


def with_direct_changes(state: SessionState) -> tuple[SessionState, str]:
    """The state with what was changed in Python since it was made, and a line that says so; empty for nothing.

    Raises:
        PlanError, ModelError: a change after which the network cannot be used.
    """
    now = _prepared(state)
    found = None if now is None else noticed(now, state.dataset, state.scopes)
    if found is None:
        return state, ""
    line = f"# tl.model.module was changed in Python: {one_line(found[1])}"
    return state.with_prepared(found[0]), line


def with_data(state: SessionState, data: DataSet) -> tuple[SessionState, str]:
    """The state with other data, its plan made to fit them; and the line of a direct change.

    A new output layer that the user put into the module for these very data is kept.
    """
    changed, line = with_direct_changes(replace(state, dataset=data))
    if changed.model is None or changed.anatomy is not state.anatomy:
        return changed, line  # nothing to fit, or fitted already
    prepared = prepare(changed.model, data, changed.plan, changed.scopes, loaded=changed.parts)
    return changed.with_prepared(prepared), line


def _prepared(state: SessionState) -> Prepared | None:
    if state.model is None or state.anatomy is None or state.plan is None:
        return None
    return Prepared(state.model, state.parts, state.anatomy, state.plan, {})
