"""Looks: the data by its features, and where the evidence lies, on networks whose truth is known."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision import models

from tlnb.core.data.dataset import DataSet
from tlnb.core.evaluation import embeddings
from tlnb.core.evaluation.embeddings import FeatureExtractor, features, features_of
from tlnb.core.evaluation.look import Look
from tlnb.core.evaluation.predictions import Judge
from tlnb.core.evaluation.saliency import BORDER, border_share, evidence, map_layer
from tlnb.core.models.pretrained import Transform
from tlnb.core.runtime.errors import UsageError
from tlnb.display.cards import HTML
from tlnb.session import Session


def transform_of(size: int) -> Transform:
    """Pixels from 0 to 1, less 0.5, divided by 0.25, at this edge."""
    return Transform(size=size, resize=size, mean=(0.5,) * 3, std=(0.25,) * 3)


PLAIN = transform_of(32)


@pytest.fixture(scope="module", autouse=True)
def quick() -> Iterator[None]:
    """As few steps of t-SNE as it takes: the tests ask for no beautiful map."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(embeddings, "TSNE_STEPS", 250)
        yield


# ── features ──


@pytest.fixture(scope="module")
def seen() -> tuple[Session, Look]:
    session = Session()
    session.data("digits", per_class=2)
    session.load("glyphnet")
    return session, session.look()


def test_pretrained_features_tell_digits_apart_before_any_training(seen: tuple[Session, Look]):
    session, found = seen
    pretrained, random = found.views
    assert (pretrained.of, random.of) == ("pretrained", "random start") and not session.runs
    assert pretrained.share > found.pixels > found.chance and pretrained.share > random.share + 0.03
    assert len(found.labels) == len(pretrained.points) == len(random.points) == 220
    assert dict(found.splits) == {"train": 20, "monitor": 200}
    assert session.look() == found  # nothing in it depends on chance


def test_test_images_are_never_looked_at(seen: tuple[Session, Look], monkeypatch):
    session, found = seen
    allowed = {i.numpy().tobytes() for s in ("train", "monitor") for i in session.dataset.images[s]}
    assert all(image.numpy().tobytes() in allowed for image in found._pictures)
    data = session.dataset
    ruined = replace(data, images={**data.images, "test": torch.zeros_like(data.images["test"])})
    extractor = FeatureExtractor(
        of="x", module=session.model.module, head="head", transform=session.model.transform
    )
    monkeypatch.setattr(embeddings, "MAX_IMAGES", 40)
    assert features("m", ruined, [extractor]).views == features("m", data, [extractor]).views


def test_neighbours_and_shares_agree_with_a_search_by_hand(seen: tuple[Session, Look]):
    session, found = seen
    rows = features_of(
        FeatureExtractor(
            of="x", module=session.model.module, head="head", transform=session.model.transform
        ),
        found._pictures,
    ).numpy()
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    labels = np.array(found.labels)
    likeness = [
        [-2.0 if j == i else float(unit[i] @ unit[j]) for j in range(len(unit))]
        for i in range(len(unit))
    ]
    nearest = [np.argsort(row)[::-1][:5] for row in likeness]
    for example, near in zip(found.examples, found.views[0].neighbours, strict=True):
        alike = np.array(likeness[example])  # of ties either may come first
        assert example not in near and alike[list(near)] == pytest.approx(
            alike[nearest[example]], abs=1e-5
        )
    assert found.views[0].share == pytest.approx(
        np.mean([labels[n[0]] == labels[i] for i, n in enumerate(nearest)])
    )
    pairs = [(labels[i] == labels[j]) for i in range(220) for j in range(220) if i != j]
    assert found.chance == pytest.approx(np.mean(pairs))


def test_a_runs_network_stands_beside_them(compared: Session):
    found = compared.look("features", run="head")
    assert [v.of for v in found.views] == ["pretrained", "random start", "run head"]
    assert found.views[0].share == found.views[2].share  # only its output layer moved
    html = HTML[Look](found)
    assert html.count("data:image/png") == 2 and "run head" in html and 'alt="' in html


def _arrays(counts: list[int], edge: int = 12) -> DataSet:
    session = Session()
    labels = np.repeat(np.arange(len(counts)), counts)
    images = np.random.default_rng(0).integers(0, 255, (len(labels), edge, edge, 3), dtype=np.uint8)
    return session.data(images, labels, test=0.5)


@pytest.mark.parametrize("counts", [[4, 4], [30, 6], [3] * 50])
def test_few_images_many_classes_uneven_classes(counts: list[int]):
    data = _arrays(counts)
    network = nn.Sequential(nn.AvgPool2d(4), nn.Flatten(), nn.Linear(27, 2)).eval()
    extractor = FeatureExtractor(of="x", module=network, head="2", transform=transform_of(12))
    found = features("toy", data, [extractor, extractor])
    assert (
        found.views[0].points == found.views[1].points and np.isfinite(found.views[0].points).all()
    )
    assert ("t-SNE" in found.method) == (len(found.labels) >= 10)
    assert HTML[Look](found).count("data:image/png") == 2


def test_features_that_are_all_alike_still_make_a_map():
    class Blind(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(torch.ones(len(x), 4))

    found = features(
        "blind",
        _arrays([12, 12]),
        [FeatureExtractor(of="x", module=Blind(), head="head", transform=transform_of(12))],
    )
    assert np.isfinite(found.views[0].points).all()


def test_at_most_so_many_images_classes_in_equal_parts(monkeypatch):
    monkeypatch.setattr(embeddings, "MAX_IMAGES", 20)
    _, labels, splits = embeddings._drawn(_arrays([60, 12]))
    assert (
        labels.bincount().tolist() == [14, 6] and sum(n for _, n in splits) == 20
    )  # the small class has but six


def test_features_of_a_convolution_head_are_averaged_over_places():
    network = models.squeezenet1_1(num_classes=3).eval()
    images = torch.randint(0, 255, (2, 3, 64, 64), dtype=torch.uint8)
    found = features_of(
        FeatureExtractor(of="x", module=network, head="classifier.1", transform=transform_of(64)),
        images,
    )
    inputs = transform_of(64)(images)
    with torch.no_grad():
        assert torch.allclose(found, network.features(inputs).mean((2, 3)), atol=1e-5)


# ── stages ──


class TwoStages(nn.Module):
    """The first stage keeps the brightness, which is the class; the second forgets it."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 2, 1)
        self.second = nn.Conv2d(2, 2, 1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(2, 2)
        with torch.no_grad():
            self.second.weight.zero_()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.pool(self.second(self.first(x))).flatten(1))


def _bright_or_dark(each: int = 12) -> DataSet:
    rng, labels = np.random.default_rng(0), np.repeat([0, 1], each)
    tones = np.where(labels, 180, 60)[:, None, None, None]
    images = np.clip(rng.normal(tones, 20, (2 * each, 12, 12, 3)), 0, 255).astype(np.uint8)
    return Session().data(images, labels, test=0.25)


def test_stages_show_where_the_answer_gets_lost():
    extractor = FeatureExtractor(
        of="toy", module=TwoStages().eval(), head="head", transform=transform_of(12)
    )
    found = embeddings.stages("toy", _bright_or_dark(), [extractor])
    first, second = found.depths[0].probes[:2]
    assert (first.stage, second.stage) == ("first", "second")
    assert first.accuracy == 1 and second.accuracy <= 0.6 and found.depths[0].best is first
    assert first.features == 8 and first.error > 0
    assert HTML[Look](found).count("data:image/png") == 1


def test_stages_read_the_labels_in_use_alone(small: Session):
    found = small.look("stages")
    assert [d.of for d in found.depths] == ["pretrained", "random start"]
    assert [p.stage for p in found.depths[0].probes] == [s.name for s in small.layers().stages][:-1]
    assert len(found.labels) == 20 and small.script().splitlines()[-1] == "%tl_look stages"
    data = small.dataset
    ruined = {
        s: images if s == "train" else torch.zeros_like(images) for s, images in data.images.items()
    }
    small.commit(replace(small.state, dataset=replace(data, images=ruined)))
    assert small.look("stages") == found and "pretrained" in HTML[Look](found)


def test_stages_need_a_label_to_hold_out(session: Session):
    session.data("digits", per_class=1)
    session.load("glyphnet")
    with pytest.raises(UsageError, match="--per-class 2$"):
        session.look("stages")


def test_stages_follow_the_plans_edits(small: Session):
    small.remove("layer4")
    found = small.look("stages")
    assert [p.stage for p in found.depths[0].probes] == ["stem", "layer1", "layer2", "layer3"]


# ── evidence ──


class Corner(nn.Module):
    """Its class depends on the brightness of the first eight rows and columns alone."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 2)
        with torch.no_grad():
            self.head.weight.copy_(torch.tensor([[-1.0] * 3, [1.0] * 3]))
            self.head.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x[:, :, :8, :8].mean((2, 3)))


class Bright(nn.Module):
    """A convolution that passes the brightness on, then its mean over the image."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(2, 2)
        with torch.no_grad():
            self.conv.weight.fill_(0.1)
            self.conv.bias.fill_(0.5)
            self.head.weight.copy_(torch.tensor([[-1.0, -1.0], [1.0, 1.0]]))
            self.head.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.pool(self.relu(self.conv(x))).flatten(1))


def _judge(network: nn.Module) -> Judge:
    return Judge(
        model="toy",
        run=None,
        module=network.eval(),
        classes=("dim", "lit"),
        transform=PLAIN,
        edge=32,
    )


def test_occlusion_finds_the_only_place_that_counts():
    rng = np.random.default_rng(1)
    image = rng.integers(0, 120, (32, 32, 3)).astype(np.uint8)
    image[:8, :8] = 255
    found = evidence(_judge(Corner()), [image])
    assert "occlusion" in found.method and found.images[0].label == "lit"
    heat = found._heat[0]
    assert (
        float(heat[:11, :11].sum() / heat.sum()) > 0.99
    )  # a covering square of six may reach in by its corner
    assert float(heat.max()) == 1 and heat[:4, :4].min() > 0.2
    middle = rng.integers(0, 120, (32, 32, 3)).astype(np.uint8)
    assert found.images[0].border > 0.3 > evidence(_judge(Middle()), [middle]).images[0].border


class Middle(Corner):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(x[:, :, 12:20, 12:20].mean((2, 3)))


def test_grad_cam_finds_the_bright_patch():
    image = np.zeros((32, 32, 3), np.uint8)
    image[20:28, 4:12] = 255
    network = Bright()
    found = evidence(_judge(network), [image])
    assert found.method == "Grad-CAM at relu" and found.images[0].label == "lit"
    heat = found._heat[0]
    assert float(heat[19:29, 3:13].sum() / heat.sum()) > 0.99
    assert network.relu.inplace and all(
        p.grad is None for p in network.parameters()
    )  # the network is left alone


def test_border_share_by_hand():
    even = torch.ones(32, 32)
    assert border_share(even) == pytest.approx(BORDER, abs=1e-6)
    assert border_share(torch.zeros(8, 8)) is None
    edge = torch.zeros(64, 64)
    edge[0] = edge[-1] = 1
    assert border_share(edge) == pytest.approx(1)
    centre = torch.zeros(64, 64)
    centre[20:40, 20:40] = 1
    assert border_share(centre) == pytest.approx(0)


def test_which_map_says_where():
    assert map_layer(models.resnet18(num_classes=2), 224) == "layer4"
    assert map_layer(models.resnet18(num_classes=2), 96) is None  # three by three: too coarse
    assert map_layer(models.squeezenet1_1(num_classes=2), 224) == "features"
    transformer = models.VisionTransformer(32, 4, 2, 2, 32, 64, num_classes=2)
    assert map_layer(transformer, 32) is None  # its only map is the cut into patches


def test_transformers_and_photos_have_evidence_too(session: Session):
    session.load(models.VisionTransformer(32, 4, 1, 2, 16, 32, num_classes=3), size=32)
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (50, 40, 3), dtype=np.uint8)
    found = session.look(image)
    assert found.images[0].label.startswith("class ") and "occlusion" in found.method
    session.load(models.squeezenet1_1(num_classes=3), size=128)
    assert session.look(image).method == "Grad-CAM at features"
    assert "data:image/png" in HTML[Look](session.look(image))


def test_evidence_of_the_data_by_the_last_run(compared: Session):
    found = compared.look("evidence")
    assert (
        found.run == "head" and found.data == "digits" and len(found.images) == embeddings.EXAMPLES
    )
    assert all(e.name.startswith("train image ") for e in found.images)
    assert len({e.truth for e in found.images}) == embeddings.EXAMPLES
    assert all(
        0 <= e.border < 0.2 for e in found.images
    )  # digits are padded: nothing lies in the border
    html = HTML[Look](found)
    assert "true class" in html and "25%" in html


def test_what_cannot_be_done_is_one_line(compared: Session, session: Session, monkeypatch):
    blank = np.zeros((8, 8), np.uint8)
    before = compared.script()
    with pytest.raises(UsageError, match="13 images are too many"):
        compared.look(*[blank] * 13)
    with pytest.raises(UsageError, match="%tl_data"):
        session.look()
    session.load("glyphnet")
    with pytest.raises(UsageError, match="%tl_data digits"):
        session.look("evidence")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match="pip install"):
        compared.look(blank)
    assert compared.script() == before and session.script().count("tl_look") == 0


def test_magics(shell, compared: Session):
    tl = shell.user_ns["tl"]
    tl.commit(compared.state)
    assert shell.run_cell("%tl_look evidence --run scratch").result.run == "scratch"
    assert tl.script().splitlines()[-1] == "%tl_look evidence --run scratch"
    assert "features" in shell.complete("feat", "%tl_look feat", 13)[1]
    assert not shell.run_cell("%tl_look nowhere.jpg").success
