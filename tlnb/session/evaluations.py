"""Evaluate a network: its errors, its predictions for new images, what it sees."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from tlnb.core.data.dataset import DataSet
from tlnb.core.planning.edit import build
from tlnb.core.planning.magic_lines import line
from tlnb.core.planning.other_tools import LOOKS
from tlnb.core.runtime.errors import UsageError
from tlnb.core.training.run import Run
from tlnb.session.run_registry import has_plain_run, last_run, name_of, network_of, run_meant
from tlnb.session.session_base import SessionBase
from tlnb.session.state import SessionState

if TYPE_CHECKING:  # imported where they are used, so that the extension loads fast
    from tlnb.core.evaluation.embeddings import FeatureExtractor
    from tlnb.core.evaluation.look import Look
    from tlnb.core.evaluation.predictions import Errors, Judge, Predictions


NOT_MEASURED = "nothing was held out to measure them with"


def errors(self: SessionBase, run: str | Run | None = None) -> Errors:
    """Show what a run gets wrong on its test split, and how confident it was.

    Args:
        run: default: the latest that is not a baseline.

    Raises:
        UsageError: no such run, or a run whose record has no predictions.
    """
    from tlnb.core.evaluation import predictions

    state = self.state
    result = predictions.errors(last_run(state, run), state.dataset)
    self.record(line("tl_errors", run=name_of(run)))
    return result


def predict(
    self: SessionBase,
    *images: Any,
    run: str | Run | None = None,
    top: int = 3,
    always: bool = False,
) -> Predictions:
    """Predict labels with calibrated probabilities for new images, or "none of the classes I know".

    Args:
        images: files, folders, globs; PIL images; uint8 arrays `(H, W)`, `(H, W, 3)`, `(3, H, W)`.
        run: default: the latest that is not a baseline, else the loaded model.
        top: how many classes to give per image.
        always: answer also where an image is unlike all that the network knows.

    Raises:
        DataError: an image is missing or cannot be read; then nothing is predicted.
        UsageError: no image; no run, and no model that names its classes.
    """
    from tlnb.core.evaluation import predictions

    result = predictions.predict(_judge(self.state, run), images, top, always)
    text = line(
        "tl_predict",
        *images,
        run=name_of(run),
        top=None if top == 3 else top,
        always=always or None,
    )
    self.record(text if _are_names(images) else "tl.predict(...)  # images from Python")
    return result


def look(self: SessionBase, *what: Any, run: str | Run | None = None) -> Look:
    """Show what a network sees: features of the data, by stage, or the evidence in an image.

    Args:
        what: nothing or `features`: the data by the features of the pretrained network, of the
            same network with random weights, and of `run`. `stages`: how much of the answer each
            stage's output holds, for the same networks. `evidence`: where the evidence for the
            answer lies in some images of the data. Otherwise images, as in `predict`.
        run: whose network; default for evidence: the latest that is not a baseline, else the
            loaded model.

    Raises:
        DataError: an image is missing or cannot be read.
        UsageError: no data or model, too many images, one label per class (stages), or Captum
            is missing (evidence needs it).
    """
    from tlnb.core.evaluation import embeddings, saliency

    named = _are_names(what)  # an array cannot be compared with a word
    what = tuple(LOOKS.get(str(each).lower(), each) for each in what) if named else what
    if not what or (named and what in (("features",), ("stages",))):
        view = embeddings.stages if what == ("stages",) else embeddings.features
        compared = None if run is None else run_meant(self.state, run)
        result = view(*_feature_extractors(self.current(), compared))
    else:
        images = () if named and what == ("evidence",) else what
        looking = partial(self.tell, "look", "looking")
        judge = _judge(self.state, run, nameless=True)
        result = saliency.evidence(judge, images, self.state.dataset, looking)
    text = line("tl_look", *what, run=name_of(run))
    self.record(text if named else "tl.look(...)  # images from Python")
    return result


def _are_names(values: tuple[Any, ...]) -> bool:
    """Whether all values are words or file names."""
    return all(isinstance(value, str | Path) for value in values)


def _feature_extractors(
    state: SessionState, run: Run | None
) -> tuple[str, DataSet, list[FeatureExtractor], str | None]:
    """The networks to compare by features: as loaded, with random weights, and the run's."""
    from tlnb.core.evaluation.embeddings import FeatureExtractor

    data = state.data()
    model, anatomy, plan = state.loaded()
    sized = state.sized()
    pretrained = model.weights != "none" and model.card.family != "own"
    starts = {"pretrained" if pretrained else "as loaded": "pretrained", "random start": "random"}
    extractors = [
        FeatureExtractor(
            of=label,
            module=build(sized, plan.edits, start, 0, state.scopes),
            head=anatomy.head,
            transform=sized.transform,
        )
        for label, start in starts.items()
    ]
    if run is not None:
        head = network_of(state, run)[1].head
        extractors.append(
            FeatureExtractor(
                of=f"run {run.name}", module=run.module(), head=head, transform=run.transform()
            )
        )
    return model.name, data, extractors, run.name if run else None


def _judge(state: SessionState, which: str | Run | None, nameless: bool = False) -> Judge:
    """A run's network; without runs, the loaded model with its own output layer."""
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
        calibration=run.calibration,
        why_not=run.uncalibrated or NOT_MEASURED,
        known=run.known_images(),
        learned_from=_learned_from(state, run),
    )


def _learned_from(state: SessionState, run: Run) -> tuple[Tensor, ...]:
    """The images that a run learned from, if they are the data in use."""
    data = state.dataset
    if data is None or data.fingerprint != run.fingerprint:
        return ()
    return tuple(data.images[split] for split in (("train", "val") if run.refit else ("train",)))


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
        calibration=model.calibration,
        why_not=NOT_MEASURED,
        known=model.known,
    )
