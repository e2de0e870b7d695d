"""Where a frozen network can be cut: left of it nothing changes, so it needs computing only once.

torch.fx gives the network as a list of operations. A cut is a place where a single value carries everything forward.
The frozen prefix becomes one module, the rest another; both share their layers with the network.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from tlnb.core.anatomy import ROOT
from tlnb.core.edit import has_added_parts
from tlnb.core.watch import Counter, blank

RANDOM = {"rand", "randn", "randint", "randperm", "rand_like", "randn_like", "bernoulli", "normal", "multinomial", "dropout",
          "feature_dropout", "alpha_dropout", "feature_alpha_dropout", "rrelu", "gumbel_softmax", "stochastic_depth"}  # fmt: skip
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


@dataclass(frozen=True)
class Cut:
    """A network in two parts: `suffix(prefix(x)) == network(x)`."""

    at: str  # name of the operation after which the network is cut
    prefix: nn.Module
    suffix: nn.Module

    def __repr__(self) -> str:
        return f"Cut after {self.at}"


def find_cut(module: nn.Module, trained: Sequence[str], example: Tensor | None = None) -> Cut | None:
    """The last cut such that everything left of it is frozen, deterministic and in eval mode.

    Call it with the modes set as for training. None where no such place exists, the first operations train, say.

    Args:
        example: images `(N, 3, H, W)`; with it, the value at the cut is sure to be one tensor with a row for each image
            (inside attention over windows, say, a row is a window).

    Raises:
        Exception: whatever torch.fx raises on a network that it cannot trace.
    """
    graph = _trace(module)
    nodes = list(graph.nodes)
    moving = _moving(module, nodes, set(trained))
    last_use = _last_use(nodes)
    places: list[str] = []
    open_ends: set[fx.Node] = set()
    for i, node in enumerate(nodes):
        if node.op == "output" or node in moving:
            break
        if node.op != "get_attr":
            open_ends = {n for n in open_ends if last_use[n] > i} | {node}
            if open_ends == {node} and node.op != "placeholder" and not _taken_apart(node):
                places.append(node.name)
    cuts = (_split(module, graph, at) for at in reversed(places))
    return next((cut for cut in cuts if example is None or _one_row_each(cut.prefix, example)), None)


def _taken_apart(node: fx.Node) -> bool:
    """Whether a value is a tuple, as `chunk` gives one: its items are taken by number."""
    return any(user.target is operator.getitem and isinstance(user.args[1], int) for user in node.users)


def _one_row_each(prefix: nn.Module, example: Tensor) -> bool:
    images = example[:1].expand(ROWS, *example.shape[1:])
    with torch.no_grad():
        try:
            with Counter():  # makes constants fit
                value = blank(prefix)(images.to("meta"))
        except Exception:  # a prefix that needs numbers
            value = prefix(images.clone())
    return isinstance(value, Tensor) and value.is_floating_point() and value.shape[:1] == (ROWS,)


def same_cut(module: nn.Module, at: str) -> Cut:
    """The same cut in the modes that the module is in now (tracing bakes modes in)."""
    return _split(module, _trace(module), at)


class _Tracer(fx.Tracer):
    """Looks into modules that an edit added something to, which otherwise would stay one operation."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return super().is_leaf_module(m, module_qualified_name) and not has_added_parts(m)


def _trace(module: nn.Module) -> fx.Graph:
    return _Tracer().trace(module)


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
    shares = [v for name, v in given.items() if (name == "p" or "drop" in name) and isinstance(v, int | float)]
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
    return not any(isinstance(p, kinds) for p in part.modules()) and type(part).__module__.startswith("torch.nn")


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
    return Cut(at, fx.GraphModule(module, left), fx.GraphModule(module, right))
