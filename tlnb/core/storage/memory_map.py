"""Tensors that lie in a file instead of memory, and reading them in batches."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from weakref import WeakValueDictionary

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

_mapped: WeakValueDictionary[int, np.memmap] = (
    WeakValueDictionary()
)  # where a storage begins → the file under it


def map_file(path: Path) -> Tensor:
    """The array in a `.npy` file as a tensor that the system reads when it is used, and drops when memory is short.

    Raises:
        OSError, ValueError: no such file, or not an array of the length it says.
    """
    array = _open(path)
    tensor = torch.from_numpy(array)
    _mapped[tensor.untyped_storage().data_ptr()] = (
        array  # the tensor keeps it alive, and it goes with the tensor
    )
    return tensor


def is_mapped(tensor: Tensor) -> bool:
    """Whether a tensor, or what it is a view of, came from `map_file`."""
    return tensor.device.type == "cpu" and tensor.untyped_storage().data_ptr() in _mapped


def batches(
    images: Tensor, labels: Tensor, order: list[Tensor], pin: bool
) -> Iterator[tuple[Tensor, Tensor]]:
    """Images and labels for each of the given row tensors `(n,)`, one batch in memory at a time.

    Args:
        images: `(N, ...)`, in a file or in memory; on the CPU, as `labels` `(N, ...)` and the rows.
        pin: put batches into page-locked memory, from which copies to a GPU need not wait.
    """
    loader = DataLoader(
        _Rows(images, labels),
        batch_size=None,
        sampler=order,
        collate_fn=tuple,
        pin_memory=pin,
        generator=torch.Generator(),  # else it would draw from the global one, and change what comes after
    )
    yield from loader


class _Rows(Dataset[tuple[Tensor, Tensor]]):
    """A data set whose items are whole batches."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images, self.labels = images, labels

    def __getitem__(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        places = rows.argsort()  # a disk reads forwards faster
        read = self.images.new_empty((len(rows), *self.images.shape[1:]))
        read[places] = self.images[rows[places]]
        return read, self.labels[rows]


def _open(path: Path) -> np.memmap:
    """Changes made to the tensor stay in memory, unless the system has too little to promise that."""
    try:
        return np.lib.format.open_memmap(path, mode="c")
    except (
        OSError
    ):  # the promise covers the whole file: one larger than memory and swap may be refused it
        return np.lib.format.open_memmap(path, mode="r+")
