"""Budgets of memory and disk, and data that is kept in files instead of memory."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import picture
from tlnb.core.data import decoding
from tlnb.core.data.dataset import DataSet, open_data
from tlnb.core.data.request import DataRequest
from tlnb.core.runtime import limits as memory
from tlnb.core.runtime.errors import DataError, UsageError
from tlnb.core.runtime.limits import cache_folder, disk_budget, memory_budget, parse_bytes
from tlnb.core.storage import checked_arrays
from tlnb.core.storage.memory_map import batches, is_mapped


@given(
    st.integers(0, 10**6),
    st.sampled_from(["", "k", "M", "g", "T"]),
    st.sampled_from(["", "b", "B"]),
)
def test_amounts_are_thousands(number, unit, byte):
    factor = {"": 1, "k": 10**3, "M": 10**6, "g": 10**9, "T": 10**12}[unit]
    assert (
        parse_bytes(f"{number}{unit}{byte}")
        == parse_bytes(f" {number} {unit}{byte} ")
        == number * factor
    )


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
    with pytest.raises(UsageError, match=f"{variable}: 'much' is not an amount of bytes"):
        _ = memory_budget(), disk_budget(Path())


def test_budgets_follow_the_variables_and_else_the_machine(tmp_path, monkeypatch):
    for variable in ("TLNB_MEMORY", "TLNB_DISK"):
        monkeypatch.delenv(variable, raising=False)
    assert 0 < memory_budget() < 2**45
    assert 0 <= disk_budget(tmp_path / "not" / "there") <= memory.MAX_DISK_BYTES
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


def v1_group(folder: Path, limit: int, used: int, spare: int = 0) -> None:
    """The files of a group as version 1 has them."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.limit_in_bytes").write_text(f"{limit}\n")
    (folder / "memory.usage_in_bytes").write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"inactive_file 7\ntotal_inactive_file {spare}\n")


NO_LIMIT = 9223372036854771712  # as version 1 writes it
OTHERS = "12:pids:/elsewhere\n9:name=memory:/elsewhere\n8:cpu,cpuacct:/memory\n"


@pytest.mark.skipif(sys.platform != "linux", reason="control groups are Linux's")
@pytest.mark.parametrize("controllers", ["memory", "cpuset,memory", "memory,hugetlb"])
@pytest.mark.parametrize(
    ("limits", "left"),
    [
        ({"": NO_LIMIT, "jobs": NO_LIMIT, "jobs/17": 900_000}, 600_000),
        ({"": NO_LIMIT, "jobs": 720_000, "jobs/17": 900_000}, 420_000),
        ({"": 600_000, "jobs": NO_LIMIT, "jobs/17": NO_LIMIT}, 300_000),
        (
            {
                "": NO_LIMIT,
                "jobs": NO_LIMIT,
                "jobs/17": NO_LIMIT,
                "elsewhere": 400_000,
                "jobs/18": 400_000,
            },
            None,
        ),
        (
            {"": 900_000},
            600_000,
        ),  # a container that sees its own group as the top, and its path from outside
    ],
)
def test_groups_of_the_first_version_lie_in_one_another(
    tmp_path, monkeypatch, controllers, limits, left
):
    monkeypatch.delenv("TLNB_MEMORY", raising=False)
    monkeypatch.setattr(memory, "CGROUPS", tmp_path)
    monkeypatch.setattr(memory, "OWN_GROUPS", tmp_path / "own")
    (tmp_path / "own").write_text(f"{OTHERS}4:{controllers}:/jobs/17\n0::/\n")
    for name, limit in limits.items():
        v1_group(tmp_path / "memory" / name, limit, used=500_000, spare=200_000)
    assert memory_budget() == left // 3 if left else memory_budget() > 900_000


@pytest.mark.skipif(sys.platform != "linux", reason="control groups are Linux's")
def test_groups_of_the_second_version_lie_in_one_another(tmp_path, monkeypatch):
    monkeypatch.delenv("TLNB_MEMORY", raising=False)
    monkeypatch.setattr(memory, "CGROUPS", tmp_path)
    monkeypatch.setattr(memory, "OWN_GROUPS", tmp_path / "own")
    (tmp_path / "own").write_text("0::/jobs/17\n")
    (tmp_path / "jobs" / "17").mkdir(parents=True)
    for name, limit in (("jobs", "900000"), ("jobs/17", "max")):
        (tmp_path / name / "memory.max").write_text(f"{limit}\n")
        (tmp_path / name / "memory.current").write_text("300000\n")
    assert memory_budget() == 200_000


LIMIT = 2**30


@pytest.fixture
def limited() -> Iterator[Path]:
    """A real group within one that has a limit; both are gone afterwards."""
    old = memory.CGROUPS / "memory"
    outer = (old if old.is_dir() else memory.CGROUPS) / f"tlnb-test-{os.getpid()}"
    try:
        (outer / "inner").mkdir(parents=True)
        (outer / ("memory.limit_in_bytes" if old.is_dir() else "memory.max")).write_text(
            f"{LIMIT}\n"
        )
    except OSError as error:
        _removed(outer)
        pytest.skip(f"no group with a limit can be made here: {error}")
    try:
        yield outer / "inner"
    finally:
        _removed(outer)
        assert not outer.exists()


def _removed(outer: Path) -> None:
    for folder in (outer / "inner", outer):
        for _ in range(50):  # the system takes a moment to see that a process has ended
            with suppress(OSError):
                folder.rmdir()
            if not folder.exists():
                break
            time.sleep(0.1)


@pytest.mark.skipif(sys.platform != "linux", reason="control groups are Linux's")
def test_a_real_limit_is_seen(limited: Path):
    code = """
import os, sys
from pathlib import Path
try:
    Path(sys.argv[1]).write_text(str(os.getpid()))
except OSError as error:
    sys.exit(f"not moved: {error}")
from tlnb.core.runtime import limits
limits._free_in_system = lambda: 2**50  # so that only groups set a limit
print(limits.memory_budget())
"""
    own = {k: v for k, v in os.environ.items() if k != "TLNB_MEMORY"} | {
        "PYTHONPATH": str(Path(__file__).parents[3])
    }
    done = subprocess.run(
        [sys.executable, "-c", code, str(limited / "cgroup.procs")],
        env=own,
        capture_output=True,
        text=True,
        timeout=120,
    )
    if done.stderr.startswith("not moved"):
        pytest.skip(f"no process can be put into a group here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    assert 0 < int(done.stdout) < LIMIT // 3  # what torch takes is used already


def test_the_cache_lies_where_it_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.setenv("TLNB_CACHE", str(tmp_path / "here"))
    assert cache_folder() == tmp_path / "here" and not cache_folder().exists()
    monkeypatch.delenv("TLNB_CACHE")
    assert cache_folder().name == "tlnb" and cache_folder().is_absolute()


# ── data in files ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def little_memory(tmp_path, monkeypatch) -> Path:
    """Too little memory for any photos; the cache's folder."""
    monkeypatch.setenv("TLNB_MEMORY", "1kB")
    monkeypatch.setenv("TLNB_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("TLNB_DISK", raising=False)
    return tmp_path / "cache" / "images"


def opened(folder: Path, **amounts: object) -> DataSet:
    return open_data(folder, request=DataRequest(source=str(folder), **amounts), edge=32)


def all_mapped(data: DataSet) -> bool:
    return all(is_mapped(images) for images in data.images.values())


def no_decoding(monkeypatch) -> None:
    monkeypatch.setattr(decoding, "decode", lambda *_: pytest.fail("decoded again"))


def same(one: DataSet, two: DataSet) -> bool:
    return (
        one.skipped == two.skipped
        and one.splits == two.splits
        and all(
            torch.equal(one.images[s], two.images[s]) and torch.equal(one.labels[s], two.labels[s])
            for s in one.splits
        )
    )


@pytest.mark.parametrize("dirty", [True, False])
@pytest.mark.parametrize("amounts", [{}, {"per_class": 3, "seed": 5}, {"val": 0.3}])
def test_data_in_a_file_are_the_same_data(folder, little_memory, monkeypatch, amounts, dirty):
    if not dirty:
        (folder / "dark" / "broken.jpg").unlink()
    data = opened(folder, **amounts)
    monkeypatch.setenv("TLNB_MEMORY", "1GB")
    held = opened(folder, **amounts)
    assert same(data, held) and data.fingerprint == held.fingerprint
    assert all_mapped(data) and not any(map(is_mapped, held.images.values()))
    assert all(images.is_contiguous() for images in data.images.values())
    assert not list(little_memory.glob("*.part"))


def test_splits_that_the_folder_brings(tmp_path, little_memory, monkeypatch):
    for split, count in (("train", 4), ("val", 3), ("test", 2)):
        for i in range(count):
            picture(tmp_path / "photos" / split / "a" / f"{i}.png", 50 + i)
            picture(tmp_path / "photos" / split / "b" / f"{i}.png", 200 + i)
    (tmp_path / "photos" / "val" / "a" / "1.png").write_bytes(b"no picture")
    data = opened(tmp_path / "photos")
    assert data.splits == {"train": 8, "val": 5, "test": 4} and all_mapped(data)
    assert data.folders == (("train", "train"), ("val", "val"), ("test", "test"))
    monkeypatch.setenv("TLNB_MEMORY", "1GB")
    assert same(data, opened(tmp_path / "photos"))


def test_the_same_files_are_decoded_once(folder, little_memory, monkeypatch):
    first = opened(folder)
    no_decoding(monkeypatch)
    assert same(first, opened(folder))
    other = opened(folder, seed=1)  # another choice of the same images
    assert all_mapped(other) and other.fingerprint != first.fingerprint
    assert same(other, opened(folder, seed=1)) and same(first, opened(folder))


def test_what_is_used_is_held_in_memory_where_that_fits(folder, little_memory, monkeypatch):
    whole = opened(folder, per_class=2)
    monkeypatch.setenv(
        "TLNB_MEMORY", str(9 * 3 * 32**2)
    )  # four images to train with and four to test fit, all do not
    few = opened(folder, per_class=2)
    assert same(whole, few) and not any(map(is_mapped, few.images.values()))


def test_changed_files_are_decoded_again(folder, little_memory):
    before = opened(folder)
    picture(folder / "bright" / "0.png", 90)
    assert opened(folder).fingerprint != before.fingerprint


@pytest.mark.parametrize("damage", ["pixels", "end", "cut", "empty"])
def test_a_damaged_file_is_not_taken_for_good(folder, little_memory, damage):
    before = opened(folder)
    expected = before.fingerprint
    del before  # Windows replaces no file that is in use
    for file in little_memory.glob("*.npy"):
        good = bytearray(file.read_bytes())
        good[{"pixels": 5000, "end": -20}.get(damage, 0)] ^= 1
        file.write_bytes({"cut": good[:9000], "empty": b""}.get(damage, good))
    assert opened(folder).fingerprint == expected


def test_changes_to_a_tensor_do_not_reach_the_file(folder, little_memory):
    opened(folder).images["train"].zero_()
    assert opened(folder).images["train"].any()


@pytest.mark.parametrize(
    ("number", "words"),
    [(errno.ENOSPC, "no room for 0.00 GB.*TLNB_CACHE"), (errno.EACCES, "cannot be written")],
)
def test_a_full_disk_is_one_line_and_leaves_nothing_half_written(
    folder, little_memory, monkeypatch, number, words
):
    written: list[int] = []

    def full(out, data):
        written.append(out.write(data))
        if len(written) > 5:
            raise OSError(number, os.strerror(number))

    monkeypatch.setattr(checked_arrays, "_append", full)
    with pytest.raises(DataError, match=words) as error:
        opened(folder)
    assert "\n" not in str(error.value) and len(written) == 6
    assert not list(little_memory.iterdir())


def test_more_than_the_disk_budget_is_refused_before_decoding(folder, little_memory, monkeypatch):
    monkeypatch.setenv("TLNB_DISK", "2kB")
    no_decoding(monkeypatch)
    with pytest.raises(DataError, match="TLNB_DISK=1GB"):
        opened(folder)


def test_the_least_recently_used_files_go(folder, little_memory, monkeypatch):
    (folder / "dark" / "broken.jpg").unlink()  # so that each opening makes one file
    sizes = (24, 32, 40)
    for edge in sizes:
        open_data(folder, edge=edge)
        for file in little_memory.glob("*.npy"):
            os.utime(file, (file.stat().st_atime, file.stat().st_mtime - 60))
    used = sum(f.stat().st_size for f in little_memory.glob("*.npy"))
    open_data(folder, edge=sizes[0])  # the oldest is now the last used
    monkeypatch.setenv("TLNB_DISK", str(used))
    open_data(folder, edge=25)
    no_decoding(monkeypatch)
    open_data(folder, edge=sizes[0])
    with pytest.raises(pytest.fail.Exception):
        open_data(folder, edge=sizes[1])


def test_all_unreadable_is_one_line(tmp_path, little_memory):
    for name in ("a", "b"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(3):
            (tmp_path / "photos" / name / f"{i}.jpg").write_bytes(b"nothing")
    with pytest.raises(DataError, match="none of the 6 images could be read"):
        opened(tmp_path / "photos")


# ── reading in batches ────────────────────────────────────────────────────────────────────────────────────────────


def test_batches_come_in_the_order_asked_for(folder, little_memory):
    data = opened(folder)
    images, labels = data.images["train"], data.labels["train"]
    order = list(torch.randperm(len(labels)).split(5))
    state = torch.get_rng_state()
    found = list(batches(images, labels, order, pin=False))
    assert torch.equal(
        torch.get_rng_state(), state
    )  # what is drawn afterwards does not depend on where images lie
    assert [len(known) for _, known in found] == [len(rows) for rows in order]
    assert torch.equal(torch.cat([read for read, _ in found]), images[torch.cat(order)])
    assert torch.equal(torch.cat([known for _, known in found]), labels[torch.cat(order)])


def test_only_tensors_over_a_file_are_mapped(folder, little_memory):
    images = opened(folder).images["train"]
    assert (
        is_mapped(images[2:5])
        and is_mapped(images.float()) is False
        and not is_mapped(images[[0, 1]])
    )
    assert not is_mapped(torch.zeros(3)) and not is_mapped(torch.zeros(0))
    assert not is_mapped(torch.zeros(3, device="meta"))
