"""What the tests of safety share: how many cases are drawn, and sessions changed by someone who gets the checksum right."""

from __future__ import annotations

import functools
import inspect
import json
import os
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import sklearn.datasets
from hypothesis import HealthCheck, given, settings
from hypothesis.strategies import SearchStrategy
from torch import nn

from tlnb.core.models.anatomy import read_anatomy
from tlnb.core.planning import prepare
from tlnb.core.runtime.errors import TLError, one_line
from tlnb.session import job_runner, restoring

CASES = int(os.environ.get("TLNB_FUZZ", "25"))
EXHAUSTIVE = int(os.environ.get("TLNB_FUZZ_EXHAUSTIVE", "300"))  # a release takes 10,000
_common = {"deadline": None, "database": None, "suppress_health_check": list(HealthCheck)}
few = settings(max_examples=CASES, derandomize="TLNB_FUZZ" not in os.environ, **_common)
many = settings(
    max_examples=EXHAUSTIVE, derandomize="TLNB_FUZZ_EXHAUSTIVE" not in os.environ, **_common
)


def drawn(
    **strategies: SearchStrategy[Any],
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A test of drawn cases in two sizes: that of every run, and marked `exhaustive` that of a release.

    The test takes what is drawn by name; its other parameters are fixtures.
    """

    def in_two_sizes(test: Callable[..., None]) -> Callable[..., None]:
        names = [name for name in inspect.signature(test).parameters if name not in strategies]

        @functools.wraps(test)
        def sized(size: settings, **fixtures: Any) -> None:
            @size
            @given(**strategies)
            def one(**case: Any) -> None:
                test(**fixtures, **case)

            one()

        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        sized.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            [inspect.Parameter(name, kind) for name in ("size", *names)]
        )
        release = pytest.param(many, id="many", marks=pytest.mark.exhaustive)
        return pytest.mark.parametrize("size", [pytest.param(few, id="few"), release])(sized)

    return in_two_sizes


def refused(call: Callable[[], Any]) -> str | None:
    """The one line that refuses a call; None where it is not refused. Anything else that is raised is a bug."""
    try:
        call()
    except TLError as error:
        said = str(error)
        assert said and one_line(said) == said and len(said.splitlines()) == 1, said
        said.encode()
        return said
    return None


def rewrite(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change a session's values, and its checksum with them."""
    file = folder / "session.json"
    outer = json.loads(file.read_text("utf8"))
    values = json.loads(outer["session"])
    changed = change(values)
    write_session(folder, json.dumps(values if changed is None else changed))


def write_session(folder: Path, text: str) -> None:
    """A session's file with this text and the right checksum."""
    file = folder / "session.json"
    outer = {"schema": 2, "session": text, "crc32": zlib.crc32(text.encode(errors="replace"))}
    file.write_text(json.dumps(outer), "utf8")


def put(values: Any, at: tuple[Any, ...], new: Any) -> None:
    """Set a place in JSON's values."""
    *path, last = at
    for key in path:
        values = values[key]
    values[last] = new


def peak_memory() -> int:
    """The most bytes of main memory that this process has held so far; 0 where the system does not say."""
    try:
        import resource
    except ImportError:  # Windows
        return 0
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most * (1 if sys.platform == "darwin" else 1024)


@contextmanager
def passes_once() -> Iterator[None]:
    """Inside, what a pass through a network without numbers showed is not asked for again, for the same network and edits.

    Thousands of changed sessions hold the same few networks. Errors are raised anew each time.
    """
    with pytest.MonkeyPatch.context() as patch:
        reading = _remembered(read_anatomy, lambda module, *how: (*_looks(module), *how))
        for place in (prepare, restoring, job_runner):
            patch.setattr(place, "read_anatomy", reading)
        fitting = _remembered(
            prepare.fit_edits,
            lambda model, heads, edits, classes, size, scopes: (
                *_looks(model.module),
                *heads,
                *edits,
                classes,
                size,
                *map(id, scopes.values()),
            ),
        )
        patch.setattr(prepare, "fit_edits", fitting)
        checking = _remembered(
            restoring.check_activations,
            lambda module, original, edits, size: (
                *_looks(module),
                *_looks(original),
                *edits,
                size,
            ),
        )
        for place in (restoring, job_runner):
            patch.setattr(place, "check_activations", checking)
        digits = _remembered(sklearn.datasets.load_digits, lambda: ())
        patch.setattr(sklearn.datasets, "load_digits", digits)
        yield


def _remembered(
    call: Callable[..., Any], key: Callable[..., tuple[Any, ...]]
) -> Callable[..., Any]:
    known: dict[tuple[Any, ...], Any] = {}

    def remembered(*given: Any) -> Any:
        at = key(*given)
        if at not in known:
            known[at] = call(*given)
        return known[at]

    return remembered


def _looks(module: nn.Module) -> tuple[Any, ...]:
    """What a network without weights is: its modules, and what edits hang on them."""
    hooks = [
        (name, type(hook).__name__, getattr(hook, "part", ""))
        for name, part in module.named_modules()
        for hook in (*part._forward_pre_hooks.values(), *part._forward_hooks.values())
    ]
    return (repr(module), *hooks)
