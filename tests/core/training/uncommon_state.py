"""Networks with state, rows that depend on each other, and control flow."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.core.training.uncommon_base import NETWORKS, Net, anywhere, early, network

# ── state ──


class Steps(Net):
    """Warms up by a counter of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.steps = 0

    def late(self, x: Tensor) -> Tensor:
        if self.training:
            self.steps += 1
        return super().late(x) * min(1.0, self.steps / 10)


class StepsInABuffer(Net):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("steps", torch.zeros(()))

    def late(self, x: Tensor) -> Tensor:
        if self.training:
            self.steps += 1
        return super().late(x) * torch.clamp(self.steps / 10, max=1.0)


class StepsInAList(Net):
    def __init__(self) -> None:
        super().__init__()
        self.seen = [0]

    def early(self, x: Tensor) -> Tensor:
        self.seen[0] += 1
        return super().early(x) * (1 + self.seen[0] % 2)


class PassesCountedFirst(Net):
    def __init__(self) -> None:
        super().__init__()
        self.seen = [0]

    def forward(self, x: Tensor) -> Tensor:
        self.seen[0] += 1
        return super().forward(x * (1 + self.seen[0] % 2))


class NoiseOnTheImage(Net):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x * random.random())


class MovingMean(Net):
    """Statistics kept by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(8))

    def late(self, x: Tensor) -> Tensor:
        x = super().late(x)
        if self.training:
            self.mean.mul_(0.9).add_(0.1 * x.detach().mean(0))
        return x - self.mean


class Scaled(Net):
    """A buffer that is not saved."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.linspace(0.5, 2, 8)[:, None, None], persistent=False)

    def early(self, x: Tensor) -> Tensor:
        return super().early(x) * self.scale


NETWORKS |= {
    "steps counted": Steps,
    "steps counted in a buffer": StepsInABuffer,
    "steps counted in a list": StepsInAList,
    "passes counted first": PassesCountedFirst,
    "noise on the image by random.random()": NoiseOnTheImage,
    "moving mean by hand": MovingMean,
    "buffer that is not saved": Scaled,
}

# ── rows that depend on each other ──


def normed(make: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    class Normed(Net):
        def __init__(self) -> None:
            super().__init__()
            self.norm = make()

        def early(self, x: Tensor) -> Tensor:
            return self.norm(super().early(x))

    return Normed


def batch_norm(self: nn.Module, x: Tensor) -> Tensor:
    zeros, ones = x.new_zeros(8), x.new_ones(8)
    return torch.batch_norm(x, ones, zeros, zeros.clone(), ones.clone(), True, 0.1, 1e-5, False)


NETWORKS |= {
    "BatchNorm": normed(lambda: nn.BatchNorm2d(8)),
    "BatchNorm without statistics": normed(lambda: nn.BatchNorm2d(8, track_running_stats=False)),
    "InstanceNorm": normed(lambda: nn.InstanceNorm2d(8, affine=True)),
    "GroupNorm": normed(lambda: nn.GroupNorm(2, 8)),
}
early("torch.batch_norm by position", batch_norm)
early("F.batch_norm in training", lambda self, x: F.batch_norm(x, None, None, training=True))
anywhere("less the mean of the batch", lambda self, x: x - x.mean(0))
anywhere("by the maximum of the batch", lambda self, x: x / (x.amax() + 1))
anywhere("softmax over the batch", lambda self, x: x * torch.softmax(x, 0))
anywhere("sorted by row", lambda self, x: x.sort(0)[0])
anywhere("running sum over the batch", lambda self, x: x + 0.1 * x.cumsum(0))
anywhere("neighbour's features", lambda self, x: x + 0.5 * x.roll(1, 0))

# ── control flow ──


class Guesses(Net):
    """Guesses whether images are 0..255 or 0..1."""

    def forward(self, x: Tensor) -> Tensor:
        if x.amax() > 1.5:
            x = x / 255
        return super().forward(x)


class Flips(Net):
    """By each image's own brightness: rows stay apart."""

    def early(self, x: Tensor) -> Tensor:
        x = super().early(x)
        return torch.where(x.mean((1, 2, 3), keepdim=True) > 0.2, x, -x)


class Loops(Net):
    def middle(self, x: Tensor) -> Tensor:
        for _ in range(1 + int(x.shape[0] > 0)):
            x = F.pad(super().middle(x), (1, 1, 1, 1))
        return x


class ValueLoops(Net):
    def middle(self, x: Tensor) -> Tensor:
        x = super().middle(x)
        while float(x.abs().amax()) > 1e6:
            x = x / 2
        return x


class ByMode(Net):
    """Augments in its own forward."""

    def early(self, x: Tensor) -> Tensor:
        return super().early(x.flip(-1) if self.training else x)


class LateByMode(Net):
    def late(self, x: Tensor) -> Tensor:
        return super().late(x) * (2 if self.training else 1)


class ByGradMode(Net):
    def late(self, x: Tensor) -> Tensor:
        return super().late(x) * (1.5 if torch.is_grad_enabled() else 1)


class BySize(Net):
    """Larger batches are scaled otherwise."""

    def early(self, x: Tensor) -> Tensor:
        return super().early(x) / len(x)


class Skips(Net):
    """The image goes around everything."""

    def forward(self, x: Tensor) -> Tensor:
        features = self.late(self.middle(self.early(x)))
        return self.fc(features + x.mean((2, 3)).repeat(1, 3)[:, :8])


class InPlace(Net):
    def middle(self, x: Tensor) -> Tensor:
        return self.b(x)

    def late(self, x: Tensor) -> Tensor:
        x.mul_(2)
        return super().late(x)


class Shared(Net):
    """One activation module on both sides of any cut."""

    def __init__(self) -> None:
        super().__init__()
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.b(self.act(self.a(x))))
        if float(x.sum()) < 0:
            x = -x
        return self.fc(self.act(self.c(x)).mean((2, 3)))


class Deep(Net):
    """Blocks within blocks, which torch.fx cannot follow."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Sequential(self.b, nn.ReLU()), nn.Sequential(self.c, nn.ReLU())
        )
        del self.b, self.c

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(self.early(x * 2))
        return self.fc(x.mean((2, 3))) if float(x.mean()) < 1e9 else x

    def middle(self, x: Tensor) -> Tensor:
        return x


class Ensemble(nn.Module):
    """Two frozen trunks side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.fc = Net(), Net(), nn.Linear(10, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.cat([self.one(x), self.two(x)], 1))


class Turned(nn.Module):
    """Channels last, as tokens are."""

    def forward(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2)


class Tied(Net):
    """A layer runs twice."""

    def middle(self, x: Tensor) -> Tensor:
        return super().middle(F.pad(super().middle(x), (1, 1, 1, 1)))


NETWORKS |= {
    "guesses the range of its images": Guesses,
    "flips by each image": Flips,
    "loops by shape": Loops,
    "loops by value": ValueLoops,
    "early by mode": ByMode,
    "late by mode": LateByMode,
    "by gradient mode": ByGradMode,
    "by the size of the batch": BySize,
    "the image goes around": Skips,
    "in place": InPlace,
    "shared activation": Shared,
    "nested blocks": Deep,
    "two trunks": Ensemble,
    "a layer runs twice": Tied,
}


@network("parametrised")
def parametrised() -> nn.Module:
    net = Net()
    nn.utils.parametrizations.weight_norm(net.b)
    nn.utils.parametrizations.weight_norm(net.fc)
    return net


@network("spectral norm")
def spectral() -> nn.Module:
    net = Net()
    nn.utils.parametrizations.spectral_norm(net.c)
    return net


@network("forward of an instance")
def own_forward() -> nn.Module:
    net = Net()
    net.forward = functools.partial(Net.forward, net)
    return net


@network("transformer")
def transformer() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 8, 8),
        nn.Flatten(2),
        Turned(),
        nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 1),
        nn.Flatten(),
        nn.Linear(128, 5),
    )


@network("recurrent")
def recurrent() -> nn.Module:
    class Recurrent(Net):
        def __init__(self) -> None:
            super().__init__()
            self.c = nn.LSTM(8, 8, batch_first=True)

        def late(self, x: Tensor) -> Tensor:
            return self.c(x.flatten(2).transpose(1, 2))[0][:, -1]

    return Recurrent()
