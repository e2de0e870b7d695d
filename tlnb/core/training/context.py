"""What one training is given: the network on its device, the data, the plan, and who is told about it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from tlnb.core.data.dataset import DataSet
from tlnb.core.models.anatomy import Anatomy
from tlnb.core.models.clocks import PHASES, CostTracker
from tlnb.core.models.pretrained import PretrainedModel
from tlnb.core.planning.options import TrainOptions
from tlnb.core.planning.plan import Plan
from tlnb.core.runtime.device import Machine
from tlnb.core.runtime.distributed import ALONE, Ranks
from tlnb.core.runtime.torch_lock import alone, give_way
from tlnb.core.storage.activation_cache import Store
from tlnb.core.training.features import FeatureSource
from tlnb.core.training.freezing import keeping_statistics, layer_of, set_modes
from tlnb.core.training.progress import Progress, Report

# a prime between the seeds of runs, so that epochs of neighbouring seeds never share one
SEED_STRIDE = 1_000_003


class StopCheck:
    """Between two steps: other threads may have their turn, and whoever asked to stop is heard."""

    def __init__(self, asked: Callable[[], bool] | None = None) -> None:
        self._asked = asked

    def __call__(self) -> None:
        """Raises `KeyboardInterrupt` once somebody asked to stop."""
        give_way()
        if self._asked is not None and self._asked():
            raise KeyboardInterrupt

    def silence(self) -> None:
        """From now on nobody is asked: what follows is owed to a stopped run, too."""
        self._asked = None


@dataclass(frozen=True, kw_only=True)
class TrainingContext:
    """What one training is given. Only the module's weights, the costs and the source's caches change."""

    name: str
    model: PretrainedModel
    anatomy: Anatomy  # of the model with the plan's edits
    data: DataSet
    plan: Plan
    options: TrainOptions  # filled in
    machine: Machine
    ranks: Ranks
    costs: CostTracker
    report: Report
    stop_check: StopCheck
    module: nn.Module  # on the device
    keeping: frozenset[str]  # trained layers whose statistics stay
    labels: Mapping[str, Tensor]  # by split: (N,) int64 class numbers on the device
    source: FeatureSource
    class_weights: Tensor | None  # (C,) float32
    taught: frozenset[str] = frozenset()  # splits whose labels its start has learned

    @classmethod
    def prepare(
        cls,
        network: nn.Module,
        store: Store,
        *,
        name: str,
        model: PretrainedModel,
        anatomy: Anatomy,
        data: DataSet,
        plan: Plan,
        options: TrainOptions,
        machine: Machine,
        costs: CostTracker,
        report: Report,
        ranks: Ranks = ALONE,
        stop: Callable[[], bool] | None = None,
    ) -> TrainingContext:
        """Bring a network of the plan's own and the labels to the device."""
        report(Progress(run=name, phase="preparing"))
        memory_format = model.transform.memory_format
        module = network.to(machine.device, memory_format=memory_format)  # type: ignore[call-overload]
        labels = labels_on(machine, data)
        stop_check = StopCheck(stop)
        _check_count(module, plan)
        return cls(
            name=name,
            model=model,
            anatomy=anatomy,
            data=data,
            plan=plan,
            options=options,
            machine=machine,
            ranks=ranks,
            costs=costs,
            report=report,
            stop_check=stop_check,
            module=module,
            keeping=keeping_statistics(module, plan, options),
            labels=labels,
            source=FeatureSource(
                module=module,
                transform=model.transform,
                data=data,
                machine=machine,
                tally=costs,
                store=store,
                pause=stop_check,
                ranks=ranks,
            ),
            class_weights=class_weights_of(labels, data) if options.class_weights else None,
        )

    @property
    def train_images(self) -> int:
        """Training images."""
        return len(self.labels["train"])

    @property
    def trained_heads(self) -> tuple[str, ...]:
        """The output layers among what trains."""
        return tuple(head for head in self.anatomy.heads if head in self.plan.trained)

    def on_data(self, data: DataSet, source: FeatureSource, report: Report) -> TrainingContext:
        """The same training on other splits of the images, without a refit of its own."""
        labels = labels_on(self.machine, data)
        weighted = self.class_weights is not None
        return replace(
            self,
            options=replace(self.options, refit=False),
            data=data,
            labels=labels,
            source=source,
            class_weights=class_weights_of(labels, data) if weighted else None,
            report=report,
        )

    def layers(self, names: tuple[str, ...]) -> list[nn.Module]:
        """The parts of the network that these layers' names mean."""
        return [layer_of(self.module, name) for name in names]

    def set_modes(self, trained: tuple[str, ...] | None = None) -> None:
        """These layers (by default the plan's) in training mode, what is frozen in eval mode."""
        chosen = self.plan.trained if trained is None else trained
        set_modes(self.module, set(chosen), self.keeping)

    def tell(
        self,
        phase: str,
        done: int,
        epochs: int | None = None,
        *,
        loss: float | None = None,
        accuracy: float | None = None,
    ) -> None:
        """Report a phase: epochs done, of how many (by default the run's), and the figures so far."""
        total = (self.options.epochs or 0) if epochs is None else epochs
        self.report(
            Progress(
                run=self.name, phase=phase, epoch=done, epochs=total, loss=loss, accuracy=accuracy
            )
        )

    def seed(self, epoch: int) -> None:
        """Random numbers of an epoch, such as dropout's: the same whatever ran before."""
        self.ranks.seed(self.options.seed * SEED_STRIDE + epoch, self.machine.on_cpu)

    def spent(self) -> tuple[dict[str, float], dict[str, float]]:
        """FLOPs and watt-hours by phase, of all processes. A collective call."""
        clock = self.costs.clock
        wh = clock.wh()
        counted_elsewhere = clock.meter.shared and self.ranks.local > 0
        flops = self.ranks.totals(self.costs.flops, PHASES)
        return flops, self.ranks.totals(dict.fromkeys(wh, 0.0) if counted_elsewhere else wh, PHASES)


def labels_on(machine: Machine, data: DataSet) -> dict[str, Tensor]:
    """The labels of every split on a machine's device."""
    return {split: labels.to(machine.device) for split, labels in data.labels.items()}


def class_weights_of(labels: Mapping[str, Tensor], data: DataSet) -> Tensor:
    """By inverse frequency of the classes in the training images, `(C,)`."""
    counts = torch.bincount(labels["train"], minlength=len(data.classes)).float()
    return counts.sum() / (len(counts) * counts)


def _check_count(module: nn.Module, plan: Plan) -> None:
    """What trains must be what the plan promises; a parameter that layers share counts once."""
    sizes = {
        id(p): p.numel()
        for name in plan.trained
        for p in layer_of(module, name)._parameters.values()
        if p is not None
    }
    if plan.trainable_params > sum(sizes.values()):
        raise AssertionError(
            f"the plan trains {plan.trainable_params} parameters, found {sizes.values()}"
        )


@contextmanager
def seeded(seed: int, machine: Machine) -> Iterator[None]:
    """Random numbers from this seed inside; afterwards they go on as if nothing had been drawn."""
    devices = [torch.cuda.current_device()] if machine.device.startswith("cuda") else []
    with alone(), machine.exact(), torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield
