"""For tests and for notebooks that are tested on their own: no live displays, fixed threads, folders of their own.

Also what is common to both: which lessons are quick, and how tests are dealt out to workers.
"""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path
from typing import Any

import pytest

os.environ["TLNB_TESTING"] = "1"
_own = tempfile.TemporaryDirectory(prefix="tlnb-tests-")  # nothing of the user's is read or written
os.environ["TLNB_HOME"], os.environ["TLNB_CACHE"] = f"{_own.name}/home", f"{_own.name}/cache"

QUICK_LESSONS = {"01", "03", "08"}  # the others' outputs are compared by `tests/run --all`
SPREAD = (
    "test_repository",
    "test_faults",
    "test_jobs",
)  # files whose tests share nothing and may run on several workers
FIRST = (  # lint and types, which fail most often; then by what they take, or the longest would begin last and decide
    "test_repository",
    "test_exercises",
    "lessons/",
    "test_distributed",
    "test_faults",
    "test_claims",
    "test_pytorch_script_run",
)


def _together(nodeid: str) -> str:
    """What one worker does as a whole: a file with its module's fixtures, a lesson with its kernel, exercises of a lesson."""
    file, _, test = nodeid.partition("::")
    if Path(file).stem in SPREAD:
        return nodeid
    lesson = re.search(r"\[(\d)\.\d", test) if file.endswith("test_exercises.py") else None
    return f"{file} {lesson[1]}" if lesson else file


def _turn(nodeid: str) -> int:
    file = nodeid.partition("::")[0]
    return next((i for i, words in enumerate(FIRST) if words in file), len(FIRST))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.suffix == ".ipynb" and item.path.name[:2] not in QUICK_LESSONS:
            item.add_marker("slow")
        if item.path.name.startswith("test_claims_"):  # over several seeds
            item.add_marker("exhaustive")
    items.sort(key=lambda item: _turn(item.nodeid))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """As pytest-xdist's `loadscope`, with our own idea of what belongs together; tests keep their names."""
    from xdist.scheduler import LoadScopeScheduling

    class Dealing(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return _together(nodeid)

    return Dealing(config, log)
