"""The magics: split the line into tokens, call the session, return its value. No logic here."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable, Iterable
from typing import Any, cast

from IPython.core.error import UsageError as IPythonUsageError
from IPython.core.magic import Magics, line_cell_magic, line_magic, magics_class, no_var_expand
from IPython.core.magic_arguments import argument, magic_arguments
from torch import nn

from tlnb.core.data.builtin import BUNDLED
from tlnb.core.data.torchvision_datasets import LIBRARY
from tlnb.core.models.catalogue import SORTS, names, torchvision_weights
from tlnb.core.planning.magic_lines import tokens
from tlnb.core.planning.options import AUGMENTATIONS, SOLVERS, Asked
from tlnb.core.planning.other_tools import meant_option, meant_words, spaced_path
from tlnb.core.planning.plan import ALIASES, STRATEGIES
from tlnb.core.runtime.errors import TLError, UsageError, did_you_mean, one_line
from tlnb.course.checks import Checks
from tlnb.display.live import reporter, testing
from tlnb.session import PANELS, Session

TESTING_THREADS = 2


def _said(value: Any, silent: bool, cell: Cell) -> Any:
    """What the magic returns. In a cell of several, each but the last prints one line instead of its card."""
    if cell.more_to_come() and not silent:
        print(one_line(repr(value)))
    return None if silent else value


class Cell:
    """Which magics the running cell holds, to know which one is its last line."""

    LINE = re.compile(r"^(?P<to>\w[\w\s,]*=\s*)?%tl")

    def __init__(self) -> None:
        self._waiting: list[
            bool
        ] = []  # for each magic to come: whether its value is shown as a card

    def begin(self, info: Any) -> None:
        """IPython's pre_run_cell event."""
        lines = [
            line
            for line in str(getattr(info, "raw_cell", "")).splitlines()
            if line.strip() and line.strip()[0] != "#"
        ]
        found = [(i, m) for i, line in enumerate(lines) if (m := self.LINE.match(line))]
        self._waiting = [i == len(lines) - 1 or m["to"] is not None for i, m in found]

    def more_to_come(self) -> bool:
        """Whether the magic that runs now is followed by others, so that IPython will not show its value."""
        return not self._waiting.pop(0) if self._waiting else False


def _of_training(method: Callable[..., Any]) -> Callable[..., Any]:
    """The options of a training, which several magics take."""
    options = (
        argument("--epochs", type=int, metavar="N", help="passes over the training images"),
        argument("--lr", metavar="X", help="learning rate, or by stage: layer4=0.001,head=0.01"),
        argument("--batch-size", type=int, metavar="N", help="images in one step"),
        argument("--weight-decay", type=float, metavar="X", help="decay of weights, not of biases"),
        argument("--augment", metavar="HOW", help=", ".join(AUGMENTATIONS)),
        argument(
            "--scratch",
            action="store_true",
            help="the baseline of the last run: same data, same loop, random start",
        ),
        argument("--from", dest="from_", metavar="RUN", help="go on from a run's weights"),
        argument(
            "--seed", type=int, metavar="S", help="of new layers, batches, augmentation; default 0"
        ),
        argument("--name", metavar="NAME", help="what to call the run"),
        argument(
            "--no-cache", action="store_true", help="compute frozen layers again in every epoch"
        ),
        argument("--precision", default="auto", metavar="P", help="auto, fp32, bf16, fp16"),
        argument("--class-weights", action="store_true", help="weigh rare classes up"),
        argument(
            "--solver",
            default="sgd",
            metavar="HOW",
            help="sgd (in batches), or lbfgs for strategy head",
        ),
        argument("--device", metavar="D", help="cpu, cuda, mps; default: the best there is"),
    )
    for option in reversed(options):
        method = option(method)
    return method


@magics_class
class TLMagics(Magics):
    """Each is one call on the session."""

    def __init__(self, shell: Any, session: Session) -> None:
        super().__init__(shell)
        self.session = session
        self.cell = Cell()

    def _run(
        self, method: Callable[..., Any], line: str, call: Callable[[argparse.Namespace], Any]
    ) -> Any:
        words, silent = tokens(line)
        chosen = _parse(method, words)
        return self._show(lambda: call(chosen), silent)

    def _show(self, call: Callable[[], Any], silent: bool) -> Any:
        show = reporter(self.shell)
        self.session.report = show
        try:
            value = call()
        finally:
            show.close()
            self.session.report = None
        return _said(value, silent, self.cell)

    @line_magic
    @magic_arguments()
    def tl(self, line: str) -> Any:
        """Where we are: data, model, plan, runs, and the likely next line.

        Example: %tl
        """
        return self._run(TLMagics.tl, line, lambda _: self.session)

    @line_magic
    @magic_arguments()
    @argument(
        "source",
        help="digits, symbols, textures, faces; a folder with one folder per class, a .zip, .tar or .tgz of one; "
        "a table of paths and labels (.csv, .tsv); CIFAR10, …",
    )
    @argument(
        "--per-class", type=int, metavar="N", help="use N labels of each class, all of them counted"
    )
    @argument("--limit", type=int, metavar="N", help="use N images in all, classes in equal parts")
    @argument("--val", type=float, metavar="F", help="share of the labels to choose with")
    @argument("--test", type=float, metavar="F", help="share of the images to report on")
    @argument("--size", type=int, metavar="PX", help="the network's input edge in pixels")
    @argument("--classes", type=int, metavar="K", help="how many classes to draw (symbols)")
    @argument(
        "--group",
        metavar="REGEX-or-CSV",
        help="what is kept on one side of every split, e.g. ([^/]+)_ ({ as {{)",
    )
    @argument(
        "--root", metavar="DIR", help="where torchvision's data sets lie, or are downloaded to"
    )
    @argument("--seed", type=int, default=0, metavar="S", help="which images are chosen; default 0")
    def tl_data(self, line: str) -> Any:
        """Take a data set.

        Example: %tl_data digits --per-class 2
        """

        def call(a: argparse.Namespace) -> Any:
            return self.session.data(
                a.source,
                per_class=a.per_class,
                limit=a.limit,
                val=a.val,
                test=a.test,
                size=a.size,
                classes=a.classes,
                seed=a.seed,
                group=a.group,
                root=a.root,
            )

        return self._run(TLMagics.tl_data, line, call)

    @line_magic
    @magic_arguments()
    @argument("pattern", nargs="?", help="a glob, or part of a name")
    @argument(
        "--sort", metavar="ORDER", help=f"what comes first: {', '.join(SORTS)}; default {SORTS[0]}"
    )
    def tl_models(self, line: str) -> Any:
        """What can be loaded, and what is available offline.

        Example: %tl_models resnet* --sort accurate
        """
        return self._run(TLMagics.tl_models, line, lambda a: self.session.models(a.pattern, a.sort))

    @line_magic
    @magic_arguments()
    @argument(
        "name",
        help="a model of %%tl_models, a variable that holds your own nn.Module or a run, or a saved file",
    )
    @argument(
        "--weights",
        default="default",
        metavar="W",
        help="default, none (random), a name of torchvision's, or a file",
    )
    @argument("--mean", metavar="R,G,B", help="replace the preprocessing's mean")
    @argument("--std", metavar="R,G,B", help="replace the preprocessing's standard deviation")
    @argument("--size", type=int, metavar="PX", help="replace the input edge")
    @argument(
        "--trust",
        action="store_true",
        help="run code in a saved file that is more than nn.* constructors",
    )
    def tl_load(self, line: str) -> Any:
        """Load a pretrained model.

        Example: %tl_load glyphnet

        Example: %tl_load resnet50 --weights IMAGENET1K_V1

        Example: %tl_load squeezenet1_0 --weights my-weights.safetensors

        Example: %tl_load my_network --mean 0.5,0.5,0.5 --std 0.25,0.25,0.25 --size 64
        """
        from tlnb.core.training.run import Run

        def call(a: argparse.Namespace) -> Any:
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

        return self._run(TLMagics.tl_load, line, call)

    @line_magic
    @magic_arguments()
    @argument("--all", action="store_true", help="every layer, not only the stages")
    def tl_layers(self, line: str) -> Any:
        """The network from input to output: parameters, FLOPs, frozen or trained.

        Example: %tl_layers --all
        """
        return self._run(TLMagics.tl_layers, line, lambda a: self.session.layers(a.all))

    @line_magic
    @magic_arguments()
    @argument("name", nargs="?", help=f"{', '.join(STRATEGIES)}; also {', '.join(ALIASES)}")
    @argument("--last", type=int, metavar="N", help="partial only: train the last N stages")
    def tl_strategy(self, line: str) -> Any:
        """Set a strategy; without a name, see the three side by side.

        Example: %tl_strategy partial --last 2
        """
        return self._run(
            TLMagics.tl_strategy, line, lambda a: self.session.strategy(a.name, last=a.last)
        )

    @line_magic
    @magic_arguments()
    @argument(
        "patterns", nargs="*", metavar="PATTERN", help="a layer, a stage, a glob, or a range a..b"
    )
    def tl_freeze(self, line: str) -> Any:
        """Freeze layers too; without a pattern, all but the output layer.

        Example: %tl_freeze stem..layer2
        """
        return self._run(TLMagics.tl_freeze, line, lambda a: self.session.freeze(*a.patterns))

    @line_magic
    @magic_arguments()
    @argument(
        "patterns", nargs="*", metavar="PATTERN", help="a layer, a stage, a glob, or a range a..b"
    )
    def tl_unfreeze(self, line: str) -> Any:
        """Let layers train again.

        Example: %tl_unfreeze layer4
        """
        return self._run(TLMagics.tl_unfreeze, line, lambda a: self.session.unfreeze(*a.patterns))

    @no_var_expand
    @line_magic
    @magic_arguments()
    @argument("place", help="before:NAME or after:NAME, a module's name")
    @argument("code", nargs="+", help="an expression, the rest of the line: nn.Dropout(0.2)")
    def tl_add(self, line: str) -> Any:
        """Add a layer before or after a module; names stay as they are.

        The expression may use nn, torch, in_features (what arrives there), classes, and your own names.

        Example: %tl_add before:head nn.Dropout(0.2)
        """
        place, code, silent = _place_and_code("tl_add", "before:head nn.Dropout(0.2)", line)
        return self._show(lambda: self.session.add(place, code, self.shell.user_ns), silent)

    @line_magic
    @magic_arguments()
    @argument("pattern", help="a module, a stage, a glob, or a range a..b")
    def tl_remove(self, line: str) -> Any:
        """Take modules out: each becomes nn.Identity; a new output layer of the right width follows where one is needed.

        Example: %tl_remove layer4
        """
        return self._run(TLMagics.tl_remove, line, lambda a: self.session.remove(a.pattern))

    @no_var_expand
    @line_cell_magic
    @magic_arguments()
    @argument("name", help="a module's name")
    @argument(
        "code",
        nargs="*",
        help="an expression, the rest of the line; as %%%%tl_replace NAME the cell's body",
    )
    def tl_replace(self, line: str, cell: str | None = None) -> Any:
        """Put another module in the place of one; as a cell magic, the last line of the body is the new module.

        The code may use nn, torch, in_features (what arrives there), classes, and your own names.

        Example: %tl_replace head nn.Sequential(nn.Linear(in_features, 64), nn.ReLU(), nn.Linear(64, classes))
        """
        if cell is not None:
            line = f"{line.strip()} {cell}" if line.strip() else cell
        place, code, silent = _place_and_code(
            "tl_replace", "head nn.Linear(in_features, classes)", line
        )
        return self._show(lambda: self.session.replace(place, code, self.shell.user_ns), silent)

    @line_magic
    @magic_arguments()
    def tl_undo(self, line: str) -> Any:
        """Take back the last change of the plan: an edit, a strategy, a freeze.

        Example: %tl_undo
        """
        return self._run(TLMagics.tl_undo, line, lambda _: self.session.undo())

    @line_magic
    @magic_arguments()
    @_of_training
    @argument(
        "--seeds",
        type=int,
        default=1,
        metavar="N",
        help="train N times, each with the next seed; shows the spread",
    )
    @argument(
        "--budget",
        metavar="B",
        help="2min, or 0.5usd: fewer epochs where the forecast says they exceed it",
    )
    def tl_train(self, line: str) -> Any:
        """Train the plan, or its baseline.

        Example: %tl_train --epochs 20
        """

        def call(a: argparse.Namespace) -> Any:
            return self.session.train(**_asked(a), seeds=a.seeds, budget=a.budget)

        return self._run(TLMagics.tl_train, line, call)

    @line_magic
    @magic_arguments()
    @_of_training
    def tl_forecast(self, line: str) -> Any:
        """What %tl_train with the same options will take: time, FLOPs, energy, money, memory. Nothing is trained.

        Example: %tl_forecast --epochs 50
        """
        return self._run(TLMagics.tl_forecast, line, lambda a: self.session.forecast(**_asked(a)))

    @line_magic
    @magic_arguments()
    @argument("--budget", metavar="B", help="what the training may take: 5min, or 2usd")
    def tl_advise(self, line: str) -> Any:
        """Which strategy, and why: the rule by amount of data, and evidence measured now.

        Example: %tl_advise --budget 5min
        """
        return self._run(TLMagics.tl_advise, line, lambda a: self.session.advise(budget=a.budget))

    @line_magic
    @magic_arguments()
    @argument(
        "--trials",
        type=int,
        default=20,
        metavar="N",
        help="sets of hyperparameters to try; default 20",
    )
    @argument(
        "--budget", metavar="B", help="5min, or 0.1usd: no trial begins that is likely to exceed it"
    )
    @argument("--scratch", action="store_true", help="tune the baseline of the last run")
    @argument(
        "--storage",
        metavar="URL",
        help="a file for the journal, or sqlite:///tuning.db; processes may share it",
    )
    @argument("--epochs", type=int, metavar="N", help="of each trial; default: the recipe's")
    @argument(
        "--seed",
        type=int,
        default=0,
        metavar="S",
        help="of what is tried, and of the trainings; default 0",
    )
    def tl_tune(self, line: str) -> Any:
        """Search learning rate, weight decay, augmentation and how many stages train; the best go into the plan.

        Example: %tl_tune --trials 30 --budget 5min
        """

        def call(a: argparse.Namespace) -> Any:
            return self.session.tune(
                trials=a.trials,
                budget=a.budget,
                scratch=a.scratch,
                storage=a.storage,
                epochs=a.epochs,
                seed=a.seed,
            )

        return self._run(TLMagics.tl_tune, line, call)

    @line_magic
    @magic_arguments()
    @argument("--price", metavar="X/h", help="what an hour costs, from now on: 0.5usd/h")
    def tl_cost(self, line: str) -> Any:
        """The whole bill: every charge of the session by phase, and what someone else paid for the model.

        Example: %tl_cost --price 0.5eur/h
        """
        return self._run(TLMagics.tl_cost, line, lambda a: self.session.cost(a.price))

    @line_magic
    @magic_arguments()
    @argument(
        "file",
        nargs="?",
        help="ending in .safetensors, .pt2 (torch.export) or .onnx; default: by the run's name",
    )
    @argument("--run", metavar="RUN", help="default: the last run that is no baseline")
    @argument(
        "--job",
        metavar="FILE",
        help="write what %%tl_train with these options would do instead; needs no run",
    )
    @_of_training
    def tl_save(self, line: str) -> Any:
        """Write a run's network with its plan, classes, preprocessing and record; %tl_load FILE takes it back.

        Example: %tl_save digits.safetensors

        Example: %tl_save --job job.json --epochs 50

        The second is for: python -m tlnb train job.json --out DIR
        """
        return self._run(
            TLMagics.tl_save,
            line,
            lambda a: self.session.save(a.file, a.run, job=a.job, **_asked(a)),
        )

    @line_magic
    @magic_arguments()
    @argument(
        "where",
        nargs="?",
        metavar="FOLDER",
        help="of an earlier session; default: the last of this notebook",
    )
    @argument("--trust", action="store_true", help="run code of yours that the session holds")
    def tl_resume(self, line: str) -> Any:
        """Go on with a stopped run; after a restart of the kernel, with the session and the run that it cut off.

        Example: %tl_resume
        """

        def call(a: argparse.Namespace) -> Any:
            return self.session.resume(a.where, trust=a.trust, names=self.shell.user_ns)

        return self._run(TLMagics.tl_resume, line, call)

    @line_magic
    @magic_arguments()
    @argument("runs", nargs="*", metavar="RUN", help="names; default: all runs on the current data")
    @argument(
        "--target", type=float, metavar="ACC", help="accuracy from 0 to 1 to measure the time to"
    )
    @argument("--price", metavar="X/h", help="what an hour costs, e.g. 0.5usd/h")
    @argument(
        "--tuning",
        default="apart",
        metavar="HOW",
        help="apart (in rows of its own), or in (counted in with the runs)",
    )
    def tl_compare(self, line: str) -> Any:
        """Runs side by side: accuracy, time, FLOPs, energy, money.

        Example: %tl_compare --price 0.5usd/h
        """

        def call(a: argparse.Namespace) -> Any:
            return self.session.compare(*a.runs, target=a.target, price=a.price, tuning=a.tuning)

        return self._run(TLMagics.tl_compare, line, call)

    @line_magic
    @magic_arguments()
    @argument("--run", metavar="NAME", help="which run; default: the last that is no baseline")
    def tl_errors(self, line: str) -> Any:
        """What a run gets wrong: confusion matrix, accuracy by class, the most confident mistakes.

        Example: %tl_errors --run head
        """
        return self._run(TLMagics.tl_errors, line, lambda a: self.session.errors(a.run))

    @line_magic
    @magic_arguments()
    @argument("files", nargs="+", metavar="FILE", help="image files, globs, or folders of images")
    @argument(
        "--run",
        metavar="NAME",
        help="which run; default: the last that is no baseline, else the loaded model",
    )
    @argument(
        "--top",
        type=int,
        default=3,
        metavar="K",
        help="how many classes to give for each image; default 3",
    )
    def tl_predict(self, line: str) -> Any:
        """Labels with probabilities for new images.

        Example: %tl_predict photos/*.jpg --top 5
        """
        return self._run(
            TLMagics.tl_predict,
            line,
            lambda a: self.session.predict(*a.files, run=a.run, top=a.top),
        )

    @line_magic
    @magic_arguments()
    @argument(
        "what",
        nargs="*",
        metavar="WHAT",
        help="features (the default), stages, evidence, or image files to look into",
    )
    @argument(
        "--run",
        metavar="NAME",
        help="whose network; evidence: default the last run that is no baseline",
    )
    def tl_look(self, line: str) -> Any:
        """What the network sees: the data by its features or by stage, beside a random start; where in an image it looks.

        Example: %tl_look features
        """
        return self._run(TLMagics.tl_look, line, lambda a: self.session.look(*a.what, run=a.run))

    @line_magic
    @magic_arguments()
    @argument(
        "--run",
        metavar="NAME",
        help="default: the last run that is not a baseline; without runs the plan",
    )
    @argument("--out", metavar="FILE", help="write the script to this file")
    def tl_code(self, line: str) -> Any:
        """A run as a plain PyTorch script with no tlnb in it.

        Example: %tl_code --run head

        Example: %tl_code --out train.py
        """
        return self._run(TLMagics.tl_code, line, lambda a: self.session.code(a.run, out=a.out))

    @line_magic
    @magic_arguments()
    def tl_script(self, line: str) -> Any:
        """The session as a cell of magics.

        Example: %tl_script
        """
        return self._run(TLMagics.tl_script, line, lambda _: self.session.script())

    @line_magic
    @magic_arguments()
    @argument("name", nargs="?", help="an exercise, e.g. 1.1; default: all, and how far you are")
    @argument("--export", metavar="FILE", help="write all results to this JSON file")
    @argument("--learner", metavar="NAME", help="whose results they are")
    def tl_check(self, line: str) -> Any:
        """Check an exercise against what the session holds; each further try shows one more hint.

        Example: %tl_check 1.1

        Example: %tl_check --export grades.json --learner Ada
        """
        return self._run(
            TLMagics.tl_check,
            line,
            lambda a: self.session.check(a.name, export=a.export, learner=a.learner),
        )

    @line_magic
    @magic_arguments()
    @argument("name", nargs="?", help="data, model, layers, train or compare; default: all of them")
    def tl_panel(self, line: str) -> Any:
        """The same with the mouse; each click shows the magic that it ran.

        Example: %tl_panel layers
        """
        return self._run(TLMagics.tl_panel, line, lambda a: self.session.panel(a.name))

    @line_magic
    @magic_arguments()
    def tl_stop(self, line: str) -> Any:
        """Stop the training that a panel started; what it has so far is kept.

        Example: %tl_stop
        """
        return self._run(TLMagics.tl_stop, line, lambda _: self.session.stop())

    @line_magic
    @magic_arguments()
    def tl_wait(self, line: str) -> Any:
        """Wait for the training that a panel started, and show its run.

        Example: %tl_wait
        """
        return self._run(TLMagics.tl_wait, line, lambda _: self.session.wait())

    @line_magic
    @magic_arguments()
    def tl_reset(self, line: str) -> Any:
        """A new session: data, model, plan, runs and bill are forgotten.

        Example: %tl_reset
        """
        return self._run(TLMagics.tl_reset, line, lambda _: self.session.reset())


def _asked(a: argparse.Namespace) -> Asked:
    """The options of a training."""
    values = {name: value for name, value in vars(a).items() if name in Asked.__annotations__}
    return cast(Asked, {**values, "cache": not a.no_cache})


def _place_and_code(magic: str, example: str, line: str) -> tuple[str, str, bool]:
    """The first word, the rest verbatim, and whether a trailing `;` silences it."""
    silent = line.rstrip().endswith(";")
    found = re.fullmatch(r"\s*(\S+)\s+(\S.*?)[\s;]*", line, re.DOTALL)
    if not found:
        raise UsageError(f"%{magic} needs a name and what to put there: %{magic} {example}")
    return found[1], found[2], silent


def _parse(method: Callable[..., Any], words: list[str]) -> argparse.Namespace:
    """argparse's errors become one line with the line that would work."""
    parser: argparse.ArgumentParser = method.parser  # type: ignore[attr-defined]
    name = method.__name__
    try:
        known = [
            o for action in parser._actions for o in action.option_strings if o.startswith("--")
        ]
        for word in words:
            option = word.partition("=")[0]
            if option in ("--help", "-h"):
                raise UsageError(f"%{name}? shows its options: {' '.join(known) or 'it has none'}")
            if option.startswith("--") and option not in known:
                meant = meant_option(option, known)
                hint = (
                    f"write {meant}"
                    if meant
                    else did_you_mean(option, known, f"%{name}? lists what there is")
                )
                raise UsageError(f"%{name} has no option {option}: {hint}")
        return parser.parse_args(words)
    except IPythonUsageError as error:
        if path := spaced_path([word for word in words if not word.startswith("-")]):
            raise UsageError(
                f'%{name}: a name with spaces needs quotes: %{name} "{path}"'
            ) from None
        if meant := meant_words(
            name,
            words,
            known,
            {"tl_train": "--epochs", "tl_forecast": "--epochs", "tl_tune": "--trials"},
        ):
            raise UsageError(f"%{name} does not take {' '.join(words)!r}: {meant}") from None
        raise UsageError(
            f"%{name}: {str(error).splitlines()[0]}; %{name}? shows an example"
        ) from None
    except SystemExit:
        raise UsageError(
            f"%{name} could not read {' '.join(words)!r}: %{name}? shows an example"
        ) from None


# ── completion ────────────────────────────────────────────────────────────────────────────────────────────────────


def completions(session: Session, variables: dict[str, Any], line: str) -> list[str]:
    """What Tab offers after a magic: its options, and the names that fit."""
    head, _, rest = line.lstrip().partition(" ")
    method = getattr(TLMagics, head.lstrip("%"), None)
    if method is None or not hasattr(method, "parser"):
        return []
    last = rest.split(" ")[-1]
    if last.startswith("-"):
        options = [
            o
            for action in method.parser._actions
            for o in action.option_strings
            if o.startswith("--")
        ]
        return [o for o in options if o.startswith(last)]
    return sorted(
        {n for n in _names(session, variables, head.lstrip("%"), rest) if n.startswith(last)}
    )


def _names(session: Session, variables: dict[str, Any], magic: str, rest: str) -> Iterable[str]:
    if rest.split()[-1:] == ["--augment"] or re.search(r"--augment \S*$", rest):
        return AUGMENTATIONS
    if re.search(r"--(from|run) \S*$", rest) or magic == "tl_compare":
        return [run.name for run in session.runs]
    if magic == "tl_data":
        return [
            *BUNDLED,
            *LIBRARY,
            *(
                f"{e.name}{os.sep}"
                for e in os.scandir(".")
                if e.is_dir() and not e.name.startswith(".")
            ),
        ]
    if re.search(r"--sort \S*$", rest):
        return SORTS
    if magic == "tl_load" and re.search(r"--weights \S*$", rest):
        return ["default", "none", *torchvision_weights(rest.split()[0])]
    if magic in ("tl_load", "tl_models"):
        own = [
            n for n, v in variables.items() if isinstance(v, nn.Module) and not n.startswith("_")
        ]
        return [*names(), *own, *(run.name for run in session.runs if magic == "tl_load")]
    if magic in ("tl_predict", "tl_look"):
        return [
            *(("features", "stages", "evidence") if magic == "tl_look" else ()),
            *_files(rest.split(" ")[-1]),
        ]
    if magic == "tl_panel":
        return PANELS
    if magic == "tl_check":
        return [check.name for check in cast(Checks, session.check()).checks]
    if magic == "tl_strategy":
        return [*STRATEGIES, *ALIASES]
    if re.search(r"--solver \S*$", rest):
        return SOLVERS
    if magic in ("tl_freeze", "tl_unfreeze") and session.model is not None:
        read = session.layers()
        return [*(s.name for s in read.stages), *read.names]
    if (
        magic in ("tl_add", "tl_remove", "tl_replace")
        and " " not in rest.strip()
        and session.model is not None
    ):
        parts = [name for name, _ in session.model.module.named_modules() if name]
        return (
            parts
            if magic != "tl_add"
            else [f"{side}:{name}" for name in parts for side in ("before", "after")]
        )
    return []


def _files(typed: str) -> list[str]:
    """Image files and folders that go on from what was typed."""
    from tlnb.core.data.decoding import extensions

    folder = typed[: max(typed.rfind("/"), typed.rfind(os.sep)) + 1]
    try:
        found = [e for e in os.scandir(folder or ".") if not e.name.startswith(".")]
    except OSError:
        return []
    return [
        f"{folder}{e.name}{os.sep if e.is_dir() else ''}"
        for e in found
        if e.is_dir() or e.name.lower().endswith(extensions())
    ]


# ── registration ──────────────────────────────────────────────────────────────────────────────────────────────────


def register(shell: Any, session: Session) -> None:
    """Magics, cards, completion, and the name `tl` unless it is taken."""
    magics = TLMagics(shell, session)
    shell.register_magics(magics)
    shell.events.register("pre_run_cell", magics.cell.begin)
    shell.input_transformers_cleanup.append(_apart)
    shell.user_ns.setdefault("tl", session)
    session.names = shell.user_ns
    _register_cards(shell)

    def offer(_: Any, event: Any) -> list[str]:
        typed = event.line[: event.line.rfind(event.symbol) + len(event.symbol)]
        return completions(session, shell.user_ns, typed)

    for name in [*magics.magics["line"]]:
        shell.set_hook("complete_command", offer, str_key=f"%{name}")
    if testing() and "OMP_NUM_THREADS" not in os.environ:  # which torch follows by itself
        import torch

        torch.set_num_threads(min(TESTING_THREADS, os.cpu_count() or 1))


def _apart(lines: list[str]) -> list[str]:
    """`%tl_freeze;` → `%tl_freeze ;`: without the space IPython would look for a magic of that name."""
    return [re.sub(r"^(\s*(?:[\w\s,]+=\s*)?%tl\w*);", r"\1 ;", line) for line in lines]


def _register_cards(shell: Any) -> None:
    from tlnb.core.evaluation.comparison import Comparison
    from tlnb.core.export.pytorch_script import Script
    from tlnb.display import cards
    from tlnb.display.tables import comparison_text

    formatters = shell.display_formatter.formatters
    for kind, make in cards.HTML.items():
        formatters["text/html"].for_type(kind, make)
    formatters["text/plain"].for_type(
        Comparison, lambda found, printer, _: printer.text(comparison_text(found))
    )
    formatters["text/plain"].for_type(
        Script, lambda script, printer, _: printer.text(str.__str__(script))
    )


__all__ = ["TLError", "TLMagics", "completions", "register", "tokens"]
