"""Kill a training kernel at random moments and resume in a new one: nothing may be lost.

    python -m benchmarks.kills --times 50 [--at-risk 10]

Each time a real Jupyter kernel runs the lines and is killed with SIGKILL after a random time; then
a new kernel runs `%tl_resume`. What must hold: no more seconds of work are repeated than are at
risk (by default none: every epoch is written), and the losses equal those of an uninterrupted run.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from jupyter_client.manager import KernelManager

from tlnb.core.training import checkpoint

LINES = """
import torch
torch.set_num_threads(1)
%load_ext tlnb
%tl_data digits --per-class 2 ;
%tl_load glyphnet ;
%tl_strategy {strategy} ;
"""
REPORTING_TRAINING = "_ = setattr(tl, 'report', lambda p: print(p.phase, p.epoch, flush=True))\nrun = tl.train(epochs={epochs})"
LOSSES = "import json; print(json.dumps([e.train_loss for e in tl.runs[-1].epochs] + [tl.runs[-1].status]))"


class Kernel:
    """A kernel process in a folder."""

    def __init__(self, folder: Path) -> None:
        self.manager = KernelManager(kernel_name="python3")
        self.manager.start_kernel(cwd=str(folder))
        self.client = self.manager.blocking_client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=120)

    def run(self, code: str) -> str:
        """Run code and return what it printed.

        Raises:
            RuntimeError: the code failed.
        """
        said: list[str] = []

        def hook(message: dict[str, Any]) -> None:
            if message["msg_type"] == "stream":
                said.append(message["content"]["text"])

        reply = self.client.execute_interactive(code, output_hook=hook, timeout=300)
        if reply["content"]["status"] != "ok":
            raise RuntimeError(f"{reply['content'].get('ename')}: {reply['content'].get('evalue')}")
        return "".join(said)

    def run_for(self, code: str, seconds: float) -> str:
        """Start code, kill the kernel after `seconds`, and return what it had printed."""
        said: list[str] = []
        self.client.execute(code)
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            try:
                message = self.client.get_iopub_msg(timeout=left)
            except Exception:  # queue.Empty: no message arrived
                continue
            if message["msg_type"] == "stream":
                said.append(message["content"]["text"])
        self.kill()
        return "".join(said)

    def kill(self) -> None:
        """Kill the kernel with SIGKILL."""
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--times", type=int, default=50)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--at-risk", type=float, default=0.0, help="seconds of work that a kill is allowed to lose"
    )
    chosen = parser.parse_args()
    os.environ["TLNB_AT_RISK"] = str(chosen.at_risk)
    draw, strategies = random.Random(chosen.seed), ("head", "partial", "full")
    whole = {s: undisturbed(s, chosen.epochs) for s in strategies}
    kept, cut, worst = [], 0, 0.0
    for i in range(chosen.times):
        strategy = strategies[i % len(strategies)]
        losses, status, said = once(strategy, chosen.epochs, draw.uniform(0.02, 2.5))
        difference = max(abs(a - b) for a, b in zip(losses, whole[strategy], strict=True))
        assert status == "finished", status
        worst, cut = max(worst, difference), cut + (said < chosen.epochs)
        kept.append(said)
        print(
            f"{i + 1:3} {strategy:8} killed after epoch {said}; largest difference in loss {difference:.2g}",
            flush=True,
        )
    print(
        f"{chosen.times} kills, {cut} of them before the run's end, {sum(k == 0 for k in kept)} before its first epoch's; "
        f"all resumed to the end; largest difference in loss {worst:.2g}"
    )


def undisturbed(strategy: str, epochs: int) -> list[float]:
    """The losses of an uninterrupted run."""
    with tempfile.TemporaryDirectory() as folder:
        kernel = Kernel(Path(folder))
        kernel.run(LINES.format(strategy=strategy))
        kernel.run(f"run = tl.train(epochs={epochs})")
        losses = json.loads(kernel.run(LOSSES))
        kernel.kill()
        return list(losses[:-1])


def once(strategy: str, epochs: int, seconds: float) -> tuple[list[float], str, int]:
    """Train, kill and resume.

    Returns:
        The losses, the status, and how many epochs the first kernel had reported as finished.
    """
    folder = Path(tempfile.mkdtemp())
    try:
        first = Kernel(folder)
        first.run(LINES.format(strategy=strategy))
        said = first.run_for(REPORTING_TRAINING.format(epochs=epochs), seconds)
        ended = max(
            (int(line.split()[1]) for line in said.split("\n")[:-1] if line.startswith("training")),
            default=0,
        )
        if os.environ["TLNB_AT_RISK"] == "0.0":
            assert epochs_on_disk(folder) >= ended, (epochs_on_disk(folder), ended)
        begun = any((folder / ".tlnb").glob("sessions/*/session.json"))
        second = Kernel(folder)
        if begun:
            second.run("import torch\ntorch.set_num_threads(1)\n%load_ext tlnb\n%tl_resume ;")
        else:  # killed before the training call began: nothing to resume
            second.run(LINES.format(strategy=strategy) + f"\nrun = tl.train(epochs={epochs})")
        *losses, status = json.loads(second.run(LOSSES))
        second.kill()
        leftovers = [p for p in folder.rglob("*") if p.name.endswith(".part")]
        assert len(leftovers) <= 1, leftovers  # the file being written when the kernel was killed
        return losses, status, ended
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def epochs_on_disk(folder: Path) -> int:
    """The number of epochs of the killed run that are on disk."""
    files = sorted(folder.glob(".tlnb/sessions/*/runs/*.safetensors"))
    return len(checkpoint.read(files[0])[1].epochs) if files else 0


if __name__ == "__main__":
    os.environ.pop("TLNB_HOME", None)
    main()
