"""The state of a training at the end of an epoch, its checkpoints, and when to write them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from torch import Tensor, nn

from tlnb.core.runtime.device import out_of_memory
from tlnb.core.runtime.distributed import Ranks
from tlnb.core.training.batches import MicroBatches
from tlnb.core.training.checkpoint import Checkpoint, Due
from tlnb.core.training.events import Event, event
from tlnb.core.training.folded_input_norm import FoldedInputNorm, can_fold
from tlnb.core.training.optimizers import AdamW
from tlnb.core.training.refit_record import difference
from tlnb.core.training.run import Cache, EpochRecord, Work
from tlnb.core.training.training_inputs import Cost

KeepCheckpoint = Callable[[Checkpoint], None]


@dataclass
class TrainingState:
    """The state that a training's epochs change, except the network and the optimiser."""

    epochs: list[EpochRecord] = field(default_factory=list)
    best: float = -1.0  # val accuracy of the best epoch so far; -1 without val
    best_epoch: int | None = None
    last_state: dict[str, Tensor] = field(
        default_factory=dict
    )  # trained tensors after the last epoch
    best_state: dict[str, Tensor] = field(
        default_factory=dict
    )  # trained tensors after the best epoch
    work: Work = field(
        default_factory=lambda: Work(
            full_step=0, plan_step=0, steps=0, images=0, unfrozen_flops=0, uncached_flops=0
        )
    )
    events: list[Event] = field(default_factory=list)
    micro_batches: MicroBatches = field(default_factory=MicroBatches)
    input_norms: list[FoldedInputNorm] = field(default_factory=list)  # of the output layers
    cache: Cache | None = None

    @property
    def last_is_best(self) -> bool:
        """Whether one copy of the trained tensors is enough."""
        return self.best_epoch is not None and self.best_epoch == len(self.epochs) - 1

    def add_work(self, cost: Cost, steps: int, images: int) -> None:
        """Count steps, and the images processed in them."""
        old = self.work
        self.work = Work(
            full_step=cost.full,
            plan_step=cost.planned,
            steps=old.steps + steps,
            images=old.images + images,
            unfrozen_flops=old.unfrozen_flops + images * cost.full,
            uncached_flops=old.uncached_flops + images * cost.planned,
        )

    def add_weights(self, weights: dict[str, Tensor], val_accuracy: float | None) -> None:
        """Store the weights of the last epoch.

        Of equally good epochs the last counts as best: it has learned longest.
        """
        self.last_state = weights
        if val_accuracy is not None and val_accuracy >= self.best:
            self.best, self.best_epoch = val_accuracy, len(self.epochs) - 1
            self.best_state = weights

    def checkpoint(
        self,
        adamw: AdamW,
        seconds: dict[str, float],
        flops: dict[str, float],
        wh: dict[str, float],
    ) -> Checkpoint:
        """The current state of the training, sharing tensors that the next epoch changes.

        Costs are by phase.
        """
        return Checkpoint(
            epochs=tuple(self.epochs),
            best=self.best,
            best_epoch=self.best_epoch,
            seconds=seconds,
            flops=flops,
            work=self.work,
            steps=adamw.schedule.last_epoch,
            cache=self.cache,
            events=tuple(self.events),
            pieces=self.micro_batches.count,
            scaler=adamw.scaler.state_dict(),
            wh=wh,
            tensors=self._tensors(adamw),
        )

    def _tensors(self, adamw: AdamW) -> dict[str, Tensor]:
        best = {} if self.last_is_best else self.best_state
        return {
            **{f"last/{key}": tensor for key, tensor in self.last_state.items()},
            **{f"best/{key}": tensor for key, tensor in best.items()},
            **{f"optimizer/{key}": tensor for key, tensor in adamw.tensors().items()},
            **{
                f"scale/{number}/{name}": tensor
                for number, norm in enumerate(self.input_norms)
                for name, tensor in (("mean", norm.mean), ("spread", norm.spread))
            },
        }

    def restore(
        self, checkpoint: Checkpoint, module: nn.Module, heads: list[nn.Module], device: str
    ) -> None:
        """Return to a checkpoint: this state, the network, and its output layers' input norms.

        Args:
            heads: the trained output layers.
        """

        def tensors(name: str) -> dict[str, Tensor]:
            return {key: t.to(device) for key, t in checkpoint.part(name).items()}

        self.epochs[:], self.events[:] = checkpoint.epochs, checkpoint.events
        self.best, self.best_epoch = checkpoint.best, checkpoint.best_epoch
        self.work, self.micro_batches.count = checkpoint.work, checkpoint.pieces
        self.last_state = tensors("last")
        self.best_state = self.last_state if self.last_is_best else tensors("best")
        norms = tensors("scale")
        self.input_norms = [
            FoldedInputNorm(head, norms[f"{number}/mean"], norms[f"{number}/spread"])
            for number, head in enumerate(filter(can_fold, heads))
            if f"{number}/mean" in norms
        ]
        module.load_state_dict(self.last_state, strict=False)


def _in_refit(first: Checkpoint, second: Checkpoint) -> Checkpoint:
    """The end of the first pass with where the second stands; costs are all, and of the second its own."""
    return replace(
        first,
        seconds=second.seconds,
        flops=second.flops,
        wh=second.wh,
        found=second.found,
        known=second.known,
        refit=replace(
            second,
            seconds=difference(second.seconds, first.seconds),
            flops=difference(second.flops, first.flops),
            wh=difference(second.wh, first.wh),
        ),
    )


class CheckpointWriter:
    """Writes checkpoints that are due, and holds others for an interrupt within an epoch."""

    def __init__(self, keep: KeepCheckpoint | None, at_risk: float, ranks: Ranks) -> None:
        """`at_risk`: seconds of work that a kill may lose (`checkpoint.Due`)."""
        self._keep, self.at_risk, self._ranks = keep, at_risk, ranks
        self.held: Checkpoint | None = None  # the end of the last epoch, if it was not written
        self.first: Checkpoint | None = None  # the end of the first pass, while a refit goes on

    def wanted(self) -> bool:
        """Whether any process writes checkpoints. A collective call."""
        return not self._ranks.every(self._keep is None)

    @property
    def keeps(self) -> bool:
        """Whether this process writes checkpoints."""
        return self._keep is not None and self._ranks.is_main

    def after_epoch(self, checkpoint: Checkpoint, due: Due, events: list[Event]) -> None:
        """Write the checkpoint if it is due; otherwise hold a copy if memory allows."""
        if self.first is not None:
            checkpoint = _in_refit(self.first, checkpoint)
        if not due.after_epoch():
            try:
                self.held = checkpoint.held()
                return
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
        self._write(checkpoint, events)
        due.written()

    @contextmanager
    def written_if_interrupted(self, events: list[Event]) -> Iterator[None]:
        """Inside, an interrupt leaves a checkpoint to go on from."""
        try:
            yield
        except KeyboardInterrupt:
            self.write_held(events)
            raise

    def write_held(self, events: list[Event]) -> None:
        """Write the held checkpoint, if any."""
        if self.held is not None:
            self._write(self.held, events)

    def _write(self, checkpoint: Checkpoint, events: list[Event]) -> None:
        self.held = None
        if self._keep is None:
            return
        try:
            self._keep(checkpoint)
        except OSError as error:
            self._keep = None
            reason = error.strerror or type(error).__name__
            epoch = len(checkpoint.epochs)
            events.append(event("no-checkpoint", epoch=epoch, reason=reason))
