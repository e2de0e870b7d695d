"""What is typed from habit, or with a slip: read as it was meant, or answered with the line that would work."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torchvision.datasets import ImageFolder

from tests.tolerance.inputs import class_folders
from tlnb.core.data.dataset import open_data
from tlnb.core.planning.options import TrainOptions, parse_rates
from tlnb.core.planning.other_tools import HABITS, LOOKS, METHODS, meant_option
from tlnb.core.planning.plan import strategy_named
from tlnb.core.runtime.errors import PlanError, TLError, UsageError
from tlnb.panels.base import decimal, whole
from tlnb.session import Session


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("0,001", "decimal comma: write --lr 0.001"),
        ("1,5", "decimal comma: write --lr 1.5"),
        ("0.01,0.02", "has 2 rates: give one, --lr 0.01, or one per stage"),
        ("0.1, 0.2, 0.3", "has 3 rates"),
        ("head=0,01", "decimal comma: write head=0.01"),
        ("layer4=0.001,head=1,5", "decimal comma: write head=1.5"),
    ],
)
def test_a_decimal_comma_is_never_two_numbers(text: str, words: str):
    with pytest.raises(UsageError, match=words):
        parse_rates(text)


def test_rates_as_they_are_meant_to_be():
    assert parse_rates("0.001") == (0.001, ()) and parse_rates(0.5) == (0.5, ())
    assert parse_rates("layer4=0.001,head=0.01") == (None, (("layer4", 0.001), ("head", 0.01)))
    assert parse_rates("0.1,head=0.01") == (0.1, (("head", 0.01),))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"epochs": "5"}, "epochs='5' is not a whole number: write epochs=5"),
        ({"epochs": 2.5}, "epochs=2.5 is not"),
        ({"epochs": True}, "epochs=True is not"),
        ({"batch_size": "16"}, "batch_size='16' is not"),
        ({"seed": "1"}, "seed='1' is not"),
        ({"weight_decay": "0,1"}, "weight_decay='0,1' is not a number: write weight_decay"),
        ({"lr": "0.1"}, "lr='0.1' is not a number"),
        ({"epochs": [5]}, r"epochs=\[5\] is not"),
    ],
)
def test_numbers_are_numbers(values, words: str):
    with pytest.raises(UsageError, match=words):
        TrainOptions(**values)


def test_numbers_of_other_libraries_are_numbers():
    assert TrainOptions(epochs=np.int64(3), lr=np.float32(0.1), weight_decay=0).epochs == 3


def test_numbers_of_other_libraries_are_taken_by_calls_and_kept_in_records(tmp_path: Path):
    session = Session()
    session.data("digits", per_class=np.int64(2), limit=None)
    session.load("glyphnet", size=np.int32(32))
    session.strategy("adapter", rank=2.0)
    options = {"epochs": np.int64(1), "seed": np.int32(1), "lr": np.float32(0.5), "batch_size": 8.0}
    device, cache = torch.device("cpu"), np.bool_(False)
    run = session.train(**options, device=device, cache=cache)
    assert run == type(run).from_json(run.to_json())
    assert "--epochs 1 --lr 0.5 --batch-size 8 --seed 1" in session.script()
    assert session.forecast(epochs=np.int64(1)).seconds > 0
    assert session.save(job=tmp_path / "job.json", epochs=np.int64(1)).path
    session.load(Path(session.save(tmp_path / "run.safetensors").path))
    assert session.model.name == "run"


@pytest.mark.parametrize("amount", [2.5, float("nan"), float("inf"), np.float32(0.5)])
def test_a_fraction_is_no_number_of_labels(amount: float):
    with pytest.raises(
        UsageError, match=r"is not a whole number: write tl.data\('digits', per_class"
    ):
        Session().data("digits", per_class=amount)


@pytest.mark.parametrize("typed", ["1,5", "0,5", "1,50", "12,34,567"])
def test_a_comma_in_a_whole_number_of_a_panel_parts_thousands_or_is_refused(typed: str):
    with pytest.raises(UsageError, match="must be a whole number, not .*: type e.g. 20"):
        whole(typed, "epochs")
    assert (
        whole("1,500", "epochs") == 1500
        and whole(" 20 ", "epochs") == 20
        and decimal("0,5", "decay") == 0.5
    )


# ── data of other libraries ───────────────────────────────────────────────────────────────────────────────────────


def test_an_image_folder_names_its_folder(tmp_path: Path):
    data = ImageFolder(str(class_folders(tmp_path)))
    for given in (data, DataLoader(data), torch.utils.data.Subset(data, [0, 1])):
        with pytest.raises(
            UsageError, match=r"is not read: give the folder that it reads itself, tl.data\('"
        ):
            open_data(given)


def test_other_data_sets_are_one_line():
    tensors = TensorDataset(torch.zeros(4, 3, 8, 8), torch.zeros(4))
    for given in (tensors, DataLoader(tensors), SimpleNamespace(features={"image": 1})):
        with pytest.raises(UsageError, match=r"is not read: give .*tl\.data\("):
            open_data(given)


# ── magics ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("tl_train epochs=5", "write %tl_train --epochs 5"),
        ("tl_train 5", "write %tl_train --epochs 5"),
        ("tl_train -e 5", "write %tl_train --epochs 5"),
        ("tl_train -lr 0.1", "write %tl_train --lr 0.1"),
        ("tl_train bs=8", "write %tl_train --batch-size 8"),
        ("tl_train --learning-rate 0.1", "write %tl_train --lr 0.1"),
        ("tl_train --batch_size 8", "write %tl_train --batch-size 8"),
        ("tl_train --n_epochs 3", "write %tl_train --epochs 3"),
        ("tl_train --wd 0.1", "write %tl_train --weight-decay 0.1"),
        ("tl_train --optim adamw", "write %tl_train --optimizer adamw"),
        ("tl_train --help", r"tl_train\? shows its options: .*--epochs"),
        ("tl_train -h", r"tl_train\? shows its options"),
        ("tl_train lr 0.1", "write %tl_train --lr 0.1"),
        ("tl_train --lr=0.1 epochs = 5", "write %tl_train --lr 0.1 --epochs 5"),
        ("tl_train --epochs 5 --bs", "write --batch-size"),
        ("tl_train scratch=True", "write %tl_train --scratch"),
        ("tl_forecast 5", "write %tl_forecast --epochs 5"),
        ("tl_tune n_trials=5", "write %tl_tune --trials 5"),
        ("tl_data digits 2", "write %tl_data digits --per-class 2"),
        ('tl_data "my photos" 2', 'write %tl_data "my photos" --per-class 2'),
        ("tl_strategy partial 2", "write %tl_strategy partial --last 2"),
        ("tl_strategy adapter 4", "write %tl_strategy adapter --rank 4"),
        ("tl_advise 5min", "write %tl_advise --budget 5min"),
        ("tl_cost 1usd/h", "write %tl_cost --price 1usd/h"),
        ("tl_compare target=0.8", "write %tl_compare --target 0.8"),
        ("tl_code train.py", "write %tl_code --out train.py"),
        ("tl_errors head", "write %tl_errors --run head"),
        ("tl_data digits per_class=2", "write %tl_data digits --per-class 2"),
        ("tl_data digits --valid_pct 0.2", "write %tl_data digits --val 0.2"),
        ("tl_load glyphnet --imgsz 64", "write %tl_load glyphnet --size 64"),
        ("tl_load holder.net", r"the name of a variable, not 'holder.net': tl.load\(holder.net\)"),
        ("tl_load inside", r"of a variable inside a function write tl.load\(inside\)"),
    ],
)
def test_habits_of_other_tools_are_answered_with_the_line_that_would_work(
    shell, line: str, words: str
):
    shell.user_ns["holder"] = SimpleNamespace(net=nn.Linear(2, 2))
    name, _, rest = line.partition(" ")
    with pytest.raises(TLError, match=words) as error:
        shell.run_line_magic(name, rest)
    assert "\n" not in str(error.value)


def test_a_folder_with_a_space_is_told_to_be_quoted(shell, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    class_folders(tmp_path / "my photos")
    with pytest.raises(TLError, match='a name with spaces needs quotes: %tl_data "my photos"'):
        shell.run_line_magic("tl_data", "my photos --per-class 2")
    assert shell.run_line_magic("tl_data", '"my photos" --per-class 2').classes == ("cats", "dogs")


def test_words_that_mean_nothing_keep_the_short_answer(shell):
    with pytest.raises(TLError, match=r"unrecognized arguments: zebra"):
        shell.run_line_magic("tl_train", "zebra")


def test_a_script_is_written_to_a_file(shell, tmp_path: Path):
    shell.run_line_magic("tl_data", "digits --per-class 2")
    shell.run_line_magic("tl_load", "glyphnet")
    script = shell.run_line_magic("tl_code", f"--out {tmp_path / 'x.py'}")
    assert (tmp_path / "x.py").read_text("utf8") == str.__str__(script)
    compile((tmp_path / "x.py").read_text("utf8"), "x.py", "exec")
    with pytest.raises(UsageError, match="cannot be written"):
        shell.run_line_magic("tl_code", f"--out {tmp_path / 'nowhere' / 'x.py'}")


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("%tl_trian", "there is no %tl_trian: write %tl_train"),
        ("x = %tl_lod glyphnet", "there is no %tl_lod: write %tl_load"),
        ("%tl_fit 5", "there is no %tl_fit: write %tl_train"),
        ("%tl_zebra", "there is no %tl_zebra: %tl shows what comes next"),
    ],
)
def test_a_misspelt_magic_is_answered_with_the_one_that_was_meant(shell, typed: str, words: str):
    result = shell.run_cell(typed)
    assert isinstance(result.error_in_exec, UsageError) and words in str(result.error_in_exec)


def test_text_that_looks_like_a_magic_stays_as_it_is(shell):
    cell = "text = '''a\n%tl_trian 5'''\ntext"
    assert shell.run_cell(cell).result == "a\n%tl_trian 5"


def test_shots_is_per_class(shell):
    data = shell.run_line_magic("tl_data", "digits --shots 2")
    assert data.request.per_class == 2 == Session().data("digits", shots=2).request.per_class


@pytest.mark.parametrize(
    ("typed", "strategy"),
    [
        ("linear-probe", "head"),
        ("Linear_Probing", "head"),
        ("linear probing", "head"),
        ("feature-extraction", "head"),
        ("fine-tune", "full"),
        ("fine-tuning", "full"),
        ("finetuning", "full"),
    ],
)
def test_strategies_by_the_names_that_papers_use(typed: str, strategy: str):
    assert strategy_named(typed) == strategy


def test_what_a_look_is_called_elsewhere(shell):
    shell.run_line_magic("tl_data", "digits --per-class 2")
    shell.run_line_magic("tl_load", "glyphnet")
    by_our_name = shell.run_line_magic("tl_look", "features")
    assert repr(shell.run_line_magic("tl_look", "t-SNE")) == repr(by_our_name)
    assert {LOOKS[name] for name in ("grad-cam", "saliency", "heatmap")} == {"evidence"}


def test_lp_ft_is_explained():
    with pytest.raises(PlanError, match="the head is trained first.*write %tl_strategy full"):
        strategy_named("LP-FT")


# ── Python ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_methods_of_other_tools_name_ours():
    tl = Session()
    for name, ours in METHODS.items():
        assert callable(getattr(Session, ours)) and not hasattr(tl, name)
        with pytest.raises(UsageError, match=rf"tlnb has no tl.{name}: use tl.{ours}\(...\)"):
            getattr(tl, name)
    with pytest.raises(AttributeError, match="has no attribute 'zebra'"):
        _ = tl.zebra


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda tl: tl.train(5), "write tl.train(epochs=5)"),
        (lambda tl: tl.train("2min"), "write tl.train(budget='2min')"),
        (lambda tl: tl.train(learning_rate=0.1), "write tl.train(lr=0.1)"),
        (lambda tl: tl.train(seed=3, n_epochs=5), "write tl.train(seed=3, epochs=5)"),
        (lambda tl: tl.train(no_cache=True), "write tl.train(cache=False)"),
        (lambda tl: tl.train(epochs="5"), "write tl.train(epochs=5)"),
        (lambda tl: tl.train(seeds="2"), "write tl.train(seeds=2)"),
        (lambda tl: tl.train(zebra=1), "write tl.train(epochs=20); it takes epochs, lr"),
        (lambda tl: tl.forecast(learning_rate=0.1), "write tl.forecast(lr=0.1)"),
        (lambda tl: tl.save(job="x.json", bs=8), "write tl.save(job='x.json', batch_size=8)"),
        (lambda tl: tl.data("digits", 2), "write tl.data('digits', per_class=2)"),
        (lambda tl: tl.data(), "tl.data needs source: tl.data('digits', per_class=2)"),
        (lambda tl: tl.data("digits", per_class="2"), "write tl.data('digits', per_class=2)"),
        (
            lambda tl: tl.load("glyphnet", pretrained=True),
            "write tl.load('glyphnet', weights='default')",
        ),
        (
            lambda tl: tl.load("glyphnet", pretrained=False),
            "write tl.load('glyphnet', weights='none')",
        ),
        (lambda tl: tl.strategy("partial", 1), "write tl.strategy('partial', last=1)"),
        (lambda tl: tl.strategy("adapter", 4), "write tl.strategy('adapter', rank=4)"),
        (lambda tl: tl.tune(5), "write tl.tune(trials=5)"),
        (lambda tl: tl.advise("5min"), "write tl.advise(budget='5min')"),
        (lambda tl: tl.compare(target="0.8"), "write tl.compare(target=0.8)"),
        (
            lambda tl: tl.errors("x", "y"),
            "tl.errors does not take 'y' without a name: it takes run",
        ),
        (lambda tl: tl.freeze(layers="layer1"), "tl.freeze has no layers: it takes *patterns"),
        (lambda tl: tl.reset(True), "it takes nothing"),
        (lambda tl: tl.data("digits", source="faces"), "multiple values for argument 'source'"),
        (lambda tl: tl.trian, "tlnb has no tl.trian: did you mean train"),
    ],
)
def test_a_call_that_does_not_fit_is_answered_with_the_one_that_works(call, words: str):
    tl = Session()
    before = tl.state
    with pytest.raises(UsageError) as error:
        call(tl)
    assert words in str(error.value) and "\n" not in str(error.value)
    assert tl.state is before and tl.transcript == []


def test_a_bad_call_is_a_type_error_too():
    with pytest.raises(TypeError):
        Session().train(5)  # type: ignore[misc]


def test_every_habit_means_an_option_that_some_magic_has():
    from tlnb.magics import TLMagics

    methods = [getattr(TLMagics, name) for name in dir(TLMagics) if name.startswith("tl")]
    known = {
        o
        for m in methods
        if hasattr(m, "parser")
        for action in m.parser._actions
        for o in action.option_strings
    }
    assert all(
        meant_option(f"--{word}", sorted(known)) == f"--{option}" for word, option in HABITS.items()
    )
