"""Tab completion after a magic: its options, and the names that fit."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from typing import Any, cast

from torch import nn

from tlnb.core.data.builtin import BUNDLED
from tlnb.core.data.torchvision_datasets import LIBRARY
from tlnb.core.models.catalogue import SORTS, names, torchvision_weights
from tlnb.core.models.timm_models import is_timm, timm_names
from tlnb.core.planning.options import option_named
from tlnb.core.planning.plan import ALIASES, STRATEGIES
from tlnb.magic_options import options_of
from tlnb.magics import TLMagics
from tlnb.session import PANELS, Session
from tlnb.session.check_results import Checks


def completions(session: Session, variables: dict[str, Any], line: str) -> list[str]:
    """The completions after a magic: its options, and the names that fit."""
    head, _, rest = line.lstrip().partition(" ")
    method = getattr(TLMagics, head.lstrip("%"), None)
    if method is None or not hasattr(method, "parser"):
        return []
    last = rest.split(" ")[-1]
    if last.startswith("-"):
        return [option for option in options_of(method) if option.startswith(last)]
    return sorted(
        {n for n in _names(session, variables, head.lstrip("%"), rest) if n.startswith(last)}
    )


def _names(session: Session, variables: dict[str, Any], magic: str, rest: str) -> Iterable[str]:
    if magic == "tl_advise" and "--models" in rest.split():
        magic = "tl_load"  # the same networks
    typed = re.search(r"--([\w-]+) \S*$", rest)
    known = option_named(typed[1]) if typed else None
    if known is not None and known.choices:
        return known.choices
    if re.search(r"--(from|run) \S*$", rest) or magic == "tl_compare":
        return [run.name for run in session.runs]
    if magic == "tl_data":
        return [*BUNDLED, *LIBRARY, *_folders()]
    if re.search(r"--sort \S*$", rest):
        return SORTS
    if magic == "tl_load" and re.search(r"--weights \S*$", rest):
        return ["default", "none", *torchvision_weights(rest.split()[0])]
    if magic in ("tl_load", "tl_models") and is_timm(rest.split(" ")[-1]):
        return timm_names()
    if magic in ("tl_load", "tl_models"):
        runs = [run.name for run in session.runs if magic == "tl_load"]
        return [*names(), *_own_modules(variables), *runs]
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
    return [] if session.model is None else _parts(session, session.model.module, magic, rest)


def _parts(session: Session, module: nn.Module, magic: str, rest: str) -> list[str]:
    """Layers and stages to freeze, or parts to edit."""
    if magic in ("tl_freeze", "tl_unfreeze"):
        read = session.layers()
        return [*(s.name for s in read.stages), *read.names]
    if magic not in ("tl_add", "tl_remove", "tl_replace") or " " in rest.strip():
        return []
    parts = [name for name, _ in module.named_modules() if name]
    if magic != "tl_add":
        return parts
    return [f"{side}:{name}" for name in parts for side in ("before", "after")]


def _own_modules(variables: dict[str, Any]) -> list[str]:
    return [n for n, v in variables.items() if isinstance(v, nn.Module) and not n.startswith("_")]


def _folders() -> list[str]:
    found = (e.name for e in os.scandir(".") if e.is_dir() and not e.name.startswith("."))
    return [f"{name}{os.sep}" for name in found]


def _files(typed: str) -> list[str]:
    """Image files and folders that complete the typed text."""
    from tlnb.core.data.decoding import extensions

    folder = typed[: max(typed.rfind("/"), typed.rfind(os.sep)) + 1]
    try:
        entries = [e for e in os.scandir(folder or ".") if not e.name.startswith(".")]
    except OSError:
        return []
    return [
        f"{folder}{e.name}{os.sep if e.is_dir() else ''}"
        for e in entries
        if e.is_dir() or e.name.lower().endswith(extensions())
    ]
