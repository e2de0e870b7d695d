"""What turns a network's scores into an answer: one temperature, and a least likeness.

The temperature divides the logits (Guo et al., "On Calibration of Modern Neural Networks", ICML
2017). An image is refused if it is unlike all images that the network knows: the cosine to its
nearest ones, by what reaches the output layer (Sun et al., "Out-of-Distribution Detection with
Deep Nearest Neighbors", ICML 2022). The highest probability says less: an output layer that never
saw a foreign image is often sure of it.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tlnb.core.runtime.errors import OneLine

LEAST_LABELS = 40  # held out; fewer tell neither a temperature nor a threshold
NEAREST = 3
MOST_KNOWN = 500  # images that new ones are compared with
OWN_REFUSED = 0.03  # the share of one's own images that the threshold refuses
TEMPERATURES = (0.05, 20.0)
SCORE = (
    f"mean cosine similarity to the {NEAREST} nearest known images, of the output layer's input "
    "averaged over positions"
)


@dataclass(frozen=True, kw_only=True)
class Calibration(OneLine):
    """How to read a network's scores: softmax(logits / temperature), refused below the threshold."""

    temperature: float
    threshold: float  # least score of an image that is answered
    labels: int  # that the temperature was fitted on
    method: str  # val, cross-validation
    layer: str  # the output layer, whose input the score is of
    score: str = SCORE  # what the threshold is compared with

    def __repr__(self) -> str:
        return (
            f"Calibration: temperature {self.temperature:.2f}, threshold {self.threshold:.3f}, "
            f"{self.labels} labels ({self.method})"
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class KnownImages(OneLine):
    """Images that a network learned from, as its output layer sees them."""

    features: Tensor  # (K, D) float16 of length 1
    labels: Tensor  # (K,) int64
    rows: Tensor  # (K,) int64, among the images that it learned from

    def __repr__(self) -> str:
        return f"KnownImages: {len(self.labels)}"

    def nearest(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines to the nearest known images, and which those are; both `(N, NEAREST)` or fewer.

        Args:
            features: `(N, D)`, as `unit_rows` gives them.
        """
        near = (features.float() @ self.features.float().T).topk(min(NEAREST, len(self.labels)))
        return near.values, near.indices

    def likeness(self, features: Tensor) -> Tensor:
        """The score that `Calibration.threshold` is compared with, `(N,)`."""
        return self.nearest(features)[0].mean(1)

    def own_likeness(self, groups: Tensor | None = None) -> Tensor:
        """The score of each known image by the others, `(K,)`.

        Args:
            groups: `(K,)`, if images come in groups: those of the same one do not count.
        """
        cosines = self.features.float() @ self.features.float().T
        groups = torch.arange(len(cosines)) if groups is None else groups
        cosines.masked_fill_(groups[:, None] == groups, -1.0)
        return cosines.topk(min(NEAREST, len(cosines) - 1)).values.mean(1)

    def to_text(self) -> dict[str, object]:
        """As JSON values: features as base64 of little-endian float16, row by row."""
        raw = self.features.contiguous().numpy().astype("<f2").tobytes()
        return {
            "features": base64.b64encode(raw).decode(),
            "labels": self.labels.tolist(),
            "rows": self.rows.tolist(),
        }

    @classmethod
    def from_text(cls, values: dict[str, object]) -> KnownImages:
        """Read what `to_text` wrote.

        Raises:
            KeyError, TypeError, ValueError: it is something else.
        """
        labels, rows = (
            torch.tensor(values[name], dtype=torch.int64) for name in ("labels", "rows")
        )
        raw = bytearray(base64.b64decode(str(values["features"]), validate=True))
        features = torch.frombuffer(raw, dtype=torch.float16).view(len(labels), -1)
        return checked(features, labels, rows)


def checked(features: Tensor, labels: Tensor, rows: Tensor) -> KnownImages:
    """Known images from a file's tensors.

    Raises:
        ValueError: shapes or types differ, or a number is not finite.
    """
    kinds = (features.dtype, labels.dtype, rows.dtype)
    alike = labels.shape == rows.shape == features.shape[:1] and features.ndim == 2
    if kinds != (torch.float16, torch.int64, torch.int64) or not alike or len(labels) < 2:
        raise ValueError("the known images do not fit together")
    if not bool(features.isfinite().all()):
        raise ValueError("a known image's features are not finite")
    return KnownImages(features=features, labels=labels, rows=rows)


@contextmanager
def noting_inputs(layer: nn.Module, seen: list[Tensor]) -> Iterator[None]:
    """Inside, what reaches an output layer is added to `seen`, as `unit_rows`, pass by pass."""

    def note(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen.append(unit_rows(inputs[0].detach(), module))

    handle = layer.register_forward_pre_hook(note)
    try:
        yield
    finally:
        handle.remove()


class WithLikeness(nn.Module):
    """A network that gives its scores `(N, C)` and each image's likeness to known ones `(N,)`.

    For export: all of it is one graph.
    """

    known: Tensor

    def __init__(self, network: nn.Module, layer: str, known: KnownImages) -> None:
        super().__init__()
        self.network, self.layer, self.near = network, layer, min(NEAREST, len(known.labels))
        self.register_buffer("known", known.features.float().T.contiguous())  # (D, K)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        seen: list[Tensor] = []

        def note(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            seen.append(F.normalize(pooled(inputs[0], module), dim=1))

        handle = self.network.get_submodule(self.layer).register_forward_pre_hook(note)
        try:
            scores = self.network(images)
        finally:
            handle.remove()
        return scores, (seen[0] @ self.known).topk(self.near).values.mean(1)


def unit_rows(inputs: Tensor, layer: nn.Module) -> Tensor:
    """What reaches an output layer, averaged over positions and scaled to length 1: `(N, D)` float16."""
    return F.normalize(torch.nan_to_num(pooled(inputs, layer)), dim=1).half().cpu()


def pooled(inputs: Tensor, layer: nn.Module) -> Tensor:
    """What reaches an output layer, maps and tokens averaged over positions: `(N, D)` float32."""
    if inputs.ndim <= 2:
        return inputs.float()
    axis = 1 if isinstance(layer, nn.Conv2d) else -1
    return inputs.movedim(axis, -1).flatten(1, -2).float().mean(1)


def fitted_temperature(logits: Tensor, labels: Tensor) -> float:
    """The temperature with the least cross-entropy on held-out labels `(N,)`.

    Targets are smoothed by one part in N + 2, as by Platt ("Probabilistic Outputs for Support
    Vector Machines", 1999): otherwise N right answers would ask for a certainty that so few
    labels cannot give.
    """
    logits, labels = logits.double().cpu(), labels.cpu()
    log_t = torch.zeros((), dtype=torch.float64, requires_grad=True)
    solver = torch.optim.LBFGS([log_t], max_iter=50, line_search_fn="strong_wolfe")
    smoothing = 1 / (len(labels) + 2)

    def evaluate() -> float:
        solver.zero_grad()
        scaled = logits * torch.exp(-log_t)
        loss = F.cross_entropy(scaled, labels, label_smoothing=smoothing)
        loss.backward()
        return float(loss.detach())

    solver.step(evaluate)
    least, most = TEMPERATURES
    fitted = math.exp(min(5.0, max(-5.0, float(log_t.detach()))))
    return min(most, max(least, fitted)) if math.isfinite(fitted) else 1.0


def threshold_of(likeness: Tensor) -> float:
    """The threshold that refuses the share `OWN_REFUSED` of one's own images with these scores."""
    return float(torch.quantile(likeness.double(), OWN_REFUSED))


def spread_rows(labels: Tensor, most: int = MOST_KNOWN) -> Tensor:
    """Up to `most` rows, in order, with classes taking turns."""
    if len(labels) <= most:
        return torch.arange(len(labels))
    turn = torch.empty_like(labels)
    for c in labels.unique():
        mine = labels == c
        turn[mine] = torch.arange(int(mine.sum()), device=labels.device)
    return turn.argsort(stable=True)[:most].sort().values
