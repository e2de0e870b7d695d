"""Shared fixtures: real shells, real files, no timing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import torch
from PIL import Image

import tlnb.session.trainings
from tests.trained_once import TrainedOnce
from tlnb.session import Session

hypothesis.settings.register_profile("tlnb", deadline=None)  # speed is for benchmarks
hypothesis.settings.load_profile("tlnb")


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    """torch has its threads back after a test: sums depend on their number in the last digits."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def session() -> Session:
    return Session()


@pytest.fixture
def small(session: Session) -> Session:
    """Two digits a class and the embedded network: what the seven lines use."""
    session.data("digits", per_class=2)
    session.load("glyphnet")
    return session


@pytest.fixture(scope="session")
def _trainings() -> TrainedOnce:
    return TrainedOnce(tlnb.session.trainings.train)


@pytest.fixture
def trained_once(_trainings: TrainedOnce, monkeypatch: pytest.MonkeyPatch) -> TrainedOnce:
    """What another test of this process has trained is not trained again: for tests that are about something else."""
    monkeypatch.setattr(tlnb.session.trainings, "train", _trainings)
    return _trainings


@pytest.fixture(scope="session")
def seven_lines() -> Session:
    session = Session()
    session.data("digits", per_class=2)
    session.load("glyphnet")
    session.freeze()
    session.train()
    session.train(scratch=True)
    session.compare()
    return session


@pytest.fixture
def compared(seven_lines: Session) -> Iterator[Session]:
    """The seven lines, carried out once; what a test does with them is undone after it."""
    state = seven_lines.state
    yield seven_lines
    seven_lines.state = state


@pytest.fixture
def shell() -> Iterator[object]:
    """A real IPython shell with the extension loaded and the session empty."""
    from IPython.core.interactiveshell import InteractiveShell

    InteractiveShell.clear_instance()
    ip = InteractiveShell.instance()
    ip.run_line_magic("load_ext", "tlnb")
    ip.user_ns["tl"].reset()
    yield ip
    ip.user_ns["tl"].reset()
    InteractiveShell.clear_instance()


def picture(path: Path, tone: int, size: tuple[int, int] = (40, 30)) -> None:
    """A noisy picture of one tone."""
    rng = np.random.default_rng(tone)
    pixels = np.clip(rng.normal(tone, 12, (size[1], size[0], 3)), 0, 255).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes of ten photos, with the dirt that folders have."""
    top = tmp_path / "photos"
    for i in range(10):
        picture(top / "bright" / f"{i}.png", 190 + i)
        picture(top / "dark" / f"{i}.jpg", 40 + i)
    (top / "dark" / ".DS_Store").write_bytes(b"x")
    (top / "dark" / "broken.jpg").write_bytes(b"not a picture")
    (top / "dark" / "notes.txt").write_text("hello")
    (top / ".ipynb_checkpoints").mkdir()
    return top


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Real photos and weights that are not part of the project."""
    path = Path(os.environ.get("TLNB_REAL_DATA", Path(__file__).parents[2] / "shared" / "real"))
    if not (path / "ants_bees").is_dir():
        pytest.skip("no real data: set TLNB_REAL_DATA to a folder that has ants_bees/")
    return path
