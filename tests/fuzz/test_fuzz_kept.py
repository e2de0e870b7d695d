"""What is kept on disk: arrays and checkpoints."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.cases import damaged, fuzz, one_line_or
from tlnb.core.storage import checked_arrays
from tlnb.core.training.checkpoint import read
from tlnb.session import Session


@fuzz
@given(data=st.data())
def test_kept_arrays_are_never_read_when_damaged(place: Path, data: st.DataObject):
    file, array = place / "kept.npy", np.arange(60, dtype=np.float32).reshape(5, 12)
    checked_arrays.write(file, array.shape, array.dtype, [array[:2], array[2:]], lambda: {"a": 1})
    whole = file.read_bytes()
    assert checked_arrays.read(file) == {"a": 1}
    file.write_bytes(damaged(data.draw, whole))
    changed = file.read_bytes() != whole
    found = checked_arrays.read(file)
    assert (found is None) == changed and file.exists() != changed


@fuzz
@given(data=st.data())
def test_checkpoints_are_never_read_when_damaged(
    trained: Session, place: Path, data: st.DataObject
):
    whole = trained.store.folder.run_file("head").read_bytes()
    file = place / "run.safetensors"
    file.write_bytes(damaged(data.draw, whole))
    if file.read_bytes() != whole:
        sound = one_line_or(lambda: read(file))
        if sound is not None:  # what was changed carries nothing: white space in the header
            about, found = read(trained.store.folder.run_file("head"))
            assert sound[0] == about and sound[1] == found
            assert all(torch.equal(sound[1].tensors[k], t) for k, t in found.tensors.items())
