"""What one's own network gives: the scores among several outputs, and an output layer where there is none.

Names of layers stay. Each change is kept as a `Change`, so that a script without tlnb can make it anew.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.fx import Proxy

from tlnb.core.models.anatomy import read_anatomy
from tlnb.core.models.tracing import watch
from tlnb.core.runtime.errors import ModelError, listed
from tlnb.core.runtime.torch_lock import alone

SCORE_NAMES = (
    "logits",
    "scores",
    "out",
    "output",
    "outputs",
    "pred",
    "preds",
    "prediction",
    "predictions",
)
APPENDED_NAME = "output_layer"  # the name of one that is appended
CHANGE_ATTRIBUTE = "_tlnb_change"  # the attribute of a class that keeps it


@dataclass(frozen=True)
class Step:
    """One step from an output to the scores: `output["logits"]`, `output[0]` or `output.logits`."""

    kind: Literal["key", "index", "name"]
    at: Any

    def taken(self, output: Any) -> Any:
        """What lies there."""
        return getattr(output, self.at) if self.kind == "name" else output[self.at]

    @property
    def code(self) -> str:
        """The step as Python writes it."""
        if self.kind == "name":
            return f".{self.at}"
        plain = (
            isinstance(self.at, str) and self.at.isprintable() and not set(self.at) & {'"', "\\"}
        )
        return f'["{self.at}"]' if plain else f"[{self.at!r}]"


@dataclass(frozen=True)
class Route:
    """The way from what a network gives to its scores; none where it gives those."""

    kind: str  # of the output: dict, tuple, or another class's name
    steps: tuple[Step, ...]

    def scores(self, output: Any) -> Any:
        """The scores."""
        for step in self.steps:
            output = step.taken(output)
        return output

    def code(self, name: str) -> str:
        """The same in Python, of an output called `name`."""
        return name + "".join(step.code for step in self.steps)


@dataclass(frozen=True)
class Change:
    """A change of what a network gives."""

    routes: tuple[
        Route, ...
    ] = ()  # to the scores: in eval mode, then in training mode if it differs
    always: bool = True  # whether it gives the scores among others in both modes
    layer: str = ""  # the output layer that was appended, or took the place of an `nn.Identity`
    width: int = 0  # the features that it takes
    called: bool = False  # whether that layer has to be called after the network's own forward


def changes_of(module: nn.Module) -> tuple[Change, ...]:
    """What was changed of one's own network, in that order."""
    kinds = reversed(type(module).__mro__)
    return tuple(vars(kind)[CHANGE_ATTRIBUTE] for kind in kinds if CHANGE_ATTRIBUTE in vars(kind))


def own_class(module: nn.Module) -> type[nn.Module]:
    """The class as its author wrote it, without our changes."""
    return next(kind for kind in type(module).__mro__ if CHANGE_ATTRIBUTE not in vars(kind))


def pick(output: Any, routes: Sequence[Route]) -> Any:
    """The scores, where a network gives them alone at some times and among others at other times."""
    if isinstance(output, Tensor | Proxy):
        return output
    kind = _kind(output)
    return next((r for r in routes if r.kind == kind), routes[0]).scores(output)


def select_scores(
    module: nn.Module, in_eval: Any, in_training: Any, by_layers: Sequence[Tensor] = ()
) -> list[str]:
    """Let the network give its scores alone, where it gives more, and say so.

    Args:
        in_eval, in_training: what it gives.
        by_layers: what its linear layers gave in eval mode.

    Raises:
        ModelError: no scores are among it.
    """
    several = [each for each in (in_eval, in_training) if not isinstance(each, Tensor)]
    if not several:
        return []
    by_kind = {_kind(each): _route(each, by_layers) for each in reversed(several)}
    routes = tuple(reversed(by_kind.values()))
    kind = type(module)
    _give(
        module,
        Change(routes, len(several) == 2),
        lambda self, x: pick(kind.forward(self, x), routes),
    )
    when = " while it trains" if isinstance(in_eval, Tensor) else ""
    used = _which(routes[0])
    return [f"it gives {_words(several[0])}{when}: the {used} is used, the rest is not trained"]


def _route(output: Any, by_layers: Sequence[Tensor]) -> Route:
    steps: list[Step] = []
    inner = output
    while not isinstance(inner, Tensor):
        step = _step(inner, by_layers)
        if step is None:
            raise ModelError(
                f"the network gives {_words(output)}: it must give scores (N, classes), or those as "
                "'logits'"
            )
        steps.append(step)
        inner = step.taken(inner)
    return Route(_kind(output), tuple(steps))


def _step(output: Any, by_layers: Sequence[Tensor]) -> Step | None:
    if isinstance(output, Mapping):
        return _named("key", output, tuple(output))
    if fields := getattr(output, "_fields", ()):  # a named tuple; its first field is its first item
        step = _named("name", output, fields)
        return Step("index", 0) if step is None or step.at == fields[0] else step
    if isinstance(output, tuple | list) and output:
        return Step("index", _place(output, by_layers))
    held = tuple(name for name in SCORE_NAMES if getattr(output, name, None) is not None)
    return Step("name", held[0]) if held else None


def _place(output: Sequence[Any], by_layers: Sequence[Tensor]) -> int:
    """The first of several, unless that is of features (no linear layer is as wide) and another came from such a layer."""
    widths = {given.shape[-1] for given in by_layers}
    first = output[0]
    if not isinstance(first, Tensor) or first.shape[-1:].numel() in widths:
        return 0
    linear = (i for i, item in enumerate(output) if any(item is each for each in by_layers))
    return next(linear, 0)


def _named(kind: Literal["key", "name"], output: Any, names: Sequence[Any]) -> Step | None:
    name = next((name for name in SCORE_NAMES if name in names), None)
    if name is None and len(names) == 1:
        name = names[0]
    return None if name is None else Step(kind, name)


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


def _give(module: nn.Module, change: Change, forward: Callable[..., Any] | None = None) -> None:
    """Keep a change, and its `forward` if it has one; names, the class's name and its source stay."""
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
    """Append an output layer where the network ends in features.

    Raises:
        ModelError: it gives neither scores nor features.
    """
    try:
        read_anatomy(module, edge)
    except ModelError as error:
        if "no output layer" not in str(error):
            return []  # said where its anatomy is read, with the data at hand
    else:
        return []
    width = watch(module, edge).scores
    with alone(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layer = nn.Linear(width, 2)
    how = _replace_identity(module, layer) or _append(module, layer)
    return [f"it ends in {width} features, without an output layer: {how}"]


def _replace_identity(module: nn.Module, layer: nn.Linear) -> str:
    """Put the layer where the network's last module is an `nn.Identity`; empty where it is not."""
    last = [name for name, _ in module.named_modules() if name][-1]
    if type(module.get_submodule(last)) is not nn.Identity:
        return ""
    module.set_submodule(last, layer)
    _give(module, Change(layer=last, width=layer.in_features))
    return f"{last} becomes one"


def _append(module: nn.Module, layer: nn.Linear) -> str:
    kind = type(module)
    module.add_module(APPENDED_NAME, layer)
    calls_all = issubclass(own_class(module), nn.Sequential)  # what is added is called, too
    change = Change(layer=APPENDED_NAME, width=layer.in_features, called=not calls_all)
    _give(
        module,
        change,
        None if calls_all else lambda self, x: getattr(self, APPENDED_NAME)(kind.forward(self, x)),
    )
    return f"{APPENDED_NAME} is appended"
