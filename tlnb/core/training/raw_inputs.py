"""Images as training inputs: augmented batch by batch, through the whole network."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from tlnb.core.data.augment import changed
from tlnb.core.data.dataset import DataSet
from tlnb.core.models.pretrained import Transform
from tlnb.core.runtime.device import Machine
from tlnb.core.storage.memory_map import is_mapped
from tlnb.core.training.events import Event
from tlnb.core.training.training_inputs import Cost

CHUNK = 256  # images in one forward pass that needs no gradient, at most
CHUNK_NUMBERS = (
    8 * 3 * 224 * 224
)  # and numbers in the images of one: more do not fit a core's cache and are slower


def chunk_of(edge: int, on_cpu: bool) -> int:
    """Images in one forward pass that needs no gradient."""
    return max(8, min(CHUNK, CHUNK_NUMBERS // (3 * edge**2))) if on_cpu else CHUNK


class Images:
    """The images of a data set at the network's edge, on the device where they fit."""

    def __init__(self, data: DataSet, transform: Transform, machine: Machine) -> None:
        self.data, self.transform, self.machine = data, transform, machine
        self._fitted: dict[str, Tensor] = {}

    def of(self, split: str) -> Tensor:
        """A split's images `(N, 3, E, E)` uint8.

        Those in a file stay there, as large as they are: batches of them are brought to the edge.
        """
        if split not in self._fitted:
            if is_mapped(self.data.images[split]):
                return self.data.images[split]
            fitted = self.transform.fit(self.data.images[split])
            self._fitted[split] = (
                fitted.to(self.machine.device) if self.machine.fits(fitted.nbytes) else fitted
            )
        return self._fitted[split]

    def example(self) -> Tensor:
        """Two training images as the network takes them, to measure with."""
        first = self.transform.fit(self.data.images["train"][:2])
        return self.transform.normalise(first.to(self.machine.device))

    def forget(self) -> None:
        """Let go of the images."""
        self._fitted.clear()


@dataclass(frozen=True, kw_only=True)
class RawInputs:
    """Training inputs (`training_inputs.Inputs`) that are images."""

    images: Images
    module: nn.Module
    cost: Cost
    chunk: int
    augment: str = "none"
    event: Event | None = None
    views: int = 0
    cache: None = None

    @property
    def teaches(self) -> nn.Module:
        return self.module

    @property
    def judges(self) -> nn.Module:
        return self.module

    def train(self, _: int) -> Tensor:
        return self.images.of("train")

    def make(self, rows: Tensor, drawn: Tensor) -> Tensor:
        transform = self.images.transform
        return transform.normalise(changed(transform.fit(rows), self.augment, drawn))

    def seen(self, split: str) -> Tensor:
        return self.images.of(split)

    def look(self, rows: Tensor) -> Tensor:
        transform = self.images.transform
        return transform.normalise(transform.fit(self.images.machine.placed(rows)))
