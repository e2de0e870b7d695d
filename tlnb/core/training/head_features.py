"""What reaches the output layers, computed from what a run has cached already where possible."""

from __future__ import annotations

from torch import Tensor, fx

from tlnb.core.models.anatomy import evaluating
from tlnb.core.models.flops import forward_flops
from tlnb.core.planning.options import TrainOptions
from tlnb.core.storage.activation_cache import key_of
from tlnb.core.training.cached_inputs import HeadInputs
from tlnb.core.training.features import FeatureSource, KeptRows
from tlnb.core.training.freezing import set_modes
from tlnb.core.training.model_split import cut_at
from tlnb.core.training.split_choice import Last
from tlnb.core.training.split_point import Cut, Place
from tlnb.core.training.training_inputs import Inputs


def head_inputs_of(
    source: FeatureSource, heads: tuple[str, ...], base: Inputs
) -> HeadInputs | None:
    """What reaches the output layers for each training image; None if no split there is proven.

    It is computed from what the run has cached, if that helps, else from the images. The modes are
    left as for training the output layers alone.
    """
    set_modes(source.module, set(heads))
    demand = source.demand(TrainOptions(epochs=1), None)
    last, _ = source.proven(heads, lambda found: Last(found[-1]), demand)
    if last is None:
        return None
    return _at_heads(source, base, last.place)


def _at_heads(source: FeatureSource, base: Inputs, last: Place) -> HeadInputs:
    cut = cut_at(source.module, last, source.cuts)
    with evaluating(source.module):  # tracing bakes modes in
        judges = cut_at(source.module, last, source.cuts).suffix
    if base.cache is not None and base.cache.at == last.at:
        return HeadInputs(features=base.train(0), teaches=cut.suffix, judges=judges)
    work = _head_work(source, cut, _start(source, base, last), base, last)
    features, _ = source.kept(work, "memory")
    return HeadInputs(features=features, teaches=cut.suffix, judges=judges)


def _start(source: FeatureSource, base: Inputs, last: Place) -> Cut | None:
    """Where the run's own cache lies on the way to the output layers; None where it does not."""
    if base.cache is None or not last.traced or not isinstance(base.teaches, fx.GraphModule):
        return None
    names = [node.name for node in source.cuts.graph(source.module).nodes]
    if base.cache.at not in names[: names.index(last.at)]:
        return None
    return cut_at(source.module, Place(at=base.cache.at, shape=(), flops=0.0), source.cuts)


def _head_work(
    source: FeatureSource, cut: Cut, start: Cut | None, base: Inputs, last: Place
) -> KeptRows:
    """The last value before the output layers, computed from the run's own cache or from the images."""
    data = source.data_key("train", "none", 0, 0)
    if start is None:
        key, rows = key_of("", source.identity(cut), data), source.through(cut.prefix, "train")
        flops = last.flops or forward_flops(cut.prefix, source.example())
        return KeptRows(
            key=key, split="train", rows=rows, flops=flops, phase="caching", part="features"
        )
    between, cached = cut_at(start.suffix, last, source.cuts), base.train(0)

    def from_cache(some: slice | Tensor) -> Tensor:
        return source.pass_through(between.prefix, source.placed(cached[some]).clone())

    key = key_of(source.identity(start), source.identity(between), data)
    flops = forward_flops(between.prefix, source.placed(cached[:2]))
    return KeptRows(
        key=key, split="train", rows=from_cache, flops=flops, phase="caching", part="features"
    )
