"""What a saved network, a session or a job can have built: bounded, named by names, and only of numbers."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn

from tests.safety.cases import drawn, few, peak_memory, refused
from tlnb.core.export.save import CRC, KEY, Header, read_header, restore
from tlnb.core.models.weights import read_state
from tlnb.core.planning import activation_limits
from tlnb.core.planning.edit import apply_edit, apply_edits, build, check_together
from tlnb.core.planning.plan import Edit
from tlnb.core.planning.safe_modules import LONGEST, MOST_BYTES, MOST_EDITS, is_literal, size_of
from tlnb.core.runtime.errors import PlanError
from tlnb.core.training.checkpoint import checksum
from tlnb.session import Session

ABSURD = [
    "nn.BatchNorm1d(600000000, affine=False)",
    "nn.LSTM(1, 1, 10000000)",
    "nn.Transformer(8, 1, 1000000)",
    "nn.RNN(1, 1, 10*10*10*10*10*10)",
    "nn.Linear(1000000, 1000000)",
    "nn.Embedding(1000000000, 1)",
    "nn.Sequential(nn.Linear(20000, 20000), nn.Linear(1, 1))",
    "nn.Linear(1000*1000*1000*1000*1000*1000*1000*1000, 1)",
    "nn.Linear(-1, 1)",
    "nn.Linear(1/0, 1)",
    "nn.LayerNorm((1000, 1000, 1000))",
]
FOREIGN = [
    "nn.Conv2d(3, 8, 3, padding='same')",
    "nn.Linear(1, 1, None)",
    "nn.LayerNorm([3])",
    "nn.Linear(1, 1, device=0)",
    "nn.Linear(1j, 1)",
    "nn.Linear(1, 1, dtype=3)",
    "nn.Linear(b'', 1)",
    "nn.Linear(..., 1)",
    "nn.Sequential(*(nn.ReLU(),))",
    "nn.Sequential(**{})",
    "nn.Dropout((nn.ReLU(),))",
    "nn.functional.relu(1)",
    "nn.Module.__init__",
    "in_features",
    "(nn.ReLU())[0]",
    "nn.ReLU() if 1 else 0",
    "nn.Linear(" + "1+" * LONGEST + "1, 1)",
    "nn.Linear(1, 2**3)",
    "nn.parallel.DataParallel(1)",
    "lambda: nn.ReLU()",
]


@pytest.fixture
def model(trained: Session) -> Any:
    return trained.model


@pytest.mark.parametrize("code", ABSURD)
def test_absurd_sizes_are_refused_before_anything_is_allocated(model: Any, code: str):
    assert is_literal(code)
    said = refused(
        lambda: build(model, (Edit(kind="replace", name="head", code=code),), "pretrained", 0)
    )
    assert said is not None and "cannot be built" in said


@pytest.mark.parametrize("code", FOREIGN)
def test_code_that_is_more_than_constructors_with_numbers_needs_trust(code: str):
    assert not is_literal(code)


def test_what_is_built_counts_together_with_its_buffers(model: Any):
    assert size_of("nn.BatchNorm1d(10)", None, None) == 4 * 40 + 8
    assert (
        size_of(
            "nn.Sequential(nn.Linear(25088, 4096), nn.ReLU(), nn.Linear(4096, classes))", None, 1000
        )
        < MOST_BYTES
    )
    third = Edit(kind="replace", name="head", code="nn.Linear(10000, 4500)")
    check_together([third] * 2)
    with pytest.raises(PlanError, match="MB of parameters and buffers"):
        check_together([third] * 3)
    with pytest.raises(PlanError, match="edits are more than"):
        check_together([Edit(kind="remove", name="head")] * (MOST_EDITS + 1))


@pytest.mark.parametrize(
    "name",
    [
        "",
        "forward",
        "training",
        "head.weight",
        "layer1..bn1",
        "nowhere",
        "head.",
        "__class__",
        "\x1b[2J",
    ],
)
def test_an_edit_changes_a_module_that_is_there(model: Any, name: str):
    for edit in (
        Edit(kind="replace", name=name, code="nn.ReLU()"),
        Edit(kind="remove", name=name),
        Edit(kind="add", name=name, code="nn.ReLU()", where="after", part="after1"),
    ):
        assert "no module is called" in (
            refused(lambda edit=edit: build(model, (edit,), "pretrained", 0)) or ""
        )


def test_an_edit_takes_no_others_place(model: Any):
    twice = (Edit(kind="add", name="head", code="nn.ReLU()", where="after", part="after1"),) * 2
    assert "already has a part after1" in (
        refused(lambda: build(model, twice, "pretrained", 0)) or ""
    )


def test_lazy_modules_get_one_line(model: Any):
    assert "is lazy" in (
        refused(
            lambda: build(
                model,
                (Edit(kind="replace", name="head", code="nn.LazyLinear(3)"),),
                "pretrained",
                0,
            )
        )
        or ""
    )
    said = refused(
        lambda: Session().load(
            nn.Sequential(nn.Conv2d(3, 4, 40), nn.Flatten(), nn.LazyLinear(3)), size=32
        )
    )
    assert said is not None and "call the network once" in said


@pytest.mark.parametrize("kind", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_weights_of_types_that_no_network_computes_with_get_one_line(
    tmp_path: Path, kind: torch.dtype
):
    save_file({"a": torch.zeros(3).to(kind)}, tmp_path / "w.safetensors")
    torch.save({"a": torch.zeros(3).to(kind)}, tmp_path / "w.pth")
    for file in ("w.safetensors", "w.pth"):
        said = refused(lambda file=file: read_state(tmp_path / file))
        assert said is not None and "float8" in said and ".float()" in said


TOO_MUCH = [
    "nn.Upsample(size=1000000)",
    "nn.Upsample(size=10**6)",
    "nn.Upsample(scale_factor=100000.0)",
    "nn.Sequential(nn.Upsample(scale_factor=1000), nn.Upsample(scale_factor=0.001))",
    "nn.Sequential(nn.Upsample(scale_factor=200), nn.PixelShuffle(2))",
    "nn.Upsample(size=(1, 1000000000))",
    "nn.UpsamplingBilinear2d(scale_factor=4000)",
    "nn.AdaptiveAvgPool2d(1000000)",
    "nn.AdaptiveMaxPool2d(100000)",
    "nn.ZeroPad2d(100000)",
    "nn.ConstantPad2d((0, 1000000000, 0, 0), 0.5)",
    "nn.ConvTranspose2d(24, 24, 1, stride=100000)",
    "nn.ConvTranspose2d(24, 24, 1, stride=9999, output_padding=9998)",
    "nn.Conv2d(24, 24, 1, padding=100000)",
    "nn.Upsample(size=1000000000000)",  # more than a size can say
    "nn.ZeroPad2d(4611686018427387904)",
    "nn.Upsample(scale_factor=1e300)",
    "nn.Linear(16, 1000000)",
]


@pytest.mark.parametrize("code", TOO_MUCH)
def test_edits_that_make_too_much_of_an_image_are_refused_before_any_is_made(code: str):
    session = Session()
    session.load("glyphnet")
    before = peak_memory()
    assert refused(lambda: session.add("after:layer1", code))
    assert peak_memory() - before < 3 * 10**8
    assert session.plan.edits == () and refused(lambda: session.add("after:layer1", GROWN)) is None


GROWN = "nn.Upsample(scale_factor=2)"


class _NeedsNumbers(nn.Module):
    """Its way depends on what it is given, so that its pass is not made without numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Conv2d(3, 8, 3)
        self.head = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.features(x if float(x.sum()) < 1 else -x)
        return self.head(x.mean((2, 3)))


@pytest.mark.parametrize("code", [*TOO_MUCH[:10], GROWN])
def test_a_network_that_needs_numbers_is_given_no_more_of_them(code: str):
    session = Session()
    session.load(_NeedsNumbers(), size=32)
    said = refused(lambda: session.add("after:features", code))
    assert (said is None) == (code == GROWN), said
    assert said is None or "activations per image" in said


def test_what_all_edits_make_counts_together(monkeypatch: pytest.MonkeyPatch):
    session = Session()
    session.load("glyphnet")
    one = activation_limits.activations(session.model.module, 32)
    monkeypatch.setattr(activation_limits, "MOST_BYTES", 2 * one)
    for _ in range(50):
        if refused(lambda: session.add("after:layer1", "nn.Tanh()")):
            break
    assert 2 < len(session.plan.edits) < 50
    monkeypatch.setattr(activation_limits, "MOST_OPERATIONS", 200)
    said = refused(
        lambda: session.add("after:layer1", "nn.Sequential(" + "nn.ReLU(True)," * 200 + ")")
    )
    assert said is not None and "200 operations" in said


# ── saved networks ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def saved(trained: Session, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("saved") / "x.safetensors"
    trained.save(file)
    return file


def tampered(saved: Path, header: dict[str, Any]) -> Path:
    file, state = saved.with_name("tampered.safetensors"), load_file(saved)
    text = json.dumps(header)
    save_file(state, file, {KEY: text, CRC: str(checksum(text, state))})
    return file


def header_of(saved: Path) -> dict[str, Any]:
    found = read_header(saved)
    assert found is not None
    return json.loads(found.to_json())


@pytest.mark.parametrize("scores", [10**9, 10**12, -1, 0, 10**30])
def test_a_header_asks_for_no_absurd_number_of_scores(saved: Path, scores: int):
    header = header_of(saved)
    header["origin"]["scores"] = scores
    assert refused(lambda: Session().load(tampered(saved, header)))


@pytest.mark.parametrize("automatic", [False, True])
@pytest.mark.parametrize("code", TOO_MUCH[:3])
def test_a_header_makes_no_more_of_an_image_than_an_edit_may(
    saved: Path, code: str, automatic: bool
):
    header = header_of(saved)
    bad = Edit(
        kind="add",
        name="layer1",
        code=code.replace("10**6", "1000000"),
        where="after",
        part="after1",
    )
    header["origin"]["edits"] += [asdict(replace(bad, automatic=automatic))]
    assert "activations per image" in (
        refused(lambda: Session().load(tampered(saved, header))) or ""
    )


codes = st.one_of(
    st.sampled_from(ABSURD + FOREIGN),
    st.text("n.Lieardopu(),=1 2*+-", max_size=30),
    st.builds(
        lambda kind, numbers: f"nn.{kind}({', '.join(map(str, numbers))})",
        st.sampled_from(
            [n for n in vars(nn) if n[0].isupper() and isinstance(getattr(nn, n), type)]
        ),
        st.lists(
            st.sampled_from(
                [
                    -1,
                    0,
                    1,
                    2,
                    3,
                    160,
                    10**6,
                    10**9,
                    10**18,
                    10**30,
                    True,
                    0.5,
                    "1e999",
                    "(1, 2)",
                    "(10,) * 9",
                    "nn.ReLU()",
                ]
            ),
            max_size=5,
        ),
    ),
)
names = st.one_of(
    st.sampled_from(["head", "layer1", "layer4.bn1", "stem", "forward", "training", ""]),
    st.text(max_size=8),
)
sizes = st.one_of(st.none(), st.sampled_from([-1, 0, 10, 160, 10**9, 10**30]))
edits = st.builds(
    lambda kind, name, code, where, a, b: Edit(
        kind=kind, name=name, code=code, where=where, part=where + "1", in_features=a, classes=b
    ),
    st.sampled_from(["replace", "add", "remove"]),
    names,
    codes,
    st.sampled_from(["before", "after"]),
    sizes,
    sizes,
)


@drawn(
    given_edits=st.lists(edits, max_size=3),
    scores=st.sampled_from([10, 26, 62, 1000, 0, -1, 10**9, 10**30]),
)
def test_a_changed_header_is_refused_or_bounded(saved: Path, given_edits: list[Edit], scores: int):
    before, header = peak_memory(), header_of(saved)
    header["origin"] |= {"edits": [asdict(e) for e in given_edits], "scores": scores}
    file = tampered(saved, header)

    def load() -> None:
        found = read_header(file)
        assert isinstance(found, Header)
        from tlnb.core.models import pretrained

        made = restore(file, found, pretrained.bare(found.origin.name, found.origin.scores)).module
        assert (
            sum(p.numel() * p.element_size() for p in (*made.parameters(), *made.buffers())) < 10**9
        )

    refused(load)
    assert peak_memory() - before < 10**9


@few
@given(edit=edits)
def test_any_edit_of_a_small_network_is_refused_or_bounded(edit: Edit):
    module = nn.Sequential()
    module.head = nn.Linear(2, 2)
    if edit.code == "" or is_literal(edit.code):
        refused(
            lambda: (
                apply_edits(module, [edit], lambda _: {}),
                apply_edit(module, Edit(kind="remove", name="head"), {}),
            )
        )
        assert isinstance(module.training, bool) and callable(module.forward)
