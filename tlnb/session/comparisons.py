"""Compare runs, and show the whole bill."""

from __future__ import annotations

from dataclasses import replace

from tlnb.core.costs import bill
from tlnb.core.costs.bill import Bill
from tlnb.core.costs.pretraining import pretraining_of
from tlnb.core.costs.prices import Price, parse_price
from tlnb.core.data.dataset import DataSet
from tlnb.core.evaluation import compare as comparing
from tlnb.core.evaluation.comparison import Comparison
from tlnb.core.planning.magic_lines import line
from tlnb.core.runtime.errors import UsageError
from tlnb.core.training.run import Run
from tlnb.session.run_registry import name_of, network_of, run_meant, runs_on
from tlnb.session.session_base import SessionBase
from tlnb.session.state import SessionState
from tlnb.session.trainings import with_equal_budget

TUNING_CHOICES = ("apart", "in")


def compare(
    self: SessionBase,
    *runs: str | Run,
    target: float | None = None,
    price: str | float | None = None,
    tuning: str = "apart",
) -> Comparison:
    """Compare runs side by side, by default all runs on the current data.

    Trains the equal-budget baseline where one is missing.

    Args:
        target: accuracy in 0..1 to measure the time to; default: the highest that all runs reached.
        price: what an hour costs, `0.5usd/h`; default: the one given before, else the list price.
        tuning: `apart`, in rows of its own, or `in`, added to the runs that use its results.

    Raises:
        UsageError: no runs, unknown runs, runs on different data, or an invalid value.
    """
    state = self.current()
    data = state.data()
    state.loaded()
    chosen = _chosen(state, data, runs)
    if target is not None and not 0 < target <= 1:
        raise UsageError(f"--target must be between 0 and 1, got {target}: e.g. --target 0.9")
    if tuning not in TUNING_CHOICES:
        raise UsageError(f"--tuning {tuning} is not known: use {' or '.join(TUNING_CHOICES)}")
    rate = state.bill.price if price is None else parse_price(price)
    matched = [run for run in chosen if run.baseline_of]
    equal = [twin for run in matched if (twin := equal_budget_of(self, run)) is not None]
    plain = [r for r in chosen if not r.baseline_of and r.name in state.networks]
    card = next((network_of(state, r)[0].card for r in plain), None)
    typed = {"target": target, "price": price, "tuning": None if tuning == "apart" else tuning}
    self.record(line("tl_compare", *(name_of(run) for run in runs), **typed))
    return comparing.compare(
        chosen,
        data,
        pretraining_of(card) if card else None,
        equal_budget=equal,
        target=target,
        price=rate,
        tunings=state.bill.of("tuning", {run.plan.tuned for run in chosen}),
        tuning_in=tuning == "in",
    )


def cost(self: SessionBase, price: str | float | None = None) -> Bill:
    """Show the whole bill: every charge by phase, each figure with its basis.

    It includes what someone else paid for the pretrained model.

    Args:
        price: what an hour costs, `0.5usd/h`; from now on it replaces the list price.

    Raises:
        UsageError: an invalid price.
    """
    if price is not None:
        rate = parse_price(price)
        with self.lock.exclusive():
            self.commit(at_price(self.state, rate))
        self.save_to_disk()
    self.record(line("tl_cost", price=price))
    state = self.state
    return replace(state.bill, unpaid=pretraining_of(state.model.card) if state.model else None)


def at_price(state: SessionState, price: Price) -> SessionState:
    """The state with this price for everything, past and future."""
    equal = {name: bill.priced(run, price) for name, run in state.equal_budget.items()}
    runs = tuple(bill.priced(run, price) for run in state.runs)
    return replace(state, bill=state.bill.at(price), runs=runs, equal_budget=equal)


def _chosen(state: SessionState, data: DataSet, runs: tuple[str | Run, ...]) -> list[Run]:
    """The runs to compare, all on this data."""
    chosen = [run_meant(state, run) for run in runs] if runs else list(runs_on(state, data))
    if not chosen:
        raise UsageError("no run on this data yet: %tl_train")
    other = next((run for run in chosen if run.fingerprint != data.fingerprint), None)
    if other is not None:
        raise UsageError(
            f"run {other.name!r} used different data from the current {data.name}: "
            "compare runs on the same data"
        )
    return chosen


def equal_budget_of(session: SessionBase, baseline: Run) -> Run | None:
    """The baseline at its run's number of steps, trained once and charged; None if not longer."""
    of = next((run for run in session.state.runs if run.name == baseline.baseline_of), None)
    known = baseline.name in session.state.networks
    if of is None or not known or baseline.work.steps <= of.work.steps:
        return None
    if baseline.name not in session.state.equal_budget:
        with session.lock.exclusive():
            session.commit(with_equal_budget(session, baseline, of))
    return session.state.equal_budget[baseline.name]
