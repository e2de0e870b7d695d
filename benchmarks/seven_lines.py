"""How long the seven lines take, each by itself: `python -m benchmarks.seven_lines`.

Importing torch and torchvision comes first and is not tlnb's; `%load_ext tlnb` is what tlnb adds to it. Run it in a
fresh process each time; the first run after installing reads everything from disk.
"""

from __future__ import annotations

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


def main() -> None:
    from IPython.core.interactiveshell import InteractiveShell

    shell = InteractiveShell.instance()
    start = time.perf_counter()
    import torch
    import torchvision  # noqa: F401

    print(f"| import torch, torchvision | {time.perf_counter() - start:.2f} s |", flush=True)
    whole = time.perf_counter()
    for line in LINES:
        start = time.perf_counter()
        result = shell.run_cell(line + " ;" if line != LINES[0] else line)
        result.raise_error()
        print(f"| `{line}` | {time.perf_counter() - start:.2f} s |", flush=True)
    print(f"| the seven lines, {torch.get_num_threads()} threads | {time.perf_counter() - whole:.1f} s |")


if __name__ == "__main__":
    main()
