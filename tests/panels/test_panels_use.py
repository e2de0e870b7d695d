"""One's own photos in panels: browsed or uploaded, all of them used, and new ones predicted."""

from __future__ import annotations

import io
import zipfile
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.foreign import foreign_images
from tests.panels.held import ended, lines
from tlnb.panels import panel_of
from tlnb.panels.uploads import keep, plain_name, uploaded
from tlnb.session import Session

OWN = "another folder"


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)


def photo(grey: int) -> bytes:
    """A photo of noise around a grey, as PNG."""
    noise = np.random.default_rng(grey).integers(-20, 20, (32, 32, 3))
    file = io.BytesIO()
    Image.fromarray((grey + noise).astype("uint8")).save(file, "PNG")
    return file.getvalue()


def photos(path: Path) -> Path:
    """Six dark and six bright photos: a folder, or a zip of one."""
    files = {f"{name}/{i}.png": photo(grey + i) for name, grey in GREYS.items() for i in range(6)}
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in files.items():
                archive.writestr(name, content)
        return path
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return path


GREYS = {"dark": 50, "bright": 190}


def upload(widget: Any, *files: tuple[str, bytes]) -> None:
    """What a browser does with the chosen files."""
    kind = {"type": "image/png", "last_modified": datetime.now(UTC)}
    if widget.has_trait("_counter"):  # ipywidgets 7
        widget.metadata = [{"name": name, **kind} for name, _ in files]
        widget.data = [content for _, content in files]
        widget._counter += len(files)
        return
    widget.value = [{"name": n, "content": memoryview(c), "size": len(c), **kind} for n, c in files]


def test_from_a_zip_to_a_new_photos_name(session: Session, tmp_path: Path):
    data, model, train, use = (panel_of(session, n) for n in ("data", "model", "train", "use"))
    assert use.photos.disabled and "train one first" in use.now.value
    data.source.value = OWN
    upload(data.files, ("my photos.zip", photos(tmp_path / "x.zip").read_bytes()))
    assert data.folder.value == "uploads/my photos.zip" and not data.files.value
    data.take.click()
    assert set(session.dataset.classes) == {"bright", "dark"} and data.error.value == ""
    assert session.dataset.request.per_class is None  # all there are
    model.go.click()
    train.go.click()
    ended(session)
    assert not use.photos.disabled and use.run.value == "head"
    upload(use.photos, ("new.png", photo(200)))
    assert use.error.value == "" and "bright" in use.view.value
    assert lines(session)[-1] == "%tl_predict uploads/new/new.png --run head"
    assert use.did.value == lines(session)[-1]
    use.errors.click()
    assert lines(session)[-1] == "%tl_errors --run head" and "<table" in use.view.value
    use.save.click()
    assert (tmp_path / "head.safetensors").exists() and "Saved: head.safetensors" in use.now.value
    assert use.runtime.layout.display == "none" and use.error.value == ""


def test_what_it_does_not_know_it_may_be_made_to_answer(session: Session):
    session.data("digits", per_class=5)
    session.load("glyphnet")
    session.train(epochs=3)
    use, (noise,) = panel_of(session, "use"), foreign_images(1)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, "PNG")
    upload(use.photos, ("noise.png", file.getvalue()))
    assert "none of the classes I know" in use.view.value
    use.always.value = True
    assert "none of the classes I know" not in use.view.value and use.error.value == ""
    assert use.did.value == "%tl_predict uploads/new/noise.png --run head --always"
    assert "Nothing was to be refused" in use.view.value
    use.errors.click()
    use.always.value = False  # nothing is predicted now
    assert use.did.value == "%tl_errors --run head" == lines(session)[-1]


def test_a_page_for_a_browser(small: Session, tmp_path: Path):
    pytest.importorskip("onnxscript")
    small.train(epochs=1)
    use = panel_of(small, "use")
    use.ending.value, use.runtime.value = ".html", "nowhere"
    use.save.click()
    assert "--runtime nowhere lacks" in use.error.value and use.runtime.layout.display == ""
    use.runtime.value = ""
    use.save.click()
    assert (tmp_path / "head.html").exists() and use.error.value == ""
    assert lines(small)[-1] == use.did.value == "%tl_save head.html --run head"


def test_photos_by_class(session: Session):
    data = panel_of(session, "data")
    data.source.value = OWN
    upload(data.files, ("1.png", photo(50)))
    assert "photos need a class" in data.error.value
    for name, grey in GREYS.items():
        data.class_name.value = name
        upload(data.files, *((f"{i}.png", photo(grey + i)) for i in range(4)))
    data.take.click()
    assert data.error.value == "" and set(session.dataset.classes) == set(GREYS)
    assert sum(session.dataset.splits.values()) == 8


def test_a_folder_is_found_by_browsing(session: Session, tmp_path: Path):
    photos(tmp_path / "deep" / "er" / "mine")
    (tmp_path / "notes.txt").touch()
    data = panel_of(session, "data")
    assert data.browser.layout.display == "none"
    data.source.value = OWN
    assert data.browser.layout.display == "" and data.amount.value == "all"
    shown = [label for label, _ in data.browser.options]
    assert "deep/" in shown and "notes.txt" not in shown
    for name in ("deep", "deep/er", "deep/er/mine"):
        data.browser.value = name
        assert data.folder.value == name
    assert [label for label, _ in data.browser.options][1:] == ["bright/", "dark/"]
    data.browser.value = data.browser.options[0][1]  # up again
    assert data.folder.value == "deep/er"
    data.browser.value = "deep/er/mine"
    data.take.click()
    assert data.error.value == "" and set(session.dataset.classes) == set(GREYS)


def test_one_may_go_above_the_folder_of_the_notebook(session: Session, tmp_path: Path, monkeypatch):
    (tmp_path / "a" / "b").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "a" / "b")
    data = panel_of(session, "data")
    data.source.value = OWN
    for up in ("..", "../.."):
        data.browser.value = data.browser.options[0][1]
        assert data.folder.value == up
    assert "../../a" in [value for _, value in data.browser.options]


def test_the_amount_follows_the_source(session: Session):
    data = panel_of(session, "data")
    assert data.amount.value == "per_class"
    data.source.value = OWN
    assert data.amount.value == "all"
    data.source.value = "faces"
    assert data.amount.value == "per_class"


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("../../etc/passwd", "passwd"),
        ("C:\\photos\\cat.jpg", "cat.jpg"),
        (".hidden", "hidden"),
        ("..", "file"),
        ("", "file"),
        ("a\x00b\n.png", "a-b-.png"),
        ("Äpfel & Birnen.png", "Äpfel - Birnen.png"),
        ("x" * 300 + ".png", "x" * 76 + ".png"),
    ],
)
def test_an_uploaded_name_leads_nowhere_else(tmp_path: Path, name: str, plain: str):
    (kept,) = keep([(name, b"1")], tmp_path / "uploads")
    assert kept == tmp_path / "uploads" / plain == tmp_path / "uploads" / plain_name(name)


def test_two_photos_of_the_same_name_are_both_kept(tmp_path: Path):
    names = [keep([("a.png", content)], tmp_path)[0].name for content in (b"1", b"2", b"1")]
    assert names == ["a.png", "a-2.png", "a.png"]


def test_uploads_of_ipywidgets_7_are_read():
    old = SimpleNamespace(value={"a.png": {"metadata": {"name": "a.png"}, "content": b"1"}})
    assert uploaded(old) == [("a.png", b"1")] and old.value == {}


def test_a_photo_that_cannot_be_read_is_a_line(small: Session):
    small.train(epochs=1)
    use = panel_of(small, "use")
    upload(use.photos, ("broken.png", b"no image"))
    assert "broken.png" in use.error.value and use.failure is None and use.view.value == ""


def test_the_run_can_be_chosen(small: Session):
    use = panel_of(small, "use")
    small.train(epochs=1)
    small.train(epochs=1, name="later")
    small.train(epochs=1, scratch=True)
    assert [value for _, value in use.run.options] == ["later", "head"]
    use.run.value = "head"
    use.errors.click()
    assert use.did.value == "%tl_errors --run head"


def test_each_tab_has_one_prominent_button(small: Session):
    prominent = {
        "data": ["Load these images"],
        "model": ["Load"],
        "layers": ["head"],
        "train": ["Train"],
        "compare": ["Compare"],
        "use": ["Predict photos"],
    }
    for name, words in prominent.items():
        found = [b for b in _all(panel_of(small, name).box) if _is_prominent(b)]
        assert [b.description for b in found] == words


def _is_prominent(widget: Any) -> bool:
    return getattr(widget, "button_style", "") == "primary"


def _all(box: Any) -> list[Any]:
    return [box, *(each for child in getattr(box, "children", ()) for each in _all(child))]
