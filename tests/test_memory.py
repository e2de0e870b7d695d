"""Budgets of memory and disk, and data that is kept in files instead of memory."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlnb.core import memory
from tlnb.core.errors import UsageError
from tlnb.core.memory import cache_folder, disk_budget, memory_budget, parse_bytes


@given(st.integers(0, 10**6), st.sampled_from(["", "k", "M", "g", "T"]), st.sampled_from(["", "b", "B"]))
def test_amounts_are_thousands(number, unit, byte):
    factor = {"": 1, "k": 10**3, "M": 10**6, "g": 10**9, "T": 10**12}[unit]
    assert parse_bytes(f"{number}{unit}{byte}") == parse_bytes(f" {number} {unit}{byte} ") == number * factor


def test_amounts_may_be_fractions_and_powers_of_two():
    assert parse_bytes("1.5GB") == 1_500_000_000
    assert parse_bytes("2GiB") == 2**31
    assert parse_bytes(".5 MiB") == 2**19


@given(st.text(max_size=12))
def test_nonsense_is_one_line_that_names_what_works(text):
    try:
        assert parse_bytes(text) >= 0
    except UsageError as error:
        assert repr(text) in str(error) and "500MB" in str(error) and "\n" not in str(error)


@pytest.mark.parametrize("variable", ["TLNB_MEMORY", "TLNB_DISK"])
def test_a_bad_variable_is_named(variable, monkeypatch):
    monkeypatch.setenv(variable, "much")
    with pytest.raises(UsageError, match=f"{variable}: 'much' is no number of bytes"):
        _ = memory_budget(), disk_budget(Path())


def test_budgets_follow_the_variables_and_else_the_machine(tmp_path, monkeypatch):
    for variable in ("TLNB_MEMORY", "TLNB_DISK"):
        monkeypatch.delenv(variable, raising=False)
    assert 0 < memory_budget() < 2**45
    assert 0 <= disk_budget(tmp_path / "not" / "there") <= memory.DISK_MOST
    assert not list(tmp_path.iterdir())
    monkeypatch.setenv("TLNB_MEMORY", "3MB")
    monkeypatch.setenv("TLNB_DISK", "4GB")
    assert (memory_budget(), disk_budget(tmp_path)) == (3_000_000, 4_000_000_000)


@pytest.mark.skipif(sys.platform != "linux", reason="control groups are Linux's")
def test_a_container_may_use_less_than_the_machine_has(tmp_path, monkeypatch):
    monkeypatch.delenv("TLNB_MEMORY", raising=False)
    monkeypatch.setattr(memory, "CGROUPS", tmp_path)
    (tmp_path / "memory.max").write_text("900000\n")
    (tmp_path / "memory.current").write_text("500000\n")
    (tmp_path / "memory.stat").write_text("anon 300000\ninactive_file 200000\n")
    assert memory_budget() == 200_000
    (tmp_path / "memory.max").write_text("max\n")
    assert memory_budget() > 200_000


def test_the_cache_lies_where_it_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.setenv("TLNB_CACHE", str(tmp_path / "here"))
    assert cache_folder() == tmp_path / "here" and not cache_folder().exists()
    monkeypatch.delenv("TLNB_CACHE")
    assert cache_folder().name == "tlnb" and cache_folder().is_absolute()
