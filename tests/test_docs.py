"""The reference: as the code's own help has it, nothing left out."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from PIL import Image

from tlnb.magics import TLMagics

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def build():
    spec = importlib.util.spec_from_file_location("build", ROOT / "docs" / "build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_pages_are_what_the_help_says(build, tmp_path: Path):
    build.write(tmp_path)
    written = {p.relative_to(tmp_path): p.read_text("utf8") for p in tmp_path.rglob("*.md")}
    kept = {p: (ROOT / "docs" / p).read_text("utf8") for p in written}
    assert written == kept, "run: python docs/build.py"
    assert {p.stem for p in (ROOT / "docs" / "magics").iterdir()} == set(build.magics())


def test_no_magic_is_left_out(build):
    there = {name for name in dir(TLMagics) if name == "tl" or name.startswith("tl_")}
    assert there == set(build.magics())
    assert all(re.search(rf"%{name}\b", build.sheet()) for name in there)


def test_the_cheat_sheet_shows_todays_help(build):
    shown = Image.open(ROOT / "docs" / "cheat-sheet.png").text.get(build.OF)
    assert shown == hashlib.sha256(build.sheet().encode()).hexdigest(), (
        "run: python docs/build.py --sheet"
    )


def _texts() -> list[tuple[Path, str]]:
    """Every page, and every lesson's Markdown cells."""
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "lessons").glob("*.md")]
    cells = [
        (path, "".join(cell["source"]))
        for path in sorted((ROOT / "lessons").glob("*.ipynb"))
        for cell in json.loads(path.read_text("utf8"))["cells"]
        if cell["cell_type"] == "markdown"
    ]
    return [(page, page.read_text("utf8")) for page in pages] + cells


def test_links_lead_somewhere():
    """Paths to a file that is there, addresses to a host by an encrypted protocol; nothing is fetched."""
    for page, text in _texts():
        code_taken_out = re.sub(r"```.*?```|`[^`]*`", "", text, flags=re.DOTALL)
        for target in re.findall(r"\]\(([^)\s]*)", code_taken_out):
            parts = urlsplit(target)
            if parts.scheme:
                assert parts.scheme == "https" and re.fullmatch(r"[\w.-]+\.[a-z]+", parts.netloc), (
                    f"{page.name}: {target}"
                )
                if parts.netloc == "arxiv.org":
                    assert re.fullmatch(r"/abs/\d{4}\.\d{4,5}", parts.path), (
                        f"{page.name}: {target}"
                    )
            elif parts.path:
                assert (page.parent / parts.path).exists(), f"{page.name}: {target}"
            else:
                assert parts.fragment, f"{page.name}: an empty link"


def test_there_is_one_repository_address():
    import tomllib

    home = tomllib.loads((ROOT / "pyproject.toml").read_text("utf8"))["project"]["urls"][
        "Repository"
    ]
    name = home.removeprefix("https://github.com/")
    colab, binder = (
        f"colab.research.google.com/github/{name}/blob/main/lessons/",
        f"mybinder.org/v2/gh/{name}/main",
    )
    readme = (ROOT / "README.md").read_text("utf8")
    assert colab in readme and binder in readme
    for path in sorted((ROOT / "lessons").glob("*.ipynb")):
        text = path.read_text("utf8")
        assert f"{colab}{path.name}" in text and f"lessons/{path.name}" in text.partition(binder)[2]
        assert set(re.findall(r"github\.com/[\w-]+/tlnb", text)) == {f"github.com/{name}"}


def test_where_does_it_live_names_what_is_there():
    """Files and folders exist, modules are found, and each "`NAME` in `FILE`" is in that file."""
    text = (ROOT / "CONTRIBUTING.md").read_text("utf8")
    page = text.partition("## Where does it live?")[2].partition("\n## ")[0]
    assert page.count("\n| ") >= 11  # a head and ten questions
    paths = set(re.findall(r"`([\w.-]+/[\w./-]*|[\w-]+\.md)`", page))
    assert {path for path in paths if not (ROOT / path).exists()} == set()
    modules = set(re.findall(r"`(tlnb(?:\.\w+)+)`", page))
    assert {name for name in modules if importlib.util.find_spec(name) is None} == set()
    for name, path in re.findall(r"`(\w+)` in `([\w./-]+)`", page):
        assert re.search(rf"\b{name}\b", _code(ROOT / path)), f"{path} has no {name}"


def _code(path: Path) -> str:
    """A file's text, or that of all modules of a folder."""
    files = path.rglob("*.py") if path.is_dir() else [path]
    return "\n".join(file.read_text("utf8") for file in files)


def test_the_words_that_people_search_for_are_in_the_glossary_and_it_is_linked():
    glossary = (ROOT / "docs" / "glossary.md").read_text("utf8").lower()
    words = "linear probe, feature extraction, few-shot, lp-ft, discriminative learning rates, "
    words += "surgical fine-tuning, grad-cam, upstream, downstream, negative transfer, adapter"
    assert [word for word in words.split(", ") if word not in glossary] == []
    for page in ("README.md", "docs/README.md", "lessons/README.md"):
        assert "glossary.md" in (ROOT / page).read_text("utf8")
    named = set(re.findall(r"`%(tl\w*)", glossary))
    assert named <= {name.lower() for name in dir(TLMagics)}
