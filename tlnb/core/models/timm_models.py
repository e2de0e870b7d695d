"""Networks of timm, by its own tables and by repositories of the hub that it reads.

Preprocessing, classes and licence come from timm's `pretrained_cfg`, names from its registry.
timm is imported when a network of it is asked for.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from functools import cache, partial
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from tlnb.core.models.catalogue import TIMM, Card, Catalogue, glob_of, ordered
from tlnb.core.models.originals import Original, at_random, imagenet_classes
from tlnb.core.models.pretrained_model import parameter_count
from tlnb.core.models.tracing import watch
from tlnb.core.models.transform import Transform, cfg_transform
from tlnb.core.models.weights import read_state
from tlnb.core.runtime.errors import ModelError, did_you_mean, listed, one_line
from tlnb.core.runtime.limits import available_memory
from tlnb.core.storage.download import Progress, cached_file, fetch
from tlnb.core.storage.hub import cached_hub_file, hub_file

PREFIX, HUB = "timm/", "hf-hub:"
FILES = ("model.safetensors", "pytorch_model.bin")  # of a repository, the first one counts
PLACES = {"url", "file", "state_dict", "source", "custom_load"}  # only timm's tables name others
PLAIN_FILE = re.compile(r"[\w.-]+\.(?:safetensors|bin|pth)")
FEW = 12  # networks that are built, without memory, to count their parameters
NEW_SCORES = 2  # of the output layer of a network that has none
MOST = 32_768  # largest number among those that a repository states of its network
SIZES = (14, 16, 32)  # pixels of patches: their multiples are tried


def is_timm(name: object) -> bool:
    """Whether a name means a network of timm: `timm/NAME` or `hf-hub:ORG/NAME`."""
    return isinstance(name, str) and name.startswith((PREFIX, HUB))


@dataclass(frozen=True, kw_only=True)
class _Entry:
    """What timm's tables, or a repository of the hub, say of a network."""

    name: str  # whole, `timm/NAME.TAG` or `hf-hub:ORG/NAME`
    architecture: str
    cfg: Mapping[str, Any]  # timm's pretrained_cfg
    arguments: Mapping[str, Any]  # of the network's constructor

    @property
    def repository(self) -> str:
        return str(self.cfg.get("hf_hub_id") or "")

    @property
    def files(self) -> tuple[str, ...]:
        own = self.cfg.get("hf_hub_filename")
        return (own, *FILES) if isinstance(own, str) and PLAIN_FILE.fullmatch(own) else FILES

    @property
    def url(self) -> str:
        """Where the weights are if they are not on the hub."""
        url = self.cfg.get("url") or ""
        return str(url if isinstance(url, str) else url[0])

    @property
    def one_size(self) -> bool:
        """Whether the network takes images of one size, for which it is built."""
        return bool(self.cfg.get("fixed_input_size")) and not self.arguments.get("dynamic_img_size")

    def cached(self) -> Path | None:
        """The file of weights, if it is on disk."""
        if self.repository:
            return cached_hub_file(self.repository, self.files)
        file = cached_file(self.url) if self.url else None
        return file if file is not None and file.is_file() else None

    def fetched(self, progress: Progress | None) -> Path:
        """The file of weights, downloaded if need be."""
        if self.repository:
            return hub_file(self.repository, self.files, self.name, progress)
        if self.url:
            return fetch(self.url, self.name, progress)
        raise ModelError(
            f"timm has no weights for {self.name}: --weights none for a random start, or "
            "--weights FILE"
        )


def _timm(name: str) -> ModuleType:
    try:
        import timm
    except ImportError:
        raise ModelError(f"{name} needs the package timm: %pip install timm") from None
    return timm  # type: ignore[no-any-return]


# ── what there is ─────────────────────────────────────────────────────────────────────────────────


def timm_names() -> list[str]:
    """All of timm's names with weights, with their tags; empty without timm."""
    try:
        return [PREFIX + name for name in _timm(PREFIX).list_models(pretrained=True)]
    except ModelError:
        return []


def timm_catalogue(pattern: str, sort: str | None = None) -> Catalogue:
    """timm's networks with weights whose name matches a glob or contains a word.

    Parameters are counted if there are few: timm's tables do not hold them.

    Args:
        pattern: `timm/…`.
        sort: as for `catalogue`.

    Raises:
        ModelError: nothing matches, timm is missing, or it is about a repository of the hub.
        UsageError: the order is unknown.
    """
    if pattern.startswith(HUB):
        raise ModelError(f"repositories of the hub are not listed here: %tl_load {HUB}ORG/NAME")
    timm = _timm(pattern)
    word = pattern.removeprefix(PREFIX)
    matches = timm.list_models(glob_of(word), pretrained=True)
    if not matches:
        hint = did_you_mean(word, timm.list_models(), f"%tl_models {PREFIX}* lists all")
        raise ModelError(f"no model of timm matches {word!r}: {hint}")
    entries = [_of_tables(PREFIX + name) for name in matches]
    cards = map(_counted if len(entries) <= FEW else _card, entries)
    return ordered(tuple(cards), pattern, sort)


def _counted(entry: _Entry) -> Card:
    return replace(_card(entry), parameters=_parameters(entry.architecture))


@cache
def _parameters(architecture: str) -> int | None:
    """The number of parameters, of a network without memory for them."""
    try:
        return parameter_count(_on_meta(architecture, {}))
    except Exception:  # networks that compute with numbers while they are built
        return None


def _of_tables(name: str) -> _Entry:
    """The entry of `timm/NAME` or `timm/NAME.TAG`.

    Raises:
        ModelError: timm is missing, or it has no such network or tag.
    """
    timm = _timm(name)
    architecture, _, tag = name.removeprefix(PREFIX).partition(".")
    if not timm.is_model(architecture):
        hint = did_you_mean(architecture, timm.list_models(), f"%tl_models {PREFIX}* lists all")
        raise ModelError(f"timm has no network {architecture!r}: {hint}")
    from timm.models import get_deprecated_models, get_pretrained_cfg

    if later := get_deprecated_models().get(architecture):
        raise ModelError(f"timm calls {architecture} by another name: %tl_load {PREFIX}{later}")
    try:
        found = get_pretrained_cfg(f"{architecture}.{tag}" if tag else architecture)
    except RuntimeError:
        found = None
    if found is None:
        raise ModelError(
            f"timm's {architecture} has no weights {tag!r}: {_tags(timm, architecture)}"
        )
    whole = f"{PREFIX}{architecture}.{found.tag}" if found.tag else PREFIX + architecture
    return _Entry(name=whole, architecture=architecture, cfg=found.to_dict(), arguments={})


def _tags(timm: ModuleType, architecture: str) -> str:
    whole = timm.list_models(f"{architecture}.*", pretrained=True)
    tags = [name.partition(".")[2] for name in whole if name.startswith(f"{architecture}.")]
    return f"there are {listed(tags)}" if tags else "it comes at random, with --weights none"


def _of_hub(name: str, progress: Progress | None) -> _Entry:
    """The entry of `hf-hub:ORG/NAME`, by the repository's config.json.

    Raises:
        ModelError: timm is missing, the file cannot be downloaded, or describes no network of timm.
    """
    timm = _timm(name)
    repository = name.removeprefix(HUB)
    file = hub_file(repository, ["config.json"], name, progress)
    try:
        values = json.loads(file.read_text("utf8"))
        architecture = values["architecture"]
        arguments = dict(values.get("model_args") or {})
        cfg = _cfg_of(values, arguments) | {"hf_hub_id": repository}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        said = one_line(f"{type(error).__name__}: {error}")[:80]
        raise ModelError(f"{repository} does not describe a network of timm ({said})") from None
    if not isinstance(architecture, str) or not timm.is_model(architecture):
        raise ModelError(f"{repository} is {str(architecture)[:40]!r}, which timm does not have")
    entry = _Entry(name=name, architecture=architecture, cfg=cfg, arguments=arguments)
    _check_buildable(entry)
    return entry


def _cfg_of(values: Mapping[str, Any], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The `pretrained_cfg` of a config.json; early ones hold its fields beside others."""
    from timm.models import PretrainedCfg

    known = {field.name for field in fields(PretrainedCfg)} - PLACES
    stated = {**values, "label_names": values.get("label_names", values.get("labels"))}
    stated |= values.get("pretrained_cfg") or {}
    stated |= {k: values[k] for k in ("num_classes", "label_names") if k in values}
    stated["num_classes"] = int(stated.get("num_classes", 1000))
    if isinstance(edge := arguments.get("img_size"), int):
        stated["input_size"] = (3, edge, edge)
    return {k: v for k, v in stated.items() if k in known and v is not None}


def _check_buildable(entry: _Entry) -> None:
    """Refuse what no network has, such as a million blocks, and what memory does not hold.

    Raises:
        ModelError: it does, or the network cannot be built.
    """
    stated = {**entry.arguments, "num_classes": entry.cfg["num_classes"]}
    odd = next((k for k, v in stated.items() if max(_numbers(v), default=0) > MOST), None)
    if odd is not None:
        raise ModelError(
            f"{entry.name} asks for a network with {odd} = {str(stated[odd])[:40]}: load another"
        )
    try:
        count = parameter_count(_on_meta(entry.architecture, stated))
    except Exception as error:  # arguments that the network does not know raise anything
        said = " ".join(str(error).split())[:80]
        raise ModelError(f"timm cannot build {entry.name} ({said}): load another") from None
    if 4 * count > available_memory():
        raise ModelError(
            f"{entry.name} asks for a network of {count:,} parameters, more than memory holds: "
            "load another"
        )


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, list | tuple):
        for each in value:
            yield from _numbers(each)
    elif isinstance(value, dict):
        yield from _numbers(list(value.values()))
    elif isinstance(value, int | float):
        yield abs(value)


# ── one of them ───────────────────────────────────────────────────────────────────────────────────


def timm_original(name: str, size: int | None, progress: Progress | None) -> Original:
    """A network of timm before it gets its weights.

    Args:
        size: the edge of its images, for which a network of one size is built; None: its own.
        progress: called with (bytes done, total bytes) during a download.

    Raises:
        ModelError: timm is missing, or it has no such network, weights or size; of a repository
            as `hub_file`.
    """
    entry = _of_hub(name, progress) if name.startswith(HUB) else _of_tables(name)
    transform = _transform(entry)
    if size not in (None, transform.size) and entry.one_size:
        entry = replace(entry, arguments={**entry.arguments, "img_size": size})
        _check_size(entry, int(size or 0), transform.size)
        transform = cfg_transform(entry.cfg, size)
    count = int(entry.cfg.get("num_classes") or NEW_SCORES)
    return Original(
        card=replace(_card(entry), size=transform.size),
        transform=transform,
        classes=_classes(entry),
        count=count,
        make=partial(_create, entry.architecture, entry.arguments),
        ready=partial(_pretrained, entry, progress),
    )


def _transform(entry: _Entry) -> Transform:
    try:
        return cfg_transform(entry.cfg)
    except (TypeError, ValueError, ArithmeticError) as error:
        raise ModelError(
            f"{entry.name} has preprocessing that is not supported here ({error}): load another"
        ) from None


def _create(architecture: str, arguments: Mapping[str, Any], scores: int) -> nn.Module:
    """The network at random, with an output layer of that many scores."""
    module: nn.Module = _timm(architecture).create_model(
        architecture, **{**arguments, "num_classes": scores}
    )
    return module


def _on_meta(architecture: str, arguments: Mapping[str, Any]) -> nn.Module:
    with torch.device("meta"):
        module: nn.Module = _timm(architecture).create_model(architecture, **arguments)
        return module


def _pretrained(entry: _Entry, progress: Progress | None) -> tuple[nn.Module, Card]:
    """The network with its weights, which timm's own code fits to its names, and its card.

    The file is read by the rules for weights first: no pickle is executed.
    """
    file = entry.fetched(progress)
    state = read_state(file)
    overlay = {"file": str(file), "url": "", "hf_hub_id": "", "source": "", "custom_load": False}
    timm = _timm(entry.name)
    with_weights = partial(
        timm.create_model,
        entry.architecture,
        pretrained=True,
        pretrained_cfg=dict(entry.cfg),
        pretrained_cfg_overlay=overlay,
        **entry.arguments,
    )
    try:
        module: nn.Module = at_random(partial(_with_output, with_weights))
    except (RuntimeError, KeyError, ValueError, AttributeError, TypeError) as error:
        said = " ".join(str(error).split())[:120]
        raise ModelError(f"{file.name} does not fit {entry.name}: {said}") from None
    notes = state.notes if entry.cfg.get("num_classes") else (*state.notes, _appended(module))
    return module, replace(_card(entry), notes=notes, on_disk=True, bytes=file.stat().st_size)


def _with_output(make: Callable[[], Any]) -> nn.Module:
    """The network, with an output layer if it ends in features."""
    module = make()
    if not module.num_classes:
        module.reset_classifier(NEW_SCORES)
    whole: nn.Module = module
    return whole


def _appended(module: Any) -> str:
    features = getattr(module, "head_hidden_size", module.num_features)
    return f"it ends in {features:,} features, to which an output layer is appended"


# ── sizes ─────────────────────────────────────────────────────────────────────────────────────────


def _check_size(entry: _Entry, size: int, own: int) -> None:
    """Raise `ModelError` if the network cannot be built for images of this edge."""
    if _takes(entry, size):
        return
    near = {max(patch, round(size / patch) * patch) for patch in SIZES} | {own}
    fit = [str(edge) for edge in sorted(near) if _takes(entry, edge)]
    raise ModelError(f"{entry.name} cannot take --size {size}: it takes {', '.join(fit)}")


def _takes(entry: _Entry, size: int) -> bool:
    arguments = {**entry.arguments, "img_size": size, "num_classes": NEW_SCORES}
    try:
        watch(_on_meta(entry.architecture, arguments), size)
    except Exception:  # a network may raise anything on a size that it rejects
        return False
    return True


# ── its card ──────────────────────────────────────────────────────────────────────────────────────


def _card(entry: _Entry) -> Card:
    """The card, from timm's tables alone."""
    cfg, file = entry.cfg, entry.cached()
    count = cfg.get("num_classes") or 0
    page = f"https://huggingface.co/{entry.repository}" if entry.repository else entry.url
    smallest = cfg.get("min_input_size")
    notes = cfg.get("notes") or ()
    return Card(
        name=entry.name,
        family=TIMM,
        source=_source(entry),
        source_classes=count if _subset(cfg) or cfg.get("label_names") else None,
        bytes=file.stat().st_size if file else None,
        size=(cfg.get("input_size") or (3, None, None))[1],
        only_size=entry.one_size,
        min_size=smallest[1] if smallest else None,
        licence=str(cfg.get("license") or "none stated by timm"),
        recipe=str(cfg.get("origin_url") or page),
        about=str(cfg.get("description") or f"{entry.architecture}, from {page or 'timm'}"),
        on_disk=file is not None,
        notes=(notes,) if isinstance(notes, str) else tuple(map(str, notes)),
    )


def _source(entry: _Entry) -> str:
    tag, subset = entry.cfg.get("tag"), _subset(entry.cfg)
    if subset:
        return f"{subset}, tag {tag}" if tag else subset
    return f"the data of tag {tag}" if tag else f"unknown data ({entry.name})"


def _subset(cfg: Mapping[str, Any]) -> str | None:
    """The part of ImageNet that has as many classes, as timm names it."""
    from timm.data import infer_imagenet_subset

    subset: str | None = infer_imagenet_subset({"num_classes": cfg.get("num_classes")})
    return subset


def _classes(entry: _Entry) -> tuple[str, ...]:
    """The names of the scores; empty if they are not known."""
    names, subset = entry.cfg.get("label_names"), _subset(entry.cfg)
    if isinstance(names, list | tuple):
        return tuple(map(str, names))
    if subset == "imagenet-1k":
        return imagenet_classes()
    if not subset:
        return ()
    from timm.data import ImageNetInfo

    info = ImageNetInfo(subset)
    return tuple(info.index_to_description(i) for i in range(info.num_classes()))
