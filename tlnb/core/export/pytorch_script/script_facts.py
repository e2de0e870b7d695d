"""The facts that a script is written from, and what follows from them."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import nn

from tlnb.core.data.dataset import DataFacts
from tlnb.core.models.anatomy import Anatomy, evaluating, owned
from tlnb.core.models.own_outputs import own_class
from tlnb.core.models.pretrained import PretrainedModel
from tlnb.core.planning.options import TrainOptions
from tlnb.core.planning.plan import Edit, Plan
from tlnb.core.runtime.distributed import uses_batch_statistics
from tlnb.core.runtime.errors import OneLine
from tlnb.core.training.batch_sizes import none_alone
from tlnb.core.training.events import Event
from tlnb.core.training.folded_input_norm import can_fold
from tlnb.core.training.freezing import keeping_statistics, set_modes
from tlnb.core.training.model_split import ignores_mode
from tlnb.core.training.run import Run
from tlnb.core.training.split_choice import CACHED_VIEWS, VIEW_FLOPS


class Script(OneLine, str):
    """Code as text: displayed readably, a plain string everywhere else."""

    about: str

    def __new__(cls, text: str, about: str = "") -> Script:
        script = super().__new__(cls, text)
        script.about = about
        return script

    def __repr__(self) -> str:
        return f"Script: {self.about or 'code'}, {len(self.splitlines())} lines"


@dataclass(frozen=True, kw_only=True)
class ScriptFacts:
    """Everything that a script is written from."""

    model: PretrainedModel
    # With the plan's edits; its structure is read and its modes are set.
    network: nn.Module = field(repr=False)
    anatomy: Anatomy  # of `network`
    data: DataFacts
    plan: Plan
    options: TrainOptions  # filled in
    precision: str  # fp32, bf16 or fp16
    run: Run | None = None
    # The user's names that edits mention.
    scopes: Mapping[Edit, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def scaled(self) -> list[str]:
        """Output layers trained on standardised features; nearly always one or none."""
        trained = [
            h
            for h in self.anatomy.heads
            if h in self.plan.trained and self.plan.start == "pretrained"
        ]
        return [h for h in trained if can_fold(self.network.get_submodule(h))]

    @property
    def head(self) -> nn.Module:
        return self.network.get_submodule(self.head_name)

    @property
    def head_name(self) -> str:
        return next(iter(self.scaled), self.anatomy.head)

    @cached_property
    def batch_size(self) -> int:
        """Images per step, as in the run, or as a run would have.

        Raises:
            UsageError: a batch of one image, with layers that need batch statistics.
        """
        if self.run is not None and self.run.processes > 1:
            return self.options.batch_size or 1
        set_modes(self.network, set(self.plan.trained), self.keeping)
        statistics = uses_batch_statistics(self.network)
        splits = self.data.splits
        images = splits["train"] + (splits["val"] if self.refits else 0)
        return none_alone(self.options, images, statistics).batch_size or 1

    @property
    def came_from(self) -> str | None:
        """The run that this one continued from."""
        return self.run.started_from if self.run else None

    @property
    def fresh(self) -> bool:
        """Whether the output layer is new, on pretrained layers."""
        heads = set(self.anatomy.heads) & set(self.plan.trained)
        new = any(edit.covers(head) for edit in self.plan.edits for head in heads)
        return self.plan.start == "pretrained" and self.came_from is None and new

    @property
    def warm(self) -> bool:
        """Whether the new output layer trains alone first."""
        return self.fresh and bool(set(self.plan.trained) - set(self.anatomy.heads))

    @property
    def parted(self) -> bool:
        """Whether some parts are frozen at times, or their learning rates differ."""
        rates = set(self.rates_of(self.plan.trained).values())
        return self.warm or bool(self.keeping) or len(rates) > 1

    @cached_property
    def keeping(self) -> frozenset[str]:
        """The trained layers whose statistics stay."""
        return keeping_statistics(self.network, self.plan, self.options)

    @property
    def norms(self) -> list[str]:
        """The BatchNorm layers."""
        kind = nn.modules.batchnorm._BatchNorm
        return [name for name, part in owned(self.network) if isinstance(part, kind)]

    @property
    def holds_out(self) -> bool:
        """Whether the data have labels to choose with."""
        return "val" in self.data.splits

    @property
    def refits(self) -> bool:
        """Whether all labels in use teach: those held out have already chosen."""
        refitted = self.run is None or self.run.refit is not None
        return bool(self.options.refit) and self.holds_out and refitted

    @property
    def chooses(self) -> bool:
        """Whether the val split chooses the epoch."""
        return self.holds_out and not self.refits

    @property
    def until(self) -> int | None:
        """After how many epochs the refit ended, where that is before the last."""
        refit = self.run.refit if self.run else None
        return refit.epochs if refit and refit.epochs < (self.options.epochs or 0) else None

    @property
    def augmented(self) -> bool:
        return self.options.augment not in (None, "none") and not self._happened("one-view")

    @property
    def own(self) -> bool:
        """Whether only the user's code can build the network: own, or changed in Python."""
        return self.model.architecture is None or self.model.card.family == "run"

    @property
    def source(self) -> str:
        """How the script reads the data: `digits`, `folder` or `file`."""
        if self.data.request.source == "digits":
            return "digits"
        return "folder" if self.data.plain_folder else "file"

    # ── the output layer alone ──

    @cached_property
    def apart(self) -> bool:
        """Whether the script trains only the output layer, on features computed once."""
        alone = list(self.plan.trained) == self.scaled == [self.anatomy.head] and self.options.cache
        return (
            alone
            and not self.askers
            and len(self.dropouts) <= 1
            and (self.run is None or self.run.cache is not None)
            and self._ends_with_the_head()
        )

    @property
    def views(self) -> int:
        """How many views of each image get features, including the image itself."""
        if cached := self._happened("cached-views"):
            return max(1, min(CACHED_VIEWS, int(cached.facts["views"])))
        worth = VIEW_FLOPS // (self.data.splits["train"] * max(self.anatomy.flops, 1))
        return max(1, min(CACHED_VIEWS, self.options.epochs or 1, int(worth)))

    @property
    def sees_new_views(self) -> bool:
        """Whether the run trained on cached views but the script augments in every epoch."""
        return not self.apart and self._happened("cached-views") is not None

    @property
    def dropouts(self) -> list[str]:
        """Dropout layers that are active while the output layer trains."""
        rates = self.rates_of(self.anatomy.heads, 1.0)
        return [
            name
            for name, rate in rates.items()
            if rate is not None and name not in self.anatomy.heads
        ]

    def _happened(self, kind: str) -> Event | None:
        """The run's event of a kind; None for a plan, which has no events yet."""
        return self.run.event(kind) if self.run else None

    def _ends_with_the_head(self) -> bool:
        """Whether the scores are those of an output layer behind a dropout, by one forward pass."""
        size = self.model.transform.size
        seen: dict[str, list[torch.Tensor]] = {"arrives": [], "scores": [], "dropped": []}
        handles = [
            self.head.register_forward_pre_hook(
                lambda _, inputs: seen["arrives"].append(inputs[0])
            ),
            self.head.register_forward_hook(lambda _, __, output: seen["scores"].append(output)),
            *(
                self.network.get_submodule(n).register_forward_hook(
                    lambda _, __, y: seen["dropped"].append(y)
                )
                for n in self.dropouts
            ),
        ]
        try:
            with evaluating(self.network), torch.no_grad():
                images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
                scores = self.network(images)
        finally:
            for handle in handles:
                handle.remove()
        if len(seen["scores"]) != 1 or len(seen["dropped"]) != len(self.dropouts):
            return False
        pairs = [
            (seen["scores"][0].flatten(1), scores),
            *((dropped, seen["arrives"][0]) for dropped in seen["dropped"]),
        ]
        return all(a.shape == b.shape and torch.allclose(a, b) for a, b in pairs)

    # ── what learns ──

    @property
    def askers(self) -> list[str]:
        """The user's modules with frozen and trained layers that read `self.training`."""
        if not self.own:
            return []
        phases = [self.plan.trained, *([self.anatomy.heads] if self.warm else [])]
        askers = {name for trained in phases for name in self._askers_among(tuple(trained))}
        return [name for name, _ in self.network.named_modules() if name in askers]

    def _askers_among(self, trained: tuple[str, ...]) -> list[str]:
        whole = self.learning(trained)
        layers = {part for _, part in owned(self.network)}
        return [
            name
            for name, part in self.network.named_modules()
            if part not in layers
            and "training" in _names_in_forward(part)
            and not any(not m or name == m or name.startswith(f"{m}.") for m in whole)
            and any(not name or n.startswith(f"{name}.") for n in trained)
        ]

    def learning(self, trained: Iterable[str], rate: float | None = None) -> dict[str, float]:
        """What trains and at which rate, as few modules as possible.

        A module stands for everything inside it. If a layer trains while parts inside it are
        frozen, that is impossible, and layers are listed one by one. `rate` replaces the plan's.
        """
        rates = self.rates_of(trained, rate)
        if self.one_by_one:
            return {name: value for name, value in rates.items() if value is not None}
        return _cover(self.network, "", rates)

    @property
    def one_by_one(self) -> bool:
        rates = self.rates_of(self.plan.trained)
        return any(
            value is not None and len(_inside(rates, name)) > 1 for name, value in rates.items()
        )

    def rates_of(
        self, trained: Iterable[str], rate: float | None = None
    ) -> dict[str, float | None]:
        """The rate of every module whose mode matters, None if frozen.

        Dropout has the rate of the next layer.
        """
        by_stage = dict(self.options.stage_lr) if rate is None else {}
        common = rate or self.options.lr or 0.0
        stages = {layer.name: layer.stage for layer in self.anatomy.layers}
        layers = {part: name for name, part in owned(self.network)}
        chosen = set(trained)
        set_modes(self.network, chosen)
        rates: dict[str, float | None] = {}
        last = common
        for name, part in reversed(list(self.network.named_modules())):
            if part in layers:
                last = by_stage.get(stages[layers[part]], common)
                rates[name] = last if layers[part] in chosen else None
            elif _acts_in_training(part):
                rates[name] = last if part.training else None
        return dict(reversed(rates.items()))


def _names_in_forward(part: nn.Module) -> tuple[str, ...]:
    code = getattr(inspect.unwrap(own_class(part).forward), "__code__", None)
    return code.co_names if code is not None else ()


def _acts_in_training(part: nn.Module) -> bool:
    """Whether a part without parameters behaves differently in training: mostly dropout."""
    if any(True for _ in part.children()) and not isinstance(part, nn.modules.dropout._DropoutNd):
        return False
    return not ignores_mode(part) and float(getattr(part, "p", 1.0)) > 0


def _inside(rates: Mapping[str, float | None], name: str) -> set[float | None]:
    return {
        value for n, value in rates.items() if not name or n == name or n.startswith(f"{name}.")
    }


def _cover(network: nn.Module, name: str, rates: Mapping[str, float | None]) -> dict[str, float]:
    values = _inside(rates, name)
    if len(values) <= 1:
        value = values.pop() if values else None
        return {} if value is None else {name: value}
    children = [
        f"{name}.{child}" if name else child
        for child, _ in network.get_submodule(name).named_children()
    ]
    return {
        part: value for child in children for part, value in _cover(network, child, rates).items()
    }
