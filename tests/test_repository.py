"""The repository: lint, types, the import rule, the package's size, its public names, what importing it touches."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
import zipfile
from graphlib import CycleError, TopologicalSorter
from itertools import takewhile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def tool(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, cwd=ROOT, **options
    )


@pytest.mark.parametrize(
    "arguments",
    [("-m", "ruff", "check"), ("-m", "ruff", "format", "--check"), ("-m", "mypy")],
    ids=" ".join,
)
def test_lint_and_types(arguments: tuple[str, ...]):
    done = tool(*arguments)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_module_imports_only_from_lower_floors():
    done = tool("-c", "from importlinter.cli import lint_imports_command; lint_imports_command()")
    assert done.returncode == 0, done.stdout


def imported_by(source: str, module: str) -> set[str]:
    """What a module imports at any depth of its code: for type checkers, inside functions, as `import_module("…")`."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module} has a relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            found |= {str(a.value) for a in node.args if isinstance(a, ast.Constant)}
    return found


def cycle_in(sources: dict[str, str]) -> list[str]:
    """Modules that import each other in a circle, the first again at the end; empty for none."""

    def module_of(name: str) -> str:
        while name and name not in sources:
            name = name.rpartition(".")[0]  # a name of the module, or of none of these
        return name

    imports = {
        module: {module_of(name) for name in imported_by(text, module)} - {module, ""}
        for module, text in sources.items()
    }
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_no_modules_import_each_other():
    files = (ROOT / "tlnb").rglob("*.py")
    names = {path: ".".join(path.relative_to(ROOT).with_suffix("").parts) for path in files}
    sources = {name.removesuffix(".__init__"): p.read_text("utf8") for p, name in names.items()}
    assert len(sources) > 100 and cycle_in(sources) == []


@pytest.mark.parametrize(
    "back",
    [
        "import p.a",
        "from p import a",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from p.a import A",
        "def later():\n    from p.a import A",
        "from importlib import import_module\ndef later():\n    import_module('p.a')",
    ],
)
def test_a_circle_of_imports_is_found_however_it_is_hidden(back: str):
    forth = "from p.b import B"
    assert set(cycle_in({"p": "", "p.a": forth, "p.b": back})) == {"p.a", "p.b"}
    assert not cycle_in({"p": "", "p.a": forth, "p.b": "import json"})


def test_nothing_touches_private_names_of_a_session():
    for path in (ROOT / "tlnb").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf8"))):
            if isinstance(node, ast.Attribute) and node.attr.startswith("_"):
                owner = ast.unparse(node.value).rpartition(".")[2]
                assert owner not in ("session", "tl"), f"{path.name}: {ast.unparse(node)}"


def long_calls(source: str) -> list[str]:
    """Calls with more than six positional arguments; one with a star counts as one argument."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    return [ast.unparse(call.func) for call in calls if len(call.args) > 6]


def before_mark(body: list[ast.stmt]) -> list[ast.stmt]:
    """A class's body up to `_: KW_ONLY`."""
    return list(takewhile(lambda part: "KW_ONLY" not in ast.unparse(part), body))


def records_by_position(source: str) -> list[str]:
    """Frozen records of more than four fields that can be built by position."""
    return [
        node.name
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ClassDef)
        and sum(isinstance(part, ast.AnnAssign) for part in before_mark(node.body)) > 4
        for made in map(ast.unparse, node.decorator_list)
        if "frozen=True" in made and "kw_only=True" not in made
    ]


def test_long_calls_and_records_go_by_keyword():
    for path in (ROOT / "tlnb").rglob("*.py"):
        source = path.read_text("utf8")
        assert not long_calls(source), f"{path.name}: {long_calls(source)}"
        assert not records_by_position(source), f"{path.name}: {records_by_position(source)}"


def test_what_goes_by_position_is_found():
    assert long_calls("a.b(1, 2, 3, 4, 5, 6, 7)\nc(1, 2, 3, 4, 5, 6, d=7)") == ["a.b"]
    fields = "".join(f"    x{number}: int\n" for number in range(5))
    record = "@dataclass(frozen=True)\nclass A:\n" + fields
    assert records_by_position(record) == ["A"]
    assert not records_by_position(record.replace("True", "True, kw_only=True"))
    assert not records_by_position(record.replace("x4: int", "_: KW_ONLY"))


def test_public_names():
    import tlnb

    assert tlnb.__all__ == ["Session", "__version__", "tl"]
    calls = {
        "add",
        "advise",
        "check",
        "code",
        "compare",
        "cost",
        "data",
        "data_of",
        "errors",
        "forecast",
        "freeze",
        "layers",
        "load",
        "look",
        "models",
        "panel",
        "predict",
        "remove",
        "replace",
        "reset",
        "resume",
        "save",
        "script",
        "stop",
        "strategy",
        "train",
        "tune",
        "undo",
        "unfreeze",
        "wait",
        "watch",
    }
    public = {n for n, v in vars(tlnb.Session).items() if not n.startswith("_") and callable(v)}
    assert public == calls


def test_importing_touches_neither_network_nor_gpu_and_loads_no_more_than_it_needs():
    code = """
import socket, sys
import torch, torchvision
socket.socket.connect = None
torch.cuda.init = torch.cuda._lazy_init = None
before = set(sys.modules)
import tlnb
new = {m.split(".")[0] for m in set(sys.modules) - before}
print(sorted(new & {"IPython", "matplotlib", "sklearn", "ipywidgets", "PIL", "scipy", "safetensors"}))
"""
    assert tool("-c", code).stdout.strip() == "[]"


def test_the_magics_come_without_the_libraries_that_only_some_of_them_need():
    code = """
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
import sys, torch, torchvision
before = set(sys.modules)
shell.run_line_magic("load_ext", "tlnb")
new = {m.split(".")[0] for m in set(sys.modules) - before}
heavy = {"matplotlib", "sklearn", "ipywidgets", "scipy", "optuna", "pandas", "rich", "nbformat"}
print(sorted(new & (heavy | {"timm", "huggingface_hub"})))
"""
    assert tool("-c", code).stdout.strip() == "[]"


def test_the_wheel_is_small_and_whole(tmp_path: Path):
    done = tool("-m", "pip", "wheel", "-q", "--no-deps", "-w", str(tmp_path), ".")
    assert done.returncode == 0, done.stderr
    wheel = next(tmp_path.glob("*.whl"))
    assert wheel.stat().st_size <= 8_000_000
    names = zipfile.ZipFile(wheel).namelist()
    for needed in (
        "tlnb/lessons/01-twenty-images.ipynb",
        "tlnb/glyphnet/weights/glyphnet.safetensors",
        "tlnb/glyphnet/cards/glyphnet.json",
        "tlnb/glyphnet/excluded.json",
        "tlnb/glyphnet/held_out.npz",
        "tlnb/py.typed",
    ):
        assert needed in names
    lessons = subprocess.run(
        ["git", "ls-files", "lessons"], capture_output=True, text=True, cwd=ROOT
    ).stdout.split()
    course = {f"tlnb/{name}" for name in lessons if name != "lessons/ruff.toml"}
    assert course == {name for name in names if name.startswith("tlnb/lessons/")}


def test_the_readmes_two_commands_are_one_line_each():
    blocks = (ROOT / "README.md").read_text("utf8").split("```sh\n")[1:3]
    assert all(len(block.split("```")[0].strip().splitlines()) == 1 for block in blocks)


def test_files_of_tests_are_short():
    lengths = {
        path.name: path.read_text("utf8").count("\n") for path in (ROOT / "tests").rglob("*.py")
    }
    assert {name: length for name, length in lengths.items() if length > 450} == {}


def test_no_machine_paths_or_widget_state_are_committed():
    files = subprocess.run(
        ["git", "ls-files"], capture_output=True, text=True, cwd=ROOT
    ).stdout.split()
    for name in files:
        if Path(name).suffix in (".py", ".md", ".toml", ".ipynb", ".json", ".yml", ""):
            text = (ROOT / name).read_text("utf8", "replace")
            for path in ("/ro" + "ot/", "/wo" + "rk/", "/ho" + "me/"):
                assert path not in text, f"{name} holds {path}"


def test_notebook_json_is_valid():
    for path in (ROOT / "lessons").glob("*.ipynb"):
        json.loads(path.read_text("utf8"))
