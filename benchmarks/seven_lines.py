"""Time each of the seven lines: `python -m benchmarks.seven_lines`.

Torch and torchvision are imported first; `%load_ext tlnb` is what tlnb adds to that. Use a new
process each time; the first run after installing reads everything from disk (and compiles it, if
Python may not write `__pycache__`). Python sometimes collects garbage cycles among all objects,
which takes long after importing torch; if that happens during a line, the line says so.
"""

from __future__ import annotations

import gc
import time

LINES = (
    "%load_ext tlnb",
    "%tl_data digits --per-class 2",
    "%tl_load glyphnet",
    "%tl_freeze",
    "%tl_train",
    "%tl_train --scratch",
    "%tl_compare",
)


class Collections:
    """Counts the seconds that Python spends on garbage collection."""

    def __init__(self) -> None:
        self.seconds, self._began = 0.0, 0.0
        gc.callbacks.append(self._heard)

    def _heard(self, phase: str, _: dict[str, int]) -> None:
        if phase == "start":
            self._began = time.perf_counter()
        else:
            self.seconds += time.perf_counter() - self._began


def main() -> None:
    from IPython.core.interactiveshell import InteractiveShell

    shell = InteractiveShell.instance()
    start = time.perf_counter()
    import torch
    import torchvision  # noqa: F401

    print(f"| import torch, torchvision | {time.perf_counter() - start:.2f} s |", flush=True)
    whole, collections = time.perf_counter(), Collections()
    for line in LINES:
        start, before = time.perf_counter(), collections.seconds
        result = shell.run_cell(line + " ;" if line != LINES[0] else line)
        result.raise_error()
        took, looked = time.perf_counter() - start, collections.seconds - before
        words = f", including {looked:.2f} s of garbage collection" if looked > 0.05 else ""
        print(f"| `{line}` | {took:.2f} s{words} |", flush=True)
    print(
        f"| the seven lines, {torch.get_num_threads()} threads | {time.perf_counter() - whole:.1f} s |"
    )


if __name__ == "__main__":
    main()
