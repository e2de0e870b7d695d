"""What reaches the output layers, computed from what a run has cached already where possible."""

from __future__ import annotations

from torch import Tensor

from tlnb.core.planning.options import TrainOptions
from tlnb.core.storage.activation_cache import key_of
from tlnb.core.training.cached_inputs import HeadInputs
from tlnb.core.training.features import FeatureSource, KeptRows
from tlnb.core.training.freezing import set_modes
from tlnb.core.training.split_choice import Last
from tlnb.core.training.split_point import Cut, Place
from tlnb.core.training.split_replay import Replay
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
    cut = source.cuts.at(source.module, last)
    if base.cache is not None and base.cache.at == last.at:
        return HeadInputs(features=base.train(0), teaches=cut.suffix)
    work = _from_cache(source, base, last) or _from_images(source, cut, last)
    features, _ = source.kept(work, "memory")
    return HeadInputs(features=features, teaches=cut.suffix)


def _from_images(source: FeatureSource, cut: Cut, last: Place) -> KeptRows:
    """The last value before the output layers, for each training image."""
    key = key_of("", source.identity(last), source.data_key("train", "none", 0, 0))
    rows = source.through(cut.prefix, "train")
    return KeptRows(
        key=key, split="train", rows=rows, flops=last.flops, phase="caching", part="features"
    )


def _from_cache(source: FeatureSource, base: Inputs, last: Place) -> KeptRows | None:
    """The same, computed from the run's own cache; None where that does not lie on the way."""
    recording, at = source.cuts.recording(source.module), base.cache and base.cache.at
    start = next((place for place in recording.places if place.at == at), None)
    if start is None or start.moment >= last.moment:
        return None
    between, cached = Replay(source.module, recording, start=start, stop=last), base.train(0)

    def rows(some: slice | Tensor) -> Tensor:
        return source.pass_aside(between, source.placed(cached[some]).clone())

    data = source.data_key("train", "none", 0, 0)
    key = key_of(start.at, source.identity(last), data)
    return KeptRows(
        key=key,
        split="train",
        rows=rows,
        flops=last.flops - start.flops,
        phase="caching",
        part="features",
    )
