"""Training: what moves, what is recorded, what an interrupt leaves, and that caching changes nothing."""

from __future__ import annotations

import gc
import json
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from tlnb.core.costs.bill import Bill
from tlnb.core.costs.prices import parse_price
from tlnb.core.data.augment import augment
from tlnb.core.models.clocks import PHASES
from tlnb.core.runtime.errors import ModelError, PlanError, UsageError
from tlnb.core.training import context as training_context
from tlnb.core.training.folded_input_norm import FoldedInputNorm
from tlnb.core.training.freezing import Learning, set_modes
from tlnb.core.training.run import Run, wilson_interval
from tlnb.core.training.trainer import Trainer
from tlnb.session import Session

QUICK = {"epochs": 2, "batch_size": 8}


def state(session: Session) -> tuple:
    return (
        session.dataset,
        session.model,
        session.plan,
        tuple(session.runs),
        session.bill,
        session.script(),
    )


@pytest.mark.parametrize("strategy", ["head", "partial", "full", "output-frozen", "scratch"])
def test_just_what_the_plan_trains_moves(small: Session, strategy: str):
    plan = small.strategy(strategy)
    before = {k: v.clone() for k, v in small.model.module.state_dict().items()}
    run = small.train(**QUICK)
    assert run.status == "finished"
    assert set(run.moved) == set(plan.trained)
    assert all(
        torch.equal(v, before[k]) for k, v in small.model.module.state_dict().items()
    )  # the model stays
    weights = run.module().state_dict()
    pretrained = small.model.module.state_dict()
    for name in plan.frozen:
        if name != "head":
            own = [k for k in weights if k.rpartition(".")[0] == name]
            assert own and all(torch.equal(weights[k], pretrained[k]) for k in own)


def test_custom_freezes_hold(small: Session):
    small.strategy("full")
    small.freeze("stem..layer2", "*.bn1")
    small.unfreeze("layer2")
    run = small.train(**QUICK)
    assert small.plan.strategy == "custom"
    assert set(run.moved) == set(small.plan.trained)
    assert not {m for m in run.moved if m.startswith(("stem", "layer1")) or m == "layer3.bn1"}


@pytest.mark.parametrize("strategy", ["head", "partial"])
def test_caching_changes_nothing(small: Session, strategy: str):
    small.strategy(strategy)
    runs = [
        small.train(epochs=4, batch_size=8, augment="none", precision="fp32", cache=c)
        for c in (True, False)
    ]
    losses = [[e.train_loss for e in run.epochs] for run in runs]
    assert np.allclose(*losses, atol=1e-5)
    assert runs[0].training_flops < runs[1].training_flops


def test_the_output_layer_is_folded_back(small: Session):
    run = small.train(epochs=3, precision="fp32")
    module = run.module()
    with torch.no_grad():
        logits = module(small.model.transform(small.dataset.images["test"]))
    right = float((logits.argmax(1) == small.dataset.labels["test"]).float().mean())
    assert right == pytest.approx(run.accuracy, abs=0.002)  # one of 700 images may be a tie
    assert type(module.head) is torch.nn.Linear and not module.head._forward_pre_hooks


def test_a_run_is_a_function_of_its_seed(small: Session):
    small.strategy("full")
    torch.manual_seed(1)
    one = small.train(**QUICK, seed=5)
    before = torch.random.get_rng_state()
    two = small.train(**QUICK, seed=5)
    assert torch.equal(before, torch.random.get_rng_state())
    other = small.train(**QUICK, seed=6)
    losses = [[e.train_loss for e in r.epochs] for r in (one, two, other)]
    assert losses[0] == losses[1] != losses[2]


def test_phases_are_the_whole_and_the_bill_is_their_sum(compared: Session):
    for run in compared.runs:
        assert set(run.seconds) == set(PHASES) and all(s >= 0 for s in run.seconds.values())
    total = compared.bill.total
    mine = [c for c in compared.bill.charges if "equal steps" not in c.run]
    assert len(mine) < len(compared.bill.charges)  # the equal-budget baseline is charged
    assert sum(c.seconds for c in mine) == pytest.approx(
        sum(sum(r.seconds.values()) for r in compared.runs)
    )
    assert sum(c.flops for c in mine) == pytest.approx(sum(r.flops for r in compared.runs))
    assert total.money == pytest.approx(sum(c.money for c in compared.bill.charges))
    assert total.basis == "assumed" and total.bases["seconds"][0] == "measured"


def test_flops_agree_with_a_count_by_hand(small: Session):
    run = small.train(epochs=3, augment="none")
    trunk = 2 * sum(  # multiply-adds of every convolution, by hand
        out * inputs * k * k * edge * edge
        for inputs, out, k, edge in [
            (3, 24, 3, 16),
            (24, 24, 3, 16),
            (24, 24, 3, 16),
            (24, 48, 3, 8),
            (48, 48, 3, 8),
            (24, 48, 1, 8),
            (48, 96, 3, 4),
            (96, 96, 3, 4),
            (48, 96, 1, 4),
            (96, 160, 3, 2),
            (160, 160, 3, 2),
            (96, 160, 1, 2),
        ]
    )
    head = 2 * 160 * 10
    images = 20
    assert run.flops_by_phase["training"] == pytest.approx(
        3 * images * 2 * head, rel=0.01
    )  # forward, weight gradient
    assert run.flops_by_phase["caching"] == pytest.approx(images * (trunk + head), rel=0.01)


@pytest.mark.parametrize(
    ("head", "shape"),
    [
        (nn.Linear(6, 3), (50, 6)),
        (nn.Linear(6, 3), (50, 4, 6)),
        (nn.Conv2d(6, 3, 1), (50, 6, 2, 2)),
    ],
)
def test_each_feature_is_standardised_and_folding_changes_nothing(
    head: nn.Module, shape: tuple[int, ...]
):
    torch.manual_seed(0)
    features = torch.randn(shape) * 3 + 7
    axis = 1 if isinstance(head, nn.Conv2d) else len(shape) - 1
    features.select(axis, 2).add_(100.0)  # one feature lies far off
    scale = FoldedInputNorm.of(head, features)
    seen: list[torch.Tensor] = []
    head.register_forward_pre_hook(lambda _, x: seen.append(x[0]))
    before = head(features)
    assert seen[0].movedim(axis, 0).flatten(1).mean(1).abs().max() < 1e-4
    scale.fold()
    assert torch.allclose(head(features), before, atol=1e-4)


def test_lbfgs_solves_the_output_layer(small: Session):
    run = small.train(optimizer="lbfgs", augment="none", epochs=4)
    losses = [e.train_loss for e in run.epochs]
    assert run.moved == ("head",) and losses == sorted(losses, reverse=True) and losses[-1] < 0.5
    again = small.train(optimizer="lbfgs", augment="none", epochs=4, cache=True)
    assert [e.train_loss for e in again.epochs] == losses
    assert run.accuracy > 0.5 and run.flops_by_phase["training"] > 0
    small.strategy("partial")
    with pytest.raises(UsageError, match="%tl_strategy head first"):
        small.train(optimizer="lbfgs")


def test_interrupt_keeps_everything(small: Session):
    small.strategy("full")

    def stop(progress):
        if progress.phase == "training" and progress.epoch == 2:
            raise KeyboardInterrupt

    small.report = stop
    run = small.train(epochs=50, batch_size=8)
    assert run.status == "stopped" and len(run.epochs) == 2 and run in small.runs
    assert run.module()(torch.zeros(1, 3, 32, 32)).shape == (1, 10)
    assert 0 < run.accuracy < 1


@pytest.mark.parametrize("strategy", ["head", "full"])
def test_what_a_run_needed_is_let_go_of_at_once(small: Session, monkeypatch, strategy: str):
    """Not only when Python looks for cycles: on a GPU it would be missing until then."""
    seen: list[weakref.ref[Trainer]] = []
    carry_out = Trainer.run

    def noted(self: Trainer, *given, **also):
        return seen.append(weakref.ref(self)) or carry_out(self, *given, **also)

    monkeypatch.setattr(Trainer, "run", noted)
    small.strategy(strategy)
    gc.collect()
    gc.disable()
    try:
        run = small.train(epochs=1)
    finally:
        gc.enable()
    assert [one() for one in seen] == [None]
    assert all(p.grad is None for p in run.network().parameters())


def test_a_frozen_layer_that_moves_fails_the_run(small: Session, monkeypatch):
    def careless(module, trained, keeping=()):
        module.train()

    monkeypatch.setattr(training_context, "set_modes", careless)
    run = small.train(epochs=1, cache=False)
    assert run.status == "failed" and "frozen layers moved" in run.notes[-1]


@pytest.mark.parametrize("strategy", ["head", "full"])
def test_an_epoch_walks_over_no_tree_and_begins_no_device_but_its_own(
    small: Session, monkeypatch, strategy: str
):
    calls = {"modes": 0, "seeds": 0}
    modes, seed = training_context.set_modes, torch.manual_seed

    def counted(what: str, call):
        def counting(*given):
            calls[what] += 1
            return call(*given)

        return counting

    small.strategy(strategy)
    small.train(epochs=1, device="cpu")  # proves where the network can be split, once
    monkeypatch.setattr(training_context, "set_modes", counted("modes", modes))
    monkeypatch.setattr(torch, "manual_seed", counted("seeds", seed))
    found = []
    for epochs in (2, 5):
        small.train(epochs=epochs, device="cpu")
        found.append(dict(calls))
        calls.update(modes=0, seeds=0)
    assert found[0] == found[1] and found[0]["modes"] > 0


def test_after_a_look_what_trains_is_in_training_mode_again():
    network = nn.Sequential(nn.Linear(2, 2), nn.Dropout(), nn.Linear(2, 2)).eval()
    set_modes(network, {"2"})
    before = [part.training for part in network.modules()]
    learning = Learning(network)
    with pytest.raises(ValueError, match="in the look"), learning.resting():
        assert not any(part.training for part in network.modules())
        raise ValueError("in the look")
    assert (
        [part.training for part in network.modules()] == before and any(before) and not all(before)
    )


def test_going_on_from_a_run(small: Session):
    first = small.train(epochs=30)
    small.strategy("full")
    second = small.train(**QUICK, from_="head")
    assert second.started_from == "head"
    assert second.epochs[0].train_loss < 1.5 and first.accuracy > 0.5  # chance is ln 10 = 2.3
    with pytest.raises(UsageError, match="did you mean head"):
        small.train(from_="haed")


def test_the_best_val_epoch_is_kept(session: Session):
    session.data("digits", per_class=20)
    session.load("glyphnet")
    run = session.train(epochs=6)
    values = [e.val_accuracy for e in run.epochs]
    assert run.best_epoch == max(
        range(6), key=lambda epoch: (values[epoch], epoch)
    )  # of equals the last


def test_the_baseline_is_matched(compared: Session):
    run, baseline = compared.runs
    assert baseline.baseline_of == run.name and baseline.plan.start == "random"
    assert baseline.plan.total_params == run.plan.total_params and not baseline.plan.frozen
    assert run.work.steps < baseline.work.steps <= 2 * run.work.steps
    assert baseline.seed == run.seed and compared.plan.strategy == "head"


def test_comparison(compared: Session):
    found = compared.compare()
    kinds = {row.kind: row for row in found.rows}
    assert set(kinds) == {"run", "baseline", "equal budget", "pixels", "pretraining"}
    run, baseline = compared.runs
    best = [run.watched, baseline.watched]
    assert found.target == min(best) and found.watched_split == "monitor"
    times = [kinds[k].seconds_to_target for k in ("run", "baseline")]
    assert found.speedup == pytest.approx(times[1] / times[0]) and not found.speedup_is_bound
    work = [kinds[k].to_target.flops for k in ("run", "baseline")]
    assert found.less_work == pytest.approx(work[1] / work[0])
    assert kinds["equal budget"].steps <= run.work.steps
    saved = found.saving
    difference = baseline.training_flops - run.training_flops
    assert saved.fewer_steps + saved.freezing + saved.caching == pytest.approx(difference)
    paid = kinds["pretraining"]
    assert found.pays_off_after == pytest.approx(paid.flops / (work[1] - work[0]))
    assert 0.5 < kinds["pixels"].accuracy < 0.95
    assert len(compared.runs) == 2


def test_a_missed_target_makes_the_speedup_a_bound(compared: Session):
    run, baseline = compared.runs
    above = baseline.watched + 1e-6
    if above > run.watched:
        pytest.skip("here the baseline reached more than the run")
    found = compared.compare(target=above)
    assert (
        found.speedup_is_bound
        and next(r for r in found.rows if r.kind == "baseline").seconds_to_target is None
    )


def test_records_survive_json(compared: Session):
    for run in compared.runs:
        back = Run.from_json(run.to_json())
        assert back == replace(run, _trained=None)
        with pytest.raises(UsageError, match="without weights"):
            back.module()
    with pytest.raises(UsageError, match="this is not a run record"):
        Run.from_json("[]")
    with pytest.raises(UsageError, match="another schema"):
        Run.from_json('{"schema": 99}')


@pytest.mark.parametrize("name", ["epochs", "lr", "batch_size", "weight_decay", "augment"])
def test_a_record_without_what_recipes_fill_in_is_none(compared: Session, name: str):
    values = json.loads(compared.runs[0].to_json())
    values["options"][name] = None
    with pytest.raises(UsageError, match=f"{name} is missing"):
        Run.from_json(json.dumps(values))


def test_learning_rates_by_stage(small: Session):
    small.strategy("partial")
    run = small.train(epochs=1, lr="layer4=0.001,head=0.01")
    assert run.options.stage_lr == (("layer4", 0.001), ("head", 0.01))
    with pytest.raises(PlanError, match="did you mean layer4"):
        small.train(lr="layr4=0.001")
    with pytest.raises(UsageError, match="not a learning rate"):
        small.train(lr="fast")


def test_own_module_from_python(session: Session):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 90, (40, 16, 16), dtype=np.uint8)
    images[20:] += 120
    session.data(images, ["dim"] * 20 + ["lit"] * 20)
    net = torch.nn.Sequential(torch.nn.AvgPool2d(4), torch.nn.Flatten(), torch.nn.Linear(48, 5))
    session.load(net, size=16, mean=(0.5,) * 3, std=(0.25,) * 3)
    session.strategy("full")
    run = session.train(epochs=20, augment="none")
    assert run.accuracy == 1.0 and net[2].out_features == 5


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda s: s.data("digts"), Exception, "did you mean digits"),
        (lambda s: s.load("glyphnett"), ModelError, "did you mean glyphnet"),
        (lambda s: s.load("glyphnet", "nowhere.pt"), ModelError, "the weights file"),
        (lambda s: s.strategy("haed"), PlanError, "did you mean head"),
        (lambda s: s.freeze("layer9"), PlanError, "did you mean"),
        (lambda s: s.unfreeze(), PlanError, "%tl_unfreeze needs a layer"),
        (lambda s: s.freeze("head"), PlanError, "is frozen"),
        (lambda s: s.train(device="cuda:99"), UsageError, "try --device cpu"),
        (lambda s: s.train(precision="fp16", device="cpu"), UsageError, "needs a GPU"),
        (lambda s: s.train(epochs=0), UsageError, "--epochs 0"),
        (lambda s: s.train(scratch=True), UsageError, "%tl_train first"),
        (lambda s: s.compare(), UsageError, "no run on this data"),
        (lambda s: s.compare("x"), UsageError, "no run is called"),
    ],
)
def test_a_call_that_fails_changes_nothing(small: Session, call, error, words):
    before = state(small)
    with pytest.raises(error, match=words) as raised:
        call(small)
    assert "\n" not in str(raised.value)
    assert state(small) == before


def test_calls_out_of_order_say_what_comes_first(session: Session):
    for call in (session.train, session.compare):
        with pytest.raises(UsageError, match="%tl_data"):
            call()
    for call in (session.layers, session.strategy, session.freeze):
        with pytest.raises(UsageError, match="%tl_load"):
            call()
    session.load("glyphnet")
    assert session.plan.edits == ()
    with pytest.raises(UsageError, match="%tl_data"):
        session.train()


def test_data_and_model_load_in_either_order(small: Session, session: Session):
    other = Session()
    other.load("glyphnet")
    other.data("digits", per_class=2)
    assert other.plan == small.plan


def test_new_data_keeps_the_plan_and_the_runs(small: Session):
    small.strategy("partial")
    small.train(**QUICK)
    small.data("symbols", classes=5, per_class=3)
    assert small.plan.strategy == "partial" and len(small.runs) == 1
    assert small.plan.edits[0].code == "nn.Linear(160, 5)"
    with pytest.raises(UsageError, match="different data"):
        small.compare("partial")


def test_price():
    assert parse_price("2usd/h").per_hour == 2 and parse_price("0.5 EUR / h").currency == "eur"
    for bad in ("cheap", "-1usd", ""):
        with pytest.raises(UsageError, match="is not a price"):
            parse_price(bad)


def test_wilson_interval():
    low, high = wilson_interval(90, 100)  # Newcombe, Statistics in Medicine 17 (1998), method 3
    assert (round(low, 4), round(high, 4)) == (0.8256, 0.9448)
    assert wilson_interval(0, 10)[0] == 0 and wilson_interval(10, 10)[1] == 1


@pytest.mark.parametrize("kind", ["none", "light", "photo"])
def test_augmentation_keeps_range_and_shape(kind: str):
    images = torch.randint(0, 256, (6, 3, 32, 32), dtype=torch.uint8)
    changed = augment(images, kind, torch.Generator().manual_seed(0))
    assert changed.shape == images.shape and changed.min() >= 0 and changed.max() <= 255
    assert torch.equal(changed, images.float()) == (kind == "none")


def test_empty_bill():
    assert Bill().total.seconds == 0


def test_run_model_is_the_trained_network(small, trained_once):
    run = small.train(epochs=1)
    assert run.model.state_dict().keys() == run.module().state_dict().keys()
    assert not run.model.training and run.model is not small.model.module
