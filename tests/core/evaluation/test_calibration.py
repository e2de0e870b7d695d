"""Answers with calibrated probabilities, "none of the classes I know", and how reliable they are."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.foreign import foreign_images
from tlnb.core.evaluation.calibration import calibration_error, calibration_noise
from tlnb.display.cards import HTML
from tlnb.display.text import terminal_text
from tlnb.session import Session


@pytest.fixture(scope="module")
def trained() -> Session:
    session = Session()
    session.data("digits", per_class=20)
    session.load("glyphnet")
    session.train(epochs=10, precision="fp32")
    return session


def test_what_is_unlike_all_known_images_is_refused(trained: Session):
    own = list(trained.dataset.images["test"][:100].numpy())
    found = trained.predict(*own, *foreign_images())
    assert found.labels[100:] == (None,) * 4
    assert sum(label is None for label in found.labels[:100]) <= 15
    answered = found.images[0]
    assert answered.label == answered.labels[0][0] and len(found.confidence) == 104
    assert "is none of the classes I know" in repr(trained.predict(*foreign_images(1)))


def test_always_answers_anyway(trained: Session):
    found = trained.predict(*foreign_images(), always=True)
    assert None not in found.labels and all(0 < p <= 1 for p in found.confidence)
    assert all(image.nearest[0].likeness < 1 for image in found.images)


def test_probabilities_are_those_of_the_runs_answers(trained: Session):
    run, images = trained.runs[0], trained.dataset.images["test"][:20]
    found = trained.predict(*images.numpy(), always=True)
    assert found.confidence == pytest.approx(run.answers().sure[:20].tolist(), abs=1e-4)
    near = [sum(i.likeness for i in each.nearest) / len(each.nearest) for each in found.images]
    assert near == pytest.approx(run.answers().likeness[:20].tolist(), abs=1e-3)


def test_a_refusal_shows_the_nearest_image_and_class(trained: Session):
    found = trained.predict(*foreign_images(1))
    near = found.images[0].nearest[0]
    data = trained.dataset
    images = torch.cat([data.images["train"], data.images["val"]])
    labels = torch.cat([data.labels["train"], data.labels["val"]])
    assert torch.equal(found._nearest[0], images[near.row])
    assert near.label == data.classes[int(labels[near.row])]
    html = HTML[type(found)](found)
    assert "none of the classes I know" in html and "--always" in html and "200 labels" in html


def test_errors_show_reliability_as_chart_table_and_text(trained: Session):
    found = trained.errors()
    told = found.reliability
    assert sum(b.count for b in told.bins) == found.total
    assert told.by_share[-1] == (1.0, pytest.approx(found.accuracy))
    assert 0 <= told.refused < 0.2 and told.noise > 0
    html, text = HTML[type(found)](found), terminal_text(found, 80)
    assert "share answered" in html and "mean probability" in html and "mean probability" in text
    assert "calibrated on 200 labels" in html and "calibrated on 200 labels" in text


def test_by_magic_and_script(shell, trained: Session, tmp_path: Path, monkeypatch):
    from PIL import Image

    tl = shell.user_ns["tl"]
    tl.commit(trained.state)
    monkeypatch.chdir(tmp_path)
    Image.fromarray(foreign_images()[0]).save("noise.png")
    assert shell.run_cell("%tl_predict noise.png").result.labels == (None,)
    assert shell.run_cell("%tl_predict noise.png --always").result.labels != (None,)
    assert tl.script().splitlines()[-1] == "%tl_predict noise.png --always"


def test_a_saved_run_carries_its_calibration(trained: Session, tmp_path: Path):
    trained.save(tmp_path / "run.safetensors")
    other = Session()
    other.load(str(tmp_path / "run.safetensors"))
    images = [trained.dataset.images["test"][0].numpy(), *foreign_images()]
    found = other.predict(*images)
    assert found.labels == trained.predict(*images).labels and found.labels[1:] == (None,) * 4
    assert found.calibration == trained.runs[0].calibration
    other.load(str(tmp_path / "run.safetensors"))


def test_an_exported_program_carries_it_too(trained: Session, tmp_path: Path):
    trained.save(tmp_path / "run.pt2")
    files = {"tlnb.json": ""}
    torch.export.load(tmp_path / "run.pt2", extra_files=files)
    values = json.loads(files["tlnb.json"])
    fitted = trained.runs[0].calibration
    assert values["run"]["calibration"]["temperature"] == fitted.temperature
    assert values["run"]["calibration"]["threshold"] == fitted.threshold
    assert len(values["known"]["labels"]) == 200


def test_the_script_answers_and_refuses_alike(
    trained: Session, tmp_path: Path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    torch.save(trained.model.module.state_dict(), "glyphnet.pt")  # as the script says
    Path("script.py").write_text(trained.code(), "utf8")
    names = runpy.run_path("script.py", run_name="__main__")
    assert "of none of the classes" in capsys.readouterr().out
    data = trained.dataset
    learned = torch.cat([data.images["train"], data.images["val"]])
    model = names["build_model"]()
    model.load_state_dict(torch.load("model.pt", weights_only=True))
    known = names["scores_and_features"](model, learned)[1]
    images = [*data.images["test"][:20].numpy(), *(i.transpose(2, 0, 1) for i in foreign_images())]
    shares, refused = names["answer"](model, known, torch.from_numpy(np.stack(images)))
    found = trained.predict(*images)
    assert shares.max(1).values.tolist() == pytest.approx(list(found.confidence), abs=1e-3)
    assert refused.tolist() == [label is None for label in found.labels]


# ── the error and its noise ──


def test_the_error_of_perfect_and_of_boastful_probabilities():
    draw = np.random.default_rng(1)
    sure = draw.uniform(0.5, 1, 3000)
    right = draw.random(3000) < sure
    noise = calibration_noise(sure)
    assert calibration_error(sure, right) < 1.3 * noise
    assert calibration_error(np.full(3000, 0.99), right) == pytest.approx(0.24, abs=0.02)
    assert calibration_noise(sure[:100]) > noise  # fewer images tell less
