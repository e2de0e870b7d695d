"""Fit edits to a network: fill in widths, make output layers, test the result."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from textwrap import shorten
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import type_before_parametrizations

from tlnb.core.models.anatomy import ROOT
from tlnb.core.models.module_copy import copied
from tlnb.core.models.pretrained import PretrainedModel
from tlnb.core.models.tracing import blank
from tlnb.core.planning.activation_limits import (
    ActivationCounter,
    ActivationLimit,
    TooManyActivations,
    limit_of,
    one_image,
)
from tlnb.core.planning.edit import (
    Scopes,
    apply_edit,
    check_together,
    names_in,
    new_output_layer,
    output_edits,
    short,
)
from tlnb.core.planning.plan import Edit
from tlnb.core.runtime.errors import PlanError
from tlnb.core.runtime.torch_lock import alone

LONGEST_REASON = 140  # characters: enough for torch's message about channels


def fit_edits(
    model: PretrainedModel,
    heads: Sequence[str],
    wanted: Sequence[Edit],
    classes: int | None,
    size: int,
    scopes: Scopes,
) -> tuple[tuple[Edit, ...], nn.Module, Scopes]:
    """Complete the user's edits for this network and data.

    Output layers are made for `classes` (None: no data yet) and for the width that reaches them
    after removals. Each edit gets the input width at its place. The result is tested by one
    forward pass.

    Returns:
        The completed edits, the edited network, and the scopes by completed edit.

    Raises:
        PlanError: an edit that cannot be built, makes too many activations, or after which the
            network does not run.
    """
    own = [edit for edit in wanted if not edit.automatic]
    image = _Image(size, limit_of(model.module, own, size))
    kept = [
        h
        for h in heads
        if not any(
            e.kind not in ("add", "adapt") and (h == e.name or h.startswith(e.name + "."))
            for e in own
        )
    ]
    widths: dict[str, int | None] = dict.fromkeys(kept)
    for _ in range(2):
        edits, module, edit_scopes = _apply(
            model=model,
            heads=kept,
            own=own,
            classes=classes,
            image=image,
            scopes=scopes,
            widths=widths,
        )
        wrong = {
            h: w
            for h in kept
            if (w := _arriving(module, h, image)) not in (None, _takes(module, h))
        }
        if not wrong:
            break
        widths.update(wrong)
    _try(module, edits, classes, image)
    return edits, module, edit_scopes


def check_activations(
    module: nn.Module, original: nn.Module, edits: Sequence[Edit], size: int
) -> None:
    """Check that an edited network stays within the activation limit.

    Whether the network runs at all is tested elsewhere.

    Raises:
        TooManyActivations: the network exceeds the limit.
    """
    limit = limit_of(original, edits, size)
    if limit is None:
        return
    for twin_of in (blank, _itself):
        with _ignoring_failures():
            _Image(size, limit).through(twin_of(module))
            return


@dataclass(frozen=True)
class _Image:
    """A blank image, and the activation limit for it."""

    size: int
    limit: ActivationLimit | None

    def through(self, module: nn.Module) -> Any:
        return one_image(module, self.size, ActivationCounter(self.limit))


def _apply(
    model: PretrainedModel,
    heads: list[str],
    own: list[Edit],
    classes: int | None,
    image: _Image,
    scopes: Scopes,
    widths: Mapping[str, int | None],
) -> tuple[tuple[Edit, ...], nn.Module, Scopes]:
    with alone(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = copied(model.module)
        if classes is None:
            automatic = tuple(
                new_output_layer(module, h, _scores(module.get_submodule(h)), w)
                for h in heads
                if (w := widths[h])
            )
        else:
            automatic = output_edits(module, heads, classes, widths)
        for edit in automatic:
            apply_edit(module, edit, {})
        edits: list[Edit] = [*automatic]
        edit_scopes: dict[Edit, Mapping[str, Any]] = {}
        for edit in own:
            complete = _completed(module, edit, classes, image)
            edits.append(complete)
            check_together(edits)
            apply_edit(module, complete, scopes.get(edit, {}))
            edit_scopes[complete] = scopes.get(edit, {})
    return tuple(edits), module, edit_scopes


def _completed(module: nn.Module, edit: Edit, classes: int | None, image: _Image) -> Edit:
    """The edit with the values of `in_features` and `classes`, where its code uses them."""
    used = names_in(edit.code) if edit.code else set()
    if "classes" in used and classes is None:
        raise PlanError(
            f"{short(edit.code)} needs the number of classes: %tl_data first, or write the number"
        )
    width = None
    if "in_features" in used:
        at = edit.name if edit.kind != "add" or edit.where == "before" else None
        width = _arriving(module, at, image) if at else _leaving(module, edit.name, image)
        if width is None:
            raise PlanError(
                f"nothing reaches {edit.name}, so in_features is unknown there: write the number"
            )
    return replace(edit, in_features=width, classes=classes if "classes" in used else None)


def _scores(head: nn.Module) -> int:
    return int(getattr(head, "out_features", getattr(head, "out_channels", 0)))


def _takes(module: nn.Module, head: str) -> int | None:
    part = module.get_submodule(head)
    return getattr(part, "in_features", getattr(part, "in_channels", None))


def _arriving(module: nn.Module, name: str, image: _Image) -> int | None:
    """The input width of a module; None if the pass does not reach it."""
    return _width(
        module,
        name,
        image,
        lambda part, note: part.register_forward_pre_hook(lambda _, x: note(x[0])),
    )


def _leaving(module: nn.Module, name: str, image: _Image) -> int | None:
    return _width(
        module, name, image, lambda part, note: part.register_forward_hook(lambda _, __, y: note(y))
    )


def _width(
    module: nn.Module,
    name: str,
    image: _Image,
    hook: Callable[[nn.Module, Callable[[Any], None]], Any],
) -> int | None:
    seen: list[int] = []
    # These modules have features last, whatever the shape.
    last = isinstance(module.get_submodule(name), nn.Linear | nn.LayerNorm)

    def note(value: Any) -> None:
        if isinstance(value, Tensor):
            seen.append(value.shape[1] if value.ndim == 4 and not last else value.shape[-1])

    # On the meta device first: that costs nothing, however large the network.
    for twin_of in (blank, _itself):
        with _ignoring_failures():
            twin = twin_of(module)
            handle = hook(twin.get_submodule(name), note)
            try:
                image.through(twin)
            finally:
                handle.remove()
        if seen:
            return seen[0]
    return None


def _itself(module: nn.Module) -> nn.Module:
    return module


@contextlib.contextmanager
def _ignoring_failures() -> Iterator[None]:
    """Ignore a pass that fails, which `_try` reports; only an exceeded limit is raised."""
    try:
        yield
    except TooManyActivations:
        raise
    except Exception:  # whatever modules raise on inputs that do not fit
        return


def _try(module: nn.Module, edits: Sequence[Edit], classes: int | None, image: _Image) -> None:
    """Test the network by one forward pass; an error names the layer that no longer fits."""
    last = edits[-1] if edits else "the network"
    output = _output(module, last, image)
    shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
    if (
        not isinstance(output, Tensor)
        or output.ndim != 2
        or (classes is not None and output.shape[1] != classes)
    ):
        wanted = f"(1, {classes})" if classes is not None else "(1, classes)"
        raise PlanError(
            f"{last!r} does not fit: the network gives {shape}, not {wanted}: "
            "end it with nn.Linear(in_features, classes)"
        )


def _output(module: nn.Module, last: object, image: _Image) -> Any:
    """The network's output; if the pass on meta tensors fails, a real one finds the layer."""
    try:
        return image.through(blank(module))
    except TooManyActivations:
        raise
    except Exception:  # a layer does not fit, or needs real tensors: find out which
        return _output_or_where_it_fails(module, last, image)


def _output_or_where_it_fails(module: nn.Module, last: object, image: _Image) -> Any:
    entered: list[tuple[str, Any]] = []
    names = {
        part: name or ROOT
        for name, part in module.named_modules()
        if "parametrizations"
        not in name.split(".")  # of a layer's weights: the layer itself counts
    }

    def enter(part: nn.Module, inputs: tuple[Any, ...]) -> None:
        shape = tuple(inputs[0].shape) if inputs and isinstance(inputs[0], Tensor) else "no tensor"
        entered.append((names[part], shape))

    handles = [part.register_forward_pre_hook(enter) for part in names]
    try:
        return image.through(module)
    except TooManyActivations:
        raise
    except Exception as error:  # whatever modules raise on inputs that do not fit
        where, shape = entered[-1] if entered else (ROOT, "nothing")
        part = module if where == ROOT else module.get_submodule(where)
        kind = type_before_parametrizations(part).__name__
        reason = shorten(str(error), LONGEST_REASON, placeholder=" …")
        raise PlanError(
            f"{last!r} does not fit: {where} ({kind}) cannot take {shape} ({reason}): remove or replace "
            "that layer first, or choose another"
        ) from None
    finally:
        for handle in handles:
            handle.remove()
