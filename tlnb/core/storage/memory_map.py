"""Tensors backed by a memory-mapped file, and reading them in batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from weakref import WeakValueDictionary

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

# start address of a tensor's storage → the mapped file behind it
_mapped: WeakValueDictionary[int, np.memmap] = WeakValueDictionary()


def map_file(path: Path) -> Tensor:
    """Map the array in a `.npy` file as a tensor.

    The system reads its pages on first use, and drops them when memory is short.

    Raises:
        OSError, ValueError: the file is missing, or does not hold an array of the stated length.
    """
    array = _open(path)
    tensor = torch.from_numpy(array)
    _mapped[tensor.untyped_storage().data_ptr()] = array  # lives as long as the tensor
    return tensor


def is_mapped(tensor: Tensor) -> bool:
    """Whether a tensor, or the tensor it is a view of, came from `map_file`."""
    return tensor.device.type == "cpu" and tensor.untyped_storage().data_ptr() in _mapped


def as_one(parts: Sequence[Tensor]) -> Tensor | None:
    """The rows of tensors that follow each other in one storage, as one view; else None."""
    first, end = parts[0], parts[0].storage_offset()
    for part in parts:
        same = part.untyped_storage().data_ptr() == first.untyped_storage().data_ptr()
        if not (same and part.is_contiguous() and part.storage_offset() == end):
            return None
        end += part.numel()
    return first.as_strided((sum(map(len, parts)), *first.shape[1:]), first.stride())


def batches(
    images: Tensor, labels: Tensor, order: list[Tensor], pin: bool
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield a batch of images and labels for each tensor of rows `(n,)` in `order`.

    Only one batch is in memory at a time.

    Args:
        images: `(N, ...)`, in a file or in memory; on the CPU, as are `labels` `(N, ...)` and rows.
        pin: put batches into page-locked memory, for asynchronous copies to a GPU.
    """
    loader = DataLoader(
        _Rows(images, labels),
        batch_size=None,
        sampler=order,
        collate_fn=tuple,
        pin_memory=pin,
        generator=torch.Generator(),  # else it draws from the global generator
    )
    yield from loader


class _Rows(Dataset[tuple[Tensor, Tensor]]):
    """A data set whose items are whole batches."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images, self.labels = images, labels

    def __getitem__(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        places = rows.argsort()  # disks read faster in ascending order
        read = self.images.new_empty((len(rows), *self.images.shape[1:]))
        read[places] = self.images[rows[places]]
        return read, self.labels[rows]


def _open(path: Path) -> np.memmap:
    """Map copy-on-write, so that changes stay in memory; read-write if the system refuses.

    Copy-on-write reserves memory for the whole file, so that a file larger than memory and swap
    may be refused.
    """
    try:
        return np.lib.format.open_memmap(path, mode="c")
    except OSError:
        return np.lib.format.open_memmap(path, mode="r+")
