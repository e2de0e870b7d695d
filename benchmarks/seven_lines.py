"""How long the seven lines take, each by itself: `python -m benchmarks.seven_lines`.

Importing torch and torchvision comes first and is not tlnb's; `%load_ext tlnb` is what tlnb adds to it. Run it in a
fresh process each time; the first run after installing reads everything from disk (and compiles it, where Python may not
write `__pycache__`). Python now and then looks through all objects that it has for cycles, which takes long once torch has
made its own; where that happens to fall into a line it is said.
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
    """Seconds that Python has spent looking for cycles since this was made."""

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
        words = f", {looked:.2f} of them looking for cycles" if looked > 0.05 else ""
        print(f"| `{line}` | {took:.2f} s{words} |", flush=True)
    print(
        f"| the seven lines, {torch.get_num_threads()} threads | {time.perf_counter() - whole:.1f} s |"
    )


if __name__ == "__main__":
    main()
