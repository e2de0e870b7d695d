"""Execute every lesson as "Run all" does: seconds to its end, and its kernel's peak memory.

    python -m benchmarks.lessons [NUMBER …]

A CUDA build of torch maps libraries that the CPU build installed on Binder does not have. How much
of these files the kernel holds is read twice a second (`/proc/PID/smaps`, Linux); the last column
is the peak memory without them.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import nbformat
from nbclient import NotebookClient

from benchmarks.table import markdown

LESSONS = Path(__file__).parents[1] / "lessons"
# prints kB on Linux
PEAK_MEMORY_CODE = "import resource; print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
CUDA_NAMES = ("nvidia", "cuda", "triton", "cupti", "nccl")  # in the names of libraries
READING_INTERVAL = 0.5  # seconds between two readings


@dataclass
class Memory:
    """Peak memory of a process without CUDA's libraries, measured by a thread."""

    pid: int
    peak: float = 0.0  # MiB

    def __enter__(self) -> Memory:
        self.over = threading.Event()
        self.thread = threading.Thread(target=self.watch, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.thread.join()

    def watch(self) -> None:
        while not self.over.wait(READING_INTERVAL):
            self.peak = max(self.peak, besides_cuda(self.pid))


def besides_cuda(pid: int) -> float:
    """MiB that a process holds now, without CUDA's libraries."""
    held, counts = 0, True
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        first, *others = line.split()
        if not first.endswith(":"):  # a mapping begins: its addresses, and at the end its file
            counts = not any(word in others[-1].lower() for word in CUDA_NAMES)
        elif first == "Rss:" and counts:
            held += int(others[0])
    return held / 1024


def run(path: Path) -> tuple[float, float, float, float]:
    """Execute a lesson.

    Returns:
        Seconds of computing, seconds including the kernel's start, peak memory in MiB, and the same
        without CUDA's libraries.
    """
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder) / "lessons"
        shutil.copytree(LESSONS, work, ignore=shutil.ignore_patterns(".*"))
        os.environ.update(
            TLNB_HOME=f"{folder}/home", TLNB_CACHE=f"{folder}/cache", TLNB_TESTING="1"
        )
        book = nbformat.read(path, as_version=4)
        book.cells.append(nbformat.v4.new_code_cell(PEAK_MEMORY_CODE))
        client = NotebookClient(
            book, timeout=900, kernel_name="python3", resources={"metadata": {"path": str(work)}}
        )
        began = time.perf_counter()
        with client.setup_kernel(), Memory(client.km.provisioner.pid) as memory:  # type: ignore[union-attr]
            ready = time.perf_counter()
            for i, cell in enumerate(book.cells):
                client.execute_cell(cell, i)
            done = time.perf_counter()
        return done - ready, done - began, int(book.cells[-1].outputs[0].text) / 1024, memory.peak


def main() -> None:
    """Print the table for BENCHMARKS.md."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="numbers of lessons; default: all")
    chosen = parser.parse_args()
    rows = []
    for path in sorted(LESSONS.glob("*.ipynb")):
        if not chosen.names or path.name[:2].lstrip("0") in chosen.names:
            computing, whole, peak, besides = run(path)
            rows.append(
                [
                    path.stem,
                    f"{computing:.0f} s",
                    f"{whole:.0f} s",
                    f"{peak:,.0f} MiB",
                    f"{besides:,.0f} MiB",
                ]
            )
            print(*rows[-1], flush=True)
    print(
        markdown(
            [
                "lesson",
                "computing",
                "with the kernel's start",
                "peak memory",
                "besides CUDA's libraries",
            ],
            rows,
        )
    )


if __name__ == "__main__":
    main()
