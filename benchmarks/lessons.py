"""Every lesson as "Run all" does it: seconds until its last cell, and the most memory its kernel held.

python -m benchmarks.lessons [NAME …] [--threads 2]
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

from benchmarks.table import markdown

LESSONS = Path(__file__).parents[1] / "lessons"
PEAK = "import resource; print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"  # kB on Linux


def run(path: Path) -> tuple[float, float, float]:
    """Seconds of computing, seconds with the kernel's start, peak memory in MB."""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder) / "lessons"
        shutil.copytree(LESSONS, work, ignore=shutil.ignore_patterns(".*"))
        os.environ.update(TLNB_HOME=f"{folder}/home", TLNB_CACHE=f"{folder}/cache", TLNB_TESTING="1")
        book = nbformat.read(path, as_version=4)
        book.cells.append(nbformat.v4.new_code_cell(PEAK))
        client = NotebookClient(book, timeout=900, kernel_name="python3", resources={"metadata": {"path": str(work)}})
        began = time.perf_counter()
        with client.setup_kernel():
            ready = time.perf_counter()
            for i, cell in enumerate(book.cells):
                client.execute_cell(cell, i)
            done = time.perf_counter()
        return done - ready, done - began, int(book.cells[-1].outputs[0].text) / 1024


def main() -> None:
    """The table for BENCHMARKS.md."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="numbers of lessons; default: all")
    chosen = parser.parse_args()
    found = []
    for path in sorted(LESSONS.glob("*.ipynb")):
        if not chosen.names or path.name[:2].lstrip("0") in chosen.names:
            computing, whole, peak = run(path)
            found.append([path.stem, f"{computing:.0f} s", f"{whole:.0f} s", f"{peak:,.0f} MB"])
            print(*found[-1], flush=True)
    print(markdown(["lesson", "computing", "with the kernel's start", "peak memory"], found))


if __name__ == "__main__":
    main()
