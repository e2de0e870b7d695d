"""The bill: what it charges, where its figures come from, what others paid."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from tlnb.core.costs.pretraining import GPU_PEAK, GPU_UTILISATION, pretraining_of
from tlnb.core.costs.prices import Price, list_price, parse_budget
from tlnb.core.evaluation.compare import compare
from tlnb.core.evaluation.comparison import BreakEven, Spent
from tlnb.core.evaluation.savings import to_target
from tlnb.core.models.catalogue import catalogue, embedded_card, torchvision_card
from tlnb.core.models.clocks import PHASES, Clock
from tlnb.core.models.flops import forward_flops, step_flops
from tlnb.core.runtime.device import Machine
from tlnb.core.runtime.energy import WATTS_PER_CPU_THREAD, Assumed, Rapl, meter_of
from tlnb.core.runtime.errors import UsageError
from tlnb.core.training.run import Run
from tlnb.display.cards import HTML
from tlnb.session import Session

QUICK = {"epochs": 2, "batch_size": 8}
CPU = Machine(device="cpu", precision="fp32", name="a processor", threads=2)


# ── energy ────────────────────────────────────────────────────────────────────────────────────────────────────────


def counters(folder: Path, **packages: int) -> None:
    """A powercap tree as Linux shows it; the parts of a package are not packages."""
    for name, value in packages.items():
        for at in (folder / f"intel-rapl:{name[1:]}", folder / f"intel-rapl:{name[1:]}:0"):
            at.mkdir(parents=True, exist_ok=True)
            (at / "energy_uj").write_text(f"{value}\n")
            (at / "max_energy_range_uj").write_text("1000000000\n")


def test_the_processors_own_counter_is_read_where_it_can_be(tmp_path: Path):
    counters(tmp_path, p0=5_000_000, p1=1_000_000)
    meter = meter_of(CPU, tmp_path)
    counters(tmp_path, p0=8_000_000, p1=1_500_000)
    assert meter.joules() == pytest.approx(3.5)
    assert meter.basis.startswith("measured: the processor's own counter")


def test_a_counter_goes_round_and_one_that_may_have_done_so_unseen_is_not_believed(tmp_path: Path):
    counters(tmp_path, p0=999_000_000)
    now = [0.0]
    meter = Rapl(
        [tmp_path / "intel-rapl:0"], Assumed(CPU, busy=lambda: 2.0 * now[0]), clock=lambda: now[0]
    )
    counters(tmp_path, p0=1_000_000)
    now[0] = 0.5
    assert meter.joules() == pytest.approx(2.0)
    now[0] = 1000.0  # long enough for a thousand watts to fill it
    assert meter.joules() == pytest.approx(WATTS_PER_CPU_THREAD * 2000)
    assert meter.basis.startswith("assumed")


def test_without_a_counter_energy_is_assumed_from_busy_time_and_says_so(tmp_path: Path):
    meter = meter_of(CPU, tmp_path)
    assert meter.basis.startswith("assumed: 8 W for each busy thread")
    clock = Clock(CPU, meter=meter)
    with clock.phase("training"):
        end = time.process_time() + 0.05
        while time.process_time() < end:
            pass
    with clock.phase("evaluating"):
        time.sleep(0.05)
    wh = clock.wh()
    assert set(wh) == set(PHASES) and wh["training"] >= 8 * 0.05 / 3600 > 3 * wh["evaluating"]


# ── prices ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_prices_come_from_a_dated_table_and_say_where_they_are_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    two = list_price("cpu", "AMD EPYC", 2)
    assert two.per_hour == pytest.approx(2 * list_price("cpu", "", 1).per_hour)
    assert two.basis.startswith("assumed") and "2026" in two.basis
    assert (
        list_price("cuda:0", "NVIDIA A100-SXM4-80GB").per_hour
        != list_price("cuda", "NVIDIA H100 PCIe").per_hour
    )
    own = tmp_path / "mine.toml"
    own.write_text(
        '[[price]]\ndevice = "EPYC"\nper_hour = 7\nper = "device"\nas_of = "2026"\nsource = "my own"\n'
    )
    monkeypatch.setenv("TLNB_PRICES", str(own))
    assert (
        list_price("cpu", "AMD EPYC", 2).per_hour == 7
        and "my own" in list_price("cpu", "AMD EPYC", 2).basis
    )
    bad = tmp_path / "bad.toml"
    bad.write_text('[[price]]\ndevice = "EPYC"\n')
    monkeypatch.setenv("TLNB_PRICES", str(bad))
    with pytest.raises(UsageError, match="is not a valid price table"):
        list_price("cpu", "AMD EPYC", 2)


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("5min", 300), ("2h", 7200), (30, 30), ("0.5usd", 900)]
)
def test_budgets(text: str, seconds: float):
    assert parse_budget(text, Price(per_hour=2.0, currency="usd", basis="")) == pytest.approx(
        seconds
    )


@pytest.mark.parametrize("text", ["soon", "3eur", "-1min", "0s", "nan", "1 usd 2"])
def test_what_is_no_budget_gets_one_line(text: str):
    with pytest.raises(UsageError, match="is not a budget"):
        parse_budget(text, Price(per_hour=2.0, currency="usd", basis=""))


# ── the bill ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_bill_sums_exactly_by_kind_and_every_figure_has_a_basis(compared: Session):
    bill = compared.cost()
    assert set(bill.kinds) == {"run", "baseline", "equal budget"}
    for figure in ("seconds", "flops", "wh", "money"):
        parts = sum(getattr(total, figure) for total in bill.kinds.values())
        assert parts == pytest.approx(getattr(bill.total, figure), rel=1e-12)
        assert all(charge.bases[figure][0] in ("measured", "assumed") for charge in bill.charges)
    for run in compared.runs:
        mine = [c for c in bill.charges if c.run == run.name]
        assert sum(c.money for c in mine) == pytest.approx(run.money)
        assert sum(c.wh for c in mine) == pytest.approx(run.energy_wh)
    assert "The bill you did not pay" in HTML[type(bill)](bill)


def test_a_price_of_ones_own_wins_from_then_on(small: Session):
    small.train(**QUICK)
    first = small.bill.total.money
    bill = small.cost("36eur/h")
    assert bill.currency == "eur" and bill.total.money == pytest.approx(0.01 * bill.total.seconds)
    assert small.runs[0].money == pytest.approx(bill.total.money) != first
    run = small.train(**QUICK)
    assert run.currency == "eur" and run.money == pytest.approx(0.01 * sum(run.seconds.values()))
    assert small.compare().price.currency == "eur"
    with pytest.raises(UsageError, match="is not a price"):
        small.cost("cheap")
    assert small.bill.currency == "eur"


def test_the_bill_and_its_price_survive_a_restart(
    small: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("TLNB_HOME", str(tmp_path))
    small.train(**QUICK)
    small.cost("36eur/h")
    small.forecast(**QUICK)
    small.store.close()
    later = Session()
    later.resume(tmp_path)
    assert later.bill == small.bill and [c.kind for c in later.bill.charges][-1] == "forecasting"


def test_a_record_keeps_energy_by_phase(small: Session):
    run = small.train(**QUICK)
    again = Run.from_json(run.to_json())
    assert again.wh_by_phase == run.wh_by_phase and sum(run.wh_by_phase.values()) == pytest.approx(
        run.energy_wh
    )
    assert json.loads(run.to_json())["inference_flops"] == run.inference_flops > 0


# ── FLOPs, by hand ────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_perceptron_by_hand():
    network = nn.Sequential(nn.Linear(10, 20), nn.ReLU(), nn.Linear(20, 5))
    forward = 2 * (10 * 20 + 20 * 5)
    backward = (
        2 * (10 * 20 + 20 * 5) + 2 * 20 * 5
    )  # of every weight; of the second layer's input, not of the images
    assert forward_flops(network, torch.zeros(2, 10)) == pytest.approx(forward, rel=0.01)
    assert step_flops(network, torch.zeros(2, 10)) == pytest.approx(forward + backward, rel=0.01)
    network[0].requires_grad_(False)
    assert step_flops(network, torch.zeros(2, 10)) == pytest.approx(forward + 2 * 20 * 5, rel=0.01)


def test_convolutions_in_groups_by_hand():
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, 2, 1, groups=8), nn.Conv2d(8, 16, 1)
    )
    forward = 2 * (8 * 3 * 9 * 16 * 16 + 8 * 9 * 8 * 8 + 16 * 8 * 8 * 8)
    assert forward_flops(network, torch.zeros(2, 3, 16, 16)) == pytest.approx(forward, rel=0.01)


def test_a_vision_transformer_by_hand():
    from torchvision.models import VisionTransformer

    network = VisionTransformer(
        32, 8, num_layers=2, num_heads=2, hidden_dim=64, mlp_dim=128, num_classes=10
    ).eval()
    tokens, width = 17, 64  # 4 × 4 patches, and the class token
    patches = 2 * 16 * width * 3 * 8 * 8
    attention = (
        2 * tokens * width * 3 * width
        + 2 * 2 * tokens * tokens * width
        + 2 * tokens * width * width
    )
    perceptron = 2 * 2 * tokens * width * 128
    forward = patches + 2 * (attention + perceptron) + 2 * width * 10
    assert forward_flops(network, torch.zeros(2, 3, 32, 32)) == pytest.approx(forward, rel=0.01)


# ── what others paid ──────────────────────────────────────────────────────────────────────────────────────────────


def test_pretraining_of_embedded_models_is_measured_and_of_torchvisions_estimated_from_recipes():
    mine = pretraining_of(embedded_card("glyphnet"))
    assert mine is not None and mine.basis == "measured" and "core" in mine.hardware
    other = pretraining_of(torchvision_card("resnet18"))
    assert other is not None and other.basis == "assumed"
    flops = 90 * 1_281_167 * 3 * 1.814e9 * 2  # epochs, images, passes, one forward pass
    assert other.flops == pytest.approx(flops, rel=0.01)
    assert other.seconds == pytest.approx(other.flops / (GPU_PEAK * GPU_UTILISATION))
    assert other.bases["seconds"][0] == "assumed" and "30%" in other.bases["seconds"][1]
    assert pretraining_of(torchvision_card("squeezenet1_0")) is None  # no recipe of it is published
    known = [pretraining_of(card) for card in catalogue().cards]
    assert sum(found is not None for found in known) > 40


# ── side by side ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_what_it_took_to_the_target_is_a_share_of_the_whole(compared: Session):
    run = compared.runs[0]
    all_of_it = to_target(run, 0.01)
    assert all_of_it.seconds is not None and all_of_it.seconds < run.training_seconds
    assert all_of_it.flops is not None and 0 < all_of_it.flops < run.training_flops
    assert to_target(run, 1.01) == Spent()


def test_seeds_are_repeated_and_shown_as_one_row_with_a_spread(small: Session):
    run = small.train(**QUICK, seeds=3)
    assert [r.name for r in small.runs] == [
        "head",
        "head-seed1",
        "head-seed2",
    ] and run is small.runs[-1]
    assert [seed for seed, _ in run.repeats] == [0, 1, 2]
    assert [a for _, a in run.repeats] == [r.accuracy for r in small.runs]
    found = small.compare()
    row = found.rows[0]
    assert (row.name, row.seeds) == ("head", 3) and row.spread is not None and row.interval is None
    assert row.accuracy == pytest.approx(sum(r.accuracy for r in small.runs) / 3)
    assert "± " in HTML[type(found)](found) and "(3 seeds)" in HTML[type(found)](found)
    assert small.transcript[-2] == "%tl_train --epochs 2 --batch-size 8 --seeds 3"
    again = Run.from_json(run.to_json())
    assert again.repeats == run.repeats and again.group == "head"
    with pytest.raises(UsageError, match="--seeds 0"):
        small.train(seeds=0)


def test_break_even_is_where_both_lines_meet():
    found = BreakEven(unit="seconds", once=900.0, run=1.0, baseline=10.0)
    assert found.uses == pytest.approx(100)
    assert found.once + found.uses * found.run == pytest.approx(found.uses * found.baseline)
    assert BreakEven(unit="seconds", once=900.0, run=10.0, baseline=1.0).uses is None


def test_a_comparison_without_a_reached_target_says_so(compared: Session):
    found = compare(compared.runs, compared.dataset, target=0.9999)
    assert all(
        row.seconds_to_target is None for row in found.rows if row.kind in ("run", "baseline")
    )
    assert "not reached" in HTML[type(found)](found)
