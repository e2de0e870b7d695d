"""Networks of timm and of a hub: what is loaded, and the line for each way to fail."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.core.models.hub import Hub, closed_port, point_to, serving
from tests.core.models.loading.networks import same, saved
from tlnb.core.models import pretrained
from tlnb.core.runtime.errors import ModelError, TLError, UsageError
from tlnb.display import model_cards
from tlnb.session import Session
from tlnb.session.job_runner import carry_out

timm = pytest.importorskip("timm")
from huggingface_hub import constants  # noqa: E402

NAME = "timm/test_resnet.r160_in1k"  # the smallest of timm: 1.9 MB
STATED = {
    "input_size": [3, 64, 64],
    "crop_pct": 0.9,
    "interpolation": "bicubic",
    "mean": [0.4, 0.5, 0.6],
    "std": [0.2, 0.2, 0.3],
    "license": "mit",
    "num_classes": 3,
    "first_conv": "conv1.0",
    "classifier": "fc",
    "label_offset": 0,
}
NET = {"architecture": "test_resnet", "num_classes": 3, "pretrained_cfg": STATED}


def network(name: str = "test_resnet", **settings: object) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return timm.create_model(name, **settings).eval()


@pytest.fixture(scope="module")
def net() -> nn.Module:
    return network()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, net: nn.Module) -> Iterator[Hub]:
    with serving(tmp_path / "hub", monkeypatch) as hub:
        hub.add("timm/test_resnet.r160_in1k", net)
        yield hub


# ── what is loaded ────────────────────────────────────────────────────────────────────────────────


def test_a_network_of_timm_comes_with_what_timm_knows_of_it(
    session: Session, hub: Hub, net: nn.Module
):
    seen = []
    session.report = seen.append
    model = session.load("timm/test_resnet")  # without its tag
    assert same(model.module, net) and model.name == NAME
    cfg = timm.get_pretrained_cfg("test_resnet")
    assert (model.transform.size, model.transform.mean) == (cfg.input_size[1], cfg.mean)
    assert model.transform.resize == int(cfg.input_size[1] / cfg.crop_pct)
    assert model.transform.interpolation == cfg.interpolation
    card = model.card
    assert card.licence == cfg.license and "imagenet-1k" in card.source and card.on_disk
    assert model.classes is not None and model.classes[:2] == ("tench", "goldfish")
    assert session.layers().head == "fc"
    downloads = [p for p in seen if p.phase == "downloading"]
    assert downloads[0].epoch == 0 and downloads[-1].epoch == downloads[-1].epochs == 2  # MB
    text = model_cards.model_card(model)
    assert cfg.license in text and "downloaded for timm (1.9 MB)" in text
    assert session.script().endswith(f"%tl_load {NAME}")


def test_what_is_in_the_hubs_cache_is_loaded_without_asking(session: Session, hub: Hub):
    session.load(NAME)
    hub.asked.clear()
    session.load(NAME)
    assert not hub.asked and session.models("timm/test_resnet").cards[0].on_disk


def test_a_repository_of_the_hub_states_its_own_preprocessing_and_classes(
    session: Session, hub: Hub
):
    own = network(num_classes=3)
    hub.add("good/net", own, **NET, label_names=["ant", "bee", "fly"])
    model = session.load("hf-hub:good/net")
    assert same(model.module, own) and model.classes == ("ant", "bee", "fly")
    assert (model.transform.size, model.transform.resize) == (64, 71)
    assert model.transform.mean == (0.4, 0.5, 0.6) and model.card.licence == "mit"
    assert model.card.source_classes == 3 and "good/net" in model.card.recipe


def test_a_config_of_before_and_unknown_fields_are_read(session: Session, hub: Hub):
    own = network(num_classes=3)
    early = {**STATED, "labels": ["ant", "bee", "fly"], "num_features": 64, "id2label": {}}
    elsewhere = {"url": "http://127.0.0.1:9/x.pth", "file": "/etc/passwd", "state_dict": {"x": 1}}
    hub.add("good/early", own, architecture="test_resnet", **early, **elsewhere)
    model = session.load("hf-hub:good/early")
    assert same(model.module, own) and model.classes == ("ant", "bee", "fly")
    assert model.transform.mean == (0.4, 0.5, 0.6)


@pytest.mark.parametrize("name", ["test_vit", "mobilenetv3_small_050", "test_convnext"])
def test_a_network_that_ends_in_features_gets_an_output_layer(
    session: Session, hub: Hub, name: str
):
    """The last of MobileNet's layers is a convolution, which is not taken for one."""
    bare = network(name, num_classes=0)
    cfg = {**bare.pretrained_cfg, "num_classes": 0}
    hub.add("good/features", bare, architecture=name, num_classes=0, pretrained_cfg=cfg)
    session.data("digits", per_class=1)
    model = session.load("hf-hub:good/features")
    assert model.card.notes == (
        f"it ends in {bare.head_hidden_size:,} features, to which an output layer is appended",
    )
    head = model.module.get_submodule(session.layers().head)
    assert isinstance(head, nn.Linear) and session.plan.trained == (session.layers().head,)
    with torch.no_grad():
        images = torch.randn(2, 3, model.transform.size, model.transform.size)
        features = bare(images)
        given: list[torch.Tensor] = []
        head.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0]))
        model.module(images)
    assert torch.allclose(given[0], features, atol=1e-5)


def test_a_vit_is_built_for_images_of_another_size(session: Session, hub: Hub, tmp_path: Path):
    session.data("digits", per_class=1, size=32)
    model = session.load("timm/test_vit", "none")
    assert model.transform.size == 32 and model.module(torch.zeros(1, 3, 32, 32)).shape[1] == 1000
    run = session.train(epochs=1, augment="none", cache=False)
    session.save(tmp_path / "vit.safetensors")
    assert same(Session().load(tmp_path / "vit.safetensors").module, run.module())
    other = Session()
    other.load("timm/test_vit", "none")
    with pytest.raises(UsageError, match="positions are of 160 pixels: .* --size 32"):
        other.data("digits", per_class=1, size=32)
    assert other.dataset is None


def test_a_job_and_a_session_come_back(hub: Hub, tmp_path: Path):
    session = Session()
    session.data("digits", per_class=2, size=32)
    session.load("timm/test_resnet")
    session.save(job=tmp_path / "job.json", epochs=1, augment="none")
    assert f'"{NAME}"' in (tmp_path / "job.json").read_text()  # another tag may be first later
    run = carry_out(Session(), tmp_path / "job.json", tmp_path / "out")
    back = Session()
    back.resume(tmp_path / "out")
    assert same(back.runs[0].module(), run.module()) and back.model.name == NAME
    assert same(Session().load(tmp_path / "out" / "run.safetensors").module, run.module())


def test_the_list_is_timms(shell):
    tl = shell.user_ns["tl"]
    listed = tl.models("timm/test_*vit*")
    assert {"timm/test_vit.r160_in1k", "timm/test_vit2.r160_in1k"} <= {c.name for c in listed.cards}
    vit = next(c for c in listed.cards if c.name == "timm/test_vit.r160_in1k")
    assert vit.parameters == sum(p.numel() for p in network("test_vit").parameters())
    assert (vit.licence, vit.size) == ("apache-2.0", 160)
    assert "timm/test_vit.r160_in1k" in model_cards.catalogue_card(listed)
    assert len(tl.models("timm/dinov2").cards) >= 4  # a word
    line = "%tl_load timm/test_vit2"
    assert "timm/test_vit2.r160_in1k" in shell.complete("timm/test_vit2", line, len(line))[1]


# ── one's own ─────────────────────────────────────────────────────────────────────────────────────


def test_an_own_network_of_timm_states_its_preprocessing(session: Session):
    model = session.load(network("test_vit", num_classes=4), called="mine")
    assert (model.transform.size, model.transform.mean) == (160, (0.5, 0.5, 0.5))
    assert model.card.notes == ("preprocessing as its pretrained_cfg states it: mean, std, size",)
    strange = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 4))
    strange.pretrained_cfg = {"mean": "grey"}
    assert "assumed to be ImageNet's" in session.load(strange, size=32, called="mine").card.notes[0]


class Torchvision:
    """Networks whose output layer was taken away, as is usual."""

    @staticmethod
    def mobilenet() -> nn.Module:
        from torchvision import models

        whole = models.mobilenet_v3_small(weights=None)
        whole.classifier = nn.Identity()
        return whole

    @staticmethod
    def alexnet() -> nn.Module:
        from torchvision import models

        whole = models.alexnet(weights=None)
        whole.classifier[6] = nn.Identity()
        return whole

    @staticmethod
    def pooled_convolution() -> nn.Module:
        class Net(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
                self.fc = nn.Identity()

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return self.fc(self.body(x).flatten(1))

        return Net()


@pytest.mark.parametrize(
    ("make", "head"),
    [
        (Torchvision.mobilenet, "classifier"),
        (Torchvision.alexnet, "classifier.6"),
        (Torchvision.pooled_convolution, "fc"),
        (lambda: network("mobilenetv3_small_050", num_classes=0), "classifier"),
        (lambda: network("test_resnet", num_classes=0), "fc"),
        (lambda: network("test_convnext", num_classes=0), "head.fc"),
    ],
)
def test_an_emptied_head_is_filled_and_nothing_else_is_taken_for_one(session: Session, make, head):
    session.load(make(), called="mine")
    assert session.layers().head == head


def test_an_identity_after_the_scores_takes_none_away(session: Session):
    class Net(nn.Sequential):
        pass

    net = Net()
    net.body, net.scores, net.output = nn.Flatten(), nn.Linear(3 * 32 * 32, 4), nn.Identity()
    session.load(net, size=32, called="mine")
    assert session.layers().head == "scores"


# ── what cannot be loaded ─────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("source", "options", "words"),
    [
        ("timm/test_resnt", {}, "no network 'test_resnt': did you mean test_resnet"),
        ("timm/test_resnet.a1", {}, "no weights 'a1': there are r160_in1k"),
        ("timm/test_resnet.a1", {"weights": "none"}, "no weights 'a1'"),
        ("timm/test_vit", {"weights": "none", "size": 200}, "--size 200: it takes 160, 192"),
        ("timm/vit_giant_patch16_gap_224", {"weights": "best"}, "use default, none or a file"),
        ("hf-hub:a/b/c", {}, "not the name of a repository; write hf-hub:ORG/NAME"),
        ("hf-hub:good/net@v9", {}, "has no revision 'v9'"),
        ("hf-hub:good/nothing", {}, "holds no config.json"),
        ("hf-hub:good/empty", {}, "holds no model.safetensors and no pytorch_model.bin"),
        ("hf-hub:gated/net", {}, "gated/net is gated; accept its terms at http"),
        ("hf-hub:missing/net", {}, "no repository missing/net, or it is private"),
        ("hf-hub:private/net", {}, "no repository private/net, or it is private"),
        ("hf-hub:broken/net", {}, "127.0.0.1 answered 500"),
        ("hf-hub:slow/net", {}, "127.0.0.1 did not answer in time"),
        ("hf-hub:short/net", {}, "cut short after 0.9 of 1.9 MB; run the line again"),
        ("hf-hub:good/other", {}, "model.safetensors does not fit hf-hub:good/other: .*Missing"),
        ("hf-hub:good/strange", {}, "does not describe a network of timm .*'architecture'"),
        ("hf-hub:good/code", {}, "'os.system', which timm does not have"),
        ("hf-hub:good/long", {}, "asks for a network with layers"),
        ("hf-hub:good/scores", {}, "asks for a network with num_classes"),
        ("hf-hub:good/wide", {}, r"network of [\d,]+ parameters, more than memory holds"),
        ("hf-hub:good/wide", {"weights": "none"}, r"parameters, more than memory holds"),
        ("timm/convnext_tiny_in22ft1k", {}, "another name: %tl_load timm/convnext_tiny.fb_in22k"),
        ("hf-hub:good/unknown", {}, "timm cannot build hf-hub:good/unknown"),
        ("hf-hub:good/pickle", {}, "pytorch_model.bin is damaged, or .*it calls print"),
        ("hf-hub:good/oblong", {}, "preprocessing that is not supported here .*64×32"),
    ],
)
def test_one_line_and_the_session_unchanged(
    small: Session, hub: Hub, net: nn.Module, monkeypatch, source, options, words
):
    monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 0.3)
    for owner in ("gated", "missing", "private", "broken", "slow", "short"):
        hub.add(f"{owner}/net", net, **NET)
    hub.add("good/empty", None, **NET)
    hub.add("good/strange", net, hello=1)
    hub.add("good/code", net, **{**NET, "architecture": "os.system"})
    for name, arguments in (
        ("long", {"layers": [10**7, 1, 1, 1]}),
        ("wide", {"channels": [32_000] * 4}),
        ("unknown", {"colour": "red"}),
    ):
        hub.add(f"good/{name}", net, **NET, model_args=arguments)
    hub.add("good/scores", net, **{**NET, "num_classes": 10**9})
    hub.add("good/other", network("test_vit", num_classes=3), **NET)
    hub.add("good/pickle", None, **NET)
    hub.files["good/pickle/pytorch_model.bin"] = saved({"x": print})
    hub.add("good/oblong", net, **{**NET, "pretrained_cfg": {**STATED, "input_size": [3, 64, 32]}})
    before = small.state
    with pytest.raises(ModelError, match=words) as error:
        small.load(source, **options)
    assert len(error.value._render_traceback_()) == 1 and small.state is before


def test_an_interrupted_download_goes_on_where_it_was(
    session: Session, hub: Hub, net: nn.Module, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 50_000)
    hub.add("interrupted/net", net, **{**NET, "num_classes": 1000})
    assert same(session.load("hf-hub:interrupted/net").module, net)
    assert hub.asked.count("GET interrupted/net/model.safetensors") == 2


def test_without_a_network(small: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    before = small.state
    point_to(f"http://127.0.0.1:{closed_port()}", tmp_path, monkeypatch)
    with pytest.raises(
        ModelError, match="no connection to 127.0.0.1 .*efficientnet_lite0 needs no"
    ):
        small.load(NAME)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match="not in the hub's cache, and HF_HUB_OFFLINE is set"):
        small.load(NAME)
    assert small.state is before


def test_without_timm_one_line_says_how_to_get_it(small: Session, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    before = small.state
    for call in (
        lambda: small.load(NAME),
        lambda: small.load("hf-hub:good/net"),
        lambda: small.models("timm/vit*"),
    ):
        with pytest.raises(ModelError, match="needs the package timm: %pip install timm$"):
            call()
    assert small.state is before


@pytest.mark.parametrize(
    ("pattern", "words"),
    [("timm/resnt50", "did you mean resnet50"), ("hf-hub:timm/*", "%tl_load hf-hub:ORG/NAME")],
)
def test_a_pattern_that_matches_nothing(session: Session, pattern: str, words: str):
    with pytest.raises(TLError, match=words):
        session.models(pattern)


def test_a_file_of_ones_own_and_a_random_start(hub: Hub, net: nn.Module, tmp_path: Path):
    file = tmp_path / "mine.pth"
    torch.save(net.state_dict(), file)
    assert same(pretrained.load("timm/test_resnet", file).module, net)
    one, two = (pretrained.load("timm/test_resnet", "none") for _ in range(2))
    assert same(one.module, two.module) and "trained on nothing" in repr(one)
    assert not hub.asked
    torch.save(network("test_vit").state_dict(), file)
    with pytest.raises(ModelError, match="does not fit timm/test_resnet"):
        pretrained.load("timm/test_resnet", file)


def test_a_vision_transformer_of_torchvision_names_its_size(session: Session):
    with pytest.raises(UsageError, match="vit_b_16, whose positions are of 224 pixels: leave out"):
        session.load("vit_b_16", "none", size=160)
    assert session.model is None
