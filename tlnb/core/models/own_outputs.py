"""Outputs of the user's own network: pick the scores, and append a missing output layer.

Names of layers stay. Each change is kept as a `OutputChange`, so that a script without tlnb can repeat
it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from tlnb.core.models.anatomy import read_anatomy
from tlnb.core.models.tracing import watch
from tlnb.core.runtime.errors import ModelError, listed
from tlnb.core.runtime.torch_lock import alone

SCORE_NAMES = (
    *("logits", "scores", "out", "output", "outputs", "pred", "preds", "prediction"),
    "predictions",
)
HEAD_NAMES = {"fc", "head", "heads", "classifier", "last_linear", "output", "linear"}
APPENDED_NAME = "output_layer"  # name of an appended output layer
CHANGE_ATTRIBUTE = "_tlnb_change"  # class attribute that stores the change


@dataclass(frozen=True)
class OutputStep:
    """One step to the scores: `output["logits"]`, `output[0]` or `output.logits`."""

    kind: Literal["key", "index", "name"]
    at: Any

    def taken(self, output: Any) -> Any:
        """Apply the step to an output."""
        return getattr(output, self.at) if self.kind == "name" else output[self.at]

    @property
    def code(self) -> str:
        """The step as Python code."""
        if self.kind == "name":
            return f".{self.at}"
        key = self.at
        plain = isinstance(key, str) and key.isprintable() and not set(key) & {'"', "\\"}
        return f'["{key}"]' if plain else f"[{key!r}]"


@dataclass(frozen=True)
class Route:
    """The path from a network's output to its scores; empty if the output is the scores."""

    kind: str  # type of the output: dict, tuple, or another class's name
    steps: tuple[OutputStep, ...]

    def scores(self, output: Any) -> Any:
        """Extract the scores."""
        for step in self.steps:
            output = step.taken(output)
        return output

    def code(self, name: str) -> str:
        """The path as Python code, for an output called `name`."""
        return name + "".join(step.code for step in self.steps)


@dataclass(frozen=True, kw_only=True)
class OutputChange:
    """A change of a network's output."""

    # paths to the scores: in eval mode, then in training mode if it differs
    routes: tuple[Route, ...] = ()
    always: bool = True  # whether the scores are one of several outputs in both modes
    layer: str = ""  # the output layer that was appended, or replaced an `nn.Identity`
    width: int = 0  # number of its input features
    called: bool = False  # whether that layer must be called after the network's own forward


def changes_of(module: nn.Module) -> tuple[OutputChange, ...]:
    """The changes made to the user's network, in order."""
    kinds = reversed(type(module).__mro__)
    return tuple(vars(kind)[CHANGE_ATTRIBUTE] for kind in kinds if CHANGE_ATTRIBUTE in vars(kind))


def own_class(module: nn.Module) -> type[nn.Module]:
    """The class as its author wrote it, without tlnb's changes."""
    return next(kind for kind in type(module).__mro__ if CHANGE_ATTRIBUTE not in vars(kind))


def pick(output: Any, routes: Sequence[Route]) -> Any:
    """Extract the scores from an output that may be the scores alone or contain them."""
    if isinstance(output, Tensor):
        return output
    kind = _kind(output)
    return next((r for r in routes if r.kind == kind), routes[0]).scores(output)


def select_scores(
    module: nn.Module, in_eval: Any, in_training: Any, by_layers: Sequence[Tensor] = ()
) -> list[str]:
    """Make the network return its scores alone, with a note if it returns more.

    Args:
        in_eval, in_training: its output in each mode.
        by_layers: the outputs of its linear layers in eval mode.

    Raises:
        ModelError: none of the outputs are scores.
    """
    several = [each for each in (in_eval, in_training) if not isinstance(each, Tensor)]
    if not several:
        return []
    by_kind = {_kind(each): _route(each, by_layers) for each in reversed(several)}
    routes = tuple(reversed(by_kind.values()))
    kind, change = type(module), OutputChange(routes=routes, always=len(several) == 2)
    _give(module, change, lambda self, x: pick(kind.forward(self, x), routes))
    when = " while it trains" if isinstance(in_eval, Tensor) else ""
    used = _which(routes[0])
    return [f"it gives {_words(several[0])}{when}: the {used} is used, the rest is not trained"]


def _route(output: Any, by_layers: Sequence[Tensor]) -> Route:
    steps: list[OutputStep] = []
    inner = output
    while not isinstance(inner, Tensor):
        step = _step(inner, by_layers)
        if step is None:
            raise ModelError(
                f"the network gives {_words(output)}: it must give scores (N, classes), or those "
                "as 'logits'"
            )
        steps.append(step)
        inner = step.taken(inner)
    return Route(_kind(output), tuple(steps))


def _step(output: Any, by_layers: Sequence[Tensor]) -> OutputStep | None:
    if isinstance(output, Mapping):
        return _named("key", output, tuple(output))
    if fields := getattr(output, "_fields", ()):  # a named tuple: the first field is the first item
        step = _named("name", output, fields)
        return OutputStep("index", 0) if step is None or step.at == fields[0] else step
    if isinstance(output, tuple | list) and output:
        return OutputStep("index", _place(output, by_layers))
    held = tuple(name for name in SCORE_NAMES if getattr(output, name, None) is not None)
    return OutputStep("name", held[0]) if held else None


def _place(output: Sequence[Any], by_layers: Sequence[Tensor]) -> int:
    """The index of the scores: the first output, with one exception.

    If the first one is features (no linear layer is as wide) and another comes from a linear layer,
    it is that one.
    """
    widths = {given.shape[-1] for given in by_layers}
    first = output[0]
    if not isinstance(first, Tensor) or first.shape[-1:].numel() in widths:
        return 0
    linear = (i for i, item in enumerate(output) if any(item is each for each in by_layers))
    return next(linear, 0)


def _named(kind: Literal["key", "name"], output: Any, names: Sequence[Any]) -> OutputStep | None:
    name = next((name for name in SCORE_NAMES if name in names), None)
    if name is None and len(names) == 1:
        name = names[0]
    return None if name is None else OutputStep(kind, name)


def _kind(output: Any) -> str:
    if isinstance(output, Mapping):
        return "dict"
    return "tuple" if isinstance(output, tuple | list) else type(output).__name__


def _words(output: Any) -> str:
    kind = type(output).__name__
    article = "an" if kind[0].lower() in "aeiou" else "a"
    inside = f" of {listed(map(str, output), 6)}" if isinstance(output, Mapping) else ""
    return f"{article} {kind}{inside}"


def _which(route: Route) -> str:
    at = route.steps[0].at
    if not isinstance(at, int):
        return str(at)
    return ("first", "second", "third")[at] if at < 3 else f"output number {at + 1}"


def _give(
    module: nn.Module, change: OutputChange, forward: Callable[..., Any] | None = None
) -> None:
    """Attach a change, and its `forward` if it has one; names, class name and source stay."""
    kind = type(module)
    body: dict[str, Any] = {
        CHANGE_ATTRIBUTE: change,
        "__module__": kind.__module__,
        "__qualname__": kind.__qualname__,
        "__doc__": kind.__doc__,
    }
    body |= {} if forward is None else {"forward": forward}
    module.__class__ = type(kind.__name__, (kind,), body)


# ── the output layer ──────────────────────────────────────────────────────────────────────────────


def append_output_layer(module: nn.Module, edge: int) -> list[str]:
    """Append an output layer if the network ends in features.

    Raises:
        ModelError: it returns neither scores nor features.
    """
    try:
        read_anatomy(module, edge)
        has_scores = True
    except ModelError as error:
        if "no output layer" not in str(error):
            return []  # reported when its anatomy is read, when the data are known
        has_scores = False
    emptied = _emptied_head(module, edge)
    if has_scores and not emptied:
        return []
    width = watch(module, edge).scores
    with alone(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layer = nn.Linear(width, 2)
    how = _replace_identity(module, layer, emptied) or _append(module, layer)
    return [f"it ends in {width} features, without an output layer: {how}"]


def _emptied_head(module: nn.Module, edge: int) -> str:
    """The name of an `nn.Identity` where an output layer was, as in `fc = nn.Identity()`.

    Empty if there is none, or if the scores come straight from a layer with weights. timm's
    networks say themselves where it was.
    """
    classifier = getattr(module, "get_classifier", None)
    known = classifier() if callable(classifier) else None
    names = [name for name, part in module.named_modules() if name and part is known]
    last = names[0] if names else [name for name, _ in module.named_modules() if name][-1]
    if type(module.get_submodule(last)) is not nn.Identity:
        return ""
    seen = watch(module, edge)
    straight = bool(seen.steps[seen.output].layers)
    named = bool(names) or bool(HEAD_NAMES & set(last.split(".")))
    return last if named and not straight else ""


def _replace_identity(module: nn.Module, layer: nn.Linear, name: str = "") -> str:
    """Put the layer in place of an `nn.Identity` at the end; returns empty if there is none.

    Args:
        name: its name; default: the last module.
    """
    last = name or [name for name, _ in module.named_modules() if name][-1]
    if type(module.get_submodule(last)) is not nn.Identity:
        return ""
    module.set_submodule(last, layer)
    _give(module, OutputChange(layer=last, width=layer.in_features))
    return f"{last} becomes one"


def _append(module: nn.Module, layer: nn.Linear) -> str:
    kind = type(module)
    module.add_module(APPENDED_NAME, layer)
    calls_all = issubclass(own_class(module), nn.Sequential)  # appended modules are called, too
    change = OutputChange(layer=APPENDED_NAME, width=layer.in_features, called=not calls_all)

    def forward(self: Any, x: Any) -> Any:
        return getattr(self, APPENDED_NAME)(kind.forward(self, x))

    _give(module, change, None if calls_all else forward)
    return f"{APPENDED_NAME} is appended"
