"""Several processes around the one training loop: which of them this is, what its share is, what they tell each other.

torchrun starts the processes and says in environment variables which is which; torch.distributed carries what they say,
by gloo between processors and by NCCL between GPUs. A process by itself is `ALONE`: whatever is asked here, it knows the
answer without a word to anyone.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
import os
import platform
import sys
import time
import uuid
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from tlnb.core.runtime.errors import TLError, UsageError

POLL = 0.02  # seconds between two looks at who is there
PATIENCE = timedelta(seconds=10)  # with the process that tells of an error
# bytes that all processes together make before they meet, unless one takes more at a time
HELD = 2**26
APART = 7_368_787  # a prime between the seeds of ranks
# of DistributedDataParallel; torch renamed it in 2.14
KNOWN = inspect.signature(nn.parallel.DistributedDataParallel).parameters
SYNCHRONISED = next(n for n in ("forward_sync_buffers", "broadcast_buffers") if n in KNOWN)

T = TypeVar("T")


@dataclass
class Draws:
    """What is drawn at random for a whole batch, by every process alike, so that each can take its rows."""

    generator: torch.Generator = field(default_factory=torch.Generator)
    of: int = 0  # items of the batch at hand


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """This process among those of one training. Collective calls are made by all of them, in the same order."""

    rank: int = 0
    count: int = 1
    local: int = 0  # which of those on this machine
    local_count: int = 1  # how many of them are on this machine
    draws: Draws = field(default_factory=Draws, compare=False, repr=False)

    @property
    def is_main(self) -> bool:
        """Whether this is the one process that writes files and shows progress."""
        return self.rank == 0

    # ── shares ──

    def shard(self, length: int, rank: int | None = None) -> slice:
        """The rows of `length` that are this process's (or another's): equal shards, the first ones larger by one."""
        rank = self.rank if rank is None else rank
        each, more = divmod(length, self.count)
        start = rank * each + min(rank, more)
        return slice(start, start + each + (rank < more))

    @staticmethod
    def busy(shard: slice) -> slice:
        """The shard, or row 0 for a process without rows: it takes part in what the others do, with no weight."""
        return shard if shard.start < shard.stop else slice(0, 1)

    def shared(self, count: int, size: int, work: Callable[[slice], Tensor]) -> Iterator[Tensor]:
        """`work` on all of `count` rows, at most `size` at a time; the results of all processes, in order.

        They meet after the first call, and then seldom: each core is slower now and then, and whoever meets waits.

        Args:
            work: given the rows to work on, a result `(n, …)` for just those.
        """
        first, each = 0, size  # rows that a process works on before it meets the others
        while first < count:
            length = min(each * self.count, count - first)
            shard = self.shard(length)
            rows = self.busy(shard)
            starts = range(first + rows.start, first + rows.stop, size)
            parts = [work(slice(start, min(start + size, first + rows.stop))) for start in starts]
            result = parts[0] if len(parts) == 1 else torch.cat(parts)
            yield self.all_gather(result if shard.start < shard.stop else result[:0], length)
            first += length
            if self.count > 1:
                # by the bytes of a row, which are the same for all, so that all meet at the same place
                row_bytes = result.nbytes // len(result)
                each = max(size, HELD // (self.count * max(1, row_bytes)) // size * size)

    def all_gather(self, mine: Tensor, total: int) -> Tensor:
        """All `total` rows, of which each process holds its shard, in order, on every process."""
        if self.count == 1:
            return mine
        channels_last = mine.ndim == 4 and mine.is_contiguous(memory_format=torch.channels_last)
        plain = mine.permute(0, 2, 3, 1) if channels_last else mine
        filled = plain.new_zeros((self.shard(total, 0).stop, *plain.shape[1:]))
        filled[: len(plain)] = plain
        sent = filled.view(-1).view(torch.uint8)  # gloo does not know every type
        received = [torch.empty_like(sent) for _ in range(self.count)]
        dist.all_gather(received, sent)
        shards = [self.shard(total, rank) for rank in range(self.count)]
        pairs = zip(
            (each.view(plain.dtype).view_as(filled) for each in received), shards, strict=True
        )
        whole = torch.cat([rows[: shard.stop - shard.start] for rows, shard in pairs])
        return whole.permute(0, 3, 1, 2) if channels_last else whole

    # ── sums and agreement ──

    def sum(self, value: Tensor) -> Tensor:
        """The sum over all processes, in place."""
        if self.count > 1:
            dist.all_reduce(value)
        return value

    def totals(self, numbers: Mapping[str, float], keys: Sequence[str]) -> dict[str, float]:
        """Each of the numbers summed over all processes. By itself a process keeps its own."""
        if self.count == 1:
            return dict(numbers)
        own = torch.tensor([numbers.get(key, 0.0) for key in keys], dtype=torch.float64)
        sums = zip(keys, self.sum(own).tolist(), strict=True)
        return {key: number for key, number in sums if number or key in numbers}

    def all_reduce_min(self, number: int) -> int:
        """The smallest that any process has."""
        if self.count == 1:
            return number
        value = torch.tensor(number)
        dist.all_reduce(value, dist.ReduceOp.MIN)
        return int(value)

    def every(self, yes: bool) -> bool:
        """Whether it is so on every process."""
        return bool(self.all_reduce_min(int(yes)))

    def broadcast(self, tensors: Iterable[Tensor]) -> None:
        """Rank 0's values everywhere, in place."""
        if self.count > 1:
            for tensor in tensors:
                dist.broadcast(tensor, 0)

    def broadcast_object(self, value: T) -> T:
        """Rank 0's object everywhere."""
        if self.count == 1:
            return value
        box = [value if self.is_main else None]
        dist.broadcast_object_list(box, 0)
        return box[0]  # type: ignore[return-value]

    def all_gather_object(self, value: T) -> list[T]:
        """Every process's object, by rank."""
        if self.count == 1:
            return [value]
        objects: list[Any] = [None] * self.count
        dist.all_gather_object(objects, value)
        return objects

    def together(self, work: Callable[[], T]) -> T:
        """`work` on every process: where it fails on one, it fails on all, with that one's words.

        Raises:
            TLError: what `work` raised; the lowest rank's, where it failed on several.
        """
        result, error = None, None
        try:
            result = work()
        except TLError as raised:
            error = raised
        if self.count == 1:
            if error is not None:
                raise error
            return result  # type: ignore[return-value]
        said = self.all_gather_object(None if error is None else (type(error), str(error)))
        failed = [rank for rank, each in enumerate(said) if each is not None]
        if failed:
            kind, words = said[failed[0]]  # type: ignore[misc]
            everywhere = len(failed) == self.count
            raise kind(words if everywhere else f"rank {failed[0]} of {self.count}: {words}")
        return result  # type: ignore[return-value]

    def agree(self, facts: Mapping[str, str]) -> None:
        """Be sure that all processes are about to do the same.

        Raises:
            UsageError: some differ.
        """
        first, *others = self.all_gather_object((dict(facts), platform.node()))
        for rank, (other, machine) in enumerate(others, 1):
            for what, value in first[0].items():
                if other[what] != value:
                    raise UsageError(
                        f"rank {rank} on {machine} has {what} {other[what]}, rank 0 on {first[1]} has {value}: "
                        "give all of them the same job file, data and kind of machine"
                    )

    # ── the network ──

    def wrapped(self, module: nn.Module, unused: bool = False) -> nn.Module:
        """The module as it trains among processes: gradients are averaged over them, rank 0's parameters are everybody's.

        On GPUs batch statistics are taken over all processes (SyncBatchNorm, which has no version for processors); else
        each process takes its own, and running statistics are rank 0's. Modules of dropout and stochastic depth draw on a
        processor as one process with the whole batch would; on GPUs, and in functions, each process draws its own.

        Args:
            module: in the modes for training; it stays as it is, and shares its tensors with what is returned.
            unused: some parameters that train have no part in the result.
        """
        if self.count == 1:
            return module
        twin = _sharing(module)
        for name, part in list(twin.named_modules()):
            if name and part.training and isinstance(part, nn.Dropout | StochasticDepth):
                twin.set_submodule(name, _Drop(part, self))
        own = uses_batch_statistics(twin)
        if own and next(module.parameters()).is_cuda:
            twin, own = nn.SyncBatchNorm.convert_sync_batchnorm(twin), False
        how: dict[str, Any] = {SYNCHRONISED: own, "find_unused_parameters": unused}
        return nn.parallel.DistributedDataParallel(twin, **how)

    def seed(self, seed: int, on_cpu: bool = False) -> None:
        """Begin random numbers anew: torch's, which are each process's own, and those that all draw alike.

        Args:
            on_cpu: only a processor's are drawn. `torch.manual_seed` would begin every other device's too, and keep a stack
                trace for each that is not in use.
        """
        begin = torch.default_generator.manual_seed if on_cpu else torch.manual_seed
        begin(seed + self.rank * APART)
        self.draws.generator.manual_seed(seed)


ALONE = Ranks()


def uses_batch_statistics(module: nn.Module) -> bool:
    """Whether a layer normalises by the batch at hand, so that a result depends on what else is in it."""
    norms = [p for p in module.modules() if isinstance(p, nn.modules.batchnorm._BatchNorm)]
    return any(part.training for part in norms)


class _Drop(nn.Module):
    """Dropout, or stochastic depth, by what is drawn for the whole batch."""

    def __init__(self, of: nn.Dropout | StochasticDepth, ranks: Ranks) -> None:
        super().__init__()
        self.of, self.ranks = of, ranks

    def forward(self, x: Tensor) -> Tensor:
        """What the module makes of `(n, …)`, this process's rows."""
        count, keep = self.ranks.draws.of, 1 - self.of.p
        rows = Ranks.busy(self.ranks.shard(count))
        if x.device.type != "cpu" or len(x) != rows.stop - rows.start or not 0 < keep < 1:
            dropped: Tensor = self.of(x)
            return dropped
        if isinstance(self.of, nn.Dropout):
            shape: tuple[int, ...] = (count, *x.shape[1:])
        else:
            shape = (count if self.of.mode == "row" else 1, *[1] * (x.ndim - 1))
        last = len(shape) == x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last)
        layout = torch.channels_last if last else torch.contiguous_format
        whole = torch.empty(shape, dtype=x.dtype, memory_format=layout)
        drawn = whole.bernoulli_(keep, generator=self.ranks.draws.generator).div_(keep)
        return x * (drawn if len(drawn) == 1 else drawn[rows])


def _sharing(module: nn.Module) -> nn.Module:
    """A copy whose parameters and buffers are the module's own."""
    return copy.deepcopy(module, {id(t): t for t in [*module.parameters(), *module.buffers()]})


# ── joining ───────────────────────────────────────────────────────────────────────────────────────────────────────

_now: Ranks = ALONE
# of torch.distributed: what all processes can read and write, one of them at a time
_store: Any = None


def ranks() -> Ranks:
    """This process among the others, once it has joined them."""
    return _now


def join() -> Ranks:
    """Meet the other processes, where torchrun started several; else stay alone.

    Raises:
        UsageError: more processes on this machine than GPUs.
    """
    global _now, _store
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1 or _now.count > 1:
        return _now
    from torch.distributed.rendezvous import rendezvous

    local = int(os.environ.get("LOCAL_RANK", "0"))
    local_count = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    on_gpu = torch.cuda.is_available()
    store, rank, count = next(rendezvous("env://"))
    _store = dist.PrefixStore(_start(store, rank, count), store)  # type: ignore[attr-defined]
    backend = "cpu:gloo,cuda:nccl" if on_gpu else "gloo"
    dist.init_process_group(backend, store=_store, rank=rank, world_size=count)
    _now = Ranks(rank=rank, count=count, local=local, local_count=local_count)
    if on_gpu:
        gpus = torch.cuda.device_count()
        if local_count > gpus:
            raise UsageError(
                f"{local_count} processes on this machine and {gpus} GPUs: torchrun --nproc-per-node {gpus}"
            )
        torch.cuda.set_device(local)
    return _now


def _start(store: Any, rank: int, count: int) -> str:
    """A name that the processes of this start alone know. torchrun's store outlives its restarts, and where a process that
    was killed listened is still written there."""
    mine = uuid.uuid4().hex
    if rank:
        store.set(f"here/{rank}", mine)
        name: str = store.get(f"start/{mine}").decode()  # waits for it
        store.add(f"heard/{name}", 1)
        return name
    while store.add(f"heard/{mine}", 0) < count - 1:
        for other in range(1, count):
            # perhaps by one that is gone: then its successor writes there yet
            if store.check([f"here/{other}"]):
                store.set(f"start/{store.get(f'here/{other}').decode()}", mine)
        time.sleep(POLL)
    return mine


def leave() -> None:
    """The end of working together."""
    global _now, _store
    if _now.count > 1:
        dist.destroy_process_group()
    _now, _store = ALONE, None


def tell(line: str) -> None:
    """Print an error's line: of several processes that stop for the same reason the first that comes here does, once.

    torchrun may start all of them again only to meet the same error: what was said then is not said again.
    """
    if _now.count == 1:
        print(line, file=sys.stderr, flush=True)
        return
    try:
        if _store.add("told", 1) > 1:
            _store.wait(["said"], PATIENCE)  # leaving now might end the one that is about to speak
            return
        again = _store.underlying_store.add(f"told/{zlib.crc32(line.encode())}", 1) > 1
    # whoever keeps the store is gone, or the one that was to speak
    except (RuntimeError, ValueError):
        again = False
    if not again:
        print(line, file=sys.stderr, flush=True)
    with contextlib.suppress(RuntimeError):
        _store.set("said", "")


def lost(error: BaseException) -> bool:
    """Whether an error says that another process is gone."""
    if _now.count == 1 or not isinstance(error, RuntimeError):
        return False
    return isinstance(error, dist.DistError) or "gloo" in str(error)
