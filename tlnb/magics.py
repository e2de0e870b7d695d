"""The magics: each is one call on the session. No logic here; `magic_call` runs them."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

from IPython.core.magic import line_cell_magic, line_magic, magics_class, no_var_expand
from torch import nn

from tlnb import magic_options as options
from tlnb.core.runtime.errors import UsageError
from tlnb.magic_call import SessionMagics, magic
from tlnb.magic_options import place_and_code, takes, training


@magics_class
class PlanMagics(SessionMagics):
    """Magics for data, the network, and the plan."""

    @magic(*options.DATA)
    def tl_data(self, a: Namespace) -> Any:
        """Load a data set.

        Example: %tl_data digits --per-class 2
        """
        return self.session.data(**vars(a))

    @magic(*options.MODELS)
    def tl_models(self, a: Namespace) -> Any:
        """List the models that can be loaded, and which are available offline.

        Example: %tl_models resnet* --sort accurate

        Example: %tl_models timm/vit*dinov2*
        """
        return self.session.models(a.pattern, a.sort)

    @magic(*options.LOAD)
    def tl_load(self, a: Namespace) -> Any:
        """Load a pretrained model.

        Example: %tl_load glyphnet

        Example: %tl_load efficientnet_lite0

        Example: %tl_load timm/convnext_tiny

        Example: %tl_load resnet50 --weights IMAGENET1K_V1

        Example: %tl_load squeezenet1_0 --weights my-weights.safetensors

        Example: %tl_load my_network --mean 0.5,0.5,0.5 --std 0.25,0.25,0.25 --size 64
        """
        from tlnb.core.training.run import Run

        own = self.shell.user_ns.get(a.name)
        if own is None and "." in a.name and a.name.partition(".")[0] in self.shell.user_ns:
            raise UsageError(
                f"%tl_load takes the name of a variable, not {a.name!r}: tl.load({a.name})"
            )
        source = own if isinstance(own, nn.Module | Run) else a.name
        given = {"mean": a.mean, "std": a.std, "size": a.size, "called": a.name}
        return self.session.load(
            source, a.weights, **given, trust=a.trust, names=self.shell.user_ns
        )

    @magic(*options.LAYERS)
    def tl_layers(self, a: Namespace) -> Any:
        """Show the network from input to output: parameters, FLOPs, frozen or trained.

        Example: %tl_layers --all
        """
        return self.session.layers(a.all)

    @magic(*options.LOOK)
    def tl_look(self, a: Namespace) -> Any:
        """Show what the network sees, beside one with random weights.

        The data by the network's features or by stage (linear probes), or where in an image the
        evidence lies (Grad-CAM, a heat map).

        Example: %tl_look features
        """
        return self.session.look(*a.what, run=a.run)

    @magic(*options.STRATEGY)
    def tl_strategy(self, a: Namespace) -> Any:
        """Set a strategy; without a name, show the three side by side.

        head: linear probing, or feature extraction. partial, full: fine-tuning. Which one, ten
        cases: https://github.com/tlnb/tlnb/blob/main/docs/which-strategy.md

        Example: %tl_strategy partial --last 2
        """
        return self.session.strategy(a.name, last=a.last, rank=a.rank)

    @magic(*options.PATTERNS)
    def tl_freeze(self, a: Namespace) -> Any:
        """Freeze more layers; without a pattern, all but the output layer.

        Example: %tl_freeze stem..layer2
        """
        return self.session.freeze(*a.patterns)

    @magic(*options.PATTERNS)
    def tl_unfreeze(self, a: Namespace) -> Any:
        """Unfreeze layers, so that they train again.

        They may be any, not only the last ones (surgical fine-tuning).

        Example: %tl_unfreeze layer4
        """
        return self.session.unfreeze(*a.patterns)

    @no_var_expand
    @line_magic
    @takes(*options.ADD)
    def tl_add(self, line: str) -> Any:
        """Add a layer before or after a module; existing names do not change.

        The expression may use nn, torch, in_features (the features that arrive there), classes,
        and your own names.

        Example: %tl_add before:head nn.Dropout(0.2)
        """
        place, code, silent = place_and_code("tl_add", "before:head nn.Dropout(0.2)", line)
        return self._show(lambda: self.session.add(place, code, self.shell.user_ns), silent)

    @magic(*options.REMOVE)
    def tl_remove(self, a: Namespace) -> Any:
        """Remove modules: each becomes nn.Identity.

        The output layer is replaced by one of the right width if that is needed.

        Example: %tl_remove layer4
        """
        return self.session.remove(a.pattern)

    @no_var_expand
    @line_cell_magic
    @takes(*options.REPLACE)
    def tl_replace(self, line: str, cell: str | None = None) -> Any:
        """Replace a module; in a cell magic, the last line of the body is the new module.

        The code may use nn, torch, in_features (the features that arrive there), classes, and your
        own names.

        Example: %tl_replace head nn.Sequential(nn.Linear(in_features, 64), nn.ReLU(), nn.Linear(64, classes))
        """
        if cell is not None:
            line = f"{line.strip()} {cell}" if line.strip() else cell
        place, code, silent = place_and_code(
            "tl_replace", "head nn.Linear(in_features, classes)", line
        )
        return self._show(lambda: self.session.replace(place, code, self.shell.user_ns), silent)

    @magic()
    def tl_undo(self, _: Namespace) -> Any:
        """Undo the last change of the plan: an edit, a strategy, a freeze.

        Example: %tl_undo
        """
        return self.session.undo()

    @magic(*options.ADVISE)
    def tl_advise(self, a: Namespace) -> Any:
        """Recommend a strategy, or with --models a source, by evidence measured now.

        Example: %tl_advise --budget 5min

        Example: %tl_advise --models glyphnet efficientnet_lite0
        """
        return self.session.advise(budget=a.budget, models=a.models)


@magics_class
class TLMagics(PlanMagics):
    """All magics, adding those that train, evaluate and export; each is one session call."""

    @magic()
    def tl(self, _: Namespace) -> Any:
        """Show the session: data, model, plan, runs, and the likely next line.

        Example: %tl
        """
        return self.session

    @magic(*options.TRAIN)
    def tl_train(self, a: Namespace) -> Any:
        """Train the plan, or its baseline.

        Where deeper layers train too, new output layers are trained first (LP-FT).

        Example: %tl_train --epochs 20
        """
        return self.session.train(**training(a))

    @magic(*options.TRAINING)
    def tl_forecast(self, a: Namespace) -> Any:
        """Forecast the cost of %tl_train with the same options, without training.

        Time, FLOPs, energy, money and memory.

        Example: %tl_forecast --epochs 50
        """
        return self.session.forecast(**training(a))

    @magic(*options.TUNE)
    def tl_tune(self, a: Namespace) -> Any:
        """Search for the best learning rate, weight decay, augmentation and trained stages.

        The best values go into the plan.

        Example: %tl_tune --trials 30 --budget 5min
        """
        return self.session.tune(**vars(a))

    @magic(*options.COST)
    def tl_cost(self, a: Namespace) -> Any:
        """Show the whole bill by phase, and what someone else paid for the model.

        Example: %tl_cost --price 0.5eur/h
        """
        return self.session.cost(a.price)

    @magic(*options.SAVE)
    def tl_save(self, a: Namespace) -> Any:
        """Save a run's network with its plan, classes, preprocessing and record.

        %tl_load FILE loads it again.

        Example: %tl_save digits.safetensors

        Example: %tl_save leaves.html

        Example: %tl_save --job job.json --epochs 50

        The second is a page that runs the network in a browser, the third is for: python -m tlnb train job.json --out DIR
        """
        return self.session.save(a.file, a.run, job=a.job, runtime=a.runtime, **training(a))

    @magic(*options.RESUME)
    def tl_resume(self, a: Namespace) -> Any:
        """Resume a stopped run; after a kernel restart, restore the session first.

        Example: %tl_resume
        """
        return self.session.resume(a.where, trust=a.trust, names=self.shell.user_ns)

    @magic(*options.COMPARE)
    def tl_compare(self, a: Namespace) -> Any:
        """Compare runs side by side: accuracy, time, FLOPs, energy, money.

        Example: %tl_compare --price 0.5usd/h
        """
        return self.session.compare(*a.runs, target=a.target, price=a.price, tuning=a.tuning)

    @magic(*options.ERRORS)
    def tl_errors(self, a: Namespace) -> Any:
        """Show a run's errors: confusion matrix, reliability, most confident mistakes.

        Example: %tl_errors --run head
        """
        return self.session.errors(a.run)

    @magic(*options.PREDICT)
    def tl_predict(self, a: Namespace) -> Any:
        """Predict labels with calibrated probabilities for new images, or none of the known classes.

        Example: %tl_predict photos/*.jpg --top 5
        """
        return self.session.predict(*a.files, run=a.run, top=a.top, always=a.always)

    @magic(*options.CODE)
    def tl_code(self, a: Namespace) -> Any:
        """Write a run as a plain PyTorch script without tlnb.

        Example: %tl_code --run head

        Example: %tl_code --out train.py
        """
        return self.session.code(a.run, out=a.out)

    @magic()
    def tl_script(self, _: Namespace) -> Any:
        """Show the session as a cell of magics.

        Example: %tl_script
        """
        return self.session.script()

    @magic(*options.CHECK)
    def tl_check(self, a: Namespace) -> Any:
        """Check an exercise against the session; each further try shows one more hint.

        Example: %tl_check 1.1

        Example: %tl_check --export grades.json --learner Ada
        """
        return self.session.check(a.name, export=a.export, learner=a.learner)

    @magic(*options.PANEL)
    def tl_panel(self, a: Namespace) -> Any:
        """Open a panel to work with the mouse; each click shows the magic that it ran.

        Example: %tl_panel layers
        """
        return self.session.panel(a.name)

    @magic()
    def tl_stop(self, _: Namespace) -> Any:
        """Stop the training that a panel started; its result so far is kept.

        Example: %tl_stop
        """
        return self.session.stop()

    @magic()
    def tl_wait(self, _: Namespace) -> Any:
        """Wait for the training that a panel started, and show its run.

        Example: %tl_wait
        """
        return self.session.wait()

    @magic()
    def tl_reset(self, _: Namespace) -> Any:
        """Start a new session: data, model, plan, runs and bill are forgotten.

        Example: %tl_reset
        """
        return self.session.reset()


# `magics_class` registers only methods that the class itself defines; add the inherited ones.
for kind, inherited in PlanMagics.magics.items():
    TLMagics.magics[kind] = {**inherited, **TLMagics.magics[kind]}
