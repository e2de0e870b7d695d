"""Prepare a plan: complete its edits for model and data, read the anatomy, adapt the plan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import nn

from tlnb.core.data.dataset import DataSet
from tlnb.core.models.anatomy import ROOT, Anatomy, read_anatomy
from tlnb.core.models.pretrained import PretrainedModel, facing, resized
from tlnb.core.planning.edit import Scopes
from tlnb.core.planning.plan import Edit, Plan, plan_custom, plan_strategy, renewed
from tlnb.core.planning.shape_fitting import fit_edits

# A part's name → its identity, and which of its parameters require a gradient.
Parts = Mapping[str, tuple[int, tuple[bool, ...]]]


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A model with its parts as read, the edited anatomy, the plan, and the edits' scopes."""

    model: PretrainedModel
    parts: Parts
    anatomy: Anatomy
    plan: Plan
    scopes: Scopes


def prepare(
    model: PretrainedModel,
    data: DataSet | None,
    old: Plan | None,
    scopes: Scopes,
    fresh: Edit | None = None,
    loaded: Parts | None = None,
) -> Prepared:
    """Complete and test the edits, read the anatomy, and make the plan.

    Args:
        old: the plan so far, whose edits and freezes are kept; None: strategy `head`.
        scopes: the user's names that edits mention.
        fresh: a new edit, applied last.
        loaded: the parts of the model as loaded; an output layer that is not among them was put
            there by the user.

    Raises:
        PlanError: an edit that does not fit, or nothing left to train.
        ModelError: a network that does not take images, or does not give scores.
    """
    size = resized(model, data.request.size if data else None).transform.size
    own = read_anatomy(model.module, size, model.name)
    wanted = [*(old.edits if old else ()), *([fresh] if fresh else [])]
    classes = len(data.classes) if data else None
    replaced = _to_replace(model, own, data, loaded)
    edits, module, edit_scopes = fit_edits(model, replaced, wanted, classes, size, scopes)
    read = read_anatomy(module, size, model.name) if edits else own
    plan = (
        renewed(old, read, edits, edits[-1] if fresh else None)
        if old
        else plan_strategy(read, "head", edits)
    )
    return Prepared(
        model=facing(model, classes if replaced else None),
        parts=parts_of(model.module),
        anatomy=read,
        plan=plan,
        scopes=edit_scopes,
    )


def _to_replace(
    model: PretrainedModel, own: Anatomy, data: DataSet | None, loaded: Parts | None
) -> list[str]:
    """The output layers to replace: all but a run's or the user's own for exactly these classes."""
    if data is None or model.classes == data.classes:
        return [] if data else list(own.heads)

    def made_by_user(name: str) -> bool:
        head = model.module.get_submodule(name)
        new = loaded is not None and loaded.get(name, (None,))[0] != id(head)
        return new and getattr(head, "out_features", None) == len(data.classes)

    return [head for head in own.heads if not made_by_user(head)]


def parts_of(module: nn.Module) -> Parts:
    """Each part's identity, and which of its own parameters require a gradient."""
    return {
        name: (id(part), tuple(p.requires_grad for p in part._parameters.values() if p is not None))
        for name, part in module.named_modules()
    }


def noticed(now: Prepared, data: DataSet | None, scopes: Scopes) -> tuple[Prepared, str] | None:
    """Turn direct changes of the module (`requires_grad`, `fc = …`) into part of the plan.

    Returns:
        The result and what changed, in words; None if nothing changed.
    """
    parts, before = parts_of(now.model.module), now.parts
    if parts == before:
        return None
    changed = [name for name, (part, _) in parts.items() if before.get(name, (None,))[0] != part]
    # Then the architecture is no longer the one that `fresh` would build.
    if changed or before.keys() - parts.keys():
        own = replace(now.model.origin, family="own")
        model = replace(now.model, architecture=None, origin=own)
        after = prepare(model, data, now.plan, scopes, loaded=before)
    else:
        after = replace(now, parts=parts)
    frozen = {
        n for n in after.plan.frozen if not any(n == c or n.startswith(c + ".") for c in changed)
    }
    layers = set(after.anatomy.names)
    for name, (_, flags) in parts.items():
        layer = name or ROOT
        if flags and layer in layers and flags != before.get(name, (None, None))[1]:
            frozen = frozen - {layer} if all(flags) else frozen | {layer}
    made = plan_custom(after.plan, after.anatomy, frozen)
    outer = [n for n in changed if not any(n.startswith(other + ".") for other in changed)]
    return replace(after, plan=made), ", ".join(outer) or "requires_grad"
