"""The device and the precision that a run uses."""

from __future__ import annotations

import contextlib
import gc
import os
import platform
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from tlnb.core.runtime.errors import MemoryLimit, OneLine, UsageError
from tlnb.core.runtime.limits import free_on_gpu

PRECISIONS = ("auto", "fp32", "bf16", "fp16")


@dataclass(frozen=True, kw_only=True)
class Machine(OneLine):
    """Where a run computes.

    Device (`cpu`, `cuda:0`, `mps`), precision, name of the hardware, number of threads.
    """

    device: str
    precision: str
    name: str
    threads: int

    def __repr__(self) -> str:
        return f"Machine: {self.name}, {self.device}, {self.precision}, {self.threads} threads"

    @property
    def on_cpu(self) -> bool:
        return self.device == "cpu"

    def autocast(self) -> contextlib.AbstractContextManager[object]:
        """Reduced precision for the forward pass, or nothing in fp32."""
        if self.precision == "fp32":
            return contextlib.nullcontext()
        dtype = torch.bfloat16 if self.precision == "bf16" else torch.float16
        return torch.autocast(self.device.split(":")[0], dtype=dtype)

    @property
    def bytes_per_number(self) -> int:
        """Bytes of one activation in this precision."""
        return 4 if self.precision == "fp32" else 2

    def placed(self, tensor: Tensor) -> Tensor:
        """Move a tensor to the device.

        Copies to a GPU go through page-locked memory, so that they are asynchronous.
        """
        if self.device.startswith("cuda") and tensor.device.type == "cpu":
            return tensor.pin_memory().to(self.device, non_blocking=True)
        return tensor.to(self.device)

    @contextlib.contextmanager
    def exact(self) -> Iterator[None]:
        """Make convolutions on NVIDIA GPUs deterministic, and keep TF32 out of fp32.

        Source: torch's notes on reproducibility and on TF32. Where torch has no deterministic
        kernel (the backward passes of max pooling and of bilinear resizing, for example), sums
        still differ in their last digits.
        """
        if not self.device.startswith("cuda"):
            yield
            return
        cudnn = torch.backends.cudnn
        reduced = self.precision != "fp32"
        with cudnn.flags(cudnn.enabled, benchmark=False, deterministic=True, allow_tf32=reduced):
            yield

    def free_bytes(self) -> int | None:
        """Free bytes of the device's own memory; None where it shares the computer's."""
        return free_on_gpu(self.device) if self.device.startswith("cuda") else None

    def fits(self, size: int) -> bool:
        """Whether `size` bytes may stay on the device: at most half of what is free."""
        free = self.free_bytes()
        return free is None or size <= free // 2

    def synchronize(self) -> None:
        """Wait until the device has finished its queue, so that a clock read now is honest."""
        if self.device.startswith("cuda"):
            torch.cuda.synchronize(self.device)
        elif self.device == "mps":
            torch.mps.synchronize()


def out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory ran out, on a GPU or on the host."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text, said = str(error).lower(), ("out of memory", "can't allocate memory", "not enough memory")
    return isinstance(error, RuntimeError) and any(words in text for words in said)


def device_lost(error: BaseException) -> bool:
    """Whether an error means that a GPU was lost or faulted.

    From then on every call to that GPU fails in this process.
    """
    accelerator = getattr(torch, "AcceleratorError", None)  # newer versions of torch have it
    starts = ("CUDA error", "HIP error", "MPS backend", "cuDNN error", "CUDA driver error")
    if out_of_memory(error):
        return False
    is_of_kind = accelerator is not None and isinstance(error, accelerator)
    return is_of_kind or str(error).startswith(starts)


def free_memory() -> None:
    """Release the memory of objects that nothing refers to any more."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def in_chunks(work: Callable[[Tensor], Tensor], rows: Tensor, size: int) -> Tensor:
    """Apply `work` to all rows, `size` at a time; halve `size` when memory runs out.

    Raises:
        MemoryLimit: not even one row fits.
    """
    while True:
        try:
            if size >= len(rows):
                return work(rows)
            return torch.cat([work(part) for part in rows.split(size)])
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
        # outside `except`, because the traceback keeps all tensors of its frames alive
        free_memory()
        if size == 1:
            raise MemoryLimit(
                "not even one image fits in memory: use a smaller --size or a smaller model"
            )
        size = (min(size, len(rows)) + 1) // 2


def machine(device: str | None = None, precision: str = "auto") -> Machine:
    """The machine for a run.

    Raises:
        UsageError: the device is missing, or does not support the precision.
    """
    device = device or _best_device()
    _check_device(device)
    if precision not in PRECISIONS:
        raise UsageError(
            f"precision {precision!r} is not known: use one of {', '.join(PRECISIONS)}"
        )
    if precision == "auto":
        precision = _native_precision(device)
    if precision == "fp16" and device == "cpu":
        raise UsageError("precision fp16 needs a GPU: use --precision fp32 here")
    name, threads = _hardware_name(device), torch.get_num_threads()
    return Machine(device=device, precision=precision, name=name, threads=threads)


def _best_device() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _check_device(device: str) -> None:
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0][:80]
        raise UsageError(f"device {device!r} cannot be used ({reason}): try --device cpu") from None


def _native_precision(device: str) -> str:
    """bf16 where the hardware supports it, fp16 on older NVIDIA GPUs, fp32 elsewhere."""
    if device.startswith("cuda"):
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    has_bf16 = device == "cpu" and {"avx512_bf16", "amx_bf16"} & _cpu_flags()
    return "bf16" if has_bf16 and not _is_limited_to_older_instructions() else "fp32"


def _is_limited_to_older_instructions() -> bool:
    """Whether torch or oneDNN is restricted to instructions without bf16.

    They would then emulate bf16, which is slow.
    Sources: oneDNN's and torch's notes on ONEDNN_MAX_CPU_ISA and ATEN_CPU_CAPABILITY.
    """
    onednn = os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper()
    named = any(kind in onednn for kind in ("BF16", "FP16", "AMX"))
    has_bf16 = named or onednn in ("", "DEFAULT", "ALL")
    return not has_bf16 or os.environ.get("ATEN_CPU_CAPABILITY") in ("default", "avx2")


def _cpuinfo(field: str) -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf8", "replace").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(field)), "")


def _cpu_flags() -> set[str]:
    return set(_cpuinfo("flags").split())


def _hardware_name(device: str) -> str:
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    if device == "mps":
        return f"Apple {platform.machine()} GPU"
    return _cpuinfo("model name") or platform.processor() or platform.machine()
