"""Going on means from the same start: a run resumes with the network that it began from, or says what differs."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from tests.resuming import begun, own_home, same, stop_after  # noqa: F401 - a fixture of every test here
from tlnb.core.runtime.errors import UsageError
from tlnb.core.training import checkpoint, session_folder
from tlnb.session import Session

Change = Callable[["Net"], None]


class Net(nn.Module):
    """A network of one's own: a frozen part with statistics, and a head."""

    def __init__(self, seed: int = 0, slope: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.fc, self.slope = nn.Linear(4 * 14 * 14, 2), slope

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.fc(self.activated(self.norm(self.conv(images))).flatten(1))

    def activated(self, maps: torch.Tensor) -> torch.Tensor:
        return nn.functional.leaky_relu(maps, self.slope)


class OtherForward(Net):
    """The same layers and settings, another forward."""

    def activated(self, maps: torch.Tensor) -> torch.Tensor:
        return nn.functional.gelu(maps) * (1 + self.slope)


def arrays() -> tuple[np.ndarray, list[str]]:
    rng = np.random.default_rng(0)
    return rng.integers(0, 255, (24, 16, 16), dtype=np.uint8), ["a", "b"] * 12


def with_data() -> Session:
    session = Session()
    session.data(*arrays())
    return session


def with_own(net: nn.Module, strategy: str = "head", called: str = "net") -> Session:
    session = with_data()
    session.load(net, size=16, called=called)
    session.strategy(strategy)
    return session


def stopped(strategy: str = "head") -> Session:
    session = with_own(Net(), strategy)
    stop_after(session, 1)
    assert session.train(epochs=3).status == "stopped"
    session.store.close()
    return session


def in_place(change: Change) -> Callable[[], nn.Module]:
    def made() -> nn.Module:
        net = Net()
        with torch.no_grad():
            change(net)
        return net

    return made


OTHERS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "random weights": (lambda: Net(seed=1), "conv differs"),
    "one weight": (in_place(lambda n: n.conv.weight[0, 0, 0, 0].add_(1e-6)), "conv differs"),
    "statistics": (in_place(lambda n: n.norm.running_mean.add_(1)), "norm differs"),
    "several": (
        in_place(lambda n: [p.add_(1) for p in n.parameters()] and None),
        "conv, norm differ",
    ),
    "forward": (OtherForward, "its code or its settings differ"),
    "setting": (lambda: Net(slope=0.2), "its code or its settings differ"),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_a_later_kernel_does_not_go_on_from_another_network(kind: str):
    stopped()
    made, what = OTHERS[kind]
    later = with_data()
    with pytest.raises(UsageError, match=f"run 'head' began from another network .*{what}"):
        later.resume(names={"net": made()})
    assert later.runs == [] and later.model is None


def test_the_same_network_goes_on():
    stopped()
    resumed = with_data().resume(names={"net": Net()})
    same(resumed, with_own(Net()).train(epochs=3))


def test_a_model_that_was_changed_in_place_does_not_go_on():
    session = begun(strategy="head")
    stop_after(session, 1)
    session.train(epochs=3)
    session.report = None
    with torch.no_grad():
        kept = session.model.module.layer1.conv1.weight.clone()
        session.model.module.layer1.conv1.weight.mul_(2)
    with pytest.raises(UsageError, match=r"another network than glyphnet.*layer1\.conv1 differs"):
        session.resume()
    with torch.no_grad():
        session.model.module.layer1.conv1.weight.copy_(kept)
    same(session.resume(), begun(strategy="head").train(epochs=3))


def test_what_moved_is_told_beside_the_start_that_the_run_began_from():
    """Where all layers train, weights come from the checkpoint; the proof is still about the first start."""
    stopped("full")
    resumed = with_data().resume(names={"net": Net(seed=5)})
    whole = with_own(Net(), "full").train(epochs=3)
    assert resumed.moved == whole.moved
    same(resumed, whole)
    assert {c.name: c.weights for c in resumed.changes}["conv"] is None


def test_a_checkpoint_without_a_start_goes_on():
    """As version 0.1.0 wrote it."""
    session = stopped()
    file = session.store.folder.run_file("head")
    about, found = checkpoint.read(file)
    assert sorted(found.start) == ["conv", "fc", "norm"] and found.code
    checkpoint.write(file, about, replace(found, start={}, code=""))
    assert with_data().resume(names={"net": Net()}).status == "finished"


# ── from a run that was stopped ──


def further(session: Session, strategy: str = "partial") -> None:
    """A run that was stopped, and another from where it stood."""
    stop_after(session, 1)
    assert session.train(epochs=3, name="first").status == "stopped"
    session.report = None
    session.strategy(strategy)


def test_a_run_from_a_stopped_one_comes_back_with_its_start():
    first = begun(strategy="full")
    further(first)
    second = first.train(epochs=2, from_="first", name="second")
    first.store.close()
    later = Session()
    resumed = later.resume()  # goes on with the first, which changes that
    assert resumed.name == "first" and resumed.status == "finished"
    assert sorted(r.name for r in later.runs) == ["first", "second"] and later.state.lost == ()
    same(next(r for r in later.runs if r.name == "second"), second)
    later.store.close()
    once_more = Session()
    assert once_more.resume() is once_more and once_more.state.lost == ()
    same(next(r for r in once_more.runs if r.name == "second"), second)


def test_a_run_from_a_stopped_one_goes_on_from_its_true_start():
    whole = begun(strategy="full")
    further(whole)
    expected = whole.train(epochs=3, from_="first", name="second")
    first = begun(strategy="full")
    further(first)
    stop_after(first, 1)
    assert first.train(epochs=3, from_="first", name="second").status == "stopped"
    first.store.close()
    later = Session()
    resumed = later.resume()
    assert resumed.name == "second" and resumed.started_from == "first"
    same(resumed, expected)
    assert resumed.source_accuracy == expected.source_accuracy
    assert later.resume().name == "first"


# ── a run that cannot be made again ──


def two_networks_of_one_name() -> tuple[Session, list[object]]:
    session = with_own(Net())
    runs = [session.train(epochs=1, name="first")]
    session.load(Net(seed=3), size=16, called="net")
    runs.append(session.train(epochs=1, name="second"))
    session.store.close()
    return session, runs


@pytest.mark.parametrize(("seed", "back", "lost"), [(0, 0, "second"), (3, 1, "first")])
def test_of_two_networks_of_one_name_the_one_at_hand_comes_back(seed: int, back: int, lost: str):
    earlier, runs = two_networks_of_one_name()
    later = with_data()
    assert later.resume(names={"net": Net(seed=seed)}) is later
    assert [r.name for r in later.runs] == ["first", "second"]
    same(later.runs[back], runs[back])
    record = later.runs[1 - back]
    assert record.name == lost and record.accuracy == runs[1 - back].accuracy
    assert len(later.state.lost) == 1 and later.state.lost[0] in repr(later)
    assert f"run {lost!r} came back as a record without its network" in later.state.lost[0]
    assert later.bill.total.seconds == earlier.bill.total.seconds
    for call in (record.module, lambda: later.code(lost), lambda: later.save(run=lost)):
        with pytest.raises(UsageError):
            call()
    assert len(later.compare().rows) == 2
    later.store.close()
    other = with_data()
    other.resume(names={"net": Net(seed=3 - seed)})
    same(other.runs[1 - back], runs[1 - back])


def test_a_finished_run_of_another_forward_comes_back_as_a_record():
    session = with_own(Net())
    session.train(epochs=1, name="first")
    session.store.close()
    later = with_data()
    later.resume(names={"net": OtherForward()})
    with pytest.raises(UsageError, match="without weights"):
        later.runs[0].module()
    assert "net had other code or settings" in later.state.lost[0]


def test_runs_come_back_beside_one_that_does_not_go_on():
    session = with_own(Net())
    session.train(epochs=1, name="done")
    stop_after(session, 1)
    session.load(Net(seed=1), size=16, called="other")
    session.train(epochs=3, name="cut")
    session.store.close()
    later = with_data()
    names = {"net": Net(), "other": Net(seed=2)}
    assert later.resume(names=names) is later
    assert [r.name for r in later.runs] == ["done"] and later.runs[0].module()
    assert "run 'cut' does not go on" in later.state.lost[0] and "conv differs" in repr(later)
    with pytest.raises(UsageError, match="conv differs"):
        later.resume()


# ── which session is the last ──


@pytest.mark.skipif(not hasattr(time, "tzset"), reason="Windows has no tzset")
def test_sessions_are_ordered_by_when_they_began_whatever_the_local_time(monkeypatch):
    monkeypatch.setattr(session_folder, "SESSIONS_KEPT", 2)
    try:
        for name, zone in (("oldest", "UTC-9"), ("older", "UTC-5"), ("last", "UTC+8")):
            monkeypatch.setenv("TZ", zone)
            time.tzset()
            session = begun(strategy="head")
            session.train(epochs=1, name=name)
            session.store.close()
    finally:
        monkeypatch.undo()
        time.tzset()
    monkeypatch.setenv("TLNB_HOME", str(session.store.folder.path.parent.parent))
    later = Session()
    later.resume()
    assert [run.name for run in later.runs] == ["last"]
    assert len(list(session.store.folder.path.parent.iterdir())) == 2


@pytest.mark.parametrize("stops", [1, 2])
def test_an_interrupt_during_the_final_test_costs_no_training(stops: int):
    """A stopped run that is stopped again while it is tested; a whole one that is stopped there first."""
    session = begun(strategy="head")
    left = list(range(stops))

    def report(progress):
        last = progress.phase == "evaluating" or (stops == 2 and progress.epoch == 1)
        if left and progress.phase in ("training", "evaluating") and last:
            left.pop()
            raise KeyboardInterrupt

    session.report = report
    with pytest.raises(KeyboardInterrupt):
        session.train(epochs=3)
    session.report = None
    assert not left and session.runs == []
    same(session.resume(), begun(strategy="head").train(epochs=3))
    assert [run.status for run in session.runs] == ["finished"] and not session.state.unfinished
