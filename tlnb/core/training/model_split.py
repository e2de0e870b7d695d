"""Where a frozen network can be cut: left of it nothing changes, so it needs computing only once.

torch.fx gives the network as a list of operations. A cut is a place where a single value carries everything forward.
The frozen prefix becomes one module, the rest another; both share their layers with the network.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn

from tlnb.core.models.anatomy import ROOT
from tlnb.core.models.tracing import Counter, blank, countable
from tlnb.core.models.undisturbed import undisturbed
from tlnb.core.planning.edit import has_added_parts
from tlnb.core.storage.activation_cache import key_of
from tlnb.core.training.cache_key import structure
from tlnb.core.training.split_point import Cut, Place
from tlnb.core.training.split_replay import Recording, record, replay_cut

RANDOM = {
    "rand",
    "randn",
    "randint",
    "randperm",
    "rand_like",
    "randn_like",
    "bernoulli",
    "normal",
    "multinomial",
    "dropout",
    "feature_dropout",
    "alpha_dropout",
    "feature_alpha_dropout",
    "rrelu",
    "gumbel_softmax",
    "stochastic_depth",
}
RANDOM_IN_PLACE = {
    "bernoulli_",
    "cauchy_",
    "exponential_",
    "geometric_",
    "log_normal_",
    "normal_",
    "random_",
    "uniform_",
}
ROWS = 7  # images to try a prefix with: a number that shapes do not have by chance


Surveys = dict[
    str, dict[str, tuple[tuple[int, ...], float]]
]  # by a key of the prefix: shape and FLOPs at its operations


class Cuts:
    """Networks traced and cut, each once for the modes that it is in: tracing bakes them in."""

    def __init__(self, surveys: Surveys | None = None) -> None:
        self._graphs: dict[tuple[object, ...], fx.Graph] = {}
        self._constants: dict[nn.Module, dict[str, Tensor]] = {}
        self._cuts: dict[tuple[object, ...], Cut] = {}
        self._recordings: dict[nn.Module, Recording] = {}
        self.surveys: Surveys = (
            {} if surveys is None else surveys
        )  # outlive this: they hold names and numbers

    def graph(self, module: nn.Module) -> fx.Graph:
        """The network's operations; torch.fx raises whatever it does on one that it cannot trace."""
        if isinstance(module, fx.GraphModule):
            return module.graph  # one that was cut before: operations keep their names
        key = _modes(module)
        if key not in self._graphs:
            with undisturbed(module):
                self._graphs[key] = graph = _Tracer().trace(module)
                self._constants.setdefault(module, {}).update(_constants(module, graph))
        return self._graphs[key]

    def at(self, module: nn.Module, name: str) -> Cut:
        """The network cut after an operation."""
        key = (name, *_modes(module))
        if key not in self._cuts:
            graph = self.graph(module)
            with _holding(module, self._constants.get(module, {})):
                self._cuts[key] = _split(module, graph, name)
        return self._cuts[key]

    def recording(self, module: nn.Module, example: Tensor) -> Recording:
        """The calls of the network's modules in one pass, recorded once."""
        if module not in self._recordings:
            self._recordings[module] = record(module, example)
        return self._recordings[module]

    def after(self, module: nn.Module, name: str) -> Cut:
        """The network cut after one of its modules, once its calls are recorded."""
        key = (name, module)
        if key not in self._cuts:
            self._cuts[key] = replay_cut(module, name, self._recordings[module])
        return self._cuts[key]

    def forget(self) -> None:
        """Let go of the networks."""
        self._recordings.clear()
        self._constants.clear()
        self._graphs.clear()
        self._cuts.clear()


def _constants(module: nn.Module, graph: fx.Graph) -> dict[str, Tensor]:
    """Tensors that the network made while it was traced: torch.fx leaves them with the network."""
    names = {str(node.target) for node in graph.nodes if node.op == "get_attr"}
    return {name: module.__dict__[name] for name in names if name in module.__dict__}


@contextmanager
def _holding(module: nn.Module, constants: Mapping[str, Tensor]) -> Iterator[None]:
    """These tensors among the network's attributes inside."""
    new = {name: tensor for name, tensor in constants.items() if name not in module.__dict__}
    module.__dict__.update(new)
    try:
        yield
    finally:
        for name in new:
            del module.__dict__[name]


def _modes(module: nn.Module) -> tuple[object, ...]:
    modes = tuple(part.training for part in module.modules())
    return module, modes, tuple(parameter.requires_grad for parameter in module.parameters())


def places(
    module: nn.Module, trained: Sequence[str], example: Tensor, cuts: Cuts | None = None
) -> list[Place]:
    """Every place such that all left of it is frozen, deterministic and in eval mode, from the input on.

    Call it with the modes set as for training. Empty where the first operations train, say.

    Args:
        example: inputs `(N, …)`. The value at a place is sure to be one tensor with a row for each of them (inside
            attention over windows, say, a row is a window).

    Raises:
        Exception: whatever torch.fx raises on a network that it cannot trace.
    """
    cuts = cuts or Cuts()
    names = _places_in(module, cuts.graph(module), set(trained))
    if not names:
        return []
    last = cuts.at(module, names[-1]).prefix
    known = structure(last)
    key = key_of(known, names, tuple(example.shape[1:]))
    seen = cuts.surveys.get(key) if known else None
    if seen is None:
        seen = _surveyed(last, names, example[:1].expand(ROWS, *example.shape[1:]))
        cuts.surveys[key] = seen
    return [
        Place(at=at, shape=shape[1:], flops=flops / ROWS)
        for at, (shape, flops) in seen.items()
        if shape[:1] == (ROWS,)
    ]


def cut_at(module: nn.Module, place: Place, cuts: Cuts | None = None) -> Cut:
    """The network cut there, in the modes that it is in now."""
    cuts = cuts or Cuts()
    return cuts.at(module, place.at) if place.traced else cuts.after(module, place.at)


def _surveyed(
    prefix: nn.Module, names: Sequence[str], images: Tensor
) -> dict[str, tuple[tuple[int, ...], float]]:
    try:
        return _Surveyor(blank(prefix), names).survey(images.to("meta"))
    except Exception:  # a prefix that needs numbers
        return _Surveyor(prefix, names).survey(images.clone())


def _places_in(module: nn.Module, graph: fx.Graph, trained: set[str]) -> list[str]:
    nodes = list(graph.nodes)
    moving = _moving(module, nodes, trained)
    last_use = _last_use(nodes)
    found: list[str] = []
    open_ends: set[fx.Node] = set()
    for i, node in enumerate(nodes):
        if node.op == "output" or node in moving:
            break
        if node.op != "get_attr":
            open_ends = {n for n in open_ends if last_use[n] > i} | {node}
            if open_ends == {node} and node.op != "placeholder" and not _taken_apart(node):
                found.append(node.name)
    return found


class _Surveyor(fx.Interpreter):
    """Runs a graph and notes shape and FLOPs so far at some of its operations."""

    def __init__(self, prefix: nn.Module, names: Sequence[str]) -> None:
        super().__init__(prefix)
        self._names, self._counter = set(names), Counter()
        self._seen: dict[str, tuple[tuple[int, ...], float]] = {}

    def survey(self, images: Tensor) -> dict[str, tuple[tuple[int, ...], float]]:
        with torch.no_grad(), countable(), self._counter:
            self.run(images)
        return self._seen

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if n.name in self._names and isinstance(value, Tensor) and value.is_floating_point():
            self._seen[n.name] = tuple(value.shape), float(self._counter.total)
        return value


def _taken_apart(node: fx.Node) -> bool:
    """Whether a value is a tuple, as `chunk` gives one: its items are taken by number."""
    return any(
        user.target is operator.getitem and isinstance(user.args[1], int) for user in node.users
    )


class _Tracer(fx.Tracer):
    """Looks into frozen modules that an edit added something to, which otherwise would stay one operation.

    Those that train stay one: they lie right of any cut, and hooks on them go on working.
    """

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        trains = any(p is not None and p.requires_grad for p in m._parameters.values())
        return super().is_leaf_module(m, module_qualified_name) and (
            trains or not has_added_parts(m)
        )


def _moving(module: nn.Module, nodes: list[fx.Node], trained: set[str]) -> set[fx.Node]:
    """Operations that train, or that give another result each time."""
    parts = dict(module.named_modules())
    return {node for node in nodes if _moves(node, parts, trained)}


def _moves(node: fx.Node, parts: dict[str, nn.Module], trained: set[str]) -> bool:
    target = str(node.target)
    if node.op == "call_module":
        part = parts[target]
        inside = {f"{target}.{name}" if name else target for name, _ in part.named_modules()}
        return bool(inside & trained) or (part.training and not ignores_mode(part))
    if node.op == "get_attr":
        return (target.rpartition(".")[0] or ROOT) in trained
    if node.op == "call_method":
        return target in RANDOM_IN_PLACE
    return node.op == "call_function" and _random(node)


def _random(node: fx.Node) -> bool:
    """Whether a function draws at random or uses batch statistics: told by its name, its shares and its mode."""
    given = _arguments(node)
    shares = [
        v
        for name, v in given.items()
        if (name == "p" or "drop" in name) and isinstance(v, int | float)
    ]
    if shares and not any(shares):
        return False
    mode = given.get("training", given.get("train"))
    if mode is not None:
        return bool(mode)
    return bool(shares) or getattr(node.target, "__name__", "") in RANDOM


def _arguments(node: fx.Node) -> Mapping[str, Any]:
    """A call's arguments by name, defaults included; of a function of torch's C++ part only those given by name."""
    if not callable(node.target):
        return node.kwargs
    try:
        given = inspect.signature(node.target).bind(*node.args, **node.kwargs)
    except (TypeError, ValueError):
        return node.kwargs
    given.apply_defaults()
    return given.arguments


def ignores_mode(part: nn.Module) -> bool:
    """Whether training mode changes nothing: neither random nor with running statistics, as in pooling or ReLU."""
    kinds = (nn.modules.dropout._DropoutNd, nn.modules.batchnorm._NormBase, nn.RReLU)
    return not any(isinstance(p, kinds) for p in part.modules()) and type(
        part
    ).__module__.startswith("torch.nn")


def _last_use(nodes: list[fx.Node]) -> dict[fx.Node, int]:
    where = {node: i for i, node in enumerate(nodes)}
    return {node: max((where[u] for u in node.users), default=where[node]) for node in nodes}


def _split(module: nn.Module, graph: fx.Graph, at: str) -> Cut:
    nodes = list(graph.nodes)
    middle = next(i for i, node in enumerate(nodes) if node.name == at)
    left: fx.Graph = fx.Graph()
    copied: dict[fx.Node, fx.Node] = {}
    for node in nodes[: middle + 1]:
        copied[node] = left.node_copy(node, lambda n: copied[n])
    left.output(copied[nodes[middle]])
    right: fx.Graph = fx.Graph()
    copied = {nodes[middle]: right.placeholder("cached")}
    for node in nodes[: middle + 1]:
        if node.op == "get_attr":
            copied[node] = right.node_copy(node, lambda n: copied[n])
    for node in nodes[middle + 1 :]:
        copied[node] = right.node_copy(node, lambda n: copied[n])
    return Cut(at=at, prefix=fx.GraphModule(module, left), suffix=fx.GraphModule(module, right))
