"""Small networks of uncommon but real kinds: what they do is not all in the operations that tracing sees.

`NETWORKS` holds a maker for each by name. All take images of 32 pixels and give five scores.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

NETWORKS: dict[str, Callable[[], nn.Module]] = {}


def network(name: str) -> Callable[[Callable[[], nn.Module]], Callable[[], nn.Module]]:
    def noted(make: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
        assert name not in NETWORKS
        NETWORKS[name] = make
        return make

    return noted


class Net(nn.Module):
    """Three convolutions and an output layer; the others differ from it in one thing each."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 8, 3, 2), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3)
        self.fc = nn.Linear(8, 5)

    def early(self, x: Tensor) -> Tensor:
        return self.a(x).relu()

    def middle(self, x: Tensor) -> Tensor:
        return self.b(x).relu()

    def late(self, x: Tensor) -> Tensor:
        return self.c(x).relu().mean((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.late(self.middle(self.early(x))))


NETWORKS["plain"] = Net


def early(name: str, change: Callable[[nn.Module, Tensor], Tensor]) -> None:
    """A network that changes what its first layer gives."""
    _changed(name, "early", change)


def _changed(name: str, where: str, change: Callable[[nn.Module, Tensor], Tensor]) -> None:
    def method(self: nn.Module, x: Tensor) -> Tensor:
        return change(self, getattr(Net, where)(self, x))

    NETWORKS[f"{name}, {where}"] = type("Changed", (Net,), {where: method})


def anywhere(name: str, change: Callable[[nn.Module, Tensor], Tensor]) -> None:
    for where in ("early", "late"):
        _changed(name, where, change)


# ── hooks ──


def with_hooks(name: str, add: Callable[[Net], object]) -> None:
    def make() -> nn.Module:
        net = Net()
        add(net)
        return net

    NETWORKS[name] = make


def minus(_: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (-given[0],)


def doubled(_: nn.Module, __: object, output: Tensor) -> Tensor:
    return output * 2


def keyword(_: nn.Module, given: tuple[Tensor, ...], named: dict[str, object]) -> object:
    return (given[0] * 0.5,), named


with_hooks("pre-hook on the root", lambda net: net.register_forward_pre_hook(minus))
with_hooks("hook on the root", lambda net: net.register_forward_hook(doubled))
with_hooks(
    "pre-hook with keywords on the root",
    lambda net: net.register_forward_pre_hook(keyword, with_kwargs=True),
)
with_hooks("pre-hook on a frozen layer", lambda net: net.b.register_forward_pre_hook(minus))
with_hooks("hook on a frozen layer", lambda net: net.b.register_forward_hook(doubled))
with_hooks("hook on the last frozen layer", lambda net: net.c.register_forward_hook(doubled))
with_hooks("hook on the output layer", lambda net: net.fc.register_forward_hook(doubled))
with_hooks("pre-hook on the output layer", lambda net: net.fc.register_forward_pre_hook(minus))
with_hooks(
    "backward hook on the output layer",
    lambda net: net.fc.register_full_backward_hook(lambda m, gi, go: (gi[0],)),
)
with_hooks(
    "gradient hook on a weight",
    lambda net: net.fc.weight.register_hook(lambda gradient: gradient * 3),
)


class KeptByHook(Net):
    """A hook keeps an activation that the forward uses later."""

    def __init__(self) -> None:
        super().__init__()
        self.a.register_forward_hook(KeptByHook.keep)

    @staticmethod
    def keep(layer: nn.Module, _: object, output: Tensor) -> None:
        layer.kept = output

    def late(self, x: Tensor) -> Tensor:
        return super().late(x) + self.a.kept.mean((2, 3))


class KeptByForward(Net):
    def early(self, x: Tensor) -> Tensor:
        self.kept = super().early(x)
        return self.kept

    def late(self, x: Tensor) -> Tensor:
        return super().late(x) + self.kept.mean((2, 3))


class KeptOfTheLastPass(Net):
    """Uses what the pass before left."""

    def __init__(self) -> None:
        super().__init__()
        self.before = 0.0

    def late(self, x: Tensor) -> Tensor:
        x = super().late(x)
        shifted = x + self.before
        self.before = float(x.detach().mean())
        return shifted


class KeptAndUnused(Net):
    def early(self, x: Tensor) -> Tensor:
        self.kept = super().early(x)
        return self.kept


class HooksInAList(Net):
    """Features are gathered in a list that lives outside of any module."""

    def __init__(self) -> None:
        super().__init__()
        self.taps: list[Tensor] = []
        self.b.register_forward_hook(functools.partial(HooksInAList.tap, self.taps))

    @staticmethod
    def tap(taps: list[Tensor], _: nn.Module, __: object, output: Tensor) -> None:
        taps[:] = [output.mean((2, 3))]

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * (1 + self.taps[0].mean(1, keepdim=True))


NETWORKS |= {
    "activation kept by a hook": KeptByHook,
    "activation kept by the forward": KeptByForward,
    "activation of the pass before": KeptOfTheLastPass,
    "activation kept and not used": KeptAndUnused,
    "activations in a list": HooksInAList,
}

# ── contexts and gradients ──


class NoGrad(Net):
    def late(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return super().late(x)


class NoGradDecorated(Net):
    @torch.no_grad()
    def late(self, x: Tensor) -> Tensor:
        return super().late(x)


class NoGradEarly(Net):
    def early(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return super().early(x)


class GradDisabled(Net):
    def late(self, x: Tensor) -> Tensor:
        with torch.set_grad_enabled(not self.training):
            return super().late(x)


class Detached(Net):
    def late(self, x: Tensor) -> Tensor:
        return super().late(x).detach()


class AutocastOff(Net):
    def late(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return super().late(x.float())


class AutocastOn(Net):
    def late(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, torch.bfloat16):
            return super().late(x).float()


class Checkpointed(Net):
    def middle(self, x: Tensor) -> Tensor:
        return checkpoint(super().middle, x, use_reentrant=False)


class Reversed(torch.autograd.Function):
    """The identity, whose gradient changes its sign (domain-adversarial training)."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return -0.5 * gradient


class StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return x.round()

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return gradient


NETWORKS |= {
    "no_grad block": NoGrad,
    "no_grad decorator": NoGradDecorated,
    "no_grad early": NoGradEarly,
    "gradients only in eval mode": GradDisabled,
    "detached": Detached,
    "autocast off": AutocastOff,
    "autocast on": AutocastOn,
    "checkpointed": Checkpointed,
}
anywhere("reversed gradient", lambda self, x: Reversed.apply(x))
anywhere("straight-through rounding", lambda self, x: StraightThrough.apply(x * 8) / 8)


class ReversedScores(Net):
    def forward(self, x: Tensor) -> Tensor:
        return Reversed.apply(super().forward(x))


NETWORKS["reversed gradient of the scores"] = ReversedScores

# ── chance ──


def layer_drop(name: str, draws: Callable[[], float], always: bool = False) -> None:
    class LayerDrop(Net):
        def middle(self, x: Tensor) -> Tensor:
            skipped = (always or self.b.training) and draws() < 0.5
            return x[:, :, 1:-1, 1:-1] if skipped else super().middle(x)

        def late(self, x: Tensor) -> Tensor:
            skipped = (always or self.c.training) and draws() < 0.5
            return x.mean((2, 3)) if skipped else super().late(x)

    NETWORKS[f"LayerDrop by {name}"] = LayerDrop


layer_drop("random.random()", random.random)
layer_drop("torch.rand().item()", lambda: torch.rand(1).item())
layer_drop("np.random.rand()", np.random.rand)
layer_drop("random.random(), in eval mode too", random.random, always=True)

anywhere("bernoulli method", lambda self, x: x * torch.sigmoid(x).bernoulli())
anywhere("torch.poisson", lambda self, x: torch.poisson(x.abs()))
anywhere("randint_like", lambda self, x: x * torch.randint_like(x, 2))
anywhere("rand_like", lambda self, x: x + torch.rand_like(x))
anywhere("baked randn", lambda self, x: x + torch.randn(8, *[1] * (x.ndim - 2)))
anywhere("normal_ of new numbers", lambda self, x: x + x.new_empty(1).normal_())
anywhere("multinomial", lambda self, x: x * torch.multinomial(torch.ones(4), 1))
anywhere("gumbel", lambda self, x: x * F.gumbel_softmax(x.flatten(1)).amax(1).mean())
anywhere("rrelu", lambda self, x: F.rrelu(x - 1, training=True))
anywhere("dropout always", lambda self, x: F.dropout(x, 0.3))
anywhere("dropout by mode", lambda self, x: F.dropout(x, 0.3, self.training))
anywhere("noise in training", lambda self, x: x + torch.randn_like(x) if self.training else x)


class OwnGenerator(Net):
    """Draws from a generator that it holds."""

    def late(self, x: Tensor) -> Tensor:
        if "generator" not in self.__dict__:
            self.seeds = [7]
        self.seeds[0] += 1
        generator = torch.Generator().manual_seed(self.seeds[0])
        return super().late(x) + torch.randn(8, generator=generator)


class Attention(Net):
    """`scaled_dot_product_attention` with its dropout given by position."""

    share = 0.0

    def late(self, x: Tensor) -> Tensor:
        tokens = self.c(x).flatten(2).transpose(1, 2)
        share = self.share if self.training else 0.0
        return F.scaled_dot_product_attention(tokens, tokens, tokens, None, share).mean(1)


class AttentionDropout(Attention):
    share = 0.3


class AttentionAlways(Net):
    def middle(self, x: Tensor) -> Tensor:
        tokens = self.b(x).flatten(2).transpose(1, 2)
        mixed = F.scaled_dot_product_attention(tokens, tokens, tokens, None, 0.3)
        return mixed.transpose(1, 2).reshape(len(x), 8, 13, 13)


NETWORKS |= {
    "generator of its own": OwnGenerator,
    "attention": Attention,
    "attention with dropout by position": AttentionDropout,
    "attention with dropout always": AttentionAlways,
}

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
