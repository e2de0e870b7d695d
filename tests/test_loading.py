"""The catalogue, weights from the network (a loopback server) and from files, runs, preprocessing."""

from __future__ import annotations

import hashlib
import io
import os
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from torch import nn
from torchvision import models

from tlnb.core import fetch, pretrained
from tlnb.core.catalogue import catalogue, torchvision_card, torchvision_weights
from tlnb.core.data import open_data
from tlnb.core.errors import ModelError, UsageError
from tlnb.core.train import Progress
from tlnb.core.weights import outline
from tlnb.display import cards, live

NAME = "squeezenet1_1"  # 5 MB, the smallest there is


def saved(content: object) -> bytes:
    out = io.BytesIO()
    torch.save(content, out)
    return out.getvalue()


def random_network(name: str, **settings: object) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return models.get_model(name, weights=None, **settings)


@pytest.fixture(scope="module")
def network() -> nn.Module:
    return random_network(NAME)


@pytest.fixture(scope="module")
def content(network: nn.Module) -> bytes:
    return saved(network.state_dict())


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """torch's folder for this test."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    return tmp_path / "torch" / "hub" / "checkpoints"


class Server(ThreadingHTTPServer):
    """Sends `content` in the way that the first part of the path says."""

    daemon_threads = True
    content = b""
    answered = 0

    def url(self, way: str) -> str:
        digest = hashlib.sha256(self.content).hexdigest()
        return f"http://127.0.0.1:{self.server_port}/{way}/{NAME}-{digest[:8]}.pth"

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that gave up is no news."""


class Answer(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.answered += 1
        way, body = self.path.split("/")[1], self.server.content
        if way == "missing":
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if way == "slow":
            self.wfile.write(body[:1000])
            self.wfile.flush()
            time.sleep(2)
        elif way == "short":
            self.wfile.write(body[: len(body) // 2])
        else:
            self.wfile.write(body if way == "good" else bytes(reversed(body)))

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(content: bytes, cache: Path) -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Answer) as server:
        server.content = content
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield server
        server.shutdown()


def serve_from(monkeypatch: pytest.MonkeyPatch, url: str, name: str = NAME) -> None:
    monkeypatch.setattr(next(iter(torchvision_weights(name).values())).value, "url", url)


def same(module: nn.Module, other: nn.Module) -> bool:
    a, b = module.state_dict(), other.state_dict()
    return list(a) == list(b) and all(torch.equal(a[k], b[k]) for k in a)


# ── downloads ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_download_is_reported_cached_and_used_again(session, server, cache, network, monkeypatch, capfd):
    serve_from(monkeypatch, server.url("good"))
    seen: list[Progress] = []
    session.report = seen.append
    assert not next(c for c in session.models(NAME).cards if c.name == NAME).on_disk and not cache.exists()
    model = session.load(NAME)
    assert same(model.module, network) and model.card.on_disk
    assert model.classes is not None and model.classes[:2] == ("tench", "goldfish") and len(model.classes) == 1000
    downloads = [p for p in seen if p.phase == "downloading"]
    assert {p.run for p in downloads} == {NAME} and (downloads[0].epoch, downloads[-1].epoch) == (0, 5)
    assert {p.epochs for p in downloads} == {5}  # megabytes
    assert [f.name for f in cache.iterdir()] == [server.url("good").rpartition("/")[2]]
    assert "".join(capfd.readouterr()) == ""
    session.load(NAME)
    assert server.answered == 1 and session.models(NAME).cards[0].on_disk
    assert socket.getdefaulttimeout() is None and torch.hub.tqdm.__module__.startswith("tqdm")


@pytest.mark.parametrize(
    ("way", "words"),
    [
        ("missing", "127.0.0.1 answered 404 Not Found"),
        ("short", "it was cut short, 2.5 MB of 5.0 MB came"),
        ("wrong", "came with the wrong hash"),
        ("slow", "127.0.0.1 sent nothing for 0.3 s"),
    ],
)
def test_a_failed_download_is_one_line_and_leaves_nothing(small, server, cache, monkeypatch, way, words):
    serve_from(monkeypatch, server.url(way))
    monkeypatch.setattr(fetch, "TIMEOUT", 0.3)
    before = dict(vars(small))
    with pytest.raises(ModelError) as error:
        small.load(NAME)
    assert words in str(error.value) and f"%tl_load {NAME} --weights FILE" in str(error.value)
    assert len(error.value._render_traceback_()) == 1 and "\n" not in str(error.value)
    assert list(cache.iterdir()) == [] and vars(small) == before
    assert socket.getdefaulttimeout() is None


def test_without_a_network(session, cache, monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    serve_from(monkeypatch, f"http://127.0.0.1:{port}/{NAME}-00000000.pth")
    with pytest.raises(ModelError, match=r"no connection to 127.0.0.1 \(.*glyphnet, which needs no network"):
        session.load(NAME)
    assert session.model is None and list(cache.iterdir()) == []


def test_a_cache_that_cannot_be_written(session, server, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way: not even root makes a folder inside a file")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "file"))
    serve_from(monkeypatch, server.url("good"))
    with pytest.raises(ModelError, match=r"checkpoints cannot be written \(.*%env TORCH_HOME=FOLDER"):
        session.load(NAME)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "elsewhere"))  # what the line says
    assert session.load(NAME).card.on_disk


def test_a_full_disk(session, server, cache, monkeypatch):
    resource = pytest.importorskip("resource", reason="no limits on this system")
    serve_from(monkeypatch, server.url("good"))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, before[1]))
    try:
        with pytest.raises(ModelError, match=r"no room in .*checkpoints \(5.0 MB needed, .* free\); .*TORCH_HOME"):
            session.load(NAME)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(cache.iterdir()) == [] and session.model is None


def test_an_interrupted_download_leaves_nothing(session, server, cache, monkeypatch):
    serve_from(monkeypatch, server.url("good"))

    def stop(progress: Progress) -> None:
        if progress.epoch:
            raise KeyboardInterrupt

    session.report = stop
    with pytest.raises(KeyboardInterrupt):
        session.load(NAME)
    assert list(cache.iterdir()) == [] and session.model is None


def test_leftovers_of_killed_kernels_go_and_living_downloads_stay(server, cache, monkeypatch):
    serve_from(monkeypatch, server.url("good"))
    cache.mkdir(parents=True)
    file = fetch.cached_file(server.url("good"))
    dead, living, other = (
        file.with_name(n) for n in (f"{file.name}.1.partial", f"{file.name}.2.partial", "b.pth.3.partial")
    )
    for left in (dead, living, other):
        left.write_bytes(b"half")
    for left in (dead, other):
        os.utime(left, (0, 0))
    pretrained.load(NAME)
    assert set(cache.iterdir()) == {file, living, other}


def test_a_damaged_copy_is_fetched_again(server, cache, content, monkeypatch):
    serve_from(monkeypatch, server.url("missing"))
    cache.mkdir(parents=True)
    file = fetch.cached_file(server.url("good"))
    file.write_bytes(content[:1000])
    with pytest.raises(ModelError, match="the copy in .* is damaged"):
        pretrained.load(NAME)
    serve_from(monkeypatch, server.url("good"))
    pretrained.load(NAME)
    assert file.read_bytes() == content


def test_progress_of_a_download_reads_as_megabytes():
    assert "squeezenet: downloading 2 of 5 MB" in live.Notebook()._html(Progress("squeezenet", "downloading", 2, 5))
    assert "photos: decoding 2 of 5 files" in live.Notebook()._html(Progress("photos", "decoding", 2, 5))


# ── names of weights ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("way", ["IMAGENET1K_V1", "imagenet1k_v1", "MobileNet_V2_Weights.IMAGENET1K_V1", "member"])
def test_weights_by_torchvisions_name(cache, monkeypatch, way):
    state = saved(random_network("mobilenet_v2").state_dict())
    member = torchvision_weights("mobilenet_v2")["IMAGENET1K_V1"]
    file = cache / f"mobilenet_v2-{hashlib.sha256(state).hexdigest()[:8]}.pth"
    cache.mkdir(parents=True)
    file.write_bytes(state)
    monkeypatch.setattr(member.value, "url", f"http://127.0.0.1:9/{file.name}")  # already here: no server is asked
    model = pretrained.load("mobilenet_v2", member if way == "member" else way)
    assert model.weights == model.card.weights == "IMAGENET1K_V1" and model.transform.resize == 256
    assert [other.weights for other in model.card.others] == ["IMAGENET1K_V2"]
    assert "IMAGENET1K_V2" in cards.model_card(model)
    assert torchvision_card("mobilenet_v2").weights == "IMAGENET1K_V2"  # the default


def test_unknown_weights_are_listed(session):
    with pytest.raises(ModelError, match=r"IMAGENET1K_V2, IMAGENET1K_V1 or a file; did you mean IMAGENET1K_V2 or"):
        session.load("resnet50", "IMAGENET1K_V3")
    with pytest.raises(ModelError, match="glyphnet has no weights 'best': use default, none or a file"):
        session.load("glyphnet", "best")
    with pytest.raises(ModelError, match="no weights file 'best.pth'"):
        session.load("glyphnet", "best.pth")


def test_names_of_weights_are_completed(shell):
    complete = lambda line: shell.complete(line.split(" ")[-1], line, len(line))[1]  # noqa: E731
    assert complete("%tl_load resnet50 --weights IMA") == ["IMAGENET1K_V1", "IMAGENET1K_V2"]
    assert {"default", "none"} <= set(complete("%tl_load glyphnet --weights "))
    assert complete("%tl_models --sort f") == ["fast"]


# ── files ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def file_of(folder: Path, content: object, name: str = "mine.pth") -> str:
    (folder / name).write_bytes(saved(content))
    return str(folder / name)


def test_a_file_says_what_is_known_of_it(tmp_path, network):
    model = pretrained.load(NAME, file_of(tmp_path, network.state_dict()))
    assert same(model.module, network) and model.weights.endswith("mine.pth")
    assert model.card.source == "unknown data (weights from mine.pth)" and model.card.accuracy is None
    assert "assumed to be those of ImageNet-1K" in model.card.notes[-1] and model.classes is not None
    assert all(p.requires_grad and not p.is_meta for p in model.module.parameters())


@pytest.mark.parametrize("wrapper", ["state_dict", "model", "model_state_dict"])
def test_wrappers_and_prefixes_are_opened_and_said(tmp_path, network, wrapper):
    state = {wrapper: nn.DataParallel(network).state_dict(), "epoch": 3}
    model = pretrained.load(NAME, file_of(tmp_path, state))
    assert same(model.module, network)
    assert model.card.notes[:2] == (f"mine.pth: taken from its {wrapper!r}",
                                    "mine.pth: 'module.' dropped from the front of every name")  # fmt: skip
    assert "module." in cards.model_card(model)


def test_a_file_with_other_classes_brings_its_output_layer(tmp_path):
    ten = random_network(NAME, num_classes=10)
    model = pretrained.load(NAME, file_of(tmp_path, ten.state_dict()))
    assert same(model.module, ten) and model.classes is None and model.card.source_classes == 10
    assert "10 classes of unknown names, the original has 1,000" in model.card.notes[-1]
    assert model.fresh()(torch.zeros(1, 3, 64, 64)).shape == (1, 10)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s.pop("features.0.weight"), "does not fit squeezenet1_1: features.0.weight is missing"),
        (lambda s: s.update({"features.99.w": torch.zeros(1)}), "features.99.w is not part of squeezenet1_1"),
        (
            lambda s: s.update({"features.0.bias": torch.zeros(3)}),
            r"features.0.bias is \(3,\), squeezenet1_1 has \(64,\)",
        ),
        (lambda s: s.clear(), "holds no state_dict"),
        (lambda s: s.update({"evil": print}), "damaged, or no state_dict"),
    ],
)
def test_a_file_that_does_not_fit_names_the_layers(session, tmp_path, network, change, words):
    state = dict(network.state_dict())
    change(state)
    with pytest.raises(ModelError, match=words):
        session.load(NAME, file_of(tmp_path, state))
    assert session.model is None


def test_values_that_are_no_numbers_are_said(tmp_path, network):
    state = {**network.state_dict(), "classifier.1.bias": torch.full((1000,), float("nan"))}
    model = pretrained.load(NAME, file_of(tmp_path, state))
    assert "no numbers in classifier.1.bias" in model.card.notes[0]


def test_half_precision_files_become_single(tmp_path, network):
    state = {k: v.half() for k, v in network.state_dict().items()}
    model = pretrained.load(NAME, file_of(tmp_path, state))
    assert {p.dtype for p in model.module.parameters()} == {torch.float32}


def test_older_names_and_files_without_counters(tmp_path):
    from safetensors.torch import save_file

    dense = random_network("densenet121")
    old = {k.replace(".norm1.", ".norm.1.").replace(".conv2.", ".conv.2."): v for k, v in dense.state_dict().items()
           if not k.endswith("num_batches_tracked")}  # fmt: skip
    assert any(".norm.1." in k for k in old)
    assert same(pretrained.load("densenet121", file_of(tmp_path, old)).module, dense)
    tiny = random_network("mnasnet0_5")  # its own loader insists on a version, which safetensors does not keep
    save_file(tiny.state_dict(), tmp_path / "mnasnet.safetensors")
    assert same(pretrained.load("mnasnet0_5", tmp_path / "mnasnet.safetensors").module, tiny)


def test_random_start_is_the_same_each_time_and_promises_nothing():
    state = torch.random.get_rng_state()
    one, two = pretrained.load("glyphnet", "none"), pretrained.load("glyphnet", "none")
    assert torch.equal(torch.random.get_rng_state(), state)
    assert same(one.module, two.module) and not same(one.module, pretrained.load("glyphnet").module)
    assert one.classes is None and one.card.accuracy is None and one.card.training == {}
    assert "trained on nothing" in repr(one)


# ── architectures ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("name", "weights"),
    [("vit_b_16", "IMAGENET1K_SWAG_E2E_V1"), ("vit_b_32", "IMAGENET1K_V1"), ("maxvit_t", "IMAGENET1K_V1"),
     ("regnet_y_400mf", "IMAGENET1K_V1"), ("swin_t", "IMAGENET1K_V1"), ("vgg11", "IMAGENET1K_V1")],
)  # fmt: skip
def test_the_network_is_the_one_that_torchvision_builds_for_these_weights(monkeypatch, name, weights):
    member = torchvision_weights(name)[weights]
    built: list[nn.Module] = []
    monkeypatch.setattr(type(member), "get_state_dict", lambda *_, **__: {})
    monkeypatch.setattr(nn.Module, "load_state_dict", lambda self, *_, **__: built.append(self))
    outline(lambda: models.get_model(name, weights=member))
    ours = outline(lambda: pretrained._torchvision(name, member).make(1000)).state_dict()
    assert {k: v.shape for k, v in built[-1].state_dict().items()} == {k: v.shape for k, v in ours.items()}


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_auxiliary_heads_are_left_out_and_said(tmp_path, name):
    whole = random_network(name, aux_logits=True, init_weights=False)
    model = pretrained.load(name, file_of(tmp_path, whole.state_dict()))
    assert not [k for k in model.module.state_dict() if "aux" in k.lower()]
    assert any("auxiliary heads" in n for n in model.card.notes)
    assert model.module.transform_input  # as with torchvision's own weights
    model.module.train()
    assert isinstance(model.module(torch.zeros(2, 3, 80, 80)), torch.Tensor)
    assert model.card.parameters == sum(p.numel() for p in model.module.parameters())


def test_an_outline_is_made_of_parameters_alone_and_in_this_thread_alone():
    others: list[nn.Module] = []

    def make() -> nn.Module:
        thread = threading.Thread(target=lambda: others.append(nn.Linear(2, 2)))
        thread.start()
        thread.join()
        return nn.BatchNorm2d(3)

    made = outline(make)
    assert all(p.is_meta for p in made.parameters()) and not any(b.is_meta for b in made.buffers())
    assert not others[0].weight.is_meta and not nn.Linear(2, 2).weight.is_meta


# ── the catalogue ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_catalogue_has_all_classifiers_in_three_orders():
    small, accurate, fast = (catalogue(sort=order).cards for order in ("small", "accurate", "fast"))
    every = set(models.list_models(module=models))
    assert len(every) == 80 and every < {c.name for c in small} == {c.name for c in accurate} == {c.name for c in fast}
    embedded = [c.family == "embedded" for c in small]
    assert embedded == sorted(embedded, reverse=True)
    outside = [[c for c in order if c.family != "embedded"] for order in (small, accurate, fast)]
    for cards_, figure, sign in zip(outside, ("parameters", "accuracy", "flops"), (1, -1, 1), strict=True):
        values = [sign * getattr(c, figure) for c in cards_]
        assert values == sorted(values)
    assert accurate[0].name == "vit_h_14" and accurate[-1].family == "embedded"
    with pytest.raises(UsageError, match="did you mean fast"):
        catalogue(sort="fats")


def test_card_figures_are_torchvisions():
    card = torchvision_card("resnet50")
    meta = models.ResNet50_Weights.DEFAULT.meta
    assert card.parameters == meta["num_params"] and card.flops == pytest.approx(2e9 * meta["_ops"])
    assert card.accuracy == pytest.approx(meta["_metrics"]["ImageNet-1K"]["acc@1"] / 100)
    assert card.top5 == pytest.approx(meta["_metrics"]["ImageNet-1K"]["acc@5"] / 100)
    assert (card.source_images, card.source_classes, card.recipe) == (1_281_167, 1000, meta["recipe"])
    assert abs(card.bytes - 102_540_417) < 10_000  # the file on the server; torchvision counts in MiB
    assert "SWAG" in torchvision_card("vit_h_14").licence and torchvision_card("vit_h_14").min_size == 518
    features = next(c for c in torchvision_card("vgg16").others if c.weights == "IMAGENET1K_FEATURES")
    assert features.accuracy is None and features.source_classes is None and "`" not in features.about


def test_the_catalogues_card_shows_and_escapes(shell):
    text = cards.catalogue_card(shell.run_cell("%tl_models resn --sort accurate").result)
    assert text.index("resnext101_64x4d") < text.index(">resnet18<") and "80.9%" in text and "max-height" not in text
    assert "position:sticky" in cards.catalogue_card(catalogue())
    assert not shell.run_cell("%tl_models --sort cheap").success


def test_a_size_below_the_networks_least_is_refused(session):
    with pytest.raises(UsageError, match="--size 16 is too small for squeezenet1_1: use 17 pixels or more"):
        session.load(NAME, "none", size=16)


# ── one's own modules, runs, data ─────────────────────────────────────────────────────────────────────────────────


def test_an_own_module_says_what_is_assumed(session):
    own = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 4))
    model = session.load(own, size=32, called="glyphnet")
    assert model.card.notes == ("preprocessing assumed to be ImageNet's: mean, std (mean=, std= change it)",
                                "your variable glyphnet, not the model of that name in %tl_models")  # fmt: skip
    assert session.load(own, mean=(0, 0, 0), std=(1, 1, 1), size=32, called="mine").card.notes == ()
    assert not same(session.load(own, "none", size=32).module, own)


def test_the_card_says_what_became_of_the_output_layer(session):
    model = session.load("glyphnet")
    assert f"{len(model.classes):,} classes; kept until there are data" in cards.model_card(model)
    count = len(model.classes)
    session.data("digits", per_class=1)
    assert f"{count:,} classes; replaced by a new one for 10 classes when the data came" in cards.model_card(
        session.model
    )
    assert session.model.module.head.out_features == count  # the model keeps its own
    assert session.load("glyphnet-few").target_classes == 10


def test_a_run_keeps_its_preprocessing_and_classes(small):
    small.data("digits", per_class=1, size=48)
    run = small.train(epochs=1)
    before = small.model.transform
    model = small.load(run)
    assert (model.transform.mean, model.transform.std) == (before.mean, before.std) and model.transform.size == 48
    assert model.classes == tuple("0123456789") and model.card.accuracy == run.accuracy
    assert not [n for n in model.card.notes if "assumed" in n]
    assert same(model.module, run.module())
    assert model.fresh().state_dict().keys() == run.module().state_dict().keys()
    assert small.load(run.name).name == run.name and small.script().endswith(f"%tl_load {run.name}")
    with pytest.raises(UsageError, match="has its own weights"):
        small.load(run, "none")


def test_help_shows_examples_with_weights(shell):
    assert "%tl_load resnet50 --weights IMAGENET1K_V1" in shell.find_line_magic("tl_load").__doc__


# ── preprocessing ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "name",
    ["resnet18", "resnet50", "efficientnet_b0", "vit_b_16", "swin_t", "convnext_tiny", "inception_v3", "vit_h_14"],
)
def test_preprocessing_is_torchvisions(name):
    """On a real photo, cut to a square: within 2 of 255 (Pillow and torch round the same sums at other places)."""
    from PIL import Image
    from sklearn.datasets import load_sample_image

    photo = load_sample_image("china.jpg")[:400, :400].copy()
    weights = next(iter(torchvision_weights(name).values()))
    transform = pretrained._torchvision(name, weights).transform
    expected = weights.transforms()(Image.fromarray(photo))
    found = transform(torch.from_numpy(photo).permute(2, 0, 1)[None])[0]
    assert found.shape == expected.shape and transform.interpolation == weights.transforms().interpolation.value
    levels = (found - expected).abs() * torch.tensor(transform.std).view(3, 1, 1) * 255
    assert float(levels.max()) <= 2.01 and float(levels.mean()) < 0.05


def test_real_weights_know_real_photos(real_data):
    model = pretrained.load("squeezenet1_0", real_data / "squeezenet1_0_imagenet.safetensors")
    data = open_data(str(real_data / "ants_bees" / "val"), edge=model.transform.resize)
    images, labels = (torch.cat(list(part.values()))[::2] for part in (data.images, data.labels))  # half is enough
    assert model.classes is not None
    wanted = torch.tensor([model.classes.index({"ants": "ant", "bees": "bee"}[c]) for c in data.classes])
    with torch.inference_mode():
        best = torch.cat([model.module(model.transform(part)).topk(5).indices for part in images.split(16)])
    right = (best == wanted[labels][:, None]).any(1).float().mean()
    assert float(right) >= 0.8
