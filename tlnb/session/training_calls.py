"""Training, and the calls before it: forecast, advice, hyperparameter search."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Unpack

from tlnb.core.costs import bill
from tlnb.core.costs.prices import Price, list_price, parse_budget
from tlnb.core.data.pretraining_overlap import seen_by
from tlnb.core.models.clocks import CostTracker
from tlnb.core.planning.magic_lines import line, train_line
from tlnb.core.planning.old_names import takes_old_names
from tlnb.core.planning.options import Asked, TrainOptions
from tlnb.core.planning.plan import Plan
from tlnb.core.runtime.device import machine
from tlnb.core.runtime.errors import UsageError
from tlnb.core.storage.activation_cache import Store
from tlnb.core.training.events import event
from tlnb.core.training.run import Forecast, Run
from tlnb.session import trainings
from tlnb.session.job import Job
from tlnb.session.job_planner import plan_job, with_seeds
from tlnb.session.lock import mutates_session
from tlnb.session.plan_editor import with_plan, without_adapters
from tlnb.session.session_base import SessionBase
from tlnb.session.state import SessionState

if TYPE_CHECKING:  # imported where they are used, so that the extension loads fast
    from tlnb.core.tuning.advise import Advice
    from tlnb.core.tuning.tune import Tuning

FROM_PYTHON = "# tl.advise(models=...): networks from Python"


@takes_old_names
@mutates_session
def train(
    self: SessionBase,
    *,
    epochs: int | None = None,
    lr: float | str | Mapping[str, float] | None = None,
    batch_size: int | None = None,
    weight_decay: float | None = None,
    augment: str | None = None,
    scratch: bool = False,
    from_: str | Run | None = None,
    seed: int | None = None,
    seeds: int = 1,
    name: str | None = None,
    budget: str | float | None = None,
    cache: bool = True,
    precision: str = "auto",
    class_weights: bool = False,
    device: str | None = None,
    optimizer: str = "adamw",
    refit: bool | None = None,
    batch_statistics: bool | None = None,
) -> Run:
    """Train the plan on a copy of the model, or with `scratch` the baseline of the latest run.

    Args:
        lr: one learning rate for all, or by stage: `layer4=0.001,head=0.01`.
        from_: continue from a run's weights.
        seed: seed of new layers, batches and augmentation; default 0, for a baseline its run's.
        seeds: train this many times, each with the next seed; the last run is returned and lists
            the others.
        budget: time or money, `2min`, `0.5usd`: trains fewer epochs if the forecast exceeds it.
        cache: compute frozen layers only once.
        optimizer: `adamw` (in batches), or `lbfgs` for strategy `head`: the output layer on all
            images at once.
        refit: train once more on all labels in use, those held out to choose with included;
            default: for strategy `head`, where some are held out.
        batch_statistics: BatchNorm that trains takes statistics from each batch and updates its
            own, or keeps its pretrained ones; default: keeps them where fewer than 32 images
            teach (`full`: 64), except in glyphnet.

    Raises:
        UsageError: no data or model yet, an invalid option, no run to compare with, a budget that
            one epoch exceeds.
    """
    began = time.perf_counter()
    asked = Asked(
        epochs=epochs,
        lr=lr,
        batch_size=batch_size,
        weight_decay=weight_decay,
        augment=augment,
        scratch=scratch,
        from_=from_,
        seed=seed,
        name=name,
        cache=cache,
        precision=precision,
        class_weights=class_weights,
        device=device,
        optimizer=optimizer,
        refit=refit,
        batch_statistics=batch_statistics,
    )
    if seeds < 1:
        raise UsageError(f"--seeds {seeds} is too small: use 1 or more")
    job = plan_job(self.noticed(), asked)
    if budget is not None:
        job = _within(self, job, budget)
    typed = train_line({**asked, "seeds": seeds, "budget": budget})
    for seeded in with_seeds(self.state, job, seeds):
        run = trainings.carry_out(self, seeded, began, typed)
        began, typed = time.perf_counter(), ""
        if run.status == "stopped":
            break
    return run


@takes_old_names
@mutates_session
def forecast(self: SessionBase, **asked: Unpack[Asked]) -> Forecast:
    """Forecast the cost of `train` with the same options, without training.

    The forecast gives seconds by phase, FLOPs, energy, money and memory. It times a few steps on a
    copy of the network, which are charged. The run that follows reports the forecast's error.

    Raises:
        UsageError: as `train`.
    """
    state = self.noticed()
    after, result = with_forecast(state, plan_job(state, asked), self.cache)
    self.commit(after, train_line(asked, "tl_forecast"))
    self.save_to_disk()
    return result


@mutates_session
def tune(
    self: SessionBase,
    *,
    trials: int = 20,
    budget: str | float | None = None,
    scratch: bool = False,
    storage: str | None = None,
    epochs: int | None = None,
    seed: int = 0,
) -> Tuning:
    """Search learning rate, weight decay, augmentation and the number of trained stages.

    The best values go into the plan. Trials are scored on held-out labels, or else by
    cross-validation on the training labels; never on test images. The whole search is charged as
    tuning. `undo` takes its values back.

    Args:
        trials: number of trials to add to the study.
        budget: time or money, `5min`, `0.1usd`: no trial starts that would likely exceed it.
        scratch: tune the baseline of the latest run instead; the next baseline uses the result.
        storage: a file for Optuna's journal, or a database URL; several processes may share it.
        epochs: epochs per trial; default: the recipe's.
        seed: seed of the search and of the trainings.

    Raises:
        UsageError: Optuna is missing, no data or model, too few labels to hold any out, storage
            that cannot be used.
    """
    from tlnb.core.tuning.tune import tune

    state = self.noticed()
    job = plan_job(state, Asked(scratch=scratch, epochs=epochs, seed=seed))
    old = state.loaded()[2]
    if scratch and (old.model, old.lasting_edits) != (job.plan.model, job.plan.edits):
        raise UsageError(
            f"the last run trained {job.plan.model}, which is not the loaded model: "
            f"%tl_load {job.plan.model} first"
        )
    price = _price(state, job.options)
    tuning, runs = tune(
        job.tuning_task(state.scopes),
        trials,
        seconds=None if budget is None else parse_budget(budget, price),
        storage=storage,
        seed=seed,
        store=self.cache,
        report=self.report,
    )
    charge = bill.charge_of_runs("tuning", tuning.name, runs, tuning.seconds, price)
    after = replace(state, bill=state.bill.with_charge(charge))
    if scratch:
        tuning = replace(tuning, plan=_with_tuned_baseline(old, tuning.plan))
    if tuning.best is None:
        self.commit(after)
    else:
        given = {"budget": budget, "scratch": scratch, "storage": storage, "epochs": epochs}
        tries = None if trials == 20 else trials
        typed = line("tl_tune", trials=tries, **given, seed=seed or None)
        self.commit(with_plan(after, tuning.plan), typed)
    self.save_to_disk()
    return tuning


@mutates_session
def advise(self: SessionBase, *, budget: str | float | None = None, models: Any = None) -> Advice:
    """Recommend a strategy, or with `models` a source, by evidence from the labels in use.

    Nothing is set; test images are not read. Its cost is added to the bill.

    Args:
        budget: time or money that the training may take, `5min`, `2usd`.
        models: names of networks, patterns for those on disk (`*`: all), your own modules or their
            variables' names, or runs: which one is the best source. Needs no loaded model.

    Raises:
        UsageError: no data or model, an invalid budget, or one beside `models`.
        ModelError: a network of `models` that is unknown or cannot be used.
    """
    if models is not None:
        return _advise_source(self, budget, models)
    from tlnb.core.tuning.advise import advise
    from tlnb.core.tuning.trials import AdviceTask

    state = self.noticed()
    data = state.data()
    plain = without_adapters(state)
    model, anatomy, plan = plain.loaded()
    price = _price(state, TrainOptions())
    allowed = None if budget is None else parse_budget(budget, price)
    seen = seen_by(model.card.source, data.source_hint)
    advice, spent = advise(
        AdviceTask(
            model=plain.sized(),
            anatomy=anatomy,
            data=data,
            edits=plan.edits,
            scopes=state.scopes,
            store=self.cache,
        ),
        budget=allowed,
        budget_text=str(budget),
        price=state.bill.price,
        report=self.report,
        flags=[seen] if seen else [],
    )
    after = _charged(state, "advising", advice.strategy, spent, price)
    self.commit(after, line("tl_advise", budget=budget))
    self.save_to_disk()
    return advice


def _advise_source(session: SessionBase, budget: object, models: object) -> Advice:
    from tlnb.core.tuning.source_advice import advise_source
    from tlnb.session.candidates import LabelsInUse, candidates_of, words_of

    state, words = session.noticed(), words_of(models)
    named = all(isinstance(word, str) for word in words)
    typed = line("tl_advise", models=" ".join(words)) if named else FROM_PYTHON
    if budget is not None:
        alone = typed if named else "tl.advise(models=…)"
        raise UsageError(
            f"--budget {budget} is for advice on a strategy, not on a source: "
            f"{alone} first, then %tl_load the source and %tl_advise --budget {budget}"
        )
    data = state.data()
    advice, spent = advise_source(
        candidates_of(state, words, session.names, session.tell),
        data,
        LabelsInUse(data, session.tell),
        store=session.cache,
        report=session.report,
    )
    after = _charged(state, "advising", advice.model, spent, _price(state, TrainOptions()))
    session.commit(after, typed)
    session.save_to_disk()
    return advice


# ── a state and a result → the next state ──


def with_forecast(state: SessionState, job: Job, cache: Store) -> tuple[SessionState, Forecast]:
    """Forecast a job; return the state with the forecast and its charge, and the forecast."""
    from tlnb.core.costs.forecast import forecast

    result, spent = forecast(
        job.model,
        job.anatomy,
        job.data,
        job.plan,
        job.options,
        name=job.name,
        scopes=state.scopes,
        previous=job.previous,
        store=cache,
        price=state.bill.price,
    )
    others = tuple(f for f in state.forecasts if not trainings.same_training(f, result))
    after = replace(state, forecasts=(*others, result))
    price = _price(state, job.options)
    return _charged(after, "forecasting", job.name, spent, price), result


def _within(session: SessionBase, job: Job, budget: str | float) -> Job:
    """The job with at most the epochs that the budget allows; forecasts are always charged."""
    allowed = parse_budget(budget, _price(session.state, job.options))
    whole = _forecast_now(session, job)
    wanted, fit = job.options.epochs or 0, whole.epochs_within(allowed)
    if fit < 1:
        raise UsageError(
            f"--budget {budget} is too small: one epoch is forecast to take "
            f"{whole.seconds_of(1):.1f} s; allow more time, or freeze more layers"
        )
    kept = event("budget", epochs=min(fit, wanted), wanted=wanted, budget=str(budget))
    if fit >= wanted:
        return replace(job, event=kept)
    shorter = replace(job, options=replace(job.options, epochs=fit), event=kept)
    _forecast_now(session, shorter)
    return shorter


def _forecast_now(session: SessionBase, job: Job) -> Forecast:
    state, result = with_forecast(session.state, job, session.cache)
    session.commit(state)
    session.save_to_disk()
    return result


def _with_tuned_baseline(old: Plan, best: Plan) -> Plan:
    return replace(old, baseline_options=best.baseline_options, baseline_tuned=best.baseline_tuned)


def _charged(
    state: SessionState, kind: str, what: str, spent: CostTracker, price: Price
) -> SessionState:
    """The state with a charge for work that is not a run."""
    return replace(state, bill=state.bill.with_charge(bill.charge_of(kind, what, spent, price)))


def _price(state: SessionState, options: TrainOptions) -> Price:
    """The price of an hour on the machine that trains with these options."""
    if state.bill.price is not None:
        return state.bill.price
    host = machine(options.device, options.precision)
    return list_price(host.device, host.name, host.threads)
