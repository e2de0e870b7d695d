"""Load data and models."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from tlnb.core.data.dataset import DataSet, open_data
from tlnb.core.data.duplicates import NEAR_FROM
from tlnb.core.data.request import DataRequest
from tlnb.core.models import efficientnet_lite as lite0
from tlnb.core.models import pretrained
from tlnb.core.models.pretrained import Catalogue, PretrainedModel
from tlnb.core.models.timm_models import is_timm, timm_catalogue
from tlnb.core.planning.edit import apply_edits
from tlnb.core.planning.magic_lines import line
from tlnb.core.planning.prepare import prepare
from tlnb.core.runtime.errors import ModelError, UsageError
from tlnb.core.runtime.paths import user_path
from tlnb.core.training.run import Run
from tlnb.session.direct_changes import with_data
from tlnb.session.lock import mutates_session
from tlnb.session.session_base import SessionBase
from tlnb.session.state import SessionState

if TYPE_CHECKING:  # imported where it is used, so that the extension loads fast
    from tlnb.core.export.save import Header

Tell = Callable[[str, str, int, int], None]  # (subject, phase, done, total)

# ── data ──


@mutates_session
def data(
    self: SessionBase,
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
    """Load a data set.

    Args:
        source: `digits`, `symbols`, `textures`, `faces`, a folder of class folders, a .zip, .tar
            or .tgz of one, a table of paths and labels (.csv, .tsv), a torchvision data set, or
            arrays with labels.
        labels: the labels of arrays.
        per_class: use this many labels per class, counting every label.
        limit: use this many images in all, the same number per class.
        val, test: shares to hold out if the data has no such split.
        size: the network's input edge in pixels; overrides the model's.
        classes: how many classes to draw (`symbols`).
        seed: which images are chosen.
        group: images of a group stay in one split: a regular expression that finds the group in a
            file's path, a CSV file of paths and groups, or for arrays one group per image.
        root: the folder of torchvision's data sets.

    Raises:
        DataError: unknown, missing, empty, too little, or unreadable data.
        UsageError: an invalid amount.
    """
    named = isinstance(source, str | Path)
    of_files = isinstance(group, str | Path)
    request = DataRequest(
        source=str(source) if named else "arrays",
        per_class=per_class,
        limit=limit,
        val=val,
        test=test,
        size=size,
        classes=classes,
        seed=seed,
        group=str(group) if of_files else None,
        root=str(root) if root else None,
    )
    groups = None if of_files else group
    opened = _open(source, labels, request, _edge(self.state, size), self.tell, groups)
    state, changed = with_data(self.state, opened)
    typed = _data_line(request) if named else f"tl.data(...)  # {opened.name}: from Python"
    self.commit(state, changed, typed)
    return opened


def _edge(state: SessionState, size: int | None) -> int | None:
    """The edge to decode photos to for the loaded model, large enough to detect duplicates."""
    if state.model is None:
        return None
    return max(NEAR_FROM, pretrained.resized(state.model, size).transform.resize)


def _data_line(request: DataRequest) -> str:
    given = {name.replace("_", "-"): value for name, value in vars(request).items()}
    source, seed = given.pop("source"), given.pop("seed")
    return line("tl_data", source, **given, seed=seed or None)


def read_again(request: DataRequest, edge: int | None, tell: Tell) -> DataSet:
    """Read named data again as requested, decoded to this edge."""
    return _open(request.source, None, request, edge, tell)


def _open(
    source: Any, labels: Any, request: DataRequest, edge: int | None, tell: Tell, groups: Any = None
) -> DataSet:
    decoding, telling = partial(tell, "data", "decoding"), partial(tell, "data")
    return open_data(
        source, labels, request, edge, progress=decoding, telling=telling, groups=groups
    )


# ── models ──


def models(self: SessionBase, pattern: str | None = None, sort: str | None = None) -> Catalogue:
    """List the models that can be loaded by name, by default the smallest first.

    Args:
        pattern: a glob, or part of a name; `timm/…` lists timm's.
        sort: `small`, `accurate` or `fast` first.

    Raises:
        ModelError: no model matches.
        UsageError: an unknown order.
    """
    if pattern is not None and is_timm(pattern):
        return timm_catalogue(pattern, sort)
    return pretrained.catalogue(pattern, sort)


@mutates_session
def load(
    self: SessionBase,
    source: str | Path | nn.Module | Run,
    weights: str | Path = "default",
    *,
    mean: Any = None,
    std: Any = None,
    size: int | None = None,
    called: str | None = None,
    trust: bool = False,
    names: Mapping[str, Any] | None = None,
) -> PretrainedModel:
    """Load a model and set strategy `head`.

    Args:
        source: a name of `tl.models()`, `timm/NAME` or `timm/NAME.TAG` (any network of timm),
            `hf-hub:ORG/NAME` (one on the hub that timm reads), your own `nn.Module`, a run or its
            name, or a file that `tl.save` wrote.
        trust: run code in a saved file that is more than `nn.*` constructors; it may use `names`.
        weights: `default`, a torchvision name (`IMAGENET1K_V1`), `none` (random weights), or a
            file.
        mean, std, size: replace the values of the preprocessing.

    Raises:
        ModelError: an unknown name; weights that are unknown, missing, damaged, of another
            architecture, or cannot be downloaded.
        UsageError: weights for a run, which has its own; an invalid size, mean or standard
            deviation.
    """
    request = LoadRequest(
        source=str(source) if isinstance(source, Path) else source,
        weights=weights,
        mean=mean,
        std=std,
        size=size,
        called=called,
        trust=trust,
        names=names,
    )
    state, typed = with_model(self.state, request, self.tell)
    self.commit(state, typed)
    return state.loaded()[0]


def suggested_model(data: DataSet | None) -> str:
    """The name of a network for these data that needs no download."""
    return lite0.NAME if data is not None and data.photos else "glyphnet"


@dataclass(frozen=True, kw_only=True)
class LoadRequest:
    """The arguments of `Session.load`."""

    source: str | nn.Module | Run
    weights: str | Path = "default"
    mean: Any = None
    std: Any = None
    size: int | None = None
    called: str | None = None
    trust: bool = False
    names: Mapping[str, Any] | None = None

    @property
    def own(self) -> bool:
        """Whether the source is the user's own module."""
        return isinstance(self.source, nn.Module)

    @property
    def preprocessing(self) -> dict[str, Any]:
        """The values that replace the model's."""
        return {"mean": self.mean, "std": self.std, "size": self.size}

    def about(self, name: str) -> dict[str, Any]:
        """The request as JSON values.

        Args:
            name: name of the loaded model.
        """
        source = self.called or name if self.own else getattr(self.source, "name", str(self.source))
        weights = str(self.weights)
        return {"source": source, "own": self.own, "weights": weights, **self.preprocessing}

    def typed(self, name: Any, weights: str | Path) -> str:
        """The request as a line of the transcript."""
        given = {"weights": None if weights == "default" else weights, **self.preprocessing}
        text = line("tl_load", name, **given, trust=self.trust)
        return f"{text}  # your own module, by its variable's name" if self.own else text


def with_model(state: SessionState, request: LoadRequest, tell: Tell) -> tuple[SessionState, str]:
    """Load a model into the state, with strategy `head`; also return the transcript's line.

    Raises:
        ModelError, UsageError: as `Session.load`.
    """
    model, request, typed = read_model(state, request, tell)
    data = decoded_for(state.dataset, model, tell)
    loaded = state.parts if model is state.model else None
    prepared = prepare(model, data, None, state.scopes, loaded=loaded)
    after = replace(state, dataset=data, history=(), asked=request.about(model.name))
    return after.with_prepared(prepared), typed


def read_model(
    state: SessionState, request: LoadRequest, tell: Tell
) -> tuple[PretrainedModel, LoadRequest, str]:
    """The requested model, the request with its whole name, and the transcript's line.

    Raises:
        ModelError, UsageError: as `Session.load`.
    """
    run = _run_to_load(state, request.source)
    if run is not None and str(request.weights) != "default":
        raise UsageError(
            f"run {run.name!r} has its own weights: leave out --weights {request.weights}"
        )
    weights, source = request.weights, request.source if run is None else _retrained(state, run)
    file, header = _saved(request)
    if header is not None:
        source, weights = _restored(file, header, request), "default"
    data_size = state.dataset.request.size if state.dataset else None
    adopted = _adopted(source, request.size or data_size)
    model = pretrained.load(
        adopted.pop("source"),
        weights,
        called=request.called,
        **{**request.preprocessing, **adopted},
        edge=data_size,
        progress=_in_megabytes(str(request.source), tell),
    )
    if is_timm(request.source):  # with its tag, since timm may choose another one later
        request = replace(request, source=model.name)
    return model, request, request.typed(file if header is not None else model.name, weights)


def _saved(request: LoadRequest) -> tuple[Path, Header | None]:
    """The saved run that a request names, as the model or as weights; without one no header."""
    source = request.source
    if request.own or (isinstance(source, str | Path) and not pretrained.is_name(str(source))):
        file = user_path(request.weights if request.own else str(source))
        from tlnb.core.export.save import read_header

        return file, read_header(file)
    return Path(), None


def _restored(file: Path, header: Header, request: LoadRequest) -> PretrainedModel:
    from tlnb.core.export.save import restore

    origin = header.origin
    if request.own:
        model = pretrained.load(called=request.called, **_adopted(request.source, None))
        return restore(file, header, model, request.trust, request.names)
    if origin.family == "own":
        raise ModelError(
            f"{file} was made from your own module {origin.name!r}: "
            f"build that, then %tl_load {origin.name} --weights {file}"
        )
    model = pretrained.bare(origin.name, origin.scores, header.transform.size)
    return restore(file, header, model, request.trust, request.names)


def _run_to_load(state: SessionState, source: Any) -> Run | None:
    """The run that `source` names, if any; a name of the catalogue means the model."""
    if isinstance(source, Run):
        return source
    if not isinstance(source, str) or pretrained.is_name(source):
        return None
    return next((run for run in state.runs if run.name == source), None)


def _retrained(state: SessionState, run: Run) -> PretrainedModel | nn.Module:
    """The model that a run made; of a run from another session only the network is known."""
    if run.name not in state.networks:
        return run.module()
    model, _ = state.networks[run.name]

    def architecture() -> nn.Module:
        module = model.fresh()
        apply_edits(module, run.plan.lasting_edits, lambda edit: state.scopes.get(edit, {}))
        return module

    origin = replace(model.origin, edits=(*model.origin.edits, *run.plan.lasting_edits))
    return pretrained.retrained(
        model,
        run.module(),
        name=run.name,
        data=run.data,
        classes=run.classes,
        accuracy=run.accuracy,
        architecture=architecture,
        origin=origin,
        calibration=run.calibration,
        known=run.known_images(),
    )


def decoded_for(data: DataSet | None, model: PretrainedModel, tell: Tell) -> DataSet | None:
    """The data, decoded again if it was decoded smaller than this model needs."""
    if data is None or not data.from_files:
        return data
    needed = pretrained.resized(model, data.request.size).transform.resize
    return data if data.edge >= needed else read_again(data.request, needed, tell)


def _in_megabytes(name: str, tell: Tell) -> Callable[[int, int], None]:
    """A callback that reports a download in megabytes, rounded up; total 0 means unknown."""

    def report(done: int, total: int) -> None:
        tell(name, "downloading", math.ceil(done / 1e6), math.ceil(total / 1e6))

    return report


def _adopted(source: Any, size: int | None) -> dict[str, Any]:
    """Arguments for `pretrained.load`: the user's own module adapted, and what was adapted."""
    if not isinstance(source, nn.Module):
        return {"source": source}
    from tlnb.core.models.own_modules import adopt

    adopted = adopt(source, size)
    only_size = {} if adopted.size is None else {"size": adopted.size}
    return {"source": adopted.module, "layout": adopted.layout, "notes": adopted.notes, **only_size}
