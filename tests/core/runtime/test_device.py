"""Which precision a processor gets."""

from __future__ import annotations

import pytest

from tlnb.core.runtime import device
from tlnb.core.runtime.device import machine


@pytest.fixture(autouse=True)
def modern(monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor that computes bf16, held to nothing."""
    monkeypatch.setattr(device, "_cpu_flags", lambda: {"avx2", "avx512f", "avx512_bf16"})
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    monkeypatch.delenv("ATEN_CPU_CAPABILITY", raising=False)


def test_bf16_where_the_processor_computes_it(monkeypatch: pytest.MonkeyPatch):
    assert machine("cpu").precision == "bf16"
    monkeypatch.setattr(device, "_cpu_flags", lambda: {"avx2", "avx512f"})
    assert machine("cpu").precision == "fp32"


@pytest.mark.parametrize(
    ("name", "value", "precision"),
    [
        ("ONEDNN_MAX_CPU_ISA", "AVX2", "fp32"),
        ("ONEDNN_MAX_CPU_ISA", "avx512_core", "fp32"),
        ("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_BF16", "bf16"),
        ("ONEDNN_MAX_CPU_ISA", "AVX10_1_512_AMX", "bf16"),
        ("ONEDNN_MAX_CPU_ISA", "DEFAULT", "bf16"),
        ("ATEN_CPU_CAPABILITY", "avx2", "fp32"),
        ("ATEN_CPU_CAPABILITY", "default", "fp32"),
        ("ATEN_CPU_CAPABILITY", "avx512", "bf16"),
    ],
)
def test_fp32_where_libraries_are_held_to_an_older_processor(
    name: str, value: str, precision: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv(name, value)
    assert machine("cpu").precision == precision


def test_what_is_asked_for_is_taken(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "avx2")
    assert machine("cpu", "bf16").precision == "bf16"
