"""Taking data and loading models."""

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
from tlnb.core.models import pretrained
from tlnb.core.models.pretrained import Catalogue, PretrainedModel
from tlnb.core.planning.edit import apply_edits
from tlnb.core.planning.magic_lines import line
from tlnb.core.planning.prepare import prepare
from tlnb.core.runtime.errors import ModelError, UsageError
from tlnb.core.runtime.paths import user_path
from tlnb.core.training.run import Run
from tlnb.session.base import SessionBase
from tlnb.session.direct_changes import with_data
from tlnb.session.lock import mutates_session
from tlnb.session.state import SessionState

if TYPE_CHECKING:  # at run time where it is used: loading the extension should take no time
    from tlnb.core.export.save import Header

Tell = Callable[[str, str, int, int], None]  # of what, phase, done, total

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
    opened = _opened(source, labels, request, _edge(self.state, size), self.tell, groups)
    state, changed = with_data(self.state, opened)
    typed = _data_line(source, request) if named else f"tl.data(...)  # {opened.name}: from Python"
    self.commit(state, changed, typed)
    return opened


def _edge(state: SessionState, size: int | None) -> int | None:
    """What to decode photos to for the model that is loaded; smaller, twins would go unnoticed."""
    if state.model is None:
        return None
    return max(NEAR_FROM, pretrained.resized(state.model, size).transform.resize)


def _data_line(source: Any, request: DataRequest) -> str:
    given = {
        "per-class": request.per_class,
        "limit": request.limit,
        "val": request.val,
        "test": request.test,
        "size": request.size,
        "classes": request.classes,
        "group": request.group,
        "root": request.root,
        "seed": request.seed or None,
    }
    return line("tl_data", str(source), **given)


def read_again(request: DataRequest, edge: int | None, tell: Tell) -> DataSet:
    """Data that can be named, read as they were asked for and decoded to this edge."""
    return _opened(request.source, None, request, edge, tell)


def _opened(
    source: Any,
    labels: Any,
    request: DataRequest,
    edge: int | None,
    tell: Tell,
    groups: Any = None,
) -> DataSet:
    decoding, telling = partial(tell, "data", "decoding"), partial(tell, "data")
    return open_data(source, labels, request, edge, decoding, telling, groups)


# ── models ──


def models(self: SessionBase, pattern: str | None = None, sort: str | None = None) -> Catalogue:
    """The models that can be loaded by name, by default the smallest first.

    Args:
        pattern: a glob, or part of a name.
        sort: `small`, `accurate` or `fast` first.

    Raises:
        ModelError: no model matches.
        UsageError: an unknown order.
    """
    return pretrained.catalogue(pattern, sort)


@mutates_session
def load(
    self: SessionBase,
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
    request = LoadRequest(
        source=source,
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


@dataclass(frozen=True)
class LoadRequest:
    """What was asked of `Session.load`."""

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
        """Whether it is a module of the user's."""
        return isinstance(self.source, nn.Module)

    @property
    def preprocessing(self) -> dict[str, Any]:
        """What replaces the model's."""
        return {"mean": self.mean, "std": self.std, "size": self.size}

    def about(self, name: str) -> dict[str, Any]:
        """As JSON's values.

        Args:
            name: of the model that was loaded.
        """
        source = self.called or name if self.own else getattr(self.source, "name", str(self.source))
        weights = str(self.weights)
        return {"source": source, "own": self.own, "weights": weights, **self.preprocessing}

    def typed(self, name: Any, weights: str | Path) -> str:
        """As a line of the transcript."""
        given = {"weights": None if weights == "default" else weights, **self.preprocessing}
        text = line("tl_load", name, **given, trust=self.trust)
        return f"{text}  # your own module, by its variable's name" if self.own else text


def with_model(state: SessionState, request: LoadRequest, tell: Tell) -> tuple[SessionState, str]:
    """The state with this model and strategy `head`, and the line of the transcript.

    Raises:
        ModelError, UsageError: as `Session.load` does.
    """
    run = _run_to_load(state, request.source)
    if run is not None and str(request.weights) != "default":
        raise UsageError(
            f"run {run.name!r} has its own weights: leave out --weights {request.weights}"
        )
    weights, taken = request.weights, request.source if run is None else _retrained(state, run)
    file, header = _saved(request)
    if header is not None:
        taken, weights = _restored(file, header, request), "default"
    fitted = _adopted(
        taken, request.size or (state.dataset.request.size if state.dataset else None)
    )
    found = pretrained.load(
        fitted.pop("source"),
        weights,
        called=request.called,
        **{**request.preprocessing, **fitted},
        progress=_in_megabytes(str(request.source), tell),
    )
    data = _decoded_for(state, found, tell)
    loaded = state.parts if found is state.model else None
    prepared = prepare(found, data, None, state.scopes, loaded=loaded)
    after = replace(state, dataset=data, history=(), asked=request.about(found.name))
    typed = request.typed(file if header is not None else found.name, weights)
    return after.with_prepared(prepared), typed


def _saved(request: LoadRequest) -> tuple[Path, Header | None]:
    """The file of a saved run that is meant, as the model itself or as the weights of one's own module."""
    source = request.source
    if request.own or (isinstance(source, str | Path) and str(source) not in pretrained.names()):
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
            f"{file} was made from your own module {origin.name!r}: build that, then %tl_load {origin.name} --weights {file}"
        )
    model = pretrained.bare(origin.name, origin.scores)
    return restore(file, header, model, request.trust, request.names)


def _run_to_load(state: SessionState, source: Any) -> Run | None:
    """The run that is meant, if one is; a name of the catalogue means the model."""
    if isinstance(source, Run):
        return source
    if not isinstance(source, str) or source in pretrained.names():
        return None
    return next((run for run in state.runs if run.name == source), None)


def _retrained(state: SessionState, run: Run) -> PretrainedModel | nn.Module:
    """What the run made of its model; of a run of another session no more is known than its network."""
    if run.name not in state.networks:
        return run.module()
    model, _ = state.networks[run.name]

    def architecture() -> nn.Module:
        module = model.fresh()
        apply_edits(module, run.plan.edits, lambda edit: state.scopes.get(edit, {}))
        return module

    origin = replace(model.origin, edits=(*model.origin.edits, *run.plan.edits))
    return pretrained.retrained(
        model, run.module(), run.name, run.data, run.classes, run.accuracy, architecture, origin
    )


def _decoded_for(state: SessionState, model: PretrainedModel, tell: Tell) -> DataSet | None:
    """The data, decoded again where the files were kept smaller than this model needs."""
    data = state.dataset
    if data is None or not data.from_files:
        return data
    needed = pretrained.resized(model, data.request.size).transform.resize
    return data if data.edge >= needed else read_again(data.request, needed, tell)


def _in_megabytes(name: str, tell: Tell) -> Callable[[int, int], None]:
    """Tells of a download in megabytes, rounded up; a total of 0 is not known."""
    return lambda done, total: tell(
        name, "downloading", *(math.ceil(size / 1e6) for size in (done, total))
    )


def _adopted(source: Any, size: int | None) -> dict[str, Any]:
    """What to load: one's own module made ready, and what was done to it."""
    if not isinstance(source, nn.Module):
        return {"source": source}
    from tlnb.core.models.own_modules import adopt

    adopted = adopt(source, size)
    only_size = {} if adopted.size is None else {"size": adopted.size}
    return {
        "source": adopted.module,
        "layout": adopted.layout,
        "notes": adopted.notes,
        **only_size,
    }
