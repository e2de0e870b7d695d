"""Simulate a class: many kernels on one machine run lesson 1's seven lines at the same time.

    python -m benchmarks.classroom [--kernels 30] [--epochs 5] [--memory 100kB]

They share one cache folder. What must hold: every line succeeds in every kernel, all kernels get
the same result, and the files they leave in the shared folder are intact. Memory is measured for
each kernel's process at its end: PSS divides a shared page equally among the kernels, USS counts
only private pages (Linux). `--memory` is each kernel's budget for activations: a small one sends
them to the shared folder, as large networks do.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jupyter_client.manager import KernelManager

from tlnb.core.storage import checked_arrays

LINES = """
%load_ext tlnb
%tl_data digits --per-class 2
%tl_load glyphnet
%tl_freeze
%tl_train --epochs {epochs}
%tl_train --scratch --epochs {epochs}
%tl_compare
"""
RESULT = """import json, os
print(json.dumps([os.getpid(), [[r.name, r.status, r.accuracy] for r in tl.runs], tl.runs[0].cache is not None]))
"""
LINE_TIMEOUT = 900  # timeout of a line in seconds: thirty kernels share the processor


@dataclass(frozen=True)
class Seat:
    """The result of one kernel."""

    failed: str  # the first line that failed and how; empty if none did
    runs: tuple[tuple[str, str, float], ...] = ()  # name, status, test accuracy
    cached: bool = False
    rss: int = 0  # bytes
    pss: int = 0
    uss: int = 0
    seconds: float = 0.0  # for the seven lines


@dataclass(frozen=True)
class Class:
    """The results of all kernels."""

    seats: tuple[Seat, ...]
    files: int  # in the shared folder
    damaged: int
    leftovers: int

    @property
    def failed(self) -> list[str]:
        """The failures of kernels."""
        return [seat.failed for seat in self.seats if seat.failed]

    def __repr__(self) -> str:
        results = {seat.runs for seat in self.seats}
        memory = ", ".join(
            f"{name} {_middle([getattr(s, name.lower()) for s in self.seats])}"
            for name in ("PSS", "USS", "RSS")
        )
        seconds = statistics.median(seat.seconds for seat in self.seats)
        return (
            f"{len(self.seats)} kernels, {len(self.failed)} failed, {len(results)} different results; "
            f"{self.files} shared files, {self.damaged} damaged, {self.leftovers} unfinished; "
            f"memory per kernel, median (min to max): {memory}; the seven lines took {seconds:.0f} s (median)"
        )


def _middle(values: list[int]) -> str:
    return f"{statistics.median(values) / 1e6:.0f} MB ({min(values) / 1e6:.0f} to {max(values) / 1e6:.0f})"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kernels", type=int, default=30)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--memory", default="100kB")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tlnb-class-") as top:
        result = class_of(Path(top), chosen.kernels, chosen.epochs, chosen.memory)
    print(*result.failed, repr(result), sep="\n")


def class_of(top: Path, kernels: int, epochs: int = 5, memory: str = "100kB") -> Class:
    """Start the kernels, run the lines in all of them at once, and check what they leave."""
    cache = top / "cache"
    settings = {
        **os.environ,
        "TLNB_CACHE": str(cache),
        "TLNB_MEMORY": memory,
        "TLNB_TESTING": "1",
        "OMP_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "passive",
    }
    settings.pop("TLNB_HOME", None)
    folders = [top / f"seat{i}" for i in range(kernels)]
    managers = []
    for folder in folders:
        folder.mkdir()
        manager = KernelManager(kernel_name="python3")
        manager.start_kernel(cwd=str(folder), env=settings)
        managers.append(manager)
    try:
        with ThreadPoolExecutor(kernels) as pool:
            seats = tuple(pool.map(lambda m: seat_of(m, epochs), managers))
    finally:
        for manager in managers:
            manager.shutdown_kernel(now=True)
    files = sorted(cache.rglob("*.npy"))
    leftovers = [p for p in cache.rglob("*") if p.name.endswith(".part")]
    return Class(
        seats, len(files), sum(checked_arrays.read(file) is None for file in files), len(leftovers)
    )


def seat_of(manager: Any, epochs: int) -> Seat:
    """Run the lines in one kernel, one after the other."""
    client = manager.blocking_client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=LINE_TIMEOUT)
        began = time.perf_counter()
        for line in LINES.format(epochs=epochs).strip().splitlines():
            failed, _ = executed(client, line)
            if failed:
                return Seat(f"{line}: {failed}")
        seconds = time.perf_counter() - began
        _, said = executed(client, RESULT)
        pid, runs, cached = json.loads(said)
        return Seat("", tuple(map(tuple, runs)), cached, *memory_of(pid), seconds)
    finally:
        client.stop_channels()


def executed(client: Any, code: str) -> tuple[str, str]:
    """Run a cell: how it failed, or an empty string, and what it printed."""
    said: list[str] = []

    def hook(message: dict[str, Any]) -> None:
        if message["msg_type"] == "stream" and message["content"]["name"] == "stdout":
            said.append(message["content"]["text"])

    reply = client.execute_interactive(code, output_hook=hook, timeout=LINE_TIMEOUT)["content"]
    return (
        "" if reply["status"] == "ok" else f"{reply.get('ename')}: {reply.get('evalue')}"
    ), "".join(said)


def memory_of(pid: int) -> tuple[int, int, int]:
    """RSS, PSS and USS of a process in bytes; zeros if the system does not tell."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0, 0, 0
    kilobytes_by_name = {
        name: int(kilobytes) * 1024
        for name, kilobytes in re.findall(r"^(\w+):\s+(\d+) kB", text, re.MULTILINE)
    }
    return (
        kilobytes_by_name["Rss"],
        kilobytes_by_name["Pss"],
        kilobytes_by_name["Private_Clean"] + kilobytes_by_name["Private_Dirty"],
    )


if __name__ == "__main__":
    main()
