"""For tests and for notebooks that are tested on their own: no live displays, fixed threads, folders of their own.

Also what is common to both: which lessons are quick, and how tests are dealt out to workers.
"""

from __future__ import annotations

import os
import tempfile

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
    "test_repository", "test_exercises", "lessons/", "test_launch", "test_faults", "test_claims", "test_code_scripts",
)  # fmt: skip


def _group(item: pytest.Item) -> str:
    """What one worker does as a whole: a file with its module's fixtures, a lesson with its kernel."""
    return item.nodeid if item.path.stem in SPREAD else item.nodeid.partition("::")[0]


def _turn(item: pytest.Item) -> int:
    file = item.nodeid.partition("::")[0]
    return next((i for i, words in enumerate(FIRST) if words in file), len(FIRST))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.suffix == ".ipynb" and item.path.name[:2] not in QUICK_LESSONS:
            item.add_marker("slow")
        if item.path.name.startswith("test_claims_"):  # over several seeds
            item.add_marker("exhaustive")
        if not item.get_closest_marker("xdist_group"):
            item.add_marker(pytest.mark.xdist_group(_group(item)))
    items.sort(key=_turn)
