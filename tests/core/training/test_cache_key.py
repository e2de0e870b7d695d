"""Keys hold all that made a value: code, options, hooks, buffers, modes, pixels; what has no key is not found again."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from types import MethodType

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from tlnb.core.training.cache_key import identity, pixels, structure
from tlnb.session import Session

QUICK = {"epochs": 1, "augment": "none", "precision": "fp32"}


def scaled(x: Tensor, by: float = 1.0) -> Tensor:
    return x * by


FACTOR = 2.0


def with_global(x: Tensor) -> Tensor:
    return x * FACTOR


class Runs(nn.Module):
    """Runs a function that it holds as an attribute."""

    def __init__(self, function: object) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class Held(nn.Module):
    """Holds a buffer that its state_dict leaves out."""

    def __init__(self, value: float, persistent: bool = False) -> None:
        super().__init__()
        self.register_buffer("value", torch.tensor(value), persistent=persistent)


class Options:
    def __init__(self, **options: object) -> None:
        self.__dict__.update(options)


def hooked(hook: Callable[..., object], pre: bool = False, **options: bool) -> nn.Module:
    module = nn.Linear(2, 2)
    register = module.register_forward_pre_hook if pre else module.register_forward_hook
    register(hook, **options)
    return module


def own_forward(forward: Callable[..., Tensor]) -> nn.Module:
    module = nn.Linear(2, 2)
    module.forward = MethodType(forward, module)
    return module


def closure(value: object) -> Callable[[Tensor], Tensor]:
    return lambda x: x * value


def kind(times: int) -> type[nn.Module]:
    return type("Same", (nn.Module,), {"times": times})


def defined(body: str) -> Callable[[Tensor], Tensor]:
    space: dict[str, object] = {"__name__": "__main__", "torch": torch}
    exec(f"def function(x): return {body}", space)
    return space["function"]  # type: ignore[return-value]


def traced(function: Callable[[Tensor], Tensor]) -> nn.Module:
    graph = fx.Graph()
    graph.output(graph.call_function(function, (graph.placeholder("x"),)))
    return fx.GraphModule(nn.Module(), graph)


def layer(**options: object) -> nn.Module:
    return nn.TransformerEncoderLayer(8, 2, 8, **options)


PAIRS = {
    "num_heads": (lambda: nn.MultiheadAttention(8, 2), lambda: nn.MultiheadAttention(8, 4)),
    "norm_first": (layer, lambda: layer(norm_first=True)),
    "activation": (layer, lambda: layer(activation="gelu")),
    "activation-function": (
        lambda: layer(activation=closure(1.0)),
        lambda: layer(activation=closure(2.0)),
    ),
    "align_corners": (
        lambda: nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True),
        lambda: nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False),
    ),
    "groups": (lambda: nn.GroupNorm(2, 8), lambda: nn.GroupNorm(4, 8)),
    "eps": (lambda: nn.LayerNorm(8), lambda: nn.LayerNorm(8, eps=1e-3)),
    "stride": (lambda: nn.Conv2d(2, 2, 3), lambda: nn.Conv2d(2, 2, 3, 2)),
    "padding_mode": (
        lambda: nn.Conv2d(2, 2, 3, padding=1),
        lambda: nn.Conv2d(2, 2, 3, padding=1, padding_mode="reflect"),
    ),
    "slope": (lambda: nn.LeakyReLU(0.1), lambda: nn.LeakyReLU(0.2)),
    "approximate": (nn.GELU, lambda: nn.GELU("tanh")),
    "order": (
        lambda: nn.Sequential(nn.ReLU(), nn.Tanh()),
        lambda: nn.Sequential(nn.Tanh(), nn.ReLU()),
    ),
    "inside": (lambda: nn.Sequential(layer()), lambda: nn.Sequential(layer(norm_first=True))),
    "batch_first": (lambda: nn.LSTM(2, 2), lambda: nn.LSTM(2, 2, batch_first=True)),
    "buffer": (lambda: Held(1.0, True), lambda: Held(2.0, True)),
    "non-persistent": (lambda: Held(1.0), lambda: Held(2.0)),
    "mode": (nn.Dropout, lambda: nn.Dropout().eval()),
    "hook": (lambda: hooked(lambda *a: None), lambda: hooked(lambda *a: a[2] * 2)),
    "no-hook": (lambda: nn.Linear(2, 2), lambda: hooked(lambda *a: a[2] * 2)),
    "pre-hook": (
        lambda: hooked(lambda m, x: x, pre=True),
        lambda: hooked(lambda m, x: (-x[0],), pre=True),
    ),
    "hook-flag": (
        lambda: hooked(lambda *a: None),
        lambda: hooked(lambda *a: None, with_kwargs=True),
    ),
    "hook-inside": (
        lambda: nn.Sequential(hooked(lambda *a: None)),
        lambda: nn.Sequential(hooked(lambda *a: a[2] * 2)),
    ),
    "own-forward": (
        lambda: own_forward(lambda self, x: x),
        lambda: own_forward(lambda self, x: -x),
    ),
    "function": (lambda: Runs(torch.relu), lambda: Runs(torch.tanh)),
    "lambda": (lambda: Runs(lambda x: x), lambda: Runs(lambda x: -x)),
    "default": (lambda: Runs(lambda x, by=1: x * by), lambda: Runs(lambda x, by=2: x * by)),
    "closure": (lambda: Runs(closure(1.0)), lambda: Runs(closure(2.0))),
    "closure-tensor": (
        lambda: Runs(closure(torch.zeros(2))),
        lambda: Runs(closure(torch.ones(2))),
    ),
    "partial": (
        lambda: Runs(functools.partial(scaled, by=1.0)),
        lambda: Runs(functools.partial(scaled, by=2.0)),
    ),
    "nested-code": (
        lambda: Runs(lambda x: (lambda y: y + 1)(x)),
        lambda: Runs(lambda x: (lambda y: y + 2)(x)),
    ),
    "redefined": (lambda: Runs(defined("x")), lambda: Runs(defined("-x"))),
    "wrapped": (lambda: traced(defined("x")), lambda: traced(defined("-x"))),
    "class": (kind(1), kind(2)),
    "object": (lambda: Runs(Options(scale=1)), lambda: Runs(Options(scale=2))),
    "array": (lambda: Runs(np.zeros(2)), lambda: Runs(np.ones(2))),
    "list": (lambda: Runs([1, [2]]), lambda: Runs([1, [3]])),
    "set": (lambda: Runs({1, 2}), lambda: Runs({1, 3})),
    "dtype": (lambda: Runs(torch.float32), lambda: Runs(torch.float16)),
}


def made(make: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return make()


@pytest.mark.parametrize("name", PAIRS)
def test_what_differs_has_another_key_and_what_is_alike_the_same(name: str):
    one, other = PAIRS[name]
    keys = [identity(made(make)) for make in (one, one, other)]
    assert keys[0] is not None and keys[0] == keys[1] != keys[2]


def test_weights_count_to_the_bit_and_for_shapes_not_at_all():
    one, other = made(lambda: nn.Linear(2, 2)), made(lambda: nn.Linear(2, 2))
    with torch.no_grad():
        other.weight[0, 0] = torch.nextafter(other.weight[0, 0], torch.tensor(9.0))
    assert identity(one) != identity(other) and structure(one) == structure(other)
    assert structure(one) != structure(nn.Linear(2, 3))


def test_a_global_that_the_code_reads_counts(monkeypatch: pytest.MonkeyPatch):
    before = identity(Runs(with_global))
    monkeypatch.setitem(globals(), "FACTOR", 3.0)
    assert before is not None and identity(Runs(with_global)) != before


@pytest.mark.parametrize(
    "unknown",
    [threading.Lock, torch.Generator, lambda: iter([1]), lambda: closure(iter([1])), pytest],
    ids=["lock", "generator", "iterator", "closure", "module"],
)
def test_what_cannot_be_described_has_no_key(unknown: object):
    assert identity(Runs(unknown() if callable(unknown) else unknown)) is None


def test_hooks_on_every_module_leave_no_key():
    handle = nn.modules.module.register_module_forward_hook(lambda *a: None)
    try:
        assert identity(nn.Linear(2, 2)) is None
    finally:
        handle.remove()


def test_pixels_as_they_are_now():
    images = torch.zeros(4, 3, 8, 8, dtype=torch.uint8)
    before = pixels(images)
    assert before == pixels(images.clone()) != pixels(images.view(2, 6, 8, 8))
    images.numpy()[3, 2, 7, 7] = 1  # behind torch's back
    assert pixels(images) != before


# ── what a session finds again ────────────────────────────────────────────────────────────────────────────────────


class Attends(nn.Module):
    def __init__(self, heads: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 8, 8)
        self.attention = nn.MultiheadAttention(8, heads, batch_first=True)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        return self.head(self.attention(x, x, x)[0].mean(1))


def test_another_option_of_the_same_weights_is_computed_anew(small: Session):
    for heads in (1, 2):
        small.load(made(lambda heads=heads: Attends(heads)), size=32)
        run = small.train(**QUICK)
        assert run.cache is not None and not run.cache.reused
    assert small.train(**QUICK).cache.reused


def test_pixels_changed_in_place_are_noticed(small: Session):
    assert not small.train(**QUICK).cache.reused
    assert small.train(**QUICK).cache.reused
    small.dataset.images["train"].zero_()
    assert not small.train(**QUICK).cache.reused


def test_what_differs_when_it_is_computed_again_is_dropped(small: Session):
    first = small.train(**QUICK)
    for value in small.cache._held.values():
        value.mul_(2)
    again = small.train(**QUICK)
    assert not again.cache.reused
    assert [e.train_loss for e in again.epochs] == [e.train_loss for e in first.epochs]
    assert small.train(**QUICK).cache.reused


def test_a_redefined_function_is_noticed(small: Session):
    class Redefined(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.head = nn.Conv2d(3, 8, 8, 8), nn.Linear(8, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(step(self.stem(x)).mean((2, 3)))

    step = F.relu
    network = Redefined()
    for step in (F.relu, torch.sin):  # noqa: B007 - the forward reads it
        small.load(network, size=32)
        assert not small.train(**QUICK).cache.reused
