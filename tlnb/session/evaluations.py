"""What a network gets wrong, what it says of new images, and what it sees."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tlnb.core.data.dataset import DataSet
from tlnb.core.planning.edit import build
from tlnb.core.planning.magic_lines import line
from tlnb.core.runtime.errors import UsageError
from tlnb.core.training.run import Run
from tlnb.session.base import SessionBase
from tlnb.session.run_registry import has_plain_run, last_run, name_of, network_of, run_meant
from tlnb.session.state import SessionState

if TYPE_CHECKING:  # at run time where they are used: loading the extension should take no time
    from tlnb.core.evaluation.embeddings import FeatureExtractor
    from tlnb.core.evaluation.look import Look
    from tlnb.core.evaluation.predictions import Errors, Judge, Predictions


def errors(self: SessionBase, run: str | Run | None = None) -> Errors:
    """What a run, by default the last that is no baseline, gets wrong on its test split, and how sure it was.

    Raises:
        UsageError: no such run, or one whose record does not hold its answers.
    """
    from tlnb.core.evaluation import predictions

    state = self.state
    found = predictions.errors(last_run(state, run), state.dataset)
    self.record(line("tl_errors", run=name_of(run)))
    return found


def predict(
    self: SessionBase, *images: Any, run: str | Run | None = None, top: int = 3
) -> Predictions:
    """Labels with probabilities for new images, by a run (default: the last that is no baseline) or the loaded model.

    Args:
        images: files, folders, globs; PIL images; uint8 arrays `(H, W)`, `(H, W, 3)`, `(3, H, W)`.
        top: how many classes to give for each.

    Raises:
        DataError: an image that is missing or cannot be read; then none is predicted.
        UsageError: no image, no run, and no model that knows its classes.
    """
    from tlnb.core.evaluation import predictions

    found = predictions.predict(_judge(self.state, run), images, top)
    text = line("tl_predict", *images, run=name_of(run), top=None if top == 3 else top)
    self.record(text if _named(images) else "tl.predict(...)  # images from Python")
    return found


def look(self: SessionBase, *what: Any, run: str | Run | None = None) -> Look:
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
    from tlnb.core.evaluation import embeddings, saliency

    named = _named(what)  # arrays cannot be compared with a word
    if not what or (named and what in (("features",), ("stages",))):
        view = embeddings.stages if what == ("stages",) else embeddings.features
        of = None if run is None else run_meant(self.state, run)
        found = view(*_seers(self.current(), of))
    else:
        images = () if named and what == ("evidence",) else what
        looking = partial(self.tell, "look", "looking")
        judge = _judge(self.state, run, nameless=True)
        found = saliency.evidence(judge, images, self.state.dataset, looking)
    text = line("tl_look", *what, run=name_of(run))
    self.record(text if named else "tl.look(...)  # images from Python")
    return found


def _named(values: tuple[Any, ...]) -> bool:
    """Whether all are words or files' names."""
    return all(isinstance(each, str | Path) for each in values)


def _seers(
    state: SessionState, run: Run | None
) -> tuple[str, DataSet, list[FeatureExtractor], str | None]:
    """The networks whose features are compared: as loaded, at a random start, and the run's."""
    from tlnb.core.evaluation.embeddings import FeatureExtractor

    data = state.data()
    model, read, made = state.loaded()
    sized = state.sized()
    pretrained = model.weights != "none" and model.card.family != "own"
    starts = {
        "pretrained" if pretrained else "as loaded": "pretrained",
        "random start": "random",
    }
    seers = [
        FeatureExtractor(
            of, build(sized, made.edits, s, 0, state.scopes), read.head, sized.transform
        )
        for of, s in starts.items()
    ]
    if run is not None:
        head = network_of(state, run)[1].head
        seers.append(FeatureExtractor(f"run {run.name}", run.module(), head, run.transform()))
    return model.name, data, seers, run.name if run else None


def _judge(state: SessionState, which: str | Run | None, nameless: bool = False) -> Judge:
    """A run's network; where there is no run, the loaded model with its own output layer."""
    from tlnb.core.evaluation.predictions import Judge

    if which is None and not has_plain_run(state):
        return _judge_of_model(state, nameless)
    run = last_run(state, which)
    facts = state.facts.get(run.name)
    return Judge(
        model=run.plan.model,
        run=run.name,
        module=run.module(),
        classes=run.classes,
        transform=run.transform(),
        edge=run.edge,
        values=facts.values if facts else None,
    )


def _judge_of_model(state: SessionState, nameless: bool) -> Judge:
    from tlnb.core.evaluation.predictions import Judge

    model = state.model
    classes = model.classes or () if model else ()
    if model is None or not (classes or nameless):
        why = "no model is loaded" if model is None else f"{model.name} does not name its classes"
        raise UsageError(
            f"no run yet, and {why}: %tl_train first, or load a model that names its classes"
        )
    return Judge(
        model=model.name,
        run=None,
        module=model.module,
        classes=classes,
        transform=model.transform,
        edge=model.transform.resize,
        values=state.dataset.values if state.dataset else None,
    )
