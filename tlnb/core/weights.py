"""Weights from files: read without running anything, and fitted into a network completely or not at all."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from threading import get_ident
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from tlnb.core.errors import ModelError, listed
from tlnb.core.fetch import file_hash, promised_hash

WRAPPERS = ("state_dict", "model_state_dict", "model")  # keys under which training scripts keep the state_dict
PREFIXES = ("module.", "_orig_mod.")  # what DataParallel and torch.compile put before every name
COUNTER = "num_batches_tracked"  # of BatchNorm; files written before 2018 lack it, and nothing is computed from it


class State(dict[str, Tensor]):
    """A state_dict: tensors by name, what torch keeps beside them, and what is worth saying about the file."""

    def __init__(self, tensors: Mapping[str, Tensor], file: str, notes: tuple[str, ...] = ()) -> None:
        super().__init__(tensors)
        self.file = file
        self.notes = notes
        self._metadata: dict[str, Any] = {}  # torch's name: versions of the modules that wrote the file

    def renamed(self, new: Callable[[str], str | None]) -> State:
        """The same with other names; what gets None is left out."""
        state = State({name: v for k, v in self.items() if (name := new(k)) is not None}, self.file, self.notes)
        state._metadata = self._metadata
        return state


def read_state(path: Path, checked: bool = False) -> State:
    """A state_dict from a file. A wrapper such as `{"state_dict": …}` is opened; prefixes of wrapped modules go.

    Args:
        checked: the hash that the file's name promises has been compared already.

    Raises:
        ModelError: no such file; a wrong hash; a damaged file; a file that holds no state_dict.
    """
    if not path.is_file():
        raise ModelError(f"no weights file {str(path)!r}: give default, none, or a file that exists")
    promised = promised_hash(path.name)
    if promised and not checked and not (found := file_hash(path)).startswith(promised):
        raise ModelError(f"{path.name} has the wrong hash ({found[:8]}, not {promised[:8]}): download it again")
    try:
        content = _content(path)
    except Exception as error:  # both readers raise many types for a damaged file
        reason = " ".join(str(error).split())[:80] or type(error).__name__
        raise ModelError(f"{path.name} is damaged, or no state_dict ({reason}): give another file") from None
    wrapper = next((k for k in WRAPPERS if isinstance(content, Mapping) and isinstance(content.get(k), Mapping)), None)
    tensors = content[wrapper] if wrapper else content
    if not isinstance(tensors, Mapping) or not tensors or not all(isinstance(v, Tensor) for v in tensors.values()):
        raise ModelError(f"{path.name} holds no state_dict of tensors: save model.state_dict() and give that file")
    odd = next((k for k, v in tensors.items() if not isinstance(k, str) or not _plain(v)), None)
    if odd is not None:
        raise ModelError(
            f"{path.name} is no usual state_dict (see {str(odd)[:80]!r}): save model.state_dict() and give that file"
        )
    small = next((v.dtype for v in tensors.values() if v.is_floating_point() and v.dtype.itemsize < 2), None)
    if small is not None:
        raise ModelError(
            f"{path.name} holds {str(small).removeprefix('torch.')}, which no layer here computes with: "
            "save {k: v.float() for k, v in model.state_dict().items()}"
        )
    return _stripped(tensors, path.name, (f"{path.name}: taken from its {wrapper!r}",) if wrapper else ())


def _plain(tensor: Tensor) -> bool:
    """Whether a tensor is dense and holds all the numbers that it shows: a few bytes can pretend to be terabytes."""
    dense = tensor.layout is torch.strided and not tensor.is_quantized and not tensor.is_meta
    return dense and tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()


def _content(path: Path) -> Any:
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    if zipfile.is_zipfile(path):  # torch compresses nothing: what unpacks to more than the file is a bomb
        with zipfile.ZipFile(path) as parts:
            if sum(part.file_size for part in parts.infolist()) > path.stat().st_size:
                raise ValueError("it unpacks to more than it is")
    return torch.load(path, map_location="cpu", weights_only=True)


def _stripped(tensors: Mapping[str, Tensor], file: str, notes: tuple[str, ...]) -> State:
    """The tensors under the names that the network itself gives them."""
    prefix = next((p for p in PREFIXES if all(k.startswith(p) for k in tensors)), "")
    if prefix:
        notes += (f"{file}: {prefix!r} dropped from the front of every name",)
    broken = [k for k, v in tensors.items() if v.is_floating_point() and not torch.isfinite(v.sum())]
    if broken:
        notes += (f"{file}: values that are no numbers in {listed(broken, 3)}; such layers must be replaced",)
    state = State({k.removeprefix(prefix): v.detach() for k, v in tensors.items()}, file, notes)
    versions = getattr(tensors, "_metadata", {})
    state._metadata = {f"{k}.".removeprefix(prefix).rstrip("."): v for k, v in versions.items()}
    return state


def outline(make: Callable[[], nn.Module]) -> nn.Module:
    """The network that `make` gives, its parameters without numbers: `fill` brings those.

    Drawing random ones takes longer than reading the file, only to be thrown away. Buffers are computed as ever.
    """
    here = get_ident()

    def without_numbers(_: nn.Module, __: str, parameter: Tensor | None) -> nn.Parameter | None:
        if parameter is None or get_ident() != here:  # the hook is everybody's: other threads build as they are used to
            return None
        return nn.Parameter(parameter.to("meta"), parameter.requires_grad)

    handle = register_module_parameter_registration_hook(without_numbers)  # type: ignore[arg-type]
    try:
        return make()
    finally:
        handle.remove()


def different(module: nn.Module, state: State) -> dict[str, tuple[torch.Size, torch.Size]]:
    """The shapes in the file and in the network, by name, where both have the name and the shapes differ."""
    own = module.state_dict()
    return {k: (state[k].shape, own[k].shape) for k in own if k in state and state[k].shape != own[k].shape}


def fill(module: nn.Module, state: State, name: str) -> None:
    """Put the file's numbers into a network; an outline takes the file's tensors as they are.

    Raises:
        ModelError: names or shapes that do not fit. The network is then half filled: throw it away.
    """
    wrong = [f"{k} is {tuple(found)}, {name} has {tuple(own)}" for k, (found, own) in different(module, state).items()]
    if not wrong:
        wrong = _loaded(module, state, name)
    if wrong:
        raise ModelError(f"{state.file} does not fit {name}: {'; '.join(wrong[:3])}{_more(len(wrong) - 3)}")


def _more(count: int) -> str:
    return f" (and {count} more)" if count > 0 else ""


def _loaded(module: nn.Module, state: State, name: str) -> list[str]:
    """Load; what was missing and what was too much, after the modules have translated older names themselves."""
    assign = any(p.is_meta for p in module.parameters())
    ready = State(_like(module, state) if assign else state, state.file)
    # The version of the network itself is assumed to be today's (MNASNet insists on one), of its parts the oldest.
    ready._metadata = state._metadata or {"": {"version": module._version}}
    try:
        keys = module.load_state_dict(ready, strict=False, assign=assign)
    except (RuntimeError, ValueError) as error:  # from the modules' own translation
        return [" ".join(str(error).split())[:120]]
    missing = [f"{k} is missing" for k in keys.missing_keys if not k.endswith(COUNTER)]
    return [*missing, *(f"{k} is not part of {name}" for k in keys.unexpected_keys)]


def _like(module: nn.Module, state: State) -> dict[str, Tensor]:
    """The file's tensors, of the network's types, each with memory of its own."""
    kinds = {k: v.dtype for k, v in module.state_dict().items()}
    return {k: _own(v.to(kinds.get(k, v.dtype)).contiguous()) for k, v in state.items()}


def _own(tensor: Tensor) -> Tensor:
    whole = tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
    return tensor if whole else tensor.clone()
