"""Where a frozen network can be cut: left of it nothing changes, so it needs computing only once.

torch.fx gives the network as a list of operations. A cut is a place where a single value carries everything forward.
The frozen prefix becomes one module, the rest another; both share their layers with the network.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import fx, nn

from tlnb.core.anatomy import ROOT
from tlnb.core.edit import has_added_parts

RANDOM_FUNCTIONS = {"dropout", "dropout2d", "alpha_dropout", "feature_alpha_dropout", "stochastic_depth", "rand_like"}


@dataclass(frozen=True)
class Cut:
    """A network in two parts: `suffix(prefix(x)) == network(x)`."""

    at: str  # name of the operation after which the network is cut
    prefix: nn.Module
    suffix: nn.Module

    def __repr__(self) -> str:
        return f"Cut after {self.at}"


def find_cut(module: nn.Module, trained: Sequence[str]) -> Cut | None:
    """The last cut such that everything left of it is frozen, deterministic and in eval mode.

    Call it with the modes set as for training. None where no such place exists, the first operations train, say.

    Raises:
        Exception: whatever torch.fx raises on a network that it cannot trace.
    """
    graph = _trace(module)
    nodes = list(graph.nodes)
    moving = _moving(module, nodes, set(trained))
    last_use = _last_use(nodes)
    best = None
    open_ends: set[fx.Node] = set()
    for i, node in enumerate(nodes):
        if node.op == "output" or node in moving:
            break
        if node.op != "get_attr":
            open_ends = {n for n in open_ends if last_use[n] > i} | {node}
            if open_ends == {node} and node.op != "placeholder":
                best = i
    return None if best is None else _split(module, graph, nodes[best].name)


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
        return bool(inside & trained) or (part.training and not _ignores_mode(part))
    if node.op == "get_attr":
        return (target.rpartition(".")[0] or ROOT) in trained
    if node.op == "call_function" and getattr(node.target, "__name__", "") in RANDOM_FUNCTIONS:
        return bool(node.kwargs.get("training", True) and node.kwargs.get("p", 1.0))
    return False


def _ignores_mode(part: nn.Module) -> bool:
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
