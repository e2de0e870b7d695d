"""Generated scripts, executed together in one process that cannot import tlnb."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import torch

from tlnb.core.export.pytorch_script import Script
from tlnb.core.training.run import Run
from tlnb.session import Session

RUNNER = """
import os, runpy, sys, traceback
import torch

class NoTlnb:
    def find_spec(self, name, *_):
        if name.split(".")[0] == "tlnb":
            raise ImportError("a script must not need tlnb")

def execute():
    script = runpy.run_path("script.py", run_name="__main__")
    model = script["build_model"]()
    model.load_state_dict(torch.load("model.pt", weights_only=True))
    with torch.no_grad():
        return model.eval()(torch.load("inputs.pt", weights_only=True))

sys.meta_path.insert(0, NoTlnb())
for folder in sys.argv[1:]:
    os.chdir(folder)
    sys.path.insert(0, folder)
    with open("printed.txt", "w") as sys.stdout:
        try:
            torch.save(execute(), "logits.pt")
        except Exception:
            traceback.print_exc(file=sys.stdout)
    sys.path.remove(folder)
    sys.modules.pop("your_module", None)
assert "tlnb" not in sys.modules
"""


class Written:
    """A script in a folder of its own, and the run that it is of."""

    def __init__(self, folder: Path, run: Run, text: Script) -> None:
        self.folder, self.run, self.text = folder, run, text

    @property
    def printed(self) -> str:
        return (self.folder / "printed.txt").read_text("utf8")

    def check_weights(self, tolerance: float = 1e-4) -> None:
        assert "test accuracy" in self.printed, self.printed
        own = torch.load(self.folder / "model.pt", weights_only=True)
        weights = self.run.module().state_dict()
        assert own.keys() == weights.keys()
        for key, tensor in weights.items():
            assert torch.allclose(
                own[key].float(), tensor.float(), rtol=tolerance, atol=tolerance
            ), key

    def check_logits(self, tolerance: float = 1e-4) -> None:
        """The networks compute the same: for plans after which names differ."""
        assert "test accuracy" in self.printed, self.printed
        with torch.no_grad():
            expected = self.run.module()(torch.load(self.folder / "inputs.pt", weights_only=True))
        found = torch.load(self.folder / "logits.pt", weights_only=True)
        assert torch.allclose(found, expected, rtol=tolerance, atol=tolerance)


class Scripts:
    """Scripts by group. All are executed together: starting Python and torch takes longer than most of them."""

    def __init__(self, top: Path) -> None:
        self.top = top
        self.groups: dict[str, list[Written]] = {}

    def add(self, group: str, session: Session, **modules: str) -> None:
        """The script of the last run, with what its comments say must lie beside it."""
        run, number = session.runs[-1], sum(map(len, self.groups.values()))
        folder = self.top / f"{number:02}-{group}-{run.name}"
        folder.mkdir()
        text = session.code(run)
        (folder / "script.py").write_text(text, "utf8")
        for call in re.findall(
            r"# (?:.*: )?((?:torch\.save|tl\.dataset\.save)\(.*\))$", text, re.M
        ):
            # what the comment says, word for word but for the folder
            call = re.sub(
                r'"([^"]+\.(?:pt|npz))"', lambda found: repr(str(folder / found[1])), call
            )
            exec(call, {"torch": torch, "tl": session})
        for name, code in modules.items():
            (folder / f"{name}.py").write_text(code, "utf8")
        size = session.state.sized().transform.size
        torch.save(
            torch.randn((3, 3, size, size), generator=torch.Generator().manual_seed(0)),
            folder / "inputs.pt",
        )
        self.groups.setdefault(group, []).append(Written(folder, run, text))

    def execute(self) -> None:
        folders = [str(script.folder) for group in self.groups.values() for script in group]
        done = subprocess.run(
            [sys.executable, "-I", "-c", RUNNER, *folders], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr[-2000:]
