"""Build a network from a plan: copy, initialise, edit. The original is never changed.

An edit is data: which module, what happens to it, and the code that builds a new one.
`shape_fitting.fit_edits` completes edits for a network and tests them; `build` applies them.
"""

from __future__ import annotations

import ast
import copy
import fnmatch
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from tlnb.core.models.anatomy import ROOT, owned
from tlnb.core.models.module_copy import copied
from tlnb.core.models.pretrained import PretrainedModel
from tlnb.core.planning.adapters import add_adapters
from tlnb.core.planning.plan import Edit
from tlnb.core.planning.safe_modules import (
    MOST_EDITS,
    PARSER_ERRORS,
    check_size,
    is_literal,
    size_of,
)
from tlnb.core.runtime.errors import PlanError, did_you_mean, one_line
from tlnb.core.runtime.torch_lock import alone

Scopes = Mapping[Edit, Mapping[str, Any]]  # the user's names that an edit's code mentions


def build(
    model: PretrainedModel,
    edits: tuple[Edit, ...],
    start: str,
    seed: int,
    scopes: Scopes | None = None,
) -> nn.Module:
    """Build a new network, ready to train: pretrained or random parameters, edits applied.

    New and random parameters depend only on `seed`; torch's global random state is not changed.
    """
    with alone(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = model.fresh() if start == "random" else copied(model.module)
        apply_edits(module, edits, lambda edit: (scopes or {}).get(edit, {}))
    return module


def apply_edits(
    module: nn.Module, edits: Sequence[Edit], scope_of: Callable[[Edit], Mapping[str, Any]]
) -> None:
    """Apply edits in place, in order.

    Raises:
        PlanError: as `apply_edit`; too many edits, or too large in total.
    """
    check_together(edits)
    for edit in edits:
        apply_edit(module, edit, scope_of(edit))


def check_together(edits: Sequence[Edit]) -> None:
    """Raise `PlanError` if edits are too many or too large in total; nothing is allocated."""
    if len(edits) > MOST_EDITS:
        raise PlanError(
            f"{len(edits):,} edits are more than the {MOST_EDITS} a plan may have: "
            "load the edited network instead"
        )
    size = 0
    for edit in edits:
        if edit.code and is_literal(edit.code):
            try:
                check_size(size := size + size_of(edit.code, edit.in_features, edit.classes))
            except Exception as error:  # what nn's constructors raise
                raise _unbuildable(edit, error) from None


def apply_edit(module: nn.Module, edit: Edit, scope: Mapping[str, Any]) -> None:
    """Apply one edit in place.

    Raises:
        PlanError: no module has that name, the new part's name is taken, or the code fails.
    """
    if edit.rank is not None:
        add_adapters(module, edit.heads, edit.rank)
        return
    known = dict(module.named_modules(remove_duplicate=False))
    if not edit.name or edit.name not in known:
        raise PlanError(
            f"no module is called {edit.name!r}: {did_you_mean(edit.name, known, '%tl_layers --all lists them')}"
        )
    if edit.kind == "add" and hasattr(known[edit.name], edit.part):
        raise PlanError(
            f"{edit.name} already has a part {edit.part}: %tl_undo takes back the last edit"
        )
    if edit.kind == "remove":
        module.set_submodule(edit.name, nn.Identity())
    elif edit.kind == "replace":
        module.set_submodule(edit.name, make(edit, scope))
    else:
        _attach(module.get_submodule(edit.name), edit.where, edit.part, make(edit, scope))


# ── added parts: existing names stay ──────────────────────────────────────────────────────────────


class _Call:
    """A hook that passes a module's input or output through a part, by name: copies keep it."""

    def __init__(self, part: str) -> None:
        self.part = part


class _Before(_Call):
    def __call__(self, owner: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return (owner.get_submodule(self.part)(inputs[0]), *inputs[1:])


class _After(_Call):
    def __call__(self, owner: nn.Module, _: Any, output: Any) -> Any:
        return owner.get_submodule(self.part)(output)


def _attach(owner: nn.Module, where: str, part: str, new: nn.Module) -> None:
    owner.add_module(part, new)
    if where == "before":
        owner.register_forward_pre_hook(_Before(part))
    else:
        owner.register_forward_hook(_After(part))


def has_own_parts(module: nn.Module) -> bool:
    """Whether a module has parts besides those that edits added before or after it."""
    return any(name not in _added(module) for name, _ in module.named_children())


def _added(module: nn.Module) -> set[str]:
    hooks: tuple[Any, ...] = (*module._forward_pre_hooks.values(), *module._forward_hooks.values())
    return {hook.part for hook in hooks if isinstance(hook, _Call)}


# ── code ──────────────────────────────────────────────────────────────────────────────────────────


def names_in(code: str) -> set[str]:
    """The names that code reads.

    Raises:
        PlanError: Python cannot parse the code.
    """
    try:
        tree = ast.parse(code.strip())
        return {
            node.id
            for node in ast.walk(tree)
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)
        }
    except PARSER_ERRORS as error:
        what = getattr(error, "msg", None) or str(error)
        raise PlanError(
            f"{short(code)} is not a Python expression ({what}): write e.g. nn.Dropout(0.2)"
        ) from None


def make(edit: Edit, scope: Mapping[str, Any]) -> nn.Module:
    """Build the new module of an edit, its parameters drawn from torch's current random state.

    Raises:
        PlanError: the code fails or does not build a module.
    """
    literal = is_literal(edit.code)
    names = {
        **scope,
        "nn": nn,
        "torch": torch,
        "in_features": edit.in_features,
        "classes": edit.classes,
    }
    if literal:
        names["__builtins__"] = {}
    try:
        if literal:
            size_of(edit.code, edit.in_features, edit.classes)
        made = _evaluate(edit.code, names)
    except Exception as error:  # whatever the user's code raises
        raise _unbuildable(edit, error) from None
    if not isinstance(made, nn.Module):
        kind = type(made).__name__
        raise PlanError(
            f"{short(edit.code)} gives type {kind}, not an nn.Module: write e.g. nn.Dropout(0.2)"
        )
    if any(map(is_lazy, (*made.parameters(), *made.buffers()))):
        raise PlanError(
            f"{short(edit.code)} is lazy and has no shape before a first pass: "
            "write numbers, e.g. nn.Linear(in_features, 64)"
        )
    return made if literal else copy.deepcopy(made)  # never change the user's own module


def _unbuildable(edit: Edit, error: Exception) -> PlanError:
    reason = " ".join(one_line(str(error)).split())[:100] or type(error).__name__
    return PlanError(f"{short(edit.code)} cannot be built ({reason}): write e.g. nn.Dropout(0.2)")


def _evaluate(code: str, names: dict[str, Any]) -> Any:
    """Run all statements and return the value of the last expression."""
    tree = ast.parse(code.strip())
    *before, last = tree.body
    exec(compile(ast.Module(before, []), "<edit>", "exec"), names)
    if not isinstance(last, ast.Expr):
        raise ValueError("the last line must be the new module")
    return eval(compile(ast.Expression(last.value), "<edit>", "eval"), names)  # noqa: S307 - the user's own code


def short(code: str) -> str:
    """Code quoted for a one-line message, shortened if long."""
    text = " ".join(code.split())
    return repr(text if len(text) <= 60 else text[:59] + "…")


# ── output layers ─────────────────────────────────────────────────────────────────────────────────


def new_output_layer(module: nn.Module, head: str, classes: int, width: int | None = None) -> Edit:
    """The edit for an output layer with one score per class.

    Args:
        width: number of input features; None: as before.

    Raises:
        PlanError: the output layer is neither nn.Linear nor nn.Conv2d.
    """
    old = module.get_submodule(head)
    if isinstance(old, nn.Linear):
        code = f"nn.Linear({width or old.in_features}, {classes})"
    elif isinstance(old, nn.Conv2d):
        code = f"nn.Conv2d({width or old.in_channels}, {classes}, {old.kernel_size})"
    else:
        raise PlanError(
            f"{head} is a {type(old).__name__}: an output layer must be nn.Linear or nn.Conv2d"
        )
    return Edit(kind="replace", name=head, code=code, automatic=True)


def output_edits(
    module: nn.Module, heads: Iterable[str], classes: int, widths: Mapping[str, int | None]
) -> tuple[Edit, ...]:
    """Edits for new output layers, in a form that trains well.

    SqueezeNet ends in convolution → ReLU → pool, which cuts off scores below zero together with
    their gradient. Pooling first and leaving out the ReLU computes the same without that, on 1/169
    of the values.
    """
    edits: list[Edit] = []
    for head in heads:
        edits.append(new_output_layer(module, head, classes, widths.get(head)))
        parent, _, last = head.rpartition(".")
        around = list(module.get_submodule(parent).named_children()) if last.isdigit() else []
        place = int(last) if around else 0
        if isinstance(module.get_submodule(head), nn.Conv2d) and place + 1 < len(around):
            name, after = around[place + 1]
            if isinstance(after, nn.ReLU):
                first = head
                if place and isinstance(around[place - 1][1], nn.Dropout):
                    first = f"{parent}.{around[place - 1][0]}"
                edits.append(
                    Edit(
                        kind="add",
                        name=first,
                        code="nn.AdaptiveAvgPool2d(1)",
                        where="before",
                        part="before1",
                        automatic=True,
                    )
                )
                edits.append(Edit(kind="remove", name=f"{parent}.{name}", automatic=True))
    return tuple(edits)


# ── which modules a pattern means ─────────────────────────────────────────────────────────────────


def modules_matching(module: nn.Module, pattern: str, layers: set[str]) -> list[str]:
    """Full names of the outermost modules that a pattern means.

    The pattern is a module, a glob of modules, or one whose modules cover `layers`.

    Raises:
        PlanError: no module matches.
    """
    known = [name for name, _ in module.named_modules() if name]
    if pattern in known:
        return [pattern]
    covering = list(_covering(module, "", layers)) if layers else []
    if not covering:
        covering = [name for name in known if fnmatch.fnmatchcase(name, pattern)]
    outer = [n for n in covering if not any(n.startswith(other + ".") for other in covering)]
    if not outer:
        raise PlanError(
            f"no module matches {pattern!r}: {did_you_mean(pattern, known, '%tl_layers --all lists them')}"
        )
    return outer


def _covering(module: nn.Module, prefix: str, layers: set[str]) -> Iterable[str]:
    for name, child in module.named_children():
        full = prefix + name
        inside = {full if n == ROOT else f"{full}.{n}" for n, _ in owned(child)}
        if inside and inside <= layers:
            yield full
        elif inside & layers:
            yield from _covering(child, full + ".", layers)
