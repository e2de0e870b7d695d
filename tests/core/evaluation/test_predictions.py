"""Errors, labels for new images, and what a run did to the network's accuracy on its own source."""

from __future__ import annotations

import io
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tlnb import glyphnet
from tlnb.core.evaluation.predictions import Judge, errors, predict
from tlnb.core.runtime.errors import DataError, UsageError
from tlnb.core.training import context as training_context
from tlnb.core.training.forgetting import SourceAccuracy, right_of, source_accuracy
from tlnb.core.training.run import Run
from tlnb.display import error_cards
from tlnb.display.cards import HTML
from tlnb.display.tables import comparison_table, pretraining_accuracy_words
from tlnb.glyphnet import held_out
from tlnb.glyphnet.source import Source
from tlnb.session import Session


@pytest.fixture(scope="module")
def tried(tmp_path_factory: pytest.TempPathFactory) -> tuple[Session, Path]:
    """A run on a folder whose val/ is the test split, with two photos under the wrong name so that some are wrong."""
    from tests.conftest import picture

    top = tmp_path_factory.mktemp("photos")
    for i in range(6):
        picture(top / "train" / "bright" / f"{i}.png", 190 + i)
        picture(top / "train" / "dark" / f"{i}.png", 60 + i)
    for i in range(4):
        picture(top / "val" / "bright" / f"{i}.png", 200 + i)
        picture(top / "val" / "dark" / f"{i}.png", 50 + i)
    picture(top / "val" / "dark" / "lit.png", 202)
    session = Session()
    session.load("glyphnet")
    session.data(str(top))
    session.strategy(
        "full"
    )  # a trunk that learned shapes tells bright from dark only once it may change
    session.train(epochs=30, lr=0.01, augment="none", precision="fp32", name="head")
    return session, top


# ── errors ──


def test_errors_are_the_runs_own_figures(compared: Session):
    found = compared.errors()
    run = compared.runs[0]
    assert found.run == "head" == run.name  # not the baseline, which came last
    matrix = np.array(found.matrix)
    assert matrix.sum() == run.test_images == found.total
    assert matrix.trace() / matrix.sum() == pytest.approx(run.accuracy)
    assert np.array([s.accuracy for s in found.by_class]).mean() == pytest.approx(
        run.balanced_accuracy
    )
    assert [s.total for s in found.by_class] == matrix.sum(1).tolist()
    assert len(found.mistakes) == found.total - matrix.trace()
    sure = [m.probability for m in found.mistakes]
    assert sure == sorted(sure, reverse=True) and all(
        m.of_truth <= m.probability for m in found.mistakes
    )
    assert sum(c.count for c in found.confused) == len(found.mistakes)
    assert found.confused[0].count == (matrix - np.diag(matrix.diagonal())).max()
    test = compared.dataset.labels["test"]
    assert all(compared.dataset.classes[test[m.index]] == m.truth != m.said for m in found.mistakes)
    assert compared.errors("scratch").run == "scratch"


def test_the_network_is_asked_once(compared: Session):
    kept = compared.runs[0].answers()
    with torch.no_grad():
        again = (
            compared.runs[0]
            .module()(compared.runs[0].transform()(compared.dataset.images["test"]))
            .softmax(1)
        )
    near = (
        1e-4 if compared.runs[0].precision == "fp32" else 0.02
    )  # the network that a run returns is in fp32
    assert float((again.argmax(1) == kept.guesses).float().mean()) >= 0.99  # all but ties
    assert torch.allclose(again.max(1).values, kept.sure, atol=near)
    assert torch.allclose(
        again[torch.arange(len(again)), kept.truths], kept.sure_of_truth, atol=near
    )


def test_pictures_come_from_the_runs_own_data_alone(compared: Session):
    run = compared.runs[0]
    shown = errors(run, compared.dataset)
    images = compared.dataset.images["test"]
    assert all(
        torch.equal(p, images[m.index])
        for p, m in zip(shown._pictures, shown.mistakes, strict=False)
    )
    other = Session()
    without = errors(run, other.data("digits", per_class=3))
    assert (
        without._pictures is None
        and "no pictures" in without.note
        and without.matrix == shown.matrix
    )
    assert "no pictures" in HTML[type(without)](without)


def test_a_record_has_no_answers(compared: Session):
    back = Run.from_json(compared.runs[0].to_json())
    assert back.classes == compared.dataset.classes and back.edge == 32
    assert back.source_accuracy == compared.runs[0].source_accuracy
    for ask in (back.answers, back.transform, lambda: errors(back)):
        with pytest.raises(UsageError, match="read from a record without"):
            ask()


@pytest.mark.parametrize("count", [2, 35, 100, 130])
def test_a_matrix_for_any_number_of_classes(compared: Session, count: int):
    rng = np.random.default_rng(0)
    truths = torch.arange(count).repeat(3)
    right = torch.from_numpy(rng.random(3 * count) < 0.7)
    guesses = torch.where(right, truths, (truths + 1) % count)
    sure = torch.from_numpy(rng.random(3 * count)).float()
    names = tuple(f"a rather long class name {c}" for c in range(count))
    given = {"truths": truths, "guesses": guesses, "sure": sure, "sure_of_truth": 1 - sure}
    run = compared.runs[0]
    found = errors(replace(run, classes=names, _answers=replace(run.answers(), **given)))
    html = HTML[type(found)](found)
    assert ("confusion matrix" in html) == (count <= 100)  # above, only the pairs
    assert html.count("a rather long class name") > 3
    if count <= 100:
        width, height = Image.open(io.BytesIO(error_cards.matrix(found))).size
        assert 150 < height <= width < 1700


def test_nothing_wrong_is_said_plainly(compared: Session):
    kept = compared.runs[0].answers()
    run = replace(compared.runs[0], _answers=replace(kept, guesses=kept.truths))
    found = errors(run, compared.dataset)
    assert (
        not found.mistakes
        and not found.confused
        and "No test image was wrong" in HTML[type(found)](found)
    )


# ── new images ──


def test_files_are_decoded_as_the_training_images_were(tried: tuple[Session, Path]):
    session, top = tried
    found = session.predict(str(top / "val"))
    kept = session.runs[0].answers()
    names = [
        f"{c}/{p.name}" for c in ("bright", "dark") for p in sorted((top / "val" / c).iterdir())
    ]
    assert [p.name.replace("\\", "/") for p in found.images] == names
    assert [session.dataset.classes.index(p.label) for p in found.images] == kept.guesses.tolist()
    assert [p.probability for p in found.images] == pytest.approx(kept.sure.tolist(), abs=1e-4)
    assert session.errors().mistakes[0].truth == "dark"  # lit.png lies in the wrong folder


def test_every_way_to_give_an_image(tried: tuple[Session, Path]):
    session, top = tried
    file = top / "val" / "bright" / "0.png"
    with Image.open(file) as opened:
        image = opened.convert("RGB")
    pixels = np.asarray(image)
    ways = [
        str(file),
        file,
        image,
        pixels,
        pixels.transpose(2, 0, 1),
        torch.from_numpy(pixels.copy()),
        pixels[..., :1],
        pixels[..., 0],
    ]
    found = session.predict(*ways, top=1)
    shares = [p.probability for p in found.images]
    assert (
        len(found) == 8
        and shares[:6] == pytest.approx([shares[0]] * 6, abs=1e-6)
        and shares[6] == shares[7]
    )
    assert {p.label for p in found.images} == {"bright"} and len(found.images[0].labels) == 1
    assert len(session.predict(str(top / "val" / "*" / "[01].png"))) == 4
    assert session.script().splitlines()[-2:] == [
        "tl.predict(...)  # images from Python",
        f"%tl_predict {top / 'val' / '*' / '[01].png'}",
    ]


def test_probabilities_are_ranked_and_never_more_than_there_are_classes(compared: Session):
    found = compared.predict(*compared.dataset.images["test"][:3].numpy(), top=4)
    for each in found.images:
        shares = [p for _, p in each.labels]
        assert (
            len(shares) == 4 and shares == sorted(shares, reverse=True) and sum(shares) <= 1 + 1e-5
        )
    assert (
        len(compared.predict(compared.dataset.images["test"][0].numpy(), top=99).images[0].labels)
        == 10
    )
    assert compared.predict(np.zeros((5, 9), np.uint8), run="scratch").run == "scratch"


@pytest.mark.parametrize(
    ("ask", "error", "words"),
    [
        (lambda s, t: s.predict(), UsageError, "no image was given"),
        (lambda s, t: s.predict(str(t / "val"), top=0), UsageError, "--top 0"),
        (
            lambda s, t: s.predict(str(t / "val" / "dark" / "lot.png")),
            DataError,
            "did you mean lit.png",
        ),
        (lambda s, t: s.predict(str(t / "nowhere" / "x.jpg")), DataError, "does not exist"),
        (lambda s, t: s.predict(str(t / "*.webp")), DataError, "holds no images"),
        (
            lambda s, t: s.predict(str(t / "val"), str(t / "torn.jpg")),
            DataError,
            "torn.jpg cannot be read",
        ),
        (lambda s, t: s.predict(np.zeros((4, 4), np.float32)), DataError, "give uint8"),
        (lambda s, t: s.predict(str(t / "val"), run="hed"), UsageError, "did you mean head"),
        (lambda s, t: s.errors("nobody"), UsageError, "no run is called"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_nothing_happens(
    tried: tuple[Session, Path], tmp_path: Path, ask, error, words
):
    session, top = tried
    shutil.copytree(top / "val", tmp_path / "val")
    (tmp_path / "torn.jpg").write_bytes(b"\xff\xd8 not a picture")
    before = session.script()
    with pytest.raises(error, match=re.escape(words)) as raised:
        ask(session, tmp_path)
    assert "\n" not in str(raised.value) and session.script() == before


def test_without_a_run_the_models_own_classes_answer(session: Session):
    for ask in (session.errors, lambda: session.predict(np.zeros((8, 8), np.uint8))):
        with pytest.raises(UsageError, match="no run yet"):
            ask()

    network = torch.nn.Sequential(
        torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(3, 2)
    )
    torch.nn.init.zeros_(network[2].bias)
    with torch.no_grad():
        network[2].weight.copy_(torch.tensor([[-1.0] * 3, [1.0] * 3]))
    model = session.load(network, size=16, mean=(0.5,) * 3, std=(0.25,) * 3)
    with pytest.raises(UsageError, match="does not name its classes"):
        session.predict(np.zeros((8, 8), np.uint8))
    session.commit(replace(session.state, model=replace(model, classes=("dim", "lit"))))
    found = session.predict(np.full((20, 30), 250, np.uint8), np.zeros((20, 30), np.uint8))
    assert [p.label for p in found.images] == ["lit", "dim"] and found.run is None
    assert "its own output layer" in HTML[type(found)](found)


def test_an_embedded_network_names_its_own_pictures(session: Session):
    session.load("glyphnet")
    classes = tuple(glyphnet.card("glyphnet")["classes"])
    images, labels = held_out.pictures(classes)
    found = session.predict(*images[::20].numpy())
    right = [
        p.label == classes[c] for p, c in zip(found.images, labels[::20].tolist(), strict=True)
    ]
    assert np.mean(right) > 0.6 and found.classes == len(classes) and found.model == "glyphnet"


def test_many_images_keep_few_pictures(compared: Session):
    run = compared.runs[0]
    judge = Judge(
        model="m",
        run=None,
        module=run.module(),
        classes=run.classes,
        transform=run.transform(),
        edge=32,
    )
    found = predict(judge, list(compared.dataset.images["test"][:150].numpy()))
    assert len(found) == 150 and len(found._pictures) == 20
    with torch.no_grad():
        guesses = run.module()(run.transform()(compared.dataset.images["test"][:150])).argmax(1)
    assert [
        run.classes.index(p.label) for p in found.images
    ] == guesses.tolist()  # its own answers may be of 16 bits
    assert "120 more" in HTML[type(found)](found)


def test_magics_and_completion(shell, compared: Session, tmp_path: Path, monkeypatch):
    tl = shell.user_ns["tl"]
    tl.commit(compared.state)
    Image.fromarray(compared.dataset.images["test"][0].permute(1, 2, 0).numpy()).save(
        tmp_path / "one <b>.png"
    )
    monkeypatch.chdir(tmp_path)
    found = shell.run_cell('%tl_predict "one <b>.png" --top 2 --run scratch').result
    assert found.run == "scratch" and len(found.images[0].labels) == 2
    html = shell.display_formatter.formatters["text/html"](found)
    assert "one &lt;b&gt;.png" in html and "<b>.png" not in html
    assert shell.run_cell("%tl_errors").result.run == "head"
    complete = lambda line: shell.complete(line.split(" ")[-1], line, len(line))[1]  # noqa: E731
    assert "scratch" in complete("%tl_errors --run sc") and "one <b>.png" in complete(
        "%tl_predict on"
    )


# ── source accuracy ──


def test_the_held_out_file_has_every_class_of_every_network():
    for name in glyphnet.names():
        classes = tuple(glyphnet.card(name)["classes"])
        images, labels = held_out.pictures(classes)
        assert 0.9 * held_out.PICTURES <= len(images) == len(labels) <= held_out.PICTURES * 1.1
        assert images.shape[1:] == (3, 32, 32) and set(labels.tolist()) <= set(range(len(classes)))
        assert len(labels.unique()) > 0.3 * len(classes)
        again, _ = held_out.pictures.__wrapped__(classes)
        assert torch.equal(images, again)
    assert (Path(held_out.__file__).parent / held_out.FILE).stat().st_size <= 1_000_000


@pytest.mark.parametrize("name", ["glyphnet", "glyphnet-few"])
def test_measured_as_on_the_card(session: Session, name: str):
    session.data("digits", per_class=1)
    session.load(name)
    run = session.train(epochs=1)
    assert run.source_accuracy[0] == pytest.approx(glyphnet.card(name)["accuracy"], abs=0.03)
    images, labels = held_out.pictures(tuple(glyphnet.card(name)["classes"]))
    right, pictures = held_out.measured()[
        name
    ]  # as they ship: another processor may round one answer to another class
    assert pictures == len(labels) == run.source_pictures
    assert right_of(glyphnet.load(name), images, labels) == pytest.approx(right, abs=3)


@pytest.mark.parametrize("counted", [True, False])
def test_a_network_is_measured_on_its_source_where_it_is_not_as_it_shipped(
    small: Session, counted: bool
):
    """`counted`: whether torch counts the change in the tensor's version."""

    def measured() -> SourceAccuracy:
        return source_accuracy(small.model, small.plan, small.model.module, ["head"], at_most=20)

    assert measured().flops == 0 and measured().pictures == 1000
    weight = small.model.module.layer1.conv1.weight
    (weight.detach() if counted else weight.data).mul_(0)
    changed = measured()
    assert changed.flops == 20 * glyphnet.card("glyphnet")["flops"] and changed.pictures == 1000
    assert changed.before == changed.after < 0.3


def test_only_held_out_pictures_are_packed_each_class_once():
    images = torch.arange(24, dtype=torch.uint8).view(24, 1, 1).expand(24, 48, 48) * 10
    one = Source(
        classes=("a", "b"),
        images=images[:4],
        labels=torch.tensor([0, 0, 1, 1]),
        held_out=torch.tensor([True, False, False, True]),
        textures=0,
    )
    many = torch.ones(20, dtype=torch.bool)
    two = Source(
        classes=("b", "dots"),
        images=images[3:24],
        labels=torch.tensor([0] + [1] * 20),
        held_out=torch.cat([torch.tensor([True]), many]),
        textures=1,
    )
    with np.load(io.BytesIO(held_out.packed({"one": one, "two": two}))) as file:
        assert file["names"].tolist() == ["a", "b", "dots"] and file["filled"].tolist() == [
            False,
            False,
            True,
        ]
        assert (
            file["totals"].tolist() == [1, 1, 20]
            and len(file["images"]) == 2 + held_out.MAX_PICTURES_PER_CLASS
        )
        assert file["images"].max() <= 15 and file["images"][1, 0, 0] == round(30 / 17)


def test_a_frozen_trunk_keeps_its_source_and_a_wild_one_forgets_it(small: Session):
    head = small.train(epochs=2)
    assert head.source_accuracy[0] == head.source_accuracy[1] > 0.7
    assert "only the output layer moved" in pretraining_accuracy_words(head)
    small.strategy("full")
    wild = small.train(epochs=6, lr=1e-2)
    assert wild.source_accuracy[0] == head.source_accuracy[0] and wild.source_accuracy[1] < 0.2
    assert "it forgot" in pretraining_accuracy_words(wild)
    on = small.train(epochs=1, lr=1e-5, from_=wild)
    assert on.source_accuracy[0] == head.source_accuracy[0] and on.source_accuracy[1] < 0.2
    scratch = small.train(scratch=True, epochs=1)
    assert scratch.source_accuracy is None and not pretraining_accuracy_words(scratch)
    head_row, rows = comparison_table(small.compare())
    assert head_row[-1] == "on its own source"
    assert {row[0]: row[-1] for row in rows}["scratch"] == "–"


def test_statistics_left_running_show_on_the_source_alone(small: Session, monkeypatch):
    def careless(module, trained, keeping=()):
        module.train()
        for name, parameter in module.named_parameters():
            parameter.requires_grad_(name.startswith("head"))

    monkeypatch.setattr(training_context, "set_modes", careless)
    run = small.train(epochs=10, cache=False)
    weights, pretrained = run.module(), dict(small.model.module.named_parameters())
    assert all(
        torch.equal(p, pretrained[n])
        for n, p in weights.named_parameters()
        if not n.startswith("head")
    )
    assert run.accuracy > 0.6
    assert run.source_accuracy[1] < run.source_accuracy[0] - 0.05


def test_no_figure_where_the_source_is_not_at_hand(session: Session):
    session.data("digits", per_class=1)
    for load in (
        lambda: session.load("glyphnet", "none"),
        lambda: session.load(glyphnet.load("glyphnet"), size=32),
    ):
        load()
        assert session.train(epochs=1).source_accuracy is None
    session.load("glyphnet")
    session.remove("layer4")
    assert session.train(epochs=1).source_accuracy is None


def test_small_changes_are_called_small(compared: Session):
    run = compared.runs[0]
    moved = replace(
        run, changes=tuple(replace(c, moved=True) for c in run.changes), source_pictures=1000
    )
    assert "small difference" in pretraining_accuracy_words(
        replace(moved, source_accuracy=(0.775, 0.760))
    )
    assert "it forgot" in pretraining_accuracy_words(replace(moved, source_accuracy=(0.775, 0.500)))
