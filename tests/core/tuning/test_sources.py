"""Advice on a source: which candidate comes first, how sure that is, and what it leaves alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tlnb.core.data.splits import Labelled
from tlnb.core.models.catalogue import Card
from tlnb.core.runtime.errors import ModelError, TLError, UsageError
from tlnb.core.tuning.advise import Advice
from tlnb.core.tuning.sources import HeldOut, first_of, held_out
from tlnb.display.cards import HTML
from tlnb.display.text import terminal_text
from tlnb.session import Session
from tlnb.session.transcript import read_back

GLYPHNETS = ["glyphnet", "glyphnet-early"]


class Coarse(nn.Module):
    """Sees an image as a few grey squares."""

    def __init__(self, edge: int) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(edge)
        self.head = nn.Linear(3 * edge**2, 5)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.pool(images).flatten(1))


@pytest.fixture
def digits(session: Session) -> Session:
    session.data("digits", per_class=4)
    return session


def test_a_source_that_tells_the_classes_apart_comes_before_one_that_does_not(digits: Session):
    digits.names = {"blind": Coarse(1), "sees": Coarse(8)}
    advice = digits.advise(models="blind sees")
    best, other = advice.sources
    assert [best.name, other.name] == ["sees", "blind"] and advice.model == "sees"
    assert best.accuracy > other.accuracy and not other.tied
    assert other.behind == pytest.approx(best.probability - other.probability)
    assert "than with blind" in advice.reason and "no other of these" in advice.sure


def test_every_source_says_what_it_reaches_and_costs_beside_what_its_card_states(digits: Session):
    for source in digits.advise(models=GLYPHNETS).sources:
        low, high = source.interval
        assert 0 <= low <= source.accuracy <= high <= 1
        assert source.seconds > 0 and source.bytes > 4 * 100_000
        assert source.card.source_images == 20_113 and source.card.accuracy is not None


def test_the_scale_of_features_does_not_matter():
    features, labels = np.random.default_rng(0).normal(size=(40, 60)), np.arange(40) % 4
    features[:, :4] += 3 * np.eye(4)[labels]
    plain, tiny = (held_out(scale * features + 1, Labelled(labels)) for scale in (1.0, 1e-9))
    assert plain.right.mean() > 0.8 and np.allclose(plain.likely, tiny.likely, atol=1e-3)


def test_features_that_say_nothing_are_right_by_chance():
    labels = np.arange(40) % 4
    held = held_out(np.ones((40, 6)), Labelled(labels))
    assert held.right.mean() <= 0.5 and held.likely.mean() == pytest.approx(0.25, abs=0.05)


@pytest.mark.parametrize(
    ("better", "advised"), [(0.01, "large"), (0.4, "relevant")], ids=["a tie", "clear"]
)
def test_the_larger_source_comes_first_only_where_the_probe_cannot_tell(better, advised):
    noise = np.random.default_rng(0).normal(size=50) * 0.2
    likely = {"relevant": np.full(50, 0.5 + better), "large": 0.5 + noise, "random": noise}
    held = {name: HeldOut(each > 0.5, each) for name, each in likely.items()}
    images = {"relevant": 100, "large": 1_000_000, "random": None}
    cards = {n: Card(name=n, family="", source="", source_images=k) for n, k in images.items()}
    assert first_of(held, cards) == advised


def test_two_that_are_the_same_cannot_be_told_apart(digits: Session):
    net = Coarse(4)
    digits.names = {"one": net, "two": net}
    advice = digits.advise(models=["one", "two"])
    assert advice.sources[1].behind == 0 and advice.sources[1].tied
    assert "cannot be told apart from two with 40 labels" in advice.reason


def test_networks_of_one_class_are_told_apart_by_number(digits: Session):
    advice = digits.advise(models=[Coarse(8), Coarse(1)])
    assert [source.name for source in advice.sources] == ["Coarse", "Coarse-2"]
    assert digits.transcript[-1].startswith("# tl.advise")


def test_labels_of_test_and_monitor_do_not_matter(digits: Session):
    before = digits.advise(models="glyphnet").sources[0].accuracy
    data = digits.dataset
    hidden = {s: v if s == "train" else torch.zeros_like(v) for s, v in data.images.items()}
    labels = {s: v if s == "train" else torch.zeros_like(v) for s, v in data.labels.items()}
    other = replace(data, images=MappingProxyType(hidden), labels=MappingProxyType(labels))
    digits.commit(replace(digits.state, dataset=other))
    assert digits.advise(models="glyphnet").sources[0].accuracy == before


def test_labels_held_out_as_val_are_used(session: Session):
    data = session.data("digits", per_class=20)
    source = session.advise(models="glyphnet").sources[0]
    assert source.labels == data.splits["train"] + data.splits["val"] == 200


def test_it_is_charged_and_features_are_computed_once(digits: Session):
    first = digits.advise(models=GLYPHNETS)
    again = digits.advise(models=GLYPHNETS)
    charged, nothing = digits.bill.charges[-2:]
    assert charged.kind == nothing.kind == "advising"
    assert charged.flops > 0 and nothing.flops == 0
    assert again.sources == first.sources


def test_changed_weights_are_measured_again(digits: Session):
    digits.names = {
        "net": (net := nn.Sequential(nn.Flatten(), nn.Linear(3072, 8), nn.Linear(8, 5)))
    }
    digits.data("digits", per_class=4, size=32)
    before = digits.advise(models="net").sources[0].accuracy
    nn.init.zeros_(net[1].weight)
    assert digits.advise(models="net").sources[0].accuracy < before


def test_model_and_plan_stay_and_a_run_can_be_a_candidate(small: Session, trained_once):
    run = small.train(epochs=1)
    model, plan = small.model, small.plan
    advice = small.advise(models=["glyphnet", run.name])
    assert {source.name for source in advice.sources} == {"glyphnet", run.name}
    assert small.model is model and small.plan is plan and small.runs == [run]


def test_a_run_that_may_have_learned_the_labels_is_marked(small: Session, tmp_path: Path):
    run = small.train(epochs=1)
    small.save(tmp_path / "run.safetensors")
    for again in (run, str(tmp_path / "run.safetensors")):
        [flag] = small.advise(models=["glyphnet", again]).flags
        assert "it was trained on digits, perhaps on labels that the probe holds out" in flag


def test_with_one_label_a_class_nothing_is_measured_and_it_says_so(session: Session):
    session.data("digits", per_class=1)
    advice = session.advise(models=GLYPHNETS)
    assert [s.accuracy for s in advice.sources] == [None, None]
    assert advice.reason.startswith("Not measured") and "--per-class 2" in advice.reason
    card = HTML[Advice](advice)
    assert "not measured" in card and "<img" not in card and "%" not in advice.sure


def test_a_single_candidate_is_answered_for_and_called_so(digits: Session):
    advice = digits.advise(models="glyphnet")
    assert "only candidate" in advice.reason and advice.sure == "nothing to compare with"


@pytest.mark.parametrize(
    ("models", "said"),
    [
        ("glyphnett", "did you mean glyphnet"),
        ("resnet*", "is on disk: %tl_advise --models resnet18"),
        ("zzz*", "no model matches 'zzz*'"),
        (["glyphnet", 3], "an object of type int is not a network"),
        ([nn.Flatten()], "no parameters"),
    ],
)
def test_what_cannot_be_a_source_is_one_line_and_nothing_changes(digits: Session, models, said):
    state = digits.state
    with pytest.raises(TLError) as error:
        digits.advise(models=models)
    assert said in str(error.value) and digits.state is state


def test_a_network_that_cannot_take_the_size_is_refused_by_name_and_left_out_of_a_pattern(
    session: Session,
):
    session.data("digits", per_class=2, size=16)
    with pytest.raises(UsageError, match="--size 16 is too small for efficientnet_lite0"):
        session.advise(models=["glyphnet", "efficientnet_lite0"])
    advice = session.advise(models="glyphnet efficientnet*")
    assert [source.name for source in advice.sources] == ["glyphnet"]
    assert any("efficientnet_lite0 is left out" in flag for flag in advice.flags)
    with pytest.raises(UsageError, match="too small"):
        session.advise(models="efficientnet*")


def test_a_missing_extra_is_named(digits: Session, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(__import__("sys").modules, "timm", None)
    with pytest.raises(ModelError, match="needs the package timm"):
        digits.advise(models="timm/resnet18")


def test_a_budget_is_for_the_other_advice(digits: Session):
    refused = "--budget 5min is for advice on a strategy, .*: %tl_advise --models glyphnet\\* first"
    with pytest.raises(UsageError, match=refused + ".* %tl_advise --budget 5min$"):
        digits.advise(budget="5min", models=["glyphnet*"])
    with pytest.raises(UsageError, match=r"tl.advise\(models=…\) first"):
        digits.advise(budget="5min", models=torch.nn.Identity())


def test_without_data_it_says_so(session: Session):
    with pytest.raises(UsageError, match="no data yet"):
        session.advise(models="glyphnet")


def test_photos_are_decoded_for_the_largest_candidate_and_the_data_stay(session: Session, folder):
    data = session.data(str(folder))
    advice = session.advise(models=["glyphnet", "efficientnet_lite0"])
    assert session.dataset is data
    assert {source.labels for source in advice.sources} == {sum(data.counts.values())}


def test_the_card_has_the_verdict_one_chart_and_the_next_line(digits: Session):
    advice = digits.advise(models=GLYPHNETS)
    card = HTML[Advice](advice)
    assert card.count("<img") == 1 and f"%tl_load {advice.model}" in card
    assert advice.reason in card.replace("&#x27;", "'") and "20,113 images" in card
    text = terminal_text(advice, 80)
    assert max(map(len, text.splitlines())) <= 80
    assert text.endswith(f"next: %tl_load {advice.model}")


def test_the_transcript_reads_back(digits: Session):
    digits.advise(models=GLYPHNETS)
    digits.advise(models="glyphnet*")
    lines = digits.transcript[-2:]
    assert lines == [
        '%tl_advise --models "glyphnet glyphnet-early"',
        "%tl_advise --models glyphnet*",
    ]
    assert read_back(lines, Session) == lines
