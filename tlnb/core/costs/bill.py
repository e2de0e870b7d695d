"""The bill: every charge of a session by phase, each figure with its basis."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace

from tlnb.core.costs.pretraining import Pretraining
from tlnb.core.costs.prices import Price, list_price
from tlnb.core.models.clocks import FLOPS_BASIS, PHASES, SECONDS_BASIS, CostTracker
from tlnb.core.runtime.errors import OneLine
from tlnb.core.training.run import Run

FIGURES = ("seconds", "flops", "wh", "money")
KINDS = ("run", "baseline", "equal budget", "tuning", "forecasting", "advising")


@dataclass(frozen=True, kw_only=True)
class Charge(OneLine):
    """One line of the bill.

    `bases` states for each figure whether it was measured or assumed, and how.
    """

    phase: str
    seconds: float
    flops: float
    wh: float
    money: float
    bases: dict[str, tuple[str, str]] = field(default_factory=dict)
    run: str = ""  # the run or other work that it was spent on
    kind: str = "run"
    devices: int = 1  # in use at the same time: money is price times seconds times devices

    @property
    def basis(self) -> str:
        """`assumed` if any of its figures is assumed, else `measured`."""
        kinds = {kind for kind, _ in self.bases.values()}
        return "assumed" if "assumed" in kinds else "measured"

    def __repr__(self) -> str:
        return f"Charge {self.phase}: {self.seconds:.2f} s, {self.flops / 1e9:.2f} GFLOP, {self.wh:.3f} Wh ({self.basis})"


@dataclass(frozen=True, kw_only=True)
class Bill(OneLine):
    """Every charge of the session, oldest first. A price set by the user applies to all."""

    charges: tuple[Charge, ...] = ()
    price: Price | None = None
    unpaid: Pretraining | None = None  # what pretraining the model in use cost someone else

    @property
    def currency(self) -> str:
        """The currency of all amounts."""
        return self.price.currency if self.price else "usd"

    @property
    def total(self) -> Charge:
        """The sum of all charges."""
        return summed(self.charges, "total")

    @property
    def kinds(self) -> dict[str, Charge]:
        """The sums by kind of work (`KINDS`)."""
        by_kind = {kind: [c for c in self.charges if c.kind == kind] for kind in KINDS}
        return {kind: summed(charges, kind) for kind, charges in by_kind.items() if charges}

    def of(self, kind: str, names: Collection[str]) -> dict[str, Charge]:
        """The sums of one kind of work, for each of these names that it was spent on."""
        by_name: dict[str, list[Charge]] = {}
        for charge in self.charges:
            if charge.kind == kind and charge.run in names:
                by_name.setdefault(charge.run, []).append(charge)
        return {name: summed(charges, kind) for name, charges in by_name.items()}

    def with_run(self, run: Run, kind: str | None = None) -> Bill:
        """The bill with a run's phases added."""
        return replace(self, charges=(*self.charges, *charges_of(run, kind)))

    def without(self, run: str) -> Bill:
        """The bill without a run's charges, for when the whole run is charged again."""
        return replace(self, charges=tuple(c for c in self.charges if c.run != run))

    def with_charge(self, charge: Charge) -> Bill:
        """The bill with one more charge."""
        return replace(self, charges=(*self.charges, charge))

    def at(self, price: Price) -> Bill:
        """The bill at another price, which also applies to later charges."""
        charges = tuple(_priced(charge, price) for charge in self.charges)
        return replace(self, charges=charges, price=price)

    def __repr__(self) -> str:
        total = self.total
        return (
            f"Bill: {len(self.charges)} charges, {total.seconds:.1f} s, {total.flops / 1e9:.1f} GFLOP, {total.wh:.2f} Wh, "
            f"{total.money:.4f} {self.currency}"
        )


def _priced(charge: Charge, price: Price) -> Charge:
    bases = {**charge.bases, "money": _basis(price_basis(price, charge.devices))}
    return replace(charge, money=price.of(charge.seconds * charge.devices), bases=bases)


def summed(charges: Iterable[Charge], name: str) -> Charge:
    """Add charges up; a figure is assumed if it is assumed in any of them."""
    every = list(charges)
    bases: dict[str, tuple[str, str]] = {}
    for charge in every:
        for figure, basis in charge.bases.items():
            if figure not in bases or basis[0] == "assumed":
                bases[figure] = basis
    seconds, flops, wh, money = (math.fsum(getattr(c, figure) for c in every) for figure in FIGURES)
    return Charge(
        phase=name, seconds=seconds, flops=flops, wh=wh, money=money, bases=bases, kind=name
    )


def price_for(run: Run, own: Price | None) -> Price:
    """The user's own price, else the list price of the hardware."""
    return own or list_price(run.device, run.hardware, run.threads)


def price_basis(price: Price, devices: int = 1) -> str:
    """Describe the price that an amount of money is based on."""
    each = f" for each of {devices} processes" if devices > 1 else ""
    return f"{price.basis}, {price.per_hour:g} {price.currency} an hour{each}"


def priced(run: Run, own: Price | None = None) -> Run:
    """Add the money to a run: seconds on each device, at the user's or the list price."""
    price = price_for(run, own)
    money = price.of(sum(run.seconds.values()) * run.processes)
    bases = {**run.bases, "money": price_basis(price, run.processes)}
    return replace(run, money=money, currency=price.currency, bases=bases)


def charges_of(run: Run, kind: str | None = None) -> list[Charge]:
    """One charge for each phase that took time; money is shared in proportion to seconds."""
    whole = sum(run.seconds.values()) or 1.0
    bases = {key.removeprefix("energy_"): _basis(text) for key, text in run.bases.items()}
    kind = kind or ("baseline" if run.baseline_of else "run")
    return [
        Charge(
            phase=phase,
            seconds=seconds,
            flops=run.flops_by_phase.get(phase, 0.0),
            wh=run.wh_by_phase.get(phase, 0.0),
            money=run.money * seconds / whole,
            bases=bases,
            run=run.name,
            kind=kind,
            devices=run.processes,
        )
        for phase in PHASES
        if (seconds := run.seconds.get(phase, 0.0)) > 0
    ]


def charge_of(kind: str, what: str, spent: CostTracker, price: Price) -> Charge:
    """Charge work other than a run: the tracker's current totals as one charge."""
    seconds, clock = sum(spent.clock.seconds().values()), spent.clock
    return Charge(
        phase=kind,
        seconds=seconds,
        flops=sum(spent.flops.values()),
        wh=sum(clock.wh().values()),
        money=price.of(seconds),
        bases=_bases(clock.meter.basis, price),
        run=what,
        kind=kind,
    )


def charge_of_runs(
    kind: str, what: str, runs: Sequence[Run], seconds: float, price: Price
) -> Charge:
    """Charge runs that do not belong to the session (trials, probes) as one charge.

    Args:
        seconds: of everything, including the time between the runs.
    """
    wh_basis = runs[0].bases["energy_wh"] if runs else "measured: nothing ran"
    return Charge(
        phase=kind,
        seconds=seconds,
        flops=math.fsum(r.flops for r in runs),
        wh=math.fsum(r.energy_wh for r in runs),
        money=price.of(seconds),
        bases=_bases(wh_basis, price),
        run=what,
        kind=kind,
    )


def _bases(of_energy: str, price: Price) -> dict[str, tuple[str, str]]:
    how = {"seconds": SECONDS_BASIS, "flops": FLOPS_BASIS, "wh": of_energy}
    return {key: _basis(text) for key, text in {**how, "money": price_basis(price)}.items()}


def _basis(text: str) -> tuple[str, str]:
    kind, _, how = text.partition(": ")
    return kind, how
