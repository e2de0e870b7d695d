"""Which device and which precision a run uses."""

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


@dataclass(frozen=True)
class Machine(OneLine):
    """Where a run computes: device (`cpu`, `cuda:0`, `mps`), precision, the hardware's name, threads in use."""

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
        """Of activations in this precision."""
        return 4 if self.precision == "fp32" else 2

    def placed(self, tensor: Tensor) -> Tensor:
        """The tensor on the device. On the way to a GPU it goes through page-locked memory, so that nobody waits for it."""
        if self.device.startswith("cuda") and tensor.device.type == "cpu":
            return tensor.pin_memory().to(self.device, non_blocking=True)
        return tensor.to(self.device)

    @contextlib.contextmanager
    def exact(self) -> Iterator[None]:
        """On NVIDIA GPUs: convolutions that give the same every time, and that in fp32 do not round what they multiply.

        Source: torch's notes on reproducibility and on TF32. Where torch has no such kernel (the backward pass of max
        pooling and of bilinear resizing, say) sums still differ in their last digits.
        """
        if not self.device.startswith("cuda"):
            yield
            return
        cudnn = torch.backends.cudnn
        with cudnn.flags(
            cudnn.enabled, benchmark=False, deterministic=True, allow_tf32=self.precision != "fp32"
        ):
            yield

    def free_bytes(self) -> int | None:
        """Free memory of the device; None where it is the computer's own."""
        return free_on_gpu(self.device) if self.device.startswith("cuda") else None

    def fits(self, size: int) -> bool:
        """Whether so many bytes may lie on the device all the time: up to half of what is free."""
        free = self.free_bytes()
        return free is None or size <= free // 2

    def synchronize(self) -> None:
        """Wait until the device has done what it was given, so that a clock read now is honest."""
        if self.device.startswith("cuda"):
            torch.cuda.synchronize(self.device)
        elif self.device == "mps":
            torch.mps.synchronize()


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on a GPU or in the computer itself."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(
        w in text for w in ("out of memory", "can't allocate memory", "not enough memory")
    )


def device_lost(error: BaseException) -> bool:
    """Whether an error says that a GPU fell away or faulted: from then on every call to it fails in this process."""
    accelerator = getattr(
        torch, "AcceleratorError", None
    )  # newer versions of torch have a type for it
    said = str(error).startswith(
        ("CUDA error", "HIP error", "MPS backend", "cuDNN error", "CUDA driver error")
    )
    return not out_of_memory(error) and (
        said or (accelerator is not None and isinstance(error, accelerator))
    )


def free_memory() -> None:
    """Give back what is no longer referred to."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def in_chunks(work: Callable[[Tensor], Tensor], rows: Tensor, size: int) -> Tensor:
    """`work` on all rows, `size` at a time; where memory runs out, on half as many.

    Raises:
        MemoryLimit: not even one row fits.
    """
    while True:
        try:
            return (
                torch.cat([work(part) for part in rows.split(size)])
                if size < len(rows)
                else work(rows)
            )
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
        # outside of `except`: the traceback, and all tensors that its frames hold, are gone here
        free_memory()
        if size == 1:
            raise MemoryLimit(
                "not even one image fits in memory: a smaller --size, or a smaller model"
            )
        size = (min(size, len(rows)) + 1) // 2


def machine(device: str | None = None, precision: str = "auto") -> Machine:
    """The machine for a run.

    Raises:
        UsageError: a device that is not there, or a precision that it does not have.
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
    return Machine(device, precision, _hardware_name(device), torch.get_num_threads())


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
    """bf16 where the hardware computes it, fp16 on older NVIDIA GPUs, fp32 elsewhere."""
    if device.startswith("cuda"):
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    if (
        device == "cpu"
        and {"avx512_bf16", "amx_bf16"} & _cpu_flags()
        and not _held_to_older_instructions()
    ):
        return "bf16"
    return "fp32"


def _held_to_older_instructions() -> bool:
    """Whether torch or oneDNN were told to imitate a processor without bf16, which they would then emulate slowly.

    Sources: oneDNN's and torch's notes on ONEDNN_MAX_CPU_ISA and ATEN_CPU_CAPABILITY.
    """
    onednn = os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper()
    has_bf16 = onednn in ("", "DEFAULT", "ALL") or any(
        kind in onednn for kind in ("BF16", "FP16", "AMX")
    )
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
