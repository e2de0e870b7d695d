"""Where a frozen network can be split: left of the split nothing changes, so it is computed only once."""

from __future__ import annotations

from collections.abc import Collection

from torch import Tensor, nn

from tlnb.core.storage.activation_cache import key_of
from tlnb.core.training.cache_key import structure
from tlnb.core.training.split_point import Cut, Place
from tlnb.core.training.split_recording import Recording, record
from tlnb.core.training.split_replay import cut_network


class Cuts:
    """Networks recorded and split, each once."""

    def __init__(self, recordings: dict[str, Recording] | None = None) -> None:
        self.known = (
            {} if recordings is None else recordings
        )  # by a key of the network; outlive this
        self._last: dict[nn.Module, Recording] = {}
        self._cuts: dict[tuple[nn.Module, Place], Cut] = {}

    def places(self, module: nn.Module, trained: Collection[str], example: Tensor) -> list[Place]:
        """Every place such that all left of it is frozen, deterministic and in eval mode.

        Call it with the modes set as for training. Empty where the first operations train.

        Args:
            example: inputs `(N, …)`.

        Raises:
            Exception: whatever the network's forward raises.
        """
        network = structure(module)
        key = key_of(network, sorted(trained), tuple(example.shape[1:]), str(example.dtype))
        if network is None or key not in self.known:
            self.known[key] = record(module, trained, example)
        recording = self._last[module] = self.known[key]
        return list(recording.places)

    def at(self, module: nn.Module, place: Place) -> Cut:
        """The network split at a place, which it was recorded to have."""
        if (module, place) not in self._cuts:
            self._cuts[module, place] = cut_network(module, place, self._last[module])
        return self._cuts[module, place]

    def recording(self, module: nn.Module) -> Recording:
        """The network's last recording."""
        return self._last[module]

    def forget(self) -> None:
        """Let go of the networks."""
        self._last.clear()
        self._cuts.clear()


def ignores_mode(part: nn.Module) -> bool:
    """Whether training mode changes nothing: neither random nor with running statistics, as in pooling or ReLU."""
    kinds = (nn.modules.dropout._DropoutNd, nn.modules.batchnorm._NormBase, nn.RReLU)
    return not any(isinstance(p, kinds) for p in part.modules()) and type(
        part
    ).__module__.startswith("torch.nn")
