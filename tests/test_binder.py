"""What Binder would install fits what the package asks for. The image itself needs Docker, which is not here."""

from __future__ import annotations

import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).parents[1]
PAIRS = {
    "2.11": "0.26",
    "2.12": "0.27",
    "2.13": "0.28",
    "2.14": "0.29",
}  # torch → torchvision, as released together
BY_PYTORCH = ("torch", "torchvision")


def _lines() -> list[str]:
    text = (ROOT / "binder" / "requirements.txt").read_text("utf8")
    return [line for line in text.splitlines() if line and not line.startswith(("#", "-"))]


def _pinned() -> dict[str, str]:
    found = (Requirement(line) for line in _lines() if not line.startswith("."))
    return {r.name: str(r.specifier).removeprefix("==").partition("+")[0] for r in found}


def _wanted() -> dict[str, Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf8"))["project"]
    texts = [
        *project["dependencies"],
        *(
            t
            for extra in ("look", "photos", "pictures", "timm", "tune", "lab")
            for t in project["optional-dependencies"][extra]
        ),
    ]
    return {r.name: r for r in map(Requirement, texts)}


def test_every_version_is_pinned_and_fits():
    wanted = _wanted()
    assert set(_pinned()) == set(wanted) - {"tlnb"}
    for name, version in _pinned().items():
        assert version and version in wanted[name].specifier, name


def test_torch_and_torchvision_are_cpu_wheels_that_belong_together():
    lines = [line for line in _lines() if line.startswith(BY_PYTORCH)]
    assert len(lines) == 2 and all("+cpu" in line for line in lines)
    pinned = _pinned()
    assert pinned["torchvision"].rpartition(".")[0] == PAIRS[pinned["torch"].rpartition(".")[0]]


def test_the_package_comes_with_what_lessons_need_and_a_python_it_supports():
    assert _lines()[-1] == ".[lab]"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf8"))["project"]
    python = (ROOT / "binder" / "runtime.txt").read_text("utf8").strip().removeprefix("python-")
    assert f"{python}.0" in SpecifierSet(project["requires-python"])
