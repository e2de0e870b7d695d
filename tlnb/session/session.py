"""The session: the one object that changes. Every magic and every button is one call on it.

A call computes everything first and assigns last, so that a call that fails leaves the session as it was.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from torch import nn

from tlnb.core.costs import bill
from tlnb.core.costs.bill import Bill
from tlnb.core.costs.pretraining import pretraining_of
from tlnb.core.costs.prices import Price, list_price, parse_budget, parse_price
from tlnb.core.data.dataset import DataFacts, DataSet, open_data
from tlnb.core.data.duplicates import NEAR_FROM
from tlnb.core.data.pretraining_overlap import seen_by
from tlnb.core.data.request import DataRequest
from tlnb.core.evaluation.comparison import Comparison, compare
from tlnb.core.models import pretrained
from tlnb.core.models.anatomy import Anatomy
from tlnb.core.models.meter import Tally, step_flops
from tlnb.core.models.pretrained import Catalogue, PretrainedModel
from tlnb.core.planning import plan
from tlnb.core.planning.edit import apply_edits, build, modules_matching, names_in
from tlnb.core.planning.magic_lines import edit_line, line, train_line
from tlnb.core.planning.options import Asked, TrainOptions, parse_rates
from tlnb.core.planning.other_tools import METHODS
from tlnb.core.planning.plan import Edit, Plan, Strategies
from tlnb.core.planning.prepare import Parts, Prepared, noticed, prepare
from tlnb.core.planning.recipes import recipe
from tlnb.core.runtime.device import device_lost, machine
from tlnb.core.runtime.errors import (
    DeviceLost,
    ModelError,
    OneLine,
    PlanError,
    TLError,
    UsageError,
    did_you_mean,
    one_line,
)
from tlnb.core.runtime.paths import user_path
from tlnb.core.storage.activation_cache import Store
from tlnb.core.training.baseline import matched, with_equal_steps
from tlnb.core.training.checkpoint import Checkpoint
from tlnb.core.training.freezing import set_modes
from tlnb.core.training.run import Forecast, Run
from tlnb.core.training.trainer import Progress, train
from tlnb.course.checks import EXERCISES, Check, Checks, find, grades, judge, untried, write_grades
from tlnb.session.background import Turn, changing
from tlnb.session.store import Job, Keeper, job_of
from tlnb.session.store import restore as restore_session

if TYPE_CHECKING:  # at run time where they are used: loading the extension should take no time
    from tlnb.core.evaluation.embeddings import Look, Seer
    from tlnb.core.evaluation.predictions import Errors, Judge, Predictions
    from tlnb.core.export.pytorch_script import Script
    from tlnb.core.export.save import Header, Saved
    from tlnb.core.tuning.advise import Advice
    from tlnb.core.tuning.tune import Tuning

PANELS = ("data", "model", "layers", "train", "compare")
HISTORY = 100  # plans that undo can go back
LONGEST_NAME = 100  # characters of a run's
TUNING = ("apart", "in")


class Session(OneLine):
    """What the learner has done so far: `dataset`, `model`, `plan`, `runs`, `bill`."""

    def __init__(self) -> None:
        self.turn = Turn()
        self.names: Mapping[str, Any] = {}  # the notebook's variables, for checks of exercises
        self._checks: dict[
            str, Check
        ] = {}  # kept by a reset: a learner begins anew for each exercise
        self._keeper = Keeper()
        self._clear()

    @property
    def report(self) -> Callable[[Progress], None] | None:
        """Who is told of progress: each thread has its own."""
        return self.turn.report

    @report.setter
    def report(self, report: Callable[[Progress], None] | None) -> None:
        self.turn.report = report

    def _clear(self) -> None:
        self.dataset: DataSet | None = None
        self.model: PretrainedModel | None = None
        self.plan: Plan | None = None
        self.runs: list[Run] = []
        self.bill = Bill()
        self._anatomy: Anatomy | None = None  # of the model with the plan's edits
        self._scopes: dict[Edit, Mapping[str, Any]] = {}  # the user's names that edits mention
        self._history: list[Plan] = []  # earlier plans for this model, for undo
        self._parts: Parts = {}  # of the model, to notice changes made directly
        self._networks: dict[str, tuple[PretrainedModel, Anatomy]] = {}  # what each run trained
        self._facts: dict[str, DataFacts] = {}  # of each run's data
        self._equal_budget: dict[str, Run] = {}  # by the name of their baseline
        self._lines: list[str] = []
        self._asked: dict[str, Any] = {}  # how the model was loaded
        self._store = Store()  # what was computed once, for later runs
        self._forecasts: list[Forecast] = []
        self._keeper.close()
        self._keeper = Keeper()

    # ── data and model ──

    @changing
    def data(
        self,
        source: Any,
        labels: Any = None,
        *,
        per_class: int | None = None,
        limit: int | None = None,
        val: float | None = None,
        test: float | None = None,
        size: int | None = None,
        classes: int | None = None,
        seed: int = 0,
        group: Any = None,
        root: str | Path | None = None,
    ) -> DataSet:
        """Take a data set: `digits`, `symbols`, `textures`, `faces`, a folder of class folders, a .zip, .tar or
        .tgz of one, a table of paths and labels (.csv, .tsv), a data set of torchvision's, or arrays with labels.

        Args:
            per_class: use so many labels of each class, all of them counted.
            limit: use so many images in all, classes in equal parts.
            val, test: shares to hold out, where the data bring no such split.
            size: the network's input edge in pixels; overrides the model's.
            classes: how many classes to draw (`symbols`).
            seed: which images are chosen.
            group: what is kept on one side of every split: an expression that finds the group in a file's path, a CSV file of
                paths and groups, or with arrays one group an image.
            root: the folder of torchvision's data sets.

        Raises:
            DataError: unknown, missing, empty, too little, or unreadable data.
            UsageError: an amount that makes no sense.
        """
        named = isinstance(source, str | Path)
        amounts = (per_class, limit, val, test, size, classes, seed)
        of_files = isinstance(group, str | Path)
        request = DataRequest(
            str(source) if named else "arrays",
            *amounts,
            str(group) if of_files else None,
            str(root) if root else None,
        )
        edge = None
        if self.model is not None:
            edge = max(
                NEAR_FROM, pretrained.resized(self.model, size).transform.resize
            )  # smaller, twins go unnoticed
        found = open_data(
            source,
            labels,
            request,
            edge,
            self._decoding,
            self._telling,
            None if of_files else group,
        )
        prepared = self._prepared(self.model, found, self.plan)
        self.dataset = found
        self._set(prepared)
        given = {
            "per-class": per_class,
            "limit": limit,
            "val": val,
            "test": test,
            "size": size,
            "classes": classes,
        }
        where = {"group": request.group, "root": request.root}
        typed = line(
            "tl_data", str(source) if named else source, **given, **where, seed=seed or None
        )
        self._lines.append(typed if named else f"tl.data(...)  # {found.name}: from Python")
        return found

    def models(self, pattern: str | None = None, sort: str | None = None) -> Catalogue:
        """The models that can be loaded by name, by default the smallest first.

        Args:
            pattern: a glob, or part of a name.
            sort: `small`, `accurate` or `fast` first.

        Raises:
            ModelError: no model matches.
            UsageError: an unknown order.
        """
        return pretrained.catalogue(pattern, sort)

    def __getattr__(self, name: str) -> Any:
        """Names of other tools are answered with ours. Only asked for what is not there."""
        if meant := METHODS.get(name):
            raise _NoSuch(
                f"there is no tl.{name}: it is called tl.{meant}(...) here, %tl_{meant} as a magic"
            )
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    @changing
    def load(
        self,
        source: str | nn.Module | Run,
        weights: str | Path = "default",
        *,
        mean: Any = None,
        std: Any = None,
        size: int | None = None,
        called: str | None = None,
        trust: bool = False,
        names: Mapping[str, Any] | None = None,
    ) -> PretrainedModel:
        """Load a model by name, or take one's own `nn.Module`, a finished run or a saved one. Sets strategy `head`.

        Args:
            source: a name of `tl.models()`, a module, a run or its name, a file that `tl.save` wrote.
            trust: run code in a saved file that is more than `nn.*` constructors; it may use `names`.
            weights: `default`, a name of torchvision's (`IMAGENET1K_V1`), `none` (a random start), or a file.
            mean, std, size: replace the preprocessing's.

        Raises:
            ModelError: an unknown name; weights that are unknown, missing, damaged, of another architecture, or cannot
                be downloaded.
            UsageError: weights for a run, which has its own; a size, mean or standard deviation that makes no sense.
        """
        run = self._run_meant(source)
        if run is not None and str(weights) != "default":
            raise UsageError(f"run {run.name!r} has its own weights: leave out --weights {weights}")
        asked_weights = weights
        taken: Any = source if run is None else self._retrained(run)
        file, header = self._saved(source, weights)
        if header is not None:
            taken, weights = self._restored(file, header, source, called, trust, names), "default"
        fitted = _adopted(taken, size or (self.dataset.request.size if self.dataset else None))
        found = pretrained.load(
            fitted.pop("source"),
            weights,
            mean=mean,
            std=std,
            size=fitted.pop("size", size),
            called=called,
            **fitted,
            progress=lambda done, total: self._downloading(str(source), done, total),
        )
        data = self._decoded_for(found)
        prepared = self._prepared(found, data, None)
        self.dataset, self._history = data, []
        self._set(prepared)
        own = isinstance(source, nn.Module)
        self._asked = {
            "source": called or found.name if own else getattr(source, "name", str(source)),
            "own": own,
            "weights": str(weights if header is None else asked_weights),
            "mean": mean,
            "std": std,
            "size": size,
        }
        given = {
            "weights": None if weights == "default" else weights,
            "mean": mean,
            "std": std,
            "size": size,
        }
        typed = line("tl_load", file if header is not None else found.name, **given, trust=trust)
        self._lines.append(f"{typed}  # your own module, by its variable's name" if own else typed)
        return self._loaded()[0]

    def _saved(self, source: Any, weights: str | Path) -> tuple[Path, Header | None]:
        """The file of a saved run that is meant, as the model itself or as the weights of one's own module."""
        own = isinstance(source, nn.Module)
        if own or (isinstance(source, str | Path) and str(source) not in pretrained.names()):
            file = user_path(weights if own else str(source))
            from tlnb.core.export.save import read_header

            return file, read_header(file)
        return Path(), None

    def _restored(
        self,
        file: Path,
        header: Header,
        source: Any,
        called: str | None,
        trust: bool,
        names: Mapping[str, Any] | None,
    ) -> PretrainedModel:
        from tlnb.core.export.save import restore

        origin = header.origin
        if isinstance(source, nn.Module):
            return restore(
                file, header, pretrained.load(called=called, **_adopted(source, None)), trust, names
            )
        if origin.family == "own":
            raise ModelError(
                f"{file} was made from your own module {origin.name!r}: build that, then %tl_load {origin.name} --weights {file}"
            )
        return restore(file, header, pretrained.bare(origin.name, origin.scores), trust, names)

    def _run_meant(self, source: str | nn.Module | Run) -> Run | None:
        """The run that is meant, if one is; a name of the catalogue means the model."""
        if isinstance(source, Run):
            return source
        if not isinstance(source, str) or source in pretrained.names():
            return None
        return next((run for run in self.runs if run.name == source), None)

    def _retrained(self, run: Run) -> PretrainedModel | nn.Module:
        """What the run made of its model; of a run of another session no more is known than its network."""
        if run.name not in self._networks:
            return run.module()
        model, _ = self._networks[run.name]

        def architecture() -> nn.Module:
            module = model.fresh()
            apply_edits(module, run.plan.edits, lambda edit: self._scopes.get(edit, {}))
            return module

        origin = replace(model.origin, edits=(*model.origin.edits, *run.plan.edits))
        return pretrained.retrained(
            model, run.module(), run.name, run.data, run.classes, run.accuracy, architecture, origin
        )

    def _decoded_for(self, model: PretrainedModel) -> DataSet | None:
        """The data, decoded again where the files were kept smaller than this model needs."""
        data = self.dataset
        if data is None or not data.from_files:
            return data
        needed = pretrained.resized(model, data.request.size).transform.resize
        if data.edge >= needed:
            return data
        return open_data(
            data.request.source, None, data.request, needed, self._decoding, self._telling
        )

    def _prepared(
        self,
        model: PretrainedModel | None,
        data: DataSet | None,
        old: Plan | None,
        fresh: Edit | None = None,
    ) -> Prepared | None:
        loaded = self._parts if model is self.model else None
        return None if model is None else prepare(model, data, old, self._scopes, fresh, loaded)

    def _set(self, found: Prepared | None) -> None:
        if found is not None:
            self.model, self._parts, self._anatomy, self.plan = (
                found.model,
                found.parts,
                found.anatomy,
                found.plan,
            )
            self._scopes.update(found.scopes)

    # ── plan ──

    def layers(self, every: bool = False) -> Anatomy:
        """The network's stages, or with `every` its layers: parameters, output, FLOPs, frozen or not."""
        _, read, made = self._loaded()
        return replace(read.with_frozen(made.frozen), detailed=every)

    def strategy(self, name: str | None = None, *, last: int | None = None) -> Plan | Strategies:
        """Set a strategy; earlier freezes are dropped, edits stay. Without a name: the three side by side, nothing is set.

        Raises:
            PlanError: an unknown strategy, or more stages than there are.
        """
        _, read, made = self._loaded()
        if name is None:
            return self._side_by_side()
        with self.turn.taken():
            return self._change(
                plan.plan_strategy(read, name, made.edits, last),
                line("tl_strategy", name, last=last),
            )

    @changing
    def freeze(self, *patterns: str) -> Plan:
        """Freeze layers too, by name, stage, glob or range; without a pattern all but the output layer."""
        _, read, made = self._loaded()
        frozen = (
            plan.plan_freeze(made, read, patterns)
            if patterns
            else plan.plan_strategy(read, "head", made.edits)
        )
        return self._change(frozen, line("tl_freeze", *patterns))

    @changing
    def unfreeze(self, *patterns: str) -> Plan:
        """Let layers train again, by name, stage, glob or range."""
        _, read, made = self._loaded()
        if not patterns:
            raise PlanError(
                f"nothing to unfreeze was named: %tl_unfreeze {read.stages[-2:][0].name}, or %tl_strategy full for all"
            )
        return self._change(
            plan.plan_unfreeze(made, read, patterns), line("tl_unfreeze", *patterns)
        )

    @changing
    def add(
        self, where: str, what: str | nn.Module, names: Mapping[str, Any] | None = None
    ) -> Plan:
        """Add a layer next to a module. It becomes a part of that module, so that no layer's name changes.

        Args:
            where: `before:NAME` or `after:NAME`, a module's name in PyTorch.
            what: an expression such as `nn.Dropout(0.2)`, in which `in_features` is the width that arrives and `classes`
                the number of classes; or a module.
            names: the user's variables that the expression may use.

        Raises:
            PlanError: a place that does not exist, or a layer after which the network does not compute.
        """
        _, read, _ = self._loaded()
        side, colon, name = where.partition(":")
        if side not in ("before", "after") or not colon:
            raise PlanError(
                f"{where!r} is no place: write before:{read.head} or after:{read.names[0]}"
            )
        module = self._module_named(name)
        code, scope = self._code(what, names or {})
        count = 1 + sum(part.rstrip("0123456789") == side for part, _ in module.named_children())
        edit = Edit("add", name, code, side, f"{side}{count}")
        return self._edit(edit, scope, "add", where)

    @changing
    def remove(self, pattern: str) -> Plan:
        """Take modules out: each becomes `nn.Identity`. A new output layer of the right width follows where one is needed.

        Raises:
            PlanError: nothing of that name, the output layer, or a module without which the network does not compute.
        """
        model, read, made = self._loaded()
        network = self._network()
        layers = plan.match(read, [pattern]) if plan.matches(read, pattern) else set()
        gone = modules_matching(network, pattern, layers)
        for name in gone:
            if any(head == name or head.startswith(name + ".") for head in read.heads):
                raise PlanError(
                    f"{name} is the output layer: it can be replaced, not removed: %tl_replace {name} EXPR"
                )
        removed = [Edit("remove", name) for name in gone]
        *before, last = removed
        prepared = self._prepared(
            model, self.dataset, replace(made, edits=(*made.edits, *before)), last
        )
        return self._edited(prepared, line("tl_remove", pattern))

    @changing
    def replace(
        self, name: str, what: str | nn.Module, names: Mapping[str, Any] | None = None
    ) -> Plan:
        """Put another module in the place of one. It trains, unless it is frozen by name afterwards.

        Args:
            name: a module's name in PyTorch.
            what, names: as in `add`; several lines are allowed, the last being the new module.

        Raises:
            PlanError: no such module, or one that does not fit there.
        """
        self._loaded()
        self._module_named(name)
        code, scope = self._code(what, names or {})
        return self._edit(Edit("replace", name, code), scope, "replace", name)

    @changing
    def undo(self) -> Plan:
        """Take back the last change of the plan: an edit, a strategy, a freeze.

        Raises:
            PlanError: nothing was changed since the model was loaded.
        """
        model, _, _ = self._loaded()
        if not self._history:
            raise PlanError(f"nothing to undo: the plan is as %tl_load {model.name} made it")
        self._set(self._prepared(model, self.dataset, self._history[-1]))
        self._history.pop()
        self._lines.append("%tl_undo")
        return self._loaded()[2]

    def _edit(self, edit: Edit, scope: Mapping[str, Any], call: str, at: str) -> Plan:
        model, _, made = self._loaded()
        before = self._scopes
        self._scopes = {**before, edit: scope}
        try:
            prepared = self._prepared(model, self.dataset, made, edit)
        except Exception:
            self._scopes = before
            raise
        return self._edited(prepared, edit_line(call, at, edit.code))

    def _edited(self, prepared: Prepared | None, typed: str) -> Plan:
        old = self.plan
        self._set(prepared)
        self._remember(old)
        self._lines.append(typed)
        return self._loaded()[2]

    def _change(self, made: Plan, typed: str) -> Plan:
        self._remember(self.plan)
        self.plan = made
        self._lines.append(typed)
        return made

    def _remember(self, old: Plan | None) -> None:
        if old is not None:
            self._history = [*self._history, old][-HISTORY:]

    def _code(
        self, what: str | nn.Module, names: Mapping[str, Any]
    ) -> tuple[str, Mapping[str, Any]]:
        """The code of a new module, and the user's names in it. A module itself gets a name of its own."""
        if isinstance(what, str):
            if not what.strip():
                raise PlanError("nothing was given to put there: write e.g. nn.Dropout(0.2)")
            return what.strip(), {n: names[n] for n in names_in(what) if n in names}
        if not isinstance(what, nn.Module):
            raise PlanError(
                f"{type(what).__name__} is no layer: give an nn.Module, or an expression in quotes"
            )
        count = sum(
            1 for scope in self._scopes.values() for held in scope.values() if held is not what
        )
        name = f"your_{type(what).__name__}" + (f"_{count + 1}" if count else "")
        return name, {name: what}

    def _network(self) -> nn.Module:
        """The network as planned, to look at."""
        model, _, made = self._loaded()
        return build(model, made.edits, "pretrained", 0, self._scopes)

    def _module_named(self, name: str) -> nn.Module:
        known: dict[str, nn.Module] = dict(self._network().named_modules())
        known.pop("", None)
        if name not in known:
            hint = did_you_mean(name, known, "%tl_layers --all lists them")
            raise PlanError(f"no module is called {name!r}: {hint}")
        return known[name]

    def _loaded(self) -> tuple[PretrainedModel, Anatomy, Plan]:
        self._notice()
        if self.model is None or self._anatomy is None or self.plan is None:
            raise UsageError("no model is loaded: %tl_load glyphnet")
        return self.model, self._anatomy, self.plan

    def _notice(self) -> None:
        """Make direct changes of `tl.model.module` (`requires_grad`, `fc = …`) part of the plan."""
        if self.model is not None and self._anatomy is not None and self.plan is not None:
            now = Prepared(self.model, self._parts, self._anatomy, self.plan, {})
            found = noticed(now, self.dataset, self._scopes)
            if found is not None:
                self._set(found[0])
                self._lines.append(f"# tl.model.module was changed in Python: {one_line(found[1])}")

    def _side_by_side(self) -> Strategies:
        model, read, made = self._loaded()
        plans = [plan.plan_strategy(read, name, made.edits) for name in ("head", "partial", "full")]
        sized = pretrained.resized(model, self.dataset.request.size if self.dataset else None)
        example = sized.transform.example(2)
        network = build(model, made.edits, "pretrained", 0, self._scopes)
        flops = []
        for each in plans:
            set_modes(network, set(each.trained))
            flops.append(step_flops(network, example))
        verdict = self.dataset.size_verdict if self.dataset else None
        stages = tuple(read.stages_of(p.trained) for p in plans)
        return Strategies(
            tuple(plans), tuple(flops), stages, verdict, plan.FOR_VERDICT.get(verdict or "")
        )

    # ── training ──

    @changing
    def train(
        self,
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
        solver: str = "sgd",
    ) -> Run:
        """Train the plan on a copy of the model, or with `scratch` the baseline of the last run.

        Args:
            lr: one rate for all, or by stage: `layer4=0.001,head=0.01`.
            from_: go on from a run's weights.
            seed: of new layers, batches and augmentation; default 0, a baseline takes its run's.
            seeds: train so many times, each with the next seed; the last run is returned, and knows of the others.
            budget: time or money, `2min`, `0.5usd`: fewer epochs where the forecast says that they take longer.
            cache: compute what is frozen once.
            solver: `sgd` (in batches), or `lbfgs` for strategy `head`: the output layer by all images at once.

        Raises:
            UsageError: no data or model yet, an option's value, no run to compare with, a budget that one epoch exceeds.
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
            solver=solver,
        )
        if seeds < 1:
            raise UsageError(f"--seeds {seeds} trains nothing: use 1 or more")
        job = self._job(asked)
        if budget is not None:
            job = self._within(job, budget)
        typed = train_line(asked, seeds=None if seeds == 1 else seeds, budget=budget)
        for each in self._with_seeds(job, seeds):
            run = self._done(each, began, typed if each.options.seed == job.options.seed else "")
            began = time.perf_counter()
            if run.status == "stopped":
                break
        return run

    def _done(self, job: Job, began: float, typed: str, resume: Checkpoint | None = None) -> Run:
        """Carry a job out, from where it was cut off; its run belongs to the session from then on."""
        before = sum(resume.seconds.values()) if resume else 0.0
        run = self._keep(self._timed(self._carry_out(job, resume), began - before), job)
        self._lines += [typed] if typed else []
        return self._kept(run)

    def _kept(self, run: Run) -> Run:
        """The run, on disk; where that cannot be, it says so."""
        problem = self._keeper.end(self, run)
        if problem:
            run = replace(
                run,
                notes=(
                    *run.notes,
                    f"not kept on disk ({problem}): a later kernel will not find it",
                ),
            )
            self.runs = [run if r.name == run.name else r for r in self.runs]
        return run

    def _with_seeds(self, job: Job, seeds: int) -> Iterator[Job]:
        """The job, and again with the next seeds; each gets its name when its turn comes."""
        for seed in range(job.options.seed, job.options.seed + seeds):
            name = (
                job.name if seed == job.options.seed else self._new_name(f"{job.name}-seed{seed}")
            )
            yield replace(
                job,
                name=name,
                options=replace(job.options, seed=seed),
                group=job.name if seeds > 1 else "",
            )

    def _timed(self, run: Run, began: float) -> Run:
        """What the call took beside the training itself is `other`."""
        rest = time.perf_counter() - began - sum(run.seconds.values())
        return replace(run, seconds={**run.seconds, "other": run.seconds["other"] + max(0.0, rest)})

    @changing
    def forecast(self, **asked: Unpack[Asked]) -> Forecast:
        """What `train` with the same options will take: seconds by phase, FLOPs, energy, money, memory. Nothing is trained.

        Some steps are timed on a copy of the network, which is charged. The run that follows says how far it was off.

        Raises:
            UsageError: as `train` does.
        """
        found = self._forecast_of(self._job(asked))
        self._lines.append(train_line(asked, "tl_forecast"))
        return found

    def _forecast_of(self, job: Job) -> Forecast:
        from tlnb.core.costs.forecast import forecast

        found, spent = forecast(
            job.model,
            job.anatomy,
            job.data,
            job.plan,
            job.options,
            name=job.name,
            scopes=self._scopes,
            previous=job.previous,
            store=self._store,
            price=self.bill.price,
        )
        self._forecasts = [f for f in self._forecasts if not _same(f, found)] + [found]
        self._charge("forecasting", job.name, spent, self._price(job.options))
        return found

    @changing
    def tune(
        self,
        *,
        trials: int = 20,
        budget: str | float | None = None,
        scratch: bool = False,
        storage: str | None = None,
        epochs: int | None = None,
        seed: int = 0,
    ) -> Tuning:
        """Search learning rate, weight decay, augmentation and how many stages train; the best go into the plan.

        Trials are judged by held-out labels, else by cross-validation on the training labels; never by test images. The
        whole search is charged as tuning. `undo` takes its values back.

        Args:
            trials: to try, in addition to what the study has.
            budget: time or money, `5min`, `0.1usd`: no trial begins that is likely to exceed it.
            scratch: tune the baseline of the last run instead; the next one uses what is found.
            storage: a file for Optuna's journal, or a database's URL, which several processes may share.
            epochs: of each trial; default: the recipe's.
            seed: of what is tried, and of the trainings.

        Raises:
            UsageError: Optuna missing, no data or model, too few labels to choose by, storage that cannot be used.
        """
        from tlnb.core.tuning.tune import Task, tune

        job = self._job(Asked(scratch=scratch, epochs=epochs, seed=seed))
        old = self._loaded()[2]
        if scratch and (old.model, old.edits) != (job.plan.model, job.plan.edits):
            raise UsageError(
                f"the last run trained {job.plan.model}, not what is loaded: %tl_load {job.plan.model} first"
            )
        allowed = None if budget is None else parse_budget(budget, self._price(job.options))
        task = Task(job.model, job.anatomy, job.data, job.plan, job.options, self._scopes)
        found, runs = tune(
            task,
            trials,
            seconds=allowed,
            storage=storage,
            seed=seed,
            store=self._store,
            report=self.report,
        )
        charge = bill.charge_of_runs(
            "tuning", found.name, runs, found.seconds, self._price(job.options)
        )
        self.bill = self.bill.with_charge(charge)
        if scratch:
            best = found.plan
            found = replace(
                found,
                plan=replace(
                    old, baseline_options=best.baseline_options, baseline_tuned=best.baseline_tuned
                ),
            )
        if found.best is not None:
            typed = line(
                "tl_tune",
                trials=None if trials == 20 else trials,
                budget=budget,
                scratch=scratch,
                storage=storage,
                epochs=epochs,
                seed=seed or None,
            )
            self._change(found.plan, typed)
        self._keeper.write(self)
        return found

    @changing
    def advise(self, *, budget: str | float | None = None) -> Advice:
        """Which strategy, and why: the rule by amount of data, and evidence measured now on the labels in use.

        Nothing is set; test images are not read. What it takes is charged.

        Args:
            budget: time or money that the training may take, `5min`, `2usd`.

        Raises:
            UsageError: no data or model, or a budget that is none.
        """
        from tlnb.core.tuning.advise import Case, advise

        data = self._data()
        model, read, made = self._loaded()
        price = self._price(TrainOptions())
        allowed = None if budget is None else parse_budget(budget, price)
        case = Case(self._sized(model, data), read, data, made.edits, self._scopes, self._store)
        seen = seen_by(model.card.source, data.source_hint)
        found, spent = advise(
            case,
            budget=allowed,
            budget_text=str(budget),
            price=self.bill.price,
            report=self.report,
            flags=[seen] if seen else [],
        )
        self._charge("advising", found.strategy, spent, price)
        self._lines.append(line("tl_advise", budget=budget))
        return found

    def _within(self, job: Job, budget: str | float) -> Job:
        """The job with no more epochs than the budget allows."""
        allowed = parse_budget(budget, self._price(job.options))
        found = self._forecast_of(job)
        wanted, fit = job.options.epochs or 0, found.epochs_within(allowed)
        if fit < 1:
            raise UsageError(
                f"--budget {budget}: one epoch is forecast to take {found.seconds_of(1):.1f} s; give more, or freeze more layers"
            )
        if fit >= wanted:
            return replace(job, note=f"all {wanted} epochs were forecast to fit into {budget}")
        options = replace(job.options, epochs=fit)
        self._forecast_of(replace(job, options=options))
        return replace(
            job,
            options=options,
            note=f"{fit} of {wanted} epochs: more were forecast to exceed {budget}",
        )

    def _price(self, options: TrainOptions) -> Price:
        """Of an hour where a training with these options runs."""
        if self.bill.price is not None:
            return self.bill.price
        here = machine(options.device, options.precision)
        return list_price(here.device, here.name, here.threads)

    def _charge(self, kind: str, what: str, spent: Tally, price: Price) -> None:
        """Put work that is no run on the bill."""
        self.bill = self.bill.with_charge(bill.charge_of(kind, what, spent, price))
        self._keeper.write(self)

    def _job(self, asked: Asked) -> Job:
        """What `train` is to do, as data: nothing is done yet."""
        rate, by_stage = self._rates(asked.get("lr"))
        seed, scratch, from_ = asked.get("seed"), asked.get("scratch", False), asked.get("from_")
        options = TrainOptions(
            asked.get("epochs"),
            rate,
            by_stage,
            asked.get("batch_size"),
            asked.get("weight_decay"),
            asked.get("augment"),
            seed or 0,
            asked.get("precision", "auto"),
            asked.get("device"),
            asked.get("cache", True),
            asked.get("class_weights", False),
            asked.get("solver", "sgd"),
        )
        data = self._data()
        name = self._new_name(asked.get("name") or ("scratch" if scratch else None))
        if not scratch:
            return self._ordinary(
                data, options, name, self._run(from_) if from_ is not None else None
            )
        if from_ is not None:
            raise UsageError("--scratch starts at random, --from does not: give one of them")
        return self._baseline(data, options, name, own_seed=seed is not None)

    def _rates(self, lr: Any) -> tuple[float | None, tuple[tuple[str, float], ...]]:
        rate, by_stage = parse_rates(lr)
        if by_stage:
            known = [stage.name for stage in self._loaded()[1].stages]
            for stage, _ in by_stage:
                if stage not in known:
                    hint = did_you_mean(stage, known, f"the stages are {', '.join(known)}")
                    raise PlanError(f"--lr names no stage {stage!r}: {hint}")
        return rate, by_stage

    def _ordinary(
        self, data: DataSet, options: TrainOptions, name: str, previous: Run | None
    ) -> Job:
        model, read, made = self._loaded()
        if previous is not None and set(self._networks[previous.name][1].names) != set(read.names):
            raise UsageError(
                f"run {previous.name!r} trained another network than {model.name}: %tl_load that one first"
            )
        if options.solver == "lbfgs" and made.trained != (read.head,):
            layers = f"{len(made.trained)} layers" if len(made.trained) > 1 else made.trained[0]
            raise UsageError(
                f"--solver lbfgs trains the output layer alone, this plan {layers}: %tl_strategy head first"
            )
        filled = options.filled(made.options).filled(recipe(made, data, options.solver))
        return Job(
            name, made, filled, self._sized(model, data), read, self._asked, data, None, previous
        )

    def _baseline(self, data: DataSet, options: TrainOptions, name: str, own_seed: bool) -> Job:
        """From scratch, matched to the last run on this data: its network, up to twice its steps."""
        of = next((r for r in reversed(self._on(data)) if r.baseline_of is None), None)
        if of is None:
            raise UsageError(
                "a baseline needs a run to be compared with: %tl_train first, then %tl_train --scratch"
            )
        model, read = self._networks[of.name]
        now = self.plan
        same = now is not None and (now.model, now.edits) == (of.plan.model, of.plan.edits)
        options = options if own_seed else replace(options, seed=of.seed)
        made, filled = matched(of, read, data, options, now if same else None)
        asked = self._keeper.jobs[of.name].asked
        return Job(name, made, filled, self._sized(model, data), read, asked, data, of.name)

    def _carry_out(self, job: Job, resume: Checkpoint | None = None) -> Run:
        """Train, keeping on disk where it stands."""
        if resume is None:
            self._keeper.begin(self, job)
        self._networks[job.name] = (job.model, job.anatomy)
        try:
            run = train(
                job.model,
                job.anatomy,
                job.data,
                job.plan,
                job.options,
                name=job.name,
                scopes=self._scopes,
                baseline_of=job.baseline_of,
                previous=job.previous,
                report=self.report,
                store=self._store,
                keep=partial(self._keeper.keep, job),
                resume=resume,
                stop=self.turn.interrupted,
            )
        except TLError:
            self._keeper.failed(self, job)
            raise
        except RuntimeError as error:
            if not device_lost(error):
                raise
            reason = one_line(str(error).splitlines()[0])[:100]
            kept = (
                "%tl_resume goes on from the last checkpoint"
                if self._keeper.home
                else "load data and model again"
            )
            raise DeviceLost(
                f"{job.options.device or 'the GPU'} does not answer any more ({reason}): restart the kernel, then {kept}"
            ) from None
        return self._noted(run, job)

    def _noted(self, run: Run, job: Job) -> Run:
        """The run with what the session knows of it: its money, its forecast, its siblings by seed."""
        siblings = [
            r for r in self.runs if job.group and r.group == job.group and r.name != run.name
        ]
        repeats = tuple((r.seed, r.accuracy) for r in (*siblings, run)) if job.group else ()
        pretrained_on = job.model.card.source if job.plan.start == "pretrained" else ""
        seen = seen_by(pretrained_on, job.data.source_hint) if pretrained_on else ""
        notes = tuple(dict.fromkeys(note for note in (job.note, *run.notes, seen) if note))
        return replace(run, notes=notes, group=job.group, repeats=repeats)

    def _scored(self, run: Run) -> Run:
        """The run with the last forecast for the same plan, options and data, and what became of it."""
        found = next((f for f in reversed(self._forecasts) if _same(f, run)), None)
        if found is None or run.status != "finished":
            return run if found is None else replace(run, forecast=found)
        return replace(
            run,
            forecast=replace(found, measured=sum(run.seconds.values()), measured_flops=run.flops),
        )

    @changing
    def resume(
        self,
        where: str | Path | None = None,
        *,
        trust: bool = False,
        names: Mapping[str, Any] | None = None,
    ) -> Run | Session:
        """Go on with a run that was stopped; in an empty session, with an earlier session and the run that its end cut off.

        Args:
            where: a session's folder or a file in it; default: the last session of this notebook, else the last of all.
            trust: run code in it that is more than `nn.*` constructors; it may use `names`.

        Returns:
            The run, which is what it would have been without the interruption; without one, the session.

        Raises:
            UsageError: nothing to go on with; data, weights or a module that are no longer there.
        """
        if where is None and self.runs:
            if not self._keeper.unfinished:
                raise UsageError(
                    "no run of this session was stopped: %tl_train --from RUN trains one further"
                )
            return self._go_on(self._keeper.unfinished[-1])
        if self.runs:
            raise UsageError(
                "this session has runs, which an earlier one would replace: %tl_reset first"
            )
        other = Session()
        other.report = self.report
        try:
            name = restore_session(other, where, trust, names or {}, self.dataset)
        except BaseException:
            other._keeper.close()
            raise
        self._keeper.close()
        before = dict(vars(self))
        vars(self).update(
            {k: v for k, v in vars(other).items() if k not in ("turn", "names", "_checks")}
        )
        try:
            return self if name is None else self._go_on(name)
        except UsageError:  # the run cannot go on: the call has not happened
            self._keeper.close()
            vars(self).update(before)
            raise

    def _go_on(self, name: str) -> Run:
        job = job_of(self, name)
        before = [run for run in self.runs if run.name == name]
        found = self._keeper.checkpoint_of(name)
        if found is None:
            self._keeper.begin(self, job)
        run = self._scored(bill.priced(self._carry_out(job, found), self.bill.price))
        self.bill = self.bill.without(name).with_run(run)
        self._facts[name] = job.data.facts
        self.runs = (
            [run if r.name == name else r for r in self.runs] if before else [*self.runs, run]
        )
        self._lines.append("%tl_resume")
        return self._kept(run)

    def _sized(self, model: PretrainedModel, data: DataSet) -> PretrainedModel:
        return pretrained.resized(model, data.request.size)

    def _keep(self, run: Run, job: Job) -> Run:
        run = self._scored(bill.priced(run, self.bill.price))
        self._facts[run.name] = job.data.facts
        self.runs.append(run)
        self.bill = self.bill.with_run(run)
        return run

    def _read_at(self, edge: int) -> DataSet:
        """The data, decoded at another edge."""
        data = self._data_now()
        self.dataset = open_data(
            data.request.source, None, data.request, edge, self._decoding, self._telling
        )
        return self.dataset

    def _data_now(self) -> DataSet:
        if self.dataset is None:
            raise UsageError("no data yet: %tl_data digits --per-class 2")
        return self.dataset

    def _data(self) -> DataSet:
        data = self._data_now()
        self._loaded()
        return data

    def _on(self, data: DataSet) -> list[Run]:
        return [run for run in self.runs if run.fingerprint == data.fingerprint]

    def _new_name(self, wanted: str | None) -> str:
        """A name that no run has; `head`, then `head-2`."""
        base = wanted or (self.plan.strategy if self.plan else "run")
        if one_line(base) != base or base != base.strip() or len(base) > LONGEST_NAME:
            raise UsageError(
                f"--name {base[:80]!r} is no name: use up to {LONGEST_NAME} characters in one line, e.g. --name first"
            )
        taken = {run.name for run in self.runs}
        return next(
            n
            for k in range(1, len(taken) + 2)
            if (n := base if k == 1 else f"{base}-{k}") not in taken
        )

    def _run(self, which: str | Run) -> Run:
        if isinstance(which, Run):
            return which
        by_name = {run.name: run for run in self.runs}
        if which not in by_name:
            known = (
                f"the runs are {', '.join(by_name)}"
                if by_name
                else "there is none yet, %tl_train first"
            )
            raise UsageError(f"no run is called {which!r}: {did_you_mean(which, by_name, known)}")
        return by_name[which]

    # ── judging ──

    def errors(self, run: str | Run | None = None) -> Errors:
        """What a run, by default the last that is no baseline, gets wrong on its test split, and how sure it was.

        Raises:
            UsageError: no such run, or one whose record does not hold its answers.
        """
        from tlnb.core.evaluation import predictions

        found = predictions.errors(self._last_run(run), self.dataset)
        self._lines.append(line("tl_errors", run=getattr(run, "name", run)))
        return found

    def predict(self, *images: Any, run: str | Run | None = None, top: int = 3) -> Predictions:
        """Labels with probabilities for new images, by a run (default: the last that is no baseline) or the loaded model.

        Args:
            images: files, folders, globs; PIL images; uint8 arrays `(H, W)`, `(H, W, 3)`, `(3, H, W)`.
            top: how many classes to give for each.

        Raises:
            DataError: an image that is missing or cannot be read; then none is predicted.
            UsageError: no image, no run, and no model that knows its classes.
        """
        from tlnb.core.evaluation import predictions

        found = predictions.predict(self._judge(run), images, top)
        named = all(isinstance(each, str | Path) for each in images)
        text = line(
            "tl_predict", *images, run=getattr(run, "name", run), top=None if top == 3 else top
        )
        self._lines.append(text if named else "tl.predict(...)  # images from Python")
        return found

    def look(self, *what: Any, run: str | Run | None = None) -> Look:
        """What a network sees: the data by its features, by stage, or where in an image the evidence for its answer lies.

        Args:
            what: nothing or `features`: the data by the features of the pretrained network, of the same network at a
                random start, and of `run`. `stages`: by how much of the answer each stage's output holds, of the same
                networks. `evidence`: some images of the data. Else images, as in `predict`.
            run: whose network; for evidence default the last that is no baseline, else the loaded model.

        Raises:
            DataError: an image that is missing or cannot be read.
            UsageError: no data or model, too many images, one label a class (stages), or Captum missing (evidence needs it).
        """
        from tlnb.core.evaluation import embeddings as looking

        named = all(
            isinstance(each, str | Path) for each in what
        )  # arrays cannot be compared with a word
        if not what or (named and what in (("features",), ("stages",))):
            view = looking.stages if what == ("stages",) else looking.features
            found = view(*self._seers(None if run is None else self._run(run)))
        else:
            images = () if named and what == ("evidence",) else what
            found = looking.evidence(
                self._judge(run, nameless=True), images, self.dataset, self._looking
            )
        text = line("tl_look", *what, run=getattr(run, "name", run))
        self._lines.append(text if named else "tl.look(...)  # images from Python")
        return found

    def _seers(self, run: Run | None) -> tuple[str, DataSet, list[Seer], str | None]:
        """The networks whose features are compared: as loaded, at a random start, and the run's."""
        data = self._data()
        model, read, made = self._loaded()
        sized = self._sized(model, data)
        called = (
            "pretrained" if model.weights != "none" and model.card.family != "own" else "as loaded"
        )
        starts = {called: "pretrained", "random start": "random"}
        scopes = self._scopes
        from tlnb.core.evaluation.embeddings import Seer

        seers = [
            Seer(of, build(sized, made.edits, s, 0, scopes), read.head, sized.transform)
            for of, s in starts.items()
        ]
        if run is not None:
            seers.append(
                Seer(
                    f"run {run.name}",
                    run.module(),
                    self._networks[run.name][1].head,
                    run.transform(),
                )
            )
        return model.name, data, seers, run.name if run else None

    def _judge(self, which: str | Run | None, nameless: bool = False) -> Judge:
        """A run's network; where there is no run, the loaded model with its own output layer."""
        from tlnb.core.evaluation.predictions import Judge

        if which is None and not any(run.baseline_of is None for run in self.runs):
            classes = self.model.classes or () if self.model else ()
            if self.model is None or not (classes or nameless):
                why = (
                    "no model is loaded"
                    if self.model is None
                    else f"{self.model.name} does not name its classes"
                )
                raise UsageError(
                    f"no run yet, and {why}: %tl_train first, or load a model that knows its classes"
                )
            transform = self.model.transform
            values = self.dataset.values if self.dataset else None
            return Judge(
                self.model.name,
                None,
                self.model.module,
                classes,
                transform,
                transform.resize,
                values,
            )
        run = self._last_run(which)
        facts = self._facts.get(run.name)
        values = facts.values if facts else None
        return Judge(
            run.plan.model, run.name, run.module(), run.classes, run.transform(), run.edge, values
        )

    def _last_run(self, which: str | Run | None = None) -> Run:
        """The run that is meant; by default the last that is not a baseline."""
        if which is not None:
            return self._run(which)
        found = next((run for run in reversed(self.runs) if run.baseline_of is None), None)
        if found is None:
            raise UsageError("no run yet: %tl_train")
        return found

    def save(
        self,
        file: str | Path | None = None,
        run: str | Run | None = None,
        *,
        job: str | Path | None = None,
        **asked: Unpack[Asked],
    ) -> Saved:
        """Write a run, by default the last that is no baseline, to a file: its network, plan, classes, preprocessing, record.

        Args:
            file: ending in `.safetensors` (`%tl_load` takes it back), `.pt2` (torch.export) or `.onnx`; default: by the
                run's name, here.
            job: write what `train` with the options `asked` would do to this file instead, for
                `python -m tlnb train FILE --out DIR`; it needs no run.

        Raises:
            UsageError: no run, another ending, a folder that cannot be written to, a package that is missing; for a job
                data or a module from Python.
        """
        from tlnb.core.export.save import save

        if job is not None:
            return self._saved_job(user_path(job), file is None and run is None, asked)
        if train_line(asked) != "%tl_train":
            raise UsageError("options of a training go with --job FILE: a run has its own")
        found = self._last_run(run)
        if found.name not in self._networks:
            raise UsageError(
                f"run {found.name!r} is not of this session: its file has to be written there"
            )
        safe = re.sub(r"[^\w.-]+", "-", found.name).strip("-.") or "run"
        path = user_path(file or f"{safe}.safetensors")
        written = save(
            found, replace(self._networks[found.name][0], transform=found.transform()), path
        )
        self._lines.append(
            line("tl_save", file, run=getattr(run, "name", run)) if file else "%tl_save"
        )
        return written

    def _saved_job(self, path: Path, alone: bool, asked: Asked) -> Saved:
        from tlnb.session.job_file import write_job

        if not alone:
            raise UsageError(f"--job {path} is a file of its own: give no other, and no run")
        written = write_job(self._job(asked), path)
        self._lines.append(train_line(asked, "tl_save", job=path))
        return written

    # ── comparing ──

    def compare(
        self,
        *runs: str | Run,
        target: float | None = None,
        price: str | float | None = None,
        tuning: str = "apart",
    ) -> Comparison:
        """Runs side by side, by default all on the current data. Trains the equal-budget baseline where one is missing.

        Args:
            target: accuracy in 0..1 to measure the time to; default: the highest that all of them reached.
            price: what an hour costs, `0.5usd/h`; default: the one given before, else the list price.
            tuning: `apart`, in rows of its own, or `in`, counted in with the runs that use what it found.

        Raises:
            UsageError: no runs, unknown runs, runs on different data, or values that make no sense.
        """
        data = self._data()
        chosen = [self._run(r) for r in runs] if runs else self._on(data)
        if not chosen:
            raise UsageError("no run on this data yet: %tl_train")
        if any(run.fingerprint != data.fingerprint for run in chosen):
            other = next(run for run in chosen if run.fingerprint != data.fingerprint)
            raise UsageError(
                f"run {other.name!r} was on other data than {data.name} as it is now: compare runs on the same data"
            )
        if target is not None and not 0 < target <= 1:
            raise UsageError(f"--target {target} is no accuracy: use a fraction, e.g. --target 0.9")
        if tuning not in TUNING:
            raise UsageError(f"--tuning {tuning} is not known: use {' or '.join(TUNING)}")
        rate = self.bill.price if price is None else parse_price(price)
        matched = [run for run in chosen if run.baseline_of]
        equal = [
            found for run in matched if (found := self._with_equal_budget(run, data)) is not None
        ]
        card = next((self._networks[r.name][0].card for r in chosen if not r.baseline_of), None)
        tunings = self.bill.of("tuning", {run.plan.tuned for run in chosen})
        self._lines.append(
            line(
                "tl_compare",
                *(getattr(r, "name", r) for r in runs),
                target=target,
                price=price,
                tuning=None if tuning == "apart" else tuning,
            )
        )
        return compare(
            chosen,
            data,
            pretraining_of(card) if card else None,
            equal_budget=equal,
            target=target,
            price=rate,
            tunings=tunings,
            tuning_in=tuning == "in",
        )

    def cost(self, price: str | float | None = None) -> Bill:
        """The whole bill: every charge by phase, what someone else paid for the model, each figure with its basis.

        Args:
            price: what an hour costs, `0.5usd/h`; from then on it holds for everything, instead of the list price.

        Raises:
            UsageError: a price that is none.
        """
        if price is not None:
            rate = parse_price(price)
            with self.turn.taken():
                self.bill = self.bill.at(rate)
                self.runs = [bill.priced(run, rate) for run in self.runs]
                self._equal_budget = {
                    name: bill.priced(run, rate) for name, run in self._equal_budget.items()
                }
            self._keeper.write(self)
        self._lines.append(line("tl_cost", price=price))
        return replace(self.bill, unpaid=pretraining_of(self.model.card) if self.model else None)

    def _with_equal_budget(self, baseline: Run, data: DataSet) -> Run | None:
        """The same baseline with just its run's number of steps, trained once and charged; None where it has them anyway."""
        of = next((run for run in self.runs if run.name == baseline.baseline_of), None)
        if of is None or baseline.work.steps <= of.work.steps:
            return None
        if baseline.name not in self._equal_budget:
            with self.turn.taken():
                self._train_equal_budget(baseline, of, data)
        return self._equal_budget[baseline.name]

    def _train_equal_budget(self, baseline: Run, of: Run, data: DataSet) -> None:
        model, read = self._networks[baseline.name]
        options = with_equal_steps(baseline, of.work.steps)
        made = train(
            self._sized(model, data),
            read,
            data,
            baseline.plan,
            options,
            name=f"{baseline.name}, equal steps",
            scopes=self._scopes,
            baseline_of=of.name,
            report=self.report,
            store=self._store,
            stop=self.turn.interrupted,
        )
        if made.status == "stopped":
            raise UsageError(
                "stopped before the baseline of equal steps was trained: %tl_compare begins it again"
            )
        made = bill.priced(made, self.bill.price)
        self._equal_budget[baseline.name] = made
        self.bill = self.bill.with_run(made, "equal budget")

    # ── exercises ──

    def check(
        self,
        name: str | None = None,
        *,
        export: str | Path | None = None,
        learner: str | None = None,
    ) -> Check | Checks:
        """Check an exercise against what the session holds; without a name, all exercises and how far you are.

        A step that is still missing shows one more hint each time. Nothing of the session changes.

        Args:
            export: write all results to this JSON file, under the name of the `learner`.

        Raises:
            UsageError: no such exercise, a check that fails by itself, a file that cannot be written.
        """
        import_module(
            "tlnb.course.exercises"
        )  # the course's own; those of a teacher register themselves
        if (export is None) != (learner is None):
            raise UsageError(
                "results are written with both: %tl_check --export grades.json --learner NAME"
            )
        found: Check | None = None
        if name is not None:
            found = judge(find(name), self, self.names, self._checks.get(name))
            self._checks[name] = found
            self._lines.append(line("tl_check", name))
        every = Checks(
            tuple(
                self._checks.get(each) or untried(asked)
                for each, asked in sorted(EXERCISES.items())
            )
        )
        if export is not None:
            write_grades(
                Path(export).expanduser(),
                grades(learner or "", every.checks, self.runs, version("tlnb")),
            )
        return found or every

    def data_of(self, run: str | Run) -> DataFacts:
        """What is known of the data that a run was trained on.

        Raises:
            UsageError: no such run, or one that was not trained in this session.
        """
        found = self._run(run)
        if found.name not in self._facts:
            raise UsageError(
                f"run {found.name!r} was not trained in this session: its data are not known"
            )
        return self._facts[found.name]

    # ── panels ──

    def panel(self, name: str | None = None) -> Any:
        """The same with the mouse: all panels, or one of `data`, `model`, `layers`, `train`, `compare`.

        Raises:
            UsageError: there is no such panel.
        """
        return import_module("tlnb.panels").open_panel(
            self, name
        )  # found by name: what shows lies above what is shown

    def watch(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Be called after every call that changed the session. Methods are held weakly; what is returned ends it."""
        return self.turn.changed.add(callback)

    def stop(self) -> Run:
        """Stop the training that a panel started, and wait until it has ended. What it has so far is kept.

        Raises:
            UsageError: there is none.
        """
        return self.turn.ended(stop=True)  # type: ignore[no-any-return]

    def wait(self) -> Run:
        """Wait for the training that a panel started.

        Raises:
            UsageError: there was none.
        """
        return self.turn.ended(stop=False)  # type: ignore[no-any-return]

    # ── the session itself ──

    def script(self) -> Script:
        """The session as a cell of magics."""
        from tlnb.core.export.pytorch_script import Script

        return Script("\n".join(["%load_ext tlnb", *self._lines]), "the session as magics")

    def code(self, run: str | Run | None = None, *, out: str | Path | None = None) -> Script:
        """A run as a plain PyTorch script with no tlnb in it; without runs the current plan.

        Args:
            run: default: the last that is not a baseline. The script's first lines say which it is.
            out: a file to write the script to.

        Raises:
            UsageError: no run has that name; no data, model or plan yet; a way of training that no script does; a file
                that cannot be written.
        """
        script = self._script_for(run)
        if out is not None:
            try:
                user_path(out).write_text(str.__str__(script), "utf8")
            except OSError as error:
                raise UsageError(
                    f"{str(out)!r} cannot be written ({error.strerror}): give a file in a folder of yours"
                ) from None
        return script

    def _script_for(self, run: str | Run | None) -> Script:
        if run is None and not any(r.baseline_of is None for r in self.runs):
            return self._planned()
        chosen = self._last_run(run)
        if chosen.name not in self._facts:
            raise UsageError(
                f"run {chosen.name!r} was not trained in this session: %tl_code works for those that were"
            )
        model, read = self._networks[chosen.name]
        facts = self._facts[chosen.name]
        return self._script_of(
            model, read, facts, chosen.plan, chosen.options, chosen.precision, chosen
        )

    def _planned(self) -> Script:
        data = self._data()
        model, read, made = self._loaded()
        options = made.options.filled(recipe(made, data, made.options.solver))
        precision = machine(options.device, options.precision).precision
        return self._script_of(self._sized(model, data), read, data.facts, made, options, precision)

    def _script_of(
        self,
        model: PretrainedModel,
        read: Anatomy,
        data: DataFacts,
        made: Plan,
        options: TrainOptions,
        precision: str,
        run: Run | None = None,
    ) -> Script:
        network = build(model, made.edits, "pretrained", 0, self._scopes)
        from tlnb.core.export.pytorch_script import Case, write_script

        return write_script(
            Case(model, network, read, data, made, options, precision, run, self._scopes)
        )

    @changing
    def reset(self) -> Session:
        """Forget everything: a new session."""
        self._clear()
        return self

    @property
    def next_line(self) -> str:
        """The line that most likely comes next."""
        if self.dataset is None:
            return "%tl_data digits --per-class 2"
        if self.model is None:
            return "%tl_load glyphnet"
        runs = self._on(self.dataset)
        if not runs:
            return "%tl_train"
        return "%tl_compare" if any(run.baseline_of for run in runs) else "%tl_train --scratch"

    def __repr__(self) -> str:
        parts = [
            f"data: {self.dataset.name}" if self.dataset else "no data yet",
            f"model: {self.model.name}" if self.model else "no model yet",
        ]
        if self.plan:
            parts.append(f"plan: {self.plan.strategy}")
        parts.append(f"{len(self.runs)} runs")
        return f"tlnb session: {', '.join(parts)}; next: {self.next_line}"

    def _downloading(self, name: str, done: int, total: int) -> None:
        """In megabytes, rounded up; a total of 0 is not known."""
        if self.report is not None:
            self.report(
                Progress(name, "downloading", *(math.ceil(size / 1e6) for size in (done, total)))
            )

    def _looking(self, done: int, total: int) -> None:
        if self.report is not None:
            self.report(Progress("look", "looking", done, total))

    def _telling(self, what: str, done: int, total: int) -> None:
        if self.report is not None:
            self.report(Progress("data", what, done, total))

    def _decoding(self, done: int, total: int) -> None:
        if self.report is not None:
            self.report(Progress("data", "decoding", done, total))


def _same(one: Forecast, other: Forecast | Run) -> bool:
    """Whether a forecast is of this training."""
    return (one.plan, one.options, one.fingerprint) == (
        other.plan,
        other.options,
        other.fingerprint,
    )


def _adopted(source: Any, size: int | None) -> dict[str, Any]:
    """What to load: one's own module made ready, and what was done to it."""
    if not isinstance(source, nn.Module):
        return {"source": source}
    from tlnb.core.models.own_modules import adopt

    found = adopt(source, size)
    only = {} if found.size is None else {"size": found.size}
    return {"source": found.module, "layout": found.layout, "notes": found.notes, **only}


class _NoSuch(UsageError, AttributeError):
    """A name of another tool's; `hasattr` is still answered with no."""
