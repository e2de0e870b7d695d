"""Networks with hooks, contexts, gradients of their own, and chance."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tests.core.training.uncommon_base import NETWORKS, Net, anywhere

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
