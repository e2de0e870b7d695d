"""Edit the plan: strategies, freezing, edits of the network, and undo."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace as replaced
from typing import Any

from torch import nn

from tlnb.core.models.anatomy import Anatomy
from tlnb.core.models.flops import step_flops
from tlnb.core.planning import plan
from tlnb.core.planning.adapters import default_rank
from tlnb.core.planning.edit import Scopes, build, modules_matching, names_in
from tlnb.core.planning.magic_lines import edit_line, line
from tlnb.core.planning.plan import Edit, Plan, Strategies
from tlnb.core.planning.prepare import prepare
from tlnb.core.runtime.errors import PlanError, UsageError, did_you_mean
from tlnb.core.training.freezing import set_modes
from tlnb.session.lock import mutates_session
from tlnb.session.session_base import SessionBase
from tlnb.session.state import SessionState

UNDO_LIMIT = 100  # plans that undo can go back

# ── what trains ──


def layers(self: SessionBase, every: bool = False) -> Anatomy:
    """List stages, or with `every` layers: parameters, output, FLOPs, frozen or trained."""
    _, anatomy, current_plan = self.current().loaded()
    return replaced(anatomy.with_frozen(current_plan.frozen), detailed=every)


def strategy(
    self: SessionBase, name: str | None = None, *, last: int | None = None, rank: int | None = None
) -> Plan | Strategies:
    """Set a strategy; earlier freezes are dropped, edits stay.

    Without a name, show the three strategies side by side and set nothing.

    Args:
        last: `partial` only: train the last N stages.
        rank: `adapter` only: the rank of what is added to each layer; default: the highest that
            adds at most 5% of the parameters.

    Raises:
        PlanError: an unknown strategy, or more stages than the network has.
    """
    if name is None:
        return _side_by_side(without_adapters(self.current()))
    return _set_strategy(self, name, last, rank)


@mutates_session
def _set_strategy(self: SessionBase, name: str, last: int | None, rank: int | None) -> Plan:
    state = self.noticed()
    if rank is not None and name != "adapter":
        raise UsageError(f"--rank needs strategy adapter: %tl_strategy adapter --rank {rank}")
    plain = without_adapters(state)
    fitting = _with_adapters(plain, rank) if name == "adapter" else plain
    _, anatomy, old = fitting.loaded()
    planned = plan.plan_strategy(anatomy, name, old.edits, last)
    after = replaced(fitting, plan=planned, history=_history(state))
    return _commit(self, after, line("tl_strategy", name, last=last, rank=rank))


@mutates_session
def freeze(self: SessionBase, *patterns: str) -> Plan:
    """Freeze more layers by name, stage, glob or range; default: all but the output layer."""
    state = self.noticed()
    _, anatomy, old = state.loaded()
    frozen = (
        plan.plan_freeze(old, anatomy, patterns)
        if patterns
        else plan.plan_strategy(anatomy, "head", old.edits)
    )
    return _commit(self, with_plan(state, frozen), line("tl_freeze", *patterns))


@mutates_session
def unfreeze(self: SessionBase, *patterns: str) -> Plan:
    """Unfreeze layers, by name, stage, glob or range."""
    state = self.noticed()
    _, anatomy, old = state.loaded()
    if not patterns:
        raise PlanError(
            f"%tl_unfreeze needs a layer or stage: %tl_unfreeze {anatomy.stages[-2:][0].name}, "
            "or %tl_strategy full for all"
        )
    unfrozen = plan.plan_unfreeze(old, anatomy, patterns)
    return _commit(self, with_plan(state, unfrozen), line("tl_unfreeze", *patterns))


# ── the network ──


@mutates_session
def add(
    self: SessionBase, where: str, what: str | nn.Module, names: Mapping[str, Any] | None = None
) -> Plan:
    """Add a layer before or after a module, as part of it, so that names do not change.

    Args:
        where: `before:NAME` or `after:NAME`, a module's name in PyTorch.
        what: an expression such as `nn.Dropout(0.2)`, in which `in_features` is the number of
            input features there and `classes` the number of classes; or a module.
        names: the user's variables that the expression may use.

    Raises:
        PlanError: no such module, or a layer after which the network does not run.
    """
    state = self.noticed()
    _, anatomy, _ = state.loaded()
    side, colon, name = where.partition(":")
    if side not in ("before", "after") or not colon:
        raise PlanError(
            f"{where!r} is not a place to add a layer: "
            f"write before:{anatomy.head} or after:{anatomy.names[0]}"
        )
    module = _module_named(state, name)
    code, scope = _code(what, names or {}, state.scopes)
    count = 1 + sum(part.rstrip("0123456789") == side for part, _ in module.named_children())
    edit = Edit(kind="add", name=name, code=code, where=side, part=f"{side}{count}")
    return _commit(self, with_edit(state, edit, scope), edit_line("add", where, code))


@mutates_session
def remove(self: SessionBase, pattern: str) -> Plan:
    """Remove modules: each becomes `nn.Identity`.

    The output layer is replaced by one of the right width if that is needed.

    Raises:
        PlanError: no such module, the output layer, or a module without which the network does
            not run.
    """
    state = self.noticed()
    _, anatomy, old = state.loaded()
    matching = plan.match(anatomy, [pattern]) if plan.matches(anatomy, pattern) else set()
    removed = modules_matching(_network(state), pattern, matching)
    for name in removed:
        if any(head == name or head.startswith(name + ".") for head in anatomy.heads):
            raise PlanError(
                f"{name} is the output layer, which can be replaced but not removed: "
                f"%tl_replace {name} EXPR"
            )
    *before, last = [Edit(kind="remove", name=name) for name in removed]
    so_far = replaced(old, edits=(*old.edits, *before))
    return _commit(self, with_edit(state, last, so_far=so_far), line("tl_remove", pattern))


@mutates_session
def replace(
    self: SessionBase, name: str, what: str | nn.Module, names: Mapping[str, Any] | None = None
) -> Plan:
    """Replace a module. The new one trains unless it is frozen by name afterwards.

    Args:
        name: a module's name in PyTorch.
        what, names: as in `add`; code may have several lines, the last one being the new module.

    Raises:
        PlanError: no such module, or a new one that does not fit there.
    """
    state = self.noticed()
    _module_named(state, name)
    code, scope = _code(what, names or {}, state.scopes)
    after = with_edit(state, Edit(kind="replace", name=name, code=code), scope)
    return _commit(self, after, edit_line("replace", name, code))


@mutates_session
def undo(self: SessionBase) -> Plan:
    """Undo the last change of the plan: an edit, a strategy, a freeze.

    Raises:
        PlanError: nothing has changed since the model was loaded.
    """
    state = self.noticed()
    model, _, _ = state.loaded()
    if not state.history:
        raise PlanError(f"nothing to undo: the plan has not changed since %tl_load {model.name}")
    before = replaced(state, history=state.history[:-1])
    return _commit(self, prepared_anew(before, state.history[-1]), "%tl_undo")


# ── a state and a change → the next state ──


def with_plan(state: SessionState, new: Plan) -> SessionState:
    """The state with this plan; undo goes back to the previous one."""
    return replaced(state, plan=new, history=_history(state))


def with_edit(
    state: SessionState,
    edit: Edit,
    scope: Mapping[str, Any] | None = None,
    so_far: Plan | None = None,
) -> SessionState:
    """The state with one more edit, tested by a forward pass.

    Args:
        scope: the user's names in the edit's code, where it has code.
        so_far: the plan to edit; default: the state's.

    Raises:
        PlanError: an edit that does not fit.
    """
    model, _, old = state.loaded()
    scopes = state.scopes if scope is None else {**state.scopes, edit: scope}
    prepared = prepare(model, state.dataset, so_far or old, scopes, edit, state.parts)
    after = replaced(state, scopes=scopes, history=_history(state))
    return after.with_prepared(prepared)


def without_adapters(state: SessionState) -> SessionState:
    """The state with a plan that adds no adapters: itself, unless its plan does."""
    old = state.loaded()[2]
    lasting = old.lasting_edits
    return state if lasting == old.edits else prepared_anew(state, replaced(old, edits=lasting))


def _with_adapters(state: SessionState, rank: int | None) -> SessionState:
    _, anatomy, _ = state.loaded()
    if rank is not None and not 1 <= rank <= plan.HIGHEST_RANK:
        raise PlanError(f"--rank must be between 1 and {plan.HIGHEST_RANK}, got {rank}")
    chosen = rank or default_rank(_network(state), anatomy.heads)
    return with_edit(state, Edit(kind="adapt", name=", ".join(anatomy.heads), rank=chosen))


def prepared_anew(state: SessionState, new: Plan) -> SessionState:
    """The state with this plan and a freshly read anatomy."""
    model, _, _ = state.loaded()
    prepared = prepare(model, state.dataset, new, state.scopes, loaded=state.parts)
    return state.with_prepared(prepared)


def _commit(session: SessionBase, state: SessionState, typed: str) -> Plan:
    session.commit(state, typed)
    return state.loaded()[2]


def _history(state: SessionState) -> tuple[Plan, ...]:
    return (*state.history, state.loaded()[2])[-UNDO_LIMIT:]


def _code(
    what: str | nn.Module, names: Mapping[str, Any], scopes: Scopes
) -> tuple[str, Mapping[str, Any]]:
    """The code of a new module and the user's names in it; a module object gets a name."""
    if isinstance(what, str):
        if not what.strip():
            raise PlanError("no layer was given: write e.g. nn.Dropout(0.2)")
        return what.strip(), {n: names[n] for n in names_in(what) if n in names}
    if not isinstance(what, nn.Module):
        raise PlanError(
            f"{type(what).__name__} is not a layer: give an nn.Module, or an expression in quotes"
        )
    count = sum(1 for scope in scopes.values() for held in scope.values() if held is not what)
    name = f"your_{type(what).__name__}" + (f"_{count + 1}" if count else "")
    return name, {name: what}


def _network(state: SessionState) -> nn.Module:
    """The network with the plan's edits, for inspection."""
    model, _, current_plan = state.loaded()
    return build(model, current_plan.edits, "pretrained", 0, state.scopes)


def _module_named(state: SessionState, name: str) -> nn.Module:
    known: dict[str, nn.Module] = dict(_network(state).named_modules())
    known.pop("", None)
    if name not in known:
        hint = did_you_mean(name, known, "%tl_layers --all lists them")
        raise PlanError(f"no module is called {name!r}: {hint}")
    return known[name]


def _side_by_side(state: SessionState) -> Strategies:
    _, anatomy, old = state.loaded()
    plans = [plan.plan_strategy(anatomy, name, old.edits) for name in ("head", "partial", "full")]
    example = state.sized().transform.example(2)
    network = _network(state)
    flops = []
    for candidate in plans:
        set_modes(network, set(candidate.trained))
        flops.append(step_flops(network, example))
    stages = tuple(anatomy.stages_of(p.trained) for p in plans)
    return Strategies(plans=tuple(plans), step_flops=tuple(flops), stages=stages, rule=state.rule)
