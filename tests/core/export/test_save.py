"""A run as a file and back: what it computes, what it remembers, what it refuses."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from tests.core.planning.test_edit import Twice
from tlnb.core.runtime.errors import ModelError, UsageError
from tlnb.core.training.checkpoint import checksum
from tlnb.session import Session

QUICK = {"epochs": 2, "batch_size": 8, "augment": "none"}


@pytest.fixture
def trained(small: Session) -> Session:
    """A run with an edit."""
    small.add("before:head", "nn.Dropout(0.2)")
    small.train(**QUICK)
    return small


def test_what_is_saved_comes_back(trained: Session, tmp_path: Path):
    run, file = trained.runs[-1], tmp_path / "mine.safetensors"
    saved = trained.save(file)
    assert saved.bytes == file.stat().st_size and str(file) in saved.use
    other = Session()
    model = other.load(str(file))
    images = trained.dataset.images["test"]
    assert torch.equal(model.module(model.transform(images)), run.module()(model.transform(images)))
    assert (
        model.classes == run.classes
        and model.transform == run.transform()
        and model.card.accuracy == run.accuracy
    )
    assert other.predict(images[0].numpy()).images[0].label in run.classes  # without any data
    assert other.script().splitlines()[1] == f"%tl_load {file}"
    assert not list(tmp_path.glob(".*"))


def test_the_output_layer_stays_for_the_same_classes_and_goes_for_others(
    trained: Session, tmp_path: Path
):
    trained.save(tmp_path / "mine.safetensors")
    other = Session()
    other.data("digits", per_class=2, seed=5)
    other.load(tmp_path / "mine.safetensors")
    assert not [e for e in other.plan.edits if e.automatic]
    run = other.train(**QUICK)
    assert run.epochs[0].train_loss < 2 and run.moved == (
        "head",
    )  # it goes on from what it knew: ln 10 = 2.3 is chance
    other.data("symbols", classes=4, per_class=2)
    assert [e.code for e in other.plan.edits] == ["nn.Linear(160, 4)"]
    again = other.train(**QUICK)
    other.save(tmp_path / "second.safetensors")  # edits upon edits
    third = Session().load(tmp_path / "second.safetensors")
    assert (
        torch.equal(third.module.head.weight, again.module().head.weight)
        and len(third.classes) == 4
    )
    assert third.fresh()(torch.zeros(1, 3, 32, 32)).shape == (1, 4)


def test_one_header_says_it_all(trained: Session, tmp_path: Path):
    trained.save(tmp_path / "mine.safetensors")
    with safe_open(tmp_path / "mine.safetensors", framework="pt") as opened:
        header = json.loads(opened.metadata()["tlnb"])
    run = trained.runs[-1]
    assert header["classes"] == list(run.classes) and header["run"]["accuracy"] == run.accuracy
    assert header["run"]["plan"]["strategy"] == "head" and header["transform"]["size"] == 32
    assert [e["code"] for e in header["origin"]["edits"]] == [e.code for e in run.plan.edits]


def test_torchvisions_networks_come_back(session: Session, tmp_path: Path):
    session.data("digits", per_class=1)
    session.load("squeezenet1_1", "none", size=64)
    session.remove("features.12")
    run = session.train(**QUICK)
    session.save(tmp_path / "net.safetensors")
    model = Session().load(tmp_path / "net.safetensors")
    images = torch.rand(2, 3, 64, 64)
    assert (
        torch.allclose(model.module(images), run.module()(images), atol=1e-5)
        and model.transform.size == 64
    )


def test_ones_own_network_has_to_be_given(session: Session, tmp_path: Path):
    def net() -> nn.Module:
        return nn.Sequential(nn.AvgPool2d(4), nn.Flatten(), nn.Linear(192, 3))

    session.data("digits", per_class=1)
    session.load(net(), size=32, called="net")
    run = session.train(**QUICK)
    file = tmp_path / "net.safetensors"
    session.save(file)
    other = Session()
    with pytest.raises(ModelError, match="%tl_load net --weights"):
        other.load(file)
    model = other.load(net(), file, called="net")
    assert (
        torch.equal(model.module[2].weight, run.module()[2].weight) and model.classes == run.classes
    )


def test_code_in_a_file_runs_only_when_trusted(small: Session, tmp_path: Path):
    small.add("before:head", "Twice(in_features)", {"Twice": Twice})
    run = small.train(**QUICK)
    small.save(tmp_path / "mine.safetensors")
    other = Session()
    with pytest.raises(ModelError, match="--trust"):
        other.load(tmp_path / "mine.safetensors")
    model = other.load(tmp_path / "mine.safetensors", trust=True, names={"Twice": Twice})
    assert torch.equal(
        model.module.head.before1.inner.weight, run.module().head.before1.inner.weight
    )


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda h: {**h, "schema": 99}, "schema 99"),
        (
            lambda h: {**h, "origin": {**h["origin"], "name": "nosuchnet"}},
            "is not the name of a model",
        ),
        (
            lambda h: {k: v for k, v in h.items() if k != "run"},
            "header of bad.safetensors is damaged",
        ),
        (lambda h: {**h, "transform": 7}, "header of bad.safetensors is damaged"),
        (lambda h: {**h, "origin": {**h["origin"], "edits": []}}, "does not fit"),
        (
            lambda h: {
                **h,
                "origin": {
                    **h["origin"],
                    "edits": [{"kind": "replace", "name": "head", "code": "__import__('os')"}],
                },
            },
            "holds code that would be run",
        ),
        (
            lambda h: {**h, "transform": {**h["transform"], "mean": "0); import os; (0"}},
            "header of bad.safetensors",
        ),
        (
            lambda h: {**h, "transform": {**h["transform"], "interpolation": "x\nimport os"}},
            "header of bad.safetensors",
        ),
        (
            lambda h: {
                **h,
                "origin": {
                    **h["origin"],
                    "edits": [{"kind": "remove", "name": "x", "code": "nn.Linear(9**9**9, 1)"}],
                },
            },
            "holds code that would be run",
        ),
        (
            lambda h: {
                **h,
                "origin": {
                    **h["origin"],
                    "edits": [
                        {
                            "kind": "add",
                            "name": "head",
                            "code": "nn.ReLU()",
                            "where": "after",
                            "part": "x; import os",
                        }
                    ],
                },
            },
            "is damaged",
        ),
    ],
)
def test_a_damaged_file_is_one_line_and_changes_nothing(
    trained: Session, tmp_path: Path, spoil, words
):
    trained.save(tmp_path / "mine.safetensors")
    with safe_open(tmp_path / "mine.safetensors", framework="pt") as opened:
        header = spoil(json.loads(opened.metadata()["tlnb"]))
    tensors, text = load_file(tmp_path / "mine.safetensors"), json.dumps(header)
    save_file(
        tensors, tmp_path / "bad.safetensors", {"tlnb": text, "crc32": str(checksum(text, tensors))}
    )
    before = (trained.model, trained.plan, trained.script())
    with pytest.raises(ModelError, match=words) as error:
        trained.load(tmp_path / "bad.safetensors")
    assert (
        "\n" not in str(error.value) and (trained.model, trained.plan, trained.script()) == before
    )


def test_a_changed_number_is_noticed(trained: Session, tmp_path: Path):
    file = tmp_path / "mine.safetensors"
    trained.save(file)
    content = bytearray(file.read_bytes())
    content[-1000] ^= 1  # a weight, a little
    file.write_bytes(bytes(content))
    with pytest.raises(ModelError, match="damaged .its checksum differs"):
        Session().load(file)


def test_a_truncated_file_is_one_line(trained: Session, tmp_path: Path):
    trained.save(tmp_path / "mine.safetensors")
    whole = (tmp_path / "mine.safetensors").read_bytes()
    for share in (0.0, 0.001, 0.5, 0.999):
        (tmp_path / "mine.safetensors").write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(ModelError, match="mine.safetensors") as error:
            Session().load(tmp_path / "mine.safetensors")
        assert "\n" not in str(error.value)


def test_saving_where_it_cannot_be(trained: Session, tmp_path: Path):
    for name, words in (("mine.pkl", "no known ending"), ("missing/mine.safetensors", "no folder")):
        with pytest.raises(UsageError, match=words):
            trained.save(tmp_path / name)
    with pytest.raises(UsageError, match="%tl_train"):
        Session().save()
    assert not list(tmp_path.iterdir())


def test_an_exported_program_runs_without_our_code(trained: Session, tmp_path: Path):
    trained.save(tmp_path / "mine.pt2")
    program = torch.export.load(tmp_path / "mine.pt2").module()
    images = torch.rand(5, 3, 32, 32)
    assert torch.allclose(program(images), trained.runs[-1].module()(images), atol=1e-5)


def test_onnx(trained: Session, tmp_path: Path):
    pytest.importorskip("onnxscript")
    saved = trained.save(tmp_path / "mine.onnx")
    from onnx.reference import ReferenceEvaluator

    images = torch.rand(3, 3, 32, 32)
    (scores,) = ReferenceEvaluator(str(tmp_path / "mine.onnx")).run(
        None, {"images": images.numpy()}
    )
    assert torch.allclose(torch.from_numpy(scores), trained.runs[-1].module()(images), atol=1e-4)
    if importlib.util.find_spec("onnxruntime"):
        assert saved.compared.holds and saved.compared.by == "ONNX Runtime"
