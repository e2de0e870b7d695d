"""The networks that `%tl_advise --models` compares: by name, pattern, or the user's variable."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from torch import nn

from tlnb.core.data.dataset import DataSet
from tlnb.core.evaluation.probes import labels_in_use
from tlnb.core.models import pretrained
from tlnb.core.models.pretrained import PretrainedModel
from tlnb.core.models.timm_models import is_timm, timm_catalogue
from tlnb.core.planning.magic_lines import line
from tlnb.core.runtime.errors import ModelError, UsageError
from tlnb.core.training.run import Run
from tlnb.core.tuning.advise import LEAST_PER_CLASS
from tlnb.core.tuning.sources import Candidate
from tlnb.session.loading import LoadRequest, Tell, decoded_for, read_model
from tlnb.session.state import SessionState

ON_DISK = "*"  # the pattern of all that is on disk
GLOB = frozenset("*?[")


def words_of(models: object) -> list[Any]:
    """What was asked for, one by one; a text may hold several names."""
    asked = models if isinstance(models, Sequence) and not isinstance(models, str) else [models]
    words = [w for each in asked for w in (each.split() if isinstance(each, str) else [each])]
    once = {word if isinstance(word, str) else id(word): word for word in words}
    return list(once.values()) or [ON_DISK]


def candidates_of(
    state: SessionState, words: Sequence[Any], names: Mapping[str, Any], tell: Tell
) -> list[Candidate]:
    """The candidates, each once, in the order asked for; a pattern means those on disk.

    Args:
        names: the user's variables.

    Raises:
        ModelError: an unknown name, or a pattern that nothing on disk matches.
        UsageError: neither a name nor a network.
    """
    requests = dict[str | None, tuple[LoadRequest, bool]]()
    for word in words:
        for request, optional in _requests(word, names):
            same = requests.get(request.called, (request, optional))[0].source
            if request.own and same is not request.source:  # two of a class, without names
                request = replace(request, called=f"{request.called}-{len(requests) + 1}")
            requests.setdefault(request.called, (request, optional))
    return [_candidate(state, *asked, tell=tell) for asked in requests.values()]


def _requests(word: Any, names: Mapping[str, Any]) -> Iterator[tuple[LoadRequest, bool]]:
    """What a word asks to load, and whether the rest counts where that fails."""
    own = names.get(word, word) if isinstance(word, str) else word
    if isinstance(own, nn.Module | Run):
        called = word if isinstance(word, str) else getattr(own, "name", type(own).__name__)
        yield LoadRequest(source=own, called=called, names=names), False
    elif not isinstance(word, str):
        raise UsageError(
            f"an object of type {type(word).__name__} is not a network: "
            "write tl.advise(models=['glyphnet', 'efficientnet_lite0'])"
        )
    elif GLOB & set(word):
        yield from ((LoadRequest(source=name, called=name), True) for name in _on_disk(word))
    else:
        yield LoadRequest(source=word, called=word, names=names), False


def _on_disk(pattern: str) -> list[str]:
    cards = (timm_catalogue if is_timm(pattern) else pretrained.catalogue)(pattern).cards
    found = [card.name for card in cards if card.on_disk]
    if not found:
        raise ModelError(
            f"no network that matches {pattern!r} is on disk: "
            f"%tl_advise --models {cards[0].name} downloads one"
        )
    return found


def _candidate(
    state: SessionState, request: LoadRequest, optional: bool, *, tell: Tell
) -> Candidate:
    name = str(request.called)
    load = partial(_sized, state, request, tell)
    if not pretrained.is_name(name) and not request.own:
        model = load()  # a file, a run, or a typing error, told before anything is measured
        load = partial(lambda found: found, model)
    return Candidate(name=name, line=line("tl_load", name), load=load, optional=optional)


def _sized(state: SessionState, request: LoadRequest, tell: Tell) -> PretrainedModel:
    """The model at the edge that the data ask for."""
    model, _, _ = read_model(state, request, tell)
    return pretrained.resized(model, state.data().request.size)


class LabelsInUse:
    """The labels in use as a network takes them; photos are decoded again for larger ones."""

    def __init__(self, data: DataSet, tell: Tell) -> None:
        self._data, self._tell = data, tell

    def __call__(self, model: PretrainedModel) -> DataSet:
        self._data = decoded_for(self._data, model, self._tell) or self._data
        return labels_in_use(self._data, LEAST_PER_CLASS)
