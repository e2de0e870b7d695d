"""`%tl_code`: what a script says, and what it leaves out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision import models

from tlnb.core.export.pytorch_script import Script
from tlnb.core.runtime.errors import DataError, UsageError
from tlnb.session import Session


def test_a_data_set_saves_itself_whole_or_not_at_all(session: Session, tmp_path: Path):
    data = session.data("symbols", classes=3, per_class=2)
    held = np.load(data.save(tmp_path / "symbols.npz"))
    assert held["classes"].tolist() == list(data.classes)
    for split in data.splits:
        assert np.array_equal(held[f"{split}_images"], data.images[split].numpy())
        assert np.array_equal(held[f"{split}_labels"], data.labels[split].numpy())
    with pytest.raises(DataError, match="cannot be written"):
        data.save(tmp_path / "missing" / "symbols.npz")
    assert [p.name for p in tmp_path.iterdir()] == ["symbols.npz"]


def test_code_of_the_users_own_in_an_edit_is_asked_for(small: Session):
    class Twice(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * x

    small.add("before:head", "Twice()", {"Twice": Twice})
    text = small.code()
    assert "from your_module import Twice  # CHANGE" in text
    compile(text, "script.py", "exec")


def test_nothing_is_in_it_that_the_plan_does_not_need(small: Session):
    small.train(epochs=1, augment="none", precision="fp32")
    code = small.code().split('"""', 2)[2]
    for word in (
        "augment",
        "autocast",
        "class_weights",
        "copy",
        "warmup",
        "set_modes",
        '"val"',
        "hold_out",
        "dropout",
        "tlnb",
    ):
        assert word not in code, word
    assert len(code.splitlines()) <= 185  # the embedded network's class takes 50 of these


def test_the_header_says_which_run_and_what_it_reached(small: Session):
    run = small.train(epochs=1)
    small.train(scratch=True, epochs=1)
    first = small.code().split('"""')[1]
    assert (
        f'run "{run.name}"' in first
        and f"{run.accuracy:.1%} of 700 test images" in first
        and "measured" in first
    )
    assert 'run "scratch"' in small.code("scratch").split('"""')[1]
    with pytest.raises(UsageError, match="no run is called 'hed'"):
        small.code("hed")


def test_a_plan_without_a_run(session: Session):
    with pytest.raises(UsageError, match="no data yet"):
        session.code()
    session.data("digits", per_class=2)
    session.load("glyphnet")
    text = session.code()
    assert (
        "no run has measured it yet" in text
        and "EPOCHS, BATCH_SIZE, WEIGHT_DECAY = 100, 64, 0.05" in text
    )


def test_weights_from_a_file_and_reduced_precision(small: Session, tmp_path: Path):
    file = tmp_path / "own weights.pt"
    torch.save(small.model.module.state_dict(), file)
    small.load("glyphnet", str(file))
    assert f'torch.load("{file}", map_location="cpu", weights_only=True)' in small.code()
    small.strategy("output-frozen")
    run = small.train(epochs=1, precision="bf16")
    assert "torch.autocast(DEVICE.type, dtype=torch.bfloat16)" in small.code(run)


def test_the_magic_shows_it_readable(shell):
    tl = shell.user_ns["tl"]
    shell.run_cell("%tl_data digits --per-class 1\n%tl_load glyphnet").raise_error()
    value = shell.run_cell("%tl_code").result
    assert value == tl.code() and isinstance(value, str) and "\n" not in repr(value)
    shown, _ = shell.display_formatter.format(value)
    assert shown["text/plain"] == str(value)
    assert (
        "<pre" in shown["text/html"]
        and "Data = dict[str, tuple[Tensor, Tensor]]" in shown["text/html"]
    )
    hostile, _ = shell.display_formatter.format(Script("<script>alert(1)</script>"))
    assert "<script" not in hostile["text/html"]
    script = shell.run_cell("%tl_script").result
    assert script == "%load_ext tlnb\n%tl_data digits --per-class 1\n%tl_load glyphnet"
    assert "%tl_load glyphnet" in shell.display_formatter.format(script)[0]["text/html"]


def test_a_frozen_blocks_dropout_is_not_set_to_training(session: Session):
    session.data("digits", per_class=1)
    session.load(models.VisionTransformer(32, 8, 4, 2, 16, 32, dropout=0.1), size=32)
    session.strategy("partial", last=2)
    text = session.code()
    assert '"encoder.layers.encoder_layer_3": 0.001' in text and "encoder_layer_2" not in text
